"""Load a model from a local folder in the Hugging Face format; weights from safetensors only."""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.distil.interface.errors import UserError
from stages.distil.models.hardware import device


def load_model(
    folder: Path, dtype: str, gradients: bool = True, place: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a decoder-only or encoder-decoder model and its tokenizer, onto the GPU if there is one.

    `dtype` is the precision. Attention is torch's fused kernel, except with `gradients` on a CPU,
    where its backward pass is slower than plain products with any mask. If `place` is false, the
    weights stay in main memory for a Trainer that distributes them over processes and GPUs.
    """
    # With a mask, cuDNN's backward pass gives NaN at some lengths (torch 2.13, its issue 196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    tokenizer = load_tokenizer(folder)
    encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    model = kind.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        attn_implementation="eager" if gradients and device() == "cpu" else None,
    )
    return model.to(device()) if place else model, tokenizer


def model_without_weights(folder: Path, dtype: str) -> PreTrainedModel:
    """Return a model that has the shape of the folder's, and no weights."""
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return kind.from_config(config, dtype=dtype)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's folder."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model there; `dvc repro` makes it")
    return AutoTokenizer.from_pretrained(folder)
