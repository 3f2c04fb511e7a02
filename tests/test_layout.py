"""The layout: imports between rooms, dependencies of stages, size of modules."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

DISTIL = ROOT / "stages/distil"
ROOMS = sorted(path.parent for path in DISTIL.glob("*/__init__.py"))
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
LINTER = str(Path(sys.executable).parent / "lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([LINTER, "--no-cache"], cwd=folder, capture_output=True, text=True)


def test_a_room_imports_only_rooms_below_it():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        (
            "language/words.py",
            "from stages.distil.encoding import samples",
            "distil.language.words -> stages.distil.encoding.samples",
        ),
        (
            "teachers/writer.py",
            "from stages.distil.attribution import prompts",
            "distil.teachers.writer -> stages.distil.attribution.prompts",
        ),
        ("models/lora.py", "import stages.train", "distil.models.lora -> stages.train"),
    ],
)
def test_an_import_in_the_wrong_direction_is_an_error(tmp_path, module, line, broken):
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "stages/distil" / module).open("a") as file:
        file.write(f"{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert broken in result.stdout


def imported(path: Path) -> set[Path]:
    """Return the project's modules that a module imports."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stages"):
            base = ROOT / node.module.replace(".", "/")
            candidates = [base / f"{alias.name}.py" for alias in node.names]
            candidates.append(base.with_suffix(".py"))
            modules |= {candidate for candidate in candidates if candidate.is_file()}
    return modules


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_rooms_that_it_imports(name):
    needed, todo = set(), [ROOT / f"stages/{name}.py"]
    while todo:
        path = todo.pop()
        if path not in needed:
            needed.add(path)
            todo += imported(path)
    rooms = {str(path.parent.relative_to(ROOT)) for path in needed} - {"stages"}
    declared = [
        dep
        for dep in STAGES[name].get("do", STAGES[name])["deps"]
        if dep.startswith("stages/") and not dep.endswith(".jinja")
    ]
    assert set(declared) == {f"stages/{name}.py"} | rooms - {"stages/distil/interface"}


def test_every_module_of_the_library_is_in_a_room():
    assert {path.name for path in DISTIL.glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_documents_its_purpose_and_imports(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert "import" in text.lower()
    assert len(text.splitlines()) <= 5
