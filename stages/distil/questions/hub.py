"""Records from a data set of the Hugging Face Hub, or from a local folder in its format.

Code that comes with a data set is never run.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import pyarrow as pa

from stages.distil.interface.catalogue import Hub
from stages.distil.interface.errors import UserError, one_line
from stages.distil.interface.paths import locate, locate_folder
from stages.distil.questions.files import json_text, read_columns
from stages.distil.storage.examples import Record

CACHE = Path(".cache/datasets")  # one folder per revision: `datasets` would reuse another revision


def read(settings: Hub, split: str) -> Iterator[Record]:
    """Yield the records of a split in order; class labels stay numbers."""
    name = settings.id or str(settings.folder)
    if settings.folder is not None:
        locate_folder(settings.folder, "datasets.*.folder")
    part = getattr(settings.splits, split)
    rows = _load(settings, name, part)
    for number in range(len(rows)):
        try:
            value = rows[number]
        except Exception:  # whatever the decoding of a column raises
            value = read_columns(
                {column: partial(rows[column].__getitem__, number) for column in rows.column_names}
            )
        yield Record(split, f"{name} {part}", number + 1, json_text(value), value)


def _load(settings: Hub, name: str, part: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # its errors are raised too
    try:
        return datasets.load_dataset(
            settings.id or str(locate(Path(name))),
            name=settings.config,
            split=part,
            revision=settings.revision,
            cache_dir=str(CACHE / (settings.revision or "local")),
        )
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        advice = " (HF_TOKEN opens a gated data set, HF_ENDPOINT names a mirror)"
        raise UserError(
            f"cannot load data set {name}: {one_line(error)}{advice if settings.id else ''}"
        ) from error
    except Exception as error:  # an unknown split, or whatever the readers of the files raise
        other = advice = ""
        if isinstance(error, DatasetGenerationError | pa.ArrowException | EOFError | StopIteration):
            # `datasets` prepares all splits at once and does not say which one is at fault.
            other = " or another"
            advice = (
                "; read its files with `source: files`, which accepts files that differ and names "
                "a bad file or row"
            )
        raise UserError(
            f"data set {name}, split {part!r}{other}: {_reason(error)}{advice}"
        ) from error


def _reason(error: BaseException) -> str:
    from datasets.table import CastError

    while error.__cause__:
        error = error.__cause__
    if isinstance(error, CastError):
        return f"its files differ in their columns: {error.details()}"
    if isinstance(error, StopIteration):
        return "its first file has no rows"
    return shorten(one_line(error), 500)
