"""An epoch as optimiser steps, each made of passes within a token budget."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.distil.models.batching import by_length
from stages.distil.student.collator import NUMBERED, count_targets, coverage
from stages.distil.student.samples import MUTUAL_INFORMATION, SOFT_LABELS, Sample


class Step(TypedDict):
    """One process's share of an optimiser step.

    `passes` are batches. Of the whole step, over all processes, `counts` (tasks,) are the target
    tokens (`count_targets`), and `coverage` (tasks,) is the share of questions that have any.
    """

    passes: list[dict[str, Tensor]]
    counts: Tensor
    coverage: Tensor


class Steps(Dataset):
    """The steps of an epoch: questions in an order drawn for each epoch, in passes by length.

    A question is a list of samples; all of them are in the same step and, if a task compares them,
    in the same pass.
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
        """Take the samples of each question, the questions of a step and the tokens of a pass."""
        self.questions = questions
        self._collate = collate
        self._tasks = tasks
        self._together = MUTUAL_INFORMATION in tasks or SOFT_LABELS in tasks
        self._batch_size = batch_size
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
        units = [unit for question in questions for unit in self._units(question)]
        samples = [sample for unit in units for sample in unit]
        counts = count_targets(samples, self._tasks)
        units.sort(key=_tokens)
        shares = [self.batches(units[r :: self.processes]) for r in range(self.processes)]
        passes = [self._collate(batch) for batch in shares[self.rank]]
        missing = max(map(len, shares)) - len(passes)
        return Step(
            passes=passes + [self._empty_pass(units[0][0])] * missing,
            counts=counts,
            coverage=coverage(questions, self._tasks),
        )

    def _units(self, question: Sequence[Sample]) -> Sequence[Sequence[Sample]]:
        """Return the samples of a question that must be in the same pass, group by group."""
        return [question] if self._together else [[sample] for sample in question]

    def batches(self, units: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
        """Split groups of samples into batches within the token budget, one for each pass."""
        batches = by_length([_tokens(unit) for unit in units], self._batch_tokens)
        return [[sample for i in chosen for sample in units[i]] for chosen in batches]

    def _empty_pass(self, sample: Sample) -> dict[str, Tensor]:
        """Return a pass without targets, for a process that has fewer passes than another."""
        batch = self._collate([sample])
        batch = {name: batch[name] for name in batch if name not in NUMBERED}
        return batch | {"labels": torch.full_like(batch["labels"], -100)}


def _tokens(samples: Sequence[Sample]) -> int:
    """Return the tokens of samples in one pass, with padding."""
    return len(samples) * max(sample.length for sample in samples)
