"""Teachers on transformers' `generate`: for encoder-decoder models such as FLAN-T5."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from stages.distil.language.chat import Chat
from stages.distil.language.quality import LENGTH, TOO_LONG
from stages.distil.models.batching import by_length, in_parts, of_one_length, pad
from stages.distil.models.generation import end_tokens, generate, logits_at
from stages.distil.models.hardware import explain_out_of_memory, pass_tokens
from stages.distil.models.layers import carries_state, context_length
from stages.distil.models.loading import load_model
from stages.distil.teachers.backend import Completion, Request
from stages.distil.weights.architecture import UNLIMITED

IN_FLIGHT = 512  # requests that are sorted by length and batched together
BATCH_TOKENS = 8192  # per batch on a CPU: rows × (longest prompt + longest text)
EncodedPrompt = tuple[Request, list[int], str]  # its prompt's tokens, and a thought's mark
EncodedReply = tuple[Request, list[int], list[int]]  # the tokens of its prompt and of its reply


class Generator:
    """A teacher on transformers, in batches of similar lengths.

    Greedy texts are generated in batches, sampled texts one at a time, so that each depends only on
    its own seed.
    """

    def __init__(
        self, folder: Path, context: int, dtype: str, template: dict[str, Any] | None = None
    ):
        """Load the model; prompt and text of a request have `context` tokens at most.

        For an encoder-decoder model, `context` limits the prompt alone. `dtype` is the precision,
        `bfloat16` or `float32`; `template` holds the variables of the chat template.
        """
        self._model, self._tokenizer = load_model(folder, dtype, gradients=False, quantised=True)
        config = self._model.config
        self._encoder_decoder = config.is_encoder_decoder
        self._chat = Chat(folder.name, self._tokenizer, template, self._encoder_decoder)
        declared = end_tokens(self._model.generation_config, self._tokenizer)
        self._ends = self._chat.ends(declared)
        self._end_tokens = declared.union(self._ends.tokens)
        self._batch_tokens = pass_tokens("auto", BATCH_TOKENS, self._model, held=None)
        self._pads = self._encoder_decoder or not carries_state(self._model)
        limits = [context, context_length(config), self._tokenizer.model_max_length]
        self._context = min(limit for limit in limits if limit and limit < UNLIMITED)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion, short prompts first among IN_FLIGHT requests."""
        for window in in_parts(requests, IN_FLIGHT):
            encoded: list[EncodedPrompt] = []
            replies: list[EncodedReply] = []
            for request in window:
                tokens, opening = self._chat.encode(request.conversation)
                reply: list[int] = []
                text_tokens = request.max_tokens
                if request.reply is not None:
                    tokens, reply = self._chat.encode_reply(request.conversation, request.reply)
                    text_tokens = len(reply)
                if len(tokens) + (0 if self._encoder_decoder else text_tokens) > self._context:
                    yield request, Completion("", TOO_LONG, len(tokens), 0)
                elif request.reply is None:
                    encoded.append((request, tokens, opening))
                else:
                    replies.append((request, tokens, reply))
            lengths = [len(tokens) + len(reply) for _, tokens, reply in replies]
            for chosen in by_length(lengths, self._batch_tokens):
                yield from self._score([replies[n] for n in chosen])
            encoded.sort(key=lambda pair: (pair[0].temperature > 0, len(pair[1])))
            for batch in _batches(encoded, self._batch_tokens):
                if self._pads:
                    yield from self._generate(batch)
                    continue
                lengths = [len(tokens) for _, tokens, _ in batch]
                for rows in of_one_length([list(range(len(batch)))], lengths):
                    yield from self._generate([batch[row] for row in rows])

    @torch.inference_mode()
    def _score(self, batch: list[EncodedReply]) -> Iterator[tuple[Request, Completion]]:
        """Yield the mean log-probability of each reply; rows are padded on the right."""
        rows = [t if self._encoder_decoder else t + reply[:-1] for _, t, reply in batch]
        ids, mask = pad(rows, 0)
        inputs = {"input_ids": ids, "attention_mask": mask}
        first = [len(tokens) - 1 for _, tokens, _ in batch]
        if self._encoder_decoder:
            start = self._model.config.decoder_start_token_id
            inputs["decoder_input_ids"], _ = pad([[start, *r[:-1]] for _, _, r in batch], 0)
            first = [0] * len(batch)
        is_reply = torch.zeros_like(inputs.get("decoder_input_ids", ids), dtype=torch.bool)
        for n, (_, _, reply) in enumerate(batch):
            is_reply[n, first[n] : first[n] + len(reply)] = True
        on_device = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
        advice = "lower rationales.context or choose a smaller teacher"
        with explain_out_of_memory(f"{len(batch)} prompts of {ids.shape[1]} tokens", advice):
            with logits_at(self._model, is_reply.to(self._model.device)):
                logits = self._model(**on_device, use_cache=False).logits[0].float().cpu()
        labels = torch.tensor([token for _, _, reply in batch for token in reply])
        losses = functional.cross_entropy(logits, labels, reduction="none")
        by_reply = losses.split([len(reply) for _, _, reply in batch])
        for (request, tokens, reply), own in zip(batch, by_reply, strict=True):
            score = -own.mean().item()
            yield request, Completion("", "stop", len(tokens), len(reply), score)

    @torch.inference_mode()
    def _generate(self, batch: list[EncodedPrompt]) -> Iterator[tuple[Request, Completion]]:
        padding = self._tokenizer.pad_token_id
        if padding is None:
            padding = min(self._end_tokens, default=0)
        ids, mask = pad([tokens for _, tokens, _ in batch], padding, left=not self._encoder_decoder)
        width = ids.shape[1]
        request = batch[0][0]
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            torch.manual_seed(request.seed)
            sampling = {
                "do_sample": True,
                "temperature": request.temperature,
                "top_k": 0,
                "top_p": 1.0,
            }
        if self._ends.tokens:
            sampling["eos_token_id"] = sorted(self._end_tokens)
        advice = "lower rationales.context or choose a smaller teacher"
        with explain_out_of_memory(f"{len(batch)} prompts of {width} tokens", advice):
            output = generate(
                self._model,
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                max_new_tokens=max(r.max_tokens for r, *_ in batch),
                pad_token_id=padding,
                **sampling,
            )
        texts = output[:, 1:] if self._encoder_decoder else output[:, width:]
        for (request, tokens, opening), row in zip(batch, texts.tolist(), strict=True):
            end = next(
                (index for index, token in enumerate(row) if token in self._end_tokens), None
            )
            stopped = end is not None and end < request.max_tokens
            written = row[: end if stopped else request.max_tokens]
            text = self._tokenizer.decode(written, skip_special_tokens=True)
            text = opening + self._chat.with_marks(text, written)
            if (cut := self._ends.cut(text)) is not None:
                text, stopped = cut, True
            reason = "stop" if stopped else LENGTH
            yield request, Completion(text, reason, len(tokens), len(written))


def _batches(encoded: list[EncodedPrompt], budget: int) -> Iterator[list[EncodedPrompt]]:
    batch: list[EncodedPrompt] = []
    longest_prompt = longest_text = 0
    for request, tokens, opening in encoded:
        longest_prompt = max(longest_prompt, len(tokens))
        longest_text = max(longest_text, request.max_tokens)
        full = (len(batch) + 1) * (longest_prompt + longest_text) > budget
        if batch and (full or request.temperature > 0):
            yield batch
            batch, longest_prompt, longest_text = [], len(tokens), request.max_tokens
        batch.append((request, tokens, opening))
    if batch:
        yield batch
