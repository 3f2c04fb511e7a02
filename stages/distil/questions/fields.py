"""Turn records into questions by the field mapping of params.yaml; refuse invalid records."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from math import isfinite, isnan
from typing import Any

from stages.distil.interface.catalogue import Fields, Files, Hub
from stages.distil.interface.errors import UserError
from stages.distil.interface.escaping import cut
from stages.distil.language.answers import choose_option, final_value
from stages.distil.language.appearance import appearance, fold_spaces
from stages.distil.questions.letters import letter_of, split_letter, without_letters
from stages.distil.storage.examples import Example, Record, Rejected, Unreadable

PATH = re.compile(r"\{([^{}]+)\}")
INDEX = re.compile(r"-?\d{1,18}", re.ASCII)
OPTION_FIELD = re.compile(r"(?i)option|choice|candidate|alternative|ending")
# Control characters but for white space (tab, line breaks, U+0085), and marks of a failed decoding.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ud800-\udfff]")
LONGEST_REASON = 500  # characters
MOST_RATIONALES = 64  # of a teacher, for one question
LONGEST_SHOWN = 10_000  # characters of a refused row


class BadRowError(ValueError):
    """The reason why a record is not a valid question."""


class _RepeatedError(BadRowError):
    """The question occurred earlier."""


class QuestionReader:
    """Turn the records of a data set into questions, one split after the other.

    Pass the test split first and train last: a question that occurred earlier is refused, so one in
    two splits is removed from train; so is an id that occurred earlier in its split. Questions are
    the same if they read the same (`appearance`). `tally` counts skipped records, the forms of
    answers and the questions with equal options.
    """

    def __init__(self, settings: Files | Hub, max_characters: int, tally: Counter[str]):
        try:
            _check_options(settings.fields.fixed_options)
        except BadRowError as error:
            raise UserError(f"datasets.*.fields.fixed_options: {error}") from None
        self._settings = settings
        self._max_characters = max_characters
        self._tally = tally
        self._ids: set[bytes] = set()
        self._questions: dict[bytes, str] = {}  # 16 bytes per question, whatever its length
        self._has_options: bool | None = None  # as the first question

    def accept(self, records: Iterable[Record]) -> Iterator[Example | Rejected]:
        """Yield each record of a split as a question or as a refused row."""
        settings = self._settings
        number = 0
        for record in records:
            if record.error:
                yield _rejected(record, record.error)
                continue
            try:
                if isinstance(record.value, Unreadable):
                    raise BadRowError(record.value.reason)
                if not isinstance(record.value, Mapping):
                    kind = type(record.value).__name__
                    raise BadRowError(f"expected an object with fields, found {kind}")
                if not _matches(record.value, settings.where):
                    self._tally["left out by where"] += 1
                    continue
                example, notes = to_example(record.value, settings.fields, record, number)
                self._check(example)
            except BadRowError as error:
                yield _rejected(record, str(error), isinstance(error, _RepeatedError))
                continue
            number += 1
            self._tally.update(notes)
            yield example

    def _check(self, example: Example) -> None:
        if self._has_options is None:
            self._has_options = bool(example.options)
        if self._has_options != bool(example.options):
            found, before = ("options", "none") if example.options else ("no options", "options")
            raise BadRowError(f"{found}, but the first question has {before}; see fields.options")
        texts = [example.question, *example.options, example.answer]
        length = sum(map(len, texts))
        if length > self._max_characters:
            raise BadRowError(
                f"{length:,} characters in question and options; data.max_characters is "
                f"{self._max_characters:,}"
            )
        id_digest = _digest(example.split, example.id)
        if id_digest in self._ids:
            raise BadRowError(
                f"id {example.id!r} is already used on an earlier row of {example.split}"
            )
        question = _digest(appearance(example.question), *sorted(map(appearance, example.options)))
        if split := self._questions.get(question):
            where = "on an earlier row" if split == example.split else f"in {split}"
            raise _RepeatedError(f"the same question is also {where}")
        self._ids.add(id_digest)
        self._questions[question] = example.split


def to_example(
    value: Mapping[str, Any], fields: Fields, record: Record, number: int
) -> tuple[Example, list[str]]:
    """Return a question, and what `prepare` counts of it.

    That is the form of its answer (text, name, letter or index), whether options were equal, which
    are one option, whether columns of options were empty, and whether letters before the options
    were left out.
    """
    question = _text(_compose(value, fields.question), "question")
    written = _options(value, fields)
    listed = without_letters(written)
    answer, kind = _answer(value, fields, listed, f"{record.source}, row {record.row}")
    options = list(dict.fromkeys(listed))
    notes = [f"answer by {kind}"] + ["with equal options"] * (len(options) < len(listed))
    if isinstance(fields.options, list) and len(listed) < len(fields.options):
        notes.append("with fewer options")
    if listed != written:
        notes.append("with lettered options")
    if fields.id is None:
        row_id = f"{record.split}-{number:06d}"
    else:
        row_id = _text(_required(value, fields.id), fields.id)
    try:
        rationales = _rationales(value, fields, record.rationales)
    except BadRowError:
        if record.split == "train":
            raise
        rationales = {}  # only train questions are explained
    return Example(row_id, record.split, question, options, answer, rationales), notes


def _options(value: Mapping[str, Any], fields: Fields) -> list[str]:
    """Return the options as listed, since letters, names and indices count all of them.

    An option that equals an earlier one, white space aside, is written like that one.
    """
    path = fields.options
    if fields.fixed_options:
        return list(fields.fixed_options)
    if isinstance(path, list):
        raw: Any = _cells(value, path)
    elif "options" in fields.model_fields_set:
        raw = _required(value, path)
    else:
        raw = follow(value, path)
    if raw is None:
        for name, field in value.items():
            if OPTION_FIELD.search(name) and isinstance(field, list | tuple | Mapping):
                raise BadRowError(f"options: missing, but there is {name!r}; set fields.options")
        return []
    if not isinstance(raw, list | tuple):
        raise BadRowError(f"options: expected a list of texts, found {type(raw).__name__}")
    options = [_text(option, f"options[{index}]") for index, option in enumerate(raw)]
    equal: dict[str, str] = {}
    # Options may be code, in which lines and their indentation count.
    options = [equal.setdefault(fold_spaces(option, lines=True), option) for option in options]
    _check_options(options)
    if len(equal) == 1:
        found = "only one option" if len(options) == 1 else "all options are equal"
        raise BadRowError(f"{found}; a question has two or more, or none if it is free-form")
    if len(equal) < len(options) and fields.equal_options == "refuse":
        raise BadRowError(
            "two options are equal; set fields.equal_options to merge if they are one option"
        )
    return options


def _cells(value: Mapping[str, Any], paths: list[str]) -> list[Any]:
    """Return the options in columns of their own, without empty cells after the last one.

    Letters, names and indices count the columns, so an empty cell before an option is refused.
    """
    cells = [follow(value, path) for path in paths]
    while cells and _is_empty(cells[-1]):
        cells.pop()
    if not cells:
        raise BadRowError(f"{', '.join(paths)}: missing")
    for cell, path in zip(cells, paths, strict=False):
        if _is_empty(cell):
            raise BadRowError(f"{path}: missing or empty, but {paths[len(cells) - 1]} is not")
    return cells


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, str):
        return not appearance(cell)
    return cell is None or (isinstance(cell, float) and isnan(cell))


def _check_options(options: list[str]) -> None:
    """Raise `BadRowError` if a reader cannot tell two different options apart."""
    by_form: dict[str, str] = {}
    for option in options:
        other = by_form.setdefault(appearance(option, lines=True), option)
        if other != option:
            raise BadRowError(f"two options read the same: {ascii(other)} and {ascii(option)}")


def _rejected(record: Record, reason: str, repeated: bool = False) -> Rejected:
    """Return a refused row; a long reason and a long text are cut."""
    return Rejected(
        record.source,
        record.row,
        cut(reason, LONGEST_REASON),
        cut(record.text, LONGEST_SHOWN),
        repeated,
    )


def _answer(
    value: Mapping[str, Any], fields: Fields, options: list[str], where: str
) -> tuple[str, str]:
    """Return the answer and the form of its key; raise `UserError` if the key has two meanings."""
    raw = _required(value, fields.answer)
    if isinstance(raw, list | tuple) and len(raw) == 1:
        raw = raw[0]
    if isinstance(raw, float) and raw.is_integer():  # of a column with missing values
        raw = int(raw)
    if isinstance(raw, bool):
        raw = _boolean(raw, fields, options)
    key = _text(raw, "answer")
    if not options:
        result = final_value(key)
        return (key, "text") if result is None else (result, "the result that a solution marks")
    forms = _forms(fields)
    meanings = {
        kind: option
        for kind in forms
        if (option := READINGS[kind](key, value, fields, options)) is not None
    }
    if len(set(meanings.values())) > 1:
        listed = " and ".join(f"{option!r} by its {kind}" for kind, option in meanings.items())
        raise UserError(
            f"{where}: the answer {key!r} is {listed}; set answer_is in the data set's `fields` to "
            f"{' or '.join(meanings)}"
        )
    for kind, option in meanings.items():
        return option, kind
    if key == "-1":
        raise BadRowError("answer: -1, which means that there is no label")
    first, last = fields.first_index, fields.first_index + len(options) - 1
    expected = {
        ("name",): f"none of the names in {fields.option_names}",
        ("letter",): f"not one of the first {len(options)} letters",
        ("index",): f"not an index from {first} to {last}",
    }
    reason = next((v for k, v in expected.items() if k == forms), "not one of the options")
    unused = fields.options[len(options) :] if isinstance(fields.options, list) else []
    empty = f" (empty: {', '.join(unused)})" if unused else ""
    raise BadRowError(f"answer {key!r} is {reason}{empty}")


def _boolean(key: bool, fields: Fields, options: list[str]) -> str | int:
    """Return what true or false means: its own word, yes or no, or where it is an index, 1 or 0."""
    forms = _forms(fields)
    if forms == ("index",):
        return int(key) + fields.first_index
    if forms == ("name",):
        return str(key)
    words = ("true", "yes") if key else ("false", "no")
    matches = [option for option in dict.fromkeys(options) if option.casefold() in words]
    if len(matches) == 1:
        return matches[0]
    raise BadRowError(
        f"answer: {str(key).lower()} is none of the options; if false means the first option and "
        "true the second, set fields.answer_is to index"
    )


def _forms(fields: Fields) -> tuple[str, ...]:
    """Return the forms that a key may have: the one declared, or those that nothing excludes."""
    if fields.answer_is:
        return (fields.answer_is,)
    if fields.option_names:
        return ("name",)
    return ("index",) if "first_index" in fields.model_fields_set else ("text", "letter", "index")


def _by_text(key: str, value: Any, fields: Fields, options: list[str]) -> str | None:
    """Return the option with a text; one with a letter before it must be the option of both."""
    distinct = list(dict.fromkeys(options))
    if (option := choose_option(key, distinct)) is not None:
        return option
    letter, text = split_letter(key)
    option = choose_option(text, distinct) if letter else None
    return option if option == _by_letter(letter, value, fields, options) else None


def _by_name(key: str, value: Any, fields: Fields, options: list[str]) -> str | None:
    names = _required(value, fields.option_names or "")
    if not isinstance(names, list) or len(names) != len(options):
        raise BadRowError(f"{fields.option_names}: expected one name for each option")
    names = [appearance(str(name)) for name in names]
    if len(set(names)) < len(names):
        raise BadRowError(f"{fields.option_names}: two options have the same name")
    key = appearance(key)
    if key not in names and (letter := letter_of(key)):
        key, names = letter, [letter_of(name) or name for name in names]
    return options[names.index(key)] if names.count(key) == 1 else None


def _by_letter(key: str, value: Any, fields: Fields, options: list[str]) -> str | None:
    letter = letter_of(key)
    letters = string.ascii_uppercase[: len(options)]
    return options[letters.index(letter)] if letter and letter in letters else None


def _by_index(key: str, value: Any, fields: Fields, options: list[str]) -> str | None:
    index = int(key) - fields.first_index if INDEX.fullmatch(key) else -1
    return options[index] if 0 <= index < len(options) else None


READINGS = {"text": _by_text, "name": _by_name, "letter": _by_letter, "index": _by_index}


def _rationales(
    value: Mapping[str, Any], fields: Fields, others: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return the texts of each teacher; those that are null or missing from a list are left out.

    `others` are those from other files.
    """
    raw: Any
    if isinstance(fields.rationales, dict):
        paths = fields.rationales.items()
        raw = {teacher: _texts_at(value, path) for teacher, path in paths}
    elif "rationales" in fields.model_fields_set:
        raw = _required(value, fields.rationales)
    else:
        raw = follow(value, fields.rationales)
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise BadRowError(
            f"rationales: expected an object of teacher: text, found {type(raw).__name__}"
        )
    texts = {}
    for teacher, written in {**raw, **others}.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", teacher):
            raise BadRowError(
                f"rationales: {teacher!r} is not a valid teacher name (letters, digits, _ and -)"
            )
        listed = written if isinstance(written, list) else [written]
        if len(listed) > MOST_RATIONALES:
            raise BadRowError(
                f"rationales.{teacher}: {len(listed):,} texts; expected at most {MOST_RATIONALES}"
            )
        name = f"rationales.{teacher}"
        own = [_text(text, name, empty=True) for text in listed if text is not None]
        if own:
            texts[teacher] = own
    return texts


def _texts_at(value: Mapping[str, Any], path: str | list[str]) -> Any:
    """Return the field at a path, or those at several, of which all but one may be null."""
    if isinstance(path, str):
        return _required(value, path)
    texts = [follow(value, each) for each in path]
    if all(text is None for text in texts):
        raise BadRowError(f"{', '.join(path)}: missing")
    return texts


def _matches(value: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(follow(value, path) == expected for path, expected in where.items())


def _compose(value: Mapping[str, Any], template: str) -> Any:
    """Return the field at a path, or a template with the fields in its braces filled in."""
    if not PATH.search(template):
        return _required(value, template)

    def fill(match: re.Match[str]) -> str:
        field = _required(value, match[1])
        parts = field if isinstance(field, list | tuple) else [field]
        return "\n".join(_text(part, match[1]) for part in parts)

    return PATH.sub(fill, template)


def _required(value: Mapping[str, Any], path: str) -> Any:
    field = follow(value, path)
    if field is None:
        raise BadRowError(f"{path}: missing")
    return field


def follow(value: Any, path: str) -> Any:
    """Follow a path such as `choices.text`; a step into a list applies to each of its items."""
    for key in [path] if isinstance(value, Mapping) and path in value else path.split("."):
        if isinstance(value, list):
            value = [item.get(key) if isinstance(item, Mapping) else None for item in value]
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Unreadable):
            raise BadRowError(f"{path}: {value.reason}")
    return value


def _text(value: Any, name: str, empty: bool = False) -> str:
    """Return a text or number as a text without surrounding white space."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"{name}: expected a text, found {type(value).__name__}")
    if isinstance(value, float) and not isfinite(value):
        raise BadRowError(f"{name}: expected a text, found {value}, which marks a missing value")
    text = str(value).strip()
    if not appearance(text):
        if empty:
            return ""
        raise BadRowError(f"{name}: nothing but invisible characters" if text else f"{name}: empty")
    if control := CONTROL.search(text):
        raise BadRowError(
            f"{name}: contains U+{ord(control[0]):04X}, a sign of a wrong encoding or a binary file"
        )
    return text


def _digest(*texts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.digest()
