"""The calls of DVC's queue, with a stand-in; tests/test_figures.py uses the real one."""

import pytest

from stages.distil.experiments import queue
from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

RUNS = [
    Run("methods", name, None, 0, (f"alpha={n}", "seed=1"), f"digest{n}", "kinship")
    for n, name in enumerate(("plain", "taught"))
]
PLAIN, TAUGHT = (run.name for run in RUNS)


def table(workers: int, **states: str) -> str:
    names = {"plain": PLAIN, "taught": TAUGHT}
    rows = [f"1234567 {names[n]:20} 02:15 PM {state}" for n, state in states.items()]
    head = ["Task    Name   Created  Status", *rows] if rows else ["No experiment tasks"]
    return "\n".join([*head, "", f"Worker status: {workers} active, 0 idle"])


@pytest.fixture
def dvc(monkeypatch):
    """Replace DVC: successive calls of `dvc queue status` print `statuses`; return other calls."""

    def stand_in(*statuses: str, ended: tuple[str, ...] = (PLAIN, TAUGHT)) -> list[list[str]]:
        remaining, calls = iter(statuses), []

        def answer(*arguments: str, threads: int | None = None) -> str:
            if arguments == ("queue", "status"):
                return next(remaining)
            if arguments[:2] == ("exp", "list"):
                return "main:\n" + "".join(f"\tabcdef0 [{name}]\n" for name in ended)
            calls.append(list(arguments))
            return ""

        monkeypatch.setattr(queue, "dvc", answer)
        monkeypatch.setattr(queue.time, "sleep", lambda seconds: None)
        return calls

    return stand_in


def queued(run: Run) -> list[str]:
    changes = ["--set-param", run.changes[0], "--set-param", run.changes[1]]
    return ["exp", "run", "--queue", "--name", run.name, *changes, "evaluate"]


def test_runs_are_queued_started_and_waited_for(dvc):
    calls = dvc(
        table(0),
        table(0, plain="Queued", taught="Queued"),
        table(1, plain="Running", taught="Queued"),
        table(1, plain="Success", taught="Running"),
        table(1, plain="Success", taught="Success"),
    )
    queue.execute(RUNS, 1)
    assert calls == [queued(RUNS[0]), queued(RUNS[1]), ["queue", "start", "--jobs", "1"]]


def test_a_failed_run_is_queued_again_but_not_a_waiting_or_running_one(dvc):
    calls = dvc(table(1, plain="Running", taught="Failed"), table(1))
    queue.execute(RUNS, 2)
    assert calls == [["queue", "remove", TAUGHT], queued(RUNS[1])]


def test_a_worker_that_has_stopped_is_started_again(dvc):
    waiting = table(0, plain="Queued")
    calls = dvc(waiting, waiting, table(1, plain="Running"), table(1))
    queue.execute(RUNS[:1], 3)
    assert calls == [["queue", "start", "--jobs", "3"]]


def test_a_training_without_a_worker_is_killed(dvc):
    """Busy cores delay a worker's answer, so that a few missing answers do not count."""
    lost = table(0, plain="Running")
    calls = dvc(lost, *[lost] * queue.SILENT, table(1, plain="Running"), table(1))
    queue.execute(RUNS[:1], 1)
    assert calls == []
    calls = dvc(lost, *[lost] * (queue.SILENT + 1), table(0, plain="Failed"), ended=())
    with pytest.raises(UserError, match=f"1 of 1 trainings failed: {PLAIN}"):
        queue.execute(RUNS[:1], 1)
    assert calls == [["queue", "kill", PLAIN]]
