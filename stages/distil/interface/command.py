"""How a stage runs from a shell: arguments, exit code, time spent.

Knows nothing of what a stage does.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from stages.distil.interface.errors import report_errors
from stages.distil.interface.parameters import Parameters, load_parameters

TIMES = Path("results/times")  # not an output of DVC: a clock is never the same twice


def run_stage(
    stage: Callable[..., None], description: str, item: tuple[str, str] | None = None
) -> None:
    """Parse the command line, run `stage(parameters[, item])` and leave with its exit code.

    `item` is (name, help) of the argument that picks one of several, such as a teacher. A
    `UserError` or a failing file becomes one line on stderr and exit code 1.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=description)
    if item:
        parser.add_argument(f"--{item[0]}", required=True, help=item[1])
    parser.add_argument("--params", default="params.yaml", help="parameter file (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    quiet_libraries(arguments.debug)
    # Leave in good order when asked to stop: what was half written is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = [getattr(arguments, item[0])] if item else []
    code = report_errors(
        name, arguments.debug, lambda: _timed(stage, name, arguments.params, chosen)
    )
    if "RANK" in os.environ:
        # One of several processes. A thread of gloo that lets go of a tensor while the interpreter
        # is torn down aborts the process (pytorch/pytorch#179291), so nothing is torn down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_main_process() -> bool:
    """Return whether this process is the only one of its stage, or the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def quiet_libraries(debug: bool) -> None:
    """Let libraries speak only of errors, and draw progress bars only on a terminal."""
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    for module in ("torch.utils.flop_counter", "torch._library.triton"):  # no triton on a CPU
        logging.getLogger(module).setLevel(logging.ERROR)
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    warnings.simplefilter("ignore")


def _timed(stage: Callable[..., None], name: str, params: str, chosen: list[str]) -> None:
    start = time.monotonic()
    parameters: Parameters = load_parameters(params)
    stage(parameters, *chosen)
    seconds = time.monotonic() - start
    if not is_main_process():
        return
    label = "@".join([name, *chosen])
    _keep_time(label, seconds)
    print(f"{label}: done in {seconds:.0f} s", file=sys.stderr)


def keep_rate(name: str, answers: int, seconds: float) -> None:
    """Write how many questions a model answered in how many seconds; nothing where it had none."""
    if answers:
        _keep_time(f"answers@{name}", seconds, answers=answers)


def _keep_time(label: str, seconds: float, **counts: int) -> None:
    TIMES.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"seconds": round(seconds, 1)} | counts)
    (TIMES / f"{label}.json").write_text(text + "\n")
