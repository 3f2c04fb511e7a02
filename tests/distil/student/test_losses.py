"""Each loss against a form that computes one target at a time, with plain sums."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.distil.encoding.samples import SOFT_LABELS, Branch, Sample
from stages.distil.student.batch import Collator, Target, check_shared_context, target_logits
from stages.distil.student.losses import (
    CrossEntropy,
    MutualInformation,
    Predictions,
    SoftCrossEntropy,
    cross_entropies,
    predict,
    soft_cross_entropy,
)
from tests.students import (
    LOSSES,
    MUCH,
    OBJECTIVE,
    ROWS,
    TASKS,
    TEACHERS,
    WEIGHTS,
    all_taught,
    gradients,
    learn,
    load,
    loss_sums,
    make_steps,
    row,
    taught,
    without_dropout,
)

MUTUAL = MutualInformation(tuple(TEACHERS))
SAMPLED = ROWS[:3] + [  # a teacher may give several rationales
    ROWS[3]
    | {"rationales": [{"teacher": "one", "text": t, "status": "ok"} for t in ("x", "y so y")]}
]
PAIRS = 2 + 1 + 0 + 2  # rationales of the questions
OPTIONS = ("green", "greengreen", "a longer one")  # one begins another
SCORED = [
    row(1, {"one": "because"}, ["what"], OPTIONS) | {"option_scores": [-0.1, -2.0, -1.5]},
    row(2, {}, [], OPTIONS) | {"option_scores": None},
    row(3, {}, ["and"], OPTIONS[:2]) | {"option_scores": [-3.0, -2.5]},
    row(4, {"two": "x"}, []) | {"option_scores": None},
]
every_form = pytest.mark.parametrize("form", ["branch", "after_answer"])
both_contexts = pytest.mark.parametrize("shared_context", [True, False])
both_budgets = pytest.mark.parametrize("budget", [1, MUCH])


def logits_of(model, sample: Sample, branch: Branch, said: list[int]) -> Tensor:
    """Return the logits of a target whose text the model reads alone, shape (tokens, V)."""
    inputs = said + branch.prefix + branch.target[:-1]
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *inputs]])
        logits = model(input_ids=torch.tensor([sample.context]), decoder_input_ids=decoder_ids)
    else:
        logits = model(input_ids=torch.tensor([sample.context + inputs]))
    return logits.logits[0, -len(branch.target) :]


def check_step(student, questions, objective, budget: int, slow: Callable[[], Tensor]) -> None:
    """Compare the loss and gradient of the Trainer's step with those of the slow form."""
    total, found = learn(student, questions, objective, budget)
    student.model.zero_grad()
    expected = slow()
    expected.backward()
    assert total == pytest.approx(expected.item(), rel=1e-4)
    expected_gradient = gradients(student.model)
    assert (found - expected_gradient).norm() / expected_gradient.norm() < 1e-4


# --------------------------------------------------------------------------------------------------
# Cross-entropies


def slow_cross_entropies(model, questions: list[list[Sample]]) -> Tensor:
    """Return Σ_m α_m n_m/N Σ_t s_t ℓ_t / Σ_t s_t, target by target.

    The R rationales of a question and teacher count as one: each counts s = 1/R.
    """
    sums: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    explained: Counter[str] = Counter()
    for samples in questions:
        branches = [(sample, branch) for sample in samples for branch in sample.branches]
        (_, answer), *_ = branches
        targets = Counter(branch.task for _, branch in branches)
        explained.update(targets.keys())
        for sample, branch in branches:
            before = answer.prefix + answer.target[:-1] if branch.after_answer else []
            likely = logits_of(model, sample, branch, before).log_softmax(-1)
            own = sum(-likely[n, token] for n, token in enumerate(branch.target))
            sums[branch.task] += own / targets[branch.task]
            counts[branch.task] += len(branch.target) / targets[branch.task]
    shares = {task: explained[task] / len(questions) for task in sums}
    return sum(WEIGHTS[task] * shares[task] * sums[task] / counts[task] for task in sums)


@every_form
@both_contexts
@both_budgets
def test_cross_entropies_equal_the_slow_form(family, shared_context, form, budget):
    """Some questions have no rationale, and one has two of the same teacher."""
    student, encoder = load(family, shared_context=shared_context, form=form)
    questions = [taught(encoder, row) for row in SAMPLED]
    [step] = make_steps(student, questions, batch_tokens=budget)
    assert (len(step["passes"]) > 1) == (budget == 1)
    check_step(
        student,
        questions,
        OBJECTIVE,
        budget,
        lambda: slow_cross_entropies(student.model, questions),
    )


def rows_with_rationales(*numbers: int) -> list[dict]:
    """Questions and targets of equal lengths; question n has `numbers[n]` rationales of `one`."""
    return [
        {
            "id": str(n),
            "question": f"what is {n}",
            "options": [],
            "answer": "green",
            "rationales": [{"teacher": "one", "text": f"so it is {n}", "status": "ok"}] * count,
            "saliency": ["what"] * (n % 2),
        }
        for n, count in enumerate(numbers)
    ]


def test_what_a_rationale_weighs_does_not_depend_on_its_neighbours(family):
    """Few questions have a rationale: at any batch size, an epoch gives each the same weight."""
    student, encoder = load(family)
    rows = rows_with_rationales(1, 0, 0, 0, 1, 0, 0, 1)
    questions = [taught(encoder, row) for row in rows]
    assert len({len(b.target) for [s] in questions for b in s.branches if b.task == "one"}) == 1
    whole, *others = (size * learn(student, questions, batch_size=size)[1] for size in (8, 4, 1))
    for other in others:
        assert (other - whole).norm() / whole.norm() < 1e-4


def test_several_rationales_of_a_teacher_count_as_one(family):
    student, encoder = load(family)
    once, thrice = (
        learn(student, [taught(encoder, row) for row in rows_with_rationales(*counts)])[1]
        for counts in ((1, 1, 0, 1), (1, 3, 0, 1))
    )
    assert (once - thrice).norm() / once.norm() < 1e-4


def test_at_full_coverage_the_loss_is_the_token_mean(family):
    student, encoder = load(family)
    full = [taught(encoder, row) for row in rows_with_rationales(1, 1, 1, 1)]
    [step] = make_steps(student, full)
    assert step["coverage"][TASKS.index("one")] == 1.0
    targets = [b.target for [s] in full for b in s.branches if b.task == "one"]
    assert step["counts"][TASKS.index("one")] == sum(map(len, targets))


# --------------------------------------------------------------------------------------------------
# Mutual information


def pair_loss(answer: Tensor, rationale: Tensor) -> Tensor:
    """−Σ_v f(Z)_v log softmax(f(V))_v, word by word."""
    answer, rationale = answer.detach().softmax(-1), rationale.softmax(-1)
    total, exponentials = torch.tensor(0.0), torch.tensor(0.0)
    for word in range(answer.shape[1]):
        exponentials = exponentials + max(rationale[:, word]).exp()
    for word in range(answer.shape[1]):
        likely = max(rationale[:, word]) - exponentials.log()
        total = total - max(answer[:, word]) * likely
    return total


def slow_mutual_information(model, questions: list[list[Sample]]) -> Tensor:
    """Return the mean loss of all pairs, times the share of questions with a pair."""
    losses, explained = [], 0
    for samples in questions:
        branches = [(sample, branch) for sample in samples for branch in sample.branches]
        (sample, answer), *others = branches
        said = answer.prefix + answer.target[:-1]
        answer_logits = logits_of(model, sample, answer, [])
        explained += any(branch.task in TEACHERS for _, branch in others)
        for sample, branch in others:
            if branch.task in TEACHERS:
                before = said if branch.after_answer else []
                rationale_logits = logits_of(model, sample, branch, before)
                losses.append(pair_loss(answer_logits, rationale_logits))
    return explained / len(questions) * sum(losses) / len(losses)


@every_form
@both_contexts
@both_budgets
def test_mutual_information_equals_the_slow_form(family, shared_context, form, budget):
    """Whatever the passes: a question's samples are never in two of them."""
    student, encoder = load(family, shared_context=shared_context, form=form)
    questions = [taught(encoder, row) for row in SAMPLED]
    [step] = make_steps(student, questions, [*LOSSES, MUTUAL], budget)
    assert len(step["passes"]) == (4 if budget == 1 else 1)
    assert step["counts"][-1] == PAIRS
    assert step["coverage"][-1] == 3 / 4
    check_step(
        student,
        questions,
        [(CrossEntropy("answer"), 0.0), (MUTUAL, 1.0)],
        budget,
        lambda: slow_mutual_information(student.model, questions),
    )


def test_mutual_information_equals_the_authors_formula():
    """Their code, with its names' meaning: torch's cross-entropy between two maxima over time."""
    torch.manual_seed(0)
    logits = torch.randn(9, 30)
    answer, rationale = logits[:3].softmax(-1), logits[5:].softmax(-1)
    expected = nn.CrossEntropyLoss()(rationale.max(0)[0][None], answer.max(0)[0][None])
    targets = [
        Target("1", Branch("answer", [], [0] * 3), 0, 3),
        Target("1", Branch("saliency", [], [0] * 2), 3, 5),
        Target("1", Branch("one", [], [0] * 4), 5, 9),
    ]
    torch.testing.assert_close(MUTUAL(Predictions(logits.sum(-1), targets, logits)), expected)


def test_only_rationales_of_the_taught_teachers_are_paired(family):
    """And only with the answer to their own question."""
    student, encoder = load(family)
    samples = all_taught(encoder)
    batch = Collator(student.model, student.tokenizer)(samples)
    both, one, two = (MutualInformation(t) for t in (("one", "two"), ("one",), ("two",)))
    assert [loss.count(samples) for loss in (both, one, two)] == [4, 2, 2]
    sums = loss_sums(student.model, batch, [both, one, two])
    torch.testing.assert_close(sums[0], sums[1] + sums[2])
    alone = taught(encoder, ROWS[0], ["one"])  # without an answer
    assert both.count(alone) == 0
    assert loss_sums(student.model, Collator(*student[:2])(alone), [both]) == 0


def test_a_question_without_rationales_has_no_mutual_information(family):
    student, encoder = load(family)
    samples = taught(encoder, ROWS[2])
    assert MUTUAL.count(samples) == 0
    assert loss_sums(student.model, Collator(*student[:2])(samples), [MUTUAL]) == 0


# --------------------------------------------------------------------------------------------------
# Soft labels


def slow_soft_cross_entropy(model, questions, temperature: float) -> Tensor:
    """Return −T² Σ_o q_o log p_o, summed over questions with scores, by the number of all."""
    losses = []
    for question, samples in zip(SCORED, questions, strict=True):
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
@every_form
@both_contexts
@both_budgets
def test_soft_labels_equal_the_slow_form(family, temperature, form, shared_context, budget):
    """Whatever the passes: the options of a question are never in two of them."""
    student, encoder = load(family, shared_context=shared_context, form=form)
    loss = SoftCrossEntropy(temperature)
    questions = [taught(encoder, question, [*TASKS, SOFT_LABELS]) for question in SCORED]
    [step] = make_steps(student, questions, [*LOSSES, loss], budget)
    assert (len(step["passes"]) == 4) == (budget == 1)
    assert (step["counts"][-1], step["coverage"][-1]) == (2, 2 / 4)
    check_step(
        student,
        questions,
        [(CrossEntropy("answer"), 0.0), (loss, 1.0)],
        budget,
        lambda: slow_soft_cross_entropy(student.model, questions, temperature),
    )


def test_at_a_high_temperature_scores_are_regressed_on_each_other():
    """The limit of Hinton et al., section 2.1: the gradient of (s − t)² / 2N, both centred."""
    teacher = torch.tensor([-1.0, -2.0, -6.0])
    student = torch.tensor([-3.0, -0.5, -1.0], requires_grad=True)
    soft_cross_entropy(teacher, student, 1e4).backward()
    expected = ((student - student.mean()) - (teacher - teacher.mean())) / 3
    torch.testing.assert_close(student.grad, expected, rtol=2e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# All of them


ALL = [*LOSSES, SoftCrossEntropy(), MUTUAL]
MIXED = [*SCORED, *(row | {"id": f"plain-{row['id']}"} for row in ROWS)]


@every_form
@both_contexts
def test_a_loss_is_the_same_beside_others(family, form, shared_context):
    """The options of soft labels lie beside the other targets, in their passes."""
    student, encoder = load(family, form=form, shared_context=shared_context)
    model, tokenizer, _ = student
    collate = Collator(model, tokenizer)
    plain, beside = (
        [sample for row in SCORED for sample in taught(encoder, row, tasks)]
        for tasks in (TASKS, [*TASKS, SOFT_LABELS])
    )
    check_shared_context(model, collate, beside)
    found = loss_sums(model, collate(beside), ALL)
    torch.testing.assert_close(found[:-2], loss_sums(model, collate(plain)), rtol=1e-5, atol=1e-5)
    for number, loss in enumerate(ALL):
        [alone] = loss_sums(model, collate(beside), [loss])
        assert torch.equal(alone, found[number])
        if not isinstance(loss, SoftCrossEntropy):
            assert loss.count(beside) == loss.count(plain)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_a_loss_of_a_batch_without_its_targets_is_zero(family, loss):
    """So is that of the empty pass of a process that has fewer passes than another."""
    student, encoder = load(family)
    other = {"answer": "saliency"}.get(loss.name, "answer")
    samples = taught(encoder, SCORED[0], [other])
    batch = Collator(*student[:2])(samples)
    for each in (batch, batch.without_targets()):
        assert loss_sums(student.model, each, [loss]).item() == 0
    assert loss.count(samples) == 0
    steps = make_steps(student, [samples], [loss])
    steps.rank, steps.processes = 1, 2
    [step] = steps
    [empty] = step["passes"]
    assert loss_sums(student.model, empty, [loss]).item() == 0
    assert (step["counts"].item(), step["coverage"].item()) == (0, 0)


@both_contexts
@pytest.mark.parametrize("budget", [1, 150, MUCH])
def test_passes_of_any_size_add_up_to_the_same_step(family, shared_context, budget):
    """All losses at once, each with a weight of its own."""
    student, encoder = load(family, shared_context=shared_context)
    objective = [(loss, 1 / (1 + n)) for n, loss in enumerate(ALL)]
    questions = [taught(encoder, row, [*TASKS, SOFT_LABELS]) for row in MIXED]
    whole, expected = learn(student, questions, objective, 100 * MUCH, batch_size=8)
    total, gradient = learn(student, questions, objective, budget, batch_size=8)
    assert total == pytest.approx(whole, rel=1e-5)
    assert (gradient - expected).norm() / expected.norm() < 1e-4


def test_the_total_is_the_weighted_sum_of_the_losses(family):
    student, encoder = load(family)
    without_dropout(student.model)
    questions = [taught(encoder, row, [*TASKS, SOFT_LABELS]) for row in MIXED[:6]]
    objective = [(loss, 0.1 + n) for n, loss in enumerate(ALL)]
    total, _ = learn(student, questions, objective, batch_size=6)
    parts = [
        weight * learn(student, questions, [(loss, 1.0)], batch_size=6)[0]
        for loss, weight in objective
    ]
    assert total == pytest.approx(sum(parts), rel=1e-5)


@pytest.mark.parametrize("with_logits", [True, False])
def test_predictions_are_the_cross_entropies_of_the_labels(family, with_logits):
    student, encoder = load(family)
    batch = Collator(*student[:2])(taught(encoder, ROWS[0]))
    student.model.eval()
    logits = target_logits(student.model, batch)
    found = predict(student.model, batch, with_logits)
    expected = -logits.log_softmax(-1)[range(len(batch.labels)), batch.labels]
    torch.testing.assert_close(found.losses, expected)
    assert found.targets == batch.targets
    assert (found.logits is None) is not with_logits


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_losses_in_parts_have_the_same_values_and_gradients(family, rows, monkeypatch):
    student, encoder = load(family)
    without_dropout(student.model)
    questions = [taught(encoder, row) for row in MIXED[:6]]
    objective = [(loss, 1.0) for loss in LOSSES]
    total, gradient = learn(student, questions, objective, batch_size=6)
    measured = []

    def count(logits, labels):
        measured.append(len(labels))
        return cross_entropies(logits, labels)

    vocabulary = student.model.config.get_text_config().vocab_size
    monkeypatch.setattr("stages.distil.student.batch.HEAD_BYTES", rows * 4 * vocabulary)
    monkeypatch.setattr("stages.distil.student.batch.PARTS", 1)
    monkeypatch.setattr("stages.distil.student.losses.cross_entropies", count)
    in_parts, gradient_in_parts = learn(student, questions, objective, batch_size=6)
    assert max(measured) == rows
    assert in_parts == pytest.approx(total, rel=1e-6)
    assert (gradient_in_parts - gradient).norm() / gradient.norm() < 1e-5


def test_a_model_that_changes_its_logits_is_measured_at_once(tiny_model, monkeypatch, capsys):
    student, encoder = load(tiny_model)
    batch = Collator(*student[:2])(taught(encoder, ROWS[0]))
    before = predict(student.model, batch).losses
    plain = student.model.forward

    def capped(**inputs):
        outputs = plain(**inputs)
        outputs.logits = 0.5 * torch.tanh(outputs.logits / 0.5)
        return outputs

    monkeypatch.setattr(student.model, "forward", capped)
    expected = predict(student.model, batch).losses
    assert not torch.allclose(expected, before)
    monkeypatch.setattr("stages.distil.student.batch.HEAD_BYTES", 1)
    for _ in range(2):
        torch.testing.assert_close(predict(student.model, batch).losses, expected)
    assert capsys.readouterr().err.count("changes its logits after its output head") == 1


def test_a_loss_is_named_after_its_curve_and_the_tasks_that_it_needs():
    names = ["answer", "one", "two", "saliency", "soft_labels", "mutual_information"]
    assert [loss.name for loss in ALL] == names
    tasks = [[task] for task in TASKS] + [[SOFT_LABELS], TEACHERS]
    assert [list(loss.tasks) for loss in ALL] == tasks
    assert [loss.whole_questions for loss in ALL] == [False] * 4 + [True, True]
    assert [loss.needs_logits for loss in ALL] == [False] * 5 + [True]
    assert [loss.bounded for loss in ALL] == [False] * 5 + [True]
    assert (
        CrossEntropy("one") == LOSSES[1] != CrossEntropy("two")
    )  # so a recipe has a repr of its own
