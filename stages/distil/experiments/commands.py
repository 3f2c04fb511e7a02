"""Run DVC's own commands."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from stages.distil.interface.errors import UserError


def dvc(*arguments: str, threads: int | None = None, show: bool = False) -> str:
    """Run a DVC command; return its output, or print it with `show`.

    `threads` is the number of threads of each training, unless OMP_NUM_THREADS is set. Raises
    `UserError` if the command fails.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, env=_environment(threads), capture_output=not show, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or "").splitlines() if line.startswith("ERROR: ")]
        reason = lines[0].removeprefix("ERROR: ") if lines else "see its output above"
        if "not owned by current user" in reason or "not a git repository" in reason:
            reason += '; see docs/installation.md, "Without a repository" (git\'s safe.directory)'
        raise UserError(f"`dvc {' '.join(arguments[:2])}` failed: {reason}")
    return done.stdout or ""


def set_params(changes: Iterable[str]) -> list[str]:
    """Return the arguments of `dvc exp run` that set these parameters."""
    return [argument for change in changes for argument in ("--set-param", change)]


def _environment(threads: int | None) -> dict[str, str]:
    defaults = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        # DVC commits each experiment, which fails if git has no name to use.
        for role in ("AUTHOR", "COMMITTER"):
            defaults |= {
                f"GIT_{role}_NAME": "experiments",
                f"GIT_{role}_EMAIL": "experiments@localhost",
            }
    # DVC's workers look up `dvc` on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return defaults | os.environ | {"PATH": path}
