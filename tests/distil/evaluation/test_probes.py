"""Option scores and explanations against slow, simple references."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.samples import Sample
from stages.distil.evaluation.probes import (
    Explained,
    answer_questions,
    explanation_scores,
    read_options,
    reasoning_scores,
)
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student, StudentPrompt
from stages.distil.student.answering import StudentModel, generate_answers
from tests import families
from tests.students import ROWS, TEACHERS, asked, load, memorise, options_of, prompt_of, row

QUESTIONS = [
    row(1, {}, [], ("red", "green as the grass", "blue")),
    row(5, {}, []),
    row(2, {}, [], ("yes", "no")),
]


def log_probability(student: StudentModel, prompt: Sample, option: str) -> float:
    """Return the mean log-probability of an option's tokens, computed alone."""
    model, tokenizer, _ = student
    target = tokenizer.encode(f" {option}", add_special_tokens=False)
    prefix = prompt.branches[0].prefix
    if model.config.is_encoder_decoder:
        decoder_ids = [model.config.decoder_start_token_id, *prefix, *target[:-1]]
        inputs = {"input_ids": prompt.context, "decoder_input_ids": decoder_ids}
    else:
        inputs = {"input_ids": [*prompt.context, *prefix, *target[:-1]]}
    with torch.no_grad():
        logits = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
    log_probabilities = logits[-len(target) :].log_softmax(-1)
    return log_probabilities[range(len(target)), target].mean().item()


def check_scores(student: StudentModel, encoder: Encoder, shared: bool = True) -> None:
    """Compare the score of each option with that of its text alone."""
    read = read_options(student, [options_of(encoder, row, shared) for row in QUESTIONS])
    for question, options in zip(QUESTIONS, read, strict=True):
        prompt = prompt_of(encoder, question, 1)
        expected = [log_probability(student, prompt, o) for o in question["options"]]
        assert [option.score for option in options] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shared_context", [True, False])
def test_an_options_score_is_its_mean_log_probability(family, shared_context):
    check_scores(*load(family, shared_context=shared_context), shared_context)


def test_a_score_that_is_not_finite_stops_the_run(family):
    """Weights that overflow in a pass give it too; here those of the head are none."""
    student, encoder = load(family)
    student.model.get_output_embeddings().weight.data[:] = float("nan")
    samples = [options_of(encoder, question) for question in QUESTIONS]
    with pytest.raises(UserError, match="log-probabilities are not finite in float32"):
        read_options(student, samples)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_student_of_any_family_reads_each_option_as_if_alone(name, tiny_model):
    """Also where a state or a window would carry one option into the next."""
    model, tokenizer = families.build(name), AutoTokenizer.from_pretrained(tiny_model)
    student = StudentModel(model, tokenizer, "float32")
    check_scores(student, Encoder(model.config, tokenizer, Student(model="tiny")))


@pytest.fixture
def written(monkeypatch) -> list[Sample]:
    """The prompts whose texts are written token by token."""
    prompts = []

    def generate(student, chosen, max_tokens):
        prompts.extend(chosen)
        return generate_answers(student, chosen, max_tokens)

    monkeypatch.setattr("stages.distil.evaluation.probes.generate_answers", generate)
    return prompts


@pytest.mark.parametrize("shared_context", [True, False])
def test_options_as_drafts_give_the_texts_that_the_student_writes(family, shared_context, written):
    known = ROWS[0] | {"options": ["red", ROWS[0]["answer"]]}
    student, encoder = memorise(family, shared_context, known=known)
    rows = [*QUESTIONS, known]
    questions = asked(encoder, rows)
    for max_tokens, drafted in ((12, 1), (1, 0)):  # one token is less than the option
        prompts = [prompt_of(encoder, row, max_tokens) for row in rows]
        expected = generate_answers(student, prompts, max_tokens)
        written.clear()
        answers = answer_questions(student, questions, encoder.window, max_tokens, shared_context)
        assert [text for text, _ in answers] == expected
        assert [len(scores) for _, scores in answers] == [3, 0, 2, 2]
        assert written == prompts[: len(rows) - drafted]


def test_an_option_is_no_draft_of_a_question_that_is_cut_for_the_text(tiny_model, written):
    known = row(1, {}, [], ("red", ROWS[0]["answer"]))
    student, encoder = memorise(tiny_model, True, known=known)
    [sample] = options_of(encoder, known)
    [read] = read_options(student, [[sample]])
    assert [option.greedy for option in read] == [False, True]
    whole = len(sample.context) + max(len(b.prefix + b.target) for b in sample.branches)
    settings = Student(model="tiny", context=whole)
    encoder = Encoder(student.model.config, student.tokenizer, settings)
    assert options_of(encoder, known) == [sample]
    prompt = prompt_of(encoder, known, whole // 2)
    assert prompt.context != sample.context
    expected = generate_answers(student, [prompt], whole // 2)
    questions = asked(encoder, [known])
    answers = answer_questions(student, questions, encoder.window, whole // 2, True)
    assert [text for text, _ in answers] == expected
    assert written == [prompt]


def explained(encoder: Encoder, rows: list[dict]) -> list[Explained]:
    """Return rows with what they teach."""
    return [
        Explained(samples, row["saliency"], [(r["teacher"], r["text"]) for r in row["rationales"]])
        for samples, row in zip(encoder.samples(rows), rows, strict=True)
    ]


PERFECT = {"f1": 1.0, "questions": 1}


@pytest.mark.parametrize(
    ("shared_context", "form"), [(True, "branch"), (False, "branch"), (True, "after_answer")]
)
def test_memorised_explanations_have_an_f1_of_one(family, shared_context, form):
    student, encoder = memorise(family, shared_context, form)
    questions = explained(encoder, ROWS[:1])
    scores = explanation_scores(student, questions, TEACHERS, encoder.window)
    assert scores == {"words": PERFECT, "rationales": {"one": PERFECT, "two": PERFECT}}


def test_explanations_are_asked_for_by_their_prefixes(family):
    names = {"answer": "predict", "one": "explain", "two": "why", "saliency": "words"}
    prompt = StudentPrompt(options="lettered", prefixes=names)
    student, encoder = memorise(family, False, prompt=prompt)
    questions = explained(encoder, ROWS[:1])
    scores = explanation_scores(student, questions, TEACHERS, encoder.window)
    assert scores == {"words": PERFECT, "rationales": {"one": PERFECT, "two": PERFECT}}


def test_only_explanations_that_were_taught_are_measured(family):
    student, encoder = load(family)
    teachers = [*TEACHERS, "silent"]
    scores = explanation_scores(student, explained(encoder, ROWS), teachers, encoder.window)
    assert scores["words"]["questions"] == 3
    counts = {teacher: entry["questions"] for teacher, entry in scores["rationales"].items()}
    assert counts == {"one": 2, "two": 2}
    assert scores["words"]["f1"] < 0.5
    assert explanation_scores(student, [], ["one"], encoder.window) == {}


def test_the_last_of_a_teachers_rationales_is_measured(family):
    """The student is asked once, so it can repeat only one of them."""
    rationales = [
        {"teacher": "one", "text": text, "status": "ok"} for text in ("never", "because it is so")
    ]
    student, encoder = memorise(family, True)
    questions = explained(encoder, [ROWS[0] | {"rationales": rationales}])
    scores = explanation_scores(student, questions, ["one"], encoder.window)
    assert scores["rationales"] == {"one": PERFECT}


def test_explanations_that_training_left_out_are_not_measured(tiny_model, capsys):
    """One that fits, but not a text of the length of the longest of the others, is not either."""
    student, unlimited = load(tiny_model)
    [[sample]] = unlimited.samples(ROWS[1:2])
    answer, rationale = sample.branches
    limit = sample.least + len(rationale.prefix) + len(rationale.target) - 1
    _, encoder = load(tiny_model, context=limit)
    scores = explanation_scores(student, explained(encoder, ROWS), TEACHERS, encoder.window)
    assert scores["rationales"]["two"]["questions"] == 1
    line = "rationales of two: 1 of 2 are too long for the student, not measured"
    assert line in capsys.readouterr().err


def test_reasoning_is_compared_with_the_rationales_that_were_taught(tiny_model, monkeypatch):
    student, encoder = load(tiny_model, form="before_answer")
    texts = {r["teacher"]: r["text"] for r in ROWS[0]["rationales"]}
    question = explained(encoder, ROWS[:1])

    def repeat(_, prompts, *__):
        return [f" {texts['two']}\nAnswer: red" for _ in prompts]

    monkeypatch.setattr("stages.distil.evaluation.probes.generate_answers", repeat)
    found = {
        teachers: reasoning_scores(student, question, teachers, encoder.window, 30)["reasoning"]
        for teachers in (("one",), ("two",), ("one", "two"))
    }
    assert found["two",] == found["one", "two"] == PERFECT
    assert found["one",]["f1"] < 1
    assert "reasoning" not in reasoning_scores(student, question, [], encoder.window, 30)
    limited = replace(encoder.window, limit=question[0].samples[0].least + 40)
    assert "reasoning" in reasoning_scores(student, question, ["two"], limited, 20)
    assert "reasoning" not in reasoning_scores(student, question, ["two"], limited, 41)
