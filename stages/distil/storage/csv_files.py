"""Tables for people and plots, as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.distil.interface.escaping import for_csv

TableRows = list[dict[str, Any]]  # rows of a table in memory, by the names of its columns


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return these columns of rows as CSV with a header, texts escaped by `for_csv`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: for_csv(row.get(name)) for name in columns} for row in rows)
    return text.getvalue()
