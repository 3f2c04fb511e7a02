"""The tensors of one forward pass over samples."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.models.batching import pad
from stages.distil.student.samples import (
    ANSWER,
    MUTUAL_INFORMATION,
    NO_RATIONALE,
    SOFT_LABELS,
    Sample,
    said,
)

IGNORED = -100  # torch's label of a position without a target
NUMBERED = ("pairs", "options", "scores", "weights")  # of a batch: what numbers its targets


class Collator:
    """Turns samples into the batch of a student's forward pass."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str]
    ):
        """Take the student and the tasks; a task's number is its index in `tasks`."""
        self._encoder_decoder = model.config.is_encoder_decoder
        self._start = model.config.decoder_start_token_id if self._encoder_decoder else -1
        self._padding = tokenizer.pad_token_id or 0
        self._tasks = list(tasks)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the batch of `samples`, the input of `task_sums`.

        With the task MUTUAL_INFORMATION, `pairs` (P, 5) holds for each answer and rationale of one
        question the first and past-the-last target of each, and the number of the task. Targets are
        numbered row by row. With SOFT_LABELS, `options` (O, 4) holds for each option its first and
        past-the-last target, its sample's number, and that of the task, and `scores` (O,) its
        teacher's. `weights` (targets,) are weight × share of the branches, unless all are 1.
        """
        layout = self._encoder_decoder_batch if self._encoder_decoder else self._decoder_batch
        return layout(samples) | self._numbered(samples)

    def _numbered(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        ids = {sample.id: number for number, sample in enumerate(samples)}
        branches = [(ids[sample.id], branch) for sample in samples for branch in sample.branches]
        lengths = (len(branch.target) for _, branch in branches)
        spans = list(pairwise(accumulate(lengths, initial=0)))
        numbered = {}
        if MUTUAL_INFORMATION in self._tasks and (pairs := answer_pairs(samples)):
            task = self._tasks.index(MUTUAL_INFORMATION)
            numbered["pairs"] = torch.tensor([[*spans[a], *spans[r], task] for a, r in pairs])
        options = [
            (*span, number, self._tasks.index(SOFT_LABELS), branch.score)
            for span, (number, branch) in zip(spans, branches, strict=True)
            if branch.score is not None
        ]
        if options:
            numbered["options"] = torch.tensor([option[:4] for option in options])
            numbered["scores"] = torch.tensor([option[4] for option in options])
        weights = [b.weight * b.share for _, b in branches for _ in b.target]
        if any(weight != 1 for weight in weights):
            numbered["weights"] = torch.tensor(weights)
        return numbered

    def _decoder_batch(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Lay out each sample as its context followed by its branches, padded on the right.

        A branch attends to the context and to itself, and its positions start at the end of the
        context; one after the answer also attends to the first branch, and starts at its end. So
        each branch is computed as if it alone followed the question, or the answer.

        Returns, for B samples of at most N tokens: `input_ids`, `position_ids`, `labels` (the token
        to predict after each position, or IGNORED) and `tasks` (the task's number), all (B, N), and
        `attention_mask` (B, 1, N, N), true where a row may attend to a column.

        Samples of one branch are ordinary texts: the model forms its own positions and mask, such
        as a sliding window, from an `attention_mask` (B, N) of the tokens that are not padding.
        """
        size = (len(samples), max(sample.length for sample in samples))
        input_ids = torch.full(size, self._padding)
        position_ids = torch.zeros(size, dtype=torch.long)
        labels = torch.full(size, IGNORED)
        tasks = torch.zeros(size, dtype=torch.long)
        branch_ids = torch.full(size, -1)  # -1 padding, 0 context, then one number a branch
        after_answer = torch.zeros(size, dtype=torch.bool)
        for row, sample in enumerate(samples):
            length = start = len(sample.context)
            input_ids[row, :length] = torch.tensor(sample.context)
            position_ids[row, :length] = torch.arange(length)
            branch_ids[row, :length] = 0
            answered = length + len(said(sample)) if sample.branches else length
            for number, branch in enumerate(sample.branches, start=1):
                inputs = branch.prefix + branch.target[:-1]
                end = start + len(inputs)
                input_ids[row, start:end] = torch.tensor(inputs)
                first = answered if branch.after_answer else length
                position_ids[row, start:end] = torch.arange(first, first + len(inputs))
                after_answer[row, start:end] = branch.after_answer
                labels[row, start + len(branch.prefix) - 1 : end] = torch.tensor(branch.target)
                tasks[row, start:end] = self._tasks.index(branch.task)
                branch_ids[row, start:end] = number
                start = end
        batch = {"input_ids": input_ids, "labels": labels, "tasks": tasks}
        if all(len(sample.branches) <= 1 for sample in samples):
            return batch | {"attention_mask": (branch_ids >= 0).long()}
        earlier = torch.ones(size[1], size[1], dtype=torch.bool).tril()
        same_branch = branch_ids[:, :, None] == branch_ids[:, None, :]
        to_context = (branch_ids[:, None, :] == 0) & (branch_ids[:, :, None] > 0)
        to_answer = (branch_ids[:, None, :] == 1) & after_answer[:, :, None]
        mask = (earlier & (same_branch | to_context | to_answer))[:, None]
        return batch | {"position_ids": position_ids, "attention_mask": mask}

    def _encoder_decoder_batch(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Lay out contexts for the encoder and branches for the decoder, padded on the right.

        Returns, for B samples with R branches in all: `input_ids` and `attention_mask` (B, N),
        `decoder_input_ids`, `labels` and `tasks` (R, T), and `rows` (R,), each branch's sample.
        """
        input_ids, mask = pad([sample.context for sample in samples], self._padding)
        pairs = [(row, b) for row, sample in enumerate(samples) for b in sample.branches]
        decoder_rows = [[self._start, *b.prefix, *b.target[:-1]] for _, b in pairs]
        decoder_ids, _ = pad(decoder_rows, self._padding)
        labels, _ = pad([[IGNORED] * len(b.prefix) + b.target for _, b in pairs], IGNORED)
        tasks = torch.tensor([self._tasks.index(b.task) for _, b in pairs])
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "decoder_input_ids": decoder_ids,
            "labels": labels,
            "tasks": tasks[:, None].expand_as(labels),
            "rows": torch.tensor([row for row, _ in pairs]),
        }


def answer_pairs(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Return each rationale with the answer to its question: the numbers of the two branches.

    Branches are numbered in the order of the samples.
    """
    branches = [(sample.id, branch.task) for sample in samples for branch in sample.branches]
    answers = {id: number for number, (id, task) in enumerate(branches) if task == ANSWER}
    return [
        (answers[id], number)
        for number, (id, task) in enumerate(branches)
        if task not in NO_RATIONALE and id in answers
    ]


def count_targets(samples: Sequence[Sample], tasks: Sequence[str]) -> Tensor:
    """Return the number of target tokens of each task in these samples, shape (tasks,).

    A token counts by the share of its branch. Of MUTUAL_INFORMATION, it is the number of pairs of
    an answer and a rationale; of SOFT_LABELS, that of questions.
    """
    counts = torch.zeros(len(tasks))
    for sample in samples:
        for branch in sample.branches:
            counts[tasks.index(branch.task)] += len(branch.target) * branch.share
    if MUTUAL_INFORMATION in tasks:
        counts[tasks.index(MUTUAL_INFORMATION)] = len(answer_pairs(samples))
    if SOFT_LABELS in tasks:
        scored = {s.id for s in samples if any(b.task == SOFT_LABELS for b in s.branches)}
        counts[tasks.index(SOFT_LABELS)] = len(scored)
    return counts


def coverage(questions: Sequence[Sequence[Sample]], tasks: Sequence[str]) -> Tensor:
    """Return the share of the questions that have a target of each task, shape (tasks,).

    Of MUTUAL_INFORMATION, it is the share of those that have a pair. A question is the list of its
    samples.
    """
    covered = torch.zeros(len(tasks))
    for samples in questions:
        present = {branch.task for sample in samples for branch in sample.branches}
        if MUTUAL_INFORMATION in tasks and answer_pairs(samples):
            present.add(MUTUAL_INFORMATION)
        covered += torch.tensor([float(task in present) for task in tasks])
    return covered / len(questions)
