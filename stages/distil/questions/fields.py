"""From a record to a question: which field is what, and what makes a record no question.

Knows the field mapping of params.yaml; knows nothing of files or of hubs.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from stages.distil.interface.catalogue import Fields, Files, Hub
from stages.distil.storage.examples import Example, Record, Rejected

PATH = re.compile(r"\{([^{}]+)\}")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ud800-\udfff]")


class BadRowError(ValueError):
    """Why a record is no question."""


class _RepeatedError(BadRowError):
    """The question was met before."""


class Questions:
    """Turn the records of a data set into questions, one split after the other.

    Test is to come first and train last: an id or a question met before is refused, so that a
    question standing in two splits leaves train. `tally` counts what was done on the way.
    """

    def __init__(self, settings: Files | Hub, max_characters: int, tally: Counter[str]):
        self._settings = settings
        self._max_characters = max_characters
        self._tally = tally
        self._ids: set[bytes] = set()
        self._questions: dict[bytes, str] = {}  # 16 bytes a question, however long it is

    def accept(self, records: Iterable[Record]) -> Iterator[Example | Rejected]:
        """Yield each record of a split as a question or as a refused row."""
        settings = self._settings
        number = 0
        for record in records:
            if record.error:
                yield Rejected(record.source, record.row, record.error, record.text)
                continue
            try:
                if not isinstance(record.value, Mapping):
                    kind = type(record.value).__name__
                    raise BadRowError(f"expected an object with fields, found {kind}")
                if not _chosen(record.value, settings.where):
                    self._tally["left out by where"] += 1
                    continue
                example, kind = to_example(record.value, settings.fields, record, number)
                self._check(example)
            except BadRowError as error:
                again = isinstance(error, _RepeatedError)
                yield Rejected(record.source, record.row, str(error), record.text, again)
                continue
            number += 1
            self._tally[f"answer by {kind}"] += 1
            yield example

    def _check(self, example: Example) -> None:
        texts = [example.question, *example.options, example.answer]
        length = sum(map(len, texts))
        if length > self._max_characters:
            raise BadRowError(
                f"{length:,} characters in question and options; data.max_characters is "
                f"{self._max_characters:,}"
            )
        name = _digest(example.id)
        if name in self._ids:
            raise BadRowError(f"id {example.id!r} stands on an earlier row")
        question = _digest(
            *(" ".join(t.casefold().split()) for t in [example.question, *sorted(example.options)])
        )
        if split := self._questions.get(question):
            where = "on an earlier row" if split == example.split else f"in {split} too"
            raise _RepeatedError(f"the same question stands {where}")
        self._ids.add(name)
        self._questions[question] = example.split


def to_example(
    value: Mapping[str, Any], fields: Fields, record: Record, number: int
) -> tuple[Example, str]:
    """Return a record as a question, and how its answer was given: text, name, letter, index."""
    question = _text(_compose(value, fields.question), "question")
    options = _options(value, fields)
    answer, kind = _answer(value, fields, options)
    if fields.id is None:
        name = f"{record.split}-{number:06d}"
    else:
        name = _text(_look_up(value, fields.id, fields.id), fields.id)
    return Example(name, record.split, question, options, answer, _rationales(value, fields)), kind


def _options(value: Mapping[str, Any], fields: Fields) -> list[str]:
    where = fields.options
    if fields.fixed_options:
        return list(fields.fixed_options)
    if isinstance(where, list):
        found: Any = [_look_up(value, path, path) for path in where]
    elif "options" in fields.model_fields_set:
        found = _look_up(value, where, where)
    else:
        found = value.get(where)
    if found is None:
        return []
    if not isinstance(found, list | tuple):
        raise BadRowError(f"options: expected a list of texts, found {type(found).__name__}")
    options = [_text(option, f"options[{place}]") for place, option in enumerate(found)]
    if len(set(options)) < len(options):
        raise BadRowError("two options are equal")
    if len(options) == 1:
        raise BadRowError("only one option; a question has two or more, or none when free-form")
    return options


def _answer(value: Mapping[str, Any], fields: Fields, options: list[str]) -> tuple[str, str]:
    found = _look_up(value, fields.answer, fields.answer)
    if isinstance(found, list | tuple) and len(found) == 1:
        found = found[0]
    if not options:
        return _text(found, "answer"), "text"
    text = _text(found, "answer")
    if text in options:
        return text, "text"
    alike = [option for option in options if option.casefold() == text.casefold()]
    if len(alike) == 1:
        return alike[0], "text"
    if fields.option_names:
        names = _look_up(value, fields.option_names, fields.option_names)
        if not isinstance(names, list) or len(names) != len(options):
            raise BadRowError(f"{fields.option_names}: expected one name for each of the options")
        names = [str(name).strip() for name in names]
        if text in names:
            return options[names.index(text)], "name"
    elif len(text) == 1 and text in string.ascii_letters:
        place = string.ascii_uppercase.index(text.upper())
        if place < len(options):
            return options[place], "letter"
    if re.fullmatch(r"-?\d+", text):
        place = int(text) - fields.first_index
        if 0 <= place < len(options):
            return options[place], "index"
        if int(text) == -1:
            raise BadRowError("answer: -1, which stands for no label")
    raise BadRowError(f"answer {text!r} is none of the options")


def _rationales(value: Mapping[str, Any], fields: Fields) -> dict[str, str]:
    if isinstance(fields.rationales, dict):
        found: Any = {
            teacher: _look_up(value, path, path) for teacher, path in fields.rationales.items()
        }
    elif "rationales" in fields.model_fields_set:
        found = _look_up(value, fields.rationales, fields.rationales)
    else:
        found = value.get(fields.rationales)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise BadRowError(f"rationales: expected teacher: text, found {type(found).__name__}")
    texts = {}
    for teacher, text in found.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", teacher):
            raise BadRowError(
                f"rationales: {teacher!r} is no teacher's name (letters, digits, _ and -)"
            )
        if text is not None:
            texts[teacher] = _text(text, f"rationales.{teacher}", empty=True)
    return texts


def _chosen(value: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(_follow(value, path) == wanted for path, wanted in where.items())


def _compose(value: Mapping[str, Any], template: str) -> Any:
    """Return the field that a path names, or a text with the fields in its braces filled in."""
    if not PATH.search(template):
        return _look_up(value, template, template)

    def fill(match: re.Match[str]) -> str:
        found = _look_up(value, match[1], match[1])
        parts = found if isinstance(found, list | tuple) else [found]
        return "\n".join(_text(part, match[1]) for part in parts)

    return PATH.sub(fill, template)


def _look_up(value: Mapping[str, Any], path: str, name: str) -> Any:
    found = _follow(value, path)
    if found is None:
        raise BadRowError(f"{name}: missing")
    return found


def _follow(value: Any, path: str) -> Any:
    """Follow a path such as `choices.text`; a step into a list is taken for each of its members."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for key in path.split("."):
        if isinstance(value, list):
            value = [item.get(key) if isinstance(item, Mapping) else None for item in value]
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _text(value: Any, name: str, empty: bool = False) -> str:
    """Return a text without white space around it; numbers are texts too."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRowError(f"{name}: expected a text, found {type(value).__name__}")
    text = str(value).strip()
    if not text and not empty:
        raise BadRowError(f"{name}: empty")
    if wrong := CONTROL.search(text):
        raise BadRowError(
            f"{name}: holds U+{ord(wrong[0]):04X}, the mark of a wrong encoding or a binary file"
        )
    return text


def _digest(*texts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.digest()
