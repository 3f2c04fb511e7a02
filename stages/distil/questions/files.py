"""Records from files: JSON lines, JSON, CSV, TSV or Parquet, in shards, compressed or not."""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from stages.distil.interface.catalogue import Files, RationaleFiles, Split
from stages.distil.interface.errors import UserError, one_line
from stages.distil.interface.paths import locate, locate_folder
from stages.distil.questions import delimited
from stages.distil.storage.examples import Record, Unreadable

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
CONTENTS = {  # how files begin, and what to do with one that its name does not announce
    b"\x1f\x8b": (".gz", "add .gz to its name"),
    b"BZh91AY&SY": (".bz2", "add .bz2 to its name"),
    b"\x28\xb5\x2f\xfd": (".zst", "add .zst to its name"),
    b"PAR1\x15": (".parquet", "name it .parquet"),
    b"PK\x03\x04": (".zip", "unpack it"),
    b"\xfd7zXZ": (".xz", "unpack it"),
    b"ARROW1\0\0": (".arrow", "convert it to Parquet"),
}
# The mark of UTF-32-LE begins with that of UTF-16-LE.
OTHER_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
BATCH = 64  # rows of a Parquet file in memory at once, each perhaps of LONGEST_ROW
MIB = 2**20
LONGEST_JSON = 256 * MIB  # bytes of a .json file, which is read as a whole
DIGITS = re.compile(r"(\d+)", re.ASCII)
LONGEST_DIGITS = 4300  # of an integer; Python converts no longer one


def read(settings: Files, split: Split) -> Iterator[Record]:
    """Yield the records of a split, file by file in the order of their paths."""
    records = _read_files(find_files(settings, split), split, settings.rows)
    if split == "train":
        for teacher, written in settings.rationale_files.items():
            records = _with_rationales(records, settings.folder, teacher, written)
    return records


def _read_files(paths: Iterable[Path], split: Split, rows: str | None) -> Iterator[Record]:
    for path in paths:
        try:
            yield from _read_file(path, split, rows)
        except (OSError, EOFError, UnicodeError, pa.ArrowException) as error:
            raise UserError(
                f"{path}: cannot be read to its end ({one_line(error)}); replace it with an intact "
                "copy"
            ) from error


def _with_rationales(
    records: Iterator[Record], folder: Path, teacher: str, written: RationaleFiles
) -> Iterator[Record]:
    """Give each record of train the text that a teacher's files have in its place."""
    paths = _find_rationales(folder, teacher, written)
    texts = _read_files(paths, "train", None)
    pairs = zip_longest(records, texts)
    for count, (record, text) in enumerate(pairs):
        if record is None or text is None:
            missing, more = ("train", "texts") if record is None else (written.files, "train rows")
            raise UserError(
                f"{folder / written.files}: expected one text for each row of train, in the same "
                f"order; after {count:,}, there are more {more} than in {missing}"
            )
        if text.error or not isinstance(text.value, str | None):
            found = text.error or f"expected a text, found {type(text.value).__name__}"
            raise UserError(f"{text.source}, row {text.row}: {found}")
        rationale = _between(text.value or "", written.after, written.until)
        yield replace(record, rationales=record.rationales | {teacher: rationale})


def _between(text: str, after: str | None, until: str | None) -> str:
    """Return what follows some words, up to others; empty if the first do not occur."""
    if after is not None:
        text = text.partition(after)[2]
    return text if until is None else text.partition(until)[0]


def _find_rationales(folder: Path, teacher: str, written: RationaleFiles) -> list[Path]:
    """Return the files of a teacher's texts, with the numbers in their names in order."""
    key = f"datasets.*.rationale_files.{teacher}.files"
    found = _matching(folder, [written.files], key)
    if not found:
        raise UserError(f"{folder / written.files}: no such file; set {key}")
    return sorted(found, key=lambda path: [_as_number(p) for p in DIGITS.split(path.as_posix())])


def _as_number(part: str) -> str | int:
    return int(part) if DIGITS.fullmatch(part) else part


def find_files(settings: Files, split: Split) -> list[Path]:
    """Return the files of a split: those in `splits`, or else those named after the split.

    Their paths begin with the folder as it is written in the settings.
    """
    locate_folder(settings.folder, "datasets.*.folder")
    declared = settings.splits.get(split)
    patterns = [declared] if isinstance(declared, str) else declared
    if patterns is None:
        patterns = [f"{split}.*", f"{split}-*", f"{split}/**/*"]
        any_case = "".join(f"[{letter}{letter.upper()}]" for letter in split)
        globs = [pattern.replace(split, any_case) for pattern in patterns]
    else:
        globs = patterns
    files = _matching(settings.folder, globs, f"datasets.*.splits.{split}")
    if not files:
        tried = " or ".join(str(settings.folder / pattern) for pattern in patterns)
        raise UserError(f"{tried}: no such file; datasets.*.splits can name the files of {split}")
    return sorted(files, key=lambda path: path.as_posix())


def _matching(folder: Path, patterns: Sequence[str], key: str) -> list[Path]:
    """Return the files in a folder that match the patterns of a parameter."""
    located = locate(folder)
    try:
        paths = {path for pattern in patterns for path in located.glob(pattern)}
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"{key}: expected patterns relative to {folder}, found {', '.join(patterns)} "
            f"({one_line(error)})"
        ) from error
    paths |= {inside for path in paths if path.is_dir() for inside in path.rglob("*")}
    # A link to a file that does not exist is kept, so that reading it fails and names it.
    files = [path for path in paths if not path.is_dir() and not path.name.startswith((".", "_"))]
    return [folder / path.relative_to(located) for path in files]


def own_files(settings: Files) -> list[Path]:
    """Return the regular files of a data set; a split may have none, as one that is held out."""
    paths: set[Path] = set()
    for split in get_args(Split):
        with suppress(UserError):  # `read` names it, if the split is read
            paths.update(path for path in find_files(settings, split) if locate(path).is_file())
    for teacher, written in settings.rationale_files.items():
        with suppress(UserError):
            found = _find_rationales(settings.folder, teacher, written)
            paths.update(path for path in found if locate(path).is_file())
    return sorted(paths, key=lambda path: path.as_posix())


def format_of(path: Path) -> str:
    """Return a file's suffix in lower case, without that of a compression; empty if it has none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_file(path: Path, split: Split, rows: str | None) -> Iterator[Record]:
    kind, compression = format_of(path), COMPRESSIONS.get(path.suffix.lower())
    if kind not in FORMATS:
        raise UserError(
            f"{path}: unknown format {kind or path.name!r}; expected {', '.join(FORMATS)}, "
            f"followed by {', '.join(COMPRESSIONS)} if compressed"
        )
    located = locate(path)
    if located.exists() and not located.is_file():
        raise UserError(f"{path}: expected a file, found a device, pipe or socket; remove it")
    _check_content(path, path.suffix.lower() if compression else kind)
    with pa.input_stream(str(located), compression=compression) as stream:
        for row in _rows(stream, path, kind, rows):
            yield Record(split, str(path), *row)


def _check_content(path: Path, suffix: str) -> None:
    """Raise `UserError` if a file does not begin as its last suffix says."""
    with open(locate(path), "rb") as file:
        start = file.read(10)
    found = next((key for key in CONTENTS if start.startswith(key)), b"")
    content, advice = CONTENTS.get(found, ("", ""))
    if found and content != suffix:
        raise UserError(f"{path}: its content is that of a {content} file; {advice}")
    if start and not found and suffix == ".gz":  # what a browser unpacks
        raise UserError(
            f"{path}: its content is not that of a .gz file; replace it with an intact copy or, if "
            "it is unpacked already, take .gz off its name"
        )


FileRow = tuple[int, str, Any, str]  # number, text, value, error


def _rows(stream: pa.NativeFile, path: Path, kind: str, rows: str | None) -> Iterator[FileRow]:
    if kind == ".parquet":
        return _parquet(stream, path)
    text = io.BufferedReader(stream)
    if text.peek(4).startswith(OTHER_BOMS):
        raise UserError(
            f"{path}: expected UTF-8, found the byte-order mark of UTF-16 or UTF-32; convert it, "
            "such as with iconv -f UTF-16 -t UTF-8"
        )
    if kind == ".jsonl":
        return _json_lines(text, path)
    if kind == ".json":
        return _json(text, path, rows)
    return delimited.read(text, path, "\t" if kind == ".tsv" else ",")


def _json_lines(stream: io.BufferedReader, path: Path) -> Iterator[FileRow]:
    for number, line in enumerate(delimited.lines(stream, path), start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            line = line.rstrip(b"\r\n")
            yield number, line.decode(errors="replace"), *_parse_json(line)


def _json(stream: io.BufferedReader, path: Path, rows: str | None) -> Iterator[FileRow]:
    text = _read_whole(stream, path, "convert it to JSON lines, which are read row by row")
    text = text.removeprefix(codecs.BOM_UTF8)
    value, error = _parse_json(text)
    if "Extra data" in error and text.startswith(b"{"):  # JSON lines, as `datasets` names them
        yield from _json_lines(io.BufferedReader(io.BytesIO(text)), path)
        return
    for key in rows.split(".") if rows else []:
        value = value.get(key) if isinstance(value, dict) else None
    if error.startswith("not UTF-8"):
        raise UserError(f"{path}: {error}; convert it, such as with iconv -f LATIN1 -t UTF-8")
    if error:
        raise UserError(f"{path}: {error}; replace it with a whole copy")
    if not isinstance(value, list):
        where = f"key {rows!r}" if rows else "content"
        raise UserError(
            f"{path}: its {where} is not a list of rows; set datasets.*.rows to the list's path"
        )
    for number, row in enumerate(value, start=1):
        yield number, json_text(row), row, ""


def _read_whole(stream: IO[bytes], path: Path, advice: str) -> bytes:
    """Read a file that cannot be read row by row; raise `UserError` if it is too long for that."""
    content = stream.read(LONGEST_JSON + 1)
    if len(content) > LONGEST_JSON:
        raise UserError(f"{path}: more than {LONGEST_JSON // MIB} MiB, uncompressed; {advice}")
    return content


def _parse_json(text: bytes) -> tuple[Any, str]:
    """Return the value and an empty text, or None and the error."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_int=_integer), ""
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start + 1}"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Unreadable:
    """Return a JSON object; one with a key twice is unreadable, since either value may be meant."""
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    keys = [key for key, _ in pairs]
    key = next(key for key in keys if keys.count(key) > 1)
    text = ", ".join(f"{json_text(key)}: {json_text(field)}" for key, field in pairs)
    return Unreadable(f"key {key!r} occurs twice in an object", f"{{{text}}}")


def json_text(value: Any) -> str:
    """Return a value as JSON, for people; what JSON does not know is written as its text."""
    if isinstance(value, Unreadable):
        return str(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _integer(digits: str) -> int | Unreadable:
    if len(digits) > LONGEST_DIGITS:
        return Unreadable(f"a number of {len(digits):,} digits", digits)
    return int(digits)


def _parquet(stream: pa.NativeFile, path: Path) -> Iterator[FileRow]:
    number = 0
    if not stream.seekable():
        stream = pa.BufferReader(_read_whole(stream, path, "unpack it"))
    with pq.ParquetFile(stream) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise UserError(f"{path}: a column name is repeated; rename one of the columns")
        for group in map(file.metadata.row_group, range(file.num_row_groups)):
            if group.total_byte_size > delimited.LONGEST_ROW * max(1, group.num_rows):
                raise UserError(f"{path}: {delimited.TOO_LONG} on average; leave the column out")
        for batch in file.iter_batches(BATCH):
            for row in _batch_rows(batch):
                number += 1
                yield number, json_text(row), row, ""


def _batch_rows(batch: pa.RecordBatch) -> Iterable[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):
        rows = (
            zip(batch.schema.names, scalars, strict=True) for scalars in zip(*batch, strict=True)
        )
        return (read_columns({name: scalar.as_py for name, scalar in row}) for row in rows)


def read_columns(readers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return the columns of a row by their readers; `Unreadable` stands for one that fails."""
    row: dict[str, Any] = {}
    for name, reader in readers.items():
        try:
            row[name] = reader()
        except UnicodeDecodeError as error:
            text = error.object.decode(errors="replace")
            row[name] = Unreadable(f"not UTF-8 at byte {error.start + 1}", text)
        except Exception as error:  # whatever the conversion of the column's type raises
            row[name] = Unreadable(f"cannot be read ({one_line(error)})", "")
    return row
