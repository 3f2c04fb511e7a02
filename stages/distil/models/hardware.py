"""What this machine computes with: device, precision, and how much of it at once."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from stages.distil.interface.errors import UserError

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

MEMORY_SHARE = 0.4  # of a GPU's free memory that a pass may fill by the estimate below
WIDTH = 512  # tokens of a row whose attention the estimate counts
MOST_TOKENS = 65_536  # of a pass; more bring no speed


def device() -> str:
    """Return where a model computes in a single process: `cuda` (the first GPU) or `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_one_gpu(advice: str) -> None:
    """Hide all GPUs but the first from a single process; call before anything uses one.

    Otherwise the Trainer would copy the model to all of them for every pass (`nn.DataParallel`).
    The processes of a launcher keep what they see. `advice` tells how to use the others.
    """
    if "RANK" not in os.environ and (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
        print(f"{count} GPUs are visible, one is used: {advice}", file=sys.stderr)


def precision(wanted: str, gradients: bool = True) -> str:
    """Return `bfloat16`, `float16` or `float32`: what is wanted, or for `auto` what is fast here.

    That is bfloat16 where the hardware multiplies it. A GPU that only emulates it (before Ampere)
    writes texts in float16; gradients, which float16 would round to zero, are float32 there.
    """
    if wanted != "auto":
        return wanted
    if has_bfloat16():
        return "bfloat16"
    return "float16" if torch.cuda.is_available() and not gradients else "float32"


def has_bfloat16() -> bool:
    """Return whether this machine multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def pass_tokens(
    wanted: int | Literal["auto"], on_cpu: int, model: "PreTrainedModel", weight_bytes: int
) -> int:
    """Return the tokens of one pass: what is wanted; for `auto`, `on_cpu` or what a GPU holds.

    `weight_bytes` are those that each weight needs beside the pass: its own, and in training those
    of gradient and optimiser. 0: no gradients are computed, and a pass keeps keys and values alone.
    The estimate takes the whole memory of the GPU, not what is free now, and is rounded down to a
    power of two, so that equal machines cut equal batches. Activations in 16 bits are those of
    Korthikanti et al. (MLSys 2023), section 4.1: a layer keeps 34 h + 5 a s bytes a token, for
    hidden size h and a heads over s tokens.
    """
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return on_cpu
    config = model.config.get_text_config()
    layers = config.num_hidden_layers * (2 if model.config.is_encoder_decoder else 1)
    hidden, heads = config.hidden_size, config.num_attention_heads
    token_bytes = layers * (34 * hidden + 5 * heads * WIDTH)
    if not weight_bytes:
        weight_bytes = 4
        token_bytes = layers * 4 * hidden + 34 * hidden + 5 * heads * WIDTH
    memory = torch.cuda.get_device_properties(0).total_memory
    free = memory - weight_bytes * model.num_parameters()
    tokens = MEMORY_SHARE * max(0, free) / token_bytes
    return min(MOST_TOKENS, 2 ** int(math.log2(max(tokens, WIDTH))))


@contextmanager
def fitting(what: str, advice: str) -> Iterator[None]:
    """Turn a GPU's running out of memory into a `UserError`: `what` did not fit, so `advice`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"not enough memory on the GPU for {what}; {advice}") from error
