"""Logits at selected positions only: the output head is the most expensive part of a pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def logits_at(model: PreTrainedModel, selected: Tensor) -> Iterator[None]:
    """Apply the model's output head to selected positions only.

    `selected` (B, N) is true at these positions. The logits are (1, positions, vocabulary), row by
    row.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][selected][None],))
    try:
        yield
    finally:
        hook.remove()
