"""Training the student: settings of the Trainer, checkpoints, the best epoch."""

import hashlib
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dvclive import Live
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from stages.distil.interface.method import Train
from stages.distil.models import resuming
from stages.distil.models.hardware import device, pass_tokens
from stages.distil.student.collator import Collator
from stages.distil.student.samples import Sample
from stages.distil.student.steps import Steps
from stages.distil.student.trainer import DistillationTrainer, _Curves

CHECKPOINTS = Path(".cache/checkpoints/train")
BATCH_TOKENS = 2048  # of a pass on a CPU
TRAINED_WEIGHT = 16  # bytes: float32 weight, gradient and AdamW's two moments


def train_student(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Sequence[Sample]],
    questions: Sequence[Sample],
    validation: Sequence[dict[str, Any]],
    weights: dict[str, float],
    settings: Train,
    seed: int,
    max_tokens: int,
    dtype: str,
    identity: str,
    live: Live | None,
) -> tuple[int, float, dict[str, Tensor] | None]:
    """Train on the samples of each question; leave the weights of the best epoch in `model`.

    Returns that epoch, its accuracy on the validation questions and, where FSDP has left `model` in
    parts, its whole weights (in the main process).

    `questions` are the encoded prompts of `validation`; `weights` maps every task to its weight in
    the loss, tasks of weight 0 are not computed; `identity` tells the student from others. A run
    that was stopped goes on from its last epoch where nothing has changed.
    """
    set_seed(seed)
    weights = {task: weight for task, weight in weights.items() if weight > 0}
    tasks = list(weights)
    batch_tokens = pass_tokens(settings.batch_tokens, BATCH_TOKENS, model, TRAINED_WEIGHT)
    collate = Collator(model, tokenizer, tasks)
    steps = Steps(train, collate, tasks, settings.batch_size, batch_tokens, seed)
    arguments = TrainingArguments(
        output_dir=str(CHECKPOINTS),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        warmup_steps=max(1, len(steps) * settings.epochs // 20),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,  # one is whole while the other is written
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        logging_steps=max(1, len(steps) // 4),
        logging_nan_inf_filter=False,
        restore_callback_states_from_checkpoint=True,
        seed=seed,
        use_cpu=device() == "cpu",
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
    )
    callbacks: list[TrainerCallback] = [_Curves(live)]
    if settings.patience:
        callbacks.append(EarlyStoppingCallback(settings.patience))
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        train_dataset=steps,
        eval_dataset=questions,  # `evaluate` answers them
        processing_class=tokenizer,
        callbacks=callbacks,
        weights=weights,
        questions=questions,
        validation=validation,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        dtype=dtype,
    )
    known = [
        identity,
        weights,
        settings,
        batch_tokens,
        seed,
        max_tokens,
        dtype,
        arguments.world_size,
    ]
    key = hashlib.sha256(repr(known).encode())
    for sample in [*chain.from_iterable(train), *questions]:
        key.update(repr(sample).encode())
    resuming.train(trainer, key.hexdigest())
    parts = trainer.is_fsdp_enabled
    whole = trainer.accelerator.get_state_dict(trainer.model) if parts else None
    trainer.accelerator.end_training()  # a process that leaves with its group open may abort
    return *trainer.best_epoch(), whole
