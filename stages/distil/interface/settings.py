"""Settings files: typed keys read from YAML, and one-line messages that name wrong ones."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from stages.distil.interface.errors import UserError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]  # no dots: DVC splits keys on them


def _refuse_truth_values(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are not numbers")
    return value


Integer = Annotated[int, BeforeValidator(_refuse_truth_values)]  # otherwise true would be 1
Number = Annotated[float, BeforeValidator(_refuse_truth_values)]
Count = Annotated[Integer, Field(ge=1)]


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
        with open(path, encoding="utf-8") as file:
            values = YAML(typ="safe", pure=True).load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the project's folder") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of parameters, found {type(values).__name__}")
    return values


def check_settings(
    values: dict[str, Any], kind: type[AnySettings], where: str | Path
) -> AnySettings:
    """Return checked settings; raise `UserError` naming every wrong key of file `where` at once."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(details, values, kind) for details in error.errors()]
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(lines))}") from None


def _explain(details: Any, values: dict[str, Any], kind: type[Settings]) -> str:
    # The location also names the chosen members of unions; keep only what is in the file.
    node: Any = values
    keys = []
    for part in details["loc"]:
        if isinstance(node, dict) and part in node or isinstance(node, list):
            node = node[part]
            keys.append(str(part))
    wrong = details["loc"][-1] if details["loc"] else ""
    if details["type"] == "missing":
        return f"{'.'.join([*keys, str(wrong)])}: missing"
    if details["type"] == "extra_forbidden":
        allowed = _fields(keys[:-1], values, kind)
        return f"{'.'.join(keys)}: {unknown_name(str(wrong), allowed, 'parameter')}"
    message = details["msg"].removeprefix("Value error, ")
    if not keys:
        return message
    return f"{'.'.join(keys)}: {message[0].lower()}{message[1:]}, found {details['input']!r}"


def _fields(keys: list[str], values: dict[str, Any], kind: type[Settings]) -> list[str]:
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
    near = difflib.get_close_matches(name, list(valid_names), n=1, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}; known: {', '.join(valid_names) or 'none'}"
