"""A student that reasons first: its texts, their losses, and how they are read."""

import pytest
import torch
from torch.nn import functional

from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import separate_tasks
from stages.distil.interface.method import REASONING, Student
from stages.distil.language.student_prompts import reasoning_text, split_reasoned
from stages.distil.student import answering
from stages.distil.student.answering import (
    AnswerLengths,
    Reasoned,
    continue_prompts,
    count_correct,
    reason,
)
from stages.distil.student.batch import Collator
from stages.distil.student.losses import CrossEntropy, ReasonedAnswer
from tests.students import (
    ROWS,
    TEACHERS,
    all_taught,
    load,
    loss_sums,
    memorise,
    prompt_of,
    row,
    taught,
    without_dropout,
)

FORM = {"form": "before_answer"}


@pytest.mark.parametrize("shared_context", [True, False])
def test_an_answer_follows_each_rationale(family, shared_context):
    """The reference is a text for each target, put together by hand."""
    (model, tokenizer, _), encoder = load(family, shared_context=shared_context, **FORM)
    question = f"Question: {ROWS[0]['question']}"
    texts = {
        "answer": "\nAnswer: greengreen",
        "one": "\nRationale: because it is so\nAnswer: greengreen",
        "two": "\nRationale: why not\nAnswer: greengreen",
        "saliency": "\nKey words: what, 1",
    }
    samples = separate_tasks(taught(encoder, ROWS[0]))
    assert [s.branches[0].task for s in samples] == list(texts)
    for sample in samples:
        [branch] = sample.branches
        text = tokenizer.decode(sample.context + branch.prefix + branch.target)
        plain = text.replace(tokenizer.eos_token, "")  # an encoder's text ends in one, too
        assert plain == question + texts[branch.task]
        answer = tokenizer.decode(branch.target[len(branch.target) - branch.answer :])
        expected = f" greengreen{tokenizer.eos_token}" if branch.task in TEACHERS else ""
        assert answer == expected


@pytest.mark.parametrize("status", ["truncated", "repetitive", "contradicts", "inconclusive"])
def test_a_rationale_that_may_not_lead_to_the_answer_is_left_out(tiny_model, status):
    _, encoder = load(tiny_model, **FORM)
    first, second = ROWS[0]["rationales"]
    row = ROWS[0] | {"rationales": [first | {"status": status}, second]}
    [sample] = taught(encoder, row)
    assert [branch.task for branch in sample.branches] == ["answer", "two", "saliency"]


@pytest.mark.parametrize(
    ("rationale", "said"),
    [
        ("So it is. Answer: red", "So it is. answer is red"),
        ("ANSWER : red, he said.", "answer is red, he said."),
        ("The answerer: a man.", "The answerer: a man."),
    ],
)
def test_an_answer_within_a_rationale_is_not_taken_for_the_students(rationale, said):
    text = reasoning_text(rationale)
    assert text == f"{said}\nAnswer:"
    assert split_reasoned(f" {text} green") == (said, "green")


def test_a_text_without_an_answer_is_wrong():
    assert split_reasoned(" I do not know") == ("I do not know", None)
    question = Asked(None, None, [], ["red", "green"], "green")
    assert Reasoned("So.", " green", []).is_correct(question)
    assert not Reasoned("So.", " red", []).is_correct(question)
    assert not Reasoned("It is green", None, []).is_correct(question)


@pytest.mark.parametrize("shared_context", [True, False])
def test_the_losses_are_those_of_plain_texts(family, shared_context):
    """One ordinary sequence for each target; the loss of an answer is that of its last tokens."""
    student, encoder = load(family, shared_context=shared_context, **FORM)
    without_dropout(student.model)
    losses = [CrossEntropy("answer"), CrossEntropy("one"), ReasonedAnswer(("one", "two"))]
    samples = all_taught(encoder)
    sums = loss_sums(student.model, Collator(student.model, student.tokenizer)(samples), losses)
    expected, counts = torch.zeros(3), [0, 0, 0]
    for sample in separate_tasks(samples):
        [branch] = sample.branches
        tokens = _cross_entropies(student.model, sample)
        for n, part in (
            (0, tokens if branch.task == "answer" else tokens[:0]),
            (1, tokens if branch.task == "one" else tokens[:0]),
            (2, tokens[len(tokens) - branch.answer :] if branch.task in TEACHERS else tokens[:0]),
        ):
            expected[n] += part.sum()
            counts[n] += len(part)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    assert [loss.count(samples) for loss in losses] == counts
    assert 0 < counts[2] < counts[1] * 2


def _cross_entropies(model, sample) -> torch.Tensor:
    """Return those of a target's tokens, of the whole text in one ordinary pass."""
    [branch] = sample.branches
    target = torch.tensor(branch.target)
    if model.config.is_encoder_decoder:
        decoder = [model.config.decoder_start_token_id, *branch.prefix, *branch.target[:-1]]
        inputs = {"input_ids": sample.context, "decoder_input_ids": decoder}
    else:
        inputs = {"input_ids": [*sample.context, *branch.prefix, *branch.target[:-1]]}
    with torch.no_grad():
        logits = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
    return functional.cross_entropy(logits[-len(target) :], target, reduction="none")


def test_the_student_is_asked_to_reason(family):
    student, encoder = load(family, **FORM)
    questions = [
        Asked(prompt, reasoning, [], [], "green")
        for prompt, reasoning in zip(
            encoder.prompts(ROWS), encoder.prompts(ROWS, REASONING), strict=True
        )
    ]
    learnt = taught(encoder, ROWS[0])[0]
    [asked] = questions[0].reasoning.branches
    [own] = [branch for branch in learnt.branches if branch.task == "one"]
    assert questions[0].reasoning.context + asked.prefix == learnt.context + own.prefix
    written = reason(student, questions, encoder.window, 6)
    assert [len(each.written) <= 6 for each in written] == [True] * 4
    right = count_correct(student, questions, range(4), encoder.window, AnswerLengths(4, 6))
    assert right == sum(each.is_correct(q) for each, q in zip(written, questions, strict=True))


def test_prefixes_of_a_student_that_reasons_name_one_task_for_all_teachers(family):
    names = {"answer": "predict", "saliency": "words", "rationale": "explain"}
    prompt = {"options": "lettered", "prefixes": names}
    (_, tokenizer, _), encoder = load(family, shared_context=False, prompt=prompt, **FORM)
    starts = {
        sample.branches[0].task: tokenizer.decode(sample.context).partition(":")[0]
        for sample in taught(encoder, ROWS[0])
    }
    assert starts == {"answer": "predict", "one": "explain", "two": "explain", "saliency": "words"}
    [reasoning] = encoder.prompts(ROWS[:1], REASONING)
    assert tokenizer.decode(reasoning.context).startswith("explain:")
    assert Student(model="tiny", prompt=prompt, **FORM).direct


def test_texts_written_in_turns_are_those_written_at_once(family, monkeypatch):
    """Texts end within a turn, at its end, and not at all."""
    student, encoder = memorise(family, True, known=ROWS[0])
    prompts = [prompt_of(encoder, each, 24) for each in [*ROWS, row(9, {}, [])]]
    expected = continue_prompts(student, prompts, 24)
    assert len({len(text) for text in expected}) > 1
    for first in (1, len(min(expected, key=len)) + 1, 24):
        monkeypatch.setattr(answering, "FIRST_TURN", first)
        assert answering._write_in_turns(student, prompts, 24, None) == expected


def test_only_weights_change_their_precision_for_long_texts(family):
    """A server computes rotary positions in float32, whatever its weights are."""
    model, _ = load(family, **FORM)[0][:2]
    student = answering.StudentModel(model, None, "bfloat16")
    copy = answering.as_served(student).model
    if answering.device() == "cpu":
        assert {weight.dtype for weight in copy.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    buffers = dict(model.named_buffers())
    for name, buffer in copy.named_buffers():
        assert buffer.dtype == buffers[name].dtype and buffer.equal(buffers[name])
