"""What the student was taught: rationales by teacher and status, and shaded train questions."""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.evaluation.salient_words import Scored, pieces
from stages.distil.interface.method import STATUSES, Saliency
from stages.distil.interface.parameters import Parameters
from stages.distil.language.words import salient_words
from stages.distil.reporting.data_counts import read_questions
from stages.distil.storage import tables

EXAMPLES = 3  # rationales of each teacher and status
COLUMNS = ("id", "split", "rationale", "status", "answer", "output_tokens")
MEANINGS = {
    "ok": "nothing is wrong with it",
    "empty": "the teacher wrote nothing",
    "truncated": "cut off, by the limit of tokens or by a server",
    "repetitive": "it repeats itself",
    "contradicts": "it concludes in another answer than the one that is taught",
    "inconclusive": "it concludes in none of the options",
    "too_long": "the prompt exceeds the teacher's context",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What a teacher wrote.

    `rows` are those of its table for the questions on the page, `lengths` the median and the 90 %
    quantile of all its rationales' tokens, and `examples` its first rationales of each status, with
    their questions.
    """

    rows: list[Row]
    lengths: dict[str, float]
    examples: dict[str, list[Row]]


@dataclass(frozen=True)
class Taught:
    """What the student is taught of the train questions, of which there are `train`.

    `questions` have a target; `rationales` are counted by teacher and status, and `words` counts
    the questions that have salient words.
    """

    train: int
    questions: int
    rationales: Counter[tuple[str, str]]
    words: int


def read_written(teacher: str, shown: pa.Array) -> Written:
    """Read a teacher's table; `shown` are the ids of the questions on the page."""
    rows: list[Row] = []
    examples: dict[str, list[Row]] = {status: [] for status in STATUSES}
    tokens: Counter[int] = Counter()
    for group in tables.scan_row_groups(tables.rationale_table(teacher), COLUMNS):
        rows += group.filter(pc.is_in(group["id"], value_set=shown)).to_pylist()
        train = group.filter(pc.equal(group["split"], "train"))
        tokens.update(train["output_tokens"].to_pylist())
        for status, kept in examples.items():
            if len(kept) == EXAMPLES:
                continue
            of_status = train.filter(pc.equal(train["status"], status))
            kept += of_status.slice(0, EXAMPLES - len(kept)).to_pylist()
    asked = read_questions({("train", row["id"]) for kept in examples.values() for row in kept})
    found = {
        status: [asked["train", row["id"]] | row | _taught_answer(asked, row) for row in kept]
        for status, kept in examples.items()
        if kept
    }
    return Written(rows, quantiles(tokens), found)


def _taught_answer(asked: dict[tuple[str, str], Row], row: Row) -> Row:
    """Return the gold answer, and the teacher's own if it gave one: both columns are `answer`."""
    return {"answer": asked["train", row["id"]]["answer"], "own": row["answer"]}


def quantiles(tokens: Counter[int]) -> dict[str, float]:
    """Return the median and the 90 % quantile of lengths, of which each occurs so many times.

    Empty if no length is above 0.
    """
    if not any(tokens):
        return {}
    lengths = list(tokens.elements())
    most = statistics.quantiles(lengths, n=10)[-1] if len(lengths) > 1 else lengths[0]
    return {"median": statistics.median(lengths), "most": most}


def count_taught(parameters: Parameters) -> Taught:
    """Count the targets of the train questions that have a weight; memory holds a row group.

    A student that reasons first is taught sound rationales alone, and needs one of each question
    unless it learns to answer directly too.
    """
    student = parameters.student
    weighted = [t for t in parameters.teachers if parameters.teacher_weight(t)]
    rationales: Counter[tuple[str, str]] = Counter()
    train = questions = words = 0
    folder = tables.distill_table("train")
    tables.check_exists(folder)
    for file in sorted(folder.glob("*.parquet")):
        for group in tables.scan_row_groups(file, ["rationales", "saliency"]):
            lists = group["rationales"].combine_chunks()
            listed = zip(
                pc.list_parent_indices(lists).to_pylist(),
                lists.flatten().field("teacher").to_pylist(),
                lists.flatten().field("status").to_pylist(),
                strict=True,
            )
            kept = [
                (row, (name, s))
                for row, name, s in listed
                if name in weighted and student.teaches(s)
            ]
            rationales.update(kind for _, kind in kept)
            with_words = pc.greater(pc.list_value_length(group["saliency"]), 0).to_pylist()
            if not parameters.saliency.weight:
                with_words = []
            rows = {row for row, _ in kept} | {n for n, there in enumerate(with_words) if there}
            train += len(group)
            words += sum(with_words)
            questions += len(group) if student.direct else len(rows)
    return Taught(train, questions, rationales, words)


def shade(scored: Scored, saliency: Saliency, teachers: dict[str, list[Row]]) -> Iterator[Row]:
    """Yield train questions with shaded words and what each teacher wrote."""
    written: dict[str, list[tuple[str, str, str]]] = {}
    for name, rows in teachers.items():
        for row in rows:
            if row["split"] == "train":
                text = row["rationale"] or ""
                written.setdefault(row["id"], []).append((name, row["status"], text))
    texts, words = scored.texts, scored.words
    chosen = salient_words(texts, words, scored.options, saliency).to_pylist()
    shown = zip(
        scored.ids, texts.to_pylist(), words.to_pylist(), scored.answers, chosen, strict=True
    )
    for name, text, scores, answer, top in shown:
        rationales = written.get(name, [])
        yield {
            "id": name,
            "pieces": pieces(text, scores, {word.casefold() for word in top}),
            "answer": answer,
            "top": top,
            "rationales": rationales,
            "kinds": sorted({status for _, status, _ in rationales}),
        }
