"""Weights of rationales against a form that computes one target at a time, with plain sums."""

from collections import Counter

import pytest
import torch

from stages.distil.student.collator import Collator
from stages.distil.student.loss import task_sums, total_loss
from stages.distil.student.samples import MUTUAL_INFORMATION
from stages.distil.student.steps import Steps
from tests.distil.student.test_mutual_information import (
    SAMPLED,
    check_empty_pass,
    check_loss,
    logits_of,
)
from tests.distil.student.test_samples import TASKS, WEIGHTS, encode, load


def weighted(row: dict, *weights: float) -> dict:
    pairs = zip(row["rationales"], weights, strict=True)
    return row | {"rationales": [rationale | {"weight": weight} for rationale, weight in pairs]}


WEIGHTED = [
    weighted(SAMPLED[0], 1.5, 0.5),
    weighted(SAMPLED[1], 1.0),
    weighted(SAMPLED[2]),
    weighted(SAMPLED[3], 0.25, 1.75),  # of one teacher
]


def slow_loss(model, rows, questions) -> torch.Tensor:
    """Return Σ_m α_m Σ_t w_t ℓ_t / T, target by target."""
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for row, samples in zip(rows, questions, strict=True):
        branches = [(sample, branch) for sample in samples for branch in sample.branches]
        weights = iter([rationale["weight"] for rationale in row["rationales"]])
        (_, answer), *_ = branches
        for sample, branch in branches:
            before = answer.prefix + answer.target[:-1] if branch.after_answer else []
            likely = logits_of(model, sample, branch, before).log_softmax(-1)
            own = sum(-likely[n, token] for n, token in enumerate(branch.target))
            sums[branch.task] += own * (next(weights) if branch.task in ("one", "two") else 1.0)
            counts[branch.task] += len(branch.target)
        assert not list(weights)
    return sum(WEIGHTS[task] * sums[task] / counts[task] for task in sums)


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("shared_context", [True, False])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_value_and_gradient_equal_the_slow_form(family, shared_context, form, budget):
    model, tokenizer, encoder = load(family, shared_context=shared_context, form=form)
    model.eval()
    questions = [encoder.samples(row, WEIGHTS) for row in WEIGHTED]
    [step] = Steps(questions, Collator(model, tokenizer, TASKS), TASKS, 4, budget, seed=0)
    assert (len(step["passes"]) > 1) == (budget == 1)
    alphas = torch.tensor(list(WEIGHTS.values()))
    losses = [
        total_loss(task_sums(model, batch, len(TASKS)), step["counts"], alphas)
        for batch in step["passes"]
    ]
    check_loss(model, losses, slow_loss(model, WEIGHTED, questions))


def test_the_mutual_information_term_has_no_weights(family):
    model, tokenizer, encoder = load(family)
    model.eval()
    tasks = [*TASKS, MUTUAL_INFORMATION]
    collate = Collator(model, tokenizer, tasks)
    plain, found = (
        task_sums(model, collate(encode(encoder, rows)), len(tasks)) for rows in (SAMPLED, WEIGHTED)
    )
    changed = (plain != found).tolist()
    assert changed == [task in ("one", "two") for task in tasks]


def test_without_weights_a_batch_has_none(family):
    model, tokenizer, encoder = load(family)
    collate = Collator(model, tokenizer, TASKS)
    assert "weights" in collate(encode(encoder, WEIGHTED))
    equal = [weighted(row, *[1.0] * len(row["rationales"])) for row in SAMPLED]
    for rows in (SAMPLED, equal):
        assert "weights" not in collate(encode(encoder, rows))


def test_a_pass_without_targets_has_no_weights(family):
    check_empty_pass(family, WEIGHTED[:1], WEIGHTS, TASKS)
