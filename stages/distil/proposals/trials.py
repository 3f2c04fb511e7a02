"""Read the rows of a data set with one mapping of its columns after another."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import ValidationError

from stages.distil.interface.catalogue import Fields, Files, Split
from stages.distil.interface.errors import UserError
from stages.distil.questions import files
from stages.distil.questions.fields import QuestionReader
from stages.distil.questions.reading import ORDER
from stages.distil.storage.examples import Example, Record, Rejected

SAMPLE = 1_000  # rows of a split with which mappings are tried
MOST_ROWS = 50_000  # of each split, which the chosen mapping reads
NEARLY = 0.01  # share of the rows by which a mapping may read fewer than the best one
SHOWN = 3  # questions
SHOWN_REFUSED = 5  # rows

Mapped = dict[str, Any]  # what an entry's `fields` sets


@dataclass
class Reading:
    """What a mapping makes of the rows."""

    fields: Mapped
    answers: list[str | None] = field(default_factory=list)  # of each row; None: not read
    places: list[tuple[str, int]] = field(default_factory=list)  # file and number of each row
    read: Counter[Split] = field(default_factory=Counter)
    refused: Counter[Split] = field(default_factory=Counter)
    repeated: Counter[Split] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)  # of refused rows, as `_cause` has them
    tally: Counter[str] = field(default_factory=Counter)  # of the reader
    questions: list[Example] = field(default_factory=list)  # the first ones of train
    bad: list[Rejected] = field(default_factory=list)  # the first refused rows
    teachers: set[str] = field(default_factory=set)

    @property
    def share(self) -> float:
        """The share of the rows that it reads."""
        return self.read.total() / max(1, len(self.answers))

    def first_difference(self, other: "Reading") -> int | None:
        """Return the first row to which the other gives another answer; None if there is none."""
        for place, (own, its) in enumerate(zip(self.answers, other.answers, strict=True)):
            if own is not None and its is not None and own != its:
                return place
        return None


class Trials:
    """The rows of a data set, to be read with mappings.

    `entry` is what is known of its entry, without `fields`; `given` are fields that the user has
    set, which no mapping changes.
    """

    def __init__(self, entry: dict[str, Any], given: Mapped, max_characters: int):
        self.entry, self.given = entry, given
        self._max_characters = max_characters
        self.sample = self._first("train", SAMPLE)
        self.longer: set[Split] = set()  # splits with more than MOST_ROWS rows

    def _first(self, split: Split, most: int) -> list[Record]:
        return list(islice(files.read(Files(**self.entry), split), most))

    def try_out(self, mappings: Iterable[Mapped]) -> list[Reading]:
        """Read the sample with each mapping, each once.

        A mapping that is not valid, or that stops at a key with two meanings, is left out. If
        questions list an option twice, all mappings merge such options.
        """
        readings: dict[str, Reading] = {}
        for mapping in mappings:
            fields = _settled(mapping | self.given)
            key = json.dumps(fields, sort_keys=True)
            if key not in readings:
                try:
                    readings[key] = self._read(fields, {"train": self.sample})
                except (UserError, ValidationError):
                    continue
        found = list(readings.values())
        if found and best(found).causes["equal options"]:
            merging = [reading.fields | {"equal_options": "merge"} for reading in found]
            found = [self._read(fields, {"train": self.sample}) for fields in merging]
        return found

    def read_all(self, fields: Mapped, splits: Iterable[Split]) -> Reading:
        """Read splits with a mapping, MOST_ROWS of each.

        Where the rows ask for it, equal options are merged, and rows numbered instead of named.
        """
        names = [split for split in ORDER if split in splits]
        reading = self._read(fields, {split: self._up_to_most(split) for split in names})
        changes: Mapped = {}
        if reading.causes["equal options"]:
            changes["equal_options"] = "merge"
        if reading.causes["repeated id"] and "id" not in self.given:
            changes["id"] = None
        if not changes:
            return reading
        return self._read(fields | changes, {split: self._up_to_most(split) for split in names})

    def lacks_answers(self, split: Split, fields: Mapped) -> str:
        """Return a reason if most rows of a split have no answer, as in public test splits."""
        reading = self._read(fields, {split: self._first(split, SAMPLE)})
        without = reading.causes["answer"]
        if without * 2 <= len(reading.answers):
            return ""
        reason = next(r.reason for r in reading.bad if _cause(r.reason, fields) == "answer")
        return f"{without:,} of its first {len(reading.answers):,} rows have no answer ({reason})"

    def _read(self, fields: Mapped, splits: Mapping[Split, Iterable[Record]]) -> Reading:
        """Read the rows of splits; raise `UserError` if a key has two meanings."""
        reading = Reading(fields)
        settings = Files(**self.entry, fields=fields)
        reader = QuestionReader(settings, self._max_characters, reading.tally)
        for split, records in splits.items():
            for row in reader.accept(_noting(records, reading.places)):
                reading.answers.append(row.answer if isinstance(row, Example) else None)
                if isinstance(row, Example):
                    reading.read[split] += 1
                    if split == "train":
                        reading.teachers.update(row.rationales)
                        reading.questions += [row] * (len(reading.questions) < SHOWN)
                elif row.repeated:
                    reading.repeated[split] += 1
                else:
                    reading.refused[split] += 1
                    reading.causes[_cause(row.reason, fields)] += 1
                    reading.bad += [row] * (len(reading.bad) < SHOWN_REFUSED)
        return reading

    def _up_to_most(self, split: Split) -> Iterator[Record]:
        for number, record in enumerate(files.read(Files(**self.entry), split)):
            if number >= MOST_ROWS:
                self.longer.add(split)
                return
            yield record


def _settled(mapping: Mapped) -> Mapped:
    """Return a mapping without what is the default, and without fields that others replace.

    The default paths of id and options stay, since they are then required of each row.
    """
    replaced: tuple[str, ...] = ()
    if mapping.get("fixed_options"):
        replaced += ("options", "option_names")
    if mapping.get("answer_is"):
        replaced += ("option_names",) * (mapping["answer_is"] != "name")
    defaults = {name: field.default for name, field in Fields.model_fields.items()}
    return {
        key: value
        for key, value in mapping.items()
        if key not in replaced and (key in ("id", "options") or value != defaults[key])
    }


def _noting(records: Iterable[Record], places: list[tuple[str, int]]) -> Iterator[Record]:
    for record in records:
        places.append((record.source, record.row))
        yield record


def _cause(reason: str, fields: Mapped) -> str:
    """Return what a row was refused for, if another mapping could read it."""
    if reason.startswith("two options are equal"):
        return "equal options"
    if reason.startswith("id ") and "already used" in reason:
        return "repeated id"
    own = f"{fields.get('answer', 'answer')}:"
    return "answer" if reason.startswith(("answer", own)) else "other"


def best(readings: Sequence[Reading]) -> Reading:
    """Return the reading of the most rows, the first of a tie."""
    return max(readings, key=lambda reading: reading.read.total())


def different(readings: Sequence[Reading]) -> list[Reading]:
    """Return the readings of nearly all rows, but none that agrees with one before it.

    Those of more rows come first.
    """
    least = best(readings).read.total() - NEARLY * len(readings[0].answers)
    near = [reading for reading in readings if reading.read.total() >= least]
    found: list[Reading] = []
    for reading in sorted(near, key=lambda each: -each.read.total()):
        if all(reading.first_difference(other) is not None for other in found):
            found.append(reading)
    return found
