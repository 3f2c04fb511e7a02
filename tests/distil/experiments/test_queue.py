"""DVC's queue: its real commands, and waiting with a stand-in for them.

tests/test_figures.py runs real experiments in it.
"""

import subprocess

import pytest

from stages.distil.experiments import queue
from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

RUNS = [
    Run("methods", name, None, 0, (f"alpha={n}", "seed=1"), f"digest{n}", "kinship")
    for n, name in enumerate(("plain", "taught"))
]
PLAIN, TAUGHT = (run.name for run in RUNS)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with a stage `evaluate`, of a user whose name git does not know."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {evaluate: {cmd: echo x, params: [alpha]}}")
    (tmp_path / "params.yaml").write_text("alpha: 0\nseed: 0\n")
    queue.dvc("init", "-q")
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "x"]
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(commit, check=True)


def test_an_error_of_dvc_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="`dvc exp list` failed: you are not inside of a DVC"):
        queue.dvc("exp", "list")
    with pytest.raises(UserError, match="experiments cannot be read: you are not inside of a DVC"):
        queue.status()


def test_experiments_are_committed_without_a_git_user_name(project):
    queue.dvc("exp", "run", "--queue", "--name", "plain", "--set-param", "alpha=1")
    assert queue.status() == ({"plain": "Queued"}, 0)
    assert queue.finished() == {}


@pytest.mark.slow
def test_real_runs_are_executed_and_found_by_their_digest(project):
    queue.execute(RUNS, 1)
    assert queue.status()[0] == {PLAIN: "Success", TAUGHT: "Success"}
    revisions = queue.finished()
    assert sorted(revisions) == ["digest0", "digest1"]
    for run in RUNS:
        show = ["git", "show", f"{revisions[run.digest]}:params.yaml"]
        assert run.changes[0].replace("=", ": ") in subprocess.check_output(show, text=True)


@pytest.fixture
def dvc(monkeypatch):
    """Replace DVC: successive queries return `answers`; return the other calls."""

    def stand_in(
        *answers: tuple[dict[str, str], int], ended: tuple[Run, ...] = tuple(RUNS)
    ) -> list[list[str]]:
        remaining, calls = iter(answers), []
        monkeypatch.setattr(queue, "status", lambda: next(remaining))
        monkeypatch.setattr(queue, "finished", lambda: {run.digest: "abcdef0" for run in ended})
        monkeypatch.setattr(queue, "dvc", lambda *call, threads=None: calls.append(list(call)))
        monkeypatch.setattr(queue.time, "sleep", lambda seconds: None)
        return calls

    return stand_in


def answer(workers: int, **states: str) -> tuple[dict[str, str], int]:
    names = {"plain": PLAIN, "taught": TAUGHT}
    return {names[name]: state for name, state in states.items()}, workers


def queued(run: Run) -> list[str]:
    changes = ["--set-param", run.changes[0], "--set-param", run.changes[1]]
    return ["exp", "run", "--queue", "--name", run.name, *changes, "evaluate"]


def test_runs_are_queued_started_and_waited_for(dvc):
    calls = dvc(
        answer(0),
        answer(0, plain="Queued", taught="Queued"),
        answer(1, plain="Running", taught="Queued"),
        answer(1, plain="Success", taught="Running"),
        answer(1, plain="Success", taught="Success"),
    )
    queue.execute(RUNS, 1)
    assert calls == [queued(RUNS[0]), queued(RUNS[1]), ["queue", "start", "--jobs", "1"]]


def test_a_failed_run_is_queued_again_but_not_a_waiting_or_running_one(dvc):
    calls = dvc(answer(1, plain="Running", taught="Failed"), answer(1))
    queue.execute(RUNS, 2)
    assert calls == [["queue", "remove", TAUGHT], queued(RUNS[1])]


def test_a_worker_that_has_stopped_is_started_again(dvc):
    waiting = answer(0, plain="Queued")
    calls = dvc(waiting, waiting, answer(1, plain="Running"), answer(1))
    queue.execute(RUNS[:1], 3)
    assert calls == [["queue", "start", "--jobs", "3"]]


def test_a_training_without_a_worker_is_killed(dvc):
    """Busy cores delay a worker's answer, so that a few missing answers do not count."""
    lost = answer(0, plain="Running")
    calls = dvc(lost, *[lost] * queue.SILENT, answer(1, plain="Running"), answer(1))
    queue.execute(RUNS[:1], 1)
    assert calls == []
    calls = dvc(lost, *[lost] * (queue.SILENT + 1), answer(0, plain="Failed"), ended=())
    with pytest.raises(UserError, match=f"1 of 1 trainings failed: {PLAIN}"):
        queue.execute(RUNS[:1], 1)
    assert calls == [["queue", "kill", PLAIN]]
