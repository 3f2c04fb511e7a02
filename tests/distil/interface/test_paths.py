"""Relative paths mean the same in the workspace and in the copy that an experiment runs in."""

import os
import shutil
from pathlib import Path

import pytest
from dvc.api import DVCFileSystem
from ruamel.yaml import YAML

from stages.distil.interface.catalogue import Files, FolderModel, Hub
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.interface.paths import LONGEST_TEXT, locate, read_text
from stages.distil.questions import files, hub
from stages.distil.weights.fetching import fetch_model
from stages.train import launch
from tests.conftest import question, write_jsonl
from tests.test_pipeline import PARAMETERS, dvc, make_project

ROWS = {split: [question(n, split) for n in range(4)] for split in ("train", "validation", "test")}


@pytest.fixture(params=["standalone/tmp1", "tmp1"], ids=["temp", "queue"])
def copy(request, tmp_path, monkeypatch) -> Path:
    """An experiment's copy of the project `project`, which is the current folder."""
    folder = tmp_path / "project/.dvc/tmp/exps" / request.param
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "path", ["../data", "data", ".", "configs/../../data", "/data", "..data", "missing"]
)
def test_in_the_workspace_a_path_is_unchanged(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert locate(Path(path)) == Path(path)


def test_in_a_copy_a_path_starts_from_the_project(copy, tmp_path):
    for name in ("tracked", "..tracked"):
        (copy / name).write_text("the experiment's")
        (tmp_path / "project" / name).write_text("the project's")
        assert locate(Path(name)).read_text() == "the experiment's"
        assert locate(Path(f"configs/../{name}")) == tmp_path / f"project/configs/../{name}"
    (copy.parent / "data").mkdir()  # where `../data` leads from the copy
    for path in ("../data", "ignored", "x/../../data"):
        real = tmp_path / "project" / path
        assert locate(Path(path)) == real
    assert locate(tmp_path) == tmp_path


def test_a_project_in_a_folder_of_a_repository_is_found(tmp_path, monkeypatch):
    project = tmp_path / "repository/part"
    folder = project / ".dvc/tmp/exps/tmp1/part"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert locate(Path("../data")) == project / "../data"


def test_records_are_named_by_the_path_as_written(copy, tmp_path):
    write_jsonl(tmp_path / "questions", train=ROWS["train"])
    settings = Files(source="files", folder="../questions")
    records = list(files.read(settings, "train"))
    assert [record.value["id"] for record in records] == [f"train-{n}" for n in range(4)]
    assert {record.source for record in records} == {"../questions/train.jsonl"}
    with pytest.raises(UserError, match=r"^\.\./questions/test\.\* or "):
        list(files.read(settings, "test"))


def test_a_hub_folder_is_read(copy, tmp_path):
    write_jsonl(tmp_path / "questions", **ROWS)
    records = list(hub.read(Hub(source="hub", folder="../questions"), "test"))
    assert [record.value["id"] for record in records] == [f"test-{n}" for n in range(4)]
    assert {record.source for record in records} == {"../questions test"}


def test_a_model_is_fetched(copy, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "model")
    folder = fetch_model("mine", FolderModel(source="folder", path="../model"))
    assert sorted(os.listdir(copy / folder)) == sorted(os.listdir(tiny_model))


def test_an_accelerate_file_is_found(copy, tmp_path, write_params, monkeypatch):
    file = tmp_path / "two.yaml"
    file.write_text("distributed_type: MULTI_CPU\n")
    commands = []
    monkeypatch.setattr(os, "execve", lambda *arguments: commands.append(arguments[1]))
    launch(load_parameters(write_params({"train/accelerate": "../two.yaml"})))
    [command] = commands
    assert Path(command[command.index("--config_file") + 1]).samefile(file)


def test_a_missing_path_is_named_as_written(copy, write_params):
    with pytest.raises(UserError, match=r"^\.\./questions: no such folder"):
        list(files.read(Files(source="files", folder="../questions"), "train"))
    with pytest.raises(UserError, match=r"^\.\./questions: no such folder"):
        list(hub.read(Hub(source="hub", folder="../questions"), "train"))
    with pytest.raises(UserError, match=r"^models\.mine\.path: \.\./model: no such folder"):
        fetch_model("mine", FolderModel(source="folder", path="../model"))
    with pytest.raises(UserError, match=r"^train\.accelerate: \.\./two\.yaml: no such file"):
        launch(load_parameters(write_params({"train/accelerate": "../two.yaml"})))


def test_an_experiment_in_a_copy_gives_what_the_workspace_gives(tmp_path, tiny_model):
    """With questions and a model beside the project, and questions in it that git ignores."""
    project = tmp_path / "project"
    shutil.copytree(tiny_model, tmp_path / "model")
    catalogues = {
        "models": {
            "tiny": {"source": "folder", "path": "../model"},
            "one": {"source": "provided"},
            "two": {"source": "provided"},
        },
        "datasets": {
            "balls": {"source": "files", "folder": "../beside"},
            "own": {"source": "files", "folder": "own"},
        },
    }
    make_project(project, PARAMETERS | catalogues)
    write_jsonl(tmp_path / "beside", **ROWS)
    write_jsonl(project / "own", **ROWS)
    (project / ".git/info/exclude").write_text("/own\n")

    dvc(project, "exp", "run", "--temp", "--name", "beside", "prepare", "fetch@tiny")
    dvc(project, "exp", "run", "--temp", "--name", "own", "-S", "data.name=own", "prepare")
    assert not (project / "data").exists()
    dvc(project, "repro", "--force", "prepare", "fetch@tiny")
    workspace = sums((project / "dvc.lock").read_text())
    assert workspace.keys() >= {"data/examples.parquet", "models/tiny"}
    for name in ("beside", "own"):
        lock = DVCFileSystem(url=str(project), rev=name).read_text("dvc.lock")
        assert sums(lock).items() <= workspace.items()


def sums(lock: str) -> dict[str, str]:
    """Return the digests of outputs; `sources` also notes which entries are used."""
    stages = YAML(typ="safe").load(lock)["stages"]
    del stages["sources"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def test_a_text_file_is_read_up_to_a_limit(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("größe: 1\n", encoding="utf-8")
    assert read_text(path) == "größe: 1\n"
    path.write_text("#" * (LONGEST_TEXT + 1))
    with pytest.raises(UserError, match="settings.yaml: longer than 1 MiB"):
        read_text(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_a_file_is_read(tmp_path, make):
    make(tmp_path / "settings.yaml")
    with pytest.raises(UserError, match="settings.yaml: expected a file, found a folder, device"):
        read_text(tmp_path / "settings.yaml")
