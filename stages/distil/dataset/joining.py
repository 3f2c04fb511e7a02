"""Joins questions with their targets, in streams: memory holds one row group of each table.

All tables have the order of the questions, so none is sorted or held whole.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, Assemble, Saliency, StudentPrompt
from stages.distil.language.answers import same
from stages.distil.language.conclusions import concludes
from stages.distil.language.quality import CONTRADICTS, OK
from stages.distil.language.student_prompts import (
    BULLET,
    CHOICES,
    DEFAULT,
    OPTION_LINES,
    OPTIONS,
    SEPARATOR,
    option_marks,
    text_before,
)
from stages.distil.language.words import salient_words
from stages.distil.storage.following import Follower, ahead
from stages.distil.storage.rationales import usefulness_table
from stages.distil.storage.tables import (
    DISTILL,
    EXAMPLES,
    OPTION_SCORES,
    SALIENCY,
    SCHEMAS,
    rationale_table,
    scan_row_groups,
    with_scores,
)

Part = tuple[str, np.ndarray, pa.ChunkedArray]  # a teacher, its questions' positions, its texts
NO_WORDS = pa.array([[]], pa.list_(pa.string()))
WEIGHT = pa.field("weight", pa.float32(), nullable=False)  # of a rationale in its teacher's loss


def distill_schema(settings: Assemble, scored: bool) -> pa.Schema:
    """Return the schema of `distill`, with OPTION_SCORES if options are scored.

    Rationales have a WEIGHT only if `settings` weight them.
    """
    schema = with_scores(SCHEMAS[DISTILL], scored)
    if settings.choose != "weighted":
        return schema
    at = schema.get_field_index("rationales")
    weighted = pa.list_(pa.struct([*schema.field(at).type.value_type, WEIGHT]))
    return schema.set(at, pa.field("rationales", weighted, nullable=False))


def count_statuses(teacher: str) -> Counter[str]:
    """Return how many of a teacher's rationales have each status."""
    counts: Counter[str] = Counter()
    for batch in scan_row_groups(rationale_table(teacher), ["status"], "train"):
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
    scorer: str | None = None,
    prompt: StudentPrompt = DEFAULT,
) -> Iterator[pa.Table]:
    """Yield the rows of a split of `distill`, one a question, in the order of the questions.

    Only train questions have rationales and salient words. With `labellers`, the answer to a train
    question is the one that most of these teachers gave (of two equally frequent ones, the earlier
    in their order), and a question that none of them answered is left out. The teacher `scorer`
    adds its OPTION_SCORES. The context is `student_context`, by `prompt`. `tally` counts what
    questions lack. A thread reads and joins the next rows while the caller handles the last ones.
    """
    return ahead(_join(split, teachers, settings, saliency, tally, labellers, scorer, prompt))


def _join(
    split: str,
    teachers: Sequence[str],
    settings: Assemble,
    saliency: Saliency,
    tally: Counter[str],
    labellers: Sequence[str],
    scorer: str | None,
    prompt: StudentPrompt,
) -> Iterator[pa.Table]:
    training = split == "train"
    schema = distill_schema(settings, bool(scorer))
    columns = ["id", "status", "rationale", "sample", *(["answer"] if labellers else [])]
    everyone = dict.fromkeys([*teachers, *labellers, *([scorer] if scorer else [])])
    own = {scorer: [*columns, OPTION_SCORES.name]}
    written = {
        t: Follower(rationale_table(t), own.get(t, columns), split)
        for t in (everyone if training else ())
    }
    judged = training and settings.choose != "all"
    useful = {t: Follower(usefulness_table(t), ["id", "usefulness"]) for t in teachers if judged}
    scored = Follower(SALIENCY, ["id", "text", "words"]) if training else None
    columns = ["id", "question", "options", "answer"]
    statuses = pa.array(settings.statuses, pa.string())
    for questions in ahead(scan_row_groups(EXAMPLES, columns, split)):
        ids = questions["id"].combine_chunks()
        size = len(ids)
        scores = pa.nulls(size, OPTION_SCORES.type)
        texts_of: dict[str, tuple[pa.Table, np.ndarray]] = {}
        for teacher, table in written.items():
            rows, places = table.rows_of(ids)
            if teacher in teachers:
                questions_with_rows = int(np.count_nonzero(np.diff(places, prepend=-1)))
                tally[f"{teacher}: no row"] += size - questions_with_rows
            if rows is not None:
                texts_of[teacher] = (rows, places)
        answers = questions["answer"]
        if training and labellers:
            votes = [texts_of[t] for t in labellers if t in texts_of]
            answers = _labels(votes, questions["options"].to_pylist())
            tally["labels: none"] += answers.null_count
            tally["labels: not gold"] += (
                pc.sum(pc.not_equal(answers, questions["answer"])).as_py() or 0
            )
        parts, worth = [], []
        for teacher, (rows, places) in texts_of.items():
            if teacher == scorer:
                if OPTION_SCORES.name not in rows.column_names:
                    raise UserError(
                        f"{rationale_table(teacher)}: no column {OPTION_SCORES.name}, which "
                        "soft_labels.teacher needs; run `dvc repro`"
                    )
                scores = _option_scores(rows, places, size)
            if teacher in teachers:
                status = rows["status"]
                if labellers:
                    status = _against_labels(rows, places, questions, answers)
                    lost = pc.sum(pc.not_equal(status, rows["status"])).as_py() or 0
                    tally[f"{teacher}: against the label"] += lost
                accepted = pc.and_(
                    pc.is_in(status, value_set=statuses),
                    pc.fill_null(pc.greater(pc.binary_length(rows["rationale"]), 0), False),
                )
                if judged:
                    values = _usefulness(teacher, useful[teacher], ids, places)
                    if settings.choose == "weighted":
                        values = pc.fill_null(values, 0.0)  # a mere conclusion raises nothing
                    accepted = pc.and_(accepted, pc.is_valid(values))
                    worth.append(values.filter(accepted).to_numpy())
                texts = rows["rationale"].filter(accepted)
                parts.append((teacher, places[accepted.to_numpy()], texts))
        asked = _question_texts(questions, DEFAULT)
        weights = None
        if settings.choose == "weighted":
            weights = _weights(_places(parts), worth)
        elif parts and judged:
            parts = list(_choose(parts, worth, settings))
            for teacher, places, _ in parts:
                tally[f"{teacher}: chosen"] += len(places)
        salient = NO_WORDS.take(pa.array(np.zeros(size, np.int64)))
        if scored is not None:
            rows, places = scored.rows_of(ids)
            tally["saliency: no row"] += size - len(places)
            if rows is not None:
                salient = _salient(rows, places, questions["question"], asked, saliency)
        if training and scorer:
            free_form = pc.sum(pc.equal(pc.list_value_length(questions["options"]), 0)).as_py()
            tally["soft labels"] += size - scores.null_count
            tally["soft labels: free-form"] += free_form
            tally["soft labels: too long"] += scores.null_count - free_form
        joined = pa.table(
            {
                "id": ids,
                "context": _contexts(questions, asked, prompt),
                "options": questions["options"],
                "answer": answers,
                "rationales": _rationales(parts, weights, size),
                "saliency": salient,
            }
            | ({OPTION_SCORES.name: scores} if scorer else {})
        )
        if training and labellers:
            joined = joined.filter(pc.is_valid(joined["answer"]))
        yield joined.cast(schema)
    for follower in (*written.values(), *useful.values(), *([scored] if scored else [])):
        follower.finish()


def _usefulness(
    teacher: str, table: Follower, ids: pa.Array, places: np.ndarray
) -> pa.ChunkedArray:
    """Return the usefulness of the rationales of a teacher's questions, whose positions are known.

    Raises `UserError` if the table was not made of these rationales.
    """
    values, found = table.rows_of(ids)
    if values is None or not np.array_equal(found, places):
        raise UserError(
            f"{usefulness_table(teacher)}: its rows are not those of {rationale_table(teacher)}; "
            "delete it and run `dvc repro`"
        )
    return values["usefulness"]


def _choose(
    parts: Sequence[Part], worth: Sequence[np.ndarray], settings: Assemble
) -> Iterator[Part]:
    """Yield the rationales of each part that are useful enough, or the best of their question.

    `worth` holds the usefulness of each part's rationales. Of two equally good rationales of a
    question the earlier teacher's counts, and of its samples the first.
    """
    if settings.choose == "threshold":
        kept = [values >= settings.least for values in worth]
    else:
        places = _places(parts)
        values = np.concatenate(worth)
        order = np.lexsort((-values, places))  # stable: earlier teachers come first
        first = np.unique(places[order], return_index=True)[1]
        best = np.zeros(len(places), bool)
        best[order[first]] = True
        kept = np.split(best, np.cumsum([len(at) for _, at, _ in parts])[:-1])
    for (teacher, at, texts), keep in zip(parts, kept, strict=True):
        yield teacher, at[keep], texts.filter(pa.array(keep))


def _weights(places: np.ndarray, worth: Sequence[np.ndarray]) -> np.ndarray:
    """Return the weight M softmax(u)_m of each of the M rationales of a question.

    `places` are the positions of the rationales' questions, and `worth` holds the usefulness u of
    each part's rationales. The weights of a question have mean 1; a rationale alone has weight 1.
    """
    values = np.concatenate([np.empty(0), *worth])
    highest = np.full(places.max(initial=-1) + 1, -np.inf)
    np.maximum.at(highest, places, values)
    odds = np.exp(values - highest[places])
    return odds * np.bincount(places)[places] / np.bincount(places, odds)[places]


def _places(parts: Sequence[Part]) -> np.ndarray:
    """Return the position of each rationale's question, part by part."""
    return np.concatenate([np.empty(0, np.int64), *(at for _, at, _ in parts)])


def _labels(
    answered: Sequence[tuple[pa.Table, np.ndarray]], options: Sequence[list[str]]
) -> pa.StringArray:
    """Return the answer that most teachers' first samples give to each question."""
    votes: list[list[str]] = [[] for _ in options]
    for rows, places in answered:
        samples = zip(rows["sample"].to_pylist(), rows["answer"].to_pylist(), places, strict=True)
        for sample, answer, place in samples:
            if sample == 0 and answer:
                votes[place].append(answer)
    return pa.array(list(map(_most_frequent, votes, options)), pa.string())


def _most_frequent(answers: Sequence[str], options: Sequence[str]) -> str | None:
    counts = [sum(same(answer, other, options) for other in answers) for answer in answers]
    return answers[counts.index(max(counts))] if answers else None


def _against_labels(
    rows: pa.Table, places: np.ndarray, questions: pa.Table, labels: pa.StringArray
) -> pa.StringArray:
    """Return the statuses; a rationale that ends in another answer than the label `contradicts`.

    `places` are the positions of their questions, whose `labels` may be null. A rationale ends in
    the answer that the teacher gave, or that of its text.
    """
    options, taught = questions["options"].to_pylist(), labels.to_pylist()
    statuses = []
    columns = (rows[name].to_pylist() for name in ("status", "rationale", "answer"))
    for status, text, answer, place in zip(*columns, places, strict=True):
        label = taught[place]
        if status == OK and label is not None:
            if concludes(text, options[place], label, answer or None) is False:
                status = CONTRADICTS
        statuses.append(status)
    return pa.array(statuses, pa.string())


def _option_scores(rows: pa.Table, places: np.ndarray, size: int) -> pa.Array:
    """Return the option scores of each of `size` questions, null for one without."""
    at = np.full(size, -1)
    first = rows["sample"].to_numpy() == 0
    at[places[first]] = np.flatnonzero(first)
    return rows[OPTION_SCORES.name].combine_chunks().take(pa.array(at, mask=at < 0))


def _rationales(parts: Sequence[Part], weights: np.ndarray | None, size: int) -> pa.ListArray:
    """Return the list of rationales of each of `size` questions, in the order of the teachers.

    `parts` holds a teacher, the positions of its questions, and its texts; `weights` are the
    weights of all these rationales, if they have any.
    """
    places = _places(parts)
    order = np.argsort(places, kind="stable")
    names = pa.array([name for name, _, _ in parts], pa.string())
    owners = np.repeat(np.arange(len(parts)), [len(at) for _, at, _ in parts])
    chunks = [c for *_, texts in parts for c in texts.chunks]
    texts = pa.chunked_array(chunks, pa.string()).combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # there is no chunk
        texts = pa.array([], pa.string())
    fields = list(SCHEMAS[DISTILL].field("rationales").type.value_type)
    columns = [names.take(pa.array(owners[order])), texts.take(pa.array(order))]
    if weights is not None:
        fields.append(WEIGHT)
        columns.append(pa.array(weights[order], WEIGHT.type))
    rationales = pa.StructArray.from_arrays(columns, fields=fields)
    ends = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=size))])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rationales)


def _contexts(
    questions: pa.Table, asked: pa.ChunkedArray, prompt: StudentPrompt
) -> pa.ChunkedArray:
    """Return `student_context` of each question; `asked` holds them with listed options."""
    if prompt.options != "listed":
        asked = _question_texts(questions, prompt)
    return pc.binary_join_element_wise(text_before(ANSWER, prompt), asked, "")


def _question_texts(questions: pa.Table, prompt: StudentPrompt) -> pa.ChunkedArray:
    """Return `question_text` of each question."""
    options = questions["options"].combine_chunks()
    if prompt.options == "lettered":
        shown = pc.binary_join_element_wise(CHOICES, pc.binary_join(_marked(options), ""), "")
    else:
        shown = pc.binary_join_element_wise(OPTIONS, pc.binary_join(options, SEPARATOR), "")
        commas = pc.match_substring(pc.binary_join(options, ""), ",")
        if pc.any(commas).as_py():
            marked = _after(pa.repeat(BULLET, len(options.flatten())), options)
            lines = pc.binary_join_element_wise(OPTION_LINES, pc.binary_join(marked, ""), "")
            shown = pc.if_else(commas, lines, shown)
    shown = pc.if_else(pc.greater(pc.list_value_length(options), 0), shown, "")
    return pc.binary_join_element_wise(questions["question"], pa.chunked_array([shown]), "")


def _marked(options: pa.ListArray) -> pa.ListArray:
    """Return the options of each question, each after its letter."""
    counts = pc.list_value_length(options).to_numpy()
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    marks = pa.array(option_marks(counts.max(initial=0)), pa.string())
    return _after(marks.take(pa.array(numbers)), options)


def _after(marks: pa.StringArray, options: pa.ListArray) -> pa.ListArray:
    """Return lists of texts, each after the mark of the same number."""
    counts = pc.list_value_length(options).to_numpy()
    ends = np.concatenate([[0], np.cumsum(counts)])
    texts = pc.binary_join_element_wise(marks, options.flatten(), "")
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), texts)


def _salient(
    rows: pa.Table,
    places: np.ndarray,
    questions: pa.ChunkedArray,
    asked: pa.ChunkedArray,
    saliency: Saliency,
) -> pa.ListArray:
    """Return the salient words of each question; one without a row has none.

    `asked` holds the questions with their options, as the teacher reads them.
    """
    texts, scored = rows["text"].combine_chunks(), rows["words"].combine_chunks()
    options = np.column_stack([pc.utf8_length(each).to_numpy() for each in (questions, asked)])
    words = salient_words(texts, scored, options[places], saliency)
    at = np.full(len(questions), len(words))
    at[places] = np.arange(len(words))
    return pa.concat_arrays([words, NO_WORDS]).take(pa.array(at))
