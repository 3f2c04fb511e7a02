"""Rows of delimited text: CSV and TSV."""

import csv
import io
import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from stages.distil.interface.errors import UserError

DELIMITERS = (",", ";", "\t")


def read(
    stream: io.BufferedReader, path: Path, delimiter: str
) -> Iterator[tuple[int, str, dict[str, str] | None, str]]:
    """Yield the line number, text, value and error of each row below the header.

    A header without the delimiter, but with another one, sets that one. Raises `UserError` if the
    header is not valid.
    """
    csv.field_size_limit(sys.maxsize)
    # A byte that is not UTF-8 becomes a surrogate, so that only its row is refused.
    lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    top: list[str] = []  # up to the header's first line
    for line in lines:
        top.append(line)
        if line.strip():
            break
    delimiter = next((d for d in (delimiter, *DELIMITERS) if d in "".join(top)), delimiter)
    header: list[str] | None = None
    for number, raw, cells, error in _records(chain(top, lines), delimiter):
        raw = raw.rstrip("\r\n")
        text = raw.encode(errors="surrogateescape").decode(errors="replace")
        if not error and text != raw:
            error = "not UTF-8"
        if header is None:
            header = cells
            if len(set(header)) < len(header) or "\0" in raw:
                error = error or "a column name is repeated or contains U+0000"
            if error:
                raise UserError(f"{path}: no valid header in its first line: {error}")
            continue
        yield number, text, None if error else dict(zip(header, cells, strict=True)), error


def _records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, str, list[str], str]]:
    """Yield the line number, text, cells and error of each record that is not blank.

    All records have as many cells as the first one, the header. A quote that is not closed
    swallows the lines below it. So if a record of several lines is not valid, only its first line
    is refused, and the other lines are read again.
    """
    width = 0
    number = 1
    again: deque[str] = deque()
    while (line := again.popleft() if again else next(lines, None)) is not None:
        taken: list[str] = []
        # Only the last of the lines read again may go on in the next line: a quote left open in an
        # earlier one fails where the first one did. So no line is read more than three times.
        source = chain([line], () if again else lines)
        cells, error = _parse(source, taken, delimiter)
        if not "".join(taken).strip():
            number += len(taken)
            continue
        width = width or len(cells)
        if not error and len(cells) != width:
            error = f"expected {width} cells, found {len(cells)}"
        if error and len(taken) > 1:
            error += f" (the quoted cell that opens here runs to row {number + len(taken) - 1})"
            again.extend(taken[1:])
            del taken[1:]
        yield number, "".join(taken), cells, error
        number += len(taken)


def _parse(source: Iterator[str], taken: list[str], delimiter: str) -> tuple[list[str], str]:
    """Return the cells of the next record, and its error; append its lines to `taken`."""

    def take() -> Iterator[str]:
        for line in source:
            taken.append(line)
            yield line

    try:
        return next(csv.reader(take(), delimiter=delimiter, strict=True)), ""
    except csv.Error as error:
        reason = str(error).replace("unexpected end of data", "a quote is not closed")
        return [], f"not CSV: {reason}"
