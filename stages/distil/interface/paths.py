"""Where the folders and files are that parameters name, and how small ones are read."""

import os
from pathlib import Path

from stages.distil.interface.errors import UserError

PARAMETERS = Path("params.yaml")
LOCK = Path("dvc.lock")  # where DVC notes what every stage read and wrote
EXPERIMENTS = Path(".dvc/tmp/exps")  # DVC runs queued and temporary experiments in copies there


def locate(path: Path) -> Path:
    """Return where a path of the parameters leads, for messages to keep it as the user wrote it.

    A relative path starts from the project's folder. An experiment's copy of it holds what git
    tracks: what is outside or missing there is in the project itself.
    """
    project = next((p.parents[2] for p in Path.cwd().parents if p.match(str(EXPERIMENTS))), None)
    outside = Path(os.path.normpath(path)).parts[:1] == ("..",)
    if project is None or (path.exists() and not outside):
        return path
    return project / path


def locate_folder(path: Path, key: str) -> Path:
    """Return where the folder leads that a parameter names; raise `UserError` if it is missing."""
    folder = locate(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; set {key}")
    return folder


LONGEST_TEXT = 2**20  # bytes of a file of settings or of a prompt


def read_text(path: str | Path) -> str:
    """Read a text file that a person wrote, such as parameters or a prompt.

    Raises `UserError` if it is a device or a pipe, which might never end, or too long.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: expected a file, found a folder, device or pipe")
    with open(path, "rb") as file:
        content = file.read(LONGEST_TEXT + 1)
    if len(content) > LONGEST_TEXT:
        raise UserError(f"{path}: longer than {LONGEST_TEXT // 2**20} MiB; is it the right file?")
    return content.decode()
