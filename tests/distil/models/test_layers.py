"""What configurations say of a model's layers and of its context."""

from math import inf

import pytest
from transformers import (
    BloomConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    PreTrainedConfig,
)

from stages.distil.models.layers import attention_span, carries_state, context_length
from tests import families


@pytest.mark.parametrize("name", families.FAMILIES)
def test_padding_may_stand_inside_a_text_where_every_layer_attends_to_all_of_it(name):
    model = families.build(name)
    spans = dict.fromkeys(families.PLAIN, inf) | dict.fromkeys(families.WINDOWED, 16)
    assert attention_span(model) == spans.get(name, 0)
    assert carries_state(model) == (name in families.STATEFUL)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LlamaConfig(max_position_embeddings=99), 99),
        (GPT2Config(n_positions=98), 98),
        (MptConfig(max_seq_len=97), 97),
        (BloomConfig(), None),
        (BloomConfig(seq_length=96), 96),
        (MambaConfig(), None),
        (Gemma3Config(text_config={"max_position_embeddings": 95}), 95),
        (PreTrainedConfig(max_position_embeddings="many"), None),
        (PreTrainedConfig(max_position_embeddings=-1), None),
    ],
)
def test_the_context_is_what_the_configuration_names(config, length):
    assert context_length(config) == length


def test_layers_that_the_librarys_cache_does_not_know_may_carry_a_state():
    model = families.build("Llama")
    model.config.layer_types = ["of a later version"] * 2
    assert carries_state(model)
    assert attention_span(model) == 0
