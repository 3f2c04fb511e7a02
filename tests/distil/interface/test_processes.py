"""A stage runs once at a time, ends with DVC and on signals, and gets no name from a shell."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from stages.distil.interface import command, processes
from stages.distil.interface.errors import UserError
from stages.distil.interface.processes import item_of_dvc, run_alone
from tests.conftest import ROOT, default_values, write_jsonl, write_values
from tests.test_pipeline import DVC, PARAMETERS, make_project
from tests.warm_python import interpreter

# A stage that says when it has started, leaves a file while it runs, and waits.
WAITING = """
import sys, time
from pathlib import Path
from stages.distil.interface.command import run_stage
from stages.distil.storage.tables import whole_folder
def wait(parameters):
    with whole_folder(Path("models/partial")):
        Path("started").write_text("yes")
        time.sleep(600)
if __name__ == "__main__":
    run_stage(wait, "")
"""

CATALOGUES = {
    "models": {
        "tiny": {"source": "folder", "path": "tiny"},
        "one": {"source": "provided"},
        "two": {"source": "provided"},
    },
    "datasets": {"balls": {"source": "files", "folder": "balls"}},
}


def wait_for(file: Path, process: subprocess.Popen) -> None:
    while not file.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


@contextlib.contextmanager
def process(folder: Path, *command: str, **variables: str) -> Iterator[subprocess.Popen]:
    started = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@pytest.fixture
def waiting(tmp_path) -> tuple[str, ...]:
    """The command of a stage that waits, in `tmp_path`."""
    write_values(tmp_path, default_values(), {})
    (tmp_path / "wait.py").write_text(WAITING)
    return (interpreter(), "-c", f"import sys\nsys.argv[0] = 'wait'\n{WAITING}")


def test_a_second_process_of_a_stage_is_refused_until_the_first_has_ended(
    tmp_path, waiting, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "PATIENCE", 0)
    with process(tmp_path, *waiting, PYTHONPATH=str(ROOT)) as first:
        wait_for(tmp_path / "started", first)
        with pytest.raises(UserError, match=r"^process (\d+) already runs wait; ") as refused:
            with run_alone("wait"):
                pass
        holder = psutil.Process(int(str(refused.value).split()[1]))
        assert f"wait: waiting for process {holder.pid} to end" in capsys.readouterr().err
        with run_alone("other"), run_alone("wait@item"):  # other outputs
            pass
        holder.kill()
        first.wait()
    monkeypatch.setattr(processes, "PATIENCE", -1)  # until it is released
    with run_alone("wait"):
        pass


def test_a_lock_stays_in_its_folder_whatever_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_alone("fetch@../../x"):
        assert [path.parent for path in tmp_path.rglob("*.lock")] == [tmp_path / processes.LOCKS]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_stage_with_a_line_and_leaves_no_partial_file(tmp_path, waiting, number):
    with process(tmp_path, *waiting, PYTHONPATH=str(ROOT)) as stage:
        wait_for(tmp_path / "started", stage)
        [held] = (tmp_path / processes.LOCKS).iterdir()
        [pid] = [
            line.split()[4] for line in flocks() if line.endswith(f":{held.stat().st_ino} 0 EOF")
        ]
        os.kill(int(pid), number)
        output, _ = stage.communicate()
    assert output == f"wait: ended by {number.name}; run again to resume\n"
    assert stage.returncode == 128 + number
    assert list((tmp_path / "models").iterdir()) == []


def flocks() -> list[str]:
    return [line for line in Path("/proc/locks").read_text().splitlines() if "FLOCK" in line]


def test_a_signal_that_nohup_ignores_stays_ignored(monkeypatch):
    before = {number: signal.getsignal(number) for number in processes.ENDING}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        processes.end_on_signals("wait")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert callable(signal.getsignal(signal.SIGTERM))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_while_a_stage_is_imported_shows_no_traceback(tmp_path):
    """The interpreter interrupts itself at this line of an imported module."""
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    module = tmp_path / "stages/distil/interface/command.py"
    text = module.read_text().replace(
        "import argparse\n", "import argparse\nimport signal\nsignal.raise_signal(signal.SIGINT)\n"
    )
    module.write_text(text)
    command = [sys.executable, "-m", "stages.prepare"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("name", ["rationales@a-b", "../dvc.yaml:rationales@a-b"])
def test_dvc_names_the_item_of_a_stage(monkeypatch, name):
    monkeypatch.setenv("DVC_STAGE", name)
    assert item_of_dvc("rationales") == "a-b"
    assert item_of_dvc("fetch") is None


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_model) -> Path:
    """A project whose stage `prepare` waits."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_model, folder / "tiny")
    write_jsonl(folder / "balls")
    make_project(folder, PARAMETERS | CATALOGUES)
    (folder / "stages/prepare.py").write_text(WAITING)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_stage_ends_when_dvc_alone_is_ended(project, number):
    (project / "started").unlink(missing_ok=True)
    with process(project, DVC, "repro", "prepare", SHELL="/bin/sh") as repro:
        wait_for(project / "started", repro)
        stages = psutil.Process(repro.pid).children(recursive=True)
        assert any("stages.prepare" in stage.cmdline() for stage in stages)
        os.kill(repro.pid, number)
        repro.wait()
        psutil.wait_procs(stages)
    assert list((project / "models").iterdir()) == []


@pytest.mark.slow
def test_a_stage_whose_dvc_has_already_ended_ends(project):
    (project / "started").unlink(missing_ok=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    done = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=project,
        env=os.environ | {processes.PARENT: str(gone.pid), processes.STAGE: "prepare"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert not (project / "started").exists()


def test_a_stage_whose_time_cannot_be_kept_is_done(tmp_path, monkeypatch, capsys):
    """Its results are written, and a failure would make DVC run it again."""
    monkeypatch.chdir(tmp_path)
    Path("results").write_text("a file in place of the folder")
    command.keep_rate("student", 3, 1.0)
    assert "answers@student: warning: its time is not kept: results" in capsys.readouterr().err


def test_an_earlier_rate_does_not_stay_beside_answers_of_unknown_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.keep_rate("student", 3, 1.0)
    assert Path("results/times/answers@student.json").is_file()
    command.keep_rate("student", 3, None)
    assert not Path("results/times/answers@student.json").exists()


def test_what_a_killed_stage_left_of_its_times_is_removed(tmp_path, monkeypatch, write_params):
    """The next run may have nothing to time, and so would not write over it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rationales", "--params", str(write_params())])
    left = command.TIMES / "answers@tiny.json.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    with pytest.raises(SystemExit) as ended:
        command.run_stage(lambda parameters: None, "")
    assert ended.value.code == 0
    assert [file.name for file in command.TIMES.iterdir()] == ["rationales.json"]


HOSTILE = [
    "a;touch X1;",
    "$(touch X2)",
    "`touch X3`",
    "a'; touch X4; '",
    'a"; touch X5; "',
    "a\ntouch X6\n",
    "-h; touch X7 #",
    "\\''; touch X8 #",
]


def test_no_value_of_a_parameter_stands_in_a_command():
    """DVC puts values into `cmd` as they are, and a shell runs it."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        assert "${" not in str(stage.get("do", stage)["cmd"]), name


@pytest.mark.slow
@pytest.mark.parametrize("where", ["models", "teachers", "student", "prompts", "data"])
def test_dvc_executes_no_name(tmp_path, where):
    values = PARAMETERS | CATALOGUES
    if where in ("models", "teachers"):
        values["models"] = dict.fromkeys(HOSTILE, {"source": "provided"})
    if where == "teachers":
        values["teachers"] = HOSTILE
    if where == "student":
        values |= {
            "student": values["student"] | {"model": HOSTILE[0]},
            "assemble": values["assemble"] | {"scorer": HOSTILE[1]},
            "saliency": values["saliency"] | {"teacher": HOSTILE[2]},
        }
    if where == "prompts":
        prompts = dict(zip(("rationale", "reason", "answer"), HOSTILE, strict=False))
        values["rationales"] = values["rationales"] | {"prompts": prompts}
    if where == "data":
        values["data"] = {"name": HOSTILE[0]}
    make_project(tmp_path, values)
    done = subprocess.run(
        [DVC, "repro", "--keep-going"],
        cwd=tmp_path,
        env=os.environ | {"STAGES_PYTHON": interpreter()},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert not list(tmp_path.glob("X*"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["models", "teachers", "data"])
def test_no_name_leads_dvc_to_another_folder(tmp_path, where):
    """DVC removes a stage's outputs before it runs the stage."""
    name = "../kept"
    values = PARAMETERS | CATALOGUES
    values["models"] = values["models"] | {name: {"source": "provided"}}
    if where == "teachers":
        values["teachers"] = [name]
    if where == "data":
        values["datasets"] = values["datasets"] | {name: {"source": "kinship"}}
        values["data"] = {"name": name}
    make_project(tmp_path, values)
    kept = [tmp_path / "kept/file", tmp_path / "data/kept.parquet", tmp_path / "data/kept/file"]
    for file in kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("kept")
    environment = os.environ | {"STAGES_PYTHON": interpreter()}
    for target in ([], [f"fetch@{name}"], ["prepare"]):
        done = subprocess.run(
            [DVC, "repro", "--keep-going", *target],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0
        assert [file for file in kept if not file.exists()] == [], done.stdout + done.stderr
