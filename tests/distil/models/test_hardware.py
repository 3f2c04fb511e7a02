"""Device, precision and pass size on machines with GPUs, which are simulated."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from stages.distil.interface.errors import UserError
from stages.distil.interface.optimizers import OPTIMIZERS
from stages.distil.models import hardware
from stages.distil.models.hardware import (
    explain_out_of_memory,
    pass_tokens,
    precision,
    training_bytes,
    use_one_gpu,
    weight_bytes,
)
from stages.distil.models.loading import load_model
from stages.distil.models.lora import with_lora

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
    held = 16 * model.num_parameters()
    assert pass_tokens(300, 1024, model, held) == 300
    assert pass_tokens("auto", 1024, model, held) == 1024  # on a CPU
    gpu(gib=1)
    small = pass_tokens("auto", 1024, model, held)
    assert small & (small - 1) == 0
    assert pass_tokens("auto", 1024, model, GIB * 9 // 10) < small
    gpu(gib=80)
    assert pass_tokens("auto", 1024, model, held) > small
    assert pass_tokens("auto", 1024, model, None) == hardware.MOST_TOKENS
    gpu(gib=0)
    assert pass_tokens("auto", 1024, model, held) == hardware.WIDTH


@pytest.mark.parametrize(
    ("optimizer", "weights", "per_weight"),
    [
        ("adamw_torch_fused", "float32", 16),
        ("adamw_torch_fused", "bfloat16", 8),
        ("adamw_bnb_8bit", "float32", 10),
        ("adamw_bnb_8bit", "bfloat16", 6),
        ("paged_adamw_32bit", "bfloat16", 12),
        ("rmsprop", "bfloat16", 6),
        ("adafactor", "float32", 8),
        ("sgd", "bfloat16", 4),
    ],
)
def test_memory_of_a_training_follows_optimizer_and_weights(family, optimizer, weights, per_weight):
    model, _ = load_model(family, "float32", place=False)
    count = model.num_parameters()
    assert training_bytes(model, optimizer, weights) == per_weight * count
    assert weight_bytes(model) == 4 * count


@pytest.mark.parametrize(("weights", "size"), [("float32", 4), ("bfloat16", 2)])
def test_frozen_weights_need_no_gradient_and_no_state(family, weights, size):
    model, _ = load_model(family, "float32", place=False)
    frozen = model.num_parameters()
    tuned = with_lora(model, 2)
    trained = sum(w.numel() for w in tuned.parameters() if w.requires_grad)
    expected = size * frozen + 16 * trained
    assert training_bytes(tuned, "adamw_torch", weights) == expected


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_torch", "adagrad", "rmsprop", "sgd"])
def test_the_state_of_an_optimizer_is_as_large_as_estimated(name, tmp_path):
    weight = torch.nn.Parameter(torch.ones(64, 64))
    arguments = TrainingArguments(output_dir=str(tmp_path), optim=name, use_cpu=True)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimizer = kind([weight], **settings)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = sum(value.nbytes for value in optimizer.state[weight].values() if value.dim())
    assert 2 * weight.nbytes + state == 64 * 64 * OPTIMIZERS[name].bytes_per_weight(4)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
@pytest.mark.parametrize("returned", [False, True])
def test_the_memory_of_large_tensors_is_returned_to_the_system(returned):
    megabytes = 256
    script = f"""
import torch
from stages.distil.models.hardware import return_large_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

if {returned}:
    return_large_memory()
tensor = torch.ones({megabytes} << 18)  # of four bytes
after = torch.ones(8)  # so that the tensor is not the last block, which could be trimmed
full = resident()
del tensor
print(full - resident())
"""
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | kept
    )
    assert not done.stderr
    freed = int(done.stdout)
    assert freed > 0.9 * megabytes if returned else freed < 0.1 * megabytes


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
