"""Overhead of the stage `rationales` over its engine, in generated tokens per second.

Compares the stage (prompts from files, row store, streaming) with a bare `llm.generate` over the
same prompts, and with batches of transformers' `generate`. Engine start-up is not counted. Run from
the project's folder after `make repro`:
    stages/python -m benchmarks.rationales [--questions 256] [--teacher smollm2-135m]
A small teacher is the harder case: the engine takes a smaller share of its time. With --dummy, the
teacher is a folder with a configuration and a tokenizer, vLLM draws its weights, and transformers
is left out. The last line is a JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ruamel.yaml import YAML

from stages.distil.interface.errors import report_errors

PROJECT = Path(__file__).parent.parent
REQUESTS = Path("requests.json")


def committed_values() -> dict[str, Any]:
    """Return the committed parameters, with prompts that any folder finds."""
    values = YAML(typ="safe").load(PROJECT / "params.yaml")
    prompts = values["rationales"]["prompts"]
    values["rationales"]["prompts"] = {name: str(PROJECT / path) for name, path in prompts.items()}
    return values


def prepare_folder(
    teacher: str,
    questions: int,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    models: Path = PROJECT / "models",
) -> None:
    """Write the committed parameters with this number of train questions; run `prepare`.

    `teacher`, in the folder `models`, is the only one, also of salient words; `changes` holds
    further values by section.
    """
    from stages import prepare
    from stages.distil.interface.parameters import load_parameters

    values = committed_values()
    values["teachers"] = [teacher]
    values["saliency"]["teacher"] = teacher
    values["data"]["name"] = "kinship"
    values["datasets"]["kinship"]["sizes"] |= {"train": questions, "validation": 1, "test": 1}
    for section, changed in (changes or {}).items():
        values[section] |= changed
    write_parameters(values)
    Path("models").symlink_to(models)
    prepare.prepare(load_parameters("params.yaml"))


def write_parameters(values: dict[str, Any]) -> None:
    """Write params.yaml into this folder."""
    with open("params.yaml", "w") as file:
        YAML().dump(values, file)


def run_stage(teacher: str) -> tuple[int, float]:
    """Write all texts as the stage does; return the generated tokens and the seconds."""
    from stages.distil.interface.parameters import load_parameters
    from stages.distil.teachers.backend import Completion, Request
    from stages.distil.teachers.selection import open_backend
    from stages.distil.teachers.texts import TeacherTexts
    from stages.distil.teachers.writer import CachedWriter, Generations
    from stages.distil.weights.folders import model_folder

    settings = load_parameters("params.yaml")
    backend = open_backend(teacher, settings, model_folder(teacher))
    sent: list[dict] = []
    tokens = 0

    class Noting:
        def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
            nonlocal tokens
            for request, completion in backend.complete(requests):
                messages = request.conversation.messages()
                sent.append({"messages": messages, "max_tokens": request.max_tokens})
                tokens += completion.output_tokens
                yield request, completion

    with Generations() as store:
        texts = TeacherTexts(settings, teacher, CachedWriter(teacher, Noting, store))
        start = time.perf_counter()
        texts.write()
        seconds = time.perf_counter() - start
    REQUESTS.write_text(json.dumps(sent))
    return tokens, seconds


def run_vllm(teacher: str) -> tuple[int, float]:
    """Generate the same texts with one call of `llm.generate`."""
    from vllm import SamplingParams

    from stages.distil.interface.parameters import load_parameters
    from stages.distil.models.hardware import precision
    from stages.distil.teachers.vllm_backend import start_vllm
    from stages.distil.weights.folders import model_folder

    settings = load_parameters("params.yaml").rationales
    llm = start_vllm(
        model_folder(teacher),
        settings.context,
        precision(settings.dtype, gradients=False),
        settings.engine_of(teacher),
    )
    tokenizer = llm.get_tokenizer()
    requests = json.loads(REQUESTS.read_text())
    prompts = [
        tokenizer.apply_chat_template(r["messages"], tokenize=False, add_generation_prompt=True)
        for r in requests
    ]
    sampling = [SamplingParams(temperature=0.0, max_tokens=r["max_tokens"]) for r in requests]
    start = time.perf_counter()
    outputs = llm.generate(prompts, sampling)
    seconds = time.perf_counter() - start
    return sum(len(output.outputs[0].token_ids) for output in outputs), seconds


def run_transformers(teacher: str) -> tuple[int, float]:
    """Generate a quarter of the texts with the transformers backend."""
    from stages.distil.interface.parameters import load_parameters
    from stages.distil.language.teacher_prompts import Conversation
    from stages.distil.models.hardware import precision
    from stages.distil.teachers.backend import Request
    from stages.distil.teachers.transformers_backend import Generator
    from stages.distil.weights.folders import model_folder

    settings = load_parameters("params.yaml").rationales
    generator = Generator(
        model_folder(teacher), settings.context, precision(settings.dtype, gradients=False)
    )
    requests = []
    for sent in json.loads(REQUESTS.read_text())[::4]:
        system, *turns, user = (message["content"] for message in sent["messages"])
        shown = tuple(zip(turns[::2], turns[1::2], strict=True))
        requests.append(Request(Conversation(system, shown, user, ""), sent["max_tokens"]))
    start = time.perf_counter()
    tokens = sum(completion.output_tokens for _, completion in generator.complete(requests))
    return tokens, time.perf_counter() - start


PARTS = {"stage": run_stage, "vllm": run_vllm, "transformers": run_transformers}


def measure(part: str, teacher: str, folder: str, dummy: bool) -> float:
    """Run a part in its own process; return its tokens per second."""
    command = [sys.executable, "-m", "benchmarks.rationales", "--part", part, "--teacher", teacher]
    run = subprocess.run(
        command + (["--dummy", folder] if dummy else []),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "VLLM_LOGGING_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        sys.exit(run.returncode)
    tokens, seconds = json.loads(run.stdout.splitlines()[-1])
    print(f"{part}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} per second")
    return tokens / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=256, help="prompts (%(default)s)")
    parser.add_argument("--teacher", default="smollm2-135m", help="(%(default)s)")
    parser.add_argument("--dummy", type=Path, metavar="FOLDER", help="a teacher without weights")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dummy = arguments.dummy
    if arguments.part:
        # There are no weights to check.
        check = "stages.distil.teachers.vllm_backend.check_model"
        with patch(check) if dummy else nullcontext():
            print(json.dumps(PARTS[arguments.part](arguments.teacher)))
        return
    teacher, changes, models = arguments.teacher, {}, PROJECT / "models"
    if dummy:
        dummy = dummy.resolve()
        teacher, models = dummy.name, dummy.parent
        changes["models"] = {teacher: {"source": "folder", "path": str(dummy)}}
        changes["rationales"] = {"engine": {"load_format": "dummy"}}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare_folder(teacher, arguments.questions, changes, models)
        parts = [part for part in PARTS if not (dummy and part == "transformers")]
        speed = {part: measure(part, teacher, folder, bool(dummy)) for part in parts}
        os.chdir(PROJECT)
    result = {
        "vs_raw_vllm": round(speed["stage"] / speed["vllm"], 3),
        "tokens_per_second": round(speed["stage"], 1),
        "questions": arguments.questions,
        "teacher": teacher,
    }
    if not dummy:
        result["vs_transformers"] = round(speed["stage"] / speed["transformers"], 2)
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(report_errors("rationales", debug=False, action=main))
