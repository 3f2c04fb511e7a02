"""The arguments of a training that resumes, and its resumption."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import Trainer, TrainingArguments

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Finetune, Train
from stages.distil.models.hardware import device

STATE = "trainer_state.json"  # the last file that the Trainer writes to a checkpoint


def training_arguments(
    folder: Path,
    settings: Train | Finetune,
    steps: int,
    per_epoch: int,
    seed: int,
    warmup: float = 0.05,
    **more: Any,
) -> TrainingArguments:
    """Return the arguments of a training of `steps` steps, with a checkpoint after each epoch.

    The learning rate rises over the first `warmup` of all steps and then falls to 0. `more` are
    further arguments of the Trainer.
    """
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, int(steps * warmup)) if warmup else 0,
        optim="adamw_torch_fused",
        save_strategy="epoch",
        save_total_limit=2,  # one is complete while the other is written
        logging_steps=max(1, per_epoch // 4),
        logging_nan_inf_filter=False,
        seed=seed,
        use_cpu=device() == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        **more,
    )


def train(trainer: Trainer, key: str) -> None:
    """Train to the end, resuming from the last complete checkpoint in the Trainer's folder.

    `key` identifies everything that determines the result: checkpoints with another key are removed
    first. This run's checkpoints are removed at the end. Raises `UserError` if several processes,
    on machines without a shared folder, would resume from different ones.
    """
    folder = Path(trainer.args.output_dir)
    with trainer.accelerator.main_process_first():
        owner = folder / "key"
        if not owner.is_file() or owner.read_text(encoding="utf-8") != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            owner.write_text(key, encoding="utf-8")
        last = last_checkpoint(folder)
    if len(found := set(gather_object([last.name if last else "none"]))) > 1:
        raise UserError(
            f"{folder}: the processes found different checkpoints ({', '.join(sorted(found))}); "
            "give all machines the same project folder, or remove this one on each of them"
        )
    if last:
        print(f"resuming from {last}", file=sys.stderr)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_write_error(error):
            raise
        unfinished = folder / f"checkpoint-{trainer.state.global_step}"
        raise UserError(
            f"{unfinished}: cannot be written ({error}); free disk space and run again to resume "
            "from the checkpoint before it"
        ) from error
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(folder)


def _is_write_error(error: Exception) -> bool:
    """Return whether torch, safetensors or the system failed to write a file."""
    return not isinstance(error, RuntimeError) or "PytorchStreamWriter" in str(error)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; remove those after it.

    One in the middle of an epoch is that of the last step, from which the Trainer would take
    another: it counts as incomplete.
    """
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while checkpoints:
        try:
            state = json.loads((checkpoints[-1] / STATE).read_text(encoding="utf-8"))
            if state["epoch"] % 1 == 0:
                return checkpoints[-1]
        except (FileNotFoundError, ValueError):
            pass
        shutil.rmtree(checkpoints.pop())
    return None
