"""Settings files: typed keys read from YAML."""

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from ruamel.yaml import YAML, YAMLError

from stages.distil.interface.errors import UserError
from stages.distil.interface.messages import Checked, explain
from stages.distil.interface.paths import read_text

MOST_NODES = 100_000  # of a YAML file; the committed params.yaml has some hundreds
# What ruamel raises: its own errors, and those of Python for an impossible date, a number of more
# digits than Python converts, or a tag whose value does not fit.
PARSER_ERRORS = (YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


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

    @model_validator(mode="before")
    @classmethod
    def _note_block(cls, values: Any, info: ValidationInfo) -> Any:
        """Note which class checks a block, for the message about a key that it does not have."""
        if info.context is not None:
            info.context.append((values, cls))
        return values


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
    checked: Checked = []
    try:
        return kind.model_validate(values, context=checked)
    except ValidationError as error:
        lines = explain(error.errors(), values, checked)
        raise UserError(f"{where}: {'; '.join(lines)}") from None
