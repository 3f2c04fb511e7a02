"""What the student cannot read or write in full, counted before training; needs no weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, SALIENCY
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import is_correct
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    SALIENCY_TASK,
    rationale_task,
    text_before,
)
from stages.distil.models.batching import in_parts
from stages.distil.storage import tables
from stages.distil.student.answering import decode
from stages.distil.student.samples import NO_RATIONALE, Encoder
from stages.distil.weights.architecture import load_config, load_tokenizer
from stages.distil.weights.checking import refuse_quantised
from stages.distil.weights.folders import model_folder

BATCH = 1024  # questions that are encoded at once


@dataclass
class _Questions:
    """The questions of a kind: their number, and the id of the first one."""

    count: int = 0
    first: str = ""

    def add(self, id: str) -> None:
        self.count += 1
        self.first = self.first or id

    def __str__(self) -> str:
        return f"{self.count:,} question{'s' * (self.count > 1)}, the first {self.first!r}"


def find_limits(parameters: Parameters) -> Iterator[str]:
    """Yield a line for each limit of the student that questions of a split of `distill` exceed.

    Raises `UserError` if options and answer of a question are longer than what the student reads.
    """
    student = parameters.student
    folder = model_folder(student.model)
    refuse_quantised(folder, "student.model")
    tokenizer, config = load_tokenizer(folder), load_config(folder)
    for split in ("train", "validation", "test"):
        encoder = Encoder(config, tokenizer, student)
        # Train questions are learnt, the others answered.
        max_tokens = None if split == "train" else parameters.evaluate.max_tokens
        for line in (
            *_not_read(split, encoder, parameters, max_tokens),
            *_not_written(split, encoder, tokenizer, max_tokens),
        ):
            yield f"{split}: {line}"


def _not_read(
    split: str, encoder: Encoder, parameters: Parameters, max_tokens: int | None
) -> Iterator[str]:
    """Yield what the encoder cuts or leaves out; raise `UserError` for what it refuses.

    It encodes one question at a time, so only those that may be too long are passed to it.
    """
    teachers, prompt = parameters.teachers, parameters.student.prompt
    weights = dict.fromkeys([*teachers, *NO_RATIONALE], 1.0)
    numbers = range(1, len(teachers) + 1)
    tasks = [ANSWER_TASK, SALIENCY_TASK, *map(rationale_task, numbers)]
    tasks += [text_before(name, prompt) for name in (ANSWER, SALIENCY, *teachers)]
    longest = max(map(len, encoder.tokens(tasks)))
    # A text before the question, the answer's after it, and one after that.
    least_room = 3 * longest + (max_tokens or 0)
    refused, message = 0, ""
    for rows in _batches(split):
        contexts = encoder.tokens([row["context"] for row in rows], special=True)
        targets = _encoded(encoder, (text for row in rows for text in _targets(row)))
        for row, context in zip(rows, contexts, strict=True):
            target = 1 + sum(sorted(len(targets[text]) for text in _targets(row))[-2:])
            if len(context) + least_room + target <= encoder.limit:
                continue
            try:
                if max_tokens is None:
                    encoder.samples(row, weights)
                else:
                    encoder.prompt(row, max_tokens)
                    encoder.options(row)
            except UserError as error:
                refused += 1
                message = message or str(error)
    if refused:
        others = f"; so are {refused - 1:,} more" if refused > 1 else ""
        raise UserError(f"{split}: {message}{others}")
    if any(encoder.shortened.values()):
        yield f"longer than {encoder.limit} tokens: {encoder.shortened}"


def _not_written(
    split: str, encoder: Encoder, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None
) -> Iterator[str]:
    """Yield which answers and options the student cannot write, however well it has learnt them."""
    long, lost = _Questions(), _Questions()
    most, example = 0, ""
    for rows in _batches(split):
        tokens = _encoded(encoder, (text for row in rows for text in _answers(row)))
        written = dict(zip(tokens, decode(tokenizer, list(tokens.values())), strict=True))
        for row in rows:
            longest = max(len(tokens[text]) for text in _answers(row))
            if max_tokens is not None and longest > max_tokens:
                long.add(row["id"])
                most = max(most, longest)
            for text in _answers(row):
                if not is_correct(written[text], row | {"answer": text}):
                    lost.add(row["id"])
                    example = example or f"{text!r} becomes {written[text]!r}"
                    break
    if long.count:
        yield (
            f"answers or options of more than {max_tokens} tokens, which the student cannot write "
            f"in full: {long}; raise evaluate.max_tokens to {most}"
        )
    if lost.count:
        yield (
            "answers or options that the student's tokenizer changes, so that they are counted as "
            f"wrong: {lost} ({example}); reword them or choose another student"
        )


def _batches(split: str) -> Iterator[list[dict[str, Any]]]:
    return in_parts(tables.scan_table(tables.distill_table(split)), BATCH)


def _answers(row: dict[str, Any]) -> list[str]:
    return row["options"] or [row["answer"]]


def _targets(row: dict[str, Any]) -> list[str]:
    explanations = [rationale["text"] for rationale in row["rationales"]]
    return [row["answer"], *row["options"], *explanations, ", ".join(row["saliency"])]


def _encoded(encoder: Encoder, texts: Iterable[str]) -> dict[str, list[int]]:
    """Return the tokens of each different text as a target."""
    different = list(dict.fromkeys(texts))
    return dict(zip(different, encoder.targets(different), strict=True))
