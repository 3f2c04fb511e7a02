"""The reasoned answers of a student: what is stored of them, and the options after a rationale."""

import pytest
import torch

from stages.distil.evaluation import reasoning
from stages.distil.evaluation.reasoning import StoredReasoning, score_after_reasoning
from stages.distil.student.answering import Reasoned, StudentModel, reason
from tests.students import asked, load, row

QUESTIONS = [row(n, {}, [], ("red", "green as the grass", "blue")) for n in (1, 4, 2)]
LONGEST = 12


def log_probability(student: StudentModel, read: str, text: str, option: str) -> float:
    """Return the mean log-probability of an option after a text, computed alone.

    An encoder reads what comes before the text.
    """
    model, tokenizer, _ = student
    parts = [read, text] if model.config.is_encoder_decoder else ["", read + text]
    asked_ids, before = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
    target = tokenizer.encode(f" {option}", add_special_tokens=False)
    inputs = {"input_ids": [*before, *target[:-1]]}
    if model.config.is_encoder_decoder:
        decoder_ids = [model.config.decoder_start_token_id, *before, *target[:-1]]
        inputs = {"input_ids": asked_ids, "decoder_input_ids": decoder_ids}
    with torch.no_grad():
        logits = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
    log_probabilities = logits[-len(target) :].log_softmax(-1)
    return log_probabilities[range(len(target)), target].mean().item()


@pytest.mark.parametrize("shared_context", [True, False])
def test_options_are_read_after_the_students_own_rationale(family, shared_context):
    """Also after an `Answer:` within it, and where it gives no answer."""
    student, encoder = load(family, form="before_answer", shared_context=shared_context)
    questions = asked(encoder, QUESTIONS, reasons=True)
    inside = student.model.config.is_encoder_decoder and not shared_context
    texts = [
        ("It is so.\nAnswer: blue", "It is so.\nAnswer:"),
        ("So Answer: red?\nAnswer: green as", "So Answer: red?\nAnswer:"),
        ("It goes on and on", "It goes on and on" + "\nAnswer:" * (not inside)),
    ]
    reasoned = []
    for text, _ in texts:
        tokens = student.tokenizer.encode(f" {text}", add_special_tokens=False)
        _, mark, answer = text.rpartition("Answer:")
        reasoned.append(Reasoned("", answer if mark else None, tokens))
    scores = score_after_reasoning(student, questions, reasoned, encoder.window, 40)
    for each, (_, read), found in zip(QUESTIONS, texts, scores, strict=True):
        listed = f"Question: {each['question']}\nOptions: {', '.join(each['options'])}"
        asked_in = "\nRationale:" * inside  # the encoder reads what asks for a text
        written = "\nRationale:" * (not inside) + f" {read}"
        expected = [
            log_probability(student, listed + asked_in, written, option)
            for option in each["options"]
        ]
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_killed_run_writes_only_the_texts_that_are_missing(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reasoning, "PART", 2)
    student, encoder = load(tiny_model, form="before_answer")
    questions = asked(encoder, QUESTIONS, reasons=True)
    window = encoder.window
    expected = reason(student, questions[:2], window, LONGEST)
    expected += reason(student, questions[2:], window, LONGEST)
    calls = []

    def interrupted(_, part, *arguments):
        if len(part) == 1:
            raise KeyboardInterrupt
        return reason(student, part, *arguments)

    monkeypatch.setattr(reasoning, "reason", interrupted)
    with StoredReasoning(student, "one", window, LONGEST) as stored:
        with pytest.raises(KeyboardInterrupt):
            stored.answer(questions)

    def counted(_, part, *arguments):
        calls.append(len(part))
        return reason(student, part, *arguments)

    monkeypatch.setattr(reasoning, "reason", counted)
    with StoredReasoning(student, "one", window, LONGEST) as stored:
        assert stored.answer(questions) == expected
        assert stored.answer(questions) == expected
    assert calls == [1]
    for identity, longest in (("other", LONGEST), ("one", LONGEST - 1)):
        with StoredReasoning(student, identity, window, longest) as stored:
            stored.answer(questions[:2])
    assert calls == [1, 2, 2]
