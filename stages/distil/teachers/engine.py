"""vLLM in process: what decoder-only teachers run on.

Knows models in local folders and the machine; knows nothing of questions or of rationales.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from stages.distil.errors import UserError
from stages.distil.models import count_parameters
from stages.distil.teachers import TOO_LONG, Completion, Request, encode

if TYPE_CHECKING:
    from vllm import LLM

MAX_SEQUENCES = 64
IN_FLIGHT = 4 * MAX_SEQUENCES  # so many wait for a place, whatever the number of requests
CACHE_BLOCK = 32  # tokens; vLLM's 128 on a CPU leaves much of a short shared prefix uncached
GIB = 2**30


class Engine:
    """A teacher on vLLM in process, with a prefix cache.

    The engine takes requests in their order, not as they reach a process of its own: the batches,
    and with them the rounding and the texts, are the same in every run.

    On a CPU it runs eagerly (compiling takes longer than it saves below some ten thousand tokens),
    on all cores, with a KV cache sized to the free memory.
    """

    def __init__(self, folder: Path, context: int, dtype: str):
        """Start the engine; prompt and text of a request have `context` tokens at most.

        `dtype` is its precision, `bfloat16` or `float32`.
        """
        self._folder = folder
        self._context = min(context, _context_length(folder))
        llm = start_vllm(folder, self._context, dtype)
        self._engine = llm.llm_engine
        self._tokenizer = llm.get_tokenizer()

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        coming = iter(requests)
        running: dict[str, Request] = {}
        number = 0
        room = 1  # the first request alone: what others share with it, they find in the cache
        while True:
            while len(running) < room and (request := next(coming, None)) is not None:
                tokens = encode(self._tokenizer, request.conversation)
                if len(tokens) + request.max_tokens > self._context:
                    yield request, Completion("", TOO_LONG, len(tokens), 0)
                    continue
                sampling = SamplingParams(
                    temperature=request.temperature,
                    seed=request.seed if request.temperature else None,
                    max_tokens=request.max_tokens,
                    stop=None if self._tokenizer.chat_template else ["\n\n"],
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                name = str(number)
                number += 1
                self._engine.add_request(name, {"prompt_token_ids": tokens}, sampling)
                running[name] = request
            if not running:
                return
            try:
                outputs = self._engine.step()
            except RuntimeError as error:
                raise UserError(f"{self._folder}: vLLM stopped: {_advice(error)}") from error
            room = IN_FLIGHT
            for output in outputs:
                if output.finished:
                    text = output.outputs[0]
                    yield (
                        running.pop(output.request_id),
                        Completion(
                            text=text.text,
                            finish_reason=text.finish_reason or "stop",
                            prompt_tokens=len(output.prompt_token_ids),
                            output_tokens=len(text.token_ids),
                        ),
                    )


def start_vllm(folder: Path, context: int, dtype: str) -> "LLM":
    """Start vLLM in this process; raise `UserError` where it does not start."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        _use_whole_machine(folder, dtype)
    from vllm import LLM  # reads the environment when imported

    try:
        return LLM(
            model=str(folder),
            dtype=dtype,
            enforce_eager=on_cpu,
            max_num_seqs=MAX_SEQUENCES,
            max_model_len=context,
            enable_prefix_caching=True,
            block_size=CACHE_BLOCK,
            seed=0,
            disable_log_stats=True,
        )
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UserError(f"{folder}: vLLM does not start: {_advice(error)}") from error


def _use_whole_machine(folder: Path, dtype: str) -> None:
    """Set what vLLM reads of its CPU backend from the environment; the user's own values stay."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    # By default vLLM keeps one core free, which is half of a small machine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
    weights = count_parameters(folder) * (4 if dtype == "float32" else 2)
    free = psutil.virtual_memory().available - weights
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, int(free / 4 / GIB)))))


def _context_length(folder: Path) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings


def _advice(error: BaseException) -> str:
    """Return an error's first line and what to change."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    advice = "`--debug` shows where"
    if any(word in message.lower() for word in ("memory", "kv cache", "cache blocks")):
        advice = (
            "lower rationales.context, free memory, or choose a smaller teacher (on a CPU "
            "VLLM_CPU_KVCACHE_SPACE sets the cache's GiB)"
        )
    elif "architecture" in message.lower():
        advice = "set rationales.backend to transformers"
    return f"{message}; {advice}"
