"""Training that goes on where it was stopped.

Knows Trainers and their checkpoints; knows nothing of what they learn.
"""

import json
import shutil
from pathlib import Path

from transformers import Trainer

STATE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint


def train(trainer: Trainer, key: str) -> None:
    """Train to the end, from the last whole checkpoint in the Trainer's folder if there is one.

    `key` stands for everything that determines the result: checkpoints of another key are removed,
    and so are this run's when it is over.
    """
    folder = Path(trainer.args.output_dir)
    owner = folder / "key"
    if not owner.is_file() or owner.read_text(encoding="utf-8") != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        owner.write_text(key, encoding="utf-8")
    last = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    shutil.rmtree(folder)


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
