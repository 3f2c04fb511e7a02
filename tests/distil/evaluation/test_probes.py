"""What the student prefers and says, against slow, obvious references."""

import pytest
import torch

from stages.distil.evaluation.probes import explained, option_scores
from tests.distil.student.test_samples import ROWS, learn_by_heart, load, row

ASKED = [
    row(1, {}, [], ("red", "green as the grass", "blue")),
    row(5, {}, []),
    row(2, {}, [], ("yes", "no")),
]


def log_probability(model, tokenizer, asked, option: str) -> float:
    """Return the mean log-probability of an option's tokens, by a pass of their own."""
    target = tokenizer.encode(f" {option}", add_special_tokens=False)
    begun = asked.branches[0].prefix
    if model.config.is_encoder_decoder:
        written = [model.config.decoder_start_token_id, *begun, *target[:-1]]
        inputs = {"input_ids": asked.context, "decoder_input_ids": written}
    else:
        inputs = {"input_ids": [*asked.context, *begun, *target[:-1]]}
    with torch.no_grad():
        logits = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
    chances = logits[-len(target) :].log_softmax(-1)
    return chances[range(len(target)), target].mean().item()


@pytest.mark.parametrize("shared_context", [True, False])
def test_an_options_score_is_its_mean_log_probability(family, shared_context):
    model, tokenizer, encoder = load(family, shared_context=shared_context)
    found = option_scores(model, tokenizer, [encoder.options(r) for r in ASKED], "float32")
    for question, scores in zip(ASKED, found, strict=True):
        asked = encoder.prompt(question, 1)
        expected = [log_probability(model, tokenizer, asked, o) for o in question["options"]]
        assert scores == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shared_context", [True, False])
def test_what_was_learnt_by_heart_is_said_again(family, shared_context):
    model, tokenizer, encoder = learn_by_heart(family, shared_context)
    found = explained(model, tokenizer, encoder, ROWS[:1], ["one", "two"], "float32")
    right = {"f1": 1.0, "questions": 1}
    assert found == {"words": right, "rationales": {"one": right, "two": right}}


def test_only_what_was_taught_is_asked_for(family):
    model, tokenizer, encoder = load(family)
    found = explained(model, tokenizer, encoder, ROWS, ["one", "two", "silent"], "float32")
    assert found["words"]["questions"] == 3
    assert {t: entry["questions"] for t, entry in found["rationales"].items()} == {
        "one": 2,
        "two": 2,
    }
    assert found["words"]["f1"] < 0.5
    assert explained(model, tokenizer, encoder, ROWS[1:1], ["one"], "float32") == {}
