"""The pipeline under real DVC in a temporary repository, with a tiny model as every model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import duckdb
import pandas
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, question, write_jsonl
from tests.warm_python import interpreter

pytestmark = pytest.mark.slow
DVC = str(Path(sys.executable).parent / "dvc")
PARAMETERS = {
    "alpha": 0.5,
    "seed": 0,
    "data": {"name": "balls"},
    "teachers": ["one", "two"],
    "rationales": {
        "examples": "none",
        "num_examples": 1,
        "max_tokens": 8,
        "prompts": {
            name: f"stages/prompts/{name}.jinja" for name in ("rationale", "reason", "answer")
        },
    },
    "saliency": {
        "teacher": "tiny",
        "of": "question",
        "method": "input_x_gradient",
        "target": "gold",
        "only_correct": False,
        "steps": 2,
        "dtype": "float32",
        "finetune": {"epochs": 0},
        "batch_tokens": 1024,
        "top_k": 2,
        "sign": "absolute",
        "stop_words": True,
        "options": True,
        "weight": 0.5,
    },
    "soft_labels": {"teacher": None},
    "assemble": {"statuses": ["ok"], "choose": "all", "scorer": "tiny", "labels": "gold"},
    "student": {
        "model": "tiny",
        "prompt": {"options": "listed", "prefixes": None},
        "form": "branch",
        "direct": True,
        "shared_context": True,
        "context": None,
        "dtype": "float32",
    },
    "train": {"epochs": 1, "learning_rate": 0.01, "batch_size": 4},
    "evaluate": {"max_tokens": 4, "reasoning_tokens": 4, "teacher_questions": 300},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model) -> Path:
    """A copy of the project with its own data set, in which the pipeline has run once."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_model, folder / "tiny")
    write_jsonl(
        folder / "balls",
        train=[question(n) for n in range(8)],
        validation=[question(n, "validation") for n in range(3)],
        test=[question(n, "test") for n in range(4)],
    )
    catalogues = {
        "models": {
            "tiny": {"source": "folder", "path": "tiny"},
            "one": {"source": "provided"},
            "two": {"source": "provided"},
            "later": {"source": "folder", "path": "not/mounted"},
        },
        "datasets": {"balls": {"source": "files", "folder": "balls"}},
    }
    make_project(folder, PARAMETERS | catalogues)
    dvc(folder, "repro")
    commit(folder)
    return folder


def make_project(folder: Path, parameters: dict) -> None:
    """Copy the project into a folder, with these parameters, under git and DVC."""
    shutil.copytree(
        ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copytree(ROOT / "results/figures", folder / "results/figures")
    shutil.copy(ROOT / ".gitignore", folder)
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(parameters, file)
    for command in (["git", "init", "-q"], [DVC, "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots", dirs_exist_ok=True)
    shutil.copy(ROOT / ".dvcignore", folder)
    commit(folder)


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [DVC, *arguments],
        cwd=folder,
        env=os.environ | {"STAGES_PYTHON": interpreter()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(folder: Path) -> None:
    for command in (
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(command, cwd=folder, check=True)


def reproduced(output: str) -> list[str]:
    """Return the stages that ran, besides `sources`, which always does."""
    names = (line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage"))
    return [name for name in names if name != "sources"]


def sums(folder: Path) -> dict[str, str]:
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def test_a_second_run_runs_no_stage(project):
    assert reproduced(dvc(project, "repro")) == []


def test_fine_tuning_needs_neither_teachers_nor_attribution(project):
    changes = ["-S", "teachers=[]", "-S", "saliency.of=rationale", "-S", "saliency.weight=0"]
    before = sums(project)
    ran = reproduced(dvc(project, "exp", "run", *changes))
    assert not any(name.startswith(("rationales", "usefulness")) for name in ran)
    assert {"train", "evaluate", "report"} <= set(ran)
    assert list((project / "data/rationales").glob("*.parquet")) == []
    assert pandas.read_parquet(project / "data/saliency.parquet").empty
    assert sums(project)["models/student"] != before["models/student"]
    losses = {file.stem for file in (project / "results/train/plots/metrics/loss").iterdir()}
    assert losses == {"total", "answer"}
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    dvc(project, "checkout", "-q")


def test_a_model_that_no_parameter_names_is_not_fetched(project):
    """Its folder is on a disk that is not there."""
    assert [file.name for file in (project / "models/later").iterdir()] == ["README.md"]


def test_a_file_of_questions_is_read_again_if_its_content_has_changed(project):
    file = project / "balls/train.jsonl"
    rows = file.read_bytes()
    file.write_bytes(rows)
    os.utime(file, (0, 0))
    assert reproduced(dvc(project, "repro")) == []
    changed = rows.replace(b"train ball number 3?", b"train ball number 9?")
    assert len(changed) == len(rows) and changed != rows
    try:
        file.write_bytes(changed)
        assert reproduced(dvc(project, "repro", "prepare")) == ["prepare"]
        table = pandas.read_parquet(project / "data/examples.parquet")
        assert table["question"].str.contains("number 9").any()
    finally:
        file.write_bytes(rows)
        dvc(project, "repro", "prepare")


def test_a_model_folder_that_was_trained_again_is_fetched_again(project):
    file = project / "tiny/model.safetensors"
    before = file.read_bytes()
    assert (project / "models/tiny/model.safetensors").read_bytes() == before
    try:
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert reproduced(dvc(project, "repro", "fetch@tiny")) == ["fetch@tiny"]
        assert (project / "models/tiny/model.safetensors").read_bytes() == file.read_bytes()
    finally:
        file.write_bytes(before)
        dvc(project, "repro", "fetch@tiny")


@pytest.mark.parametrize("folder", ["questions", "teachers"])
def test_compiled_modules_rerun_no_stage(project, folder):
    compiled = project / "stages/distil" / folder / "__pycache__"
    compiled.mkdir(exist_ok=True)
    (compiled / "other.cpython-311.pyc").write_bytes(b"x")
    assert reproduced(dvc(project, "repro")) == []


def test_dvc_shows_metrics_and_plots(project):
    assert "student.accuracy" in dvc(project, "metrics", "show", "--md")
    plots = dvc(project, "plots", "show", "--json")
    assert "Training loss" in plots and "Training speed" in plots
    for file in ("results/metrics.json", "results/accuracy.csv", "results/predictions.parquet"):
        assert (project / file).is_file()
    assert (project / "models/student/model.safetensors").is_file()
    assert (project / "data/encoded/train.arrow").is_file()
    assert not any("times" in path for path in sums(project))  # they differ between runs


def test_the_data_set_opens_in_pandas_duckdb_and_datasets(project, tmp_path):
    folder = project / "data/distill/train"
    ids = [f"train-{n}" for n in range(8)]
    assert pandas.read_parquet(folder)["id"].tolist() == ids
    assert duckdb.sql(f"SELECT count(*) FROM '{folder}/*.parquet'").fetchall() == [(8,)]
    loaded = datasets.load_dataset(str(project / "data"), cache_dir=str(tmp_path))
    assert loaded["train"]["id"][:] == ids
    assert (loaded["validation"].num_rows, loaded["test"].num_rows) == (3, 4)


def test_the_data_card_counts_questions_targets_and_lengths(project):
    card = (project / "data/README.md").read_text()
    assert "| train | 8 |" in card
    assert "| red | 37.5 % | 33.3 % | 50.0 % |" in card
    assert "| rationale of two | 8 | 100.0 % |" in card
    assert card.count("| rationale of one |") == 2
    assert str(project) not in card
    assert "lengths" in dvc(project, "plots", "show", "--json").lower()


def test_a_loss_weight_reruns_training_and_evaluation_only(project):
    before = sums(project)
    ran = reproduced(dvc(project, "exp", "run", "-S", "alpha=0", "-S", "saliency.weight=0"))
    assert ran == ["train", "evaluate", "report"]
    after = sums(project)
    assert before["models/student"] != after["models/student"]
    assert before["data/encoded"] == after["data/encoded"]
    assert dvc(project, "exp", "show", "--csv").count("\n") >= 3
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    dvc(project, "checkout", "-q")


def test_another_prompt_of_the_student_encodes_again_and_joins_nothing(project):
    """The data card shows lengths, which lettered options change; `usefulness` reads nothing."""
    before = sums(project)
    ran = reproduced(dvc(project, "exp", "run", "-S", "student.prompt.options=lettered"))
    measured = [name for name in ran if name.startswith("usefulness@")]
    assert sorted(set(ran) - set(measured)) == ["card", "encode", "evaluate", "report", "train"]
    after = sums(project)
    assert before["data/distill"] == after["data/distill"]
    assert before["data/encoded"] != after["data/encoded"]
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    dvc(project, "checkout", "-q")


def test_the_model_card_shows_the_parameters_that_made_the_student(project):
    """Not those that `git checkout params.yaml` brings back after an experiment."""

    def make_card() -> subprocess.CompletedProcess:
        command = [interpreter(), "-m", "stages.distil.reporting.release"]
        return subprocess.run(command, cwd=project, capture_output=True, text=True)

    dvc(project, "exp", "run", "-S", "alpha=0.9", "-S", "train.learning_rate=0.02")
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=project, check=True)
    assert make_card().returncode == 0
    card = (project / "models/release/README.md").read_text()
    assert "(α = 0.9)" in card and '"learning_rate": 0.02' in card
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    refused = make_card()
    assert refused.returncode == 1
    assert "models/student: not the one that dvc.lock describes" in refused.stderr
    dvc(project, "checkout", "-q")
    assert make_card().returncode == 0
    assert "(α = 0.5)" in (project / "models/release/README.md").read_text()
    shutil.rmtree(project / "models/release")


def test_top_k_reruns_the_stages_after_saliency(project):
    ran = reproduced(dvc(project, "exp", "run", "-S", "saliency.top_k=1"))
    assert sorted(ran) == ["assemble", "card", "encode", "evaluate", "report", "train"]
    subprocess.run(["git", "checkout", "-q", "."], cwd=project, check=True)
    dvc(project, "checkout", "-q")


def test_removing_a_teacher_and_adding_it_again_restores_the_lock(project):
    lock = (project / "dvc.lock").read_bytes()
    before = sums(project)
    params = project / "params.yaml"
    both = params.read_text()
    params.write_text(both.replace("- two\n", ""))
    ran = reproduced(dvc(project, "repro"))
    after = ["assemble", "card", "encode", "evaluate", "report", "saliency", "train"]
    assert sorted(name for name in ran if name != "fetch@two") == after
    assert not (project / "data/rationales/two.parquet").exists()
    assert sums(project)["data/rationales/one.parquet"] == before["data/rationales/one.parquet"]
    params.write_text(both)
    assert "rationales@one" not in reproduced(dvc(project, "repro"))
    assert (project / "dvc.lock").read_bytes() == lock


def test_a_table_that_a_former_teacher_left_reruns_nothing(project):
    """As after `git checkout` of a commit with other teachers."""
    tables = [project / f"data/{folder}/former.parquet" for folder in ("rationales", "usefulness")]
    for table in tables:
        shutil.copy(table.with_name("one.parquet"), table)
    assert reproduced(dvc(project, "repro")) == []
    assert not any(table.exists() for table in tables)


def test_new_figures_rerun_the_report_only(project):
    figures = project / "results/figures"
    shutil.copytree(figures / "full", figures / "mine")
    (figures / "mine/data.json").write_text('{"methods": ["balls"], "seeds": ["balls"]}')
    assert reproduced(dvc(project, "repro")) == ["report"]
    assert "mine: methods" in (project / "results/report.html").read_text()
    shutil.rmtree(figures / "mine")
