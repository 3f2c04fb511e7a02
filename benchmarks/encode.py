"""How fast is `encode`, and how much faster on all cores? Drawn questions, three teachers.

Run from the project's folder on an otherwise idle machine:
    .venv/bin/python -m benchmarks.encode [--rows 40000] [--processes 2]
Assembles drawn tables for a tiny student with a tokenizer of its own, then encodes them in one
process on one core, and in several on as many cores. The last line is a JSON object:
`us_per_question` on one core, `speedup` with several, `same_files`, and the peak memory of the
largest process.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale import INPUTS, PROJECT, measure, parameters
from stages.distil.interface.errors import report_errors
from stages.distil.storage import tables


def encode(processes: int) -> dict[str, Any]:
    """Encode the tables in this folder on as many cores as processes.

    Returns seconds, peak memory in MB and the files' digest.
    """
    # One process's tokenizer would use all cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processes])
    import time

    from stages.distil.encoding.writing import Job, encode_splits
    from stages.distil.weights.folders import model_folder

    settings = parameters()
    student = settings.student
    limits = settings.evaluate.max_tokens, settings.evaluate.reasoning_tokens
    job = Job(model_folder(student.model), student, tuple(settings.teachers), *limits)
    start = time.perf_counter()
    encode_splits(job, processes)
    seconds = time.perf_counter() - start
    digest = hashlib.sha256()
    for file in sorted(tables.ENCODED.iterdir()):
        digest.update(file.read_bytes())
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    memory = max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024
    return {"seconds": seconds, "memory_mb": memory, "digest": digest.hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000, help="questions (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(encode(arguments.part)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for part in (INPUTS, "assemble"):
            measure(part, arguments.rows, folder)
        runs = []
        for processes in (1, arguments.processes):
            command = [sys.executable, "-m", "benchmarks.encode", "--part", str(processes)]
            environment = os.environ | {"PYTHONPATH": str(PROJECT)}
            done = subprocess.run(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{processes} processes: {runs[-1]['seconds']:.1f} s", flush=True)
    one, several = runs
    result = {
        "us_per_question": round(one["seconds"] / arguments.rows * 1e6),
        "speedup": round(one["seconds"] / several["seconds"], 2),
        "same_files": one["digest"] == several["digest"],
        "memory_mb": round(max(run["memory_mb"] for run in runs)),
        "rows": arguments.rows,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(report_errors("encode", debug=False, action=main))
