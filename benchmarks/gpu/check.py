"""What is to be tried and measured on a GPU, in sections that write what they find at once.

    python -m benchmarks.gpu.check [--small] [--only SECTION …] [--run COMMAND …] [--seconds 3600]
Each section is a process of its own with a time limit, so that no failure stops the next one. The
models have random weights and are made on the spot: neither a package index nor a hub is needed.
Each line of the output file, and of stdout, is a JSON object with `section`, `seconds` and the
figures, or with `failed` or `skipped` and the reason.

pipeline     all stages on the GPU and on its CPU, in float32: shares of equal texts, words, answers
training     tokens/s of forward and backward passes; `mfu` is the share of the card's bfloat16 peak
attribution  `vs_floor`: rows/s over those of bare forward and backward passes
memory       `peak_gb` and tokens/s of a training step on long rationales (benchmarks/memory.py)
teachers     `vs_raw_vllm`: the stage's tokens/s over those of one call of `llm.generate`, 7B shape
committed    `make check`: a small run with real models, compared with results/check

With --small, models are tiny and no GPU is needed: the form in which the tests run it. `teachers`
and `committed` are then left out unless --only names them. --run adds commands of your own, each as
a section whose last line is kept.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rationales import PROJECT, committed_values, write_parameters

OUTPUT = Path(".cache/gpu-check.jsonl")
Result = dict[str, Any]


# --------------------------------------------------------------------------------------------------
# The sections. Each runs in a process of its own, in a folder that they share.


def pipeline(small: bool) -> Result:
    """Run all stages on both devices."""
    from benchmarks.gpu.pipeline import compare_devices

    return compare_devices(Path.cwd())


def training(small: bool) -> Result:
    """Measure steps of some 65,000 tokens, by size of the student and length of its rationales."""
    from benchmarks.gpu.shapes import make_model
    from benchmarks.gpu.speed import training_speed
    from stages.distil.weights.folders import model_folder

    shapes = ("tiny",) if small else ("135m", "0b5", "1b5")
    lengths, per_step = ((100, 300), 500) if small else ((300, 4000), 65_536)
    result: Result = {}
    for shape in shapes:
        make_model(shape, model_folder(shape))
        for tokens in lengths:
            try:
                result[f"{shape}, {tokens}"] = training_speed(shape, tokens, per_step)
            except Exception as error:  # such as too little memory; the next size may fit
                result[f"{shape}, {tokens}"] = {"failed": reason(str(error))}
            print(result, file=sys.stderr, flush=True)
    return result


def attribution(small: bool) -> Result:
    """Compare gradient × input of questions with bare passes over as many tokens."""
    from benchmarks.gpu.shapes import make_model
    from benchmarks.gpu.speed import attribution_speed
    from stages.distil.weights.folders import model_folder

    write_parameters(committed_values())
    shape, rows = ("tiny", 16) if small else ("1b5", 512)
    make_model(shape, model_folder(shape))
    return {"shape": shape} | attribution_speed(shape, rows)


def memory(small: bool) -> Result:
    """Measure the memory of a training step, with and without what makes it small."""
    from benchmarks.gpu.shapes import make_model
    from benchmarks.memory import in_process
    from stages.distil.weights.folders import model_folder

    shape, lengths, whole = (
        ("tiny", (100,), 100) if small else ("0b5", (100, 1000, 4000, 8000), 1000)
    )
    make_model(shape, model_folder(shape))
    result: Result = {"shape": shape}
    for tokens in lengths:
        for form in ("parts", "whole") if tokens <= whole else ("parts",):
            found = in_process(shape, tokens, form) or {"failed": "see the log"}
            result[f"{form}, {tokens}"] = found
    return result


def teachers(small: bool) -> Result:
    """Compare the stage with bare vLLM, whose weights are drawn in memory."""
    from benchmarks.gpu.shapes import make_model

    shape, questions = ("tiny", 32) if small else ("7b", 2048)
    # On a CPU, the size of the cache follows from that of the weights, which are counted.
    folder = make_model(shape, Path("teachers", shape).resolve(), weights=small)
    command = [sys.executable, "-m", "benchmarks.rationales", "--dummy", str(folder)]
    return last_line([*command, "--questions", str(questions)])


def committed(small: bool) -> Result:
    """Run the profile of `make check` with the project's own models."""
    command = [sys.executable, "-m", "stages.distil.verification.check"]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return {"found": done.stdout.splitlines()[-1]}


SECTIONS: dict[str, Callable[[bool], Result]] = {
    section.__name__: section
    for section in (pipeline, training, attribution, memory, teachers, committed)
}
LIMITS = {"teachers": 300, "committed": 400}  # seconds; of all others LIMIT
LIMIT = 180
NOT_SMALL = ("teachers", "committed")  # they start vLLM, or fetch models: minutes on a CPU


def last_line(command: Sequence[str]) -> Result:
    """Return the JSON object in the last line that a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# --------------------------------------------------------------------------------------------------
# How they are run


def reason(text: str) -> str:
    """Return the last line of an error that says something, at most 300 characters of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def run_section(command: Sequence[str] | str, work: Path, log: Path, limit: float) -> Result:
    """Run a command in the shared folder; return its last line, or why there is none.

    A list is a section, whose last line is a JSON object; a text is a command for the shell. All
    processes of one that exceeds `limit` seconds are killed. Its stderr is appended to `log`.
    """
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join([str(PROJECT), *map(os.path.abspath, given)])  # of this folder
    of_shell = isinstance(command, str)
    with log.open("a+", encoding="utf-8") as errors:
        start = errors.tell()
        process = subprocess.Popen(
            command,
            shell=of_shell,
            cwd=PROJECT if of_shell else work,
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return {"failed": f"not done within {limit:.0f} s"}
        errors.seek(start)
        if process.returncode:
            message = reason(errors.read() or printed)
            return {"failed": message, "exit_code": process.returncode}
    last = (printed.splitlines() or [""])[-1]
    if of_shell:
        return {"printed": last}
    try:
        return dict(json.loads(last))
    except (ValueError, TypeError):
        return {"failed": f"its last line is no JSON object: {last[:300]}"}


def machine() -> Result:
    """Return what the figures are of; importing torch takes seconds."""
    import torch

    found: Result = {"torch": torch.__version__, "cores": os.cpu_count(), "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_gb": round(properties.total_memory / 1e9, 1)}
    return found


class Job(NamedTuple):
    """A section: its command, as `run_section` takes it, and why it is left out, if it is."""

    command: Sequence[str] | str
    skipped: str = ""


def plan(arguments: argparse.Namespace) -> dict[str, Job]:
    """Return the sections by name, in the order in which they run."""
    jobs = {}
    for name in arguments.only or SECTIONS:
        command = [sys.executable, "-m", "benchmarks.gpu.check", "--section", name]
        left_out = arguments.small and name in NOT_SMALL and not arguments.only
        jobs[name] = Job(
            command + (["--small"] if arguments.small else []),
            "it takes minutes on a CPU; --only runs it" if left_out else "",
        )
    return jobs | {f"run: {command}": Job(command) for command in arguments.run}


def check(arguments: argparse.Namespace) -> bool:
    """Run the chosen sections; return whether all of them have succeeded."""
    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    log.write_text("")
    end = time.monotonic() + arguments.seconds
    succeeded = True
    with output.open("w", encoding="utf-8") as file, tempfile.TemporaryDirectory() as work:

        def write(section: str, result: Result) -> None:
            line = json.dumps({"section": section} | result)
            print(line, flush=True)
            print(line, file=file, flush=True)

        write("machine", machine())
        for name, job in plan(arguments).items():
            start = time.monotonic()
            limit = min(LIMITS.get(name, LIMIT), end - start)
            if job.skipped:
                write(name, {"skipped": job.skipped})
            elif limit <= 0:
                write(name, {"skipped": f"the {arguments.seconds} seconds are over"})
            else:
                result = run_section(job.command, Path(work), log, limit)
                succeeded &= "failed" not in result
                write(name, {"seconds": round(time.monotonic() - start, 1)} | result)
    if not succeeded:
        print(f"some sections failed; {log} has all that they wrote", file=sys.stderr)
    return succeeded


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny models, for a CPU")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--run", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--seconds", type=float, default=3600, help="for all of it (%(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="(%(default)s)")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        result = SECTIONS[arguments.section](arguments.small)
        print(json.dumps(result))
        return
    sys.exit(not check(arguments))


if __name__ == "__main__":
    main()
