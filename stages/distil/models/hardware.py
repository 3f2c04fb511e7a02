"""The machine's device, its precision, and how many tokens fit in a pass."""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from stages.distil.interface.errors import UserError
from stages.distil.interface.optimizers import OPTIMIZERS

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedModel

MEMORY_SHARE = 0.4  # of the GPU memory beside the weights that a pass may fill
WIDTH = 512  # row length in tokens for which the estimate counts attention
MOST_TOKENS = 65_536  # per pass; more are not faster
LARGE = 16 << 20  # bytes of a tensor that gets memory of its own where a pass does not fit
M_MMAP_THRESHOLD, M_MMAP_MAX = -3, -4  # of glibc's malloc.h


def device() -> str:
    """Return the device of a single process: `cuda` (the first GPU) or `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def use_one_gpu(advice: str) -> None:
    """Hide all GPUs but the first from a single process; call before anything uses one.

    Otherwise the Trainer would copy the model to all of them for every pass (`nn.DataParallel`).
    A launcher's processes keep the GPUs they see. `advice` says how to use the others.
    """
    if "RANK" not in os.environ and (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
        print(f"{count} GPUs are visible, one is used: {advice}", file=sys.stderr)


def precision(choice: str, gradients: bool = True) -> str:
    """Return `bfloat16`, `float16` or `float32`: the choice, or for `auto` the fastest here.

    `auto` is bfloat16 if the hardware multiplies it, otherwise float32. A GPU that only emulates it
    (before Ampere) uses float16, unless there are gradients, which float16 would round to zero.
    """
    if choice != "auto":
        return choice
    if has_bfloat16():
        return "bfloat16"
    return "float16" if torch.cuda.is_available() and not gradients else "float32"


def has_bfloat16() -> bool:
    """Return whether this machine multiplies bfloat16 matrices in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def weight_bytes(model: "PreTrainedModel") -> int:
    """Return the bytes of a model's weights."""
    return sum(weight.nbytes for weight in model.parameters())


def training_bytes(model: "PreTrainedModel", optimizer: str, weights: str) -> int:
    """Return the bytes of a model's weights in training, their gradients and the optimizer's state.

    `weights` is the precision that the weights will have: `float32` or `bfloat16`. If some of them
    are frozen, it is that of the frozen ones, and the trained ones are in float32 (LoRA).
    """
    size = 2 if weights == "bfloat16" else 4
    frozen = [not weight.requires_grad for weight in model.parameters()]
    trained = OPTIMIZERS[optimizer].bytes_per_weight(4 if any(frozen) else size)
    return sum(
        weight.numel() * (min(size, weight.element_size()) if is_frozen else trained)
        for weight, is_frozen in zip(model.parameters(), frozen, strict=True)
    )


def pass_tokens(
    choice: int | Literal["auto"], on_cpu: int, model: "PreTrainedModel", held: int | None
) -> int:
    """Return the tokens of one pass: the choice, or for `auto` `on_cpu` or what a GPU holds.

    `held` are the bytes of memory that weights take and, in training, gradients and optimizer
    state. None means that no gradients are computed and a pass keeps only keys and values.
    The estimate uses the GPU's total memory, not its free memory, and is rounded down to a power of
    two, so that equal machines form equal batches. Activations in 16 bits follow Korthikanti et al.
    (MLSys 2023), section 4.1: a layer keeps 34 h + 5 a s bytes per token, for hidden size h and a
    heads over s tokens.
    """
    if choice != "auto":
        return choice
    if not torch.cuda.is_available():
        return on_cpu
    config = model.config.get_text_config()
    layers = config.num_hidden_layers * (2 if model.config.is_encoder_decoder else 1)
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", 0)  # a state-space model has none
    token_bytes = layers * (34 * hidden + 5 * heads * WIDTH)
    if held is None:
        held = 4 * model.num_parameters()
        token_bytes = layers * 4 * hidden + 34 * hidden + 5 * heads * WIDTH
    tokens = MEMORY_SHARE * max(0, _memory() - held) / token_bytes
    return min(MOST_TOKENS, 2 ** int(math.log2(max(tokens, WIDTH))))


def activations_fit(model: "PreTrainedModel", tokens: int, dtype: str, held: int) -> bool:
    """Return whether the memory holds what the layers keep of a pass of so many tokens.

    `held` are the bytes that everything else takes. For hidden size h and i columns of its
    feed-forward part, a layer keeps 34 h + 8 i bytes per token in 16 bits; its attention keeps no
    scores where it is torch's fused kernel.
    (`benchmarks/memory.py` shows what it is in fact.)
    """
    config = model.config.get_text_config()
    layers = config.num_hidden_layers * (2 if model.config.is_encoder_decoder else 1)
    hidden = config.hidden_size
    wide = getattr(config, "intermediate_size", None) or getattr(config, "d_ff", 4 * hidden)
    token_bytes = layers * (34 * hidden + 8 * wide) * (1 if dtype == "bfloat16" else 2)
    return tokens * token_bytes <= MEMORY_SHARE * (_memory() - held)


def return_large_memory() -> None:
    """Let the memory of large tensors on the CPU go back to the system as soon as they are freed.

    Otherwise it is kept for the next tensors (`stages/python`), which is faster, but no tensor
    fits into the gaps that shorter-lived ones leave. Only glibc can be told so.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 65_536)  # tensors at once
        library.mallopt(M_MMAP_THRESHOLD, LARGE)


def _memory() -> int:
    """Return the bytes of the first GPU's memory, or else of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def explain_out_of_memory(workload: str, advice: str) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into a `UserError` that names the workload and advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"not enough memory on the GPU for {workload}; {advice}") from error
