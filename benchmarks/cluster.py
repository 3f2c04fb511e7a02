"""Teachers and attribution on a Ray cluster: speed beside one process, and what failures cost.

Two nodes on this machine, one on each of two cores, write a teacher's texts and score the words of
the same questions as one process on both cores, in float32. Then a worker is ended by `kill -9` and
the second node is taken away in mid-run. Run from the project's folder after `make repro` and
`make ray`:
    stages/python -m benchmarks.cluster [--questions 512] [--teacher smollm2-135m]
The last line is a JSON object. `vs_one_process` compares questions per second, without the starts
of the workers; `same_table` says whether the tables of the cluster, with and without failures, are
the bytes of one process with as many threads as a worker, since sums of floats depend on these;
`lost` and `doubled` count the rows of the run with failures. Keys that end in `_saliency` are for
the attribution.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.loopback import PROJECT, Node, loopback
from benchmarks.rationales import prepare_folder, write_parameters
from stages.distil.attribution.teacher import load_teacher
from stages.distil.interface.errors import report_errors
from stages.distil.teachers.selection import load_backend

KEYS = {"rationales": "", "saliency": "_saliency"}  # the ends of the keys of each stage
TABLES = {"rationales": "rationales/{teacher}", "saliency": "saliency"}
STORES = {"rationales": "generations", "saliency": "attributions"}
CHANGES = {
    "rationales": {"examples": "none", "dtype": "float32"},
    "saliency": {"of": "question", "dtype": "float32", "batch_tokens": 1024},
}
BLOCK = {"rationales": 64, "saliency": 2}  # of requests: texts, or batches of questions


class Timed:
    """A backend that notes when it begins and ends to compute."""

    def __init__(self, backend: Any, times: str):
        self._backend = backend
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def complete(self, requests: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield as the backend does."""
        start = time.time()
        yield from self._backend.complete(requests)
        self._note(start)

    def compute(self, batch: Any) -> Any:
        """Compute as the backend does."""
        start = time.time()
        result = self._backend.compute(batch)
        self._note(start)
        return result

    def _note(self, start: float) -> None:
        with open(self._times, "a") as file:
            file.write(f"{start} {time.time()}\n")


def timed_backend(times: str, *arguments: Any) -> Timed:
    """Load a teacher as the stage `rationales` does; workers import this function."""
    return Timed(load_backend(*arguments), times)


def timed_teacher(times: str, *arguments: Any, **options: Any) -> Timed:
    """Load a teacher as the stage `saliency` does; workers import this function."""
    return Timed(load_teacher(*arguments, **options), times)


def run_stage(stage: str, teacher: str, times: str) -> None:
    """Run a stage, here or on the cluster, and note the times of its backends."""
    from benchmarks import cluster  # under the name that workers import
    from stages import rationales, saliency
    from stages.distil.attribution import word_scores
    from stages.distil.interface.command import quiet_libraries
    from stages.distil.interface.parameters import load_parameters
    from stages.distil.teachers import selection

    quiet_libraries(False)
    parameters = load_parameters("params.yaml")
    if stage == "rationales":
        selection.load_backend = partial(cluster.timed_backend, times)  # type: ignore
        rationales.rationales(parameters, teacher)
    else:
        word_scores.load_teacher = partial(cluster.timed_teacher, times)  # type: ignore
        saliency.saliency(parameters)


def run(
    stage: str,
    teacher: str,
    cluster: dict[str, Any],
    disturb: Any = None,
    prefix: Sequence[str] = (),
) -> dict[str, Any]:
    """Run a stage from an empty store, in a process; return its table's bytes and its times."""
    values = YAML(typ="safe").load(Path("params.yaml"))
    write_parameters(values | {"cluster": cluster})
    shutil.rmtree(".cache", ignore_errors=True)
    times = Path(tempfile.mkdtemp(dir=".")).resolve() / "times"
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "benchmarks.cluster", "--teacher", teacher]
        + ["--stage", stage, "--times", str(times)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    if disturb:
        disturb(process)
    if process.wait():
        sys.exit(process.returncode)
    table = Path(f"data/{TABLES[stage].format(teacher=teacher)}.parquet")
    spans = [tuple(map(float, line.split())) for line in times.read_text().splitlines()]
    if stage == "rationales":
        spans.pop()  # of the test question, after the others
    return {"table": table.read_bytes(), "spans": spans, "path": table}


def kill_in_mid_run(
    stage: str, nodes: list[Node], total: int, process: subprocess.Popen[bytes]
) -> None:
    """Kill a worker when a quarter of the results are stored, and a node when half of them are."""
    for share, kill in (
        (0.25, lambda: nodes[0].workers()[0].kill()),
        (0.5, nodes[1].kill),
    ):
        while stored(stage) < share * total:
            if process.poll() is not None:
                sys.exit("the run ended before it could be disturbed; raise --questions")
            time.sleep(0.1)
        print(f"{stage}: {stored(stage)} of {total} results are stored, killing", flush=True)
        kill()


def stored(stage: str) -> int:
    """Return the number of results in a stage's store."""
    path = Path(f".cache/{STORES[stage]}/{STORES[stage]}.sqlite")
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            return database.execute(f"SELECT count(*) FROM {STORES[stage]}").fetchone()[0]
    except sqlite3.OperationalError:  # not yet there
        return 0


def measure(stage: str, teacher: str, questions: int) -> dict[str, Any]:
    """Compare one process with the cluster, and with the cluster under failures."""
    import pyarrow.parquet as pq

    alone = run(stage, teacher, {"engine": None})
    total = stored(stage)
    one_core = run(stage, teacher, {"engine": None}, prefix=("taskset", "--cpu-list", "0"))
    with loopback([1, 1], pin=True) as (address, nodes):
        cluster = {"engine": "ray", "address": address, "gpus": 0, "block": BLOCK[stage]}
        calm = run(stage, teacher, cluster)
        disturbed = run(stage, teacher, cluster, partial(kill_in_mid_run, stage, nodes, total))
    busy = sum(end - start for start, end in alone["spans"])
    starts, ends = zip(*calm["spans"], strict=True)
    span = max(ends) - min(starts)
    print(f"{stage}: {questions} questions, one process {busy:.1f} s, two nodes {span:.1f} s")
    ids = Counter(pq.read_table(disturbed["path"], columns=["id"])["id"].to_pylist())
    expected = questions + (stage == "rationales")  # and one test question
    end = KEYS[stage]
    return {
        f"vs_one_process{end}": round(busy / span, 3),
        f"same_table{end}": one_core["table"] == calm["table"] == disturbed["table"],
        f"lost{end}": expected - len(ids),
        f"doubled{end}": ids.total() - len(ids),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=512, help="train questions (%(default)s)")
    parser.add_argument("--teacher", default="smollm2-135m", help="(%(default)s)")
    parser.add_argument("--stages", nargs="*", default=list(KEYS), help="(%(default)s)")
    parser.add_argument("--stage", choices=KEYS, help=argparse.SUPPRESS)
    parser.add_argument("--times", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.teacher, arguments.times)
        return
    result: dict[str, Any] = {}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; both nodes share the memory
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare_folder(arguments.teacher, arguments.questions, CHANGES)
        for stage in arguments.stages:
            result |= measure(stage, arguments.teacher, arguments.questions)
        os.chdir(PROJECT)
    print(json.dumps(result | {"questions": arguments.questions, "teacher": arguments.teacher}))


if __name__ == "__main__":
    sys.exit(report_errors("cluster", debug=False, action=main))
