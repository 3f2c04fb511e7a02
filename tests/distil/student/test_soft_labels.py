"""Soft labels against a form that computes one option at a time, with plain sums."""

import math

import pytest
import torch
from stages.distil.student.collator import Collator, count_targets
from stages.distil.student.loss import check_shared_context, soft_cross_entropy, task_sums
from stages.distil.student.loss import total_loss as total
from stages.distil.student.steps import Steps

from stages.distil.encoding.samples import SOFT_LABELS
from tests.distil.student.test_mutual_information import check_empty_pass, check_loss, logits_of
from tests.distil.student.test_samples import WEIGHTS, load, row

ALL_WEIGHTS = WEIGHTS | {SOFT_LABELS: 0.3}
TASKS = list(ALL_WEIGHTS)
OPTIONS = ("green", "greengreen", "a longer one")  # one begins another
ROWS = [
    row(1, {"one": "because"}, ["what"], OPTIONS) | {"option_scores": [-0.1, -2.0, -1.5]},
    row(2, {}, [], OPTIONS) | {"option_scores": None},
    row(3, {}, ["and"], OPTIONS[:2]) | {"option_scores": [-3.0, -2.5]},
    row(4, {"two": "x"}, []) | {"option_scores": None},
]


def slow_loss(model, questions, temperature: float) -> torch.Tensor:
    """Return −T² Σ_o q_o log p_o, summed over questions with scores, by the number of all."""
    losses = []
    for question, samples in zip(ROWS, questions, strict=True):
        if question["option_scores"] is None:
            continue
        scores = []
        for sample in samples:
            for branch in sample.branches:
                if branch.task == SOFT_LABELS:
                    logits = logits_of(model, sample, branch, []).log_softmax(-1)
                    chosen = [logits[n, token] for n, token in enumerate(branch.target)]
                    scores.append(sum(chosen) / len(chosen))
        assert len(scores) == len(question["options"])
        teacher = [math.exp(score / temperature) for score in question["option_scores"]]
        student = [(score / temperature).exp() for score in scores]
        likelihoods = [(value / sum(student)).log() for value in student]
        shares = [value / sum(teacher) for value in teacher]
        products = [q * p for q, p in zip(shares, likelihoods, strict=True)]
        losses.append(-(temperature**2) * sum(products))
    return sum(losses) / len(questions)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("shared_context", [True, False])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_value_and_gradient_equal_the_slow_form(family, temperature, form, shared_context, budget):
    """Whatever the passes: the options of a question are never in two of them."""
    model, tokenizer, encoder = load(family, shared_context=shared_context, form=form)
    model.eval()
    questions = [encoder.samples(question, ALL_WEIGHTS) for question in ROWS]
    [step] = Steps(questions, Collator(model, tokenizer, TASKS), TASKS, 4, budget, seed=0)
    assert (len(step["passes"]) == 4) == (budget == 1)
    assert step["counts"][-1] == 2
    only = torch.tensor([0.0] * len(WEIGHTS) + [1.0])
    losses = [
        total(
            task_sums(model, batch, len(TASKS), temperature),
            step["counts"],
            only * step["coverage"],
        )
        for batch in step["passes"]
    ]
    check_loss(model, losses, slow_loss(model, questions, temperature), tolerance=1e-4)


@pytest.mark.parametrize("form", ["branch", "after_answer"])
def test_the_other_losses_stay_as_they_are(family, form):
    model, tokenizer, encoder = load(family, form=form)
    model.eval()
    sums, counts = [], []
    for weights in (WEIGHTS, ALL_WEIGHTS):
        samples = [sample for r in ROWS for sample in encoder.samples(r, weights)]
        collate = Collator(model, tokenizer, list(weights))
        check_shared_context(model, collate, samples)
        sums.append(task_sums(model, collate(samples), len(weights)))
        counts.append(count_targets(samples, list(weights)))
    torch.testing.assert_close(sums[1][:-1], sums[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(counts[1][:-1], counts[0])


@pytest.mark.parametrize("shared_context", [True, False])
def test_an_option_is_scored_as_the_evaluation_scores_it(family, shared_context):
    _, tokenizer, encoder = load(family, shared_context=shared_context)
    end = tokenizer.eos_token_id
    taught = [s for s in encoder.samples(ROWS[0], {SOFT_LABELS: 1.0})]
    scored = encoder.options(ROWS[0])
    assert [s.context for s in taught] == [s.context for s in scored]
    for one, other in zip(taught, scored, strict=True):
        assert [(b.prefix, [*b.target, end]) for b in one.branches] == [
            (b.prefix, b.target) for b in other.branches
        ]


def test_at_a_high_temperature_scores_are_regressed_on_each_other():
    """The limit of Hinton et al., section 2.1: the gradient of (s − t)² / 2N, both centred."""
    teacher = torch.tensor([-1.0, -2.0, -6.0])
    student = torch.tensor([-3.0, -0.5, -1.0], requires_grad=True)
    soft_cross_entropy(teacher, student, 1e4).backward()
    expected = ((student - student.mean()) - (teacher - teacher.mean())) / 3
    torch.testing.assert_close(student.grad, expected, rtol=2e-3, atol=1e-3)


def test_a_pass_without_targets_has_no_options(family):
    check_empty_pass(family, ROWS[:1], ALL_WEIGHTS, TASKS)
