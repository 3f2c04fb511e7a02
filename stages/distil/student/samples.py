"""A question as the student reads it: its tokens, and a branch for each target."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from transformers import BatchEncoding, PreTrainedConfig, PreTrainedTokenizerBase

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, SALIENCY, Student
from stages.distil.language.control_tokens import added_tokens
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    SALIENCY_TASK,
    options_text,
    rationale_task,
    text_before,
)

SOFT_LABELS = "soft_labels"
NO_RATIONALE = (ANSWER, SALIENCY, SOFT_LABELS)  # tasks that are not named after a teacher
MUTUAL_INFORMATION = "mutual_information"  # a task without targets of its own
UNLIMITED = 10**9  # a tokenizer without a limit reports a larger number


@dataclass(frozen=True)
class Branch:
    """One task of a question: `prefix` asks for `target`, which ends in end-of-text.

    It follows the question or, with `after_answer`, the first branch without its end-of-text. An
    option of the task SOFT_LABELS does not end in end-of-text; `score` is its teacher's. `weight`
    multiplies the loss of the target within its task. `share` is 1/R for each of a question's R
    rationales of one teacher: together they count as one.
    """

    task: str
    prefix: list[int]
    target: list[int]
    after_answer: bool = False
    score: float | None = None
    weight: float = 1.0
    share: float = 1.0


@dataclass(frozen=True)
class Sample:
    """A question's tokens and the branches that share them."""

    id: str
    context: list[int]
    branches: list[Branch]

    @property
    def length(self) -> int:
        """The tokens that a decoder-only student reads: the question and all its branches."""
        return len(self.context) + sum(len(b.prefix) + len(b.target) - 1 for b in self.branches)


class _Target(NamedTuple):
    """A branch whose prefix is still a text: its tokens depend on the question before it.

    `before` is the text before the question; targets that share a context have the same.
    """

    task: str
    before: str
    prefix: str
    tokens: list[int]
    score: float | None = None
    weight: float = 1.0


class Encoder:
    """Encodes rows of `distill` as samples.

    Context and prefix together are the tokens of their joined text, and the target those that
    follow, so a server that encodes a prompt as one text gives the student the tokens of its
    training. If the tokenizer merges a question's last character with the line break after it, the
    merged token belongs to the prefix.

    With `shared_context`, a question is one sample with a branch for each target. Otherwise it is
    one sample per target, as in the papers: an encoder-decoder then reads the prefix at the end of
    the question instead of at the start of its text. In the form `after_answer`, rationales and
    salient words follow the answer, in one text with it. With `student.prompt.prefixes`, a word
    before the question asks for the target, and the text of an encoder-decoder is nothing but the
    target; a decoder-only student also reads the prefix after the question.

    A text never becomes control tokens: `<s>` in a question is three characters, and an answer with
    it survives decoding, which leaves control tokens out.

    `cut` contains the ids of questions that were too long and lost their beginning; `dropped`
    counts, for each task, the targets that were left out for the same reason.
    """

    def __init__(
        self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, settings: Student
    ):
        """Take the student's configuration and tokenizer.

        Raises `UserError` if targets cannot be encoded with its tokenizer.
        """
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            lacks = "end-of-text token" if tokenizer.is_fast else "fast form (tokenizer.json)"
            raise UserError(f"student.model: its tokenizer has no {lacks}; choose another student")
        self._tokenizer = tokenizer
        self._encoder_decoder = config.is_encoder_decoder
        self._head, tail = added_tokens(tokenizer)
        self._tail = tail if self._encoder_decoder else []  # a decoder's text goes on
        self._prompt = settings.prompt
        self._shared = settings.shared_context
        self._after_answer = settings.form == "after_answer"
        self.cut: set[str] = set()
        self.dropped: Counter[str] = Counter()
        # Relative positions and state-space models have no maximum.
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        limits = [settings.context, tokenizer.model_max_length, positions]
        self.limit = min((n for n in limits if n is not None and n < UNLIMITED), default=UNLIMITED)
        own = settings.context == self.limit
        self._advice = "raise student.context" if own else "choose a student that reads more"

    @property
    def shortened(self) -> dict[str, int]:
        """The number of questions that were cut, and of the targets of each task left out."""
        return {"cut": len(self.cut)} | dict(sorted(self.dropped.items()))

    def samples(self, row: dict[str, Any], weights: dict[str, float]) -> list[Sample]:
        """Encode a row with its targets.

        `weights` maps a task (NO_RATIONALE, or a teacher's name) to its weight in the loss; the
        order of the teachers numbers their rationales. A task of weight 0 is left out. Raises
        `UserError` if options and answer alone are longer than the student's limit.
        """
        teachers = [task for task in weights if task not in NO_RATIONALE]
        texts = [(ANSWER, ANSWER_TASK, row["answer"], 1.0)]
        for rationale in row["rationales"]:
            if (teacher := rationale["teacher"]) in teachers:
                number = teachers.index(teacher) + 1
                weight = rationale.get("weight", 1.0)
                texts.append((teacher, rationale_task(number), rationale["text"], weight))
        if row["saliency"]:
            texts.append((SALIENCY, SALIENCY_TASK, ", ".join(row["saliency"]), 1.0))
        end = self._tokenizer.eos_token_id
        texts = [each for each in texts if weights.get(each[0], 0.0) > 0]
        encoded = self.targets([text for _, _, text, _ in texts])  # at once: a call takes 0.1 ms
        targets = [
            _Target(task, *self._around(row, task, prefix), [*tokens, end], weight=weight)
            for (task, prefix, _, weight), tokens in zip(texts, encoded, strict=True)
        ]
        if weights.get(SOFT_LABELS, 0.0) > 0 and (scores := row.get("option_scores")):
            options = zip(self.targets(row["options"]), scores, strict=True)
            around = self._around(row, ANSWER, ANSWER_TASK)
            targets += [_Target(SOFT_LABELS, *around, *option) for option in options]
        return _with_shares(list(map(self._share_answer, self._samples(row, targets))))

    def options(self, row: dict[str, Any]) -> list[Sample]:
        """Encode a row with each of its options as the answer."""
        around = self._around(row, ANSWER, ANSWER_TASK)
        end = self._tokenizer.eos_token_id
        encoded = self.targets(row["options"])
        targets = [_Target(ANSWER, *around, [*target, end]) for target in encoded]
        return self._samples(row, targets)

    def _samples(self, row: dict[str, Any], targets: list[_Target]) -> list[Sample]:
        if self._shared:
            return [self._fit(row, targets)]
        separate = [self._fit(row, [target]) for target in targets]
        return [self._move_prefix(sample) for sample in separate if sample.branches]

    def prompt(
        self, row: dict[str, Any], max_tokens: int, name: str = ANSWER, task: str = ANSWER_TASK
    ) -> Sample:
        """Encode a row as a prompt, leaving room for `max_tokens`; the branch has no target.

        `name` is that of a task, and `task` the prefix that asks for it.
        """
        around = self._around(row, name, task)
        fitted = self._fit(row, [_Target(ANSWER, *around, [0] * max_tokens)])
        [branch] = fitted.branches
        prompt = replace(fitted, branches=[replace(branch, target=[])])
        return prompt if self._shared else self._move_prefix(prompt)

    def target(self, text: str) -> list[int]:
        """Return the tokens of a text as a target, without end-of-text."""
        return self.targets([text])[0]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text as a target, without end-of-text.

        They are those that follow a prefix; every prefix ends in a colon. A text whose beginning
        the tokenizer merges with the colon is encoded by itself.
        """
        prefix, *wholes = self.tokens([ANSWER_TASK, *(f"{ANSWER_TASK} {text}" for text in texts)])
        start = len(prefix)
        return [
            whole[start:] if whole[:start] == prefix else self.tokens([f" {text}"])[0]
            for text, whole in zip(texts, wholes, strict=True)
        ]

    def fits(self, row: dict[str, Any], length: int, name: str, task: str) -> bool:
        """Return whether `length` tokens after the prefix `task` leave room for a row's options.

        If not, training leaves out a target of that length, end-of-text included.
        """
        target = _Target(SALIENCY, *self._around(row, name, task), [0] * length)
        return bool(self._fit(row, [target]).branches)

    def tokens(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Encode texts at once; with `special`, add what the tokenizer adds around every text."""
        if not texts:  # which the tokenizer does not accept
            return []
        return self._encode(list(texts), add_special_tokens=special)["input_ids"]

    def _encode(self, texts: str | list[str], **arguments: Any) -> BatchEncoding:
        return self._tokenizer(texts, split_special_tokens=True, **arguments)

    def _around(self, row: dict[str, Any], name: str, task: str) -> tuple[str, str]:
        """Return the text before a question, and that between it and the target of a task."""
        before = text_before(name, self._prompt)
        if self._prompt.prefixes and self._encoder_decoder:
            return before, ""
        after = self._after_answer and task != ANSWER_TASK
        return before, f"{ANSWER_TASK} {row['answer']}{task}" if after else task

    def _share_answer(self, sample: Sample) -> Sample:
        """Let the branches of a decoder's text that repeat the answer follow its branch instead."""
        if self._encoder_decoder or not self._after_answer:
            return sample
        repeated = said(sample)
        answer, *others = sample.branches
        shared = [
            replace(branch, prefix=branch.prefix[len(repeated) :], after_answer=True)
            if branch.prefix[: len(repeated)] == repeated
            else branch
            for branch in others
        ]
        return replace(sample, branches=[answer, *shared])

    def _move_prefix(self, sample: Sample) -> Sample:
        """Move the prefix of the only branch from an encoder-decoder's text to its context."""
        if not self._encoder_decoder:
            return sample
        [branch] = sample.branches
        context = sample.context + branch.prefix
        return replace(sample, context=context, branches=[replace(branch, prefix=[])])

    def _lay_out(
        self, row: dict[str, Any], targets: list[_Target]
    ) -> tuple[list[int], int, int, list[Branch]]:
        """Return the context, how many of its tokens at the start, and in all, cannot be cut.

        The branches come last. The context ends where the tokens of the question with each prefix
        begin to differ from those of the question alone, or at its own end.
        """
        text, first = row["context"], text_before(ANSWER, self._prompt)
        before = targets[0].before if targets else first
        if before != first:
            text = before + text.removeprefix(first)
        encoded = self._encode(text, add_special_tokens=False, return_offsets_mapping=True)
        context = encoded["input_ids"]
        if self._encoder_decoder and self._shared:  # the decoder reads the prefixes
            prefixes = self.tokens([target.prefix for target in targets])
            end = self._tail
        else:
            prompts = self.tokens([text + target.prefix for target in targets])
            context = _common_start([context, *prompts])
            prefixes = [prompt[len(context) :] + self._tail for prompt in prompts]
            end = []
        options_start = len(text) - len(options_text(row["options"], self._prompt))
        offsets = encoded["offset_mapping"][: len(context)]
        asked = len(before.rstrip()) if self._prompt.prefixes else 0
        head = len(self._head) + sum(start < asked for start, _ in offsets)
        least = head + sum(last > options_start for _, last in offsets) + len(end)
        branches = [
            Branch(target.task, prefix, target.tokens, score=target.score, weight=target.weight)
            for target, prefix in zip(targets, prefixes, strict=True)
        ]
        return [*self._head, *context, *end], head, least, branches

    def _fit(self, row: dict[str, Any], targets: list[_Target]) -> Sample:
        """Return the sample, shortened to the limit.

        A question that is too long loses its beginning, but neither its prefix nor an option. A
        rationale or salient words that leave no room for the options are dropped. Raises
        `UserError` if options and answer alone are too long.
        """
        context, head, least, branches = self._lay_out(row, targets)
        while branches:
            room = self.limit - max(map(self._room_of, branches))
            if len(context) <= room:
                return Sample(row["id"], context, branches)
            if room >= least:
                self.cut.add(row["id"])
                context = context[:head] + context[head + len(context) - room :]
                return Sample(row["id"], context, branches)
            droppable = [b for b in branches if b.task not in (ANSWER, SOFT_LABELS)]
            if not droppable:
                needed = least + max(map(self._room_of, branches))
                raise UserError(
                    f"question {row['id']!r}: options and answer take {needed} tokens, more than "
                    f"the {self.limit} tokens that the student reads; leave the question out, or "
                    f"{self._advice}"
                )
            longest = max(droppable, key=self._room_of)
            self.dropped[longest.task] += 1
            branches = [branch for branch in branches if branch is not longest]
        return Sample(row["id"], context, branches)

    def _room_of(self, branch: Branch) -> int:
        """Return how many tokens a branch takes from the room of its question."""
        if not self._encoder_decoder:
            return len(branch.prefix) + len(branch.target)
        return 0 if self._shared else len(branch.prefix)


def _common_start(sequences: list[list[int]]) -> list[int]:
    columns = zip(*sequences, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def _with_shares(samples: list[Sample]) -> list[Sample]:
    """Return a question's samples with the share of each rationale; others count in full."""
    rationales = Counter(
        branch.task for s in samples for branch in s.branches if branch.task not in NO_RATIONALE
    )
    if all(count == 1 for count in rationales.values()):
        return samples
    return [
        replace(s, branches=[replace(b, share=1 / rationales.get(b.task, 1)) for b in s.branches])
        for s in samples
    ]


def said(sample: Sample) -> list[int]:
    """Return what a branch after the answer follows, besides the question."""
    first = sample.branches[0]
    return first.prefix + first.target[:-1]


def separate_tasks(samples: Sequence[Sample]) -> list[Sample]:
    """Return one sample per task: the same losses, with a pass for each task."""
    return [replace(s, branches=[_alone(s, branch)]) for s in samples for branch in s.branches]


def _alone(sample: Sample, branch: Branch) -> Branch:
    """Return a branch that follows the question; it repeats the answer, if it came after that."""
    if not branch.after_answer:
        return branch
    return replace(branch, prefix=said(sample) + branch.prefix, after_answer=False)
