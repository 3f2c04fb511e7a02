"""Find the mapping of columns to fields that reads the rows of a data set.

A mapping counts if it reads nearly all rows that the best one reads. Two that do but give different
answers are both returned: nothing is chosen between them.
"""

from collections.abc import Mapping
from typing import Any

from stages.distil.interface.errors import UserError
from stages.distil.proposals import columns as guesses
from stages.distil.proposals.columns import Column
from stages.distil.proposals.trials import NEARLY, Mapped, Reading, Trials, best, different
from stages.distil.questions.fields import PATH

FITTING = 0.9  # share of the rows; no further columns are tried if a mapping reads as many
POSSIBLE = 0.5  # share of the rows that a mapping has to read
ENTAILMENT = ["entailment", "neutral", "contradiction"]  # the labels 0, 1, 2 of SNLI
FORMS: list[Mapped] = [
    {"answer_is": "text"},
    {"answer_is": "letter"},
    {"answer_is": "index"},
    {"answer_is": "index", "first_index": 1},
    {},  # rows of several forms
]
SHOWN_COLUMNS = 20
NO_OPTIONS = "SET=fixed_options=[] if these are no options"


class Search:
    """The search for a mapping; `notes` are what the user should know of it.

    `class_labels` are the names of columns of class labels, where the files have them.
    """

    def __init__(self, trials: Trials, class_labels: dict[str, list[str]]):
        self._trials, self._given = trials, trials.given
        self._class_labels = class_labels
        self.notes: list[str] = []
        rows = [record.value for record in trials.sample if isinstance(record.value, Mapping)]
        self._columns = guesses.columns_of(rows)

    def choose(self) -> list[Reading]:
        """Return the readings of nearly all rows of the sample, each with other answers.

        Raises `UserError` if there is none.
        """
        questions = guesses.questions(self._columns)
        if "question" in self._given:
            questions = [self._given["question"]]
        if not questions:
            raise self._error("no column holds texts, as questions are")
        found: list[Reading] = []
        for question in questions:
            readings = self._with_answers({"question": question, "id": None})
            if not found or best(readings).share > found[0].share + NEARLY:
                found = different(readings)
            if found[0].share >= 1 - NEARLY:
                break
        if found[0].share < POSSIBLE:
            reason = found[0].bad[0].reason if found[0].bad else "the questions repeat each other"
            by_column = isinstance(found[0].fields.get("options"), list)
            advice = f" ({NO_OPTIONS})" if by_column else ""
            raise self._error(
                f"the best mapping, {_in_words(found[0].fields)}, reads {found[0].share:.0%} of "
                f"the rows; the first of the others: {reason}{advice}"
            )
        return [self._with_rationales(self._with_id(reading)) for reading in found]

    def _error(self, reason: str) -> UserError:
        listed = ", ".join(column.path for column in self._columns[:SHOWN_COLUMNS])
        more = " and more" if len(self._columns) > SHOWN_COLUMNS else ""
        return UserError(
            f"{self._trials.sample[0].source}: {reason}; name a column, such as with "
            f"SET=answer=COLUMN (columns: {listed}{more})"
        )

    def _with_answers(self, base: Mapped) -> list[Reading]:
        """Read the sample with the columns that may hold options and answer."""
        asked = _paths(base["question"])
        own = guesses.options(self._columns)
        if "fixed_options" in self._given:
            own = []
        elif "options" in self._given:
            own = [{"options": self._given["options"]}]
        readings: list[Reading] = []
        for options in own:
            taken = [*asked, *_listed(options["options"]), options.get("option_names", "")]
            for answers in self._answers(taken):
                if not any(reading.share >= FITTING for reading in readings):
                    readings += self._trials.try_out(
                        base | options | form
                        for column in answers
                        for form in _forms(column, "option_names" in options)
                    )
        if not own:  # options that no mapping reads are never given up for others
            if "fixed_options" not in self._given:
                self._refuse_unread_options(asked)
            readings = self._trials.try_out(
                base | form for column in self._answers(asked)[0] for form in self._classes(column)
            )
        if not readings:
            raise self._error("no column is named as an answer")
        return readings

    def _answers(self, taken: list[str]) -> list[list[Column]]:
        """Return the columns that may hold the answer: those named so, then others."""
        path = self._given.get("answer")
        if path is None:
            return list(guesses.answers(self._columns, taken))
        return [[column for column in self._columns if column.path == path] or [Column(path, [])]]

    def _refuse_unread_options(self, asked: list[str]) -> None:
        """Raise `UserError` if a column seems to hold options that no mapping can read."""
        free = [column for column in self._columns if column.path not in asked]
        if packed := guesses.packed_options(free):
            raise self._error(
                f"{packed.path} seems to hold several options in one text, such as "
                f"{packed.present[0]!r}; write a column for each option, or lists in JSON lines "
                f"({NO_OPTIONS})"
            )
        if partial := guesses.partial_options(free):
            raise self._error(
                f"{partial.path} seems to hold options, but not a list of two or more texts in "
                "nearly every row; move the other rows into a file of their own, or rename the "
                "column if these are no options"
            )

    def _classes(self, column: Column) -> list[Mapped]:
        """Return the fields for a free-form answer, or for one of the same options of each row."""
        answer = {"answer": column.path}
        if self._given.get("fixed_options"):
            return [answer | form for form in FORMS]
        labels = guesses.classes(column)
        if not labels or "fixed_options" in self._given:
            return [answer]
        if names := self._class_labels.get(column.path):
            return [answer | {"fixed_options": names, "answer_is": "index"}]
        if not labels[0].isdigit():
            return [answer | {"fixed_options": labels, "answer_is": "text"}]
        names = [f"word-for-{label}" for label in labels]
        if guesses.has_entailment(self._columns) and labels == ["0", "1", "2"]:
            names = ENTAILMENT
        fixed = {"fixed_options": names, "answer_is": "index", "first_index": int(labels[0])}
        return [answer | fixed]

    def has_unnamed_classes(self, fields: Mapped) -> bool:
        """Return whether a mapping has options for numbers, of which the files say no words."""
        is_own = "fixed_options" in fields and "fixed_options" not in self._given
        by_number = fields.get("answer_is") == "index"
        return is_own and by_number and fields.get("answer", "answer") not in self._class_labels

    def _with_id(self, reading: Reading) -> Reading:
        """Return the mapping with the first id that costs no row; numbers of rows never do."""
        if "id" in self._given:
            return reading
        for path in guesses.ids(self._columns):
            for trial in self._trials.try_out([reading.fields | {"id": path}]):
                if trial.read == reading.read:
                    return trial
        return reading

    def _with_rationales(self, reading: Reading) -> Reading:
        """Return the mapping with the rationales that cost no row."""
        if "rationales" in self._given:
            return reading
        fields = reading.fields
        taken = [*_paths(fields.get("question", "question")), fields.get("answer", "answer")]
        taken += _listed(fields.get("options", []))
        proposed = guesses.rationales(self._columns, taken)
        for rationales in proposed:
            for trial in self._trials.try_out([fields | rationales]):
                if trial.read == reading.read:
                    return trial
        if proposed:
            self._note(
                f"not read as rationales, since some rows lack them: {_in_words(proposed[0])}"
            )
        return reading

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _forms(column: Column, have_names: bool) -> list[Mapped]:
    """Return the fields for each form of answer that a column may hold."""
    answer = {"answer": column.path}
    if column.mostly(bool):  # true is `yes`, or else the second option
        return [answer | {"answer_is": "text"}, answer | {"answer_is": "index"}]
    forms = [answer | form for form in FORMS]
    return [answer, *forms[:-1]] if have_names else forms


def _paths(template: str) -> list[str]:
    return PATH.findall(template) or [template]


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def _in_words(fields: Mapped) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in fields.items() if value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(_value(each) for each in value.values())
    return repr(value) if "\n" in str(value) else str(value)
