"""Join a Ray cluster, and find out how many copies of a model it has room for.

Whatever does not fit is reported before any work begins: Ray itself would wait for ever.
"""

import importlib.util
import logging
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

from stages.distil.interface.errors import UserError, one_line
from stages.distil.interface.method import Cluster

PACKAGE = Path(__file__).parents[2]  # `stages`, which the driver sends to the workers
# Of the driver, for its workers: `stages/python` sets them, and the first decides the rounding.
ENVIRONMENT = (
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
    "THP_MEM_ALLOC_ENABLE",
)
SETTINGS = {  # of Ray in this process
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the libraries' own messages; errors are raised as well
    "RAY_ENABLE_AUTO_CONNECT": "0",  # or a thread that outlives the run would start a cluster
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Ray's setting for systems on which it has no clusters: its servers listen on 127.0.0.1 alone.
# Otherwise they listen on all interfaces, and their metrics answer without a token.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
ANSWER_TIMEOUT = 10  # seconds to wait for the address
RELEASE_TIMEOUT = 30  # seconds to wait for what a program that has just ended leaves behind


def connect(cluster: Cluster) -> None:
    """Join or start the cluster; raise `UserError` in one line if there is none that fits."""
    if importlib.util.find_spec("ray") is None:
        raise UserError("cluster.engine: Ray is not installed; run `make ray`, on every machine")
    local = cluster.address == "local"
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if local:
        # Others on this machine must not run code in it.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ |= LOOPBACK
    elif cluster.address != "auto":
        _require_answer(cluster.address)
    import ray

    if ray.is_initialized():
        return
    variables = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    try:
        context = ray.init(
            address=cluster.address,
            runtime_env={"py_modules": [str(PACKAGE)], "env_vars": variables},
            include_dashboard=False if local else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise UserError(
            f"cluster.address: {cluster.address}: {one_line(error)[:400]}; {_advice(error)}"
        ) from error
    session = context.address_info["session_dir"]
    print(f"cluster: the workers' logs are in {session}/logs on each machine", file=sys.stderr)


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_TIMEOUT).close()
    except OSError as error:
        raise UserError(
            f"cluster.address: {address} does not answer ({one_line(error)}); start Ray there with "
            "`ray start --head`, or set cluster.address to auto or local"
        ) from error


def _advice(error: Exception) -> str:
    if "ersion mismatch" in str(error):
        return "every machine needs the same Python, and Ray from `make ray`"
    return (
        "start Ray there with `ray start --head`, with the RAY_AUTH_MODE and token that are set "
        "here, or set cluster.address to local"
    )


class Capacity:
    """The share of a cluster that a copy of a model takes, and the copies that fit.

    A copy takes `gpus` GPUs. If that is 0, it takes as many cores as the smallest machine has:
    without a cluster, too, a copy has all cores of its machine.
    """

    def __init__(self, cluster: Cluster, gpus: int):
        """Measure the cluster; `gpus` is the number of a copy's GPUs."""
        self._workers = cluster.workers
        cores = min((machine["CPU"] for machine in _machines()), default=0)
        if not cores:
            raise UserError("cluster: no machine lends a core; start Ray with --num-cpus 1 or more")
        self.share: dict[str, float] = {"CPU": 1, "GPU": gpus} if gpus else {"CPU": cores}

    def copies(self) -> int:
        """Return the number of copies that the machines of the cluster hold now."""
        if "GPU" not in self.share:
            return len([m for m in _machines() if m["CPU"] >= self.share["CPU"]])
        return sum(_fitting(machine, self.share) for machine in _machines())

    def reserve(self) -> int:
        """Return the number of copies to run; raise `UserError` if the cluster lacks room."""
        import ray

        total = self.copies()
        wanted = total if self._workers == "auto" else self._workers
        share = ", ".join(f"{count:g} {name}" for name, count in self.share.items())
        if not total or wanted > total:
            raise UserError(
                f"cluster.workers: expected room for {wanted or 1} with {share} each, but the "
                f"cluster has room for {total}; lower cluster.workers, set cluster.gpus to 0, or "
                "add machines"
            )
        deadline = time.monotonic() + RELEASE_TIMEOUT
        while (free := _fitting(ray.available_resources(), self.share)) < wanted:
            if time.monotonic() > deadline:
                if free and self._workers == "auto":
                    return free
                raise UserError(
                    f"cluster.workers: expected room for {wanted} with {share} each, but other "
                    f"programs leave room for {free}; end them, or lower cluster.workers"
                )
            time.sleep(1)
        return wanted


def _machines() -> list[dict[str, Any]]:
    """Return the resources of each machine of the cluster that lends a core."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [machine for machine in machines if machine.get("CPU")]


def _fitting(resources: dict[str, Any], share: dict[str, float]) -> int:
    return int(min(resources.get(name, 0) // count for name, count in share.items()))
