"""Rows of delimited text: CSV and TSV."""

import csv
import io
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, AnyStr

from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import locate

DELIMITERS = (",", ";", "\t")
LONGEST_ROW = 16 * 2**20  # bytes or characters of a line, and of a cell
TOO_LONG = f"a row is longer than {LONGEST_ROW // 2**20} MiB"
UNPACKED = 2**26  # bytes or characters that any file may unpack to
EXPANSION = 200  # times its size that a larger file may unpack to; texts take 3 to 20


def lines(stream: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """Yield the lines of a file; raise `UserError` at one longer than LONGEST_ROW.

    So neither a file that unpacks to one endless line nor one that is not what its name says fills
    the memory. One that unpacks to far more than its size is an error too.
    """
    most = max(UNPACKED, EXPANSION * locate(path).stat().st_size)
    number = length = 0
    while line := stream.readline(LONGEST_ROW + 1):
        number += 1
        length += len(line)
        if len(line) > LONGEST_ROW:
            raise UserError(f"{path}, row {number}: {TOO_LONG}; is it in the format of its name?")
        if length > most:
            raise UserError(
                f"{path}, row {number}: it unpacks to more than {EXPANSION} times its size; if "
                "these are questions, unpack it first"
            )
        yield line


def read(
    stream: io.BufferedReader, path: Path, delimiter: str
) -> Iterator[tuple[int, str, dict[str, str] | None, str]]:
    """Yield the line number, text, value and error of each row below the header.

    A header without the delimiter, but with another one, sets that one. Raises `UserError` if the
    header is not valid.
    """
    csv.field_size_limit(LONGEST_ROW)
    # A byte that is not UTF-8 becomes a surrogate, so that only its row is refused.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = lines(text, path)
    top: list[str] = []  # up to the header's first line
    for line in rows:
        top.append(line)
        if line.strip():
            break
    delimiter = next((d for d in (delimiter, *DELIMITERS) if d in "".join(top)), delimiter)
    header: list[str] | None = None
    for number, raw, cells, error in _records(path, chain(top, rows), delimiter):
        raw = raw.rstrip("\r\n")
        shown = raw.encode(errors="surrogateescape").decode(errors="replace")
        if not error and shown != raw:
            error = "not UTF-8"
        if header is None:
            header = cells
            if len(set(header)) < len(header) or "\0" in raw:
                error = error or "a column name is repeated or contains U+0000"
            if error:
                raise UserError(f"{path}: no valid header in its first line: {error}")
            continue
        yield number, shown, None if error else dict(zip(header, cells, strict=True)), error


def _records(
    path: Path, rows: Iterator[str], delimiter: str
) -> Iterator[tuple[int, str, list[str], str]]:
    """Yield the line number, text, cells and error of each record that is not blank.

    All records have as many cells as the first one, the header. A quote that is not closed
    swallows the lines below it. So if a record of several lines is not valid, only its first line
    is refused, and the other lines are read again. Raises `UserError` at a record longer than
    LONGEST_ROW.
    """
    width = 0
    number = 1
    again: deque[str] = deque()
    while (line := again.popleft() if again else next(rows, None)) is not None:
        taken: list[str] = []
        # Only the last of the lines read again may go on in the next line: a quote left open in an
        # earlier one fails where the first one did. So no line is read more than three times.
        source = chain([line], () if again else rows)
        cells, error = _parse(source, taken, delimiter)
        if sum(map(len, taken)) > LONGEST_ROW:
            raise UserError(
                f"{path}, row {number}: {TOO_LONG}, since a quote that opens here is not closed; "
                "close it, or remove the row"
            )
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
    """Return the cells of the next record, and its error; append its lines to `taken`.

    No more lines are read after LONGEST_ROW characters.
    """

    def take() -> Iterator[str]:
        length = 0
        for line in source:
            taken.append(line)
            length += len(line)
            yield line
            if length > LONGEST_ROW:
                return

    try:
        return next(csv.reader(take(), delimiter=delimiter, strict=True)), ""
    except csv.Error as error:
        reason = str(error).replace("unexpected end of data", "a quote is not closed")
        return [], f"not CSV: {reason}"
