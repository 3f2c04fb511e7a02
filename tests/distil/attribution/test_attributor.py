"""Every method against a slow, simple reference, on tiny models of both architectures."""

import numpy as np
import pytest
import torch
from captum.attr import (
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LLMGradientAttribution,
    TextTokenInput,
)
from transformers import modeling_utils

from stages.distil.attribution.attributor import Attributor, random_scores
from stages.distil.attribution.prompts import Prompt, encode_prompt
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Saliency
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.models.loading import load_model
from stages.distil.storage import versions
from stages.distil.storage.examples import Example

EXAMPLES = [
    Example("1", "train", "What is the mother of Ann?", ["aunt", "niece"], "aunt"),
    Example("2", "train", "What is it?", ["a long one", "two"], "a long one"),
    Example("3", "train", "Ünïcödé 👩‍👧 e\u0301 tab\there the the 犬?", ["👍 up", "no"], "👍 up"),
    Example("4", "train", "Who, why and when did it?", [], "nobody"),
]
DECODER, BOTH = "tiny_model", ["tiny_model", "tiny_t5"]


def settings(**changes) -> Saliency:
    return Saliency(teacher="any", top_k=2, weight=1, batch_tokens=300, **changes)


def load(request, name: str):
    model, tokenizer = load_model(request.getfixturevalue(name), "float32")
    prompts = []
    for example in EXAMPLES:
        text = f"{example.question}" + (
            f"\nOptions: {', '.join(example.options)}" if example.options else ""
        )
        conversation = Conversation("Be brief.", (), f"{text} Reply.", "Answer:")
        prompts.append(encode_prompt(Chat("", tokenizer), conversation, example, example.answer))
    return model, tokenizer, prompts


def scores(model, tokenizer, prompts: list[Prompt], chosen: Saliency) -> list[list[float]]:
    if chosen.method == "random":
        return [random_scores(prompt).words for prompt in prompts]
    attributor = Attributor(model, chosen, tokenizer.pad_token_id)
    attributor.cache_prefix(prompts)
    words: list[list[float]] = [[] for _ in prompts]
    for batch in attributor.batches(prompts):
        for i, score in zip(batch, attributor.score([prompts[i] for i in batch]), strict=True):
            words[i] = score.words
    return words


def log_probability(model, embeddings: torch.Tensor, label: list[int]) -> torch.Tensor:
    """Return log p(label | prompt) of one prompt of embeddings (N, D): no batch, no cache."""
    target = torch.tensor(label)
    if model.config.is_encoder_decoder:
        logits = model(inputs_embeds=embeddings[None], labels=target[None]).logits[0]
    else:
        label_embeddings = model.get_input_embeddings()(target[:-1])
        inputs = torch.cat([embeddings, label_embeddings])[None]
        logits = model(inputs_embeds=inputs, use_cache=False).logits[0, len(embeddings) - 1 :]
    return logits.log_softmax(-1)[torch.arange(len(label)), target].sum()


def gradient(model, prompt: Prompt, embeddings: torch.Tensor) -> torch.Tensor:
    embeddings = embeddings.clone().requires_grad_()
    log_probability(model, embeddings, prompt.label).backward()
    return embeddings.grad


def embedded(model, ids: list[int]) -> torch.Tensor:
    return model.get_input_embeddings()(torch.tensor(ids)).detach()


def by_word(prompt: Prompt, tokens: torch.Tensor) -> list[float]:
    words = []
    for number in range(prompt.count):
        pieces = [
            tokens[t].item()
            for t, w in zip(prompt.tokens, prompt.words, strict=True)
            if w == number
        ]
        words.append(sum(pieces))
    return words


def assert_close(
    actual: list[list[float]], expected: list[list[float]], tolerance: float = 1e-4
) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        difference = np.abs(np.subtract(ours, theirs)).max()
        assert difference <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("name", BOTH)
def test_input_x_gradient(request, name):
    model, tokenizer, prompts = load(request, name)
    expected = []
    for prompt in prompts:
        embeddings = embedded(model, prompt.ids)
        products = embeddings * gradient(model, prompt, embeddings)
        expected.append(by_word(prompt, products.sum(-1)))
    assert_close(scores(model, tokenizer, prompts, settings()), expected)


@pytest.mark.parametrize("name", BOTH)
def test_saliency_is_the_norm_of_the_gradient(request, name):
    model, tokenizer, prompts = load(request, name)
    expected = [
        by_word(p, gradient(model, p, embedded(model, p.ids)).norm(dim=-1)) for p in prompts
    ]
    assert_close(scores(model, tokenizer, prompts, settings(method="saliency")), expected)


def without_words(model, prompt: Prompt, padding: int) -> torch.Tensor:
    table = model.get_input_embeddings().weight.detach()
    start = embedded(model, prompt.ids)
    start[prompt.tokens] = table[padding]
    return start


@pytest.mark.parametrize("name", BOTH)
def test_integrated_gradients(request, name):
    model, tokenizer, prompts = load(request, name)
    places, weights = np.polynomial.legendre.leggauss(6)
    expected = []
    for prompt in prompts:
        end = embedded(model, prompt.ids)
        start = without_words(model, prompt, tokenizer.pad_token_id)
        mean = sum(
            float(weight) / 2 * gradient(model, prompt, start + (end - start) * float(1 + p) / 2)
            for p, weight in zip(places, weights, strict=True)
        )
        expected.append(by_word(prompt, ((end - start) * mean).sum(-1)))
    chosen = settings(method="integrated_gradients", steps=6)
    assert_close(scores(model, tokenizer, prompts, chosen), expected)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_long_prompts_have_the_same_scores_in_less_memory(request, name, method, monkeypatch):
    model, tokenizer, prompts = load(request, name)
    expected = scores(model, tokenizer, prompts, settings(method=method))
    monkeypatch.setattr("stages.distil.models.hardware.MEMORY_SHARE", 1e-12)
    monkeypatch.setattr("stages.distil.models.loading.PLAIN_ATTENTION", 1)
    recomputed = []
    plain = modeling_utils.checkpoint
    monkeypatch.setattr(
        modeling_utils,
        "checkpoint",
        lambda *a, **k: recomputed.append(a) or plain(*a, **k),
    )
    assert_close(scores(model, tokenizer, prompts, settings(method=method)), expected)
    assert recomputed
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.Dropout))
    assert model.config._attn_implementation != "eager"


@pytest.mark.parametrize("name", BOTH)
def test_integrated_gradients_sum_to_the_difference_within_the_reported_delta(request, name):
    model, tokenizer, prompts = load(request, name)
    deltas = []
    for steps in (4, 64):
        chosen = settings(method="integrated_gradients", steps=steps)
        attributor = Attributor(model, chosen, tokenizer.pad_token_id)
        attributor.cache_prefix(prompts)
        for prompt in prompts:
            (scored,) = attributor.score([prompt])
            start = without_words(model, prompt, tokenizer.pad_token_id)
            with torch.no_grad():
                ends = [
                    log_probability(model, end, prompt.label).item()
                    for end in (embedded(model, prompt.ids), start)
                ]
            assert sum(scored.words) - (ends[0] - ends[1]) == pytest.approx(scored.delta, abs=1e-4)
            deltas.append(abs(scored.delta))
    assert max(deltas[len(prompts) :]) < 0.02
    assert sum(deltas[len(prompts) :]) < sum(deltas[: len(prompts)])


@pytest.mark.parametrize("name", BOTH)
def test_occlusion_leaves_out_one_word_at_a_time(request, name):
    model, tokenizer, prompts = load(request, name)
    expected = []
    with torch.no_grad():
        for prompt in prompts:
            whole = log_probability(model, embedded(model, prompt.ids), prompt.label)
            costs = []
            for number in range(prompt.count):
                out = [t for t, w in zip(prompt.tokens, prompt.words, strict=True) if w == number]
                if name == DECODER:  # as if the word were not there
                    ids = [token for t, token in enumerate(prompt.ids) if t not in out]
                    rest = log_probability(model, embedded(model, ids), prompt.label)
                else:  # an encoder does not attend to the word
                    mask = torch.ones(1, len(prompt.ids), dtype=torch.long)
                    mask[0, out] = 0
                    label = torch.tensor(prompt.label)
                    logits = model(
                        input_ids=torch.tensor([prompt.ids]),
                        attention_mask=mask,
                        labels=label[None],
                    ).logits[0]
                    rest = logits.log_softmax(-1)[torch.arange(len(label)), label].sum()
                costs.append((whole - rest).item())
            expected.append(costs)
    # The log-probabilities are about a thousand times their differences: float32 leaves 3 digits.
    assert_close(scores(model, tokenizer, prompts, settings(method="occlusion")), expected, 2e-3)


def captum_scores(model, tokenizer, prompt: Prompt, method, **arguments) -> list[float]:
    loop = LLMGradientAttribution(method(model, model.get_input_embeddings()), tokenizer)
    rendered = tokenizer.decode(prompt.ids)
    theirs = loop.attribute(
        TextTokenInput(rendered, tokenizer, baselines=tokenizer.pad_token_id),
        target=torch.tensor(prompt.label),
        **arguments,
    ).seq_attr
    assert len(theirs) == len(prompt.ids)
    return by_word(prompt, theirs)


def test_scores_equal_captums_own_loop_over_label_tokens(request):
    model, tokenizer, prompts = load(request, DECODER)
    model.enable_input_require_grads()
    expected = [captum_scores(model, tokenizer, p, LayerGradientXActivation) for p in prompts]
    assert_close(scores(model, tokenizer, prompts, settings()), expected)


def test_integrated_gradients_equal_captums_own_loop(request):
    model, tokenizer, prompts = load(request, DECODER)
    chosen = settings(method="integrated_gradients", steps=5)
    ours = scores(model, tokenizer, prompts, chosen)
    model.enable_input_require_grads()
    expected = []
    for prompt in prompts:
        kept = torch.ones(1, len(prompt.ids), dtype=torch.long)  # Captum's way to say what stays
        kept[0, prompt.tokens] = 0
        arguments = {"baselines": kept, "n_steps": 5}
        expected.append(
            captum_scores(model, tokenizer, prompt, LayerIntegratedGradients, **arguments)
        )
    assert_close(ours, expected)


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
@pytest.mark.parametrize("name", BOTH)
def test_scores_do_not_depend_on_the_batch(request, name, method):
    model, tokenizer, prompts = load(request, name)
    chosen = settings(method=method, steps=4)
    together = scores(model, tokenizer, prompts, chosen)
    alone = scores(model, tokenizer, prompts, chosen.model_copy(update={"batch_tokens": 1}))
    assert_close(together, alone, 1e-3)


def test_batches_hold_rows_of_similar_lengths_within_the_budget(request):
    model, tokenizer, _ = load(request, DECODER)
    prompts = [Prompt([5] * n, [6, 7], [n - 1], [0], [(0, 1)]) for n in (3, 30, 9, 31, 200, 8, 7)]
    attributor = Attributor(model, settings(), 0)
    assert list(attributor.batches(prompts)) == [[4], [3, 1], [2, 5, 6, 0]]
    attributor = Attributor(model, settings(method="integrated_gradients", steps=5), 0)
    assert list(attributor.batches(prompts)) == [[4], [3], [1], [2, 5, 6], [0]]
    attributor = Attributor(model, settings(method="occlusion"), 0)
    assert list(attributor.batches(prompts)) == [[4], [3], [1], [2], [5], [6], [0]]


def test_the_key_depends_on_model_settings_and_version(request, monkeypatch):
    model, tokenizer, prompts = load(request, DECODER)
    first = Attributor(model, settings(), tokenizer.pad_token_id)
    other = Attributor(model, settings(method="saliency"), tokenizer.pad_token_id)
    keys = [first.key("a", prompts), first.key("b", prompts), other.key("a", prompts)]
    assert first.key("a", prompts) == keys[0]
    monkeypatch.setattr(versions, "ATTRIBUTION", versions.ATTRIBUTION + 1)
    assert len({*keys, first.key("a", prompts)}) == 4


@pytest.mark.parametrize("name", BOTH)
def test_only_words_of_question_and_options_are_scored(request, name):
    _, tokenizer, prompts = load(request, name)
    for prompt, example in zip(prompts, EXAMPLES, strict=True):
        assert set(prompt.words) == set(range(prompt.count))
        covered = tokenizer.decode([prompt.ids[t] for t in prompt.tokens])
        for template in ("brief", "Reply", "Answer", "Options", "im_start", "?"):
            assert template not in covered
        if name == DECODER:  # a byte-level tokenizer spells every word
            assert "".join(covered.split()) == "".join(
                word for text in [example.question, *example.options] for word in letters(text)
            )


def letters(text: str) -> list[str]:
    return ["".join(c for c in word if c not in "?,👩‍👧👍") for word in text.split()]


@pytest.mark.parametrize("name", BOTH)
def test_the_log_probability_of_a_label_is_the_models(request, name):
    model, tokenizer, prompts = load(request, name)
    attributor = Attributor(model, settings(), tokenizer.pad_token_id)
    attributor.cache_prefix(prompts)
    with torch.no_grad():
        expected = [log_probability(model, embedded(model, p.ids), p.label).item() for p in prompts]
    assert attributor.log_probabilities(prompts) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", BOTH)
def test_continuations_do_not_depend_on_the_batch(request, name):
    model, tokenizer, prompts = load(request, name)
    attributor = Attributor(model, settings(), tokenizer.pad_token_id)
    together = attributor.continuations(prompts, 5)
    assert together == [attributor.continuations([prompt], 5)[0] for prompt in prompts]


def test_weights_get_no_gradients(request):
    model, tokenizer, prompts = load(request, DECODER)
    scores(model, tokenizer, prompts, settings())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_a_prompt_without_the_question_is_reported(request):
    _, tokenizer, _ = load(request, DECODER)
    conversation = Conversation("", (), "Something else", "Answer:")
    with pytest.raises(UserError, match="rationales.prompts.answer: expected the question"):
        encode_prompt(Chat("", tokenizer), conversation, EXAMPLES[0], "aunt")
