"""What a model's layers read of the tokens before one: all of them, a window, or a state."""

from collections.abc import Sequence
from math import inf

from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

LENGTHS = (  # the names that configurations give to a model's context, in tokens
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)


def carries_state(model: PreTrainedModel) -> bool:
    """Return whether layers of a decoder-only model carry a state along the text.

    So do state-space models, linear attention and convolutions. Padding before a text may change
    the state.
    """
    kinds = {type(layer) for layer in _cached_layers(model)}
    return model._is_stateful or not kinds or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def attention_span(model: PreTrainedModel) -> float:
    """Return the longest row, in tokens, that each layer of a decoder-only model attends to whole.

    Within it, padding between two parts of a text changes nothing. It is infinite without sliding
    windows, and 0 if a layer carries a state or if the model makes its own masks and positions
    instead of the library's (MPT, GPT-Neo).
    """
    if carries_state(model) or not model._supports_attention_backend:
        return 0
    layers = _cached_layers(model)
    windows = (x.sliding_window for x in layers if isinstance(x, DynamicSlidingWindowLayer))
    return min(windows, default=inf)


def _cached_layers(model: PreTrainedModel) -> Sequence[CacheLayerMixin]:
    """Return the layers of a model's cache; none if the library's cache does not suit it."""
    try:
        return DynamicCache(config=model.config).layers
    except (AttributeError, LookupError):
        return []


def context_length(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model reads; None if its configuration sets no limit.

    ALiBi, relative positions and state-space models need none.
    """
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in LENGTHS)
    return min((n for n in lengths if isinstance(n, int) and n > 0), default=None)
