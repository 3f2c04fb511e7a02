"""The data card: what the assembled data set contains, in numbers."""

from collections import Counter
from typing import Any

import duckdb

from stages.distil.interface.catalogue import Hub
from stages.distil.interface.escaping import for_markdown
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.storage.examples import SPLITS, kind_of
from stages.distil.storage.lengths import Lengths

MOST_KINDS = 50  # of rejected rows
MOST_CLASSES = 20  # different answers; with more, the card counts positions among the options


def describe(parameters: Parameters, lengths: dict[str, Lengths]) -> str:
    """Return the card as Markdown, with the front matter that `datasets` reads."""
    settings = parameters.data_set
    configs = "".join(
        f"  - split: {split}\n    path: distill/{split}/*.parquet\n" for split in SPLITS
    )
    rows = {
        s: _select_one(f"SELECT count(*) FROM '{tables.distill_table(s)}/*.parquet'")
        for s in SPLITS
    }
    licence = for_markdown(settings.licence or "not stated")
    origin: str = settings.source
    if isinstance(settings, Hub) and settings.id:
        origin = f"hub, {settings.id} at {settings.revision}"
    parts = [
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{configs}---\n",
        f"# {parameters.data.name}\n\nOne row a question with all its targets. Source: {origin}. "
        f"Licence: {licence}.\n",
        "## Questions\n\n"
        + _table(["split", "questions"], [[s, f"{n:,}"] for s, n in rows.items()]),
        "## Answers\n\n" + _answers(),
        "## Train targets\n\n" + _targets(parameters, rows["train"]),
        "## Lengths\n\nTokens of the student, in train questions and their targets.\n\n"
        + _table(
            ["text", "median", "95 %", "longest"],
            [
                [
                    kind,
                    f"{counts.quantile(0.5):,}",
                    f"{counts.quantile(0.95):,}",
                    f"{max(counts.rows):,}",
                ]
                for kind, counts in lengths.items()
            ],
        ),
        "## Near copies\n\n" + _near_copies(rows),
        "## Rejected rows\n\n" + _rejected(),
    ]
    return "\n".join(parts)


def _answers() -> str:
    """Return the share of each answer or, if there are many, of each position in the options."""
    folder = tables.distill_table("train")
    distinct = _select_one(f"SELECT count(DISTINCT answer) FROM '{folder}/*.parquet'")
    if distinct <= MOST_CLASSES:
        column, name = "answer", "answer"
    else:
        column, name = "list_position(options, answer)", "place of the answer among the options"
    shares: dict[Any, dict[str, float]] = {}
    for split in SPLITS:
        source = f"'{tables.distill_table(split)}/*.parquet'"
        counts = duckdb.execute(
            f"SELECT {column} AS kind, count(*) / sum(count(*)) OVER () FROM {source} GROUP BY kind"
        ).fetchall()
        for kind, share in counts:
            shares.setdefault(kind, {})[split] = share
    if set(shares) <= {None, 0}:
        return f"Free-form; {distinct:,} different answers in train.\n"
    rows = [
        [str(kind), *(f"{100 * by_split.get(split, 0):.1f} %" for split in SPLITS)]
        for kind, by_split in sorted(shares.items(), key=lambda item: str(item[0]))
    ]
    return _table([name, *SPLITS], rows)


def _targets(parameters: Parameters, total: int) -> str:
    source = f"'{tables.distill_table('train')}/*.parquet'"
    counts = dict(
        duckdb.execute(
            f"SELECT r.teacher, count(DISTINCT id) FROM (SELECT id, unnest(rationales) AS r "
            f"FROM {source}) GROUP BY r.teacher"
        ).fetchall()
    )
    salient = _select_one(f"SELECT count(*) FROM {source} WHERE len(saliency) > 0")
    rows = [[f"rationale of {name}", counts.get(name, 0)] for name in parameters.teachers]
    rows.append([f"salient words of {parameters.saliency.teacher}", salient])
    return _table(
        ["target", "questions", "share"],
        [[name, f"{count:,}", f"{100 * count / total:.1f} %"] for name, count in rows],
    )


def _near_copies(rows: dict[str, int]) -> str:
    counts = duckdb.execute(
        f"SELECT split, count(*), max(similarity) FROM '{tables.NEAR_COPIES}' GROUP BY split "
        "ORDER BY split"
    ).fetchall()
    if not counts:
        return "No train question nearly repeats one of validation or test.\n"
    return (
        "Questions that a train question nearly repeats, and the largest similarity.\n\n"
        + _table(
            ["split", "questions", "share", "largest similarity"],
            [
                [split, f"{count:,}", f"{100 * count / rows[split]:.1f} %", f"{most:.2f}"]
                for split, count, most in counts
            ],
        )
    )


def _rejected() -> str:
    counts = Counter(map(kind_of, tables.scan_column(tables.REJECTED, "reason")))
    if not counts:
        return "None.\n"
    most = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))[:MOST_KINDS]
    return _table(["reason", "rows"], [[kind, f"{n:,}"] for kind, n in most])


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table; its cells hold texts from outside, such as answers and reasons."""
    lines = [header, ["---"] * len(header), *(map(for_markdown, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _select_one(query: str) -> int:
    ((value,),) = duckdb.execute(query).fetchall()
    return value
