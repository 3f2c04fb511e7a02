"""benchmarks.gpu.check: its sections in their small form, and how failures are recorded."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.gpu import check, speed
from benchmarks.gpu.shapes import SHAPES, make_model
from tests.conftest import BARE, ROOT


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Run commands in the place of the sections; return what is recorded, without the times."""

    def run(commands: dict, seconds: float = 60) -> tuple[bool, list[dict]]:
        jobs = {
            name: command if isinstance(command, check.Job) else check.Job(command)
            for name, command in commands.items()
        }
        monkeypatch.setattr(check, "plan", lambda _: jobs)
        arguments = SimpleNamespace(output=tmp_path / "out/check.jsonl", seconds=seconds)
        succeeded = check.check(arguments)
        first, *others = records(arguments.output)
        assert first["section"] == "machine"
        return succeeded, [
            {key: value for key, value in record.items() if key != "seconds"} for record in others
        ]

    return run


def test_a_section_finds_packages_in_a_relative_folder(checked, tmp_path, monkeypatch):
    """Sections run in a folder of their own."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/carried.py").write_text("FIGURE = 5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "packages:.")
    code = "import carried, json; print(json.dumps({'figure': carried.FIGURE}))"
    assert checked({"one": python(code)}) == (True, [{"section": "one", "figure": 5}])


def test_a_section_that_fails_is_recorded_and_the_next_one_runs(checked):
    succeeded, found = checked(
        {
            "one": python("raise ValueError('no such card')"),
            "two": python("import os; os.abort()"),
            "three": check.Job("", "for a reason"),
            "four": python("print('noise'); print('{\"figure\": 4}')"),
            "run: echo": "echo first; echo last",
        }
    )
    assert not succeeded
    assert found == [
        {"section": "one", "failed": "ValueError: no such card", "exit_code": 1},
        {"section": "two", "failed": "no message", "exit_code": -6},
        {"section": "three", "skipped": "for a reason"},
        {"section": "four", "figure": 4},
        {"section": "run: echo", "printed": "last"},
    ]


@pytest.mark.parametrize("printed", ["hello", "5"])
def test_a_section_that_prints_no_figures_has_failed(checked, printed):
    succeeded, [record] = checked({"one": python(f"print('{printed}')")})
    assert not succeeded
    assert record["failed"] == f"its last line is no JSON object: {printed}"


def test_a_section_beyond_its_limit_is_killed_with_its_processes(checked, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "LIMIT", 3)
    child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    place = tmp_path / "pid"
    child = child.replace("'pid'", repr(str(place)))
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    succeeded, found = checked({"one": python(code), "two": python("print('{}')")})
    assert not succeeded
    assert found == [{"section": "one", "failed": "not done within 3 s"}, {"section": "two"}]
    while psutil.pid_exists(pid := int(place.read_text())):
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)


def test_sections_without_time_are_skipped(checked):
    succeeded, found = checked({"one": python("print('{}')")}, seconds=0)
    assert succeeded
    assert found == [{"section": "one", "skipped": "the 0 seconds are over"}]


def test_sections_of_minutes_are_left_out_of_the_small_form_unless_named():
    arguments = SimpleNamespace(small=True, only=None, run=["nvidia-smi"])
    chosen = check.plan(arguments)
    assert list(chosen) == [*check.SECTIONS, "run: nvidia-smi"]
    skipped = {name for name, job in chosen.items() if job.skipped}
    assert skipped == {"teachers", "committed"}
    arguments = SimpleNamespace(small=True, only=["teachers"], run=[])
    assert check.plan(arguments)["teachers"].command[-3:] == ["--section", "teachers", "--small"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_is_that_of_the_card(name, value):
    assert speed.peak(name) == value


@pytest.mark.parametrize("tied", [False, True])
def test_the_operations_of_a_pass_are_those_that_torch_counts(tmp_path, monkeypatch, tied):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.gpu.shapes.UNTIED", () if tied else ("tiny",))
    make_model("tiny", tmp_path / "models/tiny")
    model = AutoModelForCausalLM.from_pretrained("models/tiny", attn_implementation="eager")
    tokens, targets = 50, 20
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(1, tokens, dtype=torch.long), logits_to_keep=targets)
    # Plain attention computes all pairs, those that the mask leaves out too, and rotary positions
    # are a small product of their own.
    expected = speed.training_flops("tiny", tokens, targets, tokens**2) / 3
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_a_model_has_the_size_that_its_name_says(tmp_path):
    sizes = {"135m": 134.5e6, "0b5": 494e6, "1b5": 1543e6, "7b": 7615e6}
    for name in sizes.keys() & SHAPES.keys():
        folder = make_model(name, tmp_path / name, weights=False)
        assert not list(folder.glob("*.safetensors"))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        assert model.num_parameters() == pytest.approx(sizes[name], rel=0.005)


@pytest.mark.slow
def test_the_small_form_runs_on_a_cpu(tmp_path):
    output = tmp_path / "check.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--small", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=BARE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + output.with_suffix(".log").read_text()
    found = {record.pop("section"): record for record in records(output)}
    assert list(found) == ["machine", *check.SECTIONS]
    same = ("same_texts", "same_words", "same_answers")
    assert [found["pipeline"][name] for name in same] == [1, 1, 1]
    assert found["pipeline"]["loss_difference"] == 0
    assert found["attribution"]["vs_floor"] > 0
    assert found["memory"]["parts, 100"]["peak_gb"] > 0
    assert found["training"]["tiny, 300"]["tokens_per_s"] > 0
    assert found["training"]["tiny, 300"]["mfu"] is None
    for section in ("teachers", "committed"):
        assert set(found[section]) == {"skipped"}
