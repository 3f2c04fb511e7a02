"""What this machine computes with."""

import torch


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
