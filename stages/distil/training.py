"""Training the student with Hugging Face's Trainer: steps, loss, curves, the best epoch.

The loop, the schedule and the checkpoints are the Trainer's; added are steps of several passes
within a token budget, the multi-task loss and accuracy on validation questions as the measure of an
epoch.
"""

import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate.utils import gather_object
from dvclive import Live
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from stages.distil import checkpoints
from stages.distil.batching import by_length
from stages.distil.errors import UserError
from stages.distil.hardware import device, fitting, pass_tokens
from stages.distil.parameters import Train
from stages.distil.scoring import accuracy
from stages.distil.student import (
    Collator,
    Sample,
    autocast,
    count_targets,
    generate_answers,
    task_sums,
    total_loss,
)

CHECKPOINTS = Path(".cache/checkpoints/train")
BATCH_TOKENS = 2048  # of a pass on a CPU
TRAINED_WEIGHT = 16  # bytes: float32 weight, gradient and AdamW's two moments


class Step(TypedDict):
    """What one process computes of an optimiser's step.

    `passes` are batches; `counts` (tasks,) are the target tokens of the whole step, those of the
    other processes counted.
    """

    passes: list[dict[str, Tensor]]
    counts: Tensor


class Steps(Dataset):
    """The steps of an epoch: questions in an order drawn anew for each epoch, in passes by length.

    A question is a list of samples, which are learnt in the same step.
    """

    def __init__(
        self,
        questions: Sequence[Sequence[Sample]],
        collate: Callable[[Sequence[Sample]], dict[str, Tensor]],
        tasks: Sequence[str],
        batch_size: int,
        batch_tokens: int,
        seed: int,
    ):
        """Take the samples of each question, how many make a step, and the tokens of a pass."""
        self.questions = questions
        self._collate = collate
        self._tasks = tasks
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._seed = seed
        self.rank, self.processes = 0, 1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch."""
        random = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
        self._order = torch.randperm(len(self.questions), generator=random).tolist()

    def __len__(self) -> int:
        return -(-len(self.questions) // self._batch_size)

    def __getitem__(self, number: int) -> Step:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start = number * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        samples = [sample for n in chosen for sample in self.questions[n]]
        counts = count_targets(samples, self._tasks)
        samples.sort(key=lambda sample: sample.length)
        shares = [self.batches(samples[r :: self.processes]) for r in range(self.processes)]
        passes = [self._collate(batch) for batch in shares[self.rank]]
        missing = max(map(len, shares)) - len(passes)
        return Step(passes=passes + [self._nothing(samples[0])] * missing, counts=counts)

    def batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Return these samples in batches within the token budget, one for each pass."""
        lengths = [sample.length for sample in samples]
        batches = by_length(lengths, self._batch_tokens)
        return [[samples[i] for i in chosen] for chosen in batches]

    def _nothing(self, sample: Sample) -> dict[str, Tensor]:
        """Return a pass without targets: every process has as many passes as any other."""
        batch = self._collate([sample])
        return batch | {"labels": torch.full_like(batch["labels"], -100)}


class _Loader(DataLoader):
    """Steps one after the other; the Trainer tells it the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


class DistillationTrainer(Trainer):
    """A Trainer that learns all tasks of a question at once and measures answers."""

    def __init__(
        self,
        *,
        weights: dict[str, float],
        questions: Sequence[Sample],
        validation: Sequence[dict[str, Any]],
        max_tokens: int,
        batch_tokens: int,
        dtype: str,
        **arguments: Any,
    ):
        """Take each task's weight in the loss, and the validation questions as prompts and rows."""
        super().__init__(**arguments)
        self.tasks = list(weights)
        self._weights = torch.tensor(list(weights.values()), device=self.args.device)
        self._questions = questions
        self._validation = validation
        self._max_tokens = max_tokens
        self._dtype = dtype
        self._advice = f"set train.batch_tokens below {batch_tokens}"
        self._task_losses = torch.zeros(len(weights), device=self.args.device)
        self._steps = 0
        self.train_dataset.rank = self.args.process_index
        self.train_dataset.processes = self.args.world_size
        vocabulary = self.model.config.get_text_config().vocab_size
        self._guessing = math.log(vocabulary) * sum(weights.values())
        self._bound = 0.0

    def get_train_dataloader(self) -> DataLoader:
        """Return the steps as they are: they are batches already."""
        return _Loader(self.train_dataset, batch_size=None, collate_fn=lambda step: step)

    def training_step(
        self, model: torch.nn.Module, inputs: Step, num_items_in_batch: Any = None
    ) -> Tensor:
        """Compute the gradients of a step, pass by pass; return its loss.

        Each pass counts by its targets' share of the whole step's, so that neither the budget nor
        the number of processes changes the sum.
        """
        model.train()
        counts = inputs["counts"].to(self.args.device)
        step = torch.zeros_like(self._task_losses)
        for left, batch in zip(
            reversed(range(len(inputs["passes"]))), inputs["passes"], strict=True
        ):
            with self.accelerator.no_sync(model) if left else nullcontext():
                with fitting("a pass", self._advice):
                    with autocast(self._dtype):
                        sums = task_sums(model, self._prepare_inputs(batch), len(self.tasks))
                    # Processes' gradients are averaged, and are wanted summed.
                    loss = total_loss(sums, counts, self._weights) * self.args.world_size
                    self.accelerator.backward(loss)
            step += sums.detach() / counts.clamp(min=1)
        self._task_losses += step
        self._steps += 1
        total = (step * self._weights).sum() * self.args.world_size
        if not self._bound:  # a student may begin worse than by guessing
            self._bound = 2 * max(self._guessing, total.item())
        if not torch.isfinite(total) or total > self._bound:
            raise UserError(
                f"the loss is {total.item():.4g} at step {self.state.global_step}, more than "
                f"{self._bound:.3g}; lower train.learning_rate"
            )
        return total

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """Answer the validation questions; return the share answered correctly."""
        mine = slice(self.args.process_index, None, self.args.world_size)
        if self.is_fsdp_enabled:  # a pass takes all processes, each with its part of the weights
            mine = slice(None)
        texts = generate_answers(
            self.model, self.processing_class, self._questions[mine], self._max_tokens, self._dtype
        )
        places = range(len(self._questions))[mine]
        found = dict(gather_object(list(zip(places, texts, strict=True))))
        share = accuracy([found[n] for n in sorted(found)], self._validation)
        metrics = {"eval_accuracy": share}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with a loss its parts: each task's mean since the last time."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._task_losses, "sum")
            means = sums / self._steps
            logs |= {f"loss/{t}": v for t, v in zip(self.tasks, means.tolist(), strict=True)}
            self._task_losses.zero_()
            self._steps = 0
        super().log(logs, start_time)

    def best_epoch(self) -> tuple[int, float]:
        """Return the epoch whose weights were kept, and its accuracy on validation questions."""
        history = [entry for entry in self.state.log_history if "eval_accuracy" in entry]
        best = max(history, key=lambda entry: entry["eval_accuracy"])  # the first of equal ones
        return round(best["epoch"]), best["eval_accuracy"]


class _Curves(TrainerCallback):
    """Write curves with DVCLive, those of the epochs before a resumed run too.

    What the clock decides stays out.
    """

    def __init__(self, live: Live | None):
        self.live = live

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for entry in state.log_history:
            self._write(state, entry, entry["step"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True  # a checkpoint stands between two entries of the log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self._write(state, logs, state.global_step)
        if "eval_accuracy" in logs and state.is_world_process_zero:
            print(
                f"epoch {round(state.epoch)}: validation accuracy {logs['eval_accuracy']:.3f}",
                file=sys.stderr,
            )

    def _write(self, state: Any, logs: dict[str, float], step: int) -> None:
        if self.live is None:  # another process's task
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
    checkpoints.train(trainer, key.hexdigest())
    parts = trainer.is_fsdp_enabled
    whole = trainer.accelerator.get_state_dict(trainer.model) if parts else None
    trainer.accelerator.end_training()  # a process that leaves with its group open may abort
    return *trainer.best_epoch(), whole
