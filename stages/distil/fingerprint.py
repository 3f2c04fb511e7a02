"""What tells one model's weights from another's, so that nothing computed is taken for another's.

Knows catalogue entries and folders.
"""

import hashlib
from pathlib import Path
from typing import Any

from stages.distil.parameters import FolderModel, Model


def fingerprint(source: Model, folder: Path) -> Any:
    """Return a JSON value: a catalogue entry, or for a local folder its files' content."""
    return digest(folder) if isinstance(source, FolderModel) else source.model_dump(mode="json")


def digest(folder: Path) -> str:
    """Return the sha256 of a folder's files, their names and content."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with file.open("rb") as stream:
                found.update(f"{file.name}\0".encode())
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()
