"""One question to the trained student, answered by the functions that `evaluate` uses."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from stages.distil.demo.nearest import Lesson, Lessons
from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import separate_tasks
from stages.distil.evaluation.probes import answer_questions
from stages.distil.evaluation.reasoning import score_after_reasoning
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import REASONING, SALIENCY
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import parse_answer
from stages.distil.language.appearance import appearance, as_text
from stages.distil.language.quality import OK
from stages.distil.models.hardware import precision
from stages.distil.models.loading import load_model
from stages.distil.reporting.answers import option_shares
from stages.distil.student.answering import StudentModel, as_served, generate_answers, reason
from stages.distil.weights.folders import STUDENT

MOST_OPTIONS = 100
ID = "question"  # of what the user asks, in errors
PLACEHOLDER = "."  # a target whose tokens are not read, only what asks for it

Row = dict[str, Any]


class Way(NamedTuple):
    """One way of answering: its name, what the student wrote, and the answer that this gives.

    `shares` are the options' shares of probability, if there are any options. `reasoning` is what
    the student wrote before `text`.
    """

    name: str
    text: str
    answer: str
    shares: list[float]
    reasoning: str = ""


class Reply(NamedTuple):
    """All that the student says to a question.

    `words` is None if it was taught no salient words. `rationales` are its own in the manner of
    each teacher, if it was taught these beside the answer.
    """

    question: str
    options: list[str]
    ways: list[Way]
    words: str | None
    rationales: dict[str, str]
    nearest: Lesson | None


class Asker:
    """The trained student, and the train questions that it has learnt."""

    def __init__(self, parameters: Parameters):
        """Load the student that these parameters made, and its train questions.

        Raises `UserError` if the student is damaged, or a table is missing.
        """
        self._lessons = Lessons(parameters.teachers)
        model, tokenizer = load_model(STUDENT, "float32")
        self._student = StudentModel(model, tokenizer, precision(parameters.student.dtype))
        self._writer = as_served(self._student) if parameters.student.reasons else self._student
        self._encoder = Encoder(model.config, tokenizer, parameters.student, parameters.teachers)
        self._parameters = parameters

    def ask(self, question: str, options: Sequence[str]) -> Reply:
        """Return what the student says to a question; without options, its answer is free.

        Raises `UserError` if the question is empty or too long, or two options read the same.
        """
        row = self._row(question, options)
        asked = self._asked(row)
        settings, shared = self._parameters.evaluate, self._parameters.student.shared_context
        window = self._encoder.window
        ways = []
        if self._parameters.student.direct:
            [(written, scores)] = answer_questions(
                self._student, [asked], window, settings.max_tokens, shared
            )
            ways.append(_way("directly", as_text(written), scores, row))
        if asked.reasoning:
            longest = settings.reasoning_tokens
            [reasoned] = reason(self._writer, [asked], window, longest)
            [scores] = score_after_reasoning(self._student, [asked], [reasoned], window, longest)
            after = _way("after reasoning", as_text(reasoned.answer or ""), scores, row)
            ways.insert(0, after._replace(reasoning=as_text(reasoned.reasoning)))
        others = dict(self._others(row | {"answer": ways[-1].answer}))
        nearest = self._lessons.nearest(row["question"])
        return Reply(
            row["question"], row["options"], ways, others.pop(SALIENCY, None), others, nearest
        )

    def _row(self, question: str, options: Sequence[str]) -> Row:
        """Return a question as a row of `distill`; raise `UserError` if it is none."""
        longest = self._parameters.data.max_characters
        if not appearance(question):
            raise UserError("the question is empty; type one")
        if len(question) + sum(map(len, options)) > longest:
            raise UserError(f"question and options have more than {longest:,} characters")
        if len(options) == 1 or len(options) > MOST_OPTIONS:
            raise UserError(
                f"expected no options or 2 to {MOST_OPTIONS}, one per line, found {len(options)}"
            )
        if len(set(map(appearance, options))) < len(options):
            raise UserError("two options read the same; remove one of them")
        return {"id": ID, "question": question, "options": list(options), "answer": ""}

    def _asked(self, row: Row) -> Asked:
        [prompt] = self._encoder.prompts([row])
        reasoning = None
        if self._parameters.student.reasons:
            [reasoning] = self._encoder.prompts([row], REASONING)
        drafts = self._encoder.answers(row["options"]) if row["options"] else []
        return Asked(prompt, reasoning, drafts, row["options"], row["answer"])

    def _others(self, row: Row) -> Iterator[tuple[str, str]]:
        """Yield each other task that the student has learnt, and its text after the question.

        The answer of the row is the student's own, which these texts follow in one of its forms.
        """
        parameters = self._parameters
        taught = [SALIENCY] if parameters.saliency.weight else []
        if not parameters.student.reasons:
            taught += [name for name in parameters.teachers if parameters.teacher_weight(name)]
        targets = {
            "rationales": [
                {"teacher": name, "text": PLACEHOLDER, "status": OK} for name in parameters.teachers
            ],
            "saliency": [PLACEHOLDER],
        }
        [samples] = self._encoder.samples([row | targets])
        longest = parameters.evaluate.reasoning_tokens
        for sample in separate_tasks(samples):
            task = sample.branches[0].task
            if task in taught:
                prompt = self._encoder.window.fit_prompt(sample, longest)
                [text] = generate_answers(self._student, [prompt], longest)
                yield task, as_text(text)


def _way(name: str, text: str, scores: list[float], row: Row) -> Way:
    shares = option_shares({"scores": scores, "options": row["options"]})
    return Way(name, text, parse_answer(text, row["options"]), shares)
