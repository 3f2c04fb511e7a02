"""Train the student: arguments of the Trainer, curves, checkpoints, the best epoch."""

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

from dvclive import Live
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)

from stages.distil.models import resuming
from stages.distil.models.hardware import pass_tokens
from stages.distil.models.lora import round_frozen
from stages.distil.storage import versions
from stages.distil.student.collator import Collator
from stages.distil.student.loss import check_shared_context
from stages.distil.student.steps import Steps
from stages.distil.student.trainer import DistillationTrainer, Questions, Recipe

CHECKPOINTS = Path(".cache/checkpoints/train")
BATCH_TOKENS = 2048  # of a pass on a CPU
NEVER_FREED: list[Trainer] = []
TRAINED_WEIGHT = 16  # bytes: float32 weight, gradient and AdamW's two moments


class _Curves(TrainerCallback):
    """Writes curves with DVCLive, without times; a resumed run also writes its earlier epochs."""

    def __init__(self, live: Live | None):
        self.live = live

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for entry in state.log_history:
            self._write(state, entry, entry["step"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True  # so that no logged mean spans a checkpoint

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self._write(state, logs, state.global_step)
        if "eval_accuracy" in logs and state.is_world_process_zero:
            print(
                f"epoch {math.ceil(state.epoch)}: validation accuracy {logs['eval_accuracy']:.3f}",
                file=sys.stderr,
            )

    def _write(self, state: Any, logs: dict[str, float], step: int) -> None:
        if self.live is None:  # the main process writes
            return
        self.live.step = step
        if "loss" in logs:
            self.live.log_metric("loss/total", logs["loss"])
        for name, value in logs.items():
            if name.startswith("loss/"):
                self.live.log_metric(name, value)
        if "eval_accuracy" in logs:
            self.live.log_metric("validation/accuracy", logs["eval_accuracy"])


def train_student(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Questions,
    recipe: Recipe,
    live: Live | None,
) -> tuple[int, float, dict[str, Tensor] | None]:
    """Train on the samples of every question; leave the weights of the best epoch in `model`.

    Returns that epoch, its validation accuracy and, if `model` as it was loaded has to take them,
    weights: all of them if FSDP has sharded `model`, in the main process; those of LoRA, beside
    which others are rounded. A stopped run with the same inputs resumes after its last epoch.
    Raises `UserError` if the loss diverges, or if the student cannot share a context.
    """
    settings, seed = recipe.settings, recipe.seed
    set_seed(seed)
    tasks = recipe.tasks
    batch_tokens = pass_tokens(settings.batch_tokens, BATCH_TOKENS, model, TRAINED_WEIGHT)
    collate = Collator(model, tokenizer, tasks)
    steps = Steps(questions.train, collate, tasks, settings.batch_size, batch_tokens, seed)
    arguments = resuming.training_arguments(
        CHECKPOINTS,
        settings,
        settings.steps(len(steps)),
        len(steps),
        seed,
        settings.warmup,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        ddp_find_unused_parameters=False,
    )
    callbacks: list[TrainerCallback] = [_Curves(live)]
    if settings.patience:
        callbacks.append(EarlyStoppingCallback(settings.patience))
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        train_dataset=steps,
        eval_dataset=questions.validation,  # required, but `evaluate` uses `questions`
        processing_class=tokenizer,
        callbacks=callbacks,
        questions=questions,
        recipe=recipe,
        batch_tokens=batch_tokens,
    )
    if live is not None:  # FSDP gives the other processes no weights before it shards them
        check_shared_context(model, collate, questions.train[questions.longest])
    sharded = trainer.is_fsdp_enabled  # which takes one precision for all
    if recipe.dtype == "bfloat16" and not sharded:
        round_frozen(model)
    key = [versions.TRAINING, recipe, batch_tokens, arguments.world_size, questions.digest]
    resuming.train(trainer, hashlib.sha256(repr(key).encode()).hexdigest())
    weights = None
    if sharded:
        weights = trainer.accelerator.get_state_dict(trainer.model)
    elif not all(parameter.requires_grad for parameter in model.parameters()):
        weights = {n: p.cpu() for n, p in model.named_parameters() if p.requires_grad}
    trainer.accelerator.end_training()  # a process that exits with its group open may abort
    if arguments.world_size > 1:
        # gloo's destructor waits for its thread with the interpreter locked, and the thread may
        # need the lock to free a tensor: the process exits before either is destroyed.
        NEVER_FREED.append(trainer)
    return *trainer.best_epoch(), weights
