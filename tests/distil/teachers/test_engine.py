"""What the engine says and sets before vLLM runs; tests/test_end_to_end.py runs it."""

import os

import pytest
import torch
from safetensors.torch import save_file

from stages.distil.teachers import engine


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (
            "To serve at least one request with the model's max seq len (8192), 3.5 GiB KV cache "
            "is needed, which is larger than the available KV cache memory (1.0 GiB).\nmore",
            "lower rationales.context, free memory, or choose a smaller teacher",
        ),
        ("No available memory for the cache blocks.", "VLLM_CPU_KVCACHE_SPACE"),
        (
            "Model architectures ['NoSuchModel'] are not supported for now.",
            "set rationales.backend to transformers",
        ),
        ("something else\nsecond line", "something else; `--debug` shows where"),
        ("", "MemoryError"),
    ],
)
def test_an_error_is_its_first_line_and_what_to_change(message, advice):
    said = engine._advice(MemoryError(message) if not message else ValueError(message))
    assert advice in said
    assert "\n" not in said


@pytest.mark.parametrize(("dtype", "space"), [("bfloat16", "4"), ("float32", "3")])
def test_the_cache_is_a_quarter_of_what_the_weights_leave(tmp_path, monkeypatch, dtype, space):
    save_file({"w": torch.zeros(1000)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(engine, "count_parameters", lambda folder: 2 * engine.GIB)
    free = type("Memory", (), {"available": 20 * engine.GIB})
    monkeypatch.setattr(engine.psutil, "virtual_memory", free)
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    engine._use_whole_machine(tmp_path, dtype)
    assert os.environ.pop("VLLM_CPU_KVCACHE_SPACE") == space
    assert os.environ.pop("VLLM_CPU_OMP_THREADS_BIND")


def test_the_users_own_settings_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    engine._use_whole_machine(tmp_path, "float32")
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "0"
