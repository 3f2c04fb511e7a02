"""Propose the entry of a data set: its splits, its fields, and what the user has to decide."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.distil.interface.catalogue import Fields, Split
from stages.distil.interface.errors import UserError
from stages.distil.proposals.mappings import Search
from stages.distil.proposals.splits import Layout, find_layout, rows_path, split_patterns
from stages.distil.proposals.trials import MOST_ROWS, Mapped, Reading, Trials, different

MOST_HELD_OUT = 500  # questions drawn from train for each split without files
HELD_OUT_SHARE = 10  # at most one in so many
# What may differ between mappings that give different answers.
DECIDING = ("options", "option_names", "fixed_options", "answer", "answer_is", "first_index")


@dataclass(frozen=True)
class Choice:
    """One of several mappings that read the rows: the fields that choose it, and an answer."""

    fields: Mapped
    answer: str


@dataclass
class Proposal:
    """An entry, what it reads, and what the user has to know or decide.

    If several mappings read the rows, `entry` has the first, and `choices` all of them with the
    answers that they give to the row at `place`.
    """

    entry: dict[str, Any]
    reading: Reading
    notes: list[str]
    place: tuple[str, int] = ("", 0)
    choices: list[Choice] = field(default_factory=list)


def propose(data: Path, given: Mapped, max_characters: int) -> Proposal:
    """Return the proposed entry of a file or folder; `given` are fields that the user has set.

    Raises `UserError` if no mapping reads the rows.
    """
    layout = find_layout(data)
    entry: dict[str, Any] = {"source": "files", "folder": str(layout.folder)}
    entry["splits"] = split_patterns(layout)
    entry["rows"] = rows_path(layout)
    trials = Trials(entry, given, max_characters)
    _check_rows(trials, layout)
    search = Search(trials, _class_labels(layout))
    contenders = search.choose()
    _settle_splits(trials, layout, contenders[0])
    entry["splits"] = split_patterns(layout)
    readings = different([trials.read_all(each.fields, layout.files) for each in contenders])
    reading = readings[0]
    place, choices = _choices(readings)
    if not choices and search.has_unnamed_classes(reading.fields):
        place, choices = _words_or_numbers(reading)
    notes = layout.notes + search.notes + _notes(reading, given, trials.longer, bool(choices))
    return Proposal(_entry(entry, layout, reading), reading, notes, place, choices)


def _check_rows(trials: Trials, layout: Layout) -> None:
    """Raise `UserError` if no row of train is an object with fields."""
    if any(isinstance(record.value, dict) for record in trials.sample):
        return
    path = layout.folder / layout.files["train"][0]
    if not trials.sample:
        raise UserError(f"{path}: no rows; expected questions")
    first = trials.sample[0]
    found = first.error or f"expected an object with fields, found {type(first.value).__name__}"
    raise UserError(f"{first.source}, row {first.row}: {found}")


def _class_labels(layout: Layout) -> dict[str, list[str]]:
    """Return the names of class labels that a Parquet file of the hub keeps in its schema."""
    path = layout.folder / layout.files["train"][0]
    if path.suffix.lower() != ".parquet":
        return {}
    try:
        metadata = pq.read_schema(path).metadata or {}
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (pa.ArrowException, ValueError, LookupError, TypeError, AttributeError):
        return {}  # `datasets` did not write the file, or wrote it in another version's form


def _settle_splits(trials: Trials, layout: Layout, reading: Reading) -> None:
    """Leave out splits without answers; without a test, validation is the test."""
    others: tuple[Split, ...] = ("validation", "test")
    for split in others:
        if split in layout.files and (reason := trials.lacks_answers(split, reading.fields)):
            names = ", ".join(map(str, layout.files.pop(split)))
            layout.notes.append(f"{names} is not used: {reason}")
    if "test" not in layout.files and "validation" in layout.files:
        layout.files["test"] = layout.files.pop("validation")
        names = ", ".join(map(str, layout.files["test"]))
        layout.notes.append(f"{names} is the test, as no other file is; see hold_out")


def _notes(reading: Reading, given: Mapped, longer: set[Split], is_open: bool) -> list[str]:
    """Return what to say about a reading; `is_open` if another may be right."""
    notes = []
    if longer:
        listed = ", ".join(sorted(longer))
        notes.append(f"only the first {MOST_ROWS:,} rows were read here, of {listed}")
    fixed = reading.fields.get("fixed_options")
    if fixed and "fixed_options" not in given and not is_open:
        answer = reading.fields.get("answer", "answer")
        notes.append(
            f"the {len(fixed)} distinct answers in {answer} are the options of every question "
            "(SET='fixed_options=[]' makes it free-form)"
        )
    if reading.fields.get("id") is None:
        notes.append("id: null numbers the rows, as no column names each row once")
    if merged := reading.tally["with equal options"]:
        notes.append(f"{merged} questions list an option twice: equal_options makes them one")
    if fewer := reading.tally["with fewer options"]:
        notes.append(f"{fewer} questions have fewer options than columns: an empty cell is none")
    if lettered := reading.tally["with lettered options"]:
        notes.append(f"{lettered} questions have letters before their options, which are left out")
    if "human" in reading.teachers:
        notes.append(
            "rationales that no teacher's name goes with are people's (human), which need not name "
            "the answer (conclude)"
        )
    return notes


def _choices(readings: list[Reading]) -> tuple[tuple[str, int], list[Choice]]:
    """Return a row to which the readings give different answers, and what chooses each of them."""
    if len(readings) < 2:
        return ("", 0), []
    place = readings[1].first_difference(readings[0])
    assert place is not None
    defaults = {key: Fields.model_fields[key].default for key in DECIDING}
    values = [defaults | reading.fields for reading in readings]
    keys = [key for key in DECIDING if any(each[key] != values[0][key] for each in values)]
    if "fixed_options" in keys:  # which decides about the others
        keys = [key for key in keys if key in ("fixed_options", "answer")]
    choices = [
        Choice({key: each[key] for key in keys}, str(reading.answers[place]))
        for each, reading in zip(values, readings, strict=True)
    ]
    return readings[0].places[place], choices


def _words_or_numbers(reading: Reading) -> tuple[tuple[str, int], list[Choice]]:
    """Return the first row read, and the choice between words for its number and the number."""
    names = reading.fields["fixed_options"]
    place, answer = next((n, a) for n, a in enumerate(reading.answers) if a is not None)
    number = names.index(answer) + reading.fields.get("first_index", 0)
    return reading.places[place], [
        Choice({"fixed_options": names}, answer),
        Choice({"fixed_options": []}, str(number)),
    ]


def _entry(known: dict[str, Any], layout: Layout, reading: Reading) -> dict[str, Any]:
    """Return the entry, with the questions to draw from train for splits without files."""
    entry = {key: value for key, value in known.items() if value}
    missing = [split for split in ("validation", "test") if split not in layout.files]
    if missing:
        questions = reading.read["train"]
        size = min(MOST_HELD_OUT, questions // HELD_OUT_SHARE)
        if not size:
            raise UserError(
                f"{layout.folder / layout.files['train'][0]}: {questions} questions are too few to "
                f"draw {' and '.join(missing)} from; add files of {' and '.join(missing)}"
            )
        entry["hold_out"] = size if missing == ["validation"] else dict.fromkeys(missing, size)
    default_paths = {"id": "id", "options": "options"}
    fields = {k: v for k, v in reading.fields.items() if default_paths.get(k, "") != v}
    if fields:
        entry["fields"] = {key: fields[key] for key in Fields.model_fields if key in fields}
    if "human" in reading.teachers:
        entry["conclude"] = {"human": False}
    return entry
