"""Encode the questions of a training once, and read them from the files."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.distil.encoding.arrow import Rows, fill_once, write_rows
from stages.distil.storage import tables, versions
from stages.distil.student.samples import Branch, Encoder, Sample
from stages.distil.student.trainer import Questions

ENCODED = Path(".cache/encoded")
TRAIN, VALIDATION, SUMMARY = "train.arrow", "validation.arrow", "summary.json"
TOKENS = pa.list_(pa.int32())
BRANCH = pa.struct(
    {
        "task": pa.string(),
        "prefix": TOKENS,
        "target": TOKENS,
        "after_answer": pa.bool_(),
        "score": pa.float64(),
        "weight": pa.float64(),
        "share": pa.float64(),
    }
)
SAMPLE = pa.struct({"id": pa.string(), "context": TOKENS, "branches": pa.list_(BRANCH)})
SCHEMAS = {
    TRAIN: pa.schema({"samples": pa.list_(SAMPLE)}),
    VALIDATION: pa.schema(
        {"prompt": SAMPLE, "options": pa.list_(pa.string()), "answer": pa.string()}
    ),
}


def encode_questions(
    encoder: Encoder, weights: Mapping[str, float], max_tokens: int, identity: str
) -> Questions:
    """Encode `distill`, train questions with their targets and validation questions as prompts.

    `weights` and `max_tokens` are those of `Encoder.samples` and `Encoder.prompt`; `identity`
    identifies the student and how it reads. What an earlier process has encoded of the same tables
    in the same way is not encoded again. Raises `UserError` if a table is missing, or if the
    student cannot read a question.
    """
    sources = [tables.distill_table(split) for split in ("train", "validation")]
    tasks = {task: float(weight > 0) for task, weight in weights.items()}  # not how large it is
    files = [_digest(file) for source in sources for file in sorted(source.glob("*.parquet"))]
    key = repr([versions.TRAINING, identity, tasks, max_tokens, files])

    def write(folder: Path) -> None:
        longest = (0, 0)  # tokens of a sample with several branches, and its question
        taught: set[str] = set()

        def train_rows() -> Iterator[dict[str, Any]]:
            nonlocal longest
            for number, row in enumerate(_scan("train")):
                samples = encoder.samples(row, tasks)
                taught.update(branch.task for sample in samples for branch in sample.branches)
                shared = (sample.length for sample in samples if len(sample.branches) > 1)
                longest = max(longest, (max(shared, default=0), -number))
                yield {"samples": [_row(sample) for sample in samples]}

        def validation_rows() -> Iterator[dict[str, Any]]:
            for row in _scan("validation"):
                prompt = _row(encoder.prompt(row, max_tokens))
                yield {"prompt": prompt, "options": row["options"], "answer": row["answer"]}

        for name, rows in ((TRAIN, train_rows()), (VALIDATION, validation_rows())):
            write_rows(folder / name, SCHEMAS[name], rows)
        summary = {
            "digest": " ".join(_digest(folder / name) for name in SCHEMAS),
            "longest": -longest[1],
            "taught": [task for task in tasks if task in taught],
            "too_long": encoder.shortened,
        }
        (folder / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")

    fill_once(ENCODED, key, write)
    return Questions(
        train=Rows(ENCODED / TRAIN, lambda row: list(map(_sample, row["samples"]))),
        validation=Rows(ENCODED / VALIDATION, lambda row: row),
        prompts=Rows(ENCODED / VALIDATION, lambda row: _sample(row["prompt"])),
        **json.loads((ENCODED / SUMMARY).read_text(encoding="utf-8")),
    )


def remove_encoded() -> None:
    """Remove the files; a process that still reads them keeps what it has mapped."""
    shutil.rmtree(ENCODED, ignore_errors=True)  # another process may be removing them


def _scan(split: str) -> Iterator[dict[str, Any]]:
    return tables.scan_table(tables.distill_table(split), tables.SCHEMAS[tables.DISTILL])


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _row(sample: Sample) -> dict[str, Any]:
    return vars(sample) | {"branches": [vars(branch) for branch in sample.branches]}


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(**row | {"branches": [Branch(**branch) for branch in row["branches"]]})
