"""Fixtures: tiny models built from configs, a small tokenizer, parameters and data sets."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

from tests.warm_python import interpreter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads slow tiny models down
LONGEST = [
    "test_end_to_end",
    "test_train",
    "test_figures",
    "test_pool",
    "test_rationales",
    "test_pipeline",
    "test_methods",
]
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)  # reproducible
hypothesis.settings.load_profile("tests")
ROOT = Path(__file__).parent.parent
# params.yaml as git's index holds it: an experiment leaves its parameters in the workspace's.
_SCRATCH = tempfile.TemporaryDirectory()
PARAMS = Path(_SCRATCH.name) / "params.yaml"
with PARAMS.open("wb") as _file:
    subprocess.run(["git", "show", ":params.yaml"], cwd=ROOT, stdout=_file, check=True)
TRAIN = 12  # train questions of `scoring`
# The whole environment of a process that tests start.
BARE = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--pin`, which tests/test_versions.py explains."""
    parser.addoption("--pin", action="store_true", help="pin results to versions that were raised")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that two processes finish at about the same time."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test after bytes: compressed ones hold the second in which a process made them."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    """Reach no hub, and run as if started by hand: a `make` inside `make test` prints more."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a Llama of some 100,000 random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Question: What is the mother of Ann? Options:"] * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory, tiny_model) -> Path:
    """A folder with a T5 of random weights and a tokenizer without a chat template."""
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def default_values() -> dict:
    """Return the values of the committed params.yaml; prompts by absolute path.

    Words are those of the question, which need no rationales of `saliency.teacher`, and rationales
    are branches beside the answer; tests of other forms set them.
    """
    from ruamel.yaml import YAML

    values = YAML(typ="safe").load(PARAMS)
    values["alpha"] = 0.5
    values["saliency"] |= {"of": "question", "stop_words": True}
    values["student"] |= {"form": "branch", "direct": True}
    values["train"] |= {"batch_size": 4, "validation": None}
    prompts = values["rationales"]["prompts"]
    values["rationales"]["prompts"] = {name: str(ROOT / path) for name, path in prompts.items()}
    return values


def write_values(folder: Path, values: dict, changes: dict) -> Path:
    """Make changes, given as KEY/KEY: value, and write params.yaml; return its path."""
    from ruamel.yaml import YAML

    for name, value in changes.items():
        *keys, last = name.split("/")
        block = values
        for key in keys:
            block = block[key]
        block[last] = value
    path = folder / "params.yaml"
    YAML().dump(values, path)
    return path


@pytest.fixture
def parameter_values() -> dict:
    """Return `default_values`, for tests to change."""
    return default_values()


@pytest.fixture
def write_params(tmp_path, parameter_values):
    """Write params.yaml with changes, given as KEY/KEY: value; return its path."""

    def write(changes: dict | None = None) -> Path:
        return write_values(tmp_path, parameter_values, changes or {})

    return write


@pytest.fixture(params=["tiny_model", "tiny_t5"])
def family(request) -> Path:
    """The folder of a tiny model of each architecture."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def scoring(tmp_path, write_params, monkeypatch):
    """Prepare questions for a model that scores their words; the function returns parameters."""
    from stages.distil.interface.parameters import load_parameters
    from stages.prepare import prepare

    monkeypatch.chdir(tmp_path)

    def run(model: Path, rows: list | None = None, **changes):
        rows = rows or [question(n, question=f"Where is the ball {n}?") for n in range(TRAIN)]
        alike = {} if rows[0].get("options") else {"options": [], "answer": "here"}
        write_jsonl(
            tmp_path / "balls",
            train=rows,
            validation=[question(0, "validation", **alike)],
            test=[question(0, "test", **alike)],
        )
        values = {f"saliency/{name}": value for name, value in changes.items()}
        values |= {
            "data/name": "balls",
            "data/max_rejected": 1.0,
            "datasets/balls": {"source": "files", "folder": str(tmp_path / "balls")},
            "models/tiny": {"source": "folder", "path": str(model)},
            "teachers": ["tiny"],
            "saliency/teacher": "tiny",
            "saliency/dtype": "float32",
        }
        parameters = load_parameters(write_params(values))
        if not (tmp_path / "models/tiny").exists():
            shutil.copytree(model, tmp_path / "models/tiny")
        prepare(parameters)
        return parameters

    return run


def run_stage_in(
    folder: Path, stage: str, *arguments: str, warm: bool = True, path: Path = ROOT
) -> subprocess.CompletedProcess:
    """Run a stage as DVC does; return the finished process.

    With `warm=False` its interpreter is a new one. Modules in `path` then take precedence.
    """
    return subprocess.run(
        [interpreter() if warm else sys.executable, "-m", f"stages.{stage}", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{path}:{ROOT}"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def run_stage(tmp_path):
    """Run a stage in `tmp_path`; return the finished process."""
    return functools.partial(run_stage_in, tmp_path)


def write_jsonl(folder: Path, **splits: list) -> Path:
    """Write a folder of JSON lines; texts and bytes are written as they are, other rows as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
        content = [line.encode() if isinstance(line, str) else line for line in lines]
        (folder / f"{split}.jsonl").write_bytes(b"".join(line + b"\n" for line in content))
    return folder


def question(number: int, split: str = "train", **fields) -> dict:
    """Return a row of a JSON lines file."""
    options = ["red", "green", "blue"]
    return {
        "id": f"{split}-{number}",
        "question": f"Which colour has the {split} ball number {number}?",
        "options": options,
        "answer": options[number % 3],
        "rationales": {
            "one": f"Ball {number} of {split} is {options[number % 3]}.",
            "two": f"It follows that it is {options[number % 3]}.",
        },
    } | fields
