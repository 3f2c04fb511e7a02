"""Attribution by Captum: how much each word of a prompt moves the label's log-probability.

A batch of prompts is scored in one forward and one backward pass: the label's log-probability is
summed over its tokens before the gradient is taken, and every method here is linear in the
gradient. Tokens before every question, such as the system prompt, are the same in all prompts: a
decoder-only model computes their keys and values once and caches them.

Rows of a batch are padded between the cached tokens and the text. A layer with a state or a sliding
window would count that padding, so such a model caches nothing and is padded after the text.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients
from captum.attr import Saliency as AbsoluteGradient
from torch import Tensor
from torch.nn import functional
from transformers import Cache, PreTrainedModel

from stages.distil.attribution.prompts import Prompt
from stages.distil.interface.errors import UserError, tell_once
from stages.distil.interface.method import Saliency
from stages.distil.models import generation
from stages.distil.models.batching import by_length
from stages.distil.models.hardware import (
    activations_fit,
    explain_out_of_memory,
    pass_tokens,
    weight_bytes,
)
from stages.distil.models.layers import attention_span
from stages.distil.models.loading import choose_attention, compute_layers_twice
from stages.distil.storage import versions

BATCH_TOKENS = 1024  # of a pass on a CPU
TOLERANCE = 1e-4  # of the logits' norm in float32
ROUNDED_TOLERANCE = 0.2  # in 16 bits
# Of a model whose code cannot read what a batch is.
MODEL_ERRORS = (
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Scores:
    """The score of each word of a prompt.

    `delta` is the error of integrated gradients: the sum of the scores minus the difference between
    the label's log-probabilities given the prompt and given its baseline.
    """

    words: list[float]
    delta: float | None = None


class Attributor:
    """Attributes a teacher's label log-probabilities to the words of its prompts.

    After `cache_prefix`, all prompts passed to the other methods must begin with the cached tokens.
    """

    def __init__(self, model: PreTrainedModel, settings: Saliency, padding: int):
        """Freeze a model; `padding` is the id of its padding token."""
        self._model = model.eval().requires_grad_(False)
        self._settings = settings
        self._padding = padding
        self.batch_tokens = pass_tokens(
            settings.batch_tokens, BATCH_TOKENS, model, weight_bytes(model)
        )
        self._encoder_decoder = model.config.is_encoder_decoder
        self._span = inf if self._encoder_decoder else attention_span(model)
        self._embed = model.get_input_embeddings()
        self.shared: list[int] = []
        self._prefix: Cache | None = None  # of `shared`, once a pass needs it

    def cache_prefix(self, prompts: Sequence[Prompt]) -> None:
        """Cache the tokens that all `prompts` begin with; call before the other methods.

        The prefix ends before the first scored token. An encoder-decoder caches nothing, nor does a
        model whose layers do not all attend to the whole of each prompt, nor one with prompts so
        long that its layers are computed twice, for lack of memory for their activations.
        """
        if not prompts:
            return
        if not self._keeps_activations(prompts):
            compute_layers_twice(self._model)
            self.share([])
            return
        if self._padded_after(prompts):
            tell_once(
                f"{type(self._model).__name__} has a state or a sliding window, so each prompt is "
                "read whole: no prefix is cached"
            )
            self.share([])
            return
        starts = [p.ids[: min(p.tokens, default=len(p.ids) - 1)] for p in prompts]
        self.share([] if self._encoder_decoder else list(commonprefix(starts)))

    def _keeps_activations(self, prompts: Sequence[Prompt]) -> bool:
        tokens = max(len(p.ids) + len(p.label) for p in prompts)
        dtype = str(self._model.dtype).removeprefix("torch.")
        return activations_fit(self._model, tokens, dtype, weight_bytes(self._model))

    def share(self, ids: list[int]) -> None:
        """Cache these tokens, with which all prompts begin."""
        if ids != self.shared:
            self.shared, self._prefix = ids, None

    @torch.no_grad()
    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `UserError` if what stands beside a prompt in a batch changes its logits.

        The shortest prompt is read with the longest, as in a batch, and by itself, without cached
        tokens, padding or a mask.
        """
        ordered = sorted(prompts, key=self._length)
        model = type(self._model).__name__
        try:
            with explain_out_of_memory("2 questions", "choose a smaller saliency.teacher"):
                together = self._logits_in_batch([ordered[0], ordered[-1]])
                alone = self._logits_alone(ordered[0])
        except MODEL_ERRORS as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"saliency.teacher: {model} cannot be scored ({type(error).__name__}: {reason}); "
                "choose another saliency.teacher"
            ) from error
        difference = ((together - alone).norm() / alone.norm()).item()
        tolerance = TOLERANCE if self._model.dtype == torch.float32 else ROUNDED_TOLERANCE
        if difference > tolerance:  # false for NaN, which is reported with the scores
            raise UserError(
                f"saliency.teacher: {model} reads a prompt in a batch differently than alone (its "
                f"logits differ by {difference:.1g} of their size); choose another "
                "saliency.teacher"
            )

    def _logits_in_batch(self, prompts: Sequence[Prompt]) -> Tensor:
        """Return the logits of the first prompt's label, (label, vocabulary)."""
        batch = self._lay_out(prompts)
        logits = self._label_logits(batch.embeddings, batch.mask, batch.labels)
        return logits[: len(prompts[0].label)]

    def _logits_alone(self, prompt: Prompt) -> Tensor:
        """Return the same of a prompt that the model reads as any text."""
        label = torch.tensor([prompt.label], device=self._model.device)
        ids = prompt.ids if self._encoder_decoder else prompt.ids + prompt.label[:-1]
        embeddings = self._embed(torch.tensor([ids], device=label.device))
        inputs: dict[str, Any] = {"inputs_embeds": embeddings, "use_cache": False}
        if self._encoder_decoder:
            shifted = self._model.prepare_decoder_input_ids_from_labels(label)
            inputs["decoder_input_ids"] = shifted
        return self._model(**inputs).logits[0, -len(prompt.label) :].float()

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Yield the indices of the prompts to score together, longest first, by token budget."""
        budget = self.batch_tokens
        if self._settings.method == "integrated_gradients":
            budget //= self._settings.steps  # each prompt is read so many times
        elif self._settings.method == "occlusion":
            budget = 0  # a batch of its own for each prompt
        return by_length([self._length(p) for p in prompts], budget)

    def key(self, identity: str, prompts: Sequence[Prompt]) -> bytes:
        """Return a digest of everything that determines a batch's scores, bit for bit.

        `identity` identifies the model and its precision.
        """
        settings = self._settings.model_dump(include={"method", "steps"})
        settings["batch_tokens"] = self.batch_tokens
        common = [versions.ATTRIBUTION, identity, settings, len(self.shared)]
        if self._padded_after(prompts):  # before, they were padded like others
            common.append("padded after the text")
        values = [*common, [vars(prompt) for prompt in prompts]]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()

    def score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        """Return the scores of a batch of prompts, in their order.

        Raises `UserError` if the batch does not fit into the GPU's memory.
        """
        advice = f"set saliency.batch_tokens below {self.batch_tokens}"
        with explain_out_of_memory(f"{len(prompts)} questions", advice):
            return self._score(prompts)

    def _score(self, prompts: Sequence[Prompt]) -> list[Scores]:
        if not any(prompt.count for prompt in prompts):
            return [Scores([]) for _ in prompts]
        batch = self._lay_out(prompts)
        if self._settings.method == "occlusion":
            return [Scores(self._occlusion(batch, prompts[0].count))]
        tokens, deltas = METHODS[self._settings.method](self, batch)
        rows = zip(prompts, batch.offsets, tokens.float().cpu(), deltas, strict=True)
        return [
            Scores(_by_word(prompt, row[[offset + t for t in prompt.tokens]].tolist()), delta)
            for prompt, offset, row, delta in rows
        ]

    @torch.no_grad()
    def log_probabilities(self, prompts: Sequence[Prompt]) -> list[float]:
        """Return the summed log-probability of each prompt's label."""
        log_probabilities = [0.0] * len(prompts)
        for chosen in by_length([self._length(p) for p in prompts], self.batch_tokens):
            batch = self._lay_out([prompts[i] for i in chosen])
            values = self._log_probability(batch.embeddings, batch.mask, batch.labels)
            for i, value in zip(chosen, values.tolist(), strict=True):
                log_probabilities[i] = value
        return log_probabilities

    def continuations(
        self, prompts: Sequence[Prompt], max_tokens: int, ends: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Return the tokens that the model writes greedily after each prompt, without its label.

        `ends` are the tokens that end a text, by default the model's own.
        """
        ids = [prompt.ids for prompt in prompts]
        writing = generation.Writing(max_tokens, self._padding, ends)
        return generation.continue_texts(self._model, ids, writing, self.batch_tokens)

    def _log_probability(self, embeddings: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Return the summed log-probability of each row's label, shape (B,)."""
        label_logits = self._label_logits(embeddings, mask, labels)
        is_label = labels >= 0
        by_token = -functional.cross_entropy(label_logits, labels[is_label], reduction="none")
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[is_label]
        return by_token.new_zeros(len(labels)).index_add(0, rows, by_token)

    def _label_logits(self, embeddings: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of all labels' tokens, row by row, (tokens, vocabulary).

        `embeddings` is (B, N, D), the prompts without the P cached tokens; `mask` is (B, P + N);
        `labels` is (B, T), the label's tokens with -1 for padding. For a decoder-only model,
        `embeddings` ends with all tokens of the label but the last.
        """
        is_label = labels >= 0
        choose_attention(self._model, mask.shape[1])
        if self._encoder_decoder:
            decoder_ids = self._model.prepare_decoder_input_ids_from_labels(
                labels.masked_fill(~is_label, -100)
            )
            inputs = {"decoder_input_ids": decoder_ids, "use_cache": False}
            positions = is_label
        elif mask.shape[1] > self._span:
            positions = functional.pad(is_label, (mask.shape[1] - is_label.shape[1], 0))
            embeddings, mask, positions = _padded_last(embeddings, mask, positions)
            inputs = {"use_cache": False}
        else:
            cache = None
            if self.shared:  # a copy: the pass adds its own keys and values
                if self._prefix is None:
                    self._prefix = self._keys_and_values(self.shared)
                cache = copy.deepcopy(self._prefix)
                cache.batch_repeat_interleave(len(embeddings))
            width = embeddings.shape[1]
            inputs = {
                "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, -width:],
                "past_key_values": cache,
                "use_cache": cache is not None,
            }
            positions = functional.pad(is_label, (width - is_label.shape[1], 0))
        with generation.logits_at(self._model, positions):
            output = self._model(inputs_embeds=embeddings, attention_mask=mask, **inputs)
        return output.logits[0].float()

    def _occlusion(self, batch: "_Layout", count: int) -> list[float]:
        """Return how much log-probability is lost without each word of one prompt.

        A word is left out by masking its tokens. Later positions close the gap, so that a
        decoder-only model reads the prompt without the word.
        """

        def masked(present: Tensor, words: Tensor, *inputs: Tensor) -> Tensor:
            embeddings, mask, labels = inputs
            kept = functional.pad(present, (1, 0), value=1.0).gather(1, words + 1)
            full = functional.pad(kept, (mask.shape[1] - kept.shape[1], 0), value=1.0)
            return self._log_probability(embeddings, mask * full.long(), labels)

        inputs = (batch.words, batch.embeddings, batch.mask, batch.labels)
        at_once = max(1, self.batch_tokens // batch.embeddings.shape[1])
        present = torch.ones(1, count, device=batch.mask.device)
        scores = FeatureAblation(masked).attribute(
            present, additional_forward_args=inputs, perturbations_per_eval=min(at_once, count)
        )
        return scores[0].tolist()

    def _input_x_gradient(self, batch: "_Layout") -> tuple[Tensor, list[None]]:
        """Σ_d e_d · ∂ log p(label | prompt) / ∂ e_d (Shrikumar et al., 2016)."""
        scores = InputXGradient(self._log_probability).attribute(
            batch.embeddings, additional_forward_args=(batch.mask, batch.labels)
        )
        return scores.float().sum(-1), [None] * len(scores)

    def _saliency(self, batch: "_Layout") -> tuple[Tensor, list[None]]:
        """‖∂ log p(label | prompt) / ∂ e‖₂ (Simonyan et al., 2014)."""
        scores = AbsoluteGradient(self._log_probability).attribute(
            batch.embeddings, additional_forward_args=(batch.mask, batch.labels)
        )
        return scores.float().norm(dim=-1), [None] * len(scores)

    def _integrated_gradients(self, batch: "_Layout") -> tuple[Tensor, list[float]]:
        """(e − e₀) · mean gradient on the line from e₀ to e (Sundararajan et al., 2017).

        In the baseline e₀ the padding token replaces the words' tokens, so the scores of the words
        sum to their effect on the log-probability.
        """
        rows, width = batch.embeddings.shape[:2]
        padding = self._embed(torch.full_like(batch.ids[:1, :1], self._padding))
        scores, deltas = IntegratedGradients(self._log_probability).attribute(
            batch.embeddings,
            torch.where(batch.words[..., None] >= 0, padding, batch.embeddings),
            additional_forward_args=(batch.mask, batch.labels),
            n_steps=self._settings.steps,
            internal_batch_size=max(rows, self.batch_tokens // width),
            return_convergence_delta=True,
        )
        return scores.float().sum(-1), deltas.tolist()

    def _padded_after(self, prompts: Sequence[Prompt]) -> bool:
        """Return whether a layer does not attend to the whole of the longest prompt and label."""
        longest = max((len(p.ids) + len(p.label) - 1 for p in prompts), default=0)
        return longest > self._span

    def _length(self, prompt: Prompt) -> int:
        label_inputs = 0 if self._encoder_decoder else len(prompt.label) - 1
        return len(prompt.ids) + label_inputs - len(self.shared)

    @torch.no_grad()
    def _keys_and_values(self, ids: list[int]) -> Cache:
        tokens = torch.tensor([ids], device=self._model.device)
        return self._model.base_model(input_ids=tokens, use_cache=True).past_key_values

    @torch.no_grad()
    def _lay_out(self, prompts: Sequence[Prompt]) -> "_Layout":
        """Lay prompts out without the cached prefix, which only the mask covers.

        A decoder-only model's rows end with the label and are padded on the left, an
        encoder-decoder model's on the right.
        """
        shared = len(self.shared)
        rows = [
            p.ids if self._encoder_decoder else (p.ids + p.label[:-1])[shared:] for p in prompts
        ]
        width, height = max(map(len, rows)), max(len(p.label) for p in prompts)
        ids = torch.full((len(rows), width), self._padding)
        mask = torch.zeros(len(rows), shared + width, dtype=torch.long)
        words = torch.full((len(rows), width), -1)
        labels = torch.full((len(rows), height), -1)
        mask[:, :shared] = 1
        offsets = []
        for n, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            start = 0 if self._encoder_decoder else width - len(row)
            ids[n, start : start + len(row)] = torch.tensor(row)
            mask[n, shared + start : shared + start + len(row)] = 1
            offsets.append(start - shared)
            words[n, [start - shared + t for t in prompt.tokens]] = torch.tensor(prompt.words)
            first = 0 if self._encoder_decoder else height - len(prompt.label)
            labels[n, first : first + len(prompt.label)] = torch.tensor(prompt.label)
        device = self._model.device
        ids, mask, words, labels = (t.to(device) for t in (ids, mask, words, labels))
        return _Layout(ids, self._embed(ids), mask, labels, words, offsets)


@dataclass(frozen=True)
class _Layout:
    """Prompts as B rows of N tokens, after P cached ones.

    `ids` (B, N); `embeddings` (B, N, D); `mask` (B, P + N); `labels` (B, T), -1 for padding;
    `words` (B, N), a token's word or -1; token t of prompt n is in column `offsets[n]` + t.
    """

    ids: Tensor
    embeddings: Tensor
    mask: Tensor
    labels: Tensor
    words: Tensor
    offsets: list[int]


def _padded_last(
    embeddings: Tensor, mask: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Move what `mask` leaves out to the end of each row: padding, and words that are occluded.

    `embeddings` is (B, N, D); `mask` and `positions` are (B, N).
    """
    order = mask.sort(dim=1, descending=True, stable=True).indices
    columns = order[..., None].expand_as(embeddings)
    return embeddings.gather(1, columns), mask.gather(1, order), positions.gather(1, order)


def random_scores(prompt: Prompt) -> Scores:
    """Return a score between 0 and 1 for each word, drawn with the prompt as the seed.

    They are the control of all methods, and the only scores that need no model.
    """
    seed = hashlib.sha256(json.dumps(prompt.ids).encode()).digest()
    random = np.random.default_rng(int.from_bytes(seed[:8]))
    return Scores(random.random(prompt.count).tolist())


def _by_word(prompt: Prompt, scores: Sequence[float]) -> list[float]:
    """Sum the scores of `prompt.tokens` by word."""
    words = [0.0] * prompt.count
    for word, score in zip(prompt.words, scores, strict=True):
        words[word] += score
    return words


METHODS: dict[str, Callable[[Attributor, _Layout], tuple[Tensor, Sequence[float | None]]]] = {
    "input_x_gradient": Attributor._input_x_gradient,
    "saliency": Attributor._saliency,
    "integrated_gradients": Attributor._integrated_gradients,
}
