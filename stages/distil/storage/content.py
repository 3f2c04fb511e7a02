"""What is in files outside the pipeline: digests, of which those of unchanged files are remembered.

Knows neither models nor data sets.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.distil.storage.tables import write_text

SOURCES = Path("data/sources")  # what `sources` writes: a folder per catalogue, a file per entry
REMEMBERED = Path(".cache/sources/digests.json")


def content(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its path below the folder.

    A file whose size, time of change and inode are as before is not read again.
    """
    remembered = _remembered()
    found, changed = {}, False
    for file in files:
        status = file.stat()
        key, state = str(file.absolute()), [status.st_size, status.st_mtime_ns, status.st_ino]
        if remembered.get(key, [])[:-1] != state:
            remembered[key], changed = [*state, file_digest(file)], True
        found[file.relative_to(folder).as_posix()] = remembered[key][-1]
    if changed:
        write_text(REMEMBERED, json.dumps(remembered))
    return found


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remembered() -> dict[str, list[Any]]:
    try:
        return json.loads(REMEMBERED.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # lost or damaged: all files are read again
        return {}
