"""What a training meets, and the questions of a step, by pass and by process."""

from types import SimpleNamespace

import pytest
import torch

from stages.distil.encoding.samples import Branch, Sample, Window
from stages.distil.interface.method import Train
from stages.distil.student.losses import CrossEntropy, MutualInformation
from stages.distil.student.training import CurveWriter, Steps, survey
from tests.students import ROWS, TASKS, load, taught

LOSSES = [CrossEntropy("answer"), CrossEntropy("one")]
WIDE = Window(1000, encoder_decoder=False, advice="")


class Pass(list):
    """The samples of a pass, in a batch's place."""

    def without_targets(self) -> "Pass":
        return Pass()


def sample(number: int) -> Sample:
    branches = [Branch("answer", [7], [1] * (1 + number % 3))]
    branches += [Branch("one", [8], [2] * number)] if number % 2 else []
    return Sample(str(number), [number] * (5 + number % 4), branches)


def steps(questions: int, batch_size: int, budget: int = 10_000, losses=LOSSES) -> Steps:
    samples = [[sample(n)] for n in range(questions)]
    settings = Train(epochs=1, learning_rate=0.1, batch_size=batch_size)
    return Steps(samples, Pass, losses, settings, budget, seed=3)


def ids(step) -> list[int]:
    """Return the questions of a step."""
    return [int(s.id) for batch in step["passes"] for s in batch]


def test_each_epoch_has_every_question_once_in_its_own_order():
    epoch = steps(10, 4)
    assert len(epoch) == 3
    first = [ids(step) for step in epoch]
    assert sorted(sum(first, [])) == list(range(10))
    assert [len(step) for step in first] == [4, 4, 2]
    epoch.set_epoch(1)
    second = [ids(step) for step in epoch]
    assert sorted(sum(second, [])) == list(range(10))
    assert [set(step) for step in first] != [set(step) for step in second]
    epoch.set_epoch(0)
    assert [ids(step) for step in epoch] == first


def test_the_counts_cover_the_whole_step():
    for step in steps(10, 4):
        chosen = [sample(n) for n in ids(step)]
        for index, task in enumerate(["answer", "one"]):
            targets = [len(b.target) for s in chosen for b in s.branches if b.task == task]
            assert step["counts"][index] == sum(targets)
            explained = [s for s in chosen if any(b.task == task for b in s.branches)]
            assert step["coverage"][index] == len(explained) / len(chosen)
        assert step["tokens"] == sum(s.length for s in chosen)


def test_a_pass_stays_within_the_budget():
    for step in steps(20, 10, budget=40):
        for batch in step["passes"]:
            longest = max(s.length for s in batch)
            assert len(batch) == 1 or len(batch) * longest <= 40
        assert len(step["passes"]) > 1


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_questions_of_a_step(processes):
    alone, by_process = steps(10, 4), [steps(10, 4) for _ in range(processes)]
    for rank, own in enumerate(by_process):
        own.rank, own.processes = rank, processes
    for n, step in enumerate(alone):
        shares = [own[n] for own in by_process]
        assert sorted(sum(map(ids, shares), [])) == sorted(ids(step))
        for name in ("counts", "coverage"):
            assert all(torch.equal(share[name], step[name]) for share in shares)
        assert len({len(share["passes"]) for share in shares}) == 1  # some of them without targets
        assert sum(share["tokens"] for share in shares) == step["tokens"]


@pytest.mark.parametrize("together", [False, True])
def test_a_question_is_split_over_passes_unless_a_loss_compares_its_targets(together):
    losses = [*LOSSES, MutualInformation(("one",))] if together else LOSSES
    questions = [[sample(n), sample(n)] for n in range(4)]
    settings = Train(epochs=1, learning_rate=0.1, batch_size=4)
    [step] = Steps(questions, Pass, losses, settings, 1, seed=0)
    sizes = [len(batch) for batch in step["passes"]]
    assert sizes == ([2] * 4 if together else [1] * 8)


# --------------------------------------------------------------------------------------------------
# The survey


def several(length: int, count: int, task: str = "one") -> list[Sample]:
    """Return a question of one sample with so many branches."""
    return [
        Sample("1", [1] * length, [Branch("answer", [1], [2])] + [Branch(task, [1], [2])] * count)
    ]


def test_the_longest_question_is_the_first_of_those_with_several_branches():
    questions = [several(50, 0), several(20, 1), several(30, 1), several(30, 1), several(9, 3)]
    assert survey(questions, {"answer", "one"}, WIDE).longest == 2
    assert survey(questions, {"answer"}, WIDE).longest == 0  # none has several
    assert survey([several(9, 8), several(12, 1)], {"answer", "one"}, WIDE).longest == 0


def test_only_what_fits_makes_a_question_long():
    """The second question is longer, but its rationale does not fit."""
    long = [
        Sample("2", [1] * 8, [Branch("answer", [1], [2]), Branch("one", [1], [2] * 30)], least=8)
    ]
    window = Window(20, encoder_decoder=False, advice="")
    found = survey([several(12, 1), long], {"answer", "one"}, window)
    assert found.longest == 0
    assert found.limits.shortened == {"cut": 0, "one": 1}


def test_tasks_that_have_a_target_are_found(family):
    _, encoder = load(family)
    questions = encoder.samples(ROWS)
    assert survey(questions, {*TASKS, "silent"}, WIDE).tasks == set(TASKS)
    assert survey(questions[2:3], TASKS, WIDE).tasks == {"answer", "saliency"}
    assert survey(questions, ["answer", "one"], WIDE).tasks == {"answer", "one"}


@pytest.mark.parametrize("tasks", [["answer"], ["answer", "two"], TASKS])
@pytest.mark.parametrize("shared_context", [True, False])
def test_what_is_cut_and_left_out_of_the_taught_tasks_is_counted(tiny_model, tasks, shared_context):
    """Against the samples themselves, question by question."""
    _, encoder = load(tiny_model, context=62, shared_context=shared_context)
    questions = encoder.samples(ROWS)
    found = survey(questions, tasks, encoder.window)
    cut, left_out = 0, dict.fromkeys(tasks, 0)
    for row, whole in zip(ROWS, questions, strict=True):
        fitted = taught(encoder, row, tasks)
        by_first = {s.branches[0].task: s for s in whole}
        cut += any(len(s.context) < len(by_first[s.branches[0].task].context) for s in fitted)
        for task in tasks:
            present, kept = (
                sum(b.task == task for s in samples for b in s.branches)
                for samples in (whole, fitted)
            )
            left_out[task] += present - kept
    assert cut > 0
    assert found.limits.cut == cut
    assert {t: n for t, n in found.limits.left_out.items() if n} == {
        t: n for t, n in left_out.items() if n
    }
    assert set(found.limits.left_out) <= set(tasks)


# --------------------------------------------------------------------------------------------------
# Curves


class Live:
    """What DVCLive is told: name, step, value."""

    def __init__(self):
        self.step, self.logged = 0, []

    def log_metric(self, name: str, value: float) -> None:
        self.logged.append((name, self.step, value))


def test_speeds_and_losses_are_written_apart():
    losses, speed = Live(), Live()
    curves = CurveWriter(losses, speed)
    logs = {"loss": 3.0, "loss/one": 1.0, "speed/tokens_per_second": 9.0, "learning_rate": 0.1}
    curves.on_log(None, SimpleNamespace(global_step=5, epoch=1.0), None, logs)
    curves.on_log(None, SimpleNamespace(global_step=6, epoch=1.2), None, {"eval_accuracy": 0.5})
    assert losses.logged == [
        ("loss/total", 5, 3.0),
        ("loss/one", 5, 1.0),
        ("validation/accuracy", 6, 0.5),
    ]
    assert speed.logged == [("tokens_per_second", 5, 9.0)]


def test_a_resumed_training_writes_its_earlier_curves():
    losses, speed = Live(), Live()
    history = [
        {"loss": 3.0, "speed/tokens_per_second": 9.0, "step": 2},
        {"eval_accuracy": 0.5, "step": 4},
    ]
    CurveWriter(losses, speed).on_train_begin(None, SimpleNamespace(log_history=history), None)
    assert losses.logged == [("loss/total", 2, 3.0), ("validation/accuracy", 4, 0.5)]
    assert speed.logged == [("tokens_per_second", 2, 9.0)]
