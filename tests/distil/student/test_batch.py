"""One pass over a question and all its targets against one pass per target, both architectures."""

import pytest
import torch

from stages.distil.encoding.samples import Branch, separate_tasks
from stages.distil.student.batch import Batch, Collator, Target
from stages.distil.student.losses import CrossEntropy
from tests.students import (
    LOSSES,
    ROWS,
    TASKS,
    WEIGHTS,
    all_taught,
    gradients,
    load,
    loss_sums,
    without_dropout,
)


def losses_and_gradients(student, samples, passes):
    """Return the sum of each task and the gradient of the total loss, over these passes."""
    student.model.zero_grad()
    collate = Collator(student.model, student.tokenizer)
    counts = torch.tensor([loss.count(samples) for loss in LOSSES])
    sums = torch.zeros(len(TASKS))
    for part in passes:
        torch.manual_seed(1)
        pass_sums = loss_sums(student.model, collate(part))
        (pass_sums / counts * torch.tensor(list(WEIGHTS.values()))).sum().backward()
        sums += pass_sums.detach()
    return sums, gradients(student.model)


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_the_shared_pass_equals_one_pass_per_task(family, attention, training, form):
    student, encoder = load(family, form=form)
    if "t5" in str(family):
        attention = "eager"
    student.model.set_attn_implementation(attention)
    student.model.train(training)
    without_dropout(student.model)
    samples = all_taught(encoder)
    separated = separate_tasks(samples)
    assert len(separated) == 4 + 2 + 2 + 3
    shared_sums, shared = losses_and_gradients(student, samples, [samples])
    sums, separate = losses_and_gradients(student, samples, [[s] for s in separated])
    counts = torch.tensor([loss.count(samples) for loss in LOSSES])
    assert (sums / counts).min() > 1
    torch.testing.assert_close(shared_sums, sums, rtol=1e-5, atol=0)
    assert (shared - separate).norm() / separate.norm() < 1e-5


def test_a_branch_after_the_answer_reads_it(tiny_model):
    """Another answer changes the loss of what follows it, and that of nothing else."""
    sums = {}
    for form in ("branch", "after_answer"):
        student, encoder = load(tiny_model, form=form)
        collate = Collator(student.model, student.tokenizer)
        for answer in ("green", "black"):
            batch = collate(all_taught(encoder, [ROWS[0] | {"answer": answer}]))
            with torch.no_grad():
                sums[form, answer] = loss_sums(student.model, batch)[1:]
    torch.testing.assert_close(sums["branch", "green"], sums["branch", "black"])
    assert (sums["after_answer", "green"] - sums["after_answer", "black"]).abs().min() > 1e-3


def test_dropout_changes_the_loss_in_training_only(tiny_t5):
    student, encoder = load(tiny_t5)
    batch = Collator(student.model, student.tokenizer)(all_taught(encoder))
    sums = []
    for training in (False, True, True):
        student.model.train(training)
        torch.manual_seed(len(sums))
        with torch.no_grad():
            sums.append(loss_sums(student.model, batch))
    assert not torch.equal(sums[0], sums[1])
    assert not torch.equal(sums[1], sums[2])


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("shared_context", [True, False])
def test_the_losses_equal_the_models_own(family, shared_context, form):
    """The reference is one target without padding, with the model's own loss."""
    (model, tokenizer, _), encoder = load(family, shared_context=shared_context, form=form)
    samples = all_taught(encoder)
    sums = loss_sums(model, Collator(model, tokenizer)(samples))
    for index, task in enumerate(TASKS):
        total = 0.0
        for sample in separate_tasks(samples):
            (branch,) = sample.branches
            if branch.task != task:
                continue
            if model.config.is_encoder_decoder:
                labels = torch.tensor([[-100] * len(branch.prefix) + branch.target])
                start = model.config.decoder_start_token_id
                decoder_ids = [start, *branch.prefix, *branch.target[:-1]]
                mean = model(
                    input_ids=torch.tensor([sample.context]),
                    decoder_input_ids=torch.tensor([decoder_ids]),
                    labels=labels,
                ).loss
            else:
                ids = torch.tensor([sample.context + branch.prefix + branch.target])
                labels = ids.clone()
                labels[0, : -len(branch.target)] = -100
                mean = model(input_ids=ids, labels=labels).loss
            total += mean.item() * len(branch.target)
        assert sums[index].item() == pytest.approx(total, rel=1e-5)


def test_the_models_own_head_computes_the_logits():
    """A model may scale or cap its logits; Granite divides them."""
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50}
    model = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=7.0)).eval()
    ids = torch.arange(8)[None]
    inputs = {
        "input_ids": ids,
        "position_ids": ids,
        "attention_mask": torch.ones(8, 8, dtype=torch.bool).tril()[None, None],
    }
    predicts = torch.tensor([[False, True, True, False, True, True, True, False]])
    labels = torch.tensor([2, 3, 5, 6, 7])
    targets = [Target("1", Branch("answer", [], labels.tolist()), 0, len(labels))]
    logits = model(input_ids=ids).logits[predicts]
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    [found] = loss_sums(model, Batch(inputs, predicts, labels, targets), [CrossEntropy("answer")])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_branch_attends_to_the_context_and_itself_only(family):
    student, encoder = load(family)
    collate = Collator(student.model, student.tokenizer)
    other = ROWS[0] | {"rationales": [{"teacher": "one", "text": "zzz", "status": "ok"}]}
    before = loss_sums(student.model, collate(all_taught(encoder, ROWS[:1])))
    after = loss_sums(student.model, collate(all_taught(encoder, [other])))
    assert before[1] != after[1]
    torch.testing.assert_close(before[[0, 3]], after[[0, 3]], rtol=1e-5, atol=0)


@pytest.mark.parametrize("shared_context", [True, False])
def test_a_batch_describes_the_tokens_that_it_predicts(family, shared_context):
    """`targets` and `labels` are those of the samples, and there is a position for each label."""
    student, encoder = load(family, shared_context=shared_context)
    samples = all_taught(encoder)
    batch = Collator(student.model, student.tokenizer)(samples)
    expected = [(sample.id, branch) for sample in samples for branch in sample.branches]
    assert [(target.question, target.branch) for target in batch.targets] == expected
    for target in batch.targets:
        assert batch.labels[target.start : target.end].tolist() == target.branch.target
    assert int(batch.predicts.sum()) == len(batch.labels) == batch.targets[-1].end


def test_a_batch_without_targets_predicts_nothing(family):
    student, encoder = load(family)
    batch = Collator(student.model, student.tokenizer)(all_taught(encoder))
    empty = batch.without_targets()
    assert not empty.predicts.any()
    assert (len(empty.labels), empty.targets) == (0, [])
    assert torch.equal(empty.inputs["input_ids"], batch.inputs["input_ids"])
    assert not loss_sums(student.model, empty).any()
