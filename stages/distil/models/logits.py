"""Logits at wanted positions only: the head's product with the vocabulary is a pass's dearest."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def logits_at(model: PreTrainedModel, wanted: Tensor) -> Iterator[None]:
    """Let the model's head see some positions only.

    `wanted` (B, N) is true where logits are wanted; they are (1, wanted, vocabulary), row by row.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][wanted][None],))
    try:
        yield
    finally:
        hook.remove()
