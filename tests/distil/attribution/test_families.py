"""Scores in a padded batch with a cached prefix are those of each prompt alone, in every family."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from stages.distil.attribution.attributor import Attributor
from stages.distil.attribution.prompts import Prompt
from stages.distil.attribution.teacher import PredictionBatch, load_teacher
from stages.distil.interface.errors import UserError, tell_once
from stages.distil.models import generation
from stages.distil.models.layers import attention_span
from tests import families
from tests.distil.attribution.test_attributor import (
    assert_close,
    by_word,
    embedded,
    gradient,
    log_probability,
    settings,
)

PREFIX = 24  # tokens that all prompts begin with


def tokens(start: int, count: int) -> list[int]:
    return [5 + 7 * n % 390 for n in range(start, start + count)]


def make_prompt(start: int, length: int, label: int) -> Prompt:
    ids = tokens(3, PREFIX) + tokens(start, length)
    scored = list(range(PREFIX + 2, len(ids) - 2))  # a prompt ends with no word
    words = [n // 2 for n in range(len(scored))]  # of two tokens each
    spans = [(n, n + 1) for n in range(words[-1] + 1)]
    return Prompt(ids, tokens(start + 2, label), scored, words, spans)


PROMPTS = [make_prompt(11, 12, 2), make_prompt(50, 47, 5), make_prompt(77, 29, 1)]


def load(name: str, **changes) -> tuple[torch.nn.Module, Attributor]:
    model = families.build(name, "eager")
    attributor = Attributor(model, settings(**changes), 0)
    attributor.cache_prefix(PROMPTS)
    return model, attributor


@pytest.mark.parametrize("name", families.FAMILIES)
def test_scores_are_those_of_each_prompt_alone(name):
    model, attributor = load(name)
    expected = []
    for prompt in PROMPTS:
        embeddings = embedded(model, prompt.ids)
        products = embeddings * gradient(model, prompt, embeddings)
        expected.append(by_word(prompt, products.sum(-1)))
    assert_close([scores.words for scores in attributor.score(PROMPTS)], expected, 1e-3)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_log_probabilities_are_those_of_each_prompt_alone(name):
    model, attributor = load(name)
    with torch.no_grad():
        expected = [log_probability(model, embedded(model, p.ids), p.label) for p in PROMPTS]
    assert attributor.log_probabilities(PROMPTS) == pytest.approx(
        [value.item() for value in expected], rel=1e-5
    )
    attributor.check(PROMPTS)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_continuations_are_those_of_each_prompt_alone(name):
    model, attributor = load(name)
    expected = []
    for prompt in PROMPTS:
        ids = list(prompt.ids)
        with torch.no_grad():
            for _ in range(4):
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        expected.append(ids[len(prompt.ids) :])
    assert attributor.continuations(PROMPTS, 4) == expected


@pytest.mark.parametrize("name", ["Mistral", "Gemma3Text", "Mamba", "FalconH1", "Qwen3Next", "Mpt"])
def test_an_occluded_word_is_as_if_it_were_not_there(name):
    model, attributor = load(name, method="occlusion")
    prompt = PROMPTS[0]
    with torch.no_grad():
        whole = log_probability(model, embedded(model, prompt.ids), prompt.label)
        expected = []
        for number in range(prompt.count):
            out = [t for t, w in zip(prompt.tokens, prompt.words, strict=True) if w == number]
            rest = [token for t, token in enumerate(prompt.ids) if t not in out]
            without = log_probability(model, embedded(model, rest), prompt.label)
            expected.append((whole - without).item())
    [scores] = attributor.score([prompt])
    np.testing.assert_allclose(scores.words, expected, atol=1e-5)


@pytest.mark.parametrize("name", families.PLAIN)
def test_full_attention_caches_the_prefix(name):
    _, attributor = load(name)
    assert len(attributor.shared) == PREFIX


def test_within_its_window_a_model_caches_the_prefix_and_keeps_its_key():
    model = families.build("Mistral", "eager")
    model.config.sliding_window = longest = max(len(p.ids) + len(p.label) - 1 for p in PROMPTS)
    assert attention_span(model) == longest
    attributor = Attributor(model, settings(), 0)
    attributor.cache_prefix(PROMPTS)
    assert len(attributor.shared) == PREFIX
    key = attributor.key("a", PROMPTS)
    model.config.sliding_window -= 1
    shorter = Attributor(model, settings(), 0)
    shorter.cache_prefix(PROMPTS)
    assert shorter.shared == []
    shorter.shared = attributor.shared  # what earlier, wrong scores were stored with
    assert shorter.key("a", PROMPTS) != key


def test_a_model_without_a_cached_prefix_is_told(capsys):
    tell_once.cache_clear()
    for _ in range(2):
        load("Mamba")
    assert capsys.readouterr().err.count("MambaForCausalLM has a state or a sliding window") == 1


def test_a_model_that_reads_a_batch_differently_is_refused(monkeypatch):
    """Its cached keys are those of another text."""
    model, attributor = load("Llama")
    attributor.check(PROMPTS)
    of_prefix = attributor._keys_and_values
    monkeypatch.setattr(attributor, "_keys_and_values", lambda ids: of_prefix(ids[::-1]))
    attributor._prefix = None
    with pytest.raises(UserError, match="LlamaForCausalLM reads a prompt in a batch differently"):
        attributor.check(PROMPTS)


def test_a_model_that_takes_no_batch_is_one_line(monkeypatch):
    _, attributor = load("Llama")

    def fail(ids):
        raise AttributeError("no\ncache")

    monkeypatch.setattr(attributor, "_keys_and_values", fail)
    with pytest.raises(UserError, match="cannot be scored .AttributeError: no cache.; choose") as e:
        attributor.check(PROMPTS)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>"])
def test_a_predicted_answer_ends_with_its_turn(tiny_model, tmp_path, monkeypatch, end):
    """Whatever of the two tokens the generation settings declare."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    declared = json.dumps({"eos_token_id": tokenizer.convert_tokens_to_ids(end)})
    (folder / "generation_config.json").write_text(declared)
    teacher = load_teacher(folder, settings(), "float32", None)
    asked = Prompt(tokens(3, 9), tokens(5, 2), [], [], [])
    passed = []

    def write(model, **arguments):
        passed.append(arguments.get("eos_token_id"))
        return torch.tensor([[*asked.ids, *tokenizer.encode("tea<|im_end|>")]])

    monkeypatch.setattr(generation, "generate", write)
    questions = PredictionBatch(b"", ["1"], [], [], [], [(0, asked)])
    assert teacher.compute(questions) == ["tea"]
    both = sorted(tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    assert passed == [both if end == "<|endoftext|>" else None]
