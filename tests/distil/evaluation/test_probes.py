"""Option scores and explanations against slow, simple references."""

import pytest
import torch
from transformers import AutoTokenizer

from stages.distil.encoding.samples import Encoder, Sample
from stages.distil.evaluation.probes import answer_questions, explanation_scores, read_options
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student, StudentPrompt
from stages.distil.student.answering import generate_answers
from tests import families
from tests.distil.student.test_samples import ROWS, load, memorise, row

QUESTIONS = [
    row(1, {}, [], ("red", "green as the grass", "blue")),
    row(5, {}, []),
    row(2, {}, [], ("yes", "no")),
]


def log_probability(model, tokenizer, prompt, option: str) -> float:
    """Return the mean log-probability of an option's tokens, computed alone."""
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


@pytest.mark.parametrize("shared_context", [True, False])
def test_an_options_score_is_its_mean_log_probability(family, shared_context):
    model, tokenizer, encoder = load(family, shared_context=shared_context)
    samples = [encoder.options(question) for question in QUESTIONS]
    read = read_options(model, tokenizer, samples, "float32")
    for question, options in zip(QUESTIONS, read, strict=True):
        prompt = encoder.prompt(question, 1)
        expected = [log_probability(model, tokenizer, prompt, o) for o in question["options"]]
        assert [option.score for option in options] == pytest.approx(expected, abs=1e-5)


def test_a_score_that_is_not_finite_stops_the_run(family):
    """Weights that overflow in a pass give it too; here those of the head are none."""
    model, tokenizer, encoder = load(family)
    model.get_output_embeddings().weight.data[:] = float("nan")
    samples = [encoder.options(question) for question in QUESTIONS]
    with pytest.raises(UserError, match="log-probabilities are not finite in float32"):
        read_options(model, tokenizer, samples, "float32")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_student_of_any_family_reads_each_option_as_if_alone(name, tiny_model):
    """Also where a state or a window would carry one option into the next."""
    model, tokenizer = families.build(name), AutoTokenizer.from_pretrained(tiny_model)
    encoder = Encoder(model.config, tokenizer, Student(model="tiny"))
    samples = [encoder.options(question) for question in QUESTIONS]
    read = read_options(model, tokenizer, samples, "float32")
    for question, options in zip(QUESTIONS, read, strict=True):
        prompt = encoder.prompt(question, 1)
        expected = [log_probability(model, tokenizer, prompt, o) for o in question["options"]]
        assert [option.score for option in options] == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def written(monkeypatch) -> list[Sample]:
    """The prompts whose texts are written token by token."""
    prompts = []

    def generate(model, tokenizer, chosen, *arguments):
        prompts.extend(chosen)
        return generate_answers(model, tokenizer, chosen, *arguments)

    monkeypatch.setattr("stages.distil.evaluation.probes.generate_answers", generate)
    return prompts


@pytest.mark.parametrize("shared_context", [True, False])
def test_options_as_drafts_give_the_texts_that_the_student_writes(family, shared_context, written):
    model, tokenizer, encoder = memorise(family, shared_context)
    known = ROWS[0] | {"options": ["red", ROWS[0]["answer"]]}
    rows = [*QUESTIONS, known]
    for max_tokens, drafted in ((12, 1), (1, 0)):  # one token is less than the option
        prompts = [encoder.prompt(row, max_tokens) for row in rows]
        expected = generate_answers(model, tokenizer, prompts, max_tokens, "float32")
        written.clear()
        answers = answer_questions(model, tokenizer, encoder, rows, max_tokens, "float32")
        assert [text for text, _ in answers] == expected
        assert [len(scores) for _, scores in answers] == [3, 0, 2, 2]
        assert written == prompts[: len(rows) - drafted]


def test_an_option_is_no_draft_of_a_question_that_is_cut_for_the_text(tiny_model, written):
    asked = row(1, {}, [], ("red", ROWS[0]["answer"]))
    model, tokenizer, encoder = memorise(tiny_model, True, known=asked)
    [sample] = encoder.options(asked)
    [read] = read_options(model, tokenizer, [[sample]], "float32")
    assert [option.greedy for option in read] == [False, True]
    whole = len(sample.context) + max(len(b.prefix + b.target) for b in sample.branches)
    settings = Student(model="tiny", context=whole)
    encoder = Encoder(model.config, tokenizer, settings)
    assert encoder.options(asked) == [sample]
    prompt = encoder.prompt(asked, whole // 2)
    assert prompt.context != sample.context
    expected = generate_answers(model, tokenizer, [prompt], whole // 2, "float32")
    answers = answer_questions(model, tokenizer, encoder, [asked], whole // 2, "float32")
    assert [text for text, _ in answers] == expected
    assert written == [prompt]


@pytest.mark.parametrize(
    ("shared_context", "form"), [(True, "branch"), (False, "branch"), (True, "after_answer")]
)
def test_memorised_explanations_have_an_f1_of_one(family, shared_context, form):
    model, tokenizer, encoder = memorise(family, shared_context, form)
    scores = explanation_scores(model, tokenizer, encoder, ROWS[:1], ["one", "two"], "float32")
    perfect = {"f1": 1.0, "questions": 1}
    assert scores == {"words": perfect, "rationales": {"one": perfect, "two": perfect}}


def test_explanations_are_asked_for_by_their_prefixes(family):
    names = {"answer": "predict", "one": "explain", "two": "why", "saliency": "words"}
    prompt = StudentPrompt(options="lettered", prefixes=names)
    model, tokenizer, encoder = memorise(family, False, prompt=prompt)
    scores = explanation_scores(model, tokenizer, encoder, ROWS[:1], ["one", "two"], "float32")
    perfect = {"f1": 1.0, "questions": 1}
    assert scores == {"words": perfect, "rationales": {"one": perfect, "two": perfect}}


def test_only_explanations_that_were_taught_are_measured(family):
    model, tokenizer, encoder = load(family)
    teachers = ["one", "two", "silent"]
    scores = explanation_scores(model, tokenizer, encoder, ROWS, teachers, "float32")
    assert scores["words"]["questions"] == 3
    counts = {teacher: entry["questions"] for teacher, entry in scores["rationales"].items()}
    assert counts == {"one": 2, "two": 2}
    assert scores["words"]["f1"] < 0.5
    assert explanation_scores(model, tokenizer, encoder, [], ["one"], "float32") == {}
