"""The arguments of a training that resumes, its checkpoints, and its resumption."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import xxhash
from accelerate.utils import gather_object
from transformers import Trainer, TrainingArguments

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Finetune, Train
from stages.distil.models.hardware import device
from stages.distil.storage.tables import write_text
from stages.distil.weights.folders import explain_write_errors

STATE = "trainer_state.json"
DIGESTS = "digests.json"  # the last file of a checkpoint: without it, the checkpoint is incomplete


def training_arguments(
    folder: Path,
    settings: Train | Finetune,
    steps: int,
    per_epoch: int,
    seed: int,
    warmup: float = 0.05,
    optimizer: str = "adamw_torch_fused",
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
        optim=optimizer,
        save_strategy="epoch",
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


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints carry digests of their files.

    Two are kept: the last one, and one from which a run can resume if that one is damaged.
    """

    key = ""  # of the training; `train` sets it

    def _save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        checkpoint = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        best_before = self.state.best_model_checkpoint
        with explain_write_errors(checkpoint, "run again to resume from the one before it"):
            super()._save_checkpoint(*arguments, **keywords)
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if not self.args.should_save:
                return
            files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
            digests = {str(path.relative_to(checkpoint)): _digest(path) for path in files}
            write_text(checkpoint / DIGESTS, json.dumps({"key": self.key, "files": digests}))
        # The best one so far needs no other; any other one needs the best of its time.
        spare = self.state.best_model_checkpoint
        if spare is None or Path(spare) == checkpoint:
            spare = best_before
        others = [other for other in _checkpoints(checkpoint.parent) if other != checkpoint]
        kept = Path(spare) if spare else others[-1] if others else None
        for other in others:
            if other != kept:
                shutil.rmtree(other)


def train(trainer: ResumableTrainer, key: str) -> None:
    """Train to the end, resuming from the last intact checkpoint in the Trainer's folder.

    `key` identifies everything that determines the result: checkpoints with another key are removed
    first. Those of this run stay until `remove_checkpoints`, so that a result that cannot be
    written needs no second training. Raises `UserError` if several processes, on machines without a
    shared folder, would resume from different ones.
    """
    folder = Path(trainer.args.output_dir)
    trainer.key = key
    with trainer.accelerator.main_process_first():
        last = last_checkpoint(folder, key)
    if len(found := set(gather_object([last.name if last else "none"]))) > 1:
        raise UserError(
            f"{folder}: the processes found different checkpoints ({', '.join(sorted(found))}); "
            "give all machines the same project folder, or remove this one on each of them"
        )
    if last:
        print(f"resuming from {last}", file=sys.stderr)
        state = _read_state(last)
        if state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]:
            # The training has ended there; the Trainer would take another step or epoch.
            trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    best = trainer.state.best_model_checkpoint
    if best and (damage := _damage(Path(best))):
        raise UserError(f"{best}: {damage} during the training; check the disk, then run again")
    trainer.accelerator.wait_for_everyone()


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a training whose result has been written."""
    shutil.rmtree(folder, ignore_errors=True)


def last_checkpoint(folder: Path, key: str) -> Path | None:
    """Return the newest checkpoint from which the training with this key can resume.

    Incomplete ones and those of another training are removed. One that is damaged, or whose best
    checkpoint is, is set aside with a line on stderr.
    """
    for checkpoint in reversed(_checkpoints(folder)):
        if not (checkpoint / DIGESTS).is_file() or _key(checkpoint) not in (key, None):
            shutil.rmtree(checkpoint)
        elif damage := _damage(checkpoint) or _damage_of_best(checkpoint):
            aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            print(f"{checkpoint}: {damage}; it is set aside as {aside.name}", file=sys.stderr)
        else:
            return checkpoint
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _damage(checkpoint: Path) -> str | None:
    """Return in which way a checkpoint is not what was written; None if it is intact."""
    try:
        digests = json.loads((checkpoint / DIGESTS).read_bytes())["files"].items()
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return f"{DIGESTS} is missing or damaged"
    for name, digest in digests:
        try:
            if _digest(checkpoint / name) != digest:
                return f"{name} has changed"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _damage_of_best(checkpoint: Path) -> str | None:
    """Return in which way the best checkpoint at the time of this one is damaged."""
    best = _read_state(checkpoint)["best_model_checkpoint"]
    if best is None or Path(best).name == checkpoint.name:
        return None
    damage = _damage(checkpoint.with_name(Path(best).name))
    return damage and f"the best epoch is in {Path(best).name}, where {damage}"


def _key(checkpoint: Path) -> str | None:
    """Return the key of the training that wrote a checkpoint; None if it cannot be read."""
    try:
        return json.loads((checkpoint / DIGESTS).read_bytes())["key"]
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE).read_bytes())


def _digest(file: Path) -> str:
    """Return a digest that shows damage: ten times as fast as writing, where SHA-256 is not."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
