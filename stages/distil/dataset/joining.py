"""Joins questions with their targets, in streams: memory holds one row group of each table.

All tables have the order of the questions, so none is sorted or held whole. A row group of
questions is joined at once. The rows of other tables that belong to it have a column PLACE: the
position of their question in it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Assemble, Saliency
from stages.distil.language.answers import most_frequent
from stages.distil.language.conclusions import concludes
from stages.distil.language.quality import CONTRADICTS, OK
from stages.distil.language.words import option_spans, salient_words
from stages.distil.storage.following import PLACE, Follower, ahead
from stages.distil.storage.tables import (
    DISTILL,
    EXAMPLES,
    OPTION_SCORES,
    SALIENCY,
    SCHEMAS,
    USEFULNESS,
    rationale_table,
    scan_row_groups,
    usefulness_table,
    with_scores,
)

QUESTION = ["id", "question", "options", "answer"]
RATIONALE = list(SCHEMAS[DISTILL].field("rationales").type.value_type)  # teacher, text, status
ACCEPTED = pa.schema([PLACE, *RATIONALE, SCHEMAS[USEFULNESS].field("usefulness")])
NO_WORDS = pa.scalar([], pa.list_(pa.string()))


@dataclass(frozen=True)
class Targets:
    """What train questions are joined with.

    `teachers` are those whose rationales are taught. With `labellers`, the answer to a question is
    the one that most of these teachers gave (of two equally frequent ones, the earlier in their
    order), and a question that none of them answered is left out; otherwise the gold one. The
    teacher `soft_labels` adds its OPTION_SCORES. Labellers and that teacher are among the teachers.
    `seed` draws rationales, if they are chosen at random.
    """

    teachers: Sequence[str]
    assemble: Assemble
    saliency: Saliency
    labellers: Sequence[str] = ()
    soft_labels: str | None = None
    seed: int = 0

    @property
    def schema(self) -> pa.Schema:
        """The schema of `distill`, with OPTION_SCORES if there are soft labels."""
        return with_scores(SCHEMAS[DISTILL], self.soft_labels is not None)


@dataclass
class TeacherCounts:
    """What became of a teacher's rationales.

    `statuses` counts them by status, after the comparison with the labels; `no_row` are the
    questions without any, and `taught` the rationales that are targets.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    no_row: int = 0
    taught: int = 0


@dataclass
class Counts:
    """How many train questions are written, and what they have or lack.

    `unlabelled` are those left out since no labeller answered them, `not_gold` those whose label is
    not the gold answer, `without_words` those without a row of SALIENCY. Soft labels: `scored`
    questions have them, `free_form` ones have no options, `too_long` ones have, but no scores.
    """

    teachers: dict[str, TeacherCounts]
    questions: int = 0
    unlabelled: int = 0
    not_gold: int = 0
    without_words: int = 0
    scored: int = 0
    free_form: int = 0
    too_long: int = 0


def without_targets(split: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the questions of a split as rows of `distill`: they are answered, not learnt."""
    for questions in scan_row_groups(EXAMPLES, QUESTION, split):
        rows = [row | {"rationales": [], "saliency": []} for row in questions.to_pylist()]
        yield pa.Table.from_pylist(rows, schema)


class Join:
    """The train questions with their targets, as tables of consecutive rows of `distill`.

    They can be iterated over once; `counts` are complete after that. A thread reads and joins the
    next rows while the caller handles the last ones. Raises `UserError` if a table is missing,
    lacks a column, or does not have the order of the questions.
    """

    def __init__(self, targets: Targets):
        """Open the tables that hold the targets."""
        self.counts = Counts({teacher: TeacherCounts() for teacher in targets.teachers})
        self.targets = targets
        self._statuses = pa.array(targets.assemble.statuses, pa.string())
        columns = ["id", "sample", "status", "rationale", *(["answer"] * bool(targets.labellers))]
        self._written, self._useful = {}, {}
        for teacher in targets.teachers:
            scores = [OPTION_SCORES.name] if teacher == targets.soft_labels else []
            path = rationale_table(teacher)
            self._written[teacher] = Follower(path, [*columns, *scores], "train")
            if targets.assemble.reads_rationales:
                path = usefulness_table(teacher)
                self._useful[teacher] = Follower(path, ["id", "usefulness"])
        self._scored = Follower(SALIENCY, ["id", "text", "words"])

    def __iter__(self) -> Iterator[pa.Table]:
        return ahead(self._tables())

    def _tables(self) -> Iterator[pa.Table]:
        for questions in ahead(scan_row_groups(EXAMPLES, QUESTION, "train")):
            yield self._join(questions)
        for follower in (*self._written.values(), *self._useful.values(), self._scored):
            follower.finish()

    def _join(self, questions: pa.Table) -> pa.Table:
        """Return a row group of questions with their targets."""
        ids = questions["id"].combine_chunks()
        written = {teacher: table.rows_of(ids) for teacher, table in self._written.items()}
        if self.targets.labellers:
            questions = self._with_labels(questions, written)
        accepted = [self._accepted(teacher, rows, questions) for teacher, rows in written.items()]
        rationales = pa.concat_tables([ACCEPTED.empty_table(), *accepted]).combine_chunks()
        if self.targets.assemble.choose != "all":
            rationales = _chosen(rationales, ids, self.targets)
        columns = {name: questions[name] for name in QUESTION}
        columns["rationales"] = _by_question(rationales, len(questions))
        columns["saliency"] = _words(self._scored.rows_of(ids), questions, self.targets.saliency)
        if teacher := self.targets.soft_labels:
            columns[OPTION_SCORES.name] = _option_scores(written[teacher], len(questions))
        joined = pa.table(columns).filter(pc.is_valid(questions["answer"]))
        self._count(joined)
        words = pc.coalesce(joined["saliency"], NO_WORDS)
        at = joined.column_names.index("saliency")
        return joined.set_column(at, "saliency", words).cast(self.targets.schema)

    def _count(self, joined: pa.Table) -> None:
        """Count rows that are written, and what they have or lack."""
        self.counts.questions += len(joined)
        self.counts.without_words += joined["saliency"].null_count
        teachers = pc.struct_field(pc.list_flatten(joined["rationales"]), "teacher")
        for teacher, number in Counter(teachers.to_pylist()).items():
            self.counts.teachers[teacher].taught += number
        if self.targets.soft_labels:
            unscored = joined[OPTION_SCORES.name].null_count
            free_form = _number(pc.equal(pc.list_value_length(joined["options"]), 0))
            self.counts.scored += len(joined) - unscored
            self.counts.free_form += free_form
            self.counts.too_long += unscored - free_form

    def _with_labels(self, questions: pa.Table, written: Mapping[str, pa.Table]) -> pa.Table:
        """Return the questions with the labellers' answers; null where they gave none."""
        votes = [written[teacher] for teacher in self.targets.labellers]
        labels = _majority(votes, questions["options"].to_pylist())
        self.counts.unlabelled += labels.null_count
        self.counts.not_gold += _number(pc.not_equal(labels, questions["answer"]))
        return questions.set_column(QUESTION.index("answer"), "answer", labels)

    def _accepted(self, teacher: str, rows: pa.Table, questions: pa.Table) -> pa.Table:
        """Return the ACCEPTED rationales among a teacher's rows: their status and text allow it."""
        status = _against_labels(rows, questions) if self.targets.labellers else rows["status"]
        counts = self.counts.teachers[teacher]
        counts.statuses.update(status.to_pylist())
        counts.no_row += len(questions) - len(rows[PLACE.name].unique())
        usefulness = self._usefulness(teacher, rows, questions)
        has_text = pc.fill_null(pc.greater(pc.binary_length(rows["rationale"]), 0), False)
        accepted = pc.and_(pc.is_in(status, value_set=self._statuses), has_text)
        if self._useful:
            accepted = pc.and_(accepted, pc.is_valid(usefulness))
        columns = [rows[PLACE.name], rows["rationale"], status, usefulness]
        places, *columns = (column.filter(accepted) for column in columns)
        names = pa.repeat(teacher, len(places))
        return _different(pa.table([places, names, *columns], schema=ACCEPTED))

    def _usefulness(self, teacher: str, rows: pa.Table, questions: pa.Table) -> pa.ChunkedArray:
        """Return the usefulness of a teacher's rationales; null where it is not measured."""
        if teacher not in self._useful:
            return pa.chunked_array([pa.nulls(len(rows), pa.float32())])
        useful = self._useful[teacher].rows_of(questions["id"].combine_chunks())
        if not useful[PLACE.name].equals(rows[PLACE.name]):
            raise UserError(
                f"{usefulness_table(teacher)}: its rows are not those of "
                f"{rationale_table(teacher)}; delete it and run `dvc repro`"
            )
        return useful["usefulness"]


def _majority(votes: Sequence[pa.Table], options: Sequence[list[str]]) -> pa.StringArray:
    """Return the answer that most teachers' first samples give to each question, or null.

    `votes` holds the rows of each teacher, `options` those of each question.
    """
    answers: list[list[str]] = [[] for _ in options]
    for rows in votes:
        given = (rows[name].to_pylist() for name in (PLACE.name, "sample", "answer"))
        for place, sample, answer in zip(*given, strict=True):
            if sample == 0 and answer:
                answers[place].append(answer)
    return pa.array(list(map(most_frequent, answers, options)), pa.string())


def _against_labels(rows: pa.Table, questions: pa.Table) -> pa.ChunkedArray:
    """Return the statuses; a rationale that ends in another answer than the label `contradicts`.

    A rationale ends in the answer that the teacher gave, or in that of its text. A question whose
    label is null contradicts nothing.
    """
    options, labels = (questions[name].to_pylist() for name in ("options", "answer"))
    columns = (rows[name].to_pylist() for name in (PLACE.name, "status", "rationale", "answer"))
    statuses = []
    for place, status, text, answer in zip(*columns, strict=True):
        label = labels[place]
        if status == OK and label is not None:
            if concludes(text, options[place], label, answer or None) is False:
                status = CONTRADICTS
        statuses.append(status)
    return pa.chunked_array([pa.array(statuses, pa.string())])


def _different(rationales: pa.Table) -> pa.Table:
    """Return a teacher's rationales; of equal ones of a question, the first."""
    places = rationales[PLACE.name].to_pylist()
    if len(set(places)) == len(places):
        return rationales
    rows: dict[tuple[int, str], int] = {}
    for row, key in enumerate(zip(places, rationales["text"].to_pylist(), strict=True)):
        rows.setdefault(key, row)
    return rationales.take(pa.array(rows.values(), pa.int64()))


def _chosen(rationales: pa.Table, ids: pa.Array, targets: Targets) -> pa.Table:
    """Return the rationales of each question that are chosen, `per_question` of them at most.

    Those with the status `ok` come first. Of two that are equally good, the earlier teacher's
    counts, or its earlier sample. `ids` are those of the questions.
    """
    places = rationales[PLACE.name].to_numpy()
    others = pc.not_equal(rationales["status"], OK).to_numpy()
    order = np.lexsort((_preference(rationales, ids, targets), others, places))  # stable
    ordered = places[order]
    earlier = np.arange(len(order)) - np.searchsorted(ordered, ordered)  # of the same question
    chosen = order[earlier < targets.assemble.per_question]
    return rationales.take(pa.array(np.sort(chosen)))


def _preference(rationales: pa.Table, ids: pa.Array, targets: Targets) -> np.ndarray:
    """Return a number for each rationale: the lower, the sooner it is chosen.

    `shortest` counts characters: it serves any student. A random number depends on the seed, the
    question and the rationale alone.
    """
    if targets.assemble.reads_rationales:
        return -rationales["usefulness"].to_numpy()
    if targets.assemble.choose == "shortest":
        return pc.utf8_length(rationales["text"]).to_numpy()
    names = ids.take(rationales[PLACE.name].combine_chunks()).to_pylist()
    texts = (rationales[column].to_pylist() for column in ("teacher", "text"))
    keys = (json.dumps([targets.seed, *key]).encode() for key in zip(names, *texts, strict=True))
    digests = b"".join(blake2b(key, digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)


def _by_question(rationales: pa.Table, size: int) -> pa.ListArray:
    """Return the list of ACCEPTED rationales of each of `size` questions, in their order."""
    places = rationales[PLACE.name].to_numpy()
    rows = rationales.take(pa.array(np.argsort(places, kind="stable"))).combine_chunks()
    columns = [rows[column.name].combine_chunks() for column in RATIONALE]
    ends = np.cumsum(np.bincount(places, minlength=size))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=RATIONALE))


def _words(rows: pa.Table, questions: pa.Table, saliency: Saliency) -> pa.Array:
    """Return the salient words of each question, null for one without a row of SALIENCY."""
    words = pa.array([], NO_WORDS.type)
    if len(rows):
        options = option_spans(questions.take(rows[PLACE.name]))
        texts, scored = (rows[name].combine_chunks() for name in ("text", "words"))
        words = salient_words(texts, scored, options, saliency)
    return words.take(_row_numbers(rows, len(questions)))


def _option_scores(rows: pa.Table, size: int) -> pa.ChunkedArray:
    """Return the option scores of each of `size` questions, null for one without."""
    first = rows.filter(pc.equal(rows["sample"], 0))
    return first[OPTION_SCORES.name].take(_row_numbers(first, size))


def _row_numbers(rows: pa.Table, size: int) -> pa.Array:
    """Return the number of the row of each of `size` questions, null for one without."""
    return pc.index_in(pa.array(np.arange(size)), value_set=rows[PLACE.name])


def _number(truths: pa.ChunkedArray) -> int:
    """Return how many are true."""
    return pc.sum(truths).as_py() or 0
