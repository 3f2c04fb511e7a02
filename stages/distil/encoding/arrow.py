"""Rows in memory-mapped Arrow files: written once, read by number, shared by processes."""

import fcntl
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import pyarrow as pa
from datasets import Dataset

from stages.distil.models.batching import in_parts
from stages.distil.weights.folders import whole_folder

BATCH = 1024  # rows of a record batch
KEY = "key"
T = TypeVar("T")


class Rows(Sequence[T]):
    """The rows of a file of `write_rows`, each read when it is asked for.

    The file is mapped, not loaded: the processes of a machine share the pages that they read, and
    the system drops pages when it needs the memory.
    """

    def __init__(self, path: Path, read: Callable[[dict[str, Any]], T]):
        """Take the file, and what turns a row into an item of the sequence."""
        self._rows = Dataset.from_file(str(path))
        self._read = read

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        return self._read(self._rows[number])


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to an Arrow file; memory holds BATCH of them."""
    with pa.ipc.new_stream(str(path), schema) as file:
        for part in in_parts(rows, BATCH):
            file.write_batch(pa.RecordBatch.from_pylist(part, schema=schema))


def fill_once(folder: Path, key: str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, unless it was filled with this key before.

    One of the processes that share the folder writes, and the others wait for it without a limit,
    as no collective operation could. A folder with another key is replaced when the new one is
    complete; a process that is killed leaves none under this name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, also by a kill
        owner = folder / KEY
        if owner.is_file() and owner.read_text(encoding="utf-8") == key:
            return
        shutil.rmtree(folder, ignore_errors=True)  # before more is written to the disk
        with whole_folder(folder) as staging:
            write(staging)
            (staging / KEY).write_text(key, encoding="utf-8")
