"""The Hugging Face Trainer with the multi-task loss; it validates by generating answers."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Train
from stages.distil.models.hardware import explain_out_of_memory
from stages.distil.models.resuming import ResumableTrainer
from stages.distil.student.answering import count_correct
from stages.distil.student.loss import autocast, task_sums, total_loss
from stages.distil.student.samples import MUTUAL_INFORMATION, Sample
from stages.distil.student.steps import Step


@dataclass(frozen=True)
class Questions:
    """The questions of a training.

    `train` contains the samples of each train question, `validation` rows with `options` and
    `answer`, and `prompts` the prompts of these rows; `digest` identifies all of them. `longest` is
    the number of the train question with the longest sample of several branches. `taught` are the
    tasks with a target, and `too_long` counts what the student cannot read in full.
    """

    train: Sequence[Sequence[Sample]]
    validation: Sequence[dict[str, Any]]
    prompts: Sequence[Sample]
    digest: str
    longest: int
    taught: Sequence[str]
    too_long: Mapping[str, int]


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    `weights` maps every task to its weight in the loss; a task of weight 0 is not computed. An
    answer has at most `max_tokens` tokens. `dtype` is the precision of the passes, and `identity`
    identifies the student. `temperature` is that of soft labels.
    """

    settings: Train
    weights: dict[str, float]
    seed: int
    max_tokens: int
    dtype: str
    identity: str
    temperature: float = 1.0

    @property
    def tasks(self) -> list[str]:
        """The tasks that are computed; their order numbers them."""
        return [task for task, weight in self.weights.items() if weight > 0]


class _Loader(DataLoader):
    """Yields steps in order; the Trainer sets the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)


class DistillationTrainer(ResumableTrainer):
    """A Trainer that learns all tasks of a question at once and measures its answers."""

    def __init__(
        self,
        *,
        questions: Questions,
        recipe: Recipe,
        batch_tokens: int,
        **arguments: Any,
    ):
        """Take the questions, the recipe and the tokens of a pass."""
        super().__init__(**arguments)
        self.tasks = recipe.tasks
        weights = [recipe.weights[task] for task in self.tasks]
        self._weights = torch.tensor(weights, device=self.args.device)
        # The mutual-information term is bounded, and may grow while the student learns.
        may_diverge = [recipe.weights[t] * (t != MUTUAL_INFORMATION) for t in self.tasks]
        self._may_diverge = torch.tensor(may_diverge, device=self.args.device)
        self._questions = questions
        self._recipe = recipe
        self._advice = f"set train.batch_tokens below {batch_tokens}"
        self._task_losses = torch.zeros(len(weights), device=self.args.device)
        self._task_steps = torch.zeros_like(self._task_losses)  # with a target of the task
        self.train_dataset.rank = self.args.process_index
        self.train_dataset.processes = self.args.world_size
        vocabulary = self.model.config.get_text_config().vocab_size
        self._guessing_loss = math.log(vocabulary) * sum(may_diverge)
        self._loss_limit = 0.0

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
        counts = inputs["counts"].to(self.args.device)
        coverage = inputs["coverage"].to(self.args.device)
        weights = self._weights * coverage
        step = torch.zeros_like(self._task_losses)
        last = len(inputs["passes"]) - 1
        for number, batch in enumerate(inputs["passes"]):
            with self.accelerator.no_sync(model) if number < last else nullcontext():
                with explain_out_of_memory("a pass", self._advice):
                    with autocast(self._recipe.dtype):
                        sums = task_sums(
                            model,
                            self._prepare_inputs(batch),
                            len(self.tasks),
                            self._recipe.temperature,
                        )
                    # The gradients of the processes are averaged, but must be summed.
                    loss = total_loss(sums, counts, weights) * self.args.world_size
                    self.accelerator.backward(loss)
            step += sums.detach() / counts.clamp(min=1)
        self._task_losses += step
        self._task_steps += coverage > 0
        total = (step * weights).sum() * self.args.world_size
        loss = (step * self._may_diverge * coverage).sum() * self.args.world_size
        if not self._loss_limit:  # the first loss may be larger than that of guessing
            self._loss_limit = 2 * max(self._guessing_loss, loss.item())
        if not torch.isfinite(total) or loss > self._loss_limit:
            raise UserError(
                f"the loss is {loss.item():.4g} at step {self.state.global_step}, more than "
                f"{self._loss_limit:.3g}; lower train.learning_rate"
            )
        return total

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """Answer the validation questions; return the share answered correctly."""
        prompts, recipe = self._questions.prompts, self._recipe
        own = range(self.args.process_index, len(prompts), self.args.world_size)
        if self.is_fsdp_enabled:  # a pass needs all processes: each has a part of the weights
            own = range(len(prompts))
        correct = count_correct(
            self.model,
            self.processing_class,
            prompts,
            self._questions.validation,
            own,
            recipe.max_tokens,
            recipe.dtype,
        )
        counts = gather_object([(correct, len(own))])
        right, total = map(sum, zip(*counts, strict=True))
        metrics = {"eval_accuracy": right / total}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; add to a loss the mean loss of each task, over the steps since the last call.

        Only steps with a target of the task count.
        """
        if "loss" in logs:
            sums = self.accelerator.reduce(self._task_losses, "sum")
            means = (sums / self._task_steps).tolist()
            taken = self._task_steps.tolist()
            by_task = zip(self.tasks, means, taken, strict=True)
            logs |= {f"loss/{task}": mean for task, mean, steps in by_task if steps}
            self._task_losses.zero_()
            self._task_steps.zero_()
        super().log(logs, start_time)

    def best_epoch(self) -> tuple[int, float]:
        """Return the epoch whose weights were kept, and its validation accuracy.

        A training by steps may end in the middle of an epoch, which counts as one.
        """
        history = [entry for entry in self.state.log_history if "eval_accuracy" in entry]
        best = max(history, key=lambda entry: entry["eval_accuracy"])  # the first of a tie
        return math.ceil(best["epoch"]), best["eval_accuracy"]
