"""Tune a teacher on the task before attribution, with LoRA (Hu et al., 2022)."""

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from stages.distil.attribution.prompts import Prompt
from stages.distil.attribution.teacher import padding
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Finetune
from stages.distil.models.batching import pad
from stages.distil.models.lora import with_lora
from stages.distil.models.resuming import ResumableTrainer, train, training_arguments
from stages.distil.storage import versions

CHECKPOINTS = Path(".cache/checkpoints/finetune")
IGNORED = -100  # torch's label of a position without a target


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    settings: Finetune,
    seed: int,
    identity: str,
) -> PeftModel:
    """Train low-rank matrices on the labels of `prompts`; return the model with them.

    `identity` identifies the model and its precision. A stopped run with the same inputs resumes
    after its last epoch. Raises `UserError` if the loss is not finite.
    """
    set_seed(seed)
    encoder_decoder = model.config.is_encoder_decoder
    tuned = with_lora(model, settings.rank)
    steps = -(-len(prompts) // settings.batch_size)
    trainer = ResumableTrainer(
        model=tuned,
        args=training_arguments(CHECKPOINTS, settings, steps * settings.epochs, steps, seed),
        train_dataset=[_sample(prompt, tokenizer, encoder_decoder) for prompt in prompts],
        data_collator=partial(_collate, tokenizer),
    )
    common = [versions.TUNING, identity, settings.model_dump(), seed]
    values = [*common, [[prompt.ids, prompt.label] for prompt in prompts]]
    train(trainer, hashlib.sha256(json.dumps(values).encode()).hexdigest())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(torch.isfinite(torch.tensor(losses))):
        raise UserError(f"the loss is {losses[-1]}; lower saliency.finetune.learning_rate")
    print(f"loss {losses[0]:.3f} at the start, {losses[-1]:.3f} at the end", file=sys.stderr)
    return tuned


def _sample(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase, encoder_decoder: bool
) -> dict[str, list[int]]:
    end = tokenizer.eos_token_id
    label = prompt.label if end is None else [*prompt.label, end]
    if encoder_decoder:
        return {"input_ids": prompt.ids, "labels": label}
    return {"input_ids": prompt.ids + label, "labels": [IGNORED] * len(prompt.ids) + label}


def _collate(
    tokenizer: PreTrainedTokenizerBase, samples: Sequence[dict[str, list[int]]]
) -> dict[str, Tensor]:
    """Pad samples on the tokenizer's side, also of one that has no padding token."""
    left = tokenizer.padding_side == "left"
    ids, mask = pad([sample["input_ids"] for sample in samples], padding(tokenizer), left)
    labels, _ = pad([sample["labels"] for sample in samples], IGNORED, left)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
