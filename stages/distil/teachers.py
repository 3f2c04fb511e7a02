"""The vLLM engine that teachers run on: chat messages in, completions out.

Knows models in local folders and the machine; knows nothing of questions or of rationales.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from stages.distil.errors import UserError
from stages.distil.prompts import Messages

MAX_SEQUENCES = 64
LONGEST = 8192  # tokens of prompt and text; the cache holds one such sequence at least
CACHE_BLOCK = 32  # tokens; vLLM's 128 on a CPU leaves much of a short shared prefix uncached
GIB = 2**30


@dataclass(frozen=True)
class Completion:
    """A generated text; `finish_reason` is `stop`, or `length` where the token limit cut it."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int


class Teacher:
    """A teacher on vLLM in process: greedy decoding with a prefix cache.

    The engine takes requests in their order, not as they reach a process of its own: the batches,
    and with them the rounding and the texts, are the same in every run.

    On a CPU it runs eagerly (compiling takes longer than it saves below some ten thousand tokens),
    on all cores, with a KV cache sized to the free memory.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no model there; `dvc repro` fetches it")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            _use_whole_machine(folder)
        from vllm import LLM  # reads the environment when imported

        self._engine = LLM(
            model=str(folder),
            dtype="bfloat16",
            enforce_eager=on_cpu,
            max_num_seqs=MAX_SEQUENCES,
            max_model_len=min(LONGEST, _context_length(folder)),
            enable_prefix_caching=True,
            block_size=CACHE_BLOCK,
            seed=0,
            disable_log_stats=True,
        )
        if getattr(self._engine.get_tokenizer(), "chat_template", None) is None:
            raise UserError(
                f"{folder}: the tokenizer has no chat template; choose an instruct model"
            )

    def complete(self, conversations: Sequence[Messages], max_tokens: int) -> list[Completion]:
        """Complete each conversation greedily, in the order given."""
        from vllm import SamplingParams

        if not conversations:
            return []
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        try:
            outputs = self._engine.chat(list(conversations), sampling, use_tqdm=True)
        except ValueError as error:  # such as a prompt longer than the model reads
            raise UserError(f"{self._folder}: the teacher refused a prompt: {error}") from error
        return [
            Completion(
                text=output.outputs[0].text,
                finish_reason=output.outputs[0].finish_reason or "stop",
                prompt_tokens=len(output.prompt_token_ids),
                output_tokens=len(output.outputs[0].token_ids),
            )
            for output in outputs
        ]


def _use_whole_machine(folder: Path) -> None:
    """Set what vLLM reads of its CPU backend from the environment; the user's own values stay."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    # By default vLLM keeps one core free, which is half of a small machine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free = psutil.virtual_memory().available - weights
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, int(free / 4 / GIB)))))


def _context_length(folder: Path) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).max_position_embeddings
