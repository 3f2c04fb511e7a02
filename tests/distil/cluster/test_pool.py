"""Teachers and attribution on a Ray cluster that loses workers, a node, and its driver."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from benchmarks.cluster import stored
from benchmarks.loopback import loopback
from stages.distil.attribution.word_scores import ATTRIBUTIONS
from stages.distil.cluster import connection, pool
from stages.distil.cluster.pool import Pool
from stages.distil.interface.command import quiet_libraries
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.method import Cluster
from stages.distil.storage import tables
from stages.distil.teachers.writer import GENERATIONS
from tests.conftest import ROOT, question, write_jsonl

with_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: `make ray`"
)
slow = pytest.mark.slow


class Backend:
    """Doubles numbers, and notes in a file each request that it begins."""

    def __init__(self, notes: Path, seconds: float = 0.0, killing: int | None = None):
        self._notes, self._seconds, self._killing = notes, seconds, killing

    def complete(self, requests):
        for request in requests:
            with self._notes.open("a") as file:
                file.write(f"{request}\n")
            if request == self._killing:
                os.kill(os.getpid(), signal.SIGKILL)
            if request == "refused":
                raise UserError("what the user can fix")
            time.sleep(self._seconds)
            yield request, request * 2


@pytest.fixture(scope="module")
def cluster():
    """The address and the nodes of a cluster of two nodes with a core each."""
    with loopback([1, 1]) as (address, nodes):
        yield address, nodes


@slow
@with_ray
def test_a_local_cluster_listens_on_loopback_alone():
    program = """
import psutil
from stages.distil.cluster.connection import connect
from stages.distil.interface.method import Cluster
connect(Cluster(engine="ray", address="local"))
own = psutil.Process()
for process in [own, *own.children(recursive=True)]:
    for socket in process.net_connections("inet"):
        if socket.status == psutil.CONN_LISTEN:
            print(socket.laddr.ip)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    addresses = {line for line in done.stdout.splitlines() if re.fullmatch(r"[0-9a-f.:]+", line)}
    assert addresses and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


@pytest.fixture
def make_pool():
    """A function that joins a cluster; the test leaves it at its end."""

    def make(address: str, start=None, **settings) -> Pool:
        settings = {"engine": "ray", "address": address, "gpus": 0, "block": 10} | settings
        return Pool(start, Cluster(**settings), str, settings["gpus"])

    yield make
    if ray := sys.modules.get("ray"):  # imported by the pool, which first sets its variables
        ray.shutdown()


def test_without_ray_the_run_ends_before_any_work(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Ray is not installed; run `make ray`"):
        Pool(Backend, Cluster(engine="ray"), str, 1)


@with_ray
def test_an_address_that_does_not_answer_is_reported(make_pool):
    with pytest.raises(UserError, match=r"127.0.0.1:1 does not answer \(Connection refused\)"):
        make_pool("127.0.0.1:1")


@slow
@with_ray
def test_too_little_room_is_reported_before_any_work(cluster, make_pool, monkeypatch):
    address, _ = cluster
    with pytest.raises(UserError, match="room for 3 with 1 CPU each, but the cluster has room for"):
        make_pool(address, workers=3)
    with pytest.raises(
        UserError, match="room for 1 with 1 CPU, 4 GPU each, but the cluster has ro"
    ):
        make_pool(address, gpus=4)
    import ray

    monkeypatch.setattr(connection, "RELEASE_TIMEOUT", 1)
    other = ray.remote(num_cpus=1)(Backend).remote(Path("notes"))
    ray.get(other.__ray_ready__.remote())
    assert make_pool(address)._workers == 1  # auto: what is free
    with pytest.raises(UserError, match="room for 2 with 1 CPU each, but other programs leave roo"):
        make_pool(address, workers=2)


@slow
@with_ray
def test_a_request_that_kills_its_workers_is_named_and_the_others_finish(
    cluster, make_pool, tmp_path
):
    workers = make_pool(cluster[0], partial(Backend, tmp_path / "notes", killing=41))
    results = {}
    with pytest.raises(UserError, match="1 of the requests killed their workers 4 times, .* 41;"):
        for request, result in workers.complete(range(100)):
            results[request] = result
    assert results == {n: 2 * n for n in range(100) if n != 41}
    begun = Counter((tmp_path / "notes").read_text().split())
    assert begun.pop("41") == 4
    assert {n for n, count in begun.items() if count > 1} <= {str(n) for n in range(40, 50)}


@slow
@with_ray
def test_an_error_for_the_user_ends_the_run(cluster, make_pool, tmp_path):
    workers = make_pool(cluster[0], partial(Backend, tmp_path / "notes"), block=1)
    with pytest.raises(UserError, match="^what the user can fix$"):
        list(workers.complete(["a", "refused"]))
    workers = make_pool(cluster[0], partial(Backend, "no path"))
    with pytest.raises(UserError, match="AttributeError: 'str' object has no attribute 'open'"):
        list(workers.complete(["a"]))


def drive(address: str, notes: str) -> None:
    """Double 300 numbers in blocks of ten, and print each; the test starts this in a process."""
    quiet_libraries(False)
    pool.CHECK, pool.PATIENCE = 1, 3

    def run() -> None:
        settings = Cluster(engine="ray", address=address, gpus=0, block=10)
        workers = Pool(partial(Backend, Path(notes), seconds=0.1), settings, str, 0)
        for request, result in workers.complete(range(300)):
            print(request, result, flush=True)

    sys.exit(report_errors("driver", False, run))


@pytest.fixture
def driver(tmp_path):
    """A function that starts `drive`."""

    def start(address: str) -> subprocess.Popen:
        module = "tests.distil.cluster.test_pool"
        arguments = f"{address!r}, {str(tmp_path / 'notes')!r}"
        return subprocess.Popen(
            [sys.executable, "-c", f"from {module} import drive; drive({arguments})"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@slow
@with_ray
def test_a_killed_worker_costs_its_block_and_a_lost_node_no_request(driver, tmp_path):
    with loopback([0, 1, 1]) as (address, nodes):
        running = driver(address)
        results: Counter[str] = Counter()
        for line in running.stdout:
            if not re.fullmatch(r"\d+ \d+\n", line):
                continue  # Ray says that something died
            results[line.strip()] += 1
            if results.total() == 20:
                nodes[1].workers()[0].kill()
            if results.total() == 100:
                nodes[2].kill()
        assert running.wait() == 0, running.stderr.read()
        assert results == Counter(f"{n} {2 * n}" for n in range(300))
        begun = Counter((tmp_path / "notes").read_text().split())
        assert sum(count - 1 for count in begun.values()) <= 2 * 10
        running = driver(address)
        assert running.stdout.readline() == "0 0\n"
        nodes[1].kill()
        _, errors = running.communicate()
        assert running.returncode == 1
        assert "driver: error: cluster: no machine has had room for a worker for 3 s" in errors
        assert "Traceback" not in errors


@pytest.fixture
def project(tmp_path, write_params, tiny_model, run_stage, monkeypatch):
    """Prepare questions for a tiny teacher; the function writes the parameters of its cluster."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(
        tmp_path / "balls",
        train=[question(n) for n in range(60)],
        validation=[question(0, "validation")],
        test=[question(n, "test") for n in range(20)],
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny").symlink_to(tiny_model)

    def write(**settings) -> Path:
        return write_params(
            {
                "teachers": ["tiny"],
                "models/tiny": {"source": "folder", "path": str(tiny_model)},
                "data/name": "balls",
                "datasets/balls": {"source": "files", "folder": str(tmp_path / "balls")},
                "rationales/examples": "none",
                "rationales/backend": "transformers",
                "rationales/dtype": "float32",
                "rationales/max_tokens": 8,
                "saliency/teacher": "tiny",
                "saliency/dtype": "float32",
                "saliency/batch_tokens": 256,
                "saliency/target": "prediction",
                "cluster": settings,
            }
        )

    write()
    assert run_stage("prepare").returncode == 0
    return write


@slow
@with_ray
def test_a_killed_driver_resumes_and_the_tables_are_those_of_one_machine(
    cluster, project, run_stage
):
    rationales = tables.rationale_table("tiny")
    for stage in (["rationales", "--teacher", "tiny"], ["saliency"]):
        assert run_stage(*stage).returncode == 0
    expected = rationales.read_bytes(), tables.SALIENCY.read_bytes()
    for path in (rationales, tables.SALIENCY, GENERATIONS, ATTRIBUTIONS):
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    project(engine="ray", address=cluster[0], gpus=0, block=4)
    driver = subprocess.Popen(
        [sys.executable, "-m", "stages.rationales", "--teacher", "tiny"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while stored("rationales") < 8:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    kept = stored("rationales")
    assert 8 <= kept < 80
    done = run_stage("rationales", "--teacher", "tiny")
    assert done.returncode == 0, done.stderr
    assert f"{80 - kept} new, {kept} found" in done.stderr
    assert done.stderr.count("\n") < 40  # the workers' messages are in their logs
    done = run_stage("saliency")
    assert done.returncode == 0, done.stderr
    assert " 0 found" in done.stderr
    assert (rationales.read_bytes(), tables.SALIENCY.read_bytes()) == expected
    assert "0 new" in run_stage("saliency").stderr
