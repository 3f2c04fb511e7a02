"""One-line messages about wrong settings, from the errors of pydantic."""

import difflib
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from pydantic_core import ErrorDetails

from stages.distil.interface.escaping import cut

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

Keys = tuple[Any, ...]  # keys of mappings and indices of lists
Checked = list[tuple[Any, type[Any]]]  # each block of values, and the class that checked it


def explain(
    errors: Sequence[ErrorDetails], values: dict[str, Any], checked: Checked
) -> Iterable[str]:
    """Return the lines of an error message, each once.

    Each member of a union reports an error about the same keys. If the value has the type of some
    members, theirs are the lines; otherwise one line names what all members expect, unless there
    are lines about what is inside the value.
    """
    by_keys: dict[Keys, list[ErrorDetails]] = {}
    for error in errors:
        by_keys.setdefault(_keys(error, values), []).append(error)
    lines, notes = [], []
    for keys, group in by_keys.items():
        suitable = [error for error in group if not error["type"].endswith(OTHER_TYPE)]
        if suitable:
            lines += [_line(error, keys, values, checked) for error in suitable]
        elif not any(_is_inside(other, keys) for other in by_keys):
            expected = " or ".join(dict.fromkeys(map(_expected, group)))
            lines.append(f"{_dotted(keys)}: expected {expected}, {_found(group[0])}")
        if len(keys) > 2 and any(error["type"] == "extra_forbidden" for error in group):
            notes.append(how_to_replace(_dotted(keys[:-1])))
    return dict.fromkeys(lines + notes)


def _keys(error: ErrorDetails, values: dict[str, Any]) -> Keys:
    """Return the keys of the file in an error's location.

    The location also names the members of unions, which are no keys of the file, and after the name
    of a catalogue's entry its `source`, which may also be one of its keys (`package`).
    """
    keys: list[Any] = []
    node: Any = values
    source = None  # of an entry, until it was met
    for part in error["loc"]:
        if part == source:
            source = None
        elif _holds(node, part):
            keys.append(part)
            node = node[part]
            source = node.get("source") if isinstance(node, dict) else None
    return tuple(keys)


def _holds(node: Any, key: Any) -> bool:
    """Return whether a mapping or a list has this key or index."""
    if isinstance(node, list):
        return isinstance(key, int) and key < len(node)
    return isinstance(node, dict) and key in node


def _is_inside(keys: Keys, outer: Keys) -> bool:
    return len(keys) > len(outer) and keys[: len(outer)] == outer


def _dotted(keys: Keys) -> str:
    """Return keys as DVC writes them: teachers[0], data.name."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).removeprefix(".")


def _line(error: ErrorDetails, keys: Keys, values: dict[str, Any], checked: Checked) -> str:
    """Return the line about one error."""
    key, last = _dotted(keys), str(error["loc"][-1]) if error["loc"] else ""
    match error["type"]:
        case "missing":
            return f"{_dotted((*keys, last))}: missing"
        case "extra_forbidden":
            return f"{key}: {unknown_name(last, _fields(keys[:-1], values, checked), 'parameter')}"
        case "union_tag_not_found":
            return f"{key}.source: missing"
        case "union_tag_invalid":
            tags, tag = error["ctx"]["expected_tags"], error["ctx"]["tag"]
            return f"{key}.source: expected one of {tags}, found {tag!r}"
        case "value_error":
            message = error["msg"].removeprefix("Value error, ")
        case _:
            message = f"expected {_expected(error)}"
    if isinstance(error["input"], dict):  # its keys do not fit each other
        return f"{key}: {message}" if keys else message
    return f"{key}: {message}, {_found(error)}"


def _fields(keys: Keys, values: dict[str, Any], checked: Checked) -> Iterable[str]:
    """Return the names of the parameters allowed in the block under these keys."""
    block: Any = values
    for key in keys:
        block = block[key]
    return next((kind.model_fields for other, kind in checked if other is block), {})


def _expected(error: ErrorDetails) -> str:
    template = EXPECTED.get(error["type"])
    return template.format(**error.get("ctx", {})) if template else error["msg"]


def _found(error: ErrorDetails) -> str:
    """Return what was found and, if that is clear, how to write what was meant."""
    value, kind = error["input"], error["type"]
    if isinstance(value, int) and value.bit_length() > LONGEST_FOUND:
        return "found a number that is too large"  # and for Python to write, perhaps
    text = repr(value) if isinstance(value, str) else str(value)
    text = {"None": "null", "True": "true", "False": "false"}.get(text, cut(text, LONGEST_FOUND))
    if isinstance(value, dict):
        return "found a mapping"
    if kind == "list_type" and isinstance(value, str):
        return f"found {text}; write [{value}]"
    if kind in ("string_type", "path_type") and isinstance(value, int | float | date):
        return f"found {text}; write it in quotes"
    return f"found {text}"


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
