"""No code that comes with a model is run or asked for: every call that could says so."""

import ast

import pytest

from tests.conftest import ROOT

# Functions of transformers, peft and vLLM that read a folder or a configuration.
READERS = {"from_pretrained", "from_config", "pipeline", "get_tokenizer", "LLM", "EngineArgs"}
OWN = {"llm.get_tokenizer"}  # of an engine that was started without
MODULES = sorted(path for room in ("stages", "benchmarks") for path in (ROOT / room).rglob("*.py"))


def asking(source: str) -> list[str]:
    """Return the calls that would run a model's own code, or ask whether to."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func).split(".")[-1] in READERS
        and ast.unparse(call.func) not in OWN
        and not any(
            keyword.arg == "trust_remote_code"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is False
            for keyword in call.keywords
        )
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_reader_of_a_model_leaves_its_code_alone(path):
    assert asking(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "call",
    [
        "AutoConfig.from_pretrained(folder)",
        "kind.from_config(config, dtype=dtype)",
        "LLM(model=folder, trust_remote_code=True)",
        "transformers.AutoTokenizer.from_pretrained(folder, **settings)",
        "vllm.LLM(folder, trust_remote_code=trusted)",
    ],
)
def test_a_call_that_would_run_or_ask_is_seen(call):
    assert asking(f"x = {call}") == [call]
    assert not asking(f"x = {call.split('(')[0]}(folder, trust_remote_code=False)")
