"""Train the student: the data, an optimiser step, the Trainer around it, and the whole training.

The Trainer of transformers runs the loop; the steps and their loss are the project's.
"""

import hashlib
import math
import resource
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from accelerate.utils import gather_object
from dvclive import Live
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, set_seed

from stages.distil.encoding.files import Asked
from stages.distil.encoding.limits import Limits
from stages.distil.encoding.samples import NO_RATIONALE, Sample, Window, of_tasks
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Train
from stages.distil.models import resuming
from stages.distil.models.batching import by_length
from stages.distil.models.hardware import (
    activations_fit,
    explain_out_of_memory,
    pass_tokens,
    return_large_memory,
    training_bytes,
)
from stages.distil.models.loading import choose_attention
from stages.distil.models.lora import round_frozen, round_weights
from stages.distil.storage import versions
from stages.distil.student.answering import AnswerLengths, StudentModel, count_correct
from stages.distil.student.batch import (
    Batch,
    Collator,
    autocast,
    check_shared_context,
)
from stages.distil.student.losses import Loss, predict

CHECKPOINTS = Path(".cache/checkpoints/train")
BATCH_TOKENS = 2048  # of a pass on a CPU
NEVER_FREED: list[Trainer] = []

# --------------------------------------------------------------------------------------------------
# What is learnt, and how


@dataclass(frozen=True)
class TrainingData:
    """The questions of a training.

    `taught` contains the samples of each train question, and `asked` the validation questions;
    `digest` identifies both. `longest` is the number of the train question with the longest sample
    of several branches, and `most_tokens` are those of the longest sample.
    """

    taught: Sequence[Sequence[Sample]]
    asked: Sequence[Asked]
    window: Window
    longest: int
    most_tokens: int
    digest: str


@dataclass(frozen=True)
class TrainingSetup:
    """How a student is trained.

    `objective` holds the losses and their weights in the total loss, and `lengths` how long
    answers may be. `dtype` is the precision of the passes, `weights` that of the weights, and
    `identity` identifies the student.
    """

    settings: Train
    objective: tuple[tuple[Loss, float], ...]
    seed: int
    lengths: AnswerLengths
    dtype: str
    identity: str
    weights: str = "float32"

    @property
    def losses(self) -> list[Loss]:
        """The losses, without their weights."""
        return [loss for loss, _ in self.objective]


class Survey(NamedTuple):
    """What a training will meet.

    `tasks` are those that have a target, `limits` what does not fit, and `numbers` the questions
    that have a target, of which `explained` have a rationale; `longest` is the place among them of
    the longest sample of several branches, and `most_tokens` are those of the longest sample.
    """

    tasks: set[str]
    limits: Limits
    numbers: list[int]
    explained: int
    longest: int
    most_tokens: int


def survey(questions: Sequence[Sequence[Sample]], tasks: Container[str], window: Window) -> Survey:
    """Read each train question once; `questions` have whole samples, and `tasks` are taught."""
    taught: set[str] = set()
    limits = Limits()
    numbers: list[int] = []
    longest, most = 0, 0  # the most tokens of a sample with several branches
    most_tokens = explained = 0
    for number, question in enumerate(questions):
        fitted = limits.add_read(window, of_tasks(question, tasks))
        limits.check("train")
        if not fitted:
            continue
        taught.update(branch.task for sample in fitted for branch in sample.branches)
        tokens = max((s.length for s in fitted if len(s.branches) > 1), default=0)
        if tokens > most:
            longest, most = len(numbers), tokens
        most_tokens = max(most_tokens, *(sample.length for sample in fitted))
        explained += any(b.task not in NO_RATIONALE for s in fitted for b in s.branches)
        numbers.append(number)
    return Survey(taught, limits, numbers, explained, longest, most_tokens)


# --------------------------------------------------------------------------------------------------
# An epoch as optimiser steps, each made of passes within a token budget


class Step(TypedDict):
    """One process's share of an optimiser step over L losses.

    `passes` are batches of `tokens` tokens in all, padding left out. Of the whole step, over all
    processes, `counts` (L,) are what the losses' sums are divided by, and `coverage` (L,) is the
    share of questions that each loss is about.
    """

    passes: list[Batch]
    tokens: int
    counts: Tensor
    coverage: Tensor


class Steps(Dataset):
    """The steps of an epoch: questions in an order drawn for each epoch, in passes by length.

    A question is a list of samples; all of them are in the same step and, if a loss compares them,
    in the same pass.
    """

    def __init__(
        self,
        questions: Sequence[Sequence[Sample]],
        collate: Collator,
        losses: Sequence[Loss],
        settings: Train,
        batch_tokens: int,
        seed: int,
    ):
        """Take the samples of each question and the tokens of a pass."""
        self.questions = questions
        self._collate = collate
        self._losses = losses
        self._whole = any(loss.whole_questions for loss in losses)
        self._batch_size = settings.batch_size
        self._batch_tokens = batch_tokens
        self._seed = seed
        self.rank, self.processes = 0, 1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch."""
        random = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
        self._order = torch.randperm(len(self.questions), generator=random)

    def __len__(self) -> int:
        return -(-len(self.questions) // self._batch_size)

    def __getitem__(self, number: int) -> Step:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start = number * self._batch_size
        chosen = self._order[start : start + self._batch_size].tolist()
        questions = [self.questions[n] for n in chosen]
        counts = torch.tensor([[loss.count(q) for loss in self._losses] for q in questions])
        # Samples that must be in the same pass, group by group.
        groups = questions if self._whole else [[s] for q in questions for s in q]
        groups = sorted(groups, key=_tokens)
        shares = [self.batches(groups[r :: self.processes]) for r in range(self.processes)]
        passes = [self._collate(batch) for batch in shares[self.rank]]
        idle = max(map(len, shares)) - len(passes)  # while another process has more passes
        return Step(
            passes=passes + [self._collate(groups[0][:1]).without_targets()] * idle,
            tokens=sum(sample.length for batch in shares[self.rank] for sample in batch),
            counts=counts.sum(0),
            coverage=(counts > 0).float().mean(0),
        )

    def batches(self, groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
        """Split groups of samples into batches within the token budget, one for each pass."""
        batches = by_length([_tokens(group) for group in groups], self._batch_tokens)
        return [[sample for i in chosen for sample in groups[i]] for chosen in batches]


def _tokens(samples: Sequence[Sample]) -> int:
    """Return the tokens of samples in one pass, with padding."""
    return len(samples) * max(sample.length for sample in samples)


class _Loader(DataLoader):
    """Yields steps in order; the Trainer sets the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


# --------------------------------------------------------------------------------------------------
# The Trainer: one optimiser step, validation, and what is logged


class DistillationTrainer(resuming.ResumableTrainer):
    """A Trainer that learns all tasks of a question at once and measures its answers."""

    def __init__(
        self, *, data: TrainingData, setup: TrainingSetup, batch_tokens: int, **arguments: Any
    ):
        """Take the questions, the setup and the tokens of a pass."""
        super().__init__(**arguments)
        self._data, self._setup = data, setup
        self._losses = setup.losses
        self._with_logits = any(loss.needs_logits for loss in self._losses)
        self._weights = torch.tensor([w for _, w in setup.objective], device=self.args.device)
        diverging = [0.0 if loss.bounded else weight for loss, weight in setup.objective]
        self._diverging = torch.tensor(diverging, device=self.args.device)
        vocabulary = self.model.config.get_text_config().vocab_size
        self._limit = 2 * math.log(vocabulary) * sum(diverging)  # twice the loss of guessing
        self._started = False
        self._advice = f"set train.batch_tokens below {batch_tokens}"
        self._logged = _Logged(len(self._losses), self.args.device)
        self.train_dataset.rank = self.args.process_index
        self.train_dataset.processes = self.args.world_size

    def get_train_dataloader(self) -> DataLoader:
        """Return the steps unchanged: they are already batches."""
        return _Loader(self.train_dataset, batch_size=None, collate_fn=lambda step: step)

    def training_step(
        self, model: torch.nn.Module, inputs: Step, num_items_in_batch: Any = None
    ) -> Tensor:
        """Compute the gradients of a step, pass by pass; return its loss.

        A pass is weighted by its share of the step's targets, so that neither the token budget nor
        the number of processes changes the sum. Raises `UserError` if the loss diverges.
        """
        model.train()
        device, processes = self.args.device, self.args.world_size
        counts, coverage = inputs["counts"].to(device), inputs["coverage"].to(device)
        weights = self._weights * coverage
        losses = torch.zeros_like(weights)  # of this process's passes
        last = len(inputs["passes"]) - 1
        for number, batch in enumerate(inputs["passes"]):
            batch = batch.to(device)
            exchange = nullcontext() if number == last else self.accelerator.no_sync(model)
            with exchange, explain_out_of_memory("a pass", self._advice):
                with autocast(self._setup.dtype, keep=not self.args.gradient_checkpointing):
                    predicted = predict(model, batch, self._with_logits)
                    sums = torch.stack([loss(predicted) for loss in self._losses])
                parts = sums / counts.clamp(min=1)
                # The gradients of the processes are averaged, but must be summed.
                self.accelerator.backward((parts * weights).sum() * processes)
            losses += parts.detach()
        self._logged.add(losses, coverage, inputs["tokens"])
        total = (losses * weights).sum() * processes
        self._check_divergence(total.item(), (losses * self._diverging * coverage).sum().item())
        return total

    def _check_divergence(self, total: float, diverging: float) -> None:
        """Raise `UserError` if a loss is far above that of guessing, and of the first step."""
        loss = diverging * self.args.world_size
        if not self._started:
            self._limit = max(self._limit, 2 * loss)
            self._started = True
        if not math.isfinite(total) or loss > self._limit:
            raise UserError(
                f"the loss is {loss:.4g} at step {self.state.global_step}, more than "
                f"{self._limit:.3g}; lower train.learning_rate"
            )

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """Answer the validation questions; return the share answered correctly."""
        asked, setup = self._data.asked, self._setup
        own = range(self.args.process_index, len(asked), self.args.world_size)
        if self.is_fsdp_enabled:  # a pass needs all processes: each has a part of the weights
            own = range(len(asked))
        student = StudentModel(self.model, self.processing_class, setup.dtype)
        correct = count_correct(student, asked, own, self._data.window, setup.lengths)
        counts = gather_object([(correct, len(own))])
        right, total = map(sum, zip(*counts, strict=True))
        metrics = {"eval_accuracy": right / total}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._logged.start()  # no step took this time
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; add to a loss those of its parts, and the speed, since the last call."""
        if "loss" in logs:
            logs |= self._logged.take(self.accelerator, [loss.name for loss in self._losses])
        super().log(logs, start_time)

    def best_epoch(self) -> tuple[int, float]:
        """Return the epoch whose weights were kept, and its validation accuracy.

        A training by steps may end in the middle of an epoch, which counts as one.
        """
        history = [entry for entry in self.state.log_history if "eval_accuracy" in entry]
        best = max(history, key=lambda entry: entry["eval_accuracy"])  # the first of a tie
        return math.ceil(best["epoch"]), best["eval_accuracy"]


class _Logged:
    """Sums over the steps since the last log: losses, the steps that each is about, tokens."""

    def __init__(self, losses: int, device: torch.device):
        self._losses = torch.zeros(losses, device=device)
        self._steps = torch.zeros_like(self._losses)
        self.start()

    def start(self) -> None:
        """Measure the speed from now on."""
        self._tokens, self._since = 0, time.monotonic()

    def add(self, losses: Tensor, coverage: Tensor, tokens: int) -> None:
        self._losses += losses
        self._steps += coverage > 0
        self._tokens += tokens

    def take(self, accelerator: Any, names: Sequence[str]) -> dict[str, float]:
        """Return the mean of each loss over its steps, tokens per second and peak memory."""
        means = (accelerator.reduce(self._losses, "sum") / self._steps).tolist()
        taken = self._steps.tolist()
        logs = {
            f"loss/{name}": mean
            for name, mean, steps in zip(names, means, taken, strict=True)
            if steps
        }
        seconds = time.monotonic() - self._since
        logs["speed/tokens_per_second"] = sum(gather_object([self._tokens])) / seconds
        logs["speed/peak_memory_gb"] = peak_memory() / 1e9
        self._losses.zero_()
        self._steps.zero_()
        self.start()
        return logs


def peak_memory() -> int:
    """Return the most bytes that this process has held so far, on its GPU if it has one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --------------------------------------------------------------------------------------------------
# The whole training


class CurveWriter(TrainerCallback):
    """Writes curves with DVCLive; a resumed run also writes its earlier epochs.

    `losses` gets those of the losses and of the validation, which are the same in every run, and
    `speed` those that differ.
    """

    def __init__(self, losses: Live, speed: Live):
        """Take where to write them."""
        self.losses, self.speed = losses, speed

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what was logged before this process."""
        for entry in state.log_history:
            self._write(entry, entry["step"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write what is logged."""
        self._write(logs, state.global_step)
        if "eval_accuracy" in logs:
            accuracy = f"validation accuracy {logs['eval_accuracy']:.3f}"
            print(f"epoch {math.ceil(state.epoch)}: {accuracy}", file=sys.stderr)

    def _write(self, logs: Mapping[str, float], step: int) -> None:
        self.losses.step = self.speed.step = step
        if "loss" in logs:
            self.losses.log_metric("loss/total", logs["loss"])
        for name, value in logs.items():
            if name.startswith("loss/"):
                self.losses.log_metric(name, value)
            if name.startswith("speed/"):
                self.speed.log_metric(name.removeprefix("speed/"), value)
        if "eval_accuracy" in logs:
            self.losses.log_metric("validation/accuracy", logs["eval_accuracy"])


class _LogEachEpoch(TrainerCallback):
    """Lets no logged mean span a checkpoint."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log = True


def train_student(
    student: StudentModel, data: TrainingData, setup: TrainingSetup, curves: CurveWriter | None
) -> tuple[int, float, dict[str, Tensor] | None]:
    """Train on the samples of every question; leave the weights of the best epoch in the student.

    The main process writes `curves`. Returns that epoch, its validation accuracy and, if the model
    as it was loaded has to take them, weights: all of them if FSDP has sharded the model, in the
    main process; those of LoRA, beside which others are rounded. A stopped run with the same inputs
    resumes after its last epoch. Raises `UserError` if the loss diverges, or if the student cannot
    share a context.
    """
    model, tokenizer, _ = student
    settings, seed = setup.settings, setup.seed
    set_seed(seed)
    held = training_bytes(model, settings.optimizer, setup.weights)
    batch_tokens = pass_tokens(settings.batch_tokens, BATCH_TOKENS, model, held)
    choose_attention(model, data.most_tokens)
    checkpointing = settings.gradient_checkpointing
    if checkpointing == "auto":
        # Only a sample of its own can be longer than `batch_tokens`, which are chosen to fit.
        checkpointing = not activations_fit(model, data.most_tokens, setup.dtype, held)
    if checkpointing:
        return_large_memory()
    collate = Collator(model, tokenizer)
    steps = Steps(data.taught, collate, setup.losses, settings, batch_tokens, seed)
    arguments = resuming.training_arguments(
        CHECKPOINTS,
        settings,
        settings.steps(len(steps)),
        len(steps),
        seed,
        settings.warmup,
        settings.optimizer,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        ddp_find_unused_parameters=False,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        train_dataset=steps,
        eval_dataset=data.asked,  # required, but `evaluate` uses `data`
        processing_class=tokenizer,
        callbacks=list(_callbacks(settings, curves)),
        data=data,
        setup=setup,
        batch_tokens=batch_tokens,
    )
    if curves is not None:  # FSDP gives the other processes no weights before it shards them
        check_shared_context(model, collate, data.taught[data.longest])
    sharded = trainer.is_fsdp_enabled  # which takes one precision for all
    if setup.weights == "bfloat16":
        round_weights(model)  # after that check, which compares logits in float32
    elif setup.dtype == "bfloat16" and not sharded:
        round_frozen(model)
    key = [versions.TRAINING, setup, batch_tokens, arguments.world_size, data.digest]
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


def _callbacks(settings: Train, curves: CurveWriter | None) -> Iterator[TrainerCallback]:
    yield _LogEachEpoch()
    if curves:
        yield curves
    if settings.patience:
        yield EarlyStoppingCallback(settings.patience)
