"""A question as the student reads it: its tokens once, and a branch for each target."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.interface.errors import UserError
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    SALIENCY_TASK,
    options_text,
    rationale_task,
)

ANSWER, SALIENCY = "answer", "saliency"
UNLIMITED = 10**9  # above it, a tokenizer's limit means that it has none


@dataclass(frozen=True)
class Branch:
    """One task of a question: `prefix` asks for it, `target` (ending in end-of-text) is learnt."""

    task: str
    prefix: list[int]
    target: list[int]


@dataclass(frozen=True)
class Sample:
    """A question's tokens and the branches that share them."""

    id: str
    context: list[int]
    branches: list[Branch]

    @property
    def length(self) -> int:
        """Tokens of a decoder-only student's pass over the question and all its branches."""
        return len(self.context) + sum(len(b.prefix) + len(b.target) - 1 for b in self.branches)


class Encoder:
    """Turns rows of `distill` into what a student reads.

    With `shared_context` a question is one sample with a branch for each target. Without, it is one
    sample a target, as in the papers: an encoder-decoder reads what asks for the target behind the
    question, not at the beginning of its text.

    `cut` holds the questions that lost their beginning because the student reads no more, `dropped`
    how many targets of each task were left out for the same reason.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        shared_context: bool = True,
        limit: int | None = None,
    ):
        """Take the student; `limit` is the most tokens it reads, None for as many as it can."""
        self._tokenizer = tokenizer
        self._two_parts = model.config.is_encoder_decoder
        self._shared = shared_context
        self.cut: set[str] = set()
        self.dropped: Counter[str] = Counter()
        limits = [limit, tokenizer.model_max_length]
        if not self._two_parts:  # an encoder-decoder's positions are relative
            limits.append(model.config.get_text_config().max_position_embeddings)
        self.limit = min((n for n in limits if n is not None and n < UNLIMITED), default=UNLIMITED)

    def samples(self, row: dict[str, Any], weights: dict[str, float]) -> list[Sample]:
        """Encode a row with its targets.

        `weights` maps a task (`answer`, `saliency`, or a teacher's name) to its weight in the loss;
        the order of the teachers there numbers their rationales, and a task of weight 0 is left
        out. Raises `UserError` as `_fit` does.
        """
        teachers = [task for task in weights if task not in (ANSWER, SALIENCY)]
        texts = [(ANSWER, ANSWER_TASK, row["answer"])]
        for rationale in row["rationales"]:
            if (teacher := rationale["teacher"]) in teachers:
                number = teachers.index(teacher) + 1
                texts.append((teacher, rationale_task(number), rationale["text"]))
        if row["saliency"]:
            texts.append((SALIENCY, SALIENCY_TASK, ", ".join(row["saliency"])))
        end = self._tokenizer.eos_token_id
        branches = [
            Branch(task, self._tokens(prefix), [*self._tokens(f" {text}"), end])
            for task, prefix, text in texts
            if weights.get(task, 0.0) > 0
        ]
        return self._samples(row, branches)

    def options(self, row: dict[str, Any]) -> list[Sample]:
        """Encode a row with each of its options as a target, their end-of-text left out."""
        prefix = self._tokens(ANSWER_TASK)
        targets = [self._tokens(f" {option}") for option in row["options"]]
        return self._samples(row, [Branch(ANSWER, prefix, target) for target in targets])

    def _samples(self, row: dict[str, Any], branches: list[Branch]) -> list[Sample]:
        if self._shared:
            return [self._fit(row, branches)]
        alone = [self._fit(row, [branch]) for branch in branches]
        return [self._moved(sample) for sample in alone if sample.branches]

    def prompt(self, row: dict[str, Any], max_tokens: int, task: str = ANSWER_TASK) -> Sample:
        """Encode a row to be answered with `max_tokens` at most; the branch has no target.

        `task` is the prefix that asks, for the answer or for another target.
        """
        branch = Branch(ANSWER, self._tokens(task), [0] * max_tokens)
        fitted = self._fit(row, [branch])
        asked = replace(fitted, branches=[replace(branch, target=[])])
        return asked if self._shared else self._moved(asked)

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _moved(self, sample: Sample) -> Sample:
        """Let an encoder read what asks for the one target, before its end-of-text token."""
        if not self._two_parts:
            return sample
        [branch] = sample.branches
        tail = len(sample.context) - self._tokenizer.num_special_tokens_to_add()
        context = sample.context[:tail] + branch.prefix + sample.context[tail:]
        return replace(sample, context=context, branches=[replace(branch, prefix=[])])

    def _fit(self, row: dict[str, Any], branches: list[Branch]) -> Sample:
        """Return the sample, within the limit.

        A question that is too long loses its beginning, never an option; a rationale or salient
        words that leave no room for the options are left out. Raises `UserError` where options and
        answer alone are too long.
        """
        encoded = self._tokenizer(
            row["context"], return_offsets_mapping=True, return_special_tokens_mask=True
        )
        context = encoded["input_ids"]
        head = encoded["special_tokens_mask"].index(0)
        listed = len(row["context"]) - len(options_text(row["options"]))
        kept = head + sum(last > listed for _, last in encoded["offset_mapping"])
        kept += sum(encoded["special_tokens_mask"]) - head
        while branches:
            room = self.limit - max(map(self._beside, branches))
            if len(context) <= room:
                return Sample(row["id"], context, branches)
            if room >= kept:
                self.cut.add(row["id"])
                context = context[:head] + context[head + len(context) - room :]
                return Sample(row["id"], context, branches)
            others = [branch for branch in branches if branch.task != ANSWER]
            if not others:
                raise UserError(
                    f"question {row['id']!r}: options and answer have more than the {self.limit} "
                    "tokens that the student reads; leave the question out, raise student.context, "
                    "or choose a student with a longer context"
                )
            longest = max(others, key=self._beside)
            self.dropped[longest.task] += 1
            branches = [branch for branch in branches if branch is not longest]
        return Sample(row["id"], context, branches)

    def _beside(self, branch: Branch) -> int:
        """Return how many tokens a target takes from its question's room."""
        if not self._two_parts:
            return len(branch.prefix) + len(branch.target)
        return 0 if self._shared else len(branch.prefix)


def separate_tasks(samples: Sequence[Sample]) -> list[Sample]:
    """Return one sample a task: what a pass per task computes, with the same losses."""
    return [replace(s, branches=[branch]) for s in samples for branch in s.branches]


def count_targets(samples: Sequence[Sample], tasks: Sequence[str]) -> Tensor:
    """Return each task's target tokens in these samples, shape (tasks,)."""
    counts = torch.zeros(len(tasks))
    for sample in samples:
        for branch in sample.branches:
            counts[tasks.index(branch.task)] += len(branch.target)
    return counts
