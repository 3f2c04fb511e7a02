"""Texts that are drawn."""

import pytest
import torch

from stages.distil.models.generation import Sampling, Writing, _GumbelNoise, continue_texts
from stages.distil.models.loading import load_model

PROMPTS = ["What is it?", "Who?", "Which of these balls is red, and why?"]


def test_the_greatest_logit_with_noise_is_a_draw_from_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -float("inf")])
    seeds = [f"text {n}" for n in range(20_000)]
    noise = _GumbelNoise(Sampling(0.5, seeds), start=3)
    ids = torch.zeros(len(seeds), 3, dtype=torch.long)
    drawn = noise(ids, logits.expand(len(seeds), -1)).argmax(-1)
    share = torch.bincount(drawn, minlength=5) / len(seeds)
    # Four standard errors of a share of one half.
    assert torch.allclose(share, (logits / 0.5).softmax(-1), atol=4 * (0.25 / len(seeds)) ** 0.5)
    longer = torch.zeros(len(seeds), 4, dtype=torch.long)
    again = noise(longer, logits.expand(len(seeds), -1)).argmax(-1)
    assert not drawn.equal(again)  # another token has other noise


def test_a_drawn_text_does_not_depend_on_its_batch(family):
    model, tokenizer = load_model(family, "float32")
    prompts = [tokenizer.encode(text) for text in PROMPTS]

    def drawn(chosen: list[int], seeds: list[str]) -> list[list[int]]:
        writing = Writing(12, tokenizer.pad_token_id, sampling=Sampling(1.0, seeds))
        return continue_texts(model, [prompts[n] for n in chosen], writing, 1000)

    together = drawn([0, 1, 2], ["a", "b", "c"])
    alone = [drawn([n], [seed])[0] for n, seed in enumerate("abc")]
    assert [text[: len(own)] for text, own in zip(together, alone, strict=True)] == alone
    assert drawn([0], ["b"]) != drawn([0], ["a"])


@pytest.mark.parametrize("seed", ["a", "b"])
def test_a_drawn_text_goes_on_as_if_it_had_not_stopped(tiny_model, seed):
    model, tokenizer = load_model(tiny_model, "float32")
    prompt = tokenizer.encode(PROMPTS[0])

    def drawn(ids: list[int], tokens: int, written: int) -> list[int]:
        sampling = Sampling(1.0, [seed], written)
        [text] = continue_texts(
            model, [ids], Writing(tokens, tokenizer.pad_token_id, sampling=sampling), 1000
        )
        return text

    whole = drawn(prompt, 10, 0)
    first = drawn(prompt, 4, 0)
    assert first + drawn(prompt + first, 6, 4) == whole
