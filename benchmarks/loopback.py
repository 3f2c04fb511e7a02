"""A Ray cluster of several nodes on this machine, for the benchmark and the tests."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PROJECT = Path(__file__).parent.parent
# Others must not run code in the clusters. Ray reads this once, when it is imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


class Node:
    """A node, which lends `cpus` cores; `core` is the only one that it computes on."""

    def __init__(self, number: int, port: int, cpus: int, core: int | None, folder: Path):
        join = ["--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
        # Ray replaces 127.0.0.1 by the machine's address; these it keeps.
        head, own = "127.0.0.2", f"127.0.0.{2 + number}"
        self._log = folder / f"node-{number}.log"
        self._process = subprocess.Popen(
            [
                *([] if core is None else ["taskset", "--cpu-list", str(core)]),
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
                *(join if number == 0 else [f"--address={head}:{port}"]),
                f"--node-ip-address={own}",
                f"--num-cpus={cpus}",
                "--num-gpus=0",
            ],
            env=os.environ | {"PYTHONPATH": str(PROJECT), "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=self._log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> None:
        """Wait until the node runs."""
        while "Ray runtime started" not in self._log.read_text():
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text())
            time.sleep(0.2)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that hold a backend."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        return [p for p in processes if any("MapWorker" in part for part in p.cmdline())]

    def kill(self) -> None:
        """End all processes of the node at once, as when a machine loses its power."""
        if self._process.poll() is None:
            parent = psutil.Process(self._process.pid)
            for process in [*parent.children(recursive=True), parent]:
                process.kill()
        self._process.wait()


@contextmanager
def loopback(cpus: Sequence[int], pin: bool = False) -> Iterator[tuple[str, list[Node]]]:
    """Start a node for each entry of `cpus`; yield the address and the nodes.

    With `pin`, node n computes on core n alone.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for the names of sockets
    nodes: list[Node] = []
    try:
        for number, count in enumerate(cpus):
            nodes.append(Node(number, port, count, number if pin else None, folder))
            nodes[-1].wait()
        yield f"127.0.0.2:{port}", nodes
    finally:
        if "ray" in sys.modules:  # a process that is in the cluster would end with its node
            sys.modules["ray"].shutdown()
        for node in reversed(nodes):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)
