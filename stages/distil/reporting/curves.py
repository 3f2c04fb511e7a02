"""How the student was trained: its curves, how far it came, and how much text it read.

Times are no part of it: they differ between runs, and the report does not.
"""

import json
from pathlib import Path
from typing import Any

from stages.distil.storage.lengths import read_lengths
from stages.distil.storage.result_files import explain_damage, number, read_points

Curves = dict[str, list[tuple[int, float]]]  # by name, as (step, value)


def read_curves(folder: Path) -> Curves:
    """Read DVCLive's curves, such as `loss/total` and `validation/accuracy`, as (step, value)."""
    curves = {}
    for file in sorted(folder.rglob("*.tsv")):
        name = file.relative_to(folder).with_suffix("").as_posix()
        with explain_damage(file):
            curves[name] = read_points(file.read_text(encoding="utf-8"))
    return curves


def read_summary(file: Path) -> dict[str, float]:
    """Return the steps of a training, the epoch that was kept and its validation accuracy.

    Values that the file does not have are left out. Raises `UserError` if it is damaged.
    """
    with explain_damage(file):
        summary = json.loads(file.read_bytes())
        values = summary | {"accuracy": summary.get("validation", {}).get("accuracy")}
        names = {"steps": "step", "epoch": "best_epoch", "accuracy": "accuracy"}
        return {
            name: number(values, key) for name, key in names.items() if values.get(key) is not None
        }


def read_tokens() -> list[dict[str, Any]]:
    """Return, for each kind of train text, how many there are and their tokens.

    `tokens` is their sum, `median` and `longest` are those of single texts.
    """
    return [
        {
            "text": text,
            "texts": lengths.rows.total(),
            "tokens": sum(tokens * count for tokens, count in lengths.rows.items()),
            "median": lengths.quantile(0.5),
            "longest": max(lengths.rows),
        }
        for text, lengths in read_lengths().items()
    ]
