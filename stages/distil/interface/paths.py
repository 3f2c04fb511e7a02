"""Where the folders and files are that parameters name."""

import os
from pathlib import Path

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
