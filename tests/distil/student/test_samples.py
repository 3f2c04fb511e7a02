"""One pass over a question and all its targets against one pass per target, both architectures."""

from pathlib import Path

import pytest
import torch
from stages.distil.student.collator import Collator, count_targets
from stages.distil.student.loss import task_sums, total_loss

from stages.distil.encoding.samples import Encoder, Sample, separate_tasks
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student
from stages.distil.models.loading import load_model
from stages.distil.student.answering import generate_answers

WEIGHTS = {"answer": 1.0, "one": 0.5, "two": 0.25, "saliency": 0.7}
TASKS = list(WEIGHTS)


def row(number: int, rationales: dict[str, str], saliency: list[str], options=()) -> dict:
    question = f"Question: what is {number}" + " and more" * number
    return {
        "id": str(number),
        "context": question + (f"\nOptions: {', '.join(options)}" if options else ""),
        "options": list(options),
        "answer": "green" * (1 + number % 2),
        "rationales": [{"teacher": t, "text": x} for t, x in rationales.items()],
        "saliency": saliency,
    }


ROWS = [
    row(1, {"one": "because it is so", "two": "why not"}, ["what", "1"]),
    row(4, {"two": "for a reason that is somewhat longer"}, [], ("red", "green")),
    row(2, {}, ["is"]),
    row(3, {"one": "x"}, ["more", "and", "3"]),
]


def load(folder: Path, **arguments):
    model, tokenizer = load_model(folder, "float32")
    return model, tokenizer, Encoder(model.config, tokenizer, Student(model="tiny", **arguments))


def encode(encoder: Encoder, rows=ROWS, weights=WEIGHTS) -> list[Sample]:
    return [sample for r in rows for sample in encoder.samples(r, weights)]


def losses_and_gradients(model, tokenizer, samples, passes):
    """Return the sum of each task and the gradient of the total loss, over these passes."""
    model.zero_grad()
    collate = Collator(model, tokenizer, TASKS)
    counts = count_targets(samples, TASKS)
    sums = torch.zeros(len(TASKS))
    for part in passes:
        torch.manual_seed(1)
        pass_sums = task_sums(model, collate(part), len(TASKS))
        total_loss(pass_sums, counts, torch.tensor(list(WEIGHTS.values()))).backward()
        sums += pass_sums.detach()
    return sums, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("training", [False, True])
def test_the_shared_pass_equals_one_pass_per_task(family, attention, training, form):
    model, tokenizer, encoder = load(family, form=form)
    if "t5" in str(family):
        attention = "eager"
    model.set_attn_implementation(attention)
    model.train(training)
    for module in model.modules():  # dropout would draw differently in each pass
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    samples = encode(encoder)
    separated = separate_tasks(samples)
    assert len(separated) == 4 + 2 + 2 + 3
    shared_sums, shared = losses_and_gradients(model, tokenizer, samples, [samples])
    sums, separate = losses_and_gradients(model, tokenizer, samples, [[s] for s in separated])
    assert (sums / count_targets(samples, TASKS)).min() > 1
    torch.testing.assert_close(shared_sums, sums, rtol=1e-5, atol=0)
    assert (shared - separate).norm() / separate.norm() < 1e-5


@pytest.mark.parametrize("shared_context", [True, False])
def test_targets_after_the_answer_are_one_text_with_it(family, shared_context):
    """The reference is a text for each target, tokens put together by hand."""
    model, tokenizer, encoder = load(family, shared_context=shared_context, form="after_answer")
    samples = encoder.samples(ROWS[0], WEIGHTS)
    assert len(samples) == (1 if shared_context else len(WEIGHTS))
    texts = {
        "answer": "\nAnswer: greengreen",
        "one": "\nAnswer: greengreen\nReason 1: because it is so",
        "two": "\nAnswer: greengreen\nReason 2: why not",
        "saliency": "\nAnswer: greengreen\nKey words: what, 1",
    }
    for sample in separate_tasks(samples):
        [branch] = sample.branches
        text = tokenizer.decode(sample.context + branch.prefix + branch.target[:-1])
        assert text == ROWS[0]["context"] + texts[branch.task]
        last = text.rsplit(":", 1)[1]
        assert tokenizer.decode(branch.target) == f"{last}{tokenizer.eos_token}"
    if shared_context and not model.config.is_encoder_decoder:
        [sample] = samples
        assert [b.after_answer for b in sample.branches] == [False, True, True, True]
        lengths = [len(s.context) + len(s.branches[0].prefix) for s in separate_tasks(samples)]
        assert sample.length < sum(lengths)


def test_a_branch_after_the_answer_reads_it(tiny_model):
    """Another answer changes the loss of what follows it, and that of nothing else."""
    sums = {}
    for form in ("branch", "after_answer"):
        model, tokenizer, encoder = load(tiny_model, form=form)
        collate = Collator(model, tokenizer, TASKS)
        for answer in ("green", "black"):
            batch = collate(encode(encoder, [ROWS[0] | {"answer": answer}]))
            with torch.no_grad():
                sums[form, answer] = task_sums(model, batch, len(TASKS))[1:]
    torch.testing.assert_close(sums["branch", "green"], sums["branch", "black"])
    assert (sums["after_answer", "green"] - sums["after_answer", "black"]).abs().min() > 1e-3


def test_passes_of_any_size_add_up_to_the_same_step(family):
    model, tokenizer, encoder = load(family)
    samples = encode(encoder)
    whole = losses_and_gradients(model, tokenizer, samples, [samples])
    parts = losses_and_gradients(model, tokenizer, samples, [samples[:1], samples[1:]])
    torch.testing.assert_close(whole[0], parts[0], rtol=1e-5, atol=0)
    assert (whole[1] - parts[1]).norm() / whole[1].norm() < 1e-5


def test_dropout_changes_the_loss_in_training_only(tiny_t5):
    model, tokenizer, encoder = load(tiny_t5)
    samples = encode(encoder)
    batch = Collator(model, tokenizer, TASKS)(samples)
    sums = []
    for training in (False, True, True):
        model.train(training)
        torch.manual_seed(len(sums))
        with torch.no_grad():
            sums.append(task_sums(model, batch, len(TASKS)))
    assert not torch.equal(sums[0], sums[1])
    assert not torch.equal(sums[1], sums[2])


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("shared_context", [True, False])
def test_the_losses_equal_the_models_own(family, shared_context, form):
    """The reference is one target without padding, with the model's own loss."""
    model, tokenizer, encoder = load(family, shared_context=shared_context, form=form)
    samples = encode(encoder)
    sums = task_sums(model, Collator(model, tokenizer, TASKS)(samples), len(TASKS))
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
    labels = torch.tensor([[-100, 2, 3, -100, 5, 6, 7, -100]])
    batch = {
        "input_ids": ids,
        "position_ids": ids,
        "attention_mask": torch.ones(8, 8, dtype=torch.bool).tril()[None, None],
        "labels": labels,
        "tasks": torch.zeros_like(ids),
    }
    logits = model(input_ids=ids).logits[0]
    targets = labels[0] >= 0
    expected = torch.nn.functional.cross_entropy(
        logits[targets], labels[0][targets], reduction="sum"
    )
    torch.testing.assert_close(task_sums(model, batch, 1)[0], expected, rtol=1e-5, atol=0)


def test_a_branch_attends_to_the_context_and_itself_only(family):
    model, tokenizer, encoder = load(family)
    collate = Collator(model, tokenizer, TASKS)
    other = ROWS[0] | {"rationales": [{"teacher": "one", "text": "zzz"}]}
    before = task_sums(model, collate(encode(encoder, ROWS[:1])), len(TASKS))
    after = task_sums(model, collate(encode(encoder, [other])), len(TASKS))
    assert before[1] != after[1]
    torch.testing.assert_close(before[[0, 3]], after[[0, 3]], rtol=1e-5, atol=0)


def test_without_shared_context_an_encoder_reads_the_prefix(tiny_t5):
    _, tokenizer, encoder = load(tiny_t5, shared_context=False)
    first, second, *_ = encoder.samples(ROWS[0], WEIGHTS)
    assert tokenizer.decode(first.context).startswith(f"{ROWS[0]['context']}\nAnswer:")
    assert tokenizer.decode(second.context).startswith(f"{ROWS[0]['context']}\nReason 1:")
    assert [sample.branches[0].prefix for sample in (first, second)] == [[], []]
    prompt = encoder.prompt(ROWS[0], 4)
    assert (prompt.context, prompt.branches[0].prefix) == (first.context, [])


def test_a_task_of_weight_zero_is_left_out(family):
    _, _, encoder = load(family)
    [sample] = encoder.samples(ROWS[0], {"answer": 1.0, "one": 0.0})
    assert [branch.task for branch in sample.branches] == ["answer"]


def test_a_long_question_loses_its_beginning_and_no_option(tiny_model):
    _, tokenizer, unlimited = load(tiny_model)
    [sample] = unlimited.samples(ROWS[1], WEIGHTS)
    longest = max(len(b.prefix) + len(b.target) for b in sample.branches)
    limit = len(sample.context) + longest - 3
    _, _, encoder = load(tiny_model, context=limit)
    [cut] = encoder.samples(ROWS[1], WEIGHTS)
    assert cut.context == sample.context[3:]
    assert cut.branches == sample.branches
    assert (encoder.cut, encoder.dropped) == ({"4"}, {})
    assert tokenizer.decode(cut.context).endswith("\nOptions: red, green")


def test_targets_are_dropped_for_the_options_but_never_the_answer(tiny_model):
    _, tokenizer, unlimited = load(tiny_model)
    [sample] = unlimited.samples(ROWS[1], WEIGHTS)
    answer, rationale = sample.branches
    options = len(tokenizer.encode("\nOptions: red, green"))
    limit = options + len(answer.prefix) + len(answer.target)
    assert len(rationale.prefix) + len(rationale.target) > limit - options
    _, _, encoder = load(tiny_model, context=limit)
    [short] = encoder.samples(ROWS[1], WEIGHTS)
    assert short.branches == [answer]
    assert tokenizer.decode(short.context) == "\nOptions: red, green"
    assert encoder.dropped == {"two": 1}
    _, _, encoder = load(tiny_model, context=limit - 1)
    with pytest.raises(UserError, match=f"question '4': options and answer .* {limit - 1} tokens"):
        encoder.samples(ROWS[1], WEIGHTS)


def test_a_prompt_leaves_room_for_the_answer(tiny_model):
    _, _, encoder = load(tiny_model, context=40)
    long = row(30, {}, [], ("red", "green"))
    prompt = encoder.prompt(long, 10)
    assert len(prompt.context) + len(prompt.branches[0].prefix) + 10 == 40
    assert encoder.cut == {"30"}


def test_the_default_limit_is_the_models(family):
    model, tokenizer, encoder = load(family)
    assert encoder.limit == (1024 if not model.config.is_encoder_decoder else 10**9)
    tokenizer.model_max_length = 77
    assert Encoder(model.config, tokenizer, Student(model="tiny")).limit == 77


@pytest.mark.parametrize("shared_context", [True, False])
def test_answers_do_not_depend_on_the_batch(family, shared_context):
    model, tokenizer, encoder = load(family, shared_context=shared_context)
    prompts = [encoder.prompt(r, 8) for r in ROWS]
    together = generate_answers(model, tokenizer, prompts, 8, "float32")
    alone = [generate_answers(model, tokenizer, [prompt], 8, "float32")[0] for prompt in prompts]
    assert together == alone
    assert any(together)


def memorise(family: Path, shared_context: bool, form: str = "branch", known=ROWS[0], **arguments):
    """Load a model and train it until it knows all targets of a question."""
    arguments |= {"shared_context": shared_context, "form": form}
    model, tokenizer, encoder = load(family, **arguments)
    batch = Collator(model, tokenizer, TASKS)(encode(encoder, [known]))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        task_sums(model, batch, len(TASKS)).sum().backward()
        optimiser.step()
    return model, tokenizer, encoder


@pytest.mark.parametrize("shared_context", [True, False])
def test_the_student_gives_the_answer_that_it_learnt(family, shared_context):
    model, tokenizer, encoder = memorise(family, shared_context)
    prompt = encoder.prompt(ROWS[0], 12)
    assert generate_answers(model, tokenizer, [prompt], 12, "float32") == [f" {ROWS[0]['answer']}"]


def test_a_missing_model_is_reported():
    with pytest.raises(UserError, match="nowhere: no model there"):
        load_model(Path("nowhere"), "float32")
