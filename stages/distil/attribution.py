"""Gradient attribution by Captum: how much each input token moves the label's log-probability.

One forward and one backward pass score a whole batch: the label's log-probability is summed over
its tokens before the gradient is taken, and gradient × input is linear in the gradient. What stands
before every question, such as the system's text, is computed once and kept as a cache of keys and
values: no scored token changes it.

Knows token ids and characters; knows nothing of words or tables.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.distil.conversations import Messages
from stages.distil.errors import UserError
from stages.distil.hardware import attention

METHOD = "input_x_gradient"
BATCH = 16


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt and of its label; `spans[i]` are the characters of token `tokens[i]`.

    Only tokens of the question's own text have a span; a span counts from the text's start.
    """

    ids: list[int]
    label: list[int]
    tokens: list[int]
    spans: list[tuple[int, int]]


def load_teacher(
    folder: Path, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen teacher whose embeddings carry a gradient."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model there; `dvc repro` fetches it")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, attn_implementation=attention()
    )
    freeze(model)
    return model, AutoTokenizer.from_pretrained(folder)


def freeze(model: PreTrainedModel) -> None:
    """Let gradients flow to the embeddings' output only: no weight needs one."""
    model.eval()
    model.requires_grad_(False)
    model.enable_input_require_grads()


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str, label: str
) -> Prompt:
    """Encode a chat prompt that holds `text` and asks for `label`.

    Raises `UserError` where the prompt does not hold the text as it is.
    """
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start = rendered.rfind(text)
    if start < 0:
        raise UserError(
            "rationales.prompts.answer: expected the question and, on a line after it, "
            f'"Options: " and the options with ", " between them, found {messages[-1]["content"]!r}'
        )
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    inside = [
        (i, (max(a - start, 0), min(b - start, len(text))))
        for i, (a, b) in enumerate(encoded["offset_mapping"])
        if a < start + len(text) and b > start and b > a
    ]
    return Prompt(
        ids=encoded["input_ids"],
        label=tokenizer.encode(label, add_special_tokens=False),
        tokens=[i for i, _ in inside],
        spans=[span for _, span in inside],
    )


def attribute(
    model: PreTrainedModel, prompts: Sequence[Prompt], padding: int, batch_size: int = BATCH
) -> Iterator[tuple[int, list[float]]]:
    """Yield (index of the prompt, score of each of its `tokens`), the longest prompts first.

    The score of a token is Σ_d e_d · ∂ log p(label | prompt) / ∂ e_d over its embedding e
    (gradient × input; Shrikumar et al., 2016, as in Ballout et al., NLDB 2024).
    """
    shared = commonprefix([p.ids[: min(p.tokens, default=0)] for p in prompts])
    prefix = _read(model, shared) if shared else None
    method = LayerGradientXActivation(
        lambda ids, *rest: label_log_probability(model, ids, *rest), model.get_input_embeddings()
    )
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].ids) - len(prompts[i].label))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, mask, labels = (
            t.to(model.device) for t in _pad([prompts[i] for i in chosen], len(shared), padding)
        )
        scores = method.attribute(ids, additional_forward_args=(mask, labels, prefix))
        width = len(shared) + ids.shape[1]
        for row, i in zip(scores.float().sum(-1).tolist(), chosen, strict=True):
            first = width - len(prompts[i].ids) - len(prompts[i].label) + 1 - len(shared)
            yield i, [row[first + token] for token in prompts[i].tokens]


def label_log_probability(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, labels: Tensor, prefix: Cache | None = None
) -> Tensor:
    """Return the summed log-probability of each row's label, shape (B,).

    `ids` are (B, N), padded on the left, without the label's last token; `prefix` holds P tokens
    before them, the same for all rows; `mask` is (B, P + N); `labels` is (B, T), the label's tokens
    padded on the left with -1. Logits are computed at the label's positions only.
    """
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    cache = None
    if prefix is not None:  # a copy: the pass adds its own keys and values
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(ids))
    hidden = model.base_model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state[:, -labels.shape[1] :]
    wanted = labels >= 0
    # One flat product: a batched one would copy the vocabulary's weights for every row.
    logits = model.get_output_embeddings()(hidden[wanted]).float()
    picked = -functional.cross_entropy(logits, labels[wanted], reduction="none")
    rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[wanted]
    return picked.new_zeros(len(labels)).index_add(0, rows, picked)


@torch.no_grad()
def _read(model: PreTrainedModel, ids: list[int]) -> Cache:
    tokens = torch.tensor([ids], device=model.device)
    return model.base_model(input_ids=tokens, use_cache=True).past_key_values


def _pad(prompts: Sequence[Prompt], shared: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lay prompts and labels out without the `shared` first tokens, which the mask counts."""
    rows = [(p.ids + p.label[:-1])[shared:] for p in prompts]
    width, height = max(map(len, rows)), max(len(p.label) for p in prompts)
    ids = torch.tensor([[padding] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[1] * shared + [0] * (width - len(r)) + [1] * len(r) for r in rows])
    labels = torch.tensor([[-1] * (height - len(p.label)) + p.label for p in prompts])
    return ids, mask, labels
