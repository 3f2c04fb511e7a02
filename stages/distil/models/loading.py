"""Load a model from a local folder in the Hugging Face format; weights from safetensors only."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.distil.interface.command import is_main_process
from stages.distil.models.hardware import device
from stages.distil.weights.architecture import (
    auto_class,
    check_finite,
    check_report,
    explain_unreadable,
    load_config,
    load_tokenizer,
)
from stages.distil.weights.checking import quantisation, refuse_quantised

PLAIN_ATTENTION = 1024  # tokens of a text up to which plain products serve


def load_model(
    folder: Path,
    dtype: str,
    gradients: bool = True,
    place: bool = True,
    quantised: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a decoder-only or encoder-decoder model and its tokenizer, onto the GPU if there is one.

    `dtype` is the precision. Attention is torch's fused kernel, except with `gradients` on a CPU,
    where its backward pass is slower than plain products with any mask, unless texts are so long
    that the products' memory counts (`choose_attention`). If `place` is false, the
    weights stay in main memory for a Trainer that distributes them over processes and GPUs.
    `quantised` allows weights that are not in floating point. Raises `UserError` if weights are
    damaged, missing, of another shape or not finite.
    """
    # With a mask, cuDNN's backward pass gives NaN at some lengths (torch 2.13, its issue 196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    tokenizer = load_tokenizer(folder)
    if not quantised:
        refuse_quantised(folder, "this stage")
    kind = auto_class(load_config(folder))
    with explain_unreadable(f"{folder}: its weights"):
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager" if gradients and device() == "cpu" else None,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            trust_remote_code=False,
        )
    if not quantisation(folder):  # `fetch` has checked those that are
        check_report(report, model, folder)
    if is_main_process():  # with FSDP, the others may hold no weights yet
        check_finite(model.named_parameters(), folder)
    return model.to(device()) if place else model, tokenizer


def choose_attention(model: PreTrainedModel, tokens: int) -> None:
    """Choose the attention of a model with gradients for texts of so many tokens.

    On a CPU, plain products are faster in the backward pass, but they keep the scores of all pairs
    of tokens. A GPU's attention stays as it is.
    """
    if device() == "cpu":
        wanted = "eager" if tokens <= PLAIN_ATTENTION else fused_attention(model)
        if model.config._attn_implementation != wanted:
            model.set_attn_implementation(wanted)


def fused_attention(model: PreTrainedModel) -> str:
    """Return the name of a model's attention that keeps no scores: torch's kernel, if it can be."""
    return model.get_correct_attn_implementation(None)


def compute_layers_twice(model: PreTrainedModel) -> None:
    """Let a frozen model in evaluation keep no layer's activations, and cache nothing.

    Its layers are computed again in the backward pass. Nothing is dropped out.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # the layer alone, not the modules in it
