"""Training that goes on where it was stopped.

Knows Trainers and their checkpoints; knows nothing of what they learn.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError
from transformers import Trainer

from stages.distil.interface.errors import UserError

STATE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint


def train(trainer: Trainer, key: str) -> None:
    """Train to the end, from the last whole checkpoint in the Trainer's folder if there is one.

    `key` stands for everything that determines the result: checkpoints of another key are removed,
    and so are this run's when it is over.
    """
    folder = Path(trainer.args.output_dir)
    with trainer.accelerator.main_process_first():
        owner = folder / "key"
        if not owner.is_file() or owner.read_text(encoding="utf-8") != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            owner.write_text(key, encoding="utf-8")
        last = last_checkpoint(folder)
    if last:
        print(f"going on from {last}", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_writing(error):
            raise
        unfinished = folder / f"checkpoint-{trainer.state.global_step}"
        raise UserError(
            f"{unfinished}: cannot be written ({error}); make room there and run again, what was "
            "trained up to the checkpoint before is kept"
        ) from error
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(folder)


def _is_writing(error: Exception) -> bool:
    """Return whether it is torch's, safetensors' or the system's word for a failed write."""
    return not isinstance(error, RuntimeError) or "PytorchStreamWriter" in str(error)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written whole; remove those that were not."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while found:
        try:
            json.loads((found[-1] / STATE).read_text(encoding="utf-8"))
            return found[-1]
        except (FileNotFoundError, ValueError):
            shutil.rmtree(found.pop())
    return None
