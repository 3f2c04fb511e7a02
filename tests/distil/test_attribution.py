import pytest
import torch
from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput

from stages.distil.attribution import Prompt, attribute, encode_prompt, load_teacher

TEXTS = [
    ("What is the mother of Ann?\nOptions: aunt, niece", "aunt"),
    ("What is it?\nOptions: a long one, two", "a long one"),
    ("Ünïcödé 👩‍👧 e\u0301 tab\there the the?\nOptions: 👍, no", "👍"),
]


@pytest.fixture
def teacher(tiny_model):
    return load_teacher(tiny_model, torch.float32)


def prompts(tokenizer) -> list[Prompt]:
    return [
        encode_prompt(tokenizer, [{"role": "user", "content": f"{text} Reply."}], text, label)
        for text, label in TEXTS
    ]


def test_scores_equal_captums_own_loop_over_label_tokens(teacher):
    model, tokenizer = teacher
    ours = dict(attribute(model, prompts(tokenizer), padding=0, batch_size=3))
    assert set(ours) == {0, 1, 2}
    for index, prompt in enumerate(prompts(tokenizer)):
        method = LLMGradientAttribution(
            LayerGradientXActivation(model, model.get_input_embeddings()), tokenizer
        )
        rendered = tokenizer.decode(prompt.ids)
        theirs = method.attribute(
            TextTokenInput(rendered, tokenizer),
            target=torch.tensor(prompt.label),
        ).seq_attr
        assert len(theirs) == len(prompt.ids)
        difference = (torch.tensor(ours[index]) - theirs[prompt.tokens]).abs().max()
        assert difference / theirs.abs().max() < 1e-4


def test_scores_do_not_depend_on_the_batch(teacher):
    model, tokenizer = teacher
    together = dict(attribute(model, prompts(tokenizer), padding=0, batch_size=3))
    alone = dict(attribute(model, prompts(tokenizer), padding=0, batch_size=1))
    for index in together:
        assert together[index] == pytest.approx(alone[index], rel=1e-3, abs=1e-6)


def test_only_tokens_of_the_text_count_and_their_spans_spell_it(teacher):
    _, tokenizer = teacher
    for (text, _), prompt in zip(TEXTS, prompts(tokenizer), strict=True):
        covered = set()
        for start, end in prompt.spans:
            covered |= set(range(start, end))
        assert covered == set(range(len(text)))
        assert len(prompt.tokens) < len(prompt.ids)


def test_the_weights_need_no_gradient(teacher):
    model, tokenizer = teacher
    list(attribute(model, prompts(tokenizer), padding=0))
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
