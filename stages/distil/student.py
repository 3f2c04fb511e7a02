"""The student: one pass over a question and all its targets, the multi-task loss, its answers.

Knows token ids, masks and losses; knows nothing of tables, of teachers' engines or of scoring.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.batching import pad
from stages.distil.errors import UserError
from stages.distil.generation import continue_greedily
from stages.distil.hardware import device, pass_tokens
from stages.distil.logits import logits_at
from stages.distil.prompts import ANSWER_TASK, SALIENCY_TASK, options_text, rationale_task

IGNORED = -100  # torch's label for a position without a target
ANSWER, SALIENCY = "answer", "saliency"
UNLIMITED = 10**9  # above it, a tokenizer's limit means that it has none
ANSWERED_TOKENS = 8192  # of a batch of questions that are answered together, on a CPU


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


def answered_tokens(model: PreTrainedModel) -> int:
    """Return the tokens of a pass without gradients."""
    return pass_tokens("auto", ANSWERED_TOKENS, model, weight_bytes=0)


def autocast(dtype: str) -> torch.autocast:
    """Return the context in which float32 weights compute in `bfloat16` or `float32`."""
    return torch.autocast(device(), dtype=torch.bfloat16, enabled=dtype == "bfloat16")


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


def task_sums(model: PreTrainedModel, batch: dict[str, Tensor], count: int) -> Tensor:
    """Return the summed cross-entropy of each of `count` tasks over its targets, shape (count,).

    `model` may be wrapped for several processes. Logits are computed at target positions only, by
    the model's own head; an encoder reads each question once.
    """
    plain = getattr(model, "module", model)
    inputs = {k: v for k, v in batch.items() if k not in ("labels", "tasks", "rows")}
    wanted = batch["labels"] != IGNORED
    if plain.config.is_encoder_decoder:
        inputs["attention_mask"] = batch["attention_mask"][batch["rows"]]  # the decoder's
    elif plain.config._attn_implementation == "eager":  # adds its mask to the scores
        allowed = batch["attention_mask"]
        inputs["attention_mask"] = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    with logits_at(plain, wanted), _each_question_once(plain, batch):
        logits = model(**inputs, use_cache=False).logits[0]
    losses = functional.cross_entropy(logits.float(), batch["labels"][wanted], reduction="none")
    zeros = torch.zeros(count, device=losses.device)
    return zeros.index_add(0, batch["tasks"][wanted], losses)


@contextmanager
def _each_question_once(model: PreTrainedModel, batch: dict[str, Tensor]) -> Iterator[None]:
    """Let an encoder read each question once and hand what it found to all of its branches."""
    if not model.config.is_encoder_decoder:
        yield
        return

    def read(_: Any, args: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, keywords | {"attention_mask": batch["attention_mask"]}

    def hand_out(_: Any, args: tuple, found: Any) -> Any:
        found["last_hidden_state"] = found["last_hidden_state"][batch["rows"]]
        return found

    encoder = model.get_encoder()
    hooks = [
        encoder.register_forward_pre_hook(read, with_kwargs=True),
        encoder.register_forward_hook(hand_out),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def total_loss(sums: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """L = L_answer + Σ_m α_m L_rationale(m) + λ L_saliency (TinyLLM eq. 6, with saliency added).

    Each L is a task's sum over its targets divided by their count; a task without any adds nothing.
    """
    return (sums / counts.clamp(min=1) * weights).sum()


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sample],
    max_tokens: int,
    dtype: str,
) -> list[str]:
    """Return the student's greedy text for each of `Encoder.prompt`, in their order.

    `dtype` is the precision, `bfloat16` or `float32`.
    """
    two_parts = model.config.is_encoder_decoder
    begun = prompts[0].branches[0].prefix if two_parts and prompts else []
    ids = [p.context if two_parts else p.context + p.branches[0].prefix for p in prompts]
    training = model.training
    model.eval()
    with autocast(dtype):
        written = continue_greedily(
            model,
            ids,
            max_tokens,
            tokenizer.pad_token_id or 0,
            answered_tokens(model),
            begun,
            tokenizer.eos_token_id,
        )
    model.train(training)
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]
