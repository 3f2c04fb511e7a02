"""How fast and how large is assembly? A million drawn questions against DuckDB's bare join.

Run from the project's folder: .venv/bin/python -m benchmarks.assemble [--rows N] [--teachers M]
Draws the tables that assembly reads, then runs, each in a process of its own: the stage,
the stage with twice the rows, and DuckDB joining and writing the same tables (zstd, no choice of
words, no order). The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.distil.interface.errors import report_errors
from stages.distil.language.words import WORD
from stages.distil.storage import tables

PROJECT = Path(__file__).parent.parent
TEACHERS = ("one", "two", "three", "four", "five")
GROUP = tables.ROW_GROUP


def draw_tables(rows: int, teachers: int, others: int = 100) -> None:
    """Write `examples`, a table of rationales a teacher, and `saliency`.

    A row group is drawn once and written again and again under new ids. There are `rows` train
    questions, and `others` to validate with, and to test.
    """
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{n}" for n in range(5_000)])

    def sentences(length: int) -> list[str]:
        return [" ".join(row) for row in vocabulary[rng.integers(0, 5_000, (GROUP, length))]]

    questions = sentences(30)
    options = [list(dict.fromkeys(question.split()))[:4] for question in questions]
    texts = [f"{q}\nOptions: {', '.join(o)}" for q, o in zip(questions, options, strict=True)]
    words = [
        [
            {"start": match.start(), "end": match.end(), "score": rng.standard_normal()}
            for match in WORD.finditer(text)
        ]
        for text in texts
    ]
    drawn: dict[Path, dict[str, list]] = {
        tables.EXAMPLES: {
            "question": questions,
            "options": options,
            "answer": [choice[0] for choice in options],
            "rationales": [[]] * GROUP,
        },
        tables.SALIENCY: {
            "text": texts,
            "words": words,
            "method": ["drawn"] * GROUP,
            "target": ["any"] * GROUP,
            "delta": [None] * GROUP,
        },
    }
    for teacher in TEACHERS[:teachers]:
        good = rng.random(GROUP) < 0.8
        drawn[tables.rationale_table(teacher)] = {
            "sample": [0] * GROUP,
            "rationale": sentences(25),
            "status": ["ok" if ok else "contradicts" for ok in good],
            "answer": [choice[0] for choice in options],
            "finish_reason": ["stop"] * GROUP,
            "prompt_tokens": [0] * GROUP,
            "output_tokens": [0] * GROUP,
        }
    for path, columns in drawn.items():
        schema = tables.SCHEMAS.get(path) or tables.SCHEMAS[tables.RATIONALES]
        path.parent.mkdir(parents=True, exist_ok=True)
        splits = [("train", rows)]
        if path == tables.EXAMPLES:
            splits += [("validation", others), ("test", others)]
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            for split, size in splits:
                filled = columns | {"id": [""] * GROUP, "split": [split] * GROUP}
                whole = pa.table({name: filled[name] for name in schema.names}, schema=schema)
                for start in range(0, size, GROUP):
                    part = whole.slice(0, min(GROUP, size - start))
                    ids = [f"{split}-{start + n:08d}" for n in range(len(part))]
                    at = schema.get_field_index("id")
                    file.write_table(part.set_column(at, schema.field(at), pa.array(ids)))


def assemble(teachers: int) -> None:
    """Run the stage."""
    from stages import assemble as stage
    from stages.distil.interface.parameters import load_parameters

    parameters = load_parameters(PROJECT / "params.yaml")
    stage.assemble(parameters.model_copy(update={"teachers": list(TEACHERS[:teachers])}))


def join_with_duckdb(teachers: int) -> None:
    """Join the same tables and write the result: no words are chosen, no order is kept."""
    import duckdb

    columns = ["e.id", "e.question", "e.options", "e.answer", "s.text", "s.words"]
    joins = [f"LEFT JOIN '{tables.SALIENCY}' s USING (id)"]
    for n, teacher in enumerate(TEACHERS[:teachers]):
        columns.append(f"r{n}.rationale AS r{n}")
        good = (
            f"(SELECT id, rationale FROM '{tables.rationale_table(teacher)}' WHERE status = 'ok')"
        )
        joins.append(f"LEFT JOIN {good} r{n} USING (id)")
    duckdb.execute("SET preserve_insertion_order = false")
    duckdb.execute("SET memory_limit = '8GB'")
    duckdb.execute(
        f"COPY (SELECT {', '.join(columns)} FROM '{tables.EXAMPLES}' e {' '.join(joins)}) "
        "TO 'joined.parquet' (FORMAT parquet, COMPRESSION zstd)"
    )


def measure(what: str, folder: Path, teachers: int) -> dict[str, float]:
    """Run one part in a process of its own; return its seconds and its peak memory in MB."""
    command = [sys.executable, "-m", "benchmarks.assemble", "--part", what]
    run = subprocess.run(
        [*command, "--teachers", str(teachers)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(run.stderr)
    result = json.loads(run.stdout.splitlines()[-1])
    print(f"{folder.name} rows, {what}: {result['seconds']:.1f} s, {result['memory_mb']:.0f} MB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="questions (%(default)s)")
    parser.add_argument("--teachers", type=int, default=3, help="1 to 5 (%(default)s)")
    parser.add_argument("--part", choices=["assemble", "duckdb"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        run = assemble if arguments.part == "assemble" else join_with_duckdb
        start = time.perf_counter()
        run(arguments.teachers)
        seconds = time.perf_counter() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "memory_mb": memory}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for rows in (arguments.rows, 2 * arguments.rows):
            folder = Path(scratch) / f"{rows:,}"
            folder.mkdir()
            os.chdir(folder)
            draw_tables(rows, arguments.teachers)
            found[rows] = measure("assemble", folder, arguments.teachers)
            if rows == arguments.rows:
                bare = measure("duckdb", folder, arguments.teachers)
    ours = found[arguments.rows]
    print(
        json.dumps(
            {
                "vs_duckdb": round(ours["seconds"] / bare["seconds"], 2),
                "peak_memory_mb": round(ours["memory_mb"]),
                "rows": arguments.rows,
                "twice_the_rows": round(found[2 * arguments.rows]["seconds"] / ours["seconds"], 2),
            }
        )
    )


if __name__ == "__main__":
    sys.exit(report_errors("assemble", debug=False, action=main))
