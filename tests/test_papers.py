"""The recipes of docs/papers.md, run with tiny random T5 models in FLAN-T5's place."""

import json
import re
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from transformers import AutoConfig, AutoTokenizer

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.files import read_asked
from stages.distil.experiments.recipe import Recipe, set_recipe
from stages.distil.interface.parameters import Parameters, load_parameters
from stages.distil.interface.settings import load_settings
from stages.distil.language.student_prompts import question_text
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.storage import tables
from stages.distil.storage.examples import Example
from stages.distil.weights.folders import STUDENT
from tests.conftest import PARAMS, ROOT, question, write_jsonl, write_values
from tests.students import prompt_of
from tests.test_methods import run_stages
from tests.test_pipeline import dvc, make_project, reproduced

PAGE = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
RECIPES = {
    name: load_settings(ROOT / f"configs/{name}.yaml", Recipe).changes
    for name in ("tinyllm", "step-by-step", "saliency-tokens")
}
[WITH_TEACHERS] = [
    YAML(typ="safe").load(block)
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    if "teachers=" in block
]
REVISIONS = {  # as several public projects pin them
    "google/flan-t5-small": "0fc9ddf78a1e988dac52e2dac162b0ede4fd74ab",
    "google/flan-t5-base": "7bcac572ce56db69c1ea7c8af255c5d7c9672fc2",
    "google/flan-t5-large": "0613663d0d48ea86ba8cb3d7a44f0f65dc596a2a",
    "google/flan-t5-xl": "7d6315df2c2fb742f0f5b556879d730926ca9001",
    "google/t5-v1_1-base": "b5fc947a416ea3cb079532cb3c2bbadeb7f800fc",
    "meta-llama/Llama-2-7b-chat-hf": "f5db02db724555f92da89c216ac04704f23d4590",
}


def parameters(folder: Path, overrides: list[str], **more) -> Parameters:
    """Return the committed parameters with these overrides and values, KEY__KEY: value."""
    file = folder / "params.yaml"
    shutil.copy(PARAMS, file)
    apply_overrides(file, overrides)
    values = YAML(typ="safe").load(file)
    prompts = values["rationales"]["prompts"]
    values["rationales"]["prompts"] = {name: str(ROOT / path) for name, path in prompts.items()}
    changed = {name.replace("__", "/"): value for name, value in more.items()}
    return load_parameters(write_values(folder, values, changed))


def test_the_page_has_the_command_of_each_recipe():
    commands = re.findall(r"^make repro CONFIG=configs/(.*)\.yaml$", PAGE, re.MULTILINE)
    assert commands == list(RECIPES)


def test_every_named_model_has_a_pinned_revision():
    files = [PARAMS, ROOT / "stages/figures/paper.yaml"]
    files += [ROOT / f"configs/{name}.yaml" for name in RECIPES]
    texts = [PAGE, *(file.read_text(encoding="utf-8") for file in files)]
    for text in texts:
        named = re.findall(r"id: ((?:google/|meta-llama)[\w./-]+), revision: (\w+)", text)
        assert named
        assert all(REVISIONS[name] == revision for name, revision in named)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_is_valid_and_fetches_from_the_hub(name, tmp_path):
    found = parameters(tmp_path, RECIPES[name])
    assert found.models[found.student.model].source == "hub"
    assert (found.train.steps(78), found.train.warmup, found.train.batch_size) == (10_000, 0, 64)


def test_the_teachers_may_write_themselves(tmp_path):
    keys = {change.partition("=")[0] for change in WITH_TEACHERS}
    kept = [change for change in RECIPES["tinyllm"] if change.partition("=")[0] not in keys]
    assert "teachers" in keys and "student.prompt.prefixes" in keys
    found = parameters(tmp_path, [*kept, *WITH_TEACHERS])
    assert [found.models[teacher].source for teacher in found.teachers] == ["hub", "hub"]
    prompt = PromptFile(found.rationales.prompts.rationale)
    example = Example("1", "train", "The sun is", ["red", "hot"], "hot")
    expected = (
        "Question:\nThe sun is\nOptions:\n(a) red\n(b) hot\nAnswer:\nb\nRationale:\n"
        "Let's think step by step."
    )
    assert prompt.conversation(example).user == expected
    free = prompt.conversation(Example("1", "train", "The sun is", [], "hot")).user
    assert "Options" not in free
    assert "Answer:\nhot\n" in free


@pytest.fixture
def run(tmp_path, tiny_t5, monkeypatch):
    """Run a recipe with tiny models, a few questions and steps; return its parameters."""
    monkeypatch.chdir(tmp_path)

    def rows(split: str, count: int) -> list[dict]:
        texts = {"flan-t5-xl": "It is so.", "llama2-7b": "Let us see. It is red, or not"}
        texts["palm-540b"] = "So the answer is red."
        return [question(n, split, rationales=texts) for n in range(count)]

    write_jsonl(
        tmp_path / "balls",
        train=rows("train", 9),
        validation=rows("validation", 3),
        test=rows("test", 4),
    )

    def start(name: str) -> Parameters:
        data = {"source": "files", "folder": str(tmp_path / "balls")}
        overrides = RECIPES[name]
        asked = parameters(tmp_path, overrides)
        models = {
            key: {"source": "folder", "path": str(tiny_t5)}
            if asked.models[key].source != "provided"
            else {"source": "provided"}
            for key in {
                *asked.teachers,
                asked.student.model,
                asked.saliency.teacher,
                asked.assemble.scorer,
            }
        }
        found = parameters(
            tmp_path,
            overrides,
            models=models,
            datasets={asked.data.name: data},
            train__max_steps=4,
            train__batch_size=4,
            rationales__max_tokens=8,
            evaluate__max_tokens=6,
            saliency__dtype="float32",
            rationales__dtype="float32",
        )
        run_stages(found)
        return found

    return start


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_trains_what_the_paper_trains(name, run):
    found = run(name)
    losses = {file.stem for file in Path("results/train").rglob("loss/*.tsv")}
    taught = {
        "tinyllm": {"flan-t5-xl", "llama2-7b"},
        "step-by-step": {"palm-540b"},
        "saliency-tokens": {"saliency"},
    }
    assert losses == {"total", "answer"} | taught[name]
    summary = json.loads(Path("results/train/metrics.json").read_text())
    assert summary["step"] == 4
    metrics = json.loads(Path("results/metrics.json").read_text())
    assert metrics["student"]["questions"] == 4

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    encoder = Encoder(AutoConfig.from_pretrained(STUDENT), tokenizer, found.student)
    example = tables.read_examples("test")[0]
    asked = question_text(example.question, example.options, found.student.prompt)
    assert "\nAnswer Choices:\n(a) red\n(b) green\n(c) blue" in asked
    tokens = tokenizer(f"predict: {asked}")["input_ids"]
    assert read_asked("test")[0].prompt.context == tokens
    assert prompt_of(encoder, vars(example), 6).context == tokens
    if name == "tinyllm":
        first = tables.read_table(tables.distill_table("train"))[0]
        assert {r["teacher"] for r in first["rationales"]} == {"flan-t5-xl", "llama2-7b"}


@pytest.mark.slow
def test_a_recipe_runs_under_dvc_with_a_model_that_it_adds(tmp_path, tiny_t5, monkeypatch):
    """The catalogue has no student of the paper: `+models.…` adds it, and it is fetched alone."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copytree(tiny_t5, folder / "tiny")
    texts = {"flan-t5-xl": "It is so.", "llama2-7b": "It is red, or not"}
    counts = {"train": 6, "validation": 2, "test": 3}
    rows = {
        split: [question(n, split, rationales=texts) for n in range(count)]
        for split, count in counts.items()
    }
    write_jsonl(folder / "balls", **rows)
    local = {"source": "folder", "path": "tiny"}
    values = YAML(typ="safe").load(PARAMS)
    provided = {name: values["models"][name] for name in texts}
    values["models"] = provided | {"smollm2-135m": local, "qwen-coder-0b5": local, "unused": local}
    values["datasets"] = {"obqa": {"source": "files", "folder": "balls", "sizes": {"test": 1}}}
    values["saliency"]["dtype"] = "float32"
    make_project(folder, values)
    lines = [
        re.sub(r"(\+models.flan-t5-small=).*", r"\1{source: folder, path: tiny}", change)
        .replace("max_steps=10000", "max_steps=3")
        .replace("sizes.validation=null", "sizes.test=null")
        for change in RECIPES["tinyllm"]
    ]
    (folder / "tiny.yaml").write_text(json.dumps({"changes": lines}))
    monkeypatch.chdir(folder)
    set_recipe(Path("tiny.yaml"))
    ran = reproduced(dvc(folder, "repro", "evaluate"))
    assert {"fetch@flan-t5-small", "train", "evaluate"} <= set(ran)
    assert "fetch@unused" not in ran
    metrics = json.loads((folder / "results/metrics.json").read_text())
    assert metrics["student"]["questions"] == 3
