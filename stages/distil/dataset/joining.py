"""Joining questions with their targets, in streams: memory holds a batch of each table.

Every table's rows stand in the order of the questions, so no table is sorted or held whole. Knows
columns; knows nothing of models.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Assemble, Saliency
from stages.distil.language.answers import same
from stages.distil.language.student_prompts import OPTIONS, student_context
from stages.distil.language.words import top_words
from stages.distil.storage.tables import (
    DISTILL,
    EXAMPLES,
    SALIENCY,
    SCHEMAS,
    open_table,
    rationale_table,
)

NO_WORDS = pa.array([[]], pa.list_(pa.string()))


class Follower:
    """A table that follows the order of the questions and may leave some of them out."""

    def __init__(self, path: Path, columns: Sequence[str], split: str | None = None):
        """Take the table and its columns; with `split`, rows of other splits are passed over."""
        self._path = path
        self._batches = _ahead(_batches(path, columns, split))
        self._waiting: pa.Table | None = None

    def rows_of(self, ids: pa.Array) -> tuple[pa.Table | None, np.ndarray]:
        """Return the rows of the next questions (None: no row), and each row's place in `ids`."""
        found, places = [], []
        last = -1
        while self._waiting is not None or self._fill():
            assert self._waiting is not None
            here = _places(self._waiting["id"], ids)
            count = len(here)
            if count and (here[0] < last or (np.diff(here) < 0).any()):
                raise self._out_of_order(int(np.argmax(np.diff(here, prepend=last) < 0)))
            if count:
                last = int(here[-1])
                found.append(self._waiting.slice(0, count))
                places.append(here)
            if count < len(self._waiting):
                self._waiting = self._waiting.slice(count)
                break
            self._waiting = None
        if not found:
            return None, np.empty(0, np.int64)
        return pa.concat_tables(found), np.concatenate(places)

    def finish(self) -> None:
        """Raise `UserError` where a row is left that no question asked for."""
        if self._waiting is not None or self._fill():
            raise self._out_of_order(0)

    def _fill(self) -> bool:
        self._waiting = next(self._batches, None)
        return self._waiting is not None

    def _out_of_order(self, place: int) -> UserError:
        assert self._waiting is not None
        name = self._waiting["id"][place].as_py()
        return UserError(
            f"{self._path}: row {name!r} belongs to no question, or stands out of the questions' "
            f"order; delete the table and `dvc repro`"
        )


def _places(rows: pa.ChunkedArray, ids: pa.Array) -> np.ndarray:
    """Return where in `ids` these rows' ids stand, up to the first that is not there."""
    if rows.slice(0, len(ids)).equals(pa.chunked_array([ids.slice(0, len(rows))])):
        return np.arange(min(len(rows), len(ids)))
    at = pc.index_in(rows, value_set=ids)
    there = at.is_valid().to_numpy(zero_copy_only=False)
    count = len(there) if there.all() else int(there.argmin())
    return at.slice(0, count).to_numpy(zero_copy_only=False).astype(np.int64)


def count_statuses(teacher: str) -> Counter[str]:
    """Return how many of a teacher's rationales have each status."""
    counts: Counter[str] = Counter()
    for batch in _batches(rationale_table(teacher), ["status"], "train"):
        for entry in batch["status"].value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    return counts


def join_targets(
    split: str,
    teachers: Sequence[str],
    settings: Assemble,
    saliency: Saliency,
    tally: Counter[str],
    labellers: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Yield the rows of a split of `distill`, one a question, in the order of the questions.

    Only train questions have rationales and salient words. Where there are `labellers`, the answer
    to a train question is the one that most of these teachers gave (the first such in their order),
    and a question without an answer of theirs is left out. `tally` counts what the questions lack.
    Tables are read, and rows joined, while the
    caller works on what came before.
    """
    return _ahead(_join(split, teachers, settings, saliency, tally, labellers))


def _join(
    split: str,
    teachers: Sequence[str],
    settings: Assemble,
    saliency: Saliency,
    tally: Counter[str],
    labellers: Sequence[str],
) -> Iterator[pa.Table]:
    training = split == "train"
    columns = ["id", "status", "rationale", *(["sample", "answer"] if labellers else [])]
    named = [*teachers, *(t for t in labellers if t not in teachers)]
    written = {t: Follower(rationale_table(t), columns, split) for t in (named if training else [])}
    scored = Follower(SALIENCY, ["id", "text", "words"]) if training else None
    columns = ["id", "question", "options", "answer"]
    accepted = pa.array(settings.statuses, pa.string())
    for questions in _ahead(_batches(EXAMPLES, columns, split)):
        ids = questions["id"].combine_chunks()
        size = len(ids)
        parts, own = [], {}
        for teacher, table in written.items():
            rows, places = table.rows_of(ids)
            if teacher in teachers:
                answered = int(np.count_nonzero(np.diff(places, prepend=-1)))
                tally[f"{teacher}: no row"] += size - answered
            if rows is None:
                continue
            if teacher in labellers:
                own[teacher] = (rows, places)
            if teacher in teachers:
                good = pc.and_(
                    pc.is_in(rows["status"], value_set=accepted),
                    pc.fill_null(pc.greater(pc.binary_length(rows["rationale"]), 0), False),
                )
                kept = good.to_numpy()
                parts.append((teacher, places[kept], rows["rationale"].filter(good)))
        salient = NO_WORDS.take(pa.array(np.zeros(size, np.int64)))
        if scored is not None:
            rows, places = scored.rows_of(ids)
            tally["saliency: no row"] += size - len(places)
            if rows is not None:
                salient = _salient(rows, places, size, saliency)
        answers = questions["answer"]
        if training and labellers:
            labels = _labels([own[t] for t in labellers if t in own], size)
            tally["labels: none"] += labels.null_count
            tally["labels: not gold"] += pc.sum(pc.not_equal(labels, answers)).as_py() or 0
            answers = labels
        joined = pa.table(
            {
                "id": ids,
                "context": _contexts(questions),
                "options": questions["options"],
                "answer": answers,
                "rationales": _rationales(parts, size),
                "saliency": salient,
            }
        )
        if training and labellers:
            joined = joined.filter(pc.is_valid(joined["answer"]))
        yield joined.cast(SCHEMAS[DISTILL])
    for follower in (*written.values(), *([scored] if scored else [])):
        follower.finish()


def _labels(answered: Sequence[tuple[pa.Table, np.ndarray]], size: int) -> pa.StringArray:
    """Return for each of `size` questions the answer that most teachers' first samples give."""
    votes: list[list[str]] = [[] for _ in range(size)]
    for rows, places in answered:
        first = zip(rows["sample"].to_pylist(), rows["answer"].to_pylist(), places, strict=True)
        for sample, answer, place in first:
            if sample == 0 and answer:
                votes[place].append(answer)
    return pa.array([_most_frequent(given) for given in votes], pa.string())


def _most_frequent(answers: Sequence[str]) -> str | None:
    counts = [sum(same(answer, other) for other in answers) for answer in answers]
    return answers[counts.index(max(counts))] if answers else None


def _batches(path: Path, columns: Sequence[str], split: str | None) -> Iterator[pa.Table]:
    with open_table(path) as file:
        for number in range(file.num_row_groups):
            if split is None:
                yield file.read_row_group(number, list(columns))
                continue
            chosen = pc.equal(file.read_row_group(number, ["split"])["split"], split)
            if pc.any(chosen).as_py():
                table = file.read_row_group(number, list(columns))
                yield table if pc.all(chosen).as_py() else table.filter(chosen)


def _ahead(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables while a thread makes the next one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = pool.submit(next, tables, None)
            yield table


def _rationales(parts: list[tuple[str, np.ndarray, pa.ChunkedArray]], size: int) -> pa.ListArray:
    """Return for each of `size` questions the list of its rationales, teachers in their order."""
    places = np.concatenate([at for _, at, _ in parts]) if parts else np.empty(0, np.int64)
    order = np.argsort(places, kind="stable")
    names = pa.array([name for name, _, _ in parts], pa.string())
    whose = np.repeat(np.arange(len(parts)), [len(at) for _, at, _ in parts])
    chunks = [c for *_, texts in parts for c in texts.chunks]
    texts = pa.chunked_array(chunks, pa.string()).combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # of no chunk
        texts = pa.array([], pa.string())
    kind = SCHEMAS[DISTILL].field("rationales").type.value_type
    pairs = pa.StructArray.from_arrays(
        [names.take(pa.array(whose[order])), texts.take(pa.array(order))], fields=list(kind)
    )
    ends = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=size))])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pairs)


def _contexts(questions: pa.Table) -> pa.ChunkedArray:
    """Return `student_context` of each question."""
    options = questions["options"]
    listed = pc.binary_join_element_wise(OPTIONS, pc.binary_join(options, ", "), "")
    shown = pc.if_else(pc.greater(pc.list_value_length(options), 0), listed, "")
    return pc.binary_join_element_wise(student_context("", []), questions["question"], shown, "")


def _salient(rows: pa.Table, places: np.ndarray, size: int, saliency: Saliency) -> pa.ListArray:
    """Return for each of `size` questions its salient words; those without a row have none."""
    texts, scored = rows["text"].combine_chunks(), rows["words"].combine_chunks()
    words = top_words(texts, scored, saliency.top_k, saliency.stop_words)
    at = np.full(size, len(words))
    at[places] = np.arange(len(words))
    return pa.concat_arrays([words, NO_WORDS]).take(pa.array(at))
