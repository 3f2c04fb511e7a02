"""Greedy texts of a model in this process, in batches of similar lengths.

Knows token ids and models; knows nothing of what is asked.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from stages.distil.models.batching import by_length, pad


@torch.no_grad()
def continue_greedily(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    padding: int,
    budget: int,
    begun: Sequence[int] = (),
    end: int | None = None,
) -> list[list[int]]:
    """Return the tokens that the model writes after each prompt, in the order of the prompts.

    `budget` is the most tokens of a batch, prompts and texts counted. An encoder-decoder's text
    goes on after the tokens `begun`. `end` stops a text; None takes the model's own end.
    """
    two_parts = model.config.is_encoder_decoder
    settings = {"eos_token_id": end} if end is not None else {}
    found: list[list[int]] = [[] for _ in prompts]
    for chosen in by_length([len(prompt) + max_tokens for prompt in prompts], budget):
        ids, mask = pad([prompts[i] for i in chosen], padding, left=not two_parts)
        if two_parts:
            first = [model.config.decoder_start_token_id, *begun]
            settings["decoder_input_ids"] = torch.tensor([first] * len(chosen)).to(model.device)
        written = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=padding,
            **settings,
        )
        skipped = 1 + len(begun) if two_parts else ids.shape[1]
        for i, row in zip(chosen, written[:, skipped:].tolist(), strict=True):
            found[i] = row
    return found
