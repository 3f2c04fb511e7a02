"""LoRA (Hu et al., 2022): low-rank matrices beside a model's weights, by peft."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from stages.distil.interface.errors import UserError
from stages.distil.weights.architecture import explain_unreadable
from stages.distil.weights.folders import explain_write_errors


def with_lora(model: PreTrainedModel, rank: int) -> PeftModel:
    """Freeze a model and add matrices of this rank to all linear layers except the head."""
    encoder_decoder = model.config.is_encoder_decoder
    settings = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if encoder_decoder else TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
    )
    return get_peft_model(model, settings)


def round_weights(model: PreTrainedModel) -> None:
    """Keep all weights in bfloat16 or, if some are frozen, all frozen ones; buffers stay."""
    weights = list(model.parameters())
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen or weights:
        weight.data = weight.data.to(torch.bfloat16)


def round_frozen(model: PreTrainedModel) -> None:
    """Keep frozen matrices in bfloat16, for passes under autocast.

    Autocast rounds them to the same numbers in every pass, and holds both until its end. Embeddings
    stay as they are, since what they give is not rounded.
    """
    embeddings = model.get_input_embeddings().weight
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            if layer.weight is not embeddings:  # a head can be the same matrix
                layer.to(torch.bfloat16)


def save_adapter(tuned: PeftModel, folder: Path) -> None:
    """Write the low-rank matrices and their settings; the bytes depend on them alone."""
    with explain_write_errors(folder, "run again"):
        tuned.save_pretrained(str(folder))
    (folder / "README.md").unlink()  # peft's empty model card
    file = folder / "adapter_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])  # a set in peft: any order
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def with_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the model with the matrices of `save_adapter` beside its weights.

    They are not merged into the weights, since bfloat16 would round much of them away.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: no tuned teacher there; `dvc repro saliency` makes it")
    with explain_unreadable(f"{folder}: its matrices"):
        return PeftModel.from_pretrained(model, folder, trust_remote_code=False).get_base_model()
