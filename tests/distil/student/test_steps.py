"""The questions of a step, by pass and by process."""

import pytest
import torch
from stages.distil.student.steps import Steps

from stages.distil.encoding.samples import Branch, Sample

TASKS = ["answer", "one"]


def sample(number: int) -> Sample:
    branches = [Branch("answer", [7], [1] * (1 + number % 3))]
    branches += [Branch("one", [8], [2] * number)] if number % 2 else []
    return Sample(str(number), [number] * (5 + number % 4), branches)


def steps(questions: int, batch_size: int, budget: int = 10_000) -> Steps:
    def collate(samples):
        return {"labels": torch.tensor([0]), "samples": samples}

    samples = [[sample(n)] for n in range(questions)]
    return Steps(samples, collate, TASKS, batch_size, budget, seed=3)


def ids(step) -> list[int]:
    """Return the questions of a step, without empty passes."""
    batches = [batch for batch in step["passes"] if (batch["labels"] >= 0).all()]
    return [int(s.id) for batch in batches for s in batch["samples"]]


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
        for index, task in enumerate(TASKS):
            targets = [len(b.target) for s in chosen for b in s.branches if b.task == task]
            assert step["counts"][index] == sum(targets)
            explained = [s for s in chosen if any(b.task == task for b in s.branches)]
            assert step["coverage"][index] == len(explained) / len(chosen)


def test_a_pass_stays_within_the_budget():
    for step in steps(20, 10, budget=40):
        for batch in step["passes"]:
            longest = max(s.length for s in batch["samples"])
            assert len(batch["samples"]) == 1 or len(batch["samples"]) * longest <= 40
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
        assert all(share["passes"] for share in shares)  # an empty pass if there is no question
