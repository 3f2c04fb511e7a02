"""Everything that one teacher writes for a data set: examples' rationales, rationales, answers.

Knows questions, prompts and the quality gate; knows nothing of engines.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import starmap
from typing import Any

from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import split_answer
from stages.distil.language.quality import OK, rationale_status, whole_sentences
from stages.distil.language.teacher_prompts import Conversation, PromptFile
from stages.distil.storage import tables
from stages.distil.storage.examples import POOL, Example
from stages.distil.teachers.backend import Completion
from stages.distil.teachers.in_context import ExampleGenerator, Solved, data_rationale
from stages.distil.teachers.writer import Author, Wanted


class TeacherTexts:
    """The texts of a teacher: `write` has them generated, `rows` yields its table."""

    def __init__(self, parameters: Parameters, teacher: str, author: Author):
        self._settings = parameters.rationales
        self._teacher = teacher
        self._author = author
        self._seed = parameters.seed
        self._answer_tokens = parameters.evaluate.max_tokens
        self._data = parameters.data.name
        prompts = self._settings.prompts
        self._forced = PromptFile(prompts.rationale)
        self._reason = PromptFile(prompts.reason)
        self._answer = PromptFile(prompts.answer)
        self._examples: ExampleGenerator  # of `write`, which may have to generate rationales

    def write(self) -> tuple[int, float]:
        """Generate what is missing: examples' rationales first, as the others' prompts show them.

        Returns how many test questions were answered now, and in how many seconds.

        Raises `UserError` where there are too few solved examples, a prompt file is wrong, or the
        teacher's backend cannot go on; what is finished stays in the store.
        """
        counts = tables.count_examples()
        self._examples = self._generator()
        samples = counts["train"] * self._settings.samples
        self._author.write(self._rationales, samples, f"{self._teacher}: rationales")
        return self._author.write(self._answers, counts["test"], f"{self._teacher}: answers")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the teacher's table, in the order of the questions."""
        for example, sample in self._samples():
            completion = self._author.read(self._rationale(example, sample))
            text, answer, status = self._judge(example, completion)
            kept = status == OK or self._settings.on_bad != "drop"
            yield rationale_row(example, completion, sample, text if kept else None, status, answer)
        for example in tables.scan_examples("test"):
            completion = self._author.read(self._zero_shot(example))
            yield rationale_row(example, completion, answer=completion.text.strip())

    def _samples(self) -> Iterator[tuple[Example, int]]:
        """Yield each train question as often as it gets a rationale, with the sample's number."""
        for example in tables.scan_examples("train"):
            for sample in range(self._settings.samples):
                yield example, sample

    def _rationales(self) -> Iterator[Wanted]:
        return starmap(self._rationale, self._samples())

    def _answers(self) -> Iterator[Wanted]:
        return map(self._zero_shot, tables.scan_examples("test"))

    def _rationale(self, example: Example, sample: int) -> Wanted:
        settings = self._settings
        prompt = self._forced if settings.teacher_forcing else self._reason
        attempts = [(settings.temperature, self._draw(sample, 0))]
        if settings.on_bad == "retry":
            hot = max(settings.temperature, settings.retry_temperature)
            attempts += [(hot, self._draw(sample, n)) for n in range(1, settings.retries + 1)]
        return Wanted(
            lambda: _fewer_and_fewer(prompt, example, self._examples.choose(example)),
            settings.max_tokens,
            tuple(attempts),
            lambda completion: self._judge(example, completion)[2] == OK,
        )

    def _zero_shot(self, example: Example) -> Wanted:
        return Wanted(lambda: _fewer_and_fewer(self._answer, example, []), self._answer_tokens)

    def _judge(
        self, example: Example, completion: Completion, forced: bool = False
    ) -> tuple[str, str | None, str]:
        """Return rationale, the teacher's own answer and the rationale's status."""
        text, answer = completion.text.strip(), None
        if not (forced or self._settings.teacher_forcing):
            text, answer = split_answer(text, example.options)
        reason = completion.finish_reason
        status = rationale_status(text, reason, example.options, example.answer, answer)
        return whole_sentences(text) if reason == "length" else text, answer, status

    def _generator(self) -> ExampleGenerator:
        how, count = self._settings.examples, self._settings.num_examples
        pool: list[Solved] = []
        if how != "none":
            pool = self._solved_pool()
            if len(pool) <= count:
                raise UserError(
                    f"rationales.examples: {how!r} needs more than {count} solved questions, data "
                    f"set {self._data!r} has {len(pool)} whose rationale passes the quality gate; "
                    "raise data.pool, lower rationales.num_examples, or set rationales.examples to "
                    "none"
                )
        return ExampleGenerator(pool, how, count, self._seed)

    def _solved_pool(self) -> list[Solved]:
        """Return the pool's questions with rationales: the data's, or this teacher's own."""
        pool = tables.read_examples(POOL)
        solved = [(e, text) for e in pool if (text := data_rationale(e, self._teacher))]
        if solved or not pool:
            return solved

        def wanted(example: Example) -> Wanted:
            tokens = self._settings.max_tokens
            return Wanted(lambda: _fewer_and_fewer(self._forced, example, []), tokens)

        label = f"{self._teacher}: examples"
        self._author.write(lambda: map(wanted, pool), len(pool), label)
        for example in pool:
            completion = self._author.read(wanted(example))
            text, _, status = self._judge(example, completion, forced=True)
            if status == OK:
                solved.append((example, text))
        return solved

    def _draw(self, sample: int, attempt: int) -> int:
        text = f"rationale {self._seed} {sample} {attempt}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) >> 1


def _fewer_and_fewer(
    prompt: PromptFile, example: Example, shown: list[Solved]
) -> Iterator[Conversation]:
    return (prompt.conversation(example, shown[first:]) for first in range(len(shown) + 1))


def rationale_row(
    example: Example,
    completion: Completion,
    sample: int = 0,
    rationale: str | None = None,
    status: str | None = None,
    answer: str | None = None,
) -> dict[str, Any]:
    """Return a row of a teacher's table; a test question has an answer alone."""
    return {
        "id": example.id,
        "split": example.split,
        "sample": sample,
        "rationale": rationale,
        "status": status,
        "answer": answer,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "output_tokens": completion.output_tokens,
    }
