"""Weights of rationales against a form that computes one target at a time, with plain sums."""

from collections import Counter

import pytest
import torch
from stages.distil.student.collator import Collator
from stages.distil.student.loss import task_sums, total_loss
from stages.distil.student.steps import Steps

from stages.distil.encoding.samples import MUTUAL_INFORMATION
from tests.distil.student.test_mutual_information import (
    SAMPLED,
    check_empty_pass,
    check_loss,
    gradient,
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
    """Return Σ_m α_m n_m/N Σ_t w_t ℓ_t / T, target by target.

    The R rationales of a question and teacher count as one: each counts 1/R.
    """
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    explained: Counter[str] = Counter()
    for row, samples in zip(rows, questions, strict=True):
        branches = [(sample, branch) for sample in samples for branch in sample.branches]
        weights = iter([rationale["weight"] for rationale in row["rationales"]])
        (_, answer), *_ = branches
        targets = Counter(branch.task for _, branch in branches)
        explained.update(targets.keys())
        for sample, branch in branches:
            before = answer.prefix + answer.target[:-1] if branch.after_answer else []
            likely = logits_of(model, sample, branch, before).log_softmax(-1)
            own = sum(-likely[n, token] for n, token in enumerate(branch.target))
            weight = next(weights) if branch.task in ("one", "two") else 1.0
            sums[branch.task] += own * weight / targets[branch.task]
            counts[branch.task] += len(branch.target) / targets[branch.task]
        assert not list(weights)
    shares = {task: explained[task] / len(questions) for task in sums}
    return sum(WEIGHTS[task] * shares[task] * sums[task] / counts[task] for task in sums)


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
        total_loss(task_sums(model, batch, len(TASKS)), step["counts"], alphas * step["coverage"])
        for batch in step["passes"]
    ]
    check_loss(model, losses, slow_loss(model, WEIGHTED, questions))


def rows_with_rationales(*numbers: int) -> list[dict]:
    """Questions and targets of equal lengths; question n has `numbers[n]` rationales of `one`."""
    return [
        {
            "id": str(n),
            "context": f"Question: what is {n}",
            "options": [],
            "answer": "green",
            "rationales": [{"teacher": "one", "text": f"so it is {n}"}] * count,
            "saliency": ["what"] * (n % 2),
        }
        for n, count in enumerate(numbers)
    ]


def epoch_gradient(model, questions, collate, batch_size: int) -> torch.Tensor:
    """Return the sum of the gradients of an epoch's steps."""
    alphas = torch.tensor(list(WEIGHTS.values()))
    steps = Steps(questions, collate, TASKS, batch_size, 10_000, seed=0)
    losses = [
        total_loss(task_sums(model, batch, len(TASKS)), step["counts"], alphas * step["coverage"])
        for step in (steps[n] for n in range(len(steps)))
        for batch in step["passes"]
    ]
    return gradient(model, sum(losses))


def test_what_a_rationale_weighs_does_not_depend_on_its_neighbours(family):
    """Few questions have a rationale: at any batch size, an epoch gives each the same weight."""
    model, tokenizer, encoder = load(family)
    model.eval()
    rows = rows_with_rationales(1, 0, 0, 0, 1, 0, 0, 1)
    questions = [encoder.samples(row, WEIGHTS) for row in rows]
    assert len({len(b.target) for [s] in questions for b in s.branches if b.task == "one"}) == 1
    collate = Collator(model, tokenizer, TASKS)
    whole, *others = (size * epoch_gradient(model, questions, collate, size) for size in (8, 4, 1))
    for other in others:
        assert (other - whole).norm() / whole.norm() < 1e-4


def test_several_rationales_of_a_teacher_count_as_one(family):
    model, tokenizer, encoder = load(family)
    model.eval()
    collate = Collator(model, tokenizer, TASKS)
    once, thrice = (
        epoch_gradient(
            model,
            [encoder.samples(row, WEIGHTS) for row in rows_with_rationales(*counts)],
            collate,
            4,
        )
        for counts in ((1, 1, 0, 1), (1, 3, 0, 1))
    )
    assert (once - thrice).norm() / once.norm() < 1e-4


def test_at_full_coverage_the_loss_is_the_token_mean(family):
    model, tokenizer, encoder = load(family)
    full = [encoder.samples(row, WEIGHTS) for row in rows_with_rationales(1, 1, 1, 1)]
    [step] = Steps(full, Collator(model, tokenizer, TASKS), TASKS, 4, 10_000, seed=0)
    assert step["coverage"][TASKS.index("one")] == 1.0
    targets = [b.target for [s] in full for b in s.branches if b.task == "one"]
    assert step["counts"][TASKS.index("one")] == sum(map(len, targets))


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
    once = [row | {"rationales": row["rationales"][:1]} for row in equal]
    for rows in (SAMPLED[:3], once):
        assert "weights" not in collate(encode(encoder, rows))


def test_a_pass_without_targets_has_no_weights(family):
    check_empty_pass(family, WEIGHTED[:1], WEIGHTS, TASKS)
