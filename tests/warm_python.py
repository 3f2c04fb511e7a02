"""Start stages in milliseconds: as forks of a process that has imported torch and transformers.

DVC calls a stage as `$STAGES_PYTHON -m stages.train`, and each would import for seven seconds what
takes it one to compute with a tiny model. `interpreter()` is a program that runs `-m MODULE …` or
`-c PROGRAM …` in such a fork, with the caller's folder, environment, arguments and streams. The
project's modules are those of the caller's folder or PYTHONPATH. A variable that a library reads
when it is imported has no effect.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

LIBRARIES = (
    "captum.attr",
    "datasets",
    "duckdb",
    "dvclive",
    "httpx2",
    "pandas",
    "peft",
    "pydantic",
    "sklearn.feature_extraction.text",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # what libraries read on import
LENGTH = 8  # bytes of the length of a message
CLIENT = """#!{python} -I
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(message).to_bytes({length}, "big")], [0, 1, 2])
server.sendall(message)
code = int(server.makefile().read() or 1)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def interpreter() -> str:
    """Return the path of the program; start its server, whose input ends with this process."""
    folder = tempfile.mkdtemp(prefix="warm")
    address = f"{folder}/socket"
    command = [sys.executable, __file__, address]
    pipe = subprocess.PIPE
    server = subprocess.Popen(command, env=ENVIRONMENT, stdin=pipe, stdout=pipe)
    assert server.stdin and server.stdout
    atexit.register(server.stdin.close)
    assert server.stdout.readline() == b"ready\n"
    client = Path(folder, "python")
    client.write_text(CLIENT.format(python=sys.executable, address=address, length=LENGTH))
    client.chmod(0o755)
    return str(client)


def serve(address: str) -> None:
    """Import the libraries, then run each client's program in a fork, until the input ends."""
    for library in LIBRARIES:
        importlib.import_module(library)
    sys.path.remove(str(Path(__file__).parent))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended leave nothing behind
    print("ready", flush=True)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            code = _run(client)
            with contextlib.suppress(BrokenPipeError):  # the client was killed
                client.sendall(str(code).encode())
            os._exit(0)
        client.close()
    shutil.rmtree(Path(address).parent)


def _run(client: socket.socket) -> int:
    """Run a client's program in a fork of its own; return its exit code, negative for a signal.

    The fork dies with the client.
    """
    length, streams, *_ = socket.recv_fds(client, LENGTH, 3)
    with client.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(length, "big")))
    child = os.fork()
    if child:
        for descriptor in streams:
            os.close(descriptor)
        ended, _, _ = select.select([client, os.pidfd_open(child)], [], [])
        if client in ended:
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    client.close()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # A library has replaced those of the server by some that flush each line.
    sys.stdin, sys.stdout = open(0), open(1, "w")
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    flag, program, *sys.argv[1:] = arguments
    code: object = 0
    try:
        if flag == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            assert flag == "-c", arguments
            exec(program, {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve(sys.argv[1])
