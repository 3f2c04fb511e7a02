"""All texts of one teacher for a data set: rationales of examples, rationales, answers."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice, starmap
from typing import Any

from stages.distil.interface.catalogue import ProvidedModel
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import GOLD
from stages.distil.interface.parameters import Parameters
from stages.distil.language.conclusions import before_next_question, conclusion, split_answer
from stages.distil.language.quality import CUT_OFF, OK, rationale_status, whole_sentences
from stages.distil.language.teacher_prompts import Conversation, PromptFile
from stages.distil.language.thinking import split_thought
from stages.distil.storage import tables
from stages.distil.storage.examples import POOL, Example
from stages.distil.teachers.backend import Completion
from stages.distil.teachers.in_context import ExampleGenerator, Solved, data_rationale
from stages.distil.teachers.writer import CachedWriter, WritingTask


class TeacherTexts:
    """The texts of a teacher: `write` generates what is missing, `rows` yields its table."""

    def __init__(self, parameters: Parameters, teacher: str, writer: CachedWriter):
        self._settings = parameters.rationales
        self._teacher = teacher
        self._scores_options = parameters.soft_labels.teacher == teacher
        self._gold_labels = parameters.assemble.labels == GOLD
        self._writer = writer
        self._seed = parameters.seed
        self._answered = parameters.evaluate.teacher_questions
        source = parameters.models[teacher]
        limit = None if isinstance(source, ProvidedModel) else source.max_completion_tokens
        self._rationale_tokens = limit or self._settings.max_tokens
        self._answer_tokens = limit or parameters.evaluate.max_tokens
        self._data = parameters.data.name
        prompts = self._settings.prompts
        self._explain_prompt = PromptFile(prompts.rationale)
        self._reason_prompt = PromptFile(prompts.reason)
        self._answer_prompt = PromptFile(prompts.answer)
        self._examples: ExampleGenerator  # set by `write`, which may generate their rationales

    def write(self) -> tuple[int, float]:
        """Generate what is missing, the rationales of in-context examples first.

        Returns the number of test questions answered in this run, and the seconds that took.

        Raises `UserError` if there are too few solved examples, a prompt file is wrong, or the
        teacher's backend fails; completed texts stay in the store.
        """
        counts = tables.count_examples()
        self._examples = self._make_example_generator()
        samples = counts["train"] * self._settings.samples
        self._writer.write(self._rationale_tasks, samples, f"{self._teacher}: rationales")
        if self._scores_options:
            options = sum(len(example.options) for example in tables.scan_examples("train"))
            self._writer.write(self._option_tasks, options, f"{self._teacher}: options")
        questions = min(counts["test"], self._answered)
        return self._writer.write(self._answer_tasks, questions, f"{self._teacher}: answers")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the teacher's table, in the order of the questions."""
        for example, sample in self._samples():
            completion = self._writer.read(self._rationale_task(example, sample))
            text, answer, status = self._judge(example, completion)
            row = rationale_row(example, completion, sample, text, status, answer)
            if self._scores_options and not sample:
                row[tables.OPTION_SCORES.name] = self._option_scores(example)
            yield row
        for example in self._test_questions():
            completion = self._writer.read(self._answer_task(example))
            yield rationale_row(
                example, completion, answer=split_thought(completion.text)[1].strip()
            )

    def _samples(self) -> Iterator[tuple[Example, int]]:
        """Yield each train question once per rationale, with the number of the sample."""
        for example in tables.scan_examples("train"):
            for sample in range(self._settings.samples):
                yield example, sample

    def _rationale_tasks(self) -> Iterator[WritingTask]:
        return starmap(self._rationale_task, self._samples())

    def _answer_tasks(self) -> Iterator[WritingTask]:
        return map(self._answer_task, self._test_questions())

    def _test_questions(self) -> Iterator[Example]:
        return islice(tables.scan_examples("test"), self._answered)

    def _rationale_task(self, example: Example, sample: int) -> WritingTask:
        settings = self._settings
        prompt = self._explain_prompt if settings.teacher_forcing else self._reason_prompt
        temperatures = [settings.temperature]
        if settings.on_bad == "retry":
            higher = max(settings.temperature, settings.retry_temperature)
            temperatures += [higher] * settings.retries
        attempts = [
            (temperature, self._seed_of(example, sample, attempt))
            for attempt, temperature in enumerate(temperatures)
        ]
        return WritingTask(
            lambda: _with_fewer_examples(prompt, example, self._examples.choose(example)),
            self._rationale_tokens,
            tuple(attempts),
            lambda completion: self._judge(example, completion)[2] == OK,
        )

    def _answer_task(self, example: Example) -> WritingTask:
        return WritingTask(
            lambda: _with_fewer_examples(self._answer_prompt, example, []),
            self._answer_tokens,
        )

    def _option_tasks(self) -> Iterator[WritingTask]:
        for example in tables.scan_examples("train"):
            yield from self._options_of(example)

    def _options_of(self, example: Example) -> list[WritingTask]:
        """Return the tasks that score each option as the answer to a question."""
        prompt = self._answer_prompt
        return [
            WritingTask(
                lambda: _with_fewer_examples(prompt, example, []),
                max_tokens=1,  # vLLM writes no fewer
                reply=option,
            )
            for option in example.options
        ]

    def _option_scores(self, example: Example) -> list[float] | None:
        """Return the score of each option, None if there is none or the prompt is too long."""
        scores = [self._writer.read(task).score for task in self._options_of(example)]
        known = [score for score in scores if score is not None]
        return known if scores and len(known) == len(scores) else None

    def _judge(
        self, example: Example, completion: Completion, forced: bool = False
    ) -> tuple[str, str | None, str]:
        """Return the rationale, the teacher's own answer and the rationale's status.

        The gold answer is compared only where it is taught, or shown, as in the pool's questions.
        """
        thought, written = split_thought(completion.text.strip())
        text = before_next_question(written)
        reason = completion.finish_reason if text == written.strip() else "stop"
        answer = None
        if not (forced or self._settings.teacher_forcing):
            text, answer = split_answer(text, example.options)
        concluded = answer
        if thought and self._settings.thinking == "rationale":
            concluded = answer or conclusion(text, example.options)
            text = thought
        answered = example.answer if forced or self._gold_labels else None
        status = rationale_status(text, reason, example.options, answered, concluded)
        return whole_sentences(text) if reason in CUT_OFF else text, answer, status

    def _make_example_generator(self) -> ExampleGenerator:
        strategy, count = self._settings.examples, self._settings.num_examples
        pool: list[Solved] = []
        if strategy != "none":
            pool = self._solved_pool()
            if len(pool) <= count:
                raise UserError(
                    f"rationales.examples: {strategy!r} needs more than {count} solved questions, "
                    f"but only {len(pool)} of data set {self._data!r} pass the quality gate; "
                    "raise data.pool, lower rationales.num_examples, or set rationales.examples to "
                    "none"
                )
        return ExampleGenerator(pool, strategy, count, self._seed)

    def _solved_pool(self) -> list[Solved]:
        """Return the pool's questions with rationales from the data, or else from this teacher."""
        pool = tables.read_examples(POOL)
        solved: list[Solved] = []
        if self._settings.example_rationales == "data":
            solved = [(e, text) for e in pool if (text := data_rationale(e, self._teacher))]
        if solved or not pool:
            return solved

        def explain(example: Example) -> WritingTask:
            return WritingTask(
                lambda: _with_fewer_examples(self._explain_prompt, example, []),
                self._rationale_tokens,
            )

        label = f"{self._teacher}: examples"
        self._writer.write(lambda: map(explain, pool), len(pool), label)
        for example in pool:
            completion = self._writer.read(explain(example))
            text, _, status = self._judge(example, completion, forced=True)
            if status == OK:
                solved.append((example, text))
        return solved

    def _seed_of(self, example: Example, sample: int, attempt: int) -> int:
        """Return the seed of one attempt at a rationale.

        It depends on the question's id, not on its position: no other question, and no other sample
        or attempt, is drawn with the same noise.
        """
        text = f"rationale {self._seed} {sample} {attempt} {example.id}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) >> 1


def _with_fewer_examples(
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
    """Return a row of a teacher's table; a test question has only an answer."""
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
