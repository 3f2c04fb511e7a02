"""The files that stages exchange: names, schemas, reading and writing.

A table is written under a temporary name and renamed, so a reader never sees a partial file. Its
bytes depend only on its rows.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.distil.interface.errors import UserError, one_line
from stages.distil.storage.examples import Example

EXAMPLES = Path("data/examples.parquet")
REJECTED = Path("data/rejected.parquet")
NEAR_COPIES = Path("data/near_copies.parquet")
RATIONALES = Path("data/rationales")  # one table per teacher
USEFULNESS = Path("data/usefulness")  # one table per teacher
SALIENCY = Path("data/saliency.parquet")
DISTILL = Path("data/distill")  # one folder of files per split
ENCODED = Path("data/encoded")  # the same as one student's tokens
LENGTHS = ENCODED / "lengths.parquet"
PREDICTIONS = Path("results/predictions.parquet")
METRICS = Path("results/metrics.json")
TRAINING = Path("results/train")  # curves and summary of the training
FIGURES = Path("results/figures")  # one folder per scale of `make figures`
DATA_SETS = "data.json"  # in such a folder: the data sets of each figure's runs
CARD = Path("data/README.md")  # the data card; `datasets` reads it too
MEND = "run `make mend`, which removes damaged files, then `dvc repro`"
ROW_GROUP = 16_384  # rows
SHARD = 16 * ROW_GROUP  # rows of a file of `distill`

_text = pa.field("text", pa.string(), nullable=False)
_teacher = pa.field("teacher", pa.string(), nullable=False)
_status = pa.field("status", pa.string(), nullable=False)


def _schema(**columns: pa.DataType | tuple[pa.DataType, None]) -> pa.Schema:
    """Build a schema; a type paired with None may be null."""
    return pa.schema(
        [
            pa.field(name, kind[0] if isinstance(kind, tuple) else kind, isinstance(kind, tuple))
            for name, kind in columns.items()
        ]
    )


# With soft labels, the last column of their teacher's RATIONALES and of DISTILL: the mean
# log-probability of each option's tokens; null except for train questions with options.
OPTION_SCORES = pa.field("option_scores", pa.list_(pa.float32()))
# Of a student that reasons first, the last columns of PREDICTIONS: its text before the answer, and
# the tokens of the whole text.
REASONED = [
    pa.field("reasoning", pa.string(), nullable=False),
    pa.field("reasoning_tokens", pa.int32(), nullable=False),
]
# If it has learnt both ways, its answer without reasoning, as the other columns have it.
DIRECT = [
    pa.field("direct_prediction", pa.string(), nullable=False),
    pa.field("direct_correct", pa.bool_(), nullable=False),
    pa.field("direct_scores", pa.list_(pa.float32()), nullable=False),
]
# After these, what most of the texts that it draws answer, and whether that is right.
VOTED = [
    pa.field("voted_prediction", pa.string(), nullable=False),
    pa.field("voted_correct", pa.bool_(), nullable=False),
]
OPTIONAL = [OPTION_SCORES.name, *(field.name for field in (*REASONED, *DIRECT, *VOTED))]
SCHEMAS = {
    EXAMPLES: _schema(
        id=pa.string(),
        split=pa.string(),
        question=pa.string(),
        options=pa.list_(pa.string()),
        answer=pa.string(),
        rationales=pa.list_(pa.struct([_teacher, _text])),
    ),
    REJECTED: _schema(source=pa.string(), row=pa.int64(), reason=pa.string(), text=pa.string()),
    # The questions of validation and test that a train question nearly repeats, with the most
    # similar one and the share of their words that the two have in common.
    NEAR_COPIES: _schema(
        split=pa.string(), id=pa.string(), train_id=pa.string(), similarity=pa.float32()
    ),
    # A train question has a rationale and its status, and the teacher's own answer if it reasons
    # freely; a test question has the teacher's zero-shot answer.
    RATIONALES: _schema(
        id=pa.string(),
        split=pa.string(),
        sample=pa.int32(),
        rationale=(pa.string(), None),
        status=(pa.string(), None),
        answer=(pa.string(), None),
        finish_reason=pa.string(),
        prompt_tokens=pa.int32(),
        output_tokens=pa.int32(),
    ),
    # One row per rationale of a train question; null where no rationale is accepted.
    USEFULNESS: _schema(id=pa.string(), sample=pa.int32(), usefulness=(pa.float32(), None)),
    # `start` and `end` count characters of `text`, end exclusive; `target` is the answer whose
    # log-probability is attributed; `delta` is the convergence error of integrated gradients.
    SALIENCY: _schema(
        id=pa.string(),
        text=pa.string(),
        words=pa.list_(
            pa.struct(
                [
                    pa.field("start", pa.int32(), nullable=False),
                    pa.field("end", pa.int32(), nullable=False),
                    pa.field("score", pa.float32(), nullable=False),
                ]
            )
        ),
        method=pa.string(),
        target=pa.string(),
        delta=(pa.float32(), None),
    ),
    # One row per question, with everything that any student may learn from it. Only train questions
    # have rationales and salient words. `status` is that of the rationale: it is `ok`, or another
    # of assemble.statuses.
    DISTILL: _schema(
        id=pa.string(),
        question=pa.string(),
        options=pa.list_(pa.string()),
        answer=pa.string(),
        rationales=pa.list_(pa.struct([_teacher, _text, _status])),
        saliency=pa.list_(pa.string()),
    ),
    # How many train texts of a kind have so many of the student's tokens.
    LENGTHS: _schema(text=pa.string(), tokens=pa.int32(), rows=pa.int64()),
    # `scores` are the mean log-probabilities of the options' tokens; empty without options.
    PREDICTIONS: _schema(
        id=pa.string(),
        question=pa.string(),
        options=pa.list_(pa.string()),
        answer=pa.string(),
        prediction=pa.string(),
        correct=pa.bool_(),
        scores=pa.list_(pa.float32()),
    ),
}


class TableWriter:
    """Write rows to a table as they come; a context manager.

    The table appears under its name when the block ends without an error. Memory holds one row
    group.
    """

    def __init__(
        self, path: Path, schema: pa.Schema | None = None, metadata: Mapping[str, str] | None = None
    ):
        """Take the table's path; the schema defaults to the one declared for it.

        `metadata` describes the table as a whole; `read_metadata` returns it.
        """
        self._path = path
        self._schema = schema or _schema_of(path)
        self._metadata = dict(metadata or {})
        self._temporary = path.with_name(path.name + ".tmp")
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> "TableWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _removed_on_error(self._temporary):
            self._file = _writer(self._temporary, self._schema)
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._rows.append(dict(row))
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._flush()
                if self._metadata:
                    self._file.add_key_value_metadata(self._metadata)
            self._file.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def with_scores(schema: pa.Schema, scored: bool) -> pa.Schema:
    """Return a schema, where options are scored with OPTION_SCORES."""
    return schema.append(OPTION_SCORES) if scored else schema


def write_shards(folder: Path, batches: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables to a folder of Parquet files of SHARD rows, in order; return the rows written.

    The folder appears under its name when everything is written. Memory holds one batch.
    """
    total = 0
    with whole_folder(folder) as staging, ExitStack() as files:
        file = files.enter_context(_writer(staging / "00000.parquet", schema))
        for batch in batches:
            while len(batch):
                if total and total % SHARD == 0:
                    files.close()
                    path = staging / f"{total // SHARD:05d}.parquet"
                    file = files.enter_context(_writer(path, schema))
                part = batch.slice(0, SHARD - total % SHARD)
                file.write_table(part)
                total += len(part)
                batch = batch.slice(len(part))
    return total


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a table of the schema declared for `path` or for its folder."""
    with TableWriter(path) as table:
        for row in rows:
            table.write(row)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a table, a file or a folder of them.

    Raises `UserError` if it is missing or its columns are not the declared ones.
    """
    return list(scan_table(path))


def open_table(path: Path) -> pq.ParquetFile:
    """Open a file; raise `UserError` if it is missing or not Parquet."""
    check_exists(path)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet table ({one_line(error)}); {MEND}") from None


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a table."""
    with open_table(path) as table:
        metadata = table.schema_arrow.metadata or {}
    return {name.decode(): value.decode() for name, value in metadata.items()}


def read_schema(path: Path, columns: Sequence[str]) -> pa.Schema:
    """Return the schema of the named columns of a file; raise `UserError` if it lacks one."""
    with open_table(path) as file:
        schema = file.schema_arrow.remove_metadata()
    if not set(columns) <= set(schema.names):
        raise _other_columns(path, columns, schema.names)
    return pa.schema([schema.field(name) for name in columns])


def check_exists(path: Path) -> None:
    """Raise `UserError` if a table is missing."""
    if not path.exists():
        raise UserError(f"{path}: no such table; `dvc repro` makes it")


def scan_row_groups(
    path: Path, columns: Sequence[str], split: str | None = None
) -> Iterator[pa.Table]:
    """Yield the named columns of a file, one row group after the other; memory holds one.

    With `split`, yield its rows only, and read nothing else of a row group that has none.
    """
    read_schema(path, columns)
    with open_table(path) as file:
        for number in range(file.num_row_groups):
            if split is None:
                yield _read_group(file, path, number, columns)
                continue
            in_split = pc.equal(_read_group(file, path, number, ["split"])["split"], split)
            if pc.any(in_split).as_py():
                group = _read_group(file, path, number, columns)
                yield group if pc.all(in_split).as_py() else group.filter(in_split)


def scan_column(path: Path, column: str) -> Iterator[Any]:
    """Yield the values of a column of a file; memory holds those of one row group."""
    for group in scan_row_groups(path, [column]):
        yield from group[column].to_pylist()


def scan_table(path: Path, schema: pa.Schema | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, a file or a folder of them; memory holds one row group.

    The schema defaults to the one declared for it. Raises `UserError` if the table is missing or
    its columns are others.
    """
    expected = (schema or _schema_of(path)).names
    for file in _files(path):
        with open_table(file) as rows:
            columns = rows.schema_arrow.names
            if [name for name in columns if name not in OPTIONAL] != expected:
                raise _other_columns(file, expected, columns)
            for number in range(rows.num_row_groups):
                yield from _read_group(rows, file, number, columns).to_pylist()


def row_groups(path: Path) -> list[tuple[Path, int, int]]:
    """Return the file, number and rows of each row group of a table, a file or a folder of them."""
    check_exists(path)
    groups = []
    for file in _files(path):
        with open_table(file) as rows:
            counts = [rows.metadata.row_group(n).num_rows for n in range(rows.num_row_groups)]
        groups += [(file, number, count) for number, count in enumerate(counts)]
    return groups


def read_row_group(file: Path, number: int) -> pa.Table:
    """Read a row group of a file; raise `UserError` if it is damaged."""
    with open_table(file) as rows:
        return _read_group(rows, file, number, rows.schema_arrow.names)


def _read_group(file: pq.ParquetFile, path: Path, number: int, columns: Sequence[str]) -> pa.Table:
    """Read columns of a row group; raise `UserError` if it is damaged."""
    try:
        group = file.read_row_group(number, list(columns))
        group.validate(full=True)  # texts are UTF-8
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({one_line(error)}); {MEND}") from error
    return group


def read_examples(split: str) -> list[Example]:
    """Read the questions of a split."""
    return list(scan_examples(split))


def scan_examples(split: str) -> Iterator[Example]:
    """Yield the questions of a split; memory holds one row group."""
    for group in scan_row_groups(EXAMPLES, SCHEMAS[EXAMPLES].names, split):
        for row in group.to_pylist():
            texts: dict[str, list[str]] = {}
            for rationale in row["rationales"]:
                texts.setdefault(rationale["teacher"], []).append(rationale["text"])
            yield Example(**row | {"rationales": texts})


def example_row(example: Example) -> dict[str, Any]:
    """Return a question as a row of the table of examples."""
    written = example.rationales.items()
    rationales = [{"teacher": t, "text": text} for t, texts in written for text in texts]
    return vars(example) | {"rationales": rationales}


def count_examples() -> Counter[str]:
    """Return the number of questions of each split."""
    return Counter(scan_column(EXAMPLES, "split"))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with _removed_on_error(temporary):
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces the target on success and is removed on failure."""
    staging = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        shutil.rmtree(target, ignore_errors=True)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def rationale_table(teacher: str) -> Path:
    """Return the path of a teacher's rationales."""
    return RATIONALES / f"{teacher}.parquet"


def usefulness_table(teacher: str) -> Path:
    """Return the path of the usefulness of a teacher's rationales."""
    return USEFULNESS / f"{teacher}.parquet"


def distill_table(split: str) -> Path:
    """Return the folder of a split of the assembled data set; its files form one table."""
    return DISTILL / split


@contextmanager
def _removed_on_error(temporary: Path) -> Iterator[None]:
    """Remove a file that could not be written, or whose writing was interrupted."""
    try:
        yield
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _other_columns(path: Path, expected: Sequence[str], found: Sequence[str]) -> UserError:
    columns = f"expected columns {', '.join(expected)}, found {', '.join(found)}"
    return UserError(f"{path}: {columns}; delete it and run `dvc repro`")


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)


def _schema_of(path: Path) -> pa.Schema:
    for name in (path, path.parent):
        for declared, schema in SCHEMAS.items():
            if name.parts[-len(declared.parts) :] == declared.parts:
                return schema
    raise KeyError(f"no schema is declared for {path}")
