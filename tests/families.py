"""Tiny configurations of the families of decoder-only models, with random weights."""

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

SIZE = {"vocab_size": 400, "hidden_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
SPECIAL = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
COMMON = SIZE | HEADS | SPECIAL | {"max_position_embeddings": 256}
WINDOW = {"sliding_window": 16}  # shorter than the tests' texts
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
OLD = {"vocab_size": 400, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}
SSM = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 8, "mamba_chunk_size": 16}
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 12,
    "layer_types": ["linear_attention", "full_attention"],
}
PLAIN = {  # every layer attends to the whole text, by the library's own masks
    "Llama": COMMON,
    "Qwen2": COMMON,
    "Qwen3": COMMON,
    "SmolLM3": COMMON,
    "Phi": COMMON,
    "Glm4": COMMON,
    "GPT2": OLD,
    "GPTNeoX": COMMON,
    "OPT": SIZE | {"num_attention_heads": 4, "ffn_dim": 96, "word_embed_proj_dim": 48},
    "DeepseekV3": SIZE
    | {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
    },
}
WINDOWED = {
    "Mistral": COMMON | WINDOW,
    "Starcoder2": COMMON | WINDOW,
    "Phi3": COMMON | WINDOW,
    "Gemma2": COMMON | WINDOW | {"head_dim": 12},
    "Gemma3Text": COMMON | MIXED | {"head_dim": 12},
    "GptOss": COMMON | MIXED | EXPERTS | {"head_dim": 12},
    "Cohere2": COMMON | MIXED,
    "Olmo3": COMMON | MIXED,
    "Llama4Text": COMMON
    | EXPERTS
    | {
        "attention_chunk_size": 16,
        "head_dim": 12,
        "intermediate_size_mlp": 96,
        "layer_types": ["chunked_attention", "full_attention"],
    },
}
STATEFUL = {
    "Mamba": SIZE | {"state_size": 8},
    "Mamba2": SIZE
    | {"state_size": 8, "num_heads": 8, "head_dim": 12, "n_groups": 1, "chunk_size": 16},
    "FalconH1": COMMON | SSM | {"head_dim": 12, "mamba_d_ssm": 96, "mamba_n_groups": 1},
    "Bamba": COMMON | SSM | {"attn_layer_indices": [1]},
    "Jamba": SIZE
    | HEADS
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "pad_token_id": 0,
    },
    "Lfm2": COMMON | {"layer_types": ["conv", "full_attention"]},
    "Qwen3Next": COMMON
    | DELTA
    | {
        "head_dim": 12,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "Qwen3_5Text": COMMON | DELTA | {"head_dim": 12},
    "MiniMax": COMMON
    | EXPERTS
    | {"head_dim": 12, "block_size": 16, "layer_types": ["linear_attention", "full_attention"]},
    "RecurrentGemma": SIZE
    | {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "lru_width": 48,
        "attention_window_size": 16,
        "head_dim": 12,
    },
    "Rwkv": SIZE | {"attention_hidden_size": 48},
}
OWN_MASKS = {  # code of their own forms masks and positions
    "GPTJ": OLD | {"rotary_dim": 8},
    "GPTNeo": {
        "vocab_size": 400,
        "hidden_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
        "max_position_embeddings": 256,
    },
    "Bloom": OLD | {"hidden_size": 48},
    "Mpt": {"vocab_size": 400, "d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 256},
    "Falcon": SIZE | {"num_attention_heads": 4, "alibi": True},
}
FAMILIES = PLAIN | WINDOWED | STATEFUL | OWN_MASKS


def build(name: str, attention: str | None = None) -> PreTrainedModel:
    """Return a model of a family, in evaluation mode, that never ends a text."""
    values = FAMILIES[name]
    config = getattr(transformers, f"{name}Config")(**values)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    model.generation_config.eos_token_id = None
    return model
