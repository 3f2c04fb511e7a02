"""vLLM's engine arguments: their names, and those that are decided elsewhere."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

from stages.distil.interface.errors import UserError

DECIDED = {  # vLLM's arguments that are not set under rationales.engine
    "model": "`teachers` names the models",
    "tokenizer": "a model's own tokenizer is used",
    "revision": "set the revision in the model's entry of `models`",
    "trust_remote_code": "no model's own code is run",
    "hf_token": "secrets come from the environment: set HF_TOKEN",
    "dtype": "set rationales.dtype",
    "max_model_len": "set rationales.context",
    "seed": "set seed",
}


@cache
def engine_arguments() -> list[str]:
    """Return the names of vLLM's engine arguments, read from its source: importing takes seconds.

    Raises `UserError` where vLLM is not installed.
    """
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        raise UserError("vLLM is not installed; run `make setup`")
    file = Path(found.submodule_search_locations[0]) / "engine/arg_utils.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = (each.target for each in node.body if isinstance(each, ast.AnnAssign))
            names = [target.id for target in fields if isinstance(target, ast.Name)]
            return [name for name in names if not name.startswith("_")]
    raise UserError(f"{file}: no class EngineArgs; this vLLM is not the one that is pinned")
