"""Models as the stages load them, and what they write."""

import json
import shutil

import pytest
import torch

from stages.distil.interface.errors import UserError
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.models.generation import Writing, continue_texts
from stages.distil.models.loading import load_model
from stages.distil.teachers.backend import Request
from stages.distil.teachers.transformers_backend import Generator

OWN = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 50.0, "min_new_tokens": 9}


@pytest.fixture
def opinionated(family, tmp_path):
    """A model whose folder asks for sampling, a repetition penalty and a shortest text."""
    folder = shutil.copytree(family, tmp_path / "own")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | OWN))
    return folder


def test_greedy_texts_are_greedy_whatever_the_models_folder_asks_for(family, opinionated):
    """Against one argmax after the other."""
    model, tokenizer = load_model(opinionated, "float32")
    model.generation_config.no_repeat_ngram_size = 1  # set after loading, as a library may
    prompt = tokenizer.encode("What is it?")
    [written] = continue_texts(model, [prompt], Writing(6, tokenizer.pad_token_id), 1000)
    encoder_decoder = model.config.is_encoder_decoder
    ids = [model.config.decoder_start_token_id] if encoder_decoder else list(prompt)
    expected: list[int] = []
    with torch.no_grad():
        while len(expected) < 6 and expected[-1:] != [model.generation_config.eos_token_id]:
            inputs = {"decoder_input_ids": torch.tensor([ids])} if encoder_decoder else {}
            read = prompt if encoder_decoder else ids
            logits = model(torch.tensor([read]), **inputs).logits[0, -1]
            expected.append(int(logits.argmax()))
            ids.append(expected[-1])
    assert written[: len(expected)] == expected


def test_a_teacher_writes_the_same_with_other_settings_in_its_folder(family, opinionated):
    requests = [Request(Conversation("", (), f"Why {n}?", "So:"), 6) for n in range(3)]
    texts = [
        {
            request: completion.text
            for request, completion in Generator(f, 400, "float32").complete(requests)
        }
        for f in (family, opinionated)
    ]
    assert texts[0] == texts[1]


def test_attention_with_a_mask_has_finite_gradients_at_every_length(family):
    """On a Hopper GPU, cuDNN's are NaN at 64 tokens for so small logits, as Qwen2.5 has them."""
    load_model(family, "float32")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    query, key, value = torch.randn(3, 1, 1, 64, 64, device=device, dtype=torch.bfloat16)
    query[..., 0], key[..., 0] = 1.0, -960.0
    query.requires_grad_()
    mask = torch.ones(64, 64, dtype=torch.bool, device=device).tril()
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    attended.sum().backward()
    assert query.grad.isfinite().all()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="no model there"):
        load_model(tmp_path, "float32")
