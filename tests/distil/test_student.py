from pathlib import Path

import pytest
import torch

from stages.distil.errors import UserError
from stages.distil.loading import load_model
from stages.distil.student import (
    collate,
    encode_sample,
    generate_answers,
    separate_tasks,
    task_losses,
    total_loss,
)

WEIGHTS = {"answer": 1.0, "one": 0.5, "two": 0.25, "saliency": 0.7}


def row(number: int, rationales: dict[str, str], saliency: list[str]) -> dict:
    return {
        "id": str(number),
        "context": f"Question: what is {number}" + " and more" * number,
        "options": [],
        "answer": "green" * (1 + number % 2),
        "rationales": [{"teacher": t, "text": x} for t, x in rationales.items()],
        "saliency": saliency,
    }


ROWS = [
    row(1, {"one": "because it is so", "two": "why not"}, ["what", "1"]),
    row(4, {"two": "for a reason that is somewhat longer"}, []),
    row(2, {}, ["is"]),
    row(3, {"one": "x"}, ["more", "and", "3"]),
]


def losses_and_gradients(model, batch):
    model.zero_grad()
    losses = task_losses(model, batch, len(WEIGHTS))
    total_loss(losses, torch.tensor(list(WEIGHTS.values()))).backward()
    return losses.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_shared_pass_equals_one_pass_per_task_in_losses_and_gradients(tiny_model, attention):
    model, tokenizer = load_model(tiny_model, "float32")
    model.set_attn_implementation(attention)
    samples = [encode_sample(tokenizer, r, WEIGHTS, 1024) for r in ROWS]
    alone = separate_tasks(samples)
    assert len(alone) == 4 + 2 + 2 + 3
    shared_losses, shared = losses_and_gradients(model, collate(samples, list(WEIGHTS), 0))
    losses, separate = losses_and_gradients(model, collate(alone, list(WEIGHTS), 0))
    assert losses.min() > 1
    torch.testing.assert_close(shared_losses, losses, rtol=1e-5, atol=0)
    assert (shared - separate).norm() / separate.norm() < 1e-5


def test_the_losses_are_the_models_own(tiny_model):
    """Against the plainest form: one task, no padding, the model's own causal pass and loss."""
    model, tokenizer = load_model(tiny_model, "float32")
    samples = [encode_sample(tokenizer, r, WEIGHTS, 1024) for r in ROWS]
    losses = task_losses(model, collate(samples, list(WEIGHTS), 0), len(WEIGHTS))
    for index, task in enumerate(WEIGHTS):
        total, count = 0.0, 0
        for sample in separate_tasks(samples):
            (branch,) = sample.branches
            if branch.task == task:
                ids = torch.tensor([sample.context + branch.prefix + branch.target])
                labels = ids.clone()
                labels[0, : -len(branch.target)] = -100
                mean = model(input_ids=ids, labels=labels).loss
                total += mean.item() * len(branch.target)
                count += len(branch.target)
        assert losses[index].item() == pytest.approx(total / count, rel=1e-5)


def test_a_branch_sees_the_context_and_itself_only(tiny_model):
    model, tokenizer = load_model(tiny_model, "float32")
    plain = encode_sample(tokenizer, ROWS[0], WEIGHTS, 1024)
    other = encode_sample(
        tokenizer, ROWS[0] | {"rationales": [{"teacher": "one", "text": "zzz"}]}, WEIGHTS, 1024
    )
    tasks = list(WEIGHTS)
    before = task_losses(model, collate([plain], tasks, 0), 4)
    after = task_losses(model, collate([other], tasks, 0), 4)
    assert before[1] != after[1]
    torch.testing.assert_close(before[[0, 3]], after[[0, 3]], rtol=1e-5, atol=0)


def test_a_task_of_weight_zero_costs_nothing(tiny_model):
    _, tokenizer = load_model(tiny_model, "float32")
    sample = encode_sample(tokenizer, ROWS[0], {"answer": 1.0, "one": 0.0}, 1024)
    assert [branch.task for branch in sample.branches] == ["answer"]


def test_a_question_longer_than_the_model_reads_is_named(tiny_model):
    _, tokenizer = load_model(tiny_model, "float32")
    with pytest.raises(UserError, match="question '1': .* tokens, the student reads 20"):
        encode_sample(tokenizer, ROWS[0], WEIGHTS, 20)


def test_answers_do_not_depend_on_the_batch(tiny_model):
    model, tokenizer = load_model(tiny_model, "float32")
    together = generate_answers(model, tokenizer, ROWS, 8)
    alone = [generate_answers(model, tokenizer, [r], 8)[0] for r in ROWS]
    assert together == alone
    assert any(together)


def test_a_missing_model_is_named():
    with pytest.raises(UserError, match="nowhere: no model there"):
        load_model(Path("nowhere"), "float32")
