"""Models of known sizes with random weights, made on the spot: no package index, no hub."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stages.distil.interface.catalogue import Kinship
from stages.distil.models.hardware import device
from stages.distil.questions.kinship import read

# Hidden size, columns of the feed-forward part, layers, heads, heads of keys and values, tokens.
SHAPES = {
    "tiny": (64, 128, 2, 2, 1, 32_000),
    "135m": (576, 1536, 30, 9, 3, 49_152),  # SmolLM2-135M
    "0b5": (896, 4864, 24, 14, 2, 151_936),  # Qwen2.5-0.5B
    "1b5": (1536, 8960, 28, 12, 2, 151_936),  # Qwen2.5-1.5B
    "7b": (3584, 18_944, 28, 28, 4, 152_064),  # Qwen2.5-7B
}
UNTIED = ("tiny", "7b")  # whose output head is a matrix of its own
CONTEXT = 32_768
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(name: str, folder: Path, weights: bool = True) -> Path:
    """Write a model of SHAPES into a folder, unless it is there; return the folder.

    Without `weights` it has a configuration and a tokenizer alone, for vLLM's dummy weights. The
    weights are in bfloat16, as most published ones are.
    """
    if (folder / "config.json").is_file():
        return folder
    hidden, wide, layers, heads, groups, vocabulary = SHAPES[name]
    tokenizer = _tokenizer(vocabulary)
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=name not in UNTIED,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    tokenizer.save_pretrained(folder)
    if weights:
        torch.manual_seed(0)
        with torch.device(device()):
            model = LlamaForCausalLM(config)
        model.to(torch.bfloat16).save_pretrained(folder)
    config.save_pretrained(folder)  # last: it marks a whole folder
    return folder


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer trained on questions, with tokens that no text has.

    These fill the vocabulary: whatever a random model writes is a text, of one sentence per token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    settings = Kinship(
        source="kinship",
        sizes={"train": 50, "validation": 1, "test": 1, "pool": 1},
        hops=[2, 3],
        distractors=2,
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((q.question for q in read(settings, 0)), trainer)
    parts = json.loads(tokenizer.to_str())
    words = parts["model"]["vocab"]
    words |= {f"Ġword{n}.": n for n in range(len(words), vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=CHAT,
    )
