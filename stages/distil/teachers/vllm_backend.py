"""Teachers on vLLM in this process: for decoder-only models."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import psutil

from stages.distil.interface.errors import UserError
from stages.distil.language.chat import Chat
from stages.distil.language.quality import TOO_LONG
from stages.distil.models.generation import missing_ends
from stages.distil.models.hardware import device
from stages.distil.models.layers import context_length
from stages.distil.teachers.backend import Completion, Request
from stages.distil.weights.architecture import check_model, load_config
from stages.distil.weights.folders import count_parameters

if TYPE_CHECKING:
    from vllm import LLM

CPU_DEFAULTS = {  # vLLM's own defaults suit GPUs
    "enforce_eager": True,  # compiling pays off only above some ten thousand tokens
    "max_num_seqs": 64,
    "block_size": 32,  # of tokens; 128 leaves much of a short shared prefix uncached
}
# In messages about a model that vLLM does not run, or not on this device.
UNSUPPORTED = ("architecture", "unsupported", "not supported", "object has no attribute")
WAITING = 3  # requests that wait for each slot of a batch
GIB = 2**30


class Engine:
    """A teacher on vLLM in process, with a prefix cache.

    The engine runs in this process and takes requests in order. So the batches, and with them the
    rounding and the texts, are the same in every run. On a CPU it uses all cores, and a KV cache
    sized to the free memory.
    """

    def __init__(
        self,
        folder: Path,
        context: int,
        dtype: str,
        arguments: dict[str, Any] | None = None,
        template: dict[str, Any] | None = None,
    ):
        """Start the engine; prompt and text of a request have `context` tokens at most.

        `dtype` is the precision, `bfloat16`, `float16` or `float32`; `arguments` are vLLM's own,
        `template` the variables of the chat template.
        """
        self._folder = folder
        self._context = min(context, context_length(load_config(folder)) or context)
        llm = start_vllm(folder, self._context, dtype, arguments or {})
        self._engine = llm.llm_engine
        self._chat = Chat(folder.name, llm.get_tokenizer(), template)
        self._ends = missing_ends(self._chat, folder, of_tokenizer=True)
        slots = self._engine.vllm_config.scheduler_config.max_num_seqs
        self._in_flight = slots * (1 + WAITING)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        remaining = iter(requests)
        running: dict[str, tuple[Request, str, list[int]]] = {}
        number = 0
        limit = 1  # the first request runs alone and fills the cache with what the others share
        while True:
            while len(running) < limit and (request := next(remaining, None)) is not None:
                tokens, opening = self._chat.encode(request.conversation)
                reply: list[int] = []
                if request.reply is not None:
                    tokens, reply = self._chat.encode_reply(request.conversation, request.reply)
                if len(tokens) + len(reply) + request.max_tokens > self._context:
                    yield request, Completion("", TOO_LONG, len(tokens), 0)
                    continue
                sampling = SamplingParams(
                    temperature=request.temperature,
                    seed=request.seed if request.temperature else None,
                    max_tokens=request.max_tokens,
                    stop=list(self._ends.texts) or None,
                    stop_token_ids=list(self._ends.tokens) or None,
                    prompt_logprobs=0 if reply else None,  # 0: of the tokens that are there
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                name = str(number)
                number += 1
                self._engine.add_request(name, {"prompt_token_ids": tokens + reply}, sampling)
                running[name] = (request, opening, reply)
            if not running:
                return
            try:
                outputs = self._engine.step()
            except Exception as error:  # of the kernels of any model
                raise UserError(f"{self._folder}: vLLM stopped: {_advice(error)}") from error
            limit = self._in_flight
            for output in outputs:
                if output.finished:
                    generated = output.outputs[0]
                    request, opening, reply = running.pop(output.request_id)
                    if reply:
                        positions = zip(reply, output.prompt_logprobs[-len(reply) :], strict=True)
                        score = mean(position[token].logprob for token, position in positions)
                        length = len(output.prompt_token_ids) - len(reply)
                        yield request, Completion("", "stop", length, len(reply), score)
                        continue
                    text = self._chat.with_marks(generated.text, generated.token_ids)
                    yield (
                        request,
                        Completion(
                            text=opening + text,
                            finish_reason=generated.finish_reason or "stop",
                            prompt_tokens=len(output.prompt_token_ids),
                            output_tokens=len(generated.token_ids),
                        ),
                    )


def start_vllm(folder: Path, context: int, dtype: str, arguments: dict[str, Any]) -> "LLM":
    """Start vLLM in this process; raise `UserError` if it does not start.

    `arguments` are vLLM's own and override the defaults.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    on_cpu = device() == "cpu"
    if on_cpu:
        workers = arguments.get("tensor_parallel_size", 1)
        _use_whole_machine(folder, dtype, workers)
    check_model(folder)  # vLLM leaves weights random that are not there
    from vllm import LLM  # reads the environment on import

    try:
        return LLM(
            model=str(folder),
            dtype=dtype,
            max_model_len=context,
            seed=0,
            trust_remote_code=False,
            **{"enable_prefix_caching": True, "disable_log_stats": True}
            | (CPU_DEFAULTS if on_cpu else {})
            | arguments,
        )
    except Exception as error:  # whatever vLLM makes of a stranger's folder
        raise UserError(f"{folder}: vLLM does not start: {_advice(error)}") from error


def _use_whole_machine(folder: Path, dtype: str, workers: int) -> None:
    """Set the environment variables of vLLM's CPU backend, unless the user has set them."""
    cores = sorted(os.sched_getaffinity(0))
    workers = max(1, min(workers, len(cores)))
    shares = [cores[worker::workers] for worker in range(workers)]
    # By default vLLM keeps one core free, which is half of a small machine.
    bound = "|".join(",".join(map(str, share)) for share in shares)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", bound)
    weights = count_parameters(folder) * (4 if dtype == "float32" else 2)
    free = (psutil.virtual_memory().available - weights) / workers
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, int(free / 4 / GIB)))))


def _advice(error: BaseException) -> str:
    """Return an error as one line with advice."""
    # A pydantic error has a line that counts the errors, then argument and reason, then a link.
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("For further information")]
    message = (" ".join(lines) or type(error).__name__)[:500]
    advice = "see rationales.engine; `--debug` shows where"
    if any(word in message.lower() for word in ("memory", "kv cache", "cache blocks")):
        advice = (
            "lower rationales.context, free memory, or choose a smaller teacher (on a CPU "
            "VLLM_CPU_KVCACHE_SPACE sets the cache's GiB, on a GPU "
            "rationales.engine.gpu_memory_utilization its share)"
        )
    elif any(words in message.lower() for words in UNSUPPORTED):
        advice = "set rationales.backend to transformers"
    return f"{message}; {advice}"
