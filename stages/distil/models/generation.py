"""What a model in this process gives: logits at selected positions, and texts.

Texts are written in batches of similar lengths.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.distil.language.chat import Chat, Ends
from stages.distil.models.batching import by_length, of_one_length, pad
from stages.distil.models.layers import carries_state
from stages.distil.weights.architecture import generation_settings

TOKENS = ("bos", "eos", "pad", "decoder_start", "forced_bos")  # kept of a model's own settings


@contextmanager
def logits_at(model: PreTrainedModel, selected: Tensor) -> Iterator[None]:
    """Apply the model's output head, the most expensive part of a pass, to selected positions only.

    `selected` (B, N) is true at these positions. The logits are (1, positions, vocabulary), row by
    row.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][selected][None],))
    try:
        yield
    finally:
        hook.remove()


def end_tokens(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end a text by a model's settings, or else by its tokenizer."""
    declared = settings.eos_token_id
    if declared is None:
        declared = tokenizer.eos_token_id
    tokens = declared if isinstance(declared, list) else [declared]
    return {token for token in tokens if token is not None}


def missing_ends(chat: Chat, folder: Path, of_tokenizer: bool = False) -> Ends:
    """Return what ends a reply by a folder's chat template, but not by its generation settings.

    With `of_tokenizer`, the tokenizer's own end-of-text also ends a text.
    """
    declared = end_tokens(generation_settings(folder), chat.tokenizer)
    if of_tokenizer and chat.tokenizer.eos_token_id is not None:
        declared.add(chat.tokenizer.eos_token_id)
    return chat.ends(declared)


def generate(model: PreTrainedModel, **settings: Any) -> Tensor:
    """Return what `model.generate` writes by these settings alone.

    Of the model's own, such as a repetition penalty or sampling, only special tokens count, so that
    greedy texts are greedy.
    """
    own = model.generation_config
    names = [f"{token}_token_id" for token in TOKENS]
    model.generation_config = GenerationConfig(**{n: getattr(own, n, None) for n in names})
    try:
        return model.generate(num_beams=1, **settings)
    finally:
        model.generation_config = own


class Sampling(NamedTuple):
    """How texts are drawn: the temperature, and a seed for each text.

    Each text already has `written` tokens, which end its prompt.
    """

    temperature: float
    seeds: Sequence[str]
    written: int = 0


class Writing(NamedTuple):
    """How texts are written: at most `max_tokens` each, in batches with this `padding`.

    `end` is what ends a text, a token or several; by default the model's own. An encoder-decoder's
    text continues the tokens `decoder_prefix`. Tokens are the most probable ones, or drawn by
    `sampling`.
    """

    max_tokens: int
    padding: int
    end: int | Sequence[int] | None = None
    decoder_prefix: Sequence[int] = ()
    sampling: Sampling | None = None


class _GumbelNoise(LogitsProcessor):
    """Adds noise to logits, so that the greatest is a draw from their softmax (Gumbel, 1954).

    The noise of a token depends on the seed and the place in its own text alone, so a text does not
    depend on its batch, or on where it was resumed.
    """

    def __init__(self, sampling: Sampling, start: int):
        """Take the seeds of the rows of a batch, and the tokens before their texts."""
        self._sampling = sampling
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = self._sampling.written + input_ids.shape[1] - self._start
        rows = [_gumbel(f"{seed} {place}", scores.shape[1]) for seed in self._sampling.seeds]
        return scores / self._sampling.temperature + torch.stack(rows).to(scores)


def _gumbel(seed: str, size: int) -> Tensor:
    """Return independent draws −log(−log u) from the standard Gumbel distribution, (size,)."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))


@torch.no_grad()
def continue_texts(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    writing: Writing,
    budget: int,
) -> list[list[int]]:
    """Return the tokens that the model writes after each prompt, in the order of the prompts.

    `budget` limits the tokens of a batch, prompts and texts together.
    """
    max_tokens, padding, end, decoder_prefix, sampling = writing
    encoder_decoder = model.config.is_encoder_decoder
    settings: dict[str, Any] = {"eos_token_id": end} if end is not None else {}
    continuations: list[list[int]] = [[] for _ in prompts]
    lengths = [len(prompt) + max_tokens for prompt in prompts]
    batches = by_length(lengths, budget)
    if not encoder_decoder and carries_state(model):  # which padding on the left may change
        batches = of_one_length(batches, lengths)
    for batch in batches:
        ids, mask = pad([prompts[i] for i in batch], padding, left=not encoder_decoder)
        if encoder_decoder:
            first = [model.config.decoder_start_token_id, *decoder_prefix]
            settings["decoder_input_ids"] = torch.tensor([first] * len(batch)).to(model.device)
        start = 1 + len(decoder_prefix) if encoder_decoder else ids.shape[1]
        if sampling is not None:
            seeds = [sampling.seeds[i] for i in batch]
            noise = _GumbelNoise(sampling._replace(seeds=seeds), start)
            settings["logits_processor"] = LogitsProcessorList([noise])
        written = generate(
            model,
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=padding,
            **settings,
        )
        for i, row in zip(batch, written[:, start:].tolist(), strict=True):
            continuations[i] = row
    return continuations
