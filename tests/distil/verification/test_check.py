"""The small profile that CI runs."""

import shutil

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from stages.distil.experiments.recipe import Recipe
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.settings import check_settings, load_settings
from stages.distil.verification.check import (
    COMPARED,
    PROFILE,
    profile_stages,
    reference_file,
)
from tests.conftest import PARAMS, ROOT


@pytest.fixture
def profile_values(tmp_path) -> dict:
    """The values of params.yaml with the profile's changes."""
    shutil.copy(PARAMS, tmp_path)
    apply_overrides(tmp_path / "params.yaml", load_settings(ROOT / PROFILE, Recipe).changes)
    return YAML(typ="safe").load(tmp_path / "params.yaml")


@pytest.fixture
def profile(profile_values) -> Parameters:
    return check_settings(profile_values, Parameters, PROFILE)


def parameter(values: dict, key: str):
    for name in key.split("."):
        values = values[name]
    return values


def test_only_the_stages_that_the_profile_runs_are_kept(profile):
    names = ["fetch@qwen-coder-0b5", "fetch@qwen-coder-1b5", "fetch@smollm2-135m", "prepare"]
    names += ["rationales@qwen-coder-0b5", "rationales@smollm2-135m"]
    names += ["usefulness@qwen-coder-0b5", "usefulness@smollm2-135m", "train", "card", "report"]
    lock = "schema: '2.0'\nstages:\n" + "".join(f"  '{name}': {{cmd: x}}\n" for name in names)
    stages = YAML(typ="safe").load(profile_stages(lock, profile))["stages"]
    assert list(stages) == [
        "fetch@qwen-coder-0b5",
        "fetch@smollm2-135m",
        "prepare",
        "rationales@qwen-coder-0b5",
        "usefulness@qwen-coder-0b5",
        "train",
    ]


def test_the_reference_has_the_current_parameters(profile_values):
    """Otherwise run `make check KEEP=yes` and commit."""
    assert all((ROOT / reference_file(path)).is_file() for path in COMPARED)
    stages = YAML(typ="safe").load(ROOT / reference_file(COMPARED[0]))["stages"]
    for stage in stages.values():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            assert value == parameter(profile_values, key), key
    # Of each stage, the parameters that dvc.yaml lists: `make check` compares these too.
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items():
        listed = [key for key in stage.get("do", stage).get("params", []) if isinstance(key, str)]
        for made, kept in stages.items():
            if made.partition("@")[0] == name and not any("${" in key for key in listed):
                assert sorted(kept.get("params", {}).get("params.yaml", {})) == sorted(listed), made
