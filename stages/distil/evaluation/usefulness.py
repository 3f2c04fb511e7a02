"""How useful rationales are to a small model, the scorer: what `assemble.choose` compares.

With `best`, how much a rationale helps the scorer to find the right answer; with `ratio`, how well
it suits a student, by the Rank-Surprisal Ratio. The more useful, the greater the number. Each batch
of scores is stored, so that a killed run resumes.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.samples import Sample, of_tasks, with_drafts
from stages.distil.evaluation.probes import read_options
from stages.distil.evaluation.rank_surprisal import rank_surprisal_ratios
from stages.distil.interface.method import ANSWER, REASONING, Student
from stages.distil.interface.parameters import Parameters
from stages.distil.language.conclusions import without_conclusion
from stages.distil.language.quality import OK
from stages.distil.language.student_prompts import rationale_task, student_context, text_before
from stages.distil.models.batching import in_parts
from stages.distil.models.hardware import precision
from stages.distil.models.loading import load_model
from stages.distil.storage import tables, versions
from stages.distil.storage.examples import Example
from stages.distil.storage.store import Store
from stages.distil.student.answering import StudentModel
from stages.distil.weights.architecture import load_tokenizer
from stages.distil.weights.checking import refuse_quantised
from stages.distil.weights.folders import fingerprint, model_folder

STORE = Path(".cache/usefulness/usefulness.sqlite")  # `make clean` keeps it
COLUMNS = {"result": "TEXT"}
BATCH = 256  # rationales whose scores are one entry of the store


class Scorer:
    """A model that reads rationales before it answers."""

    def __init__(self, parameters: Parameters, teacher: str, store: Store):
        """Take whose rationales are read; weights are loaded when a score needs them."""
        name = parameters.assemble.scorer
        self._folder = model_folder(name)
        self._ratio = parameters.assemble.choose == "ratio"
        self._statuses = parameters.assemble.statuses
        self._prompt = parameters.student.prompt
        self._reasons = parameters.student.reasons
        self._teacher = teacher
        self._dtype = precision(parameters.student.dtype)
        refuse_quantised(self._folder, "assemble.scorer")
        self._tokenizer = load_tokenizer(self._folder)
        self._store = store
        self._identity = [self._dtype, fingerprint(parameters.models[name], self._folder)]

    @cached_property
    def _model(self) -> PreTrainedModel:
        return load_model(self._folder, "float32", gradients=False)[0]

    @cached_property
    def _encoder(self) -> Encoder:
        settings = Student(model=self._folder.name)
        if self._ratio:  # the rationale is read as a branch is learnt; a prefix names its task
            shared = not self._prompt.prefixes
            changes = {"prompt": self._prompt, "shared_context": shared}
            changes |= {"form": "before_answer"} if self._reasons else {}
            settings = settings.model_copy(update=changes)
        return Encoder(self._model.config, self._tokenizer, settings, [self._teacher])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the id, sample and usefulness of each of the teacher's rationales, in their order.

        The usefulness of a rationale that has no accepted status is null; so is that of one that
        says nothing but its conclusion (`best`), or that is too long for the scorer (`ratio`).
        """
        written = tables.scan_table(tables.rationale_table(self._teacher))
        train = (row for row in written if row["split"] == "train")
        total = tables.count_examples()["train"]
        examples = tables.scan_examples("train")
        example = next(examples, None)
        with tqdm(
            total=total, desc=f"{self._teacher}: usefulness", unit="rationale", file=sys.stderr
        ) as bar:
            for batch in in_parts(train, BATCH):
                asked, texts = [], []
                for row in batch:
                    while example is not None and example.id != row["id"]:
                        example = next(examples, None)
                    assert example is not None  # `rationales` writes the questions' order
                    text = ""
                    if row["status"] in self._statuses and row["rationale"]:
                        text = row["rationale"]
                    if text and not self._ratio:
                        text = without_conclusion(text, example.options, example.answer)
                    asked.append(example)
                    texts.append(text)
                values = iter(self._measure(asked, texts))
                for row, text in zip(batch, texts, strict=True):
                    yield {
                        "id": row["id"],
                        "sample": row["sample"],
                        "usefulness": next(values) if text else None,
                    }
                bar.update(len(batch))

    def _measure(self, asked: Sequence[Example], texts: Sequence[str]) -> list[float | None]:
        """Return the usefulness of the rationales that are not empty."""
        pairs = [(example, text) for example, text in zip(asked, texts, strict=True) if text]
        if self._ratio:
            rows = [_ratio_row(self._teacher, *pair) for pair in pairs]
            prompt = self._prompt.model_dump(mode="json")
            inputs = [versions.USEFULNESS, "ratio", self._identity, prompt, rows]
            inputs += ["before_answer"] if self._reasons else []
            return self._stored(inputs, lambda: self._ratios(rows))
        answers = [_answer_row(*pair) for pair in pairs]
        inputs = [versions.USEFULNESS, self._identity, answers]
        return self._stored(inputs, lambda: self._gains(answers))

    def _stored(
        self, inputs: list[Any], measure: Callable[[], list[float | None]]
    ) -> list[float | None]:
        """Return what is stored for these inputs; measure and store it first if nothing is."""
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).digest()
        if stored := self._store.select(key):
            self._store.hits += 1
            return json.loads(stored[0])
        values = measure()
        self._store.insert(key, [json.dumps(values)])
        return values

    def _ratios(self, rows: Sequence[dict[str, Any]]) -> list[float | None]:
        """Return the Rank-Surprisal Ratio of each rationale, negated: the lower, the better."""
        fitted = [self._encoder.window.fit(sample) for sample in self._rationales(rows)]
        student = StudentModel(self._model, self._tokenizer, self._dtype)
        ratios = iter(rank_surprisal_ratios(student, [each for each in fitted if each.branches]))
        return [-next(ratios) if each.branches else None for each in fitted]

    def _rationales(self, rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
        """Yield each rationale as the student learns it, without an answer after it."""
        if not self._reasons:
            for samples in self._encoder.samples(rows):
                yield from of_tasks(samples, {self._teacher})
            return
        texts = self._encoder.answers([row["rationales"][0]["text"] for row in rows])
        for prompt, text in zip(self._encoder.prompts(rows, REASONING), texts, strict=True):
            yield prompt.with_branch(task=self._teacher, target=text)

    def _gains(self, rows: Sequence[tuple[dict[str, str], str]]) -> list[float | None]:
        """Return log p(answer | question, rationale) − log p(answer | question) of each row.

        Each is summed over the answer's tokens; the rationale is in the place where the student
        writes one, without its conclusion.
        """
        explained = [
            row | {"context": f"{row['context']}{rationale_task(1)} {text}"} for row, text in rows
        ]
        bare = [row for row, _ in rows]
        log_probabilities = self._log_probabilities([*explained, *bare])
        with_text, without = log_probabilities[: len(rows)], log_probabilities[len(rows) :]
        return [a - b for a, b in zip(with_text, without, strict=True)]

    def _log_probabilities(self, rows: Sequence[dict[str, str]]) -> list[float]:
        """Return log p(answer | context) of each row."""
        before = text_before(ANSWER)
        questions = [
            {"id": row["id"], "question": row["context"].removeprefix(before), "options": []}
            for row in rows
        ]
        answers = self._encoder.answers([row["answer"] for row in rows])
        window = self._encoder.window
        samples = [
            [window.fit(sample) for sample in with_drafts(prompt, [answer], shared=True)]
            for prompt, answer in zip(self._encoder.prompts(questions), answers, strict=True)
        ]
        student = StudentModel(self._model, self._tokenizer, self._dtype)
        read = read_options(student, samples)
        lengths = (len(answer) - 1 for answer in answers)
        return [option.score * length for [option], length in zip(read, lengths, strict=True)]


def _answer_row(example: Example, text: str) -> tuple[dict[str, str], str]:
    """Return a question with its answer, and a rationale without its conclusion."""
    context = student_context(example.question, example.options)
    return {"id": example.id, "context": context, "answer": example.answer}, text


def _ratio_row(teacher: str, example: Example, text: str) -> dict[str, Any]:
    """Return a question with one rationale as a row of `distill`."""
    row = {"id": example.id, "question": example.question, "options": example.options}
    rationale = {"teacher": teacher, "text": text, "status": OK}
    return row | {"answer": example.answer, "rationales": [rationale], "saliency": []}
