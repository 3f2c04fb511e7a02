"""The tokens of a question and of what it teaches; tests/distil/student/test_export.py has more."""

from itertools import combinations

import pytest
from transformers import AutoConfig, AutoTokenizer

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.samples import SOFT_LABELS, of_tasks, separate_tasks
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student
from tests.students import ROWS, TASKS, TEACHERS, load, options_of, prompt_of, row, taught

CONTEXT = f"Question: {ROWS[0]['question']}"
SCORED = row(1, {"one": "because", "two": "why"}, ["what"], ("green", "greengreen", "red")) | {
    "option_scores": [-0.1, -2.0, -1.5]
}


@pytest.mark.parametrize("shared_context", [True, False])
def test_targets_after_the_answer_are_one_text_with_it(family, shared_context):
    """The reference is a text for each target, tokens put together by hand."""
    (model, tokenizer, _), encoder = load(
        family, shared_context=shared_context, form="after_answer"
    )
    samples = taught(encoder, ROWS[0])
    assert len(samples) == (1 if shared_context else len(TASKS))
    texts = {
        "answer": "\nAnswer: greengreen",
        "one": "\nAnswer: greengreen\nReason 1: because it is so",
        "two": "\nAnswer: greengreen\nReason 2: why not",
        "saliency": "\nAnswer: greengreen\nKey words: what, 1",
    }
    for sample in separate_tasks(samples):
        [branch] = sample.branches
        text = tokenizer.decode(sample.context + branch.prefix + branch.target[:-1])
        assert text == CONTEXT + texts[branch.task]
        last = text.rsplit(":", 1)[1]
        assert tokenizer.decode(branch.target) == f"{last}{tokenizer.eos_token}"
    if shared_context and not model.config.is_encoder_decoder:
        [sample] = samples
        assert [b.after_answer for b in sample.branches] == [False, True, True, True]
        lengths = [len(s.context) + len(s.branches[0].prefix) for s in separate_tasks(samples)]
        assert sample.length < sum(lengths)


def test_without_shared_context_an_encoder_reads_the_prefix(tiny_t5):
    (_, tokenizer, _), encoder = load(tiny_t5, shared_context=False)
    first, second, *_ = taught(encoder, ROWS[0])
    assert tokenizer.decode(first.context).startswith(f"{CONTEXT}\nAnswer:")
    assert tokenizer.decode(second.context).startswith(f"{CONTEXT}\nReason 1:")
    assert [sample.branches[0].prefix for sample in (first, second)] == [[], []]
    prompt = prompt_of(encoder, ROWS[0], 4)
    assert (prompt.context, prompt.branches[0].prefix) == (first.context, [])


@pytest.mark.parametrize("shared_context", [True, False])
def test_every_target_is_encoded(family, shared_context):
    """Weights are no matter of the encoder."""
    _, encoder = load(family, shared_context=shared_context)
    [samples] = encoder.samples([SCORED])
    branches = [branch for sample in samples for branch in sample.branches]
    assert [branch.task for branch in branches] == [*TASKS, *[SOFT_LABELS] * 3]
    assert [branch.score for branch in branches] == [None] * 4 + [-0.1, -2.0, -1.5]


@pytest.mark.parametrize("form", ["branch", "after_answer"])
@pytest.mark.parametrize("shared_context", [True, False])
def test_a_subset_of_the_tasks_is_what_encoding_these_alone_would_give(
    family, shared_context, form
):
    """Each row without the targets of the other tasks, encoded for itself."""
    _, encoder = load(family, shared_context=shared_context, form=form)
    others = ["one", "two", "saliency", SOFT_LABELS]
    for size in range(len(others) + 1):
        for chosen in combinations(others, size):
            own = SCORED | {
                "rationales": [r for r in SCORED["rationales"] if r["teacher"] in chosen],
                "saliency": SCORED["saliency"] if "saliency" in chosen else [],
                "option_scores": SCORED["option_scores"] if SOFT_LABELS in chosen else None,
            }
            [whole], [alone] = encoder.samples([SCORED]), encoder.samples([own])
            assert of_tasks(whole, {"answer", *chosen}) == alone


def test_the_order_of_the_teachers_numbers_their_rationales(family):
    (model, tokenizer, _), _ = load(family)
    settings = Student(model="tiny")
    for teachers in (TEACHERS, TEACHERS[::-1], ["silent", "two"]):
        encoder = Encoder(model.config, tokenizer, settings, teachers)
        [[sample]] = encoder.samples(ROWS[:1])
        prefixes = {b.task: tokenizer.decode(b.prefix).strip("\n") for b in sample.branches}
        expected = {t: f"Reason {n}:" for n, t in enumerate(teachers, 1) if t in TEACHERS}
        assert {t: p for t, p in prefixes.items() if t in TEACHERS} == expected


def test_questions_are_encoded_together_as_they_are_alone(family):
    _, encoder = load(family)
    rows = [*ROWS, SCORED | {"id": "5"}]
    assert encoder.samples(rows) == [encoder.samples([row])[0] for row in rows]
    assert encoder.prompts(rows) == [encoder.prompts([row])[0] for row in rows]
    assert encoder.samples([]) == encoder.prompts([]) == encoder.answers([]) == []


@pytest.mark.parametrize("shared_context", [True, False])
def test_an_option_is_learnt_as_the_evaluation_scores_it(family, shared_context):
    (_, tokenizer, _), encoder = load(family, shared_context=shared_context)
    end = tokenizer.eos_token_id
    learnt = taught(encoder, SCORED, [SOFT_LABELS])
    scored = options_of(encoder, SCORED, shared_context)
    assert [s.context for s in learnt] == [s.context for s in scored]
    for one, other in zip(learnt, scored, strict=True):
        assert [(b.prefix, [*b.target, end]) for b in one.branches] == [
            (b.prefix, b.target) for b in other.branches
        ]


def test_the_default_limit_is_the_models(family):
    (model, tokenizer, _), encoder = load(family)
    assert encoder.window.limit == (1024 if not model.config.is_encoder_decoder else 10**9)
    assert encoder.window.encoder_decoder == model.config.is_encoder_decoder
    tokenizer.model_max_length = 77
    assert Encoder(model.config, tokenizer, Student(model="tiny")).window.limit == 77


def test_the_models_own_limit_is_not_the_users_to_raise(tiny_model):
    _, encoder = load(tiny_model)
    long = "long " * 2000
    with pytest.raises(UserError, match="choose a student that reads more"):
        taught(encoder, row(1, {}, [], (long, "red")), ["answer"])


def test_a_tokenizer_without_an_end_of_text_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="its tokenizer has no end-of-text token"):
        Encoder(AutoConfig.from_pretrained(tiny_model), tokenizer, Student(model="tiny"))
