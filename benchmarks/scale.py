"""Time and peak memory of every stage at two sizes, without the models' own work.

The teacher answers at once, the attribution is constant, and the student is tiny and trains for a
few steps: what is left is reading, encoding, storing and writing. Each stage runs in a process of
its own on drawn tables (three teachers). Run from the project's folder:
    .venv/bin/python -m benchmarks.scale [--rows 100000 1000000] [--without rationales saliency]
The last line is a JSON object. For each stage, `seconds` and `memory_mb` hold both sizes, and
`us_per_question` and `bytes_per_question` are the slopes between them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ruamel.yaml import YAML

from benchmarks.assemble import TEACHERS, draw_tables
from stages.distil.interface.errors import report_errors
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.teachers.backend import Completion, Request
from stages.distil.weights.folders import STUDENT, model_folder

PROJECT = Path(__file__).parent.parent
INPUTS = "inputs"
STAGES = (
    "prepare",
    "rationales",
    "saliency",
    "assemble",
    "encode",
    "card",
    "train",
    "evaluate",
    "report",
)
STEPS = 4  # of training
ANSWERED = 100  # one in so many questions is a test question, and as many validate


class Echo:
    """An engine that answers at once with words of the question and the first option."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its echo."""
        for request in requests:
            question = request.conversation.user
            first = question.partition("Options: ")[2].partition(",")[0]
            yield request, Completion(f"{question[:150]} So it is {first}.", "stop", 400, 40)


def parameters() -> Parameters:
    """Return the committed parameters, for drawn tables and tiny models."""
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    prompts = values["rationales"]["prompts"]
    values["rationales"]["prompts"] = {name: PROJECT / path for name, path in prompts.items()}
    values["teachers"] = list(TEACHERS[:3])
    values["alpha"] = 0.5
    values["models"] |= {name: {"source": "provided"} for name in values["teachers"]}
    values["models"]["far"] = {"source": "server", "url": "http://nowhere", "model": "echo"}
    values["models"]["tiny"] = {"source": "folder", "path": str(model_folder("tiny"))}
    values["saliency"] |= {"teacher": "tiny", "of": "question", "dtype": "float32"}
    values["student"] |= {"model": "tiny", "dtype": "float32"}
    values["train"] |= {"epochs": 1}
    values["datasets"]["drawn"] = {"source": "files", "folder": "rows"}
    values["data"] |= {"name": "drawn"}
    return Parameters.model_validate(values)


def make_inputs(rows: int) -> None:
    """Write the tables, the data set and the models that the stages read."""
    others = max(1, rows // ANSWERED)
    draw_tables(rows, 3, others)
    tables.write_table(tables.REJECTED, [])
    Path("rows").mkdir()
    for split in ("train", "validation", "test"):
        with Path(f"rows/{split}.jsonl").open("w", encoding="utf-8") as file:
            for example in tables.scan_examples(split):
                row = {"id": example.id, "question": f"{example.id} {example.question}"}
                row |= {"options": example.options, "answer": example.answer}
                file.write(json.dumps(row) + "\n")


def make_model() -> None:
    """Write a Llama of one small layer with a tokenizer of the drawn words."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2_000,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = " ".join(f"word{number}" for number in range(5_000))
    tokenizer.train_from_iterator([words], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4_096,
        eos_token_id=fast.eos_token_id,
    )
    for folder in (model_folder("tiny"), STUDENT):
        LlamaForCausalLM(config).save_pretrained(folder)
        fast.save_pretrained(folder)


def run(stage: str, rows: int) -> None:
    """Run a stage on the tables in this folder, or write the tables for so many questions."""
    if stage == INPUTS:
        make_inputs(rows)
        make_model()
        return
    settings = parameters()
    if stage == "rationales":
        from stages import rationales as module

        with patch.object(module, "open_backend", lambda *_: Echo()):
            module.rationales(settings, "far")
    elif stage == "saliency":
        from stages.distil.attribution.attributor import Attributor, Scores
        from stages.saliency import saliency

        def score(_: Any, prompts: Any) -> list[Scores]:
            return [Scores([1.0] * len(prompt.spans)) for prompt in prompts]

        with (
            patch.object(Attributor, "score", score),
            patch.object(Attributor, "cache_prefix", lambda *_: None),
        ):
            saliency(settings)
    elif stage == "train":
        from stages.train import train

        few = settings.train.model_copy(update={"epochs": None, "max_steps": STEPS})
        train(settings.model_copy(update={"train": few}))
    else:
        from importlib import import_module

        getattr(import_module(f"stages.{stage}"), stage)(settings)


def measure(stage: str, rows: int, folder: Path) -> tuple[float, float]:
    """Run a stage in a process of its own; return its seconds and its peak memory in MB.

    The peak of a process includes that of the one that started it, so this one stays small.
    """
    command = [sys.executable, "-m", "benchmarks.scale", "--part", stage, "--rows", f"{rows}", "0"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, nargs=2, default=[100_000, 1_000_000], help="questions (%(default)s)"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=["rationales", "saliency"],
        default=[],
        help="slow stages to leave out; drawn tables take their place",
    )
    parser.add_argument("--part", choices=[INPUTS, *STAGES], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        start = time.perf_counter()
        run(arguments.part, arguments.rows[0])
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([seconds, memory]))
        return
    stages = [stage for stage in STAGES if stage not in arguments.without]
    measured: dict[str, list[tuple[float, float]]] = {stage: [] for stage in stages}
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            measure(INPUTS, rows, folder)
            for stage in stages:
                measured[stage].append(measure(stage, rows, folder))
                seconds, memory = measured[stage][-1]
                print(f"{rows:,} questions, {stage}: {seconds:.1f} s, {memory:.0f} MB", flush=True)
    more = arguments.rows[1] - arguments.rows[0]
    print(
        json.dumps(
            {
                "rows": arguments.rows,
                "stages": {
                    stage: {
                        "seconds": [round(seconds, 1) for seconds, _ in both],
                        "memory_mb": [round(memory) for _, memory in both],
                        "us_per_question": round((both[1][0] - both[0][0]) / more * 1e6),
                        "bytes_per_question": round((both[1][1] - both[0][1]) / more * 2**20),
                    }
                    for stage, both in measured.items()
                },
            }
        )
    )


if __name__ == "__main__":
    sys.exit(report_errors("scale", debug=False, action=main))
