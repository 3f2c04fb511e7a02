"""Samples laid out as the batch of one forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.models.batching import pad
from stages.distil.student.samples import Sample

IGNORED = -100  # torch's label for a position without a target


class Collator:
    """Lays samples out as the batch that a student's forward pass takes."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str]
    ):
        """Take the student and the names of the tasks, whose order numbers them."""
        self._two_parts = model.config.is_encoder_decoder
        self._start = model.config.decoder_start_token_id if self._two_parts else -1
        self._padding = tokenizer.pad_token_id or 0
        self._tasks = list(tasks)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Return the batch of `samples`; `task_sums` says what is in it."""
        return self._branches(samples) if self._two_parts else self._sequences(samples)

    def _sequences(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Lay each sample out as its context followed by its branches, padded on the right.

        A branch attends to the context and to itself, and its positions go on from the context's
        end, so that each branch is computed as if it stood alone behind the question.

        Returns, for B samples of at most N tokens: `input_ids`, `position_ids`, `labels` (the token
        to predict after each position, or IGNORED) and `tasks` (the task's number), all (B, N), and
        `attention_mask` (B, 1, N, N), true where a row may attend to a column.
        """
        size = (len(samples), max(sample.length for sample in samples))
        input_ids = torch.full(size, self._padding)
        position_ids = torch.zeros(size, dtype=torch.long)
        labels = torch.full(size, IGNORED)
        tasks = torch.zeros(size, dtype=torch.long)
        branch_ids = torch.full(size, -1)  # -1 padding, 0 context, then one number a branch
        for row, sample in enumerate(samples):
            here = len(sample.context)
            input_ids[row, :here] = torch.tensor(sample.context)
            position_ids[row, :here] = torch.arange(here)
            branch_ids[row, :here] = 0
            for number, branch in enumerate(sample.branches, start=1):
                inputs = branch.prefix + branch.target[:-1]
                end = here + len(inputs)
                input_ids[row, here:end] = torch.tensor(inputs)
                start = len(sample.context)
                position_ids[row, here:end] = torch.arange(start, start + len(inputs))
                labels[row, here + len(branch.prefix) - 1 : end] = torch.tensor(branch.target)
                tasks[row, here:end] = self._tasks.index(branch.task)
                branch_ids[row, here:end] = number
                here = end
        earlier = torch.ones(size[1], size[1], dtype=torch.bool).tril()
        same_branch = branch_ids[:, :, None] == branch_ids[:, None, :]
        to_context = (branch_ids[:, None, :] == 0) & (branch_ids[:, :, None] > 0)
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "attention_mask": (earlier & (same_branch | to_context))[:, None],
            "labels": labels,
            "tasks": tasks,
        }

    def _branches(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Lay contexts out for the encoder and branches for the decoder, padded on the right.

        Returns, for B samples with R branches in all: `input_ids` and `attention_mask` (B, N),
        `decoder_input_ids`, `labels` and `tasks` (R, T), and `rows` (R,), each branch's sample.
        """
        input_ids, mask = pad([sample.context for sample in samples], self._padding)
        pairs = [(row, b) for row, sample in enumerate(samples) for b in sample.branches]
        read, _ = pad([[self._start, *b.prefix, *b.target[:-1]] for _, b in pairs], self._padding)
        labels, _ = pad([[IGNORED] * len(b.prefix) + b.target for _, b in pairs], IGNORED)
        tasks = torch.tensor([self._tasks.index(b.task) for _, b in pairs])
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "decoder_input_ids": read,
            "labels": labels,
            "tasks": tasks[:, None].expand_as(labels),
            "rows": torch.tensor([row for row, _ in pairs]),
        }
