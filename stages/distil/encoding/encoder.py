"""Questions and their targets as the student's tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, NamedTuple

from transformers import BatchEncoding, PreTrainedConfig, PreTrainedTokenizerBase

from stages.distil.encoding.samples import SOFT_LABELS, Branch, Sample, Window, said
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, REASONING, SALIENCY, Student
from stages.distil.language.control_tokens import added_tokens
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    REASONING_TASK,
    SALIENCY_TASK,
    options_text,
    rationale_task,
    reasoning_text,
    text_before,
)
from stages.distil.weights.architecture import UNLIMITED

Row = dict[str, Any]  # of `distill`


class _Text(NamedTuple):
    """A target as a text: its task and what asks for it; a soft label has a score.

    The answer after a rationale is what follows `reasoning`, the beginning of the text.
    """

    task: str
    asks: str
    text: str
    score: float | None = None
    reasoning: str = ""


class _Target(NamedTuple):
    """A target as tokens, of which the last `answer` are that after a rationale.

    `prefix` is the text between the question and the target.
    """

    task: str
    prefix: str
    tokens: list[int]
    score: float | None = None
    answer: int = 0


class _Question(NamedTuple):
    """A question as a text, and the targets that share it.

    The text begins with `before`, which asks for a task, and ends with `options`.
    """

    id: str
    before: str
    text: str
    options: str
    targets: list[_Target]


class Encoder:
    """Encodes rows of `distill` as samples, whole: `Window.fit` cuts those that are too long.

    Context and prefix together are the tokens of their joined text, and the target those that
    follow, so a server that encodes a prompt as one text gives the student the tokens of its
    training. If the tokenizer merges a question's last character with the line break after it, the
    merged token belongs to the prefix.

    With `shared_context`, a question is one sample with a branch for each target. Otherwise it is
    one sample per target, as in the papers: an encoder-decoder then reads the prefix at the end of
    the question instead of at the start of its text. In the form `after_answer`, rationales and
    salient words follow the answer, in one text with it; in the form `before_answer`, the answer
    follows each rationale that leads to it, and one prefix asks for those of all teachers. With
    `student.prompt.prefixes`, a word before the question asks for the target, and the text of an
    encoder-decoder is nothing but the target; a decoder-only student also reads the prefix after
    the question.

    A text never becomes control tokens: `<s>` in a question is three characters, and an answer with
    it survives decoding, which leaves control tokens out.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        settings: Student,
        teachers: Sequence[str] = (),
    ):
        """Take the student's configuration and tokenizer; the teachers' order numbers them.

        Raises `UserError` if targets cannot be encoded with its tokenizer.
        """
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            lacks = "end-of-text token" if tokenizer.is_fast else "fast form (tokenizer.json)"
            raise UserError(f"student.model: its tokenizer has no {lacks}; choose another student")
        self._tokenizer = tokenizer
        self._encoder_decoder = config.is_encoder_decoder
        self._head, tail = added_tokens(tokenizer)
        self._tail = tail if self._encoder_decoder else []  # a decoder's text goes on
        self._settings = settings
        self._shared = settings.shared_context
        self._after_answer = settings.form == "after_answer"
        self._rationale_tasks = {
            teacher: REASONING_TASK if settings.reasons else rationale_task(number)
            for number, teacher in enumerate(teachers, start=1)
        }
        self._end = [tokenizer.eos_token_id]
        # Relative positions and state-space models have no maximum.
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        limits = [settings.context, tokenizer.model_max_length, positions]
        limit = min((n for n in limits if n is not None and n < UNLIMITED), default=UNLIMITED)
        own = settings.context == limit
        advice = "raise student.context" if own else "choose a student that reads more"
        self.window = Window(limit, self._encoder_decoder, advice)

    def samples(self, rows: Sequence[Row]) -> list[list[Sample]]:
        """Encode each row with all its targets: answer, rationales, salient words, option scores.

        The rationales of teachers that the encoder was not given are left out.
        """
        questions = [list(each) for each in map(self._questions, rows, self._targets_of(rows))]
        samples = iter(self._lay_out([question for each in questions for question in each]))
        return [[self._share_answer(next(samples)) for _ in each] for each in questions]

    def prompts(self, rows: Sequence[Row], task: str = ANSWER) -> list[Sample]:
        """Encode each row as a prompt: its only branch has no target.

        `task` is ANSWER, or REASONING for a rationale and the answer after it.
        """
        asks = REASONING_TASK if task == REASONING else ANSWER_TASK
        target = _Target(task, self._prefix(asks, ""), [])
        return self._lay_out([self._question(row, [target]) for row in rows])

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text as a target, with end-of-text."""
        return [tokens + self._end for tokens in self.targets(texts)]

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text as a target, without end-of-text.

        They are those that follow a prefix; every prefix ends in a colon. A text whose beginning
        the tokenizer merges with the colon is encoded by itself.
        """
        prefix, *wholes = self._tokens([ANSWER_TASK, *(f"{ANSWER_TASK} {text}" for text in texts)])
        start = len(prefix)
        return [
            whole[start:] if whole[:start] == prefix else self._tokens([f" {text}"])[0]
            for text, whole in zip(texts, wholes, strict=True)
        ]

    def _targets_of(self, rows: Sequence[Row]) -> Iterator[list[_Target]]:
        """Yield the targets of each row."""
        texts = [list(self._texts_of(row)) for row in rows]
        wholes = ((t.text, t.reasoning or t.text) for each in texts for t in each)
        different = list(dict.fromkeys(text for both in wholes for text in both))
        tokens = dict(zip(different, self.targets(different), strict=True))
        for row, each in zip(rows, texts, strict=True):
            yield [self._target(text, row["answer"], tokens) for text in each]

    def _target(self, text: _Text, answer: str, tokens: Mapping[str, list[int]]) -> _Target:
        """Return a target of a question with this answer; `tokens` are those of all texts."""
        own, after = tokens[text.text], 0
        if text.task != SOFT_LABELS:
            own = own + self._end
        if text.reasoning:
            after = len(own) - len(_common_start([own, tokens[text.reasoning]]))
        return _Target(text.task, self._prefix(text.asks, answer), own, text.score, after)

    def _texts_of(self, row: Row) -> Iterator[_Text]:
        """Yield each target of a row."""
        yield _Text(ANSWER, ANSWER_TASK, row["answer"])
        for rationale in row["rationales"]:
            asks = self._rationale_tasks.get(rationale["teacher"])
            if not asks or not self._settings.teaches(rationale["status"]):
                continue
            if not self._settings.reasons:
                yield _Text(rationale["teacher"], asks, rationale["text"])
            else:
                reasoning = reasoning_text(rationale["text"])
                text = f"{reasoning} {row['answer']}"
                yield _Text(rationale["teacher"], asks, text, reasoning=reasoning)
        if row["saliency"]:
            yield _Text(SALIENCY, SALIENCY_TASK, ", ".join(row["saliency"]))
        if scores := row.get("option_scores"):
            for option, score in zip(row["options"], scores, strict=True):
                yield _Text(SOFT_LABELS, ANSWER_TASK, option, score)

    def _prefix(self, asks: str, answer: str) -> str:
        """Return the text between a question and a target; `asks` is the one that asks for it."""
        if self._settings.prompt.prefixes and self._encoder_decoder:
            return ""
        after = self._after_answer and asks != ANSWER_TASK
        return f"{ANSWER_TASK} {answer}{asks}" if after else asks

    def _questions(self, row: Row, targets: list[_Target]) -> Iterator[_Question]:
        """Yield a row once with all its targets, or once with each of them."""
        for each in [targets] if self._shared else ([target] for target in targets):
            yield self._question(row, each)

    def _question(self, row: Row, targets: list[_Target]) -> _Question:
        task = targets[0].task
        if task == SOFT_LABELS:
            task = ANSWER
        elif self._settings.reasons and task in self._rationale_tasks:
            task = REASONING
        before = text_before(task, self._settings.prompt)
        options = options_text(row["options"], self._settings.prompt)
        return _Question(row["id"], before, before + row["question"] + options, options, targets)

    def _lay_out(self, questions: Sequence[_Question]) -> list[Sample]:
        """Encode questions as samples; each different text once, and all of them at once."""
        if not questions:  # the tokenizer does not accept an empty list
            return []
        alone = list(dict.fromkeys(question.text for question in questions))
        encoded = self._encode(alone, add_special_tokens=False, return_offsets_mapping=True)
        columns = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        contexts = dict(zip(alone, columns, strict=True))
        asked = list(dict.fromkeys(t for q in questions for t in self._asked(q)))
        prompts = dict(zip(asked, self._tokens(asked), strict=True))
        return [
            self._sample(q, *contexts[q.text], [prompts[text] for text in self._asked(q)])
            for q in questions
        ]

    def _asked(self, question: _Question) -> list[str]:
        """Return the prefix of each target, after the question unless the decoder reads it."""
        in_decoder = self._encoder_decoder and self._shared
        text = "" if in_decoder else question.text
        return [text + target.prefix for target in question.targets]

    def _sample(
        self,
        question: _Question,
        tokens: list[int],
        offsets: list[tuple[int, int]],
        prompts: list[list[int]],
    ) -> Sample:
        """Return a question as a sample.

        `tokens` and `offsets` are those of its text, and `prompts` the tokens of `_asked`. The
        context ends where the tokens of the question with each prefix begin to differ from those of
        the question alone, or at its own end.
        """
        if self._encoder_decoder and self._shared:
            context, end, prefixes = tokens, self._tail, prompts
        else:
            context, end = _common_start([tokens, *prompts]), []
            prefixes = [prompt[len(context) :] + self._tail for prompt in prompts]
        asked = len(question.before.rstrip()) if self._settings.prompt.prefixes else 0
        options = len(question.text) - len(question.options)
        offsets = offsets[: len(context)]
        head = len(self._head) + sum(start < asked for start, _ in offsets)
        least = head + sum(last > options for _, last in offsets) + len(end)
        context = [*self._head, *context, *end]
        if self._encoder_decoder and not self._shared:  # the encoder reads the prefix
            [prefix], prefixes = prefixes, [[]]
            context, least = context + prefix, least + len(prefix)
        branches = [
            Branch(target.task, prefix, target.tokens, score=target.score, answer=target.answer)
            for target, prefix in zip(question.targets, prefixes, strict=True)
        ]
        return Sample(question.id, context, branches, head, least)

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

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, and nothing around it."""
        return self._encode(texts, add_special_tokens=False)["input_ids"]

    def _encode(self, texts: Sequence[str], **arguments: Any) -> BatchEncoding:
        return self._tokenizer(list(texts), split_special_tokens=True, **arguments)


def _common_start(sequences: Sequence[list[int]]) -> list[int]:
    """Return the tokens that all sequences begin with."""
    first = sequences[0]
    if all(each[: len(first)] == first for each in sequences):
        return first
    columns = zip(*sequences, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def decode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[list[int]]) -> list[str]:
    """Return the texts of tokens that a student wrote, without control tokens."""
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in texts]
