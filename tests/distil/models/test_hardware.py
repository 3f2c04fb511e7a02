"""Device, precision and pass size on machines with GPUs, which are simulated."""

import os
from types import SimpleNamespace

import pytest
import torch

from stages.distil.interface.errors import UserError
from stages.distil.models import hardware
from stages.distil.models.hardware import explain_out_of_memory, pass_tokens, precision, use_one_gpu
from stages.distil.models.loading import load_model

GIB = 2**30


@pytest.fixture
def gpu(monkeypatch):
    """Simulate GPUs: their memory and number, and whether they multiply bfloat16."""

    def simulate(gib: int = 80, count: int = 1, bfloat16: bool = True) -> None:
        def is_supported(including_emulation: bool = True) -> bool:
            return bfloat16 or including_emulation

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
        properties = SimpleNamespace(total_memory=gib * GIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    return simulate


def test_emulated_bfloat16_is_not_used(gpu):
    gpu()
    assert (precision("auto"), precision("auto", gradients=False)) == ("bfloat16", "bfloat16")
    gpu(bfloat16=False)
    assert (precision("auto"), precision("auto", gradients=False)) == ("float32", "float16")
    assert precision("bfloat16") == "bfloat16"


def test_a_processor_computes_in_bfloat16_or_float32(monkeypatch):
    for amx, avx, expected in [(True, False, "bfloat16"), (False, False, "float32")]:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        assert precision("auto") == precision("auto", gradients=False) == expected


def test_a_pass_is_as_large_as_the_gpu_holds(gpu, family):
    model, _ = load_model(family, "float32", place=False)
    assert pass_tokens(300, 1024, model, 16) == 300
    assert pass_tokens("auto", 1024, model, 16) == 1024  # on a CPU
    gpu(gib=1)
    small = pass_tokens("auto", 1024, model, 16)
    assert small & (small - 1) == 0
    gpu(gib=80)
    assert pass_tokens("auto", 1024, model, 16) > small
    assert pass_tokens("auto", 1024, model, 0) == hardware.MOST_TOKENS
    gpu(gib=0)
    assert pass_tokens("auto", 1024, model, 16) == hardware.WIDTH


def test_one_process_sees_one_gpu(gpu, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    use_one_gpu("more")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"  # no GPU to hide
    gpu(count=2)
    use_one_gpu("set this to take all")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    assert "2 GPUs are visible, one is used: set this to take all" in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setenv("RANK", "1")  # a launcher's process
    use_one_gpu("more")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_running_out_of_gpu_memory_is_a_user_error():
    with (
        pytest.raises(UserError, match="on the GPU for a pass; set it lower"),
        explain_out_of_memory("a pass", "set it lower"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
