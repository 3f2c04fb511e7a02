"""Records from a data set of the Hugging Face Hub, or from a local folder in its format.

Code that comes with a data set is never run.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.distil.interface.catalogue import Hub
from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import locate
from stages.distil.storage.examples import Record

CACHE = Path(".cache/datasets")  # one folder per revision: `datasets` would reuse another revision


def read(settings: Hub, split: str) -> Iterator[Record]:
    """Yield the records of a split in order; class labels stay numbers."""
    name = settings.id or str(settings.folder)
    if settings.folder is not None and not locate(settings.folder).is_dir():
        raise UserError(f"{settings.folder}: no such folder; set datasets.*.folder")
    part = getattr(settings.splits, split)
    for number, value in enumerate(_load(settings, name, part), start=1):
        text = json.dumps(value, default=str, ensure_ascii=False)
        yield Record(split, f"{name} {part}", number, text, value)


def _load(settings: Hub, name: str, part: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(
            settings.id or str(locate(Path(name))),
            name=settings.config,
            split=part,
            revision=settings.revision,
            cache_dir=str(CACHE / (settings.revision or "local")),
        )
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot load data set {name}: {reason} (HF_TOKEN opens a gated data set, HF_ENDPOINT "
            "names a mirror)"
        ) from error
    except (ValueError, RuntimeError) as error:  # an unknown split or configuration, a script
        reason = str(error).splitlines()[0]
        raise UserError(f"data set {name}, split {part!r}: {reason}") from error
