"""Settings files: typed keys read from YAML, and one-line messages that name wrong ones."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from ruamel.yaml import YAML, YAMLError

from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import read_text

EXPECTED = {  # what a value should be, by the type and context of pydantic's error
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a text",
    "string_type": "a text",
    "string_too_short": "at least {min_length} character",
    "too_short": "at least {min_length} entry",
}
OTHER_TYPE = ("_type", "_parsing", "int_from_float", "literal_error")  # ends of types of errors
MANY = 20  # a message lists no more names
LONGEST_FOUND = 100  # characters of a value in a message
MOST_NODES = 100_000  # of a YAML file; the committed params.yaml has some hundreds
# What ruamel raises: its own errors, and those of Python for an impossible date, a number of more
# digits than Python converts, or a tag whose value does not fit.
PARSER_ERRORS = (YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
Keys = tuple[Any, ...]  # keys of mappings and indices of lists


def matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of texts that match a pattern as a whole; `expected` describes them."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


def _refuse_truth_values(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


Name = Annotated[
    str, matching("[A-Za-z0-9_-]+", "letters, digits, - and _ alone (DVC splits names at dots)")
]
Integer = Annotated[int, BeforeValidator(_refuse_truth_values)]  # otherwise true would be 1
Number = Annotated[float, BeforeValidator(_refuse_truth_values), Field(allow_inf_nan=False)]
Count = Annotated[Integer, Field(ge=1)]
Seed = Annotated[Integer, Field(ge=0, lt=2**32)]  # as NumPy takes them


class Settings(BaseModel):
    """A block of a YAML file: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(path: str | Path, kind: type[AnySettings]) -> AnySettings:
    """Read and check a YAML file; raise `UserError` naming every wrong key at once."""
    return check_settings(read_yaml(path), kind, path)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raise `UserError` if it does not."""
    try:
        text = read_text(path)
        if "&" in text:  # anchors, which an alias may repeat without end
            _check_size(YAML(typ="safe", pure=True).compose(text), path)
        values = YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: it is nested too deeply") from None
    except PARSER_ERRORS as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of parameters, found {type(values).__name__}")
    return values


def _check_size(root: Any, path: str | Path) -> None:
    """Raise `UserError` if a YAML file has more than MOST_NODES values, its aliases written out."""
    nodes, count = [root], 0
    while nodes:
        count += 1
        if count > MOST_NODES:
            raise UserError(
                f"{path}: more than {MOST_NODES:,} values, with its aliases written out; write "
                "fewer, and none inside what it repeats"
            )
        value = getattr(nodes.pop(), "value", None)
        if isinstance(value, list):  # of nodes, or of a mapping's pairs of them
            nodes += [
                node for entry in value for node in (entry if isinstance(entry, tuple) else [entry])
            ]


def check_settings(
    values: dict[str, Any], kind: type[AnySettings], where: str | Path
) -> AnySettings:
    """Return checked settings; raise `UserError` naming every wrong key of file `where` at once."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = _explain(error.errors(), values, kind)
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(lines))}") from None


def _explain(errors: Sequence[Any], values: dict[str, Any], kind: type[Settings]) -> list[str]:
    """Return the lines of an error message.

    Each member of a union reports an error. Those of members of another type than the value are
    left out or, if there are no others, become one line.
    """
    by_keys: dict[Keys, list[Any]] = {}
    for details in errors:
        by_keys.setdefault(_keys(details["loc"], values), []).append(details)
    lines, notes = [], []
    for keys, group in by_keys.items():
        others = [details for details in group if not details["type"].endswith(OTHER_TYPE)]
        lines += [_line(details, keys, values, kind) for details in others]
        if not others and not any(longer[: len(keys)] == keys != longer for longer in by_keys):
            expected = " or ".join(dict.fromkeys(map(_expected, group)))
            lines.append(f"{_dotted(keys)}: expected {expected}, {_found(group[0])}")
        if len(keys) > 2 and any(details["type"] == "extra_forbidden" for details in group):
            notes.append(how_to_replace(_dotted(keys[:-1])))
    return lines + notes


def _keys(location: Sequence[Any], values: dict[str, Any]) -> Keys:
    """Return the keys of the file in a location, which also names the members of unions.

    In a catalogue, an entry's name is followed by its `source`.
    """
    node: Any = values
    keys: list[Any] = []
    source = None
    for part in location:
        if part == source:
            source = None
        elif part in _children(node):
            node = node[part]
            keys.append(part)
            source = node.get("source") if isinstance(node, dict) else None
    return tuple(keys)


def _children(node: Any) -> Collection[Any]:
    """Return the keys of a mapping, or the indices of a list."""
    if isinstance(node, list):
        return range(len(node))
    return node if isinstance(node, dict) else ()


def _dotted(keys: Keys) -> str:
    """Return keys as DVC writes them: teachers[0], data.name."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).removeprefix(".")


def _line(details: Any, keys: Keys, values: dict[str, Any], kind: type[Settings]) -> str:
    key, last = _dotted(keys), str(details["loc"][-1]) if details["loc"] else ""
    match details["type"]:
        case "missing":
            return f"{_dotted((*keys, last))}: missing"
        case "extra_forbidden":
            return f"{key}: {unknown_name(last, _fields(keys[:-1], values, kind), 'parameter')}"
        case "union_tag_not_found":
            return f"{key}.source: missing"
        case "union_tag_invalid":
            tags, tag = details["ctx"]["expected_tags"], details["ctx"]["tag"]
            return f"{key}.source: expected one of {tags}, found {tag!r}"
        case "value_error":
            message = details["msg"].removeprefix("Value error, ")
        case _:
            message = f"expected {_expected(details)}"
    if isinstance(details["input"], dict):  # its keys do not fit each other
        return f"{key}: {message}" if keys else message
    return f"{key}: {message}, {_found(details)}"


def _expected(details: Any) -> str:
    template = EXPECTED.get(details["type"])
    return template.format(**details.get("ctx", {})) if template else details["msg"]


def _found(details: Any) -> str:
    """Return what was found and, if that is clear, how to write what was meant."""
    value, kind = details["input"], details["type"]
    if isinstance(value, int) and value.bit_length() > LONGEST_FOUND:
        return "found a number that is too large"  # and for Python to write, perhaps
    text = repr(value) if isinstance(value, str) else str(value)
    if len(text) > LONGEST_FOUND:
        text = f"{text[:LONGEST_FOUND]} …"
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    if isinstance(value, dict):
        return "found a mapping"
    if kind == "list_type" and isinstance(value, str):
        return f"found {text}; write [{value}]"
    if kind in ("string_type", "path_type") and isinstance(value, int | float | date):
        return f"found {text}; write it in quotes"
    return f"found {text}"


def _fields(keys: Keys, values: dict[str, Any], kind: type[Settings]) -> list[str]:
    """Return the names of the parameters allowed under these keys."""
    annotation: Any = kind
    node: Any = values
    for key in keys:
        node = node.get(key, {}) if isinstance(node, dict) else {}
        if hasattr(annotation, "model_fields"):
            field = annotation.model_fields.get(key)
            annotation = _member(field.annotation, node) if field else None
        else:  # a catalogue: names and their entries
            annotation = _member(get_args(annotation)[-1], node) if get_args(annotation) else None
    return list(getattr(annotation, "model_fields", {}))


def _member(annotation: Any, value: Any) -> Any:
    """Return the member of a union that a value's `source` selects; any other annotation as is."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if hasattr(kind, "model_fields")]
    source = value.get("source") if isinstance(value, dict) else None
    return next((kind for kind in kinds if source in _sources(kind)), None)


def _sources(kind: type[Settings]) -> tuple[str, ...]:
    field = kind.model_fields.get("source")
    return get_args(field.annotation) if field else ()


def unknown_name(name: str, valid_names: Iterable[str], kind: str) -> str:
    """Return a message about an unknown name with the nearest known one, or all of them."""
    names = {valid.casefold(): valid for valid in valid_names}
    if near := difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5):
        return f"unknown {kind} {name!r}; did you mean {names[near[0]]!r}?"
    if len(names) > MANY:
        return f"unknown {kind} {name!r}"
    return f"unknown {kind} {name!r}; known: {', '.join(names.values()) or 'none'}"


def how_to_replace(key: str) -> str:
    """Return advice on a mapping with entries left from another run: DVC's `-S` merges mappings."""
    return f"`-S` adds to a mapping in params.yaml; `-S {key}=null -S '{key}={{…}}'` replaces it"
