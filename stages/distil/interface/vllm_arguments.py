"""vLLM's engine arguments: their names, and those that other parameters set."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

from stages.distil.interface.errors import UserError

SET_ELSEWHERE = {  # arguments that rationales.engine must not set
    "model": "`teachers` names the models",
    "tokenizer": "a model's own tokenizer is used",
    "revision": "set the revision in the model's entry of `models`",
    "trust_remote_code": "code that comes with a model is never run",
    "hf_token": "secrets come from the environment: set HF_TOKEN",
    "dtype": "set rationales.dtype",
    "max_model_len": "set rationales.context",
    "seed": "set seed",
}

# vLLM arguments that affect only speed and placement: changing them keeps stored texts.
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


@cache
def engine_arguments() -> list[str]:
    """Return the names of vLLM's engine arguments.

    They are read from its source, since importing it takes seconds. Raises `UserError` if vLLM is
    not installed.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("vLLM is not installed; run `make setup`")
    file = Path(spec.submodule_search_locations[0]) / "engine/arg_utils.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = (field.target for field in node.body if isinstance(field, ast.AnnAssign))
            names = [target.id for target in fields if isinstance(target, ast.Name)]
            return [name for name in names if not name.startswith("_")]
    raise UserError(f"{file}: no class EngineArgs; run `make setup` to install the pinned vLLM")
