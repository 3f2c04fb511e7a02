"""Records from files: JSON lines, JSON, CSV, TSV or Parquet, in shards, compressed or not."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.distil.interface.catalogue import Files, Split
from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import locate
from stages.distil.storage.examples import Record

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = (".gz", ".zst", ".bz2")
BOM = b"\xef\xbb\xbf"
BATCH = 1024  # rows of a Parquet file in memory at once


def read(settings: Files, split: Split) -> Iterator[Record]:
    """Yield the records of a split, file by file in the order of their paths."""
    for path in find_files(settings, split):
        try:
            yield from _read_file(path, split, settings.rows)
        except (OSError, EOFError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: cannot be read to its end ({reason}); replace it with an intact copy"
            ) from error


def find_files(settings: Files, split: Split) -> list[Path]:
    """Return the files of a split: those in `splits`, or else those named after the split.

    Their paths begin with the folder as it is written in the settings.
    """
    folder = locate(settings.folder)
    if not folder.is_dir():
        raise UserError(f"{settings.folder}: no such folder; set datasets.*.folder")
    declared = settings.splits.get(split)
    patterns = [declared] if isinstance(declared, str) else declared
    if patterns is None:
        patterns = [f"{split}.*", f"{split}-*", f"{split}/**/*"]
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    paths |= {inside for path in paths if path.is_dir() for inside in path.rglob("*")}
    files = [path for path in paths if path.is_file() and not path.name.startswith((".", "_"))]
    if not files:
        tried = " or ".join(str(settings.folder / pattern) for pattern in patterns)
        raise UserError(f"{tried}: no such file; datasets.*.splits can name the files of {split}")
    written = (settings.folder / path.relative_to(folder) for path in files)
    return sorted(written, key=lambda path: path.as_posix())


def _read_file(path: Path, split: Split, rows: str | None) -> Iterator[Record]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind not in FORMATS:
        raise UserError(
            f"{path}: unknown format {kind or path.name!r}; expected {', '.join(FORMATS)}, "
            f"followed by {', '.join(COMPRESSIONS)} if compressed"
        )
    if kind == ".parquet":
        yield from (Record(split, str(path), *row) for row in _parquet(path))
        return
    reader = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".tsv": _csv}[kind]
    with pa.input_stream(str(locate(path)), compression="detect") as stream:
        for row in reader(io.BufferedReader(stream), path, rows):
            yield Record(split, str(path), *row)


Row = tuple[int, str, Any, str]  # number, text, value, error


def _json_lines(stream: io.BufferedReader, path: Path, rows: str | None) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            line = line.rstrip(b"\r\n")
            yield number, line.decode(errors="replace"), *_parse_json(line)


def _json(stream: io.BufferedReader, path: Path, rows: str | None) -> Iterator[Row]:
    value, error = _parse_json(stream.read().removeprefix(BOM))
    for key in rows.split(".") if rows else []:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        where = f"key {rows!r}" if rows else "content"
        reason = error or f"its {where} is not a list of rows"
        raise UserError(
            f"{path}: {reason}; set datasets.*.rows to the path of the list, or rename a file of "
            "JSON lines to .jsonl"
        )
    for number, row in enumerate(value, start=1):
        yield number, json.dumps(row, ensure_ascii=False), row, ""


def _parse_json(text: bytes) -> tuple[Any, str]:
    """Return the value and an empty text, or None and the error."""
    try:
        return json.loads(text.decode()), ""
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start + 1}"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _csv(stream: io.BufferedReader, path: Path, rows: str | None) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    # A byte that is not UTF-8 becomes a surrogate, so that only its row is refused.
    lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    row_lines: list[str] = []

    def recorded() -> Iterator[str]:
        for line in lines:
            row_lines.append(line)
            yield line

    reader = csv.reader(recorded(), delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        row_lines.clear()
        cells: list[str] = []
        error = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as csv_error:
            error = f"not CSV: {csv_error}"
        raw = "".join(row_lines).rstrip("\r\n")
        text = raw.encode(errors="surrogateescape").decode(errors="replace")
        if header is None:
            header = cells
            if error or text != raw or len(set(header)) < len(header):
                reason = error or "a column name is repeated or not UTF-8"
                raise UserError(f"{path}: no valid header in its first line: {reason}")
        elif error or text != raw:
            yield number, text, None, error or "not UTF-8"
        elif raw.strip() and len(cells) != len(header):
            yield number, text, None, f"expected {len(header)} cells, found {len(cells)}"
        elif raw.strip():
            yield number, text, dict(zip(header, cells, strict=True)), ""


def _parquet(path: Path) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(locate(path)) as file:
        for batch in file.iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, json.dumps(row, default=str, ensure_ascii=False), row, ""
