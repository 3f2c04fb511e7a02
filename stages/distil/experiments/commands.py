"""DVC's own commands, run as a user would run them."""

import os
import subprocess
import sys
from pathlib import Path

from stages.distil.interface.errors import UserError


def dvc(*arguments: str, threads: int | None = None, show: bool = False) -> str:
    """Run a command of DVC and return what it prints, or `show` it; raise `UserError` if it fails.

    `threads` are those of each training, unless the environment says how many they have.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, env=_environment(threads), capture_output=not show, text=True)
    if done.returncode:
        said = [line for line in (done.stderr or "").splitlines() if line.strip()]
        reason = next((line for line in said if line.startswith("ERROR: ")), "its message is above")
        raise UserError(f"`dvc {' '.join(arguments[:2])}` failed: {reason.removeprefix('ERROR: ')}")
    return done.stdout or ""


def _environment(threads: int | None) -> dict[str, str]:
    defaults = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        # DVC commits each experiment, and git has no name to use.
        for who in ("AUTHOR", "COMMITTER"):
            defaults |= {
                f"GIT_{who}_NAME": "experiments",
                f"GIT_{who}_EMAIL": "experiments@localhost",
            }
    # DVC's workers call `dvc` by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return defaults | os.environ | {"PATH": path}
