"""The command line: its arguments, and running a stage, with its time and exit code."""

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from stages.distil.interface.errors import one_line, report_errors
from stages.distil.interface.parameters import Parameters, load_parameters
from stages.distil.interface.paths import PARAMETERS
from stages.distil.interface.processes import (
    end_on_signals,
    end_with_dvc,
    item_of_dvc,
    run_alone,
)

TIMES = Path("results/times")  # not a DVC output: times differ between runs


def command_line(program: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a program's arguments, of which `--debug` is one."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run_stage(
    stage: Callable[..., None],
    description: str,
    item: tuple[str, str] | None = None,
    launch: Callable[[Parameters], None] | None = None,
) -> None:
    """Parse the command line, run `stage(parameters[, item])` and exit with its exit code.

    `item` is the (name, help) of an argument, such as the teacher's name; DVC gives it in a
    variable. `launch` may replace this process by one that starts several. A `UserError` or
    `OSError` becomes one line on stderr and exit code 1.
    """
    name = Path(sys.argv[0]).stem
    parser = command_line(f"python -m stages.{name}", description)
    if item:
        given = item_of_dvc(name)
        parser.add_argument(f"--{item[0]}", default=given, required=not given, help=item[1])
    parser.add_argument("--params", default=PARAMETERS, help="parameter file (%(default)s)")
    arguments = parser.parse_args()
    quiet_libraries(arguments.debug)
    end_on_signals(name)
    end_with_dvc()
    items = [getattr(arguments, item[0])] if item else []

    def run() -> None:
        start = time.monotonic()
        parameters = load_parameters(arguments.params)
        if launch:
            launch(parameters)
        label = "@".join([name, *items])
        # The main process writes the files.
        with run_alone(label) if is_main_process() else nullcontext():
            if is_main_process():
                for left_over in TIMES.glob("*.tmp"):  # by a process that was killed
                    left_over.unlink(missing_ok=True)
            stage(parameters, *items)
            if is_main_process():
                seconds = time.monotonic() - start
                _keep_time(label, seconds)
                print(f"{label}: done in {seconds:.0f} s", file=sys.stderr)

    code = report_errors(name, arguments.debug, run)
    if "RANK" in os.environ:
        # In a multi-process run, a gloo thread that frees a tensor during interpreter shutdown
        # aborts the process (pytorch/pytorch#179291), so skip the shutdown.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def is_main_process() -> bool:
    """Return whether this process writes files: it is rank 0, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def quiet_libraries(debug: bool) -> None:
    """Limit libraries to error messages, and progress bars to terminals."""
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


def keep_rate(name: str, answers: int, seconds: float | None) -> None:
    """Write how many questions a model answered and in how many seconds, if there were any.

    If the seconds are not known, those of an earlier run are removed.
    """
    if seconds is None:
        with suppress(OSError):
            (TIMES / f"answers@{name}.json").unlink()
    elif answers:
        _keep_time(f"answers@{name}", seconds, answers=answers)


def _keep_time(label: str, seconds: float, **counts: int) -> None:
    text = json.dumps({"seconds": round(seconds, 1)} | counts)
    file = TIMES / f"{label}.json"
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        TIMES.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text + "\n")
        temporary.replace(file)
    except OSError as error:  # the stage's results are written, and count
        with suppress(OSError):
            temporary.unlink()
        print(f"{label}: warning: its time is not kept: {one_line(error)}", file=sys.stderr)
