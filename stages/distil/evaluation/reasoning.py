"""The test questions answered by a student that reasons first; a killed run resumes."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from stages.distil.encoding.encoder import decode
from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import Window, with_drafts
from stages.distil.evaluation.probes import read_options
from stages.distil.interface.method import ANSWER
from stages.distil.language.student_prompts import ANSWER_TASK
from stages.distil.models.batching import in_parts
from stages.distil.models.generation import Sampling
from stages.distil.storage import versions
from stages.distil.storage.store import Store
from stages.distil.student.answering import Reasoned, StudentModel, as_served, read_reasoned, reason

CHECKPOINTS = Path(".cache/checkpoints/evaluate")
COLUMNS = {"written": "TEXT"}
PART = 256  # questions whose texts are stored at once


class Draw(NamedTuple):
    """A sample of a student's texts: its number, from 0; each question has a seed of its own."""

    temperature: float
    seed: int
    number: int


class StoredReasoning:
    """A student's texts, each part stored under a key of the student and the questions.

    A context manager; the stage removes the store once the results are written.
    """

    def __init__(self, student: StudentModel, identity: str, window: Window, max_tokens: int):
        """Take the student, a digest of its folder, and the most tokens of a text."""
        self._student = as_served(student)
        self._identity = [versions.EVALUATION, identity, student.dtype, window.limit, max_tokens]
        self._window = window
        self._max_tokens = max_tokens
        self._store = Store(CHECKPOINTS / "reasoning.sqlite", "reasoning", COLUMNS)

    def __enter__(self) -> "StoredReasoning":
        self._store.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._store.__exit__(*error)

    @property
    def resumed(self) -> bool:
        """Whether texts of an earlier run were read."""
        return self._store.hits > 0

    def answer(self, questions: Sequence[Asked], draw: Draw | None = None) -> list[Reasoned]:
        """Return the student's rationale for each question, and the answer after it.

        The text is the most probable one, or a draw.
        """
        reasoned: list[Reasoned] = []
        name = "reasoning" if draw is None else f"reasoning, sample {draw.number + 1}"
        with tqdm(total=len(questions), desc=name, unit="question", file=sys.stderr) as bar:
            for part in in_parts(questions, PART):
                reasoned += self._answer(part, draw)
                bar.update(len(part))
        return reasoned

    def _answer(self, questions: Sequence[Asked], draw: Draw | None) -> list[Reasoned]:
        prompts = [question.reasoning for question in questions if question.reasoning]
        asked = [prompt.context + prompt.branches[0].prefix for prompt in prompts]
        inputs = [self._identity, asked, draw]
        key = hashlib.sha256(json.dumps(inputs).encode()).digest()
        if stored := self._store.select(key):
            self._store.hits += 1
            return read_reasoned(self._student, json.loads(stored[0]))
        sampling = None
        if draw is not None:
            seeds = [f"{draw.seed} {prompt.id} {draw.number}" for prompt in prompts]
            sampling = Sampling(draw.temperature, seeds)
        reasoned = reason(self._student, questions, self._window, self._max_tokens, sampling)
        self._store.insert(key, [json.dumps([each.written for each in reasoned])])
        return reasoned


def score_after_reasoning(
    student: StudentModel,
    questions: Sequence[Asked],
    reasoned: Sequence[Reasoned],
    window: Window,
    max_tokens: int,
) -> list[list[float]]:
    """Return the score of each option of each question, after the student's own rationale.

    Where its text of at most `max_tokens` gives no answer, what asks for one after a question (none
    if an encoder reads that) follows the text.
    Each option is read in a pass of its own: a shared one would repeat the rationale for each.
    """
    samples = []
    for question, text in zip(questions, reasoned, strict=True):
        assert question.reasoning is not None
        prompt = window.fit_prompt(question.reasoning, question.reasoning_room(max_tokens))
        written = prompt.branches[0].prefix + _until_answer(student, question, text)
        asks = prompt.with_branch(task=ANSWER, prefix=written)
        drafts = with_drafts(asks, question.drafts, shared=False)
        samples.append([window.fit(sample) for sample in drafts])
    return [[option.score for option in read] for read in read_options(student, samples)]


def _until_answer(student: StudentModel, question: Asked, text: Reasoned) -> list[int]:
    """Return the tokens of a text until its last `Answer:`, which is added if there is none."""
    if text.answer is None:
        return text.written + question.prompt.branches[0].prefix
    mark = ANSWER_TASK.strip()

    def marks(end: int) -> int:
        [start] = decode(student.tokenizer, [text.written[:end]])
        return start.count(mark)

    end = len(text.written)
    every = marks(end)
    while marks(end - 1) == every:
        end -= 1
    return text.written[:end]
