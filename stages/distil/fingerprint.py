"""What tells one model's weights from another's, so that nothing computed is taken for another's.

Knows catalogue entries and folders.
"""

import hashlib
from pathlib import Path
from typing import Any

from stages.distil.parameters import FolderModel, Model


def fingerprint(source: Model, folder: Path) -> Any:
    """Return a JSON value: a catalogue entry, or for a local folder its files' content."""
    if not isinstance(source, FolderModel):
        return source.model_dump(mode="json")
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0".encode())
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
