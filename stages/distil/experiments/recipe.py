"""Set the parameters of a recipe in params.yaml: `make repro CONFIG=configs/thinking.yaml`."""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.escaping import for_terminal
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.paths import PARAMETERS
from stages.distil.interface.settings import Settings, check_settings, read_yaml
from stages.distil.storage.tables import write_text


class Recipe(Settings):
    """A file of changes to params.yaml, such as those in configs/."""

    changes: list[str] = Field(min_length=1, description="as after `-S`")


def set_recipe(file: Path) -> None:
    """Write a recipe's parameters into params.yaml and print those that this changes.

    Raises `UserError` if it is no recipe, or if the parameters do not fit together; params.yaml
    then stays as it is.
    """
    given = read_yaml(file)
    if "changes" not in given:
        found = ", ".join(map(str, given))[:200]
        raise UserError(
            f"{file}: no recipe: expected a list `changes`, found {found}; see configs/own.yaml"
        )
    recipe = check_settings(given, Recipe, file)
    before = read_yaml(PARAMETERS)
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / PARAMETERS.name
        shutil.copy(PARAMETERS, changed)
        apply_changes(changed, recipe.changes, str(file))
        after = read_yaml(changed)
        check_settings(after, Parameters, file)
        lines = list(_differences(before, after))
        if lines:
            write_text(PARAMETERS, changed.read_text(encoding="utf-8"))
    print(f"{file}: {len(lines) or 'no'} parameters changed in {PARAMETERS}")
    for line in lines:
        print(f"  {for_terminal(line)}")


def apply_changes(file: Path, changes: Iterable[str], where: str) -> None:
    """Change a file of parameters in place, as DVC does after `-S`; its comments stay.

    Raises `UserError` that begins with `where` if a change cannot be read or has no such parameter.
    """
    from dvc.exceptions import InvalidArgumentError
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(file, list(changes))
    except InvalidArgumentError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{where}: {reason}") from None


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each parameter that differs."""
    old, new = dict(flat(before)), dict(flat(after))
    for key in new | old:
        if old.get(key) != new.get(key):
            yield f"{key}: {_shown(old, key)} → {_shown(new, key)}"


def _shown(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    value = values[key]
    return "null" if value is None else str(value)


def flat(block: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every parameter below a block by its full name."""
    for name, value in block.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def main() -> int:
    """Parse the command line, run, and return the exit code."""
    parser = command_line("python -m stages.distil.experiments.recipe", __doc__)
    parser.add_argument("file", type=Path, help="a file such as configs/thinking.yaml")
    given = parser.parse_args()
    return report_errors("recipe", given.debug, lambda: set_recipe(given.file))


if __name__ == "__main__":
    sys.exit(main())
