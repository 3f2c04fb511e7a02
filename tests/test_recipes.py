"""The recipes in configs/, and the command that sets their parameters.

tests/test_papers.py runs those of the papers.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.distil.experiments.recipe import Recipe, set_recipe
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.interface.settings import load_settings
from tests.conftest import PARAMS, ROOT, question, write_jsonl, write_values
from tests.openai_server import Fault, Teacher, serve
from tests.test_methods import run_stages

FILES = sorted(
    file for file in (ROOT / "configs").glob("*.yaml") if "\nchanges:" in file.read_text()
)
RECIPES = {file.stem: file for file in FILES if file.stem != "check"}
OWN = {"own": {"source": "files", "folder": "balls"}}  # as `make own` writes it


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with the committed params.yaml and an entry for one's own questions."""
    monkeypatch.chdir(tmp_path)
    values = YAML(typ="safe").load(PARAMS)
    values["datasets"] |= OWN
    write_values(tmp_path, values, {})
    shutil.copytree(ROOT / "stages/prompts", tmp_path / "stages/prompts")
    return tmp_path


def test_the_recipes_are_found():
    named = {"own", "two-teachers", "thinking", "tinyllm", "saliency-tokens", "step-by-step", "ray"}
    assert set(RECIPES) == named


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_its_command_and_needs_and_is_valid(name, project):
    head = RECIPES[name].read_text(encoding="utf-8").partition("\nchanges:")[0]
    assert f"#   make repro CONFIG=configs/{name}.yaml\n" in head
    assert re.search(r"^# Needs .*", head, re.MULTILINE)
    before = load_parameters("params.yaml")
    set_recipe(RECIPES[name])
    after = load_parameters("params.yaml")
    assert after != before
    set_recipe(RECIPES[name])
    assert load_parameters("params.yaml") == after


def test_the_changes_are_printed_and_comments_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS, tmp_path)
    Path("mine.yaml").write_text('changes: [alpha=0.25, "teachers=[oracle]", saliency.weight=0]\n')
    set_recipe(Path("mine.yaml"))
    assert capsys.readouterr().out.splitlines() == [
        "mine.yaml: 3 parameters changed in params.yaml",
        "  alpha: 1.0 → 0.25",
        "  teachers: ['qwen-coder-1b5', 'qwen-coder-0b5'] → ['oracle']",
        "  saliency.weight: 0.1 → 0",
    ]
    text = PARAMS.read_text(encoding="utf-8")
    expected = text.replace("alpha: 1.0\n", "alpha: 0.25\n", 1)
    expected = expected.replace("- qwen-coder-1b5\n- qwen-coder-0b5\n", "- oracle\n", 1)
    expected = re.sub(r"weight: 0\.1 ( *# λ)", r"weight: 0   \1", expected)
    lines = [re.sub(r" +", " ", line) for line in Path("params.yaml").read_text().splitlines()]
    assert lines == [re.sub(r" +", " ", line) for line in expected.splitlines()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("distributed_type: FSDP", "mine.yaml: no recipe: .* found distributed_type"),
        ("changes: [alfa=1]", r"mine.yaml: .*alfa"),
        ("changes: [alpha=-1]", "mine.yaml: alpha: expected at least 0"),
        ("changes: [data.name=mine]", "mine.yaml: data.name: unknown data set"),
    ],
)
def test_a_recipe_that_cannot_be_set_changes_nothing(content, message, project):
    before = Path("params.yaml").read_bytes()
    Path("mine.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        set_recipe(Path("mine.yaml"))
    assert Path("params.yaml").read_bytes() == before


def thought(number: int, body: dict) -> Fault:
    """Return a reply after a thought, of a teacher that takes every answer to be red."""
    content = f"<think>\nStep {number} leads to red.\n</think>\n\nThis is why. Answer: red"
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    return 200, json.dumps(answer | {"choices": [choice]}).encode(), {}


def write_tiny(name: str, model: Path, url: str) -> Path:
    """Write a recipe with tiny models in the named ones' places; return its file.

    A teacher is a server at `url`, unless it scores words: those of questions, since a tiny model's
    rationales are unsound.
    """
    changes = load_settings(RECIPES[name], Recipe).changes
    set_recipe(RECIPES[name])
    asked = load_parameters("params.yaml")
    folder = f"{{source: folder, path: {model}}}"
    models = dict.fromkeys([asked.student.model, asked.assemble.scorer], folder)
    if asked.saliency.weight:
        models[asked.saliency.teacher] = folder
    for teacher in asked.teachers:
        models.setdefault(teacher, f"{{source: server, url: {url}, model: {teacher}}}")
    lines = [change for change in changes if not change.startswith(("+models.", "data.name="))]
    for key, entry in models.items():
        lines += [f"++models.{key}=null", f"++models.{key}={entry}"]
    lines += ["data.name=own", "rationales.backend=transformers", "train.epochs=1"]
    lines += ["saliency.of=question"] if asked.saliency.weight else []
    lines += [f"{block}.dtype=float32" for block in ("rationales", "saliency", "student")]
    lines += ["student.context=1024", "evaluate.max_tokens=4", "evaluate.reasoning_tokens=8"]
    file = Path(f"{name}.yaml")
    file.write_text(json.dumps({"changes": lines}))
    return file


def write_balls(folder: Path) -> None:
    counts = {"train": 9, "validation": 2, "test": 3}
    splits = {split: [question(n, split) for n in range(size)] for split, size in counts.items()}
    write_jsonl(folder / "balls", **splits)


@pytest.mark.parametrize(
    ("name", "taught"),
    [
        ("own", {"api"}),
        ("two-teachers", {"qwen-7b", "saliency"}),
        ("thinking", {"qwen3-8b", "r1-7b"}),
    ],
)
def test_a_recipe_trains_with_tiny_models(name, taught, project, tiny_model):
    write_balls(project)
    original = Path("params.yaml").read_bytes()
    teacher = Teacher(thought) if name == "thinking" else Teacher()
    with serve(teacher) as url:
        file = write_tiny(name, tiny_model, url)
        Path("params.yaml").write_bytes(original)
        set_recipe(file)
        parameters = load_parameters("params.yaml")
        used = {key: parameters.models[key] for key in parameters.used_models}
        assert {model.source for model in used.values()} == {"folder", "server"}
        run_stages(parameters.model_copy(update={"models": used}))
    losses = {curve.stem for curve in Path("results/train").rglob("loss/*.tsv")}
    assert losses - {"total", "answer"} == taught
    metrics = json.loads(Path("results/metrics.json").read_text())
    assert metrics["student"]["questions"] == 3
    if name == "thinking":
        assert metrics["teachers"]["r1-7b"]["rationales"]["ok"] == 3
        assert "reasoned" in metrics["student"]
