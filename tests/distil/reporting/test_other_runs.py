"""The figures and stored runs that the report compares with."""

import json
from pathlib import Path

from stages.distil.reporting.other_runs import read_methods, read_runs
from stages.distil.storage import tables
from tests.conftest import ROOT
from tests.distil.reporting.test_page import prediction

COLUMNS = "method,value,accuracy,low,high,runs,gain,gain_low,gain_high,headroom,each"
ROWS = [
    "plain,3,0.25,0.2,0.3,1,,,,,0.250",
    "taught,3,0.5,0.4,0.6,1,0.25,0.1,0.4,0.5,0.500",
]


def test_methods_are_read_with_every_plot_of_their_scale(tmp_path):
    for name in ("methods", "alpha"):
        (tmp_path / f"figures/tiny/{name}.csv").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"figures/tiny/{name}.csv").write_text("\n".join([COLUMNS, *ROWS]))
        (tmp_path / f"figures/tiny/{name}.svg").write_text(f"<?xml?><svg>{name}</svg>")
    [tiny] = read_methods(tmp_path / "figures", "kinship")
    assert tiny.scale == "tiny"
    assert {name: plot for name, (_, plot) in tiny.figures.items()} == {
        "methods": "<svg>methods</svg>",
        "alpha": "<svg>alpha</svg>",
    }
    assert [row["each"] for row in tiny.figures["alpha"][0]] == ["0.250", "0.500"]
    assert read_methods(tmp_path / "nowhere", "kinship") == []


def test_methods_are_read_only_for_their_own_data_set(tmp_path):
    of = {"methods": ["arc"], "alpha": ["kinship"], "data": ["arc", "kinship"]}
    (tmp_path / "figures/tiny").mkdir(parents=True)
    (tmp_path / "figures/tiny/data.json").write_text(json.dumps(of))
    for name in (*of, "renamed since"):
        (tmp_path / f"figures/tiny/{name}.csv").write_text("\n".join([COLUMNS, *ROWS]))
        (tmp_path / f"figures/tiny/{name}.svg").write_text("<svg></svg>")
    shown = {
        data: [[*scale.figures] for scale in read_methods(tmp_path / "figures", data)]
        for data in ("arc", "kinship", "obqa")
    }
    assert shown == {"arc": [["methods"]], "kinship": [["alpha"]], "obqa": []}
    assert read_methods(ROOT / "results/figures", "arc") == []  # the committed ones are kinship's


def store(folder: Path, name: str, rows: list[dict]) -> None:
    schema = tables.SCHEMAS[tables.PREDICTIONS]
    with tables.TableWriter(folder / f"{name}.parquet", schema) as table:
        for row in rows:
            table.write(row)


def test_a_run_of_each_method_is_read_that_has_the_same_questions(tmp_path):
    ours = [prediction(n, True) for n in range(3)]
    theirs = [prediction(n, n == 1) for n in range(4)]
    others = [prediction(n, True, question="Another one?") for n in range(4)]
    for name, rows in {
        "plain-1-0123456789": theirs,
        "plain-0-0123456789": theirs,  # the first seed
        "plain-0-25-0-0123456789": theirs,  # of a value, 0.25
        "taught-2-0123456789": theirs,
        "taught-2-abcdefabcd": others,
        "unknown-0-0123456789": theirs,
    }.items():
        store(tmp_path, name, rows)
    runs = read_runs(tmp_path, {"plain", "taught"}, ours)
    assert [*runs] == ["plain-0-0123456789", "taught-2-0123456789"]
    assert [row["correct"] for row in runs["plain-0-0123456789"]] == [False, True, False]
    assert read_runs(tmp_path / "nowhere", {"plain"}, ours) == {}
