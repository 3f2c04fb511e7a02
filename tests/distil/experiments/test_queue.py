"""What is asked of DVC's queue, and when; tests/test_figures.py asks the real one."""

import pytest

from stages.distil.experiments import queue
from stages.distil.experiments.plan import Run
from stages.distil.interface.errors import UserError

RUNS = [
    Run("methods", name, None, 0, (f"alpha={n}", "seed=1"), f"digest{n}")
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
    """Stand in for DVC: `looks` are the answers of `dvc queue status`, one after the other."""

    def stand_in(*looks: str, ended: tuple[str, ...] = (PLAIN, TAUGHT)) -> list[list[str]]:
        coming, asked = iter(looks), []

        def answer(*arguments: str, threads: int | None = None) -> str:
            if arguments == ("queue", "status"):
                return next(coming)
            if arguments[:2] == ("exp", "list"):
                return "main:\n" + "".join(f"\tabcdef0 [{name}]\n" for name in ended)
            asked.append(list(arguments))
            return ""

        monkeypatch.setattr(queue, "dvc", answer)
        monkeypatch.setattr(queue.time, "sleep", lambda seconds: None)
        return asked

    return stand_in


def queued(run: Run) -> list[str]:
    changes = ["--set-param", run.changes[0], "--set-param", run.changes[1]]
    return ["exp", "run", "--queue", "--name", run.name, *changes, "evaluate"]


def test_what_is_missing_is_queued_started_and_waited_for(dvc):
    asked = dvc(
        table(0),
        table(0, plain="Queued", taught="Queued"),
        table(1, plain="Running", taught="Queued"),
        table(1, plain="Success", taught="Running"),
        table(1, plain="Success", taught="Success"),
    )
    queue.execute(RUNS, 1)
    assert asked == [queued(RUNS[0]), queued(RUNS[1]), ["queue", "start", "--jobs", "1"]]


def test_what_waits_or_runs_already_is_not_queued_again_and_what_failed_is(dvc):
    asked = dvc(table(1, plain="Running", taught="Failed"), table(1))
    queue.execute(RUNS, 2)
    assert asked == [["queue", "remove", TAUGHT], queued(RUNS[1])]


def test_a_worker_that_has_nothing_to_do_any_more_is_started_again(dvc):
    waiting = table(0, plain="Queued")
    asked = dvc(waiting, waiting, table(1, plain="Running"), table(1))
    queue.execute(RUNS[:1], 3)
    assert asked == [["queue", "start", "--jobs", "3"]]


def test_a_training_that_no_worker_runs_any_more_is_ended(dvc):
    """Busy cores delay a worker's answer, so that one silence says nothing."""
    lost = table(0, plain="Running")
    asked = dvc(lost, *[lost] * queue.SILENT, table(1, plain="Running"), table(1))
    queue.execute(RUNS[:1], 1)
    assert asked == []
    asked = dvc(lost, *[lost] * (queue.SILENT + 1), table(0, plain="Failed"), ended=())
    with pytest.raises(UserError, match=f"1 of 1 trainings have not ended well: {PLAIN}"):
        queue.execute(RUNS[:1], 1)
    assert asked == [["queue", "kill", PLAIN]]
