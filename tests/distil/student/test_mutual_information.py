"""The mutual-information term against a form that computes one text at a time, with plain sums."""

import pytest
import torch
from stages.distil.student.collator import Collator, count_targets
from stages.distil.student.loss import mutual_information, task_sums, total_loss
from stages.distil.student.steps import Steps
from torch import nn

from stages.distil.encoding.samples import MUTUAL_INFORMATION, Branch, Sample
from tests.distil.student.test_samples import ROWS, WEIGHTS, load

ALL_WEIGHTS = WEIGHTS | {MUTUAL_INFORMATION: 0.3}
TASKS = list(ALL_WEIGHTS)
PAIRS = 2 + 1 + 0 + 1  # rationales of the questions
SAMPLED = ROWS[:3] + [  # a teacher may give several rationales
    ROWS[3] | {"rationales": [{"teacher": "one", "text": text} for text in ("x", "y so y")]}
]


def logits_of(model, sample: Sample, branch: Branch, said: list[int]) -> torch.Tensor:
    """Return the logits of a target whose text the model reads alone, shape (tokens, V)."""
    inputs = said + branch.prefix + branch.target[:-1]
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *inputs]])
        logits = model(input_ids=torch.tensor([sample.context]), decoder_input_ids=decoder_ids)
    else:
        logits = model(input_ids=torch.tensor([sample.context + inputs]))
    return logits.logits[0, -len(branch.target) :]


def pair_loss(answer: torch.Tensor, rationale: torch.Tensor) -> torch.Tensor:
    """−Σ_v f(Z)_v log softmax(f(V))_v, word by word."""
    answer, rationale = answer.detach().softmax(-1), rationale.softmax(-1)
    total, exponentials = torch.tensor(0.0), torch.tensor(0.0)
    for word in range(answer.shape[1]):
        exponentials = exponentials + max(rationale[:, word]).exp()
    for word in range(answer.shape[1]):
        likely = max(rationale[:, word]) - exponentials.log()
        total = total - max(answer[:, word]) * likely
    return total


def slow_loss(model, questions: list[list[Sample]]) -> torch.Tensor:
    """Return the mean loss of all pairs, times the share of questions with a pair."""
    losses, explained = [], 0
    for samples in questions:
        branches = [(sample, branch) for sample in samples for branch in sample.branches]
        (sample, answer), *others = branches
        said = answer.prefix + answer.target[:-1]
        answer_logits = logits_of(model, sample, answer, [])
        explained += any(branch.task in ("one", "two") for _, branch in others)
        for sample, branch in others:
            if branch.task in ("one", "two"):
                before = said if branch.after_answer else []
                rationale_logits = logits_of(model, sample, branch, before)
                losses.append(pair_loss(answer_logits, rationale_logits))
    return explained / len(questions) * sum(losses) / len(losses)


def gradient(model, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check_loss(model, passes: list[torch.Tensor], slow: torch.Tensor, tolerance=1e-5) -> None:
    """Compare the sum of the passes' losses, and its gradient, with the slow form."""
    loss = sum(passes)
    torch.testing.assert_close(loss, slow, rtol=tolerance, atol=0)
    found, expected = gradient(model, loss), gradient(model, slow)
    assert (found - expected).norm() / expected.norm() < 1e-4


def check_empty_pass(family, rows: list[dict], weights: dict, tasks: list[str]) -> None:
    """Compute the pass of a process that has fewer passes than another: no task has a loss."""
    model, tokenizer, encoder = load(family)
    questions = [encoder.samples(row, weights) for row in rows]
    steps = Steps(questions, Collator(model, tokenizer, tasks), tasks, 2, 1, seed=0)
    steps.rank = len(rows)
    steps.processes = steps.rank + 1
    [empty] = steps[0]["passes"]
    assert not task_sums(model, empty, len(tasks)).any()


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("shared_context", [True, False])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_value_and_gradient_equal_the_slow_form(family, shared_context, form, budget):
    """Whatever the passes: a question's samples are never in two of them."""
    model, tokenizer, encoder = load(family, shared_context=shared_context, form=form)
    model.eval()
    questions = [encoder.samples(row, WEIGHTS) for row in SAMPLED]
    [step] = Steps(questions, Collator(model, tokenizer, TASKS), TASKS, 4, budget, seed=0)
    assert len(step["passes"]) == (4 if budget == 1 else 1)
    assert step["counts"][-1] == PAIRS + 1
    only = torch.tensor([0.0] * len(WEIGHTS) + [1.0])
    losses = [
        total_loss(task_sums(model, batch, len(TASKS)), step["counts"], only * step["coverage"])
        for batch in step["passes"]
    ]
    check_loss(model, losses, slow_loss(model, questions))


def test_the_other_losses_stay_as_they_are(family):
    model, tokenizer, encoder = load(family)
    model.eval()
    samples = [sample for row in ROWS for sample in encoder.samples(row, WEIGHTS)]
    without, with_term = (
        task_sums(model, Collator(model, tokenizer, tasks)(samples), len(tasks))
        for tasks in (list(WEIGHTS), TASKS)
    )
    assert torch.equal(without, with_term[:-1])
    assert torch.equal(count_targets(samples, TASKS)[:-1], count_targets(samples, list(WEIGHTS)))


def test_it_equals_the_authors_formula():
    """Their code, with its names' meaning: torch's cross-entropy between two maxima over time."""
    torch.manual_seed(0)
    logits = torch.randn(9, 30)
    answer, rationale = logits[:3].softmax(-1), logits[5:].softmax(-1)
    expected = nn.CrossEntropyLoss()(rationale.max(0)[0][None], answer.max(0)[0][None])
    torch.testing.assert_close(mutual_information(logits, [[0, 3, 5, 9]])[0], expected)


def test_a_pass_without_targets_has_no_pairs(family):
    check_empty_pass(family, ROWS[:2], WEIGHTS, TASKS)


def test_a_question_without_rationales_has_no_term(family):
    model, tokenizer, encoder = load(family)
    batch = Collator(model, tokenizer, TASKS)(encoder.samples(ROWS[2], WEIGHTS))
    assert task_sums(model, batch, len(TASKS))[-1] == 0
