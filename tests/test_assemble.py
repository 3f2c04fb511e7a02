"""Assembly against a plain join over dictionaries, on tables longer than a row group."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from hashlib import blake2b

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.assemble import assemble
from stages.distil.dataset.joining import Counts, Join, Targets, without_targets
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Assemble, Saliency
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.student_prompts import question_text
from stages.distil.language.words import WORD
from stages.distil.storage import tables
from tests.conftest import ROOT
from tests.distil.language.test_words import plain_top_words

TEACHERS = ["one", "two"]
MODELS = ["models/one", "models/two"]
SETTINGS = Assemble(statuses=["ok", "truncated"], scorer="any")
STATUSES = SETTINGS.statuses
SALIENCY = Saliency(teacher="any", top_k=2, weight=1)


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> dict[str, dict]:
    """Tables in which every kind of row is missing here and there; what they hold, by id."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "ROW_GROUP", 7)
    monkeypatch.setattr(tables, "SHARD", 28)
    rng = np.random.default_rng(0)
    held: dict[str, dict] = {name: {} for name in ("examples", "saliency", *TEACHERS)}
    for split, size in (("train", 100), ("validation", 3), ("test", 5)):
        for n in range(size):
            name = f"{split}-{n}"
            words = rng.choice(["Ann", "ann", "cat", "dog", "été", "x-ray"], 6)
            options = [[], ["yes", "no"], ["yes", "no", "é, never"], ["yes", "no"]][n % 4]
            held["examples"][name] = {
                "id": name,
                "split": split,
                "question": " ".join(words),
                "options": options,
                "answer": "yes",
                "rationales": [],
            }
    for teacher in TEACHERS:
        for name, row in held["examples"].items():
            if rng.random() < 0.8:
                train = row["split"] == "train"
                held[teacher][name] = {
                    "id": name,
                    "split": row["split"],
                    "sample": 0,
                    "rationale": f"{teacher} on {name}" if train else None,
                    "status": str(rng.choice(["ok", "truncated", "empty"])) if train else None,
                    "answer": None,
                    "finish_reason": "stop",
                    "prompt_tokens": 1,
                    "output_tokens": 1,
                }
    for name, row in held["examples"].items():
        if row["split"] == "train" and rng.random() < 0.9:
            spans = [match.span() for match in WORD.finditer(row["question"])]
            held["saliency"][name] = {
                "id": name,
                "text": row["question"],
                "words": [
                    {"start": a, "end": b, "score": float(rng.integers(-3, 3))} for a, b in spans
                ],
                "method": "drawn",
                "target": "any",
                "delta": None,
            }
    write(held)
    return held


@pytest.mark.parametrize("labellers", [[], ["two"]])
def test_option_scores_are_joined_with_their_questions(drawn, labellers):
    """Teacher `two` gave two rationales to a question; the first has the scores."""
    rows, expected = [], {}
    for name, row in drawn["two"].items():
        options = drawn["examples"][name]["options"]
        scored = row["split"] == "train" and options and len(rows) % 3
        scores = [float(len(rows)), -1.0] if scored else None
        if row["split"] == "train":
            expected[name] = scores
        rows.append(row | {"option_scores": scores, "answer": "yes"})
        if row["split"] == "train":
            rows.append(row | {"sample": 1, "option_scores": None})
    schema = tables.with_scores(tables.SCHEMAS[tables.RATIONALES], True)
    with tables.TableWriter(tables.rationale_table("two"), schema) as table:
        for row in rows:
            table.write(row)
    found, counts = joined(labellers=labellers, soft_labels="two")
    questions = [row for row in drawn["examples"].values() if row["split"] == "train"]
    kept = [row["id"] for row in questions if not labellers or row["id"] in drawn["two"]]
    assert {row["id"]: row["option_scores"] for row in found} == {
        name: expected.get(name) for name in kept
    }
    assert counts.questions == len(kept)
    assert counts.scored == sum(bool(expected.get(name)) for name in kept)
    assert counts.free_form == sum(not drawn["examples"][name]["options"] for name in kept)
    assert counts.scored + counts.free_form + counts.too_long == len(kept)
    schema = targets(soft_labels="two").schema
    test = [row for part in without_targets("test", schema) for row in part.to_pylist()]
    assert len(test) == 5 and all(row["option_scores"] is None for row in test)


def test_a_table_without_option_scores_is_reported(drawn):
    with pytest.raises(UserError, match="two.parquet: expected columns .*option_scores.*dvc repro"):
        Join(targets(soft_labels="two"))


def write(held: dict[str, dict]) -> None:
    tables.write_table(tables.EXAMPLES, held["examples"].values())
    tables.write_table(tables.SALIENCY, held["saliency"].values())
    for teacher in TEACHERS:
        tables.write_table(tables.rationale_table(teacher), held[teacher].values())


def targets(teachers=TEACHERS, assemble=SETTINGS, saliency=SALIENCY, **others) -> Targets:
    return Targets(teachers, assemble, saliency, **others)


def joined(**changes) -> tuple[list[dict], Counts]:
    """Return the joined train questions, and what was counted."""
    join = Join(targets(**changes))
    rows = [row for part in join for row in part.to_pylist()]
    return rows, join.counts


def assembled(split: str) -> list[dict]:
    """Write a split as the stage does; return its rows."""
    schema = targets().schema
    parts = Join(targets()) if split == "train" else without_targets(split, schema)
    tables.write_shards(tables.distill_table(split), parts, schema)
    return tables.read_table(tables.distill_table(split))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_streams_give_what_a_plain_join_gives(drawn, split):
    expected = []
    for name, row in drawn["examples"].items():
        if row["split"] != split:
            continue
        found = [(t, drawn[t].get(name)) for t in TEACHERS]
        scored = drawn["saliency"].get(name)
        expected.append(
            {
                "id": name,
                "question": row["question"],
                "options": row["options"],
                "answer": row["answer"],
                "rationales": [
                    {"teacher": t, "text": r["rationale"], "status": r["status"]}
                    for t, r in found
                    if r and r["status"] in STATUSES
                ],
                "saliency": plain_top_words(scored["text"], scored["words"], 2) if scored else [],
            }
        )
    assert assembled(split) == expected


def test_without_the_options_words_of_question_and_rationale_are_chosen(drawn):
    rng = np.random.default_rng(2)
    expected = {}
    for name, row in drawn["saliency"].items():
        example = drawn["examples"][name]
        question = question_text(example["question"], example["options"])
        row["text"] = f"{question}\nyes it is été"
        spans = [match.span() for match in WORD.finditer(row["text"])]
        row["words"] = [
            {"start": a, "end": b, "score": float(s)}
            for (a, b), s in zip(spans, rng.permutation(len(spans)), strict=True)
        ]
        outside = [
            word
            for word in row["words"]
            if word["end"] <= len(example["question"]) or word["start"] > len(question)
        ]
        expected[name] = plain_top_words(row["text"], outside, 2)
    write(drawn)
    settings = SALIENCY.model_copy(update={"options": False})
    found = {row["id"]: row["saliency"] for row in joined(saliency=settings)[0]}
    assert {name: words for name, words in found.items() if words} == expected


@pytest.mark.parametrize("labellers", [["two"], ["one", "two"], ["two", "one", "three"]])
def test_teachers_answers_are_labels_where_asked_for(drawn, labellers):
    """Against a vote counted one question at a time; the first teacher breaks a tie."""
    rng = np.random.default_rng(1)
    drawn["three"] = {name: dict(row) for name, row in drawn["one"].items()}
    for teacher in (*TEACHERS, "three"):
        for row in drawn[teacher].values():
            if row["split"] == "train":
                row["answer"] = rng.choice(["yes", "no", "No", None])
    write(drawn)
    tables.write_table(tables.rationale_table("three"), drawn["three"].values())
    expected = {}
    for name in (f"train-{n}" for n in range(100)):
        given = [drawn[t][name]["answer"] for t in labellers if name in drawn[t]]
        given = [answer for answer in given if answer]
        votes = Counter(answer.lower() for answer in given)
        if given:
            most = max(votes.values())
            expected[name] = next(a for a in given if votes[a.lower()] == most)
    rows, counts = joined(teachers=[*TEACHERS, "three"], labellers=labellers)
    found = {row["id"]: row["answer"] for row in rows}
    assert found == expected
    assert 0 < counts.unlabelled == 100 - counts.questions == 100 - len(expected)
    assert counts.not_gold == sum(answer != "yes" for answer in found.values())
    assert len(assembled("validation")) == 3


@pytest.mark.parametrize("labellers", [["two"], ["one", "two"]])
def test_a_rationale_is_kept_if_it_ends_in_the_label_that_is_taught(drawn, labellers):
    """Whatever the gold answer, which is always yes; a published text has no answer of its own."""
    rng = np.random.default_rng(2)
    ends: dict[tuple[str, str], str] = {}
    for teacher in TEACHERS:
        for name, row in drawn[teacher].items():
            if row["split"] == "train":
                ends[teacher, name] = concluded = str(rng.choice(["yes", "no"]))
                own = rng.random() < 0.7
                row |= {"status": "ok", "answer": concluded if own else None}
                row["rationale"] = f"It is clear from {name}." if own else f"So it is {concluded}."
    write(drawn)
    rows, counts = joined(labellers=labellers)
    kept = against = 0
    for row in rows:
        name, options = row["id"], drawn["examples"][row["id"]]["options"]
        judged = [t for t in TEACHERS if name in drawn[t]]
        judged = [t for t in judged if options or drawn[t][name]["answer"]]
        wrong = [t for t in judged if ends[t, name] != row["answer"]]
        taught = [r["teacher"] for r in row["rationales"]]
        assert taught == [t for t in TEACHERS if name in drawn[t] and t not in wrong], name
        kept += len(taught)
        against += len(wrong)
    assert kept and against == sum(c.statuses["contradicts"] for c in counts.teachers.values())
    assert kept == sum(c.taught for c in counts.teachers.values())
    assert any(row["answer"] == "no" and row["rationales"] for row in rows)


def test_a_dropped_or_empty_text_is_no_target(drawn):
    for row in drawn["one"].values():
        if row["status"] == "truncated":
            row["rationale"] = None if row["id"].endswith("1") else ""
    write(drawn)
    kept = [r["text"] for row in assembled("train") for r in row["rationales"]]
    assert kept and all(kept)


def test_several_rationales_of_a_teacher_stand_together(drawn):
    rows = [
        row | {"sample": sample, "rationale": f"{row['id']} {sample}"}
        for row in drawn["one"].values()
        for sample in range(3 if row["split"] == "train" else 1)
    ]
    tables.write_table(tables.rationale_table("one"), rows)
    for row in assembled("train"):
        mine = [r["text"] for r in row["rationales"] if r["teacher"] == "one"]
        assert mine in ([], [f"{row['id']} {sample}" for sample in range(3)])


def test_a_split_is_a_folder_of_shards_and_the_same_bytes_twice(drawn):
    assembled("train")
    files = sorted(tables.distill_table("train").iterdir())
    assert [pq.read_metadata(file).num_rows for file in files] == [28, 28, 28, 16]
    before = [file.read_bytes() for file in files]
    assembled("train")
    assert [file.read_bytes() for file in files] == before


def test_what_became_no_target_is_counted(drawn):
    _, counts = joined()
    for teacher in TEACHERS:
        statuses = Counter(r["status"] for r in drawn[teacher].values() if r["status"])
        assert counts.teachers[teacher].statuses == statuses
        assert counts.teachers[teacher].no_row == 100 - statuses.total()
        assert counts.teachers[teacher].taught == sum(statuses[status] for status in STATUSES)
    assert counts.without_words == 100 - len(drawn["saliency"])
    assert counts.questions == 100


@pytest.mark.parametrize(
    ("source", "bad", "line"),
    [
        ("provided", "inconclusive", "93 are inconclusive: set datasets.kinship.conclude to false"),
        (
            "provided",
            "truncated",
            "93 are truncated: to learn their whole sentences, add truncated to",
        ),
        ("server", "truncated", "93 are truncated: raise rationales.max_tokens"),
        ("server", "too_long", "93 are too_long: raise rationales.context"),
        ("server", "ok", None),
    ],
)
def test_a_teacher_of_whom_little_is_learnt_is_named(
    drawn, write_params, capsys, source, bad, line
):
    rows = [row for row in drawn["examples"].values() if row["split"] == "train"]
    text = {"sample": 0, "answer": None, "finish_reason": "stop", "split": "train"}
    counted = {"prompt_tokens": 1, "output_tokens": 1}
    table = [
        {"id": row["id"], "rationale": "It is.", "status": bad if n < 93 else "ok"} | text | counted
        for n, row in enumerate(rows)
    ]
    tables.write_table(tables.rationale_table("one"), table)
    served = {"source": "server", "url": "http://127.0.0.1:9/v1", "model": "any"}
    model = served if source == "server" else {"source": source}
    file = write_params({"teachers": ["one"], "models/one": model})
    assemble(load_parameters(file))
    warnings = capsys.readouterr().err.splitlines()
    if line is None:
        assert warnings == []
    else:
        (warning,) = warnings
        start = "assemble: warning: one: only 7 of 100 rationales (7.0%) are learnt; "
        assert warning.startswith(start + line)


def test_a_teacher_that_is_gone_and_a_gate_that_nothing_passes(drawn, write_params, run_stage):
    """The table of a former teacher has no part in the result, whoever left it."""
    write_params({"teachers": ["one"]} | dict.fromkeys(MODELS, {"source": "provided"}))
    done = run_stage("assemble")
    assert done.returncode == 0, done.stderr
    assert "assemble: warning" not in done.stderr
    assert tables.rationale_table("two").exists()
    rows = tables.read_table(tables.distill_table("train"))
    assert {r["teacher"] for row in rows for r in row["rationales"]} == {"one"}
    shutil.rmtree(tables.DISTILL)
    for row in drawn["one"].values():
        row["status"] = row["status"] and "empty"
    write(drawn)
    done = run_stage("assemble")
    assert "no rationale of one passed the quality gate" in done.stderr
    assert done.returncode == 1
    assert not tables.distill_table("train").exists()


def test_no_model_is_needed(drawn, write_params):
    """What a student cannot read is for `encode` to find."""
    file = write_params({"teachers": TEACHERS} | dict.fromkeys(MODELS, {"source": "provided"}))
    code = (
        "import sys; from stages.assemble import *; "
        "from stages.distil.interface.parameters import load_parameters; "
        f"assemble(load_parameters({str(file)!r})); "
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def write_usefulness(rows: dict[str, list[dict]]) -> dict[tuple[str, str, int], float | None]:
    """Draw the usefulness of each teacher's rationales; return it by id, teacher and sample.

    Those of questions that end in 3 say nothing but their conclusion, and have none.
    """
    rng = np.random.default_rng(3)
    worth: dict[tuple[str, str, int], float | None] = {}
    for teacher in TEACHERS:
        table = []
        for row in rows[teacher]:
            if row["split"] == "train":
                value = float(rng.integers(-2, 3)) if row["status"] in STATUSES else None
                value = None if row["id"].endswith("3") else value
                worth[row["id"], teacher, row["sample"]] = value
                table.append({"id": row["id"], "sample": row["sample"], "usefulness": value})
        tables.write_table(tables.usefulness_table(teacher), table)
    return worth


def test_the_most_useful_rationale_of_a_question_is_chosen(drawn):
    """Against a choice one question at a time: `ok` before others, of equal ones the first."""
    rows = {teacher: list(drawn[teacher].values()) for teacher in TEACHERS}
    rows["one"] = [
        row | {"sample": sample, "rationale": f"one on {row['id']} {sample}"}
        for row in rows["one"]
        for sample in range(2 if row["split"] == "train" else 1)
    ]
    tables.write_table(tables.rationale_table("one"), rows["one"])
    worth = write_usefulness(rows)
    texts = {(r["id"], t, r["sample"]): r["rationale"] for t in TEACHERS for r in rows[t]}
    statuses = {(r["id"], t, r["sample"]): r["status"] for t in TEACHERS for r in rows[t]}
    expected = {}
    for name in (f"train-{n}" for n in range(100)):
        useful = [key for key, value in worth.items() if key[0] == name and value is not None]
        useful = [key for teacher in TEACHERS for key in useful if key[1] == teacher]
        useful.sort(key=lambda key: (statuses[key] != "ok", -worth[key]))
        expected[name] = [texts[key] for key in useful][:1]
    settings = Assemble(statuses=STATUSES, choose="best", scorer="any")
    found, counts = joined(assemble=settings)
    assert {row["id"]: [r["text"] for r in row["rationales"]] for row in found} == expected
    taught = Counter(r["teacher"] for row in found for r in row["rationales"])
    assert {teacher: counts.teachers[teacher].taught for teacher in TEACHERS} == taught
    assert set(Counter(map(len, expected.values()))) == {0, 1} and len(taught) == 2


@pytest.mark.parametrize("choose", ["ratio", "shortest", "random"])
@pytest.mark.parametrize("number", [1, 2])
def test_so_many_rationales_of_a_question_are_chosen(drawn, choose, number):
    """Against a choice one question at a time; they keep their order."""
    rows = {teacher: list(drawn[teacher].values()) for teacher in TEACHERS}
    rows["one"] = [
        row | {"sample": sample, "rationale": f"one on {row['id']}{' so' * sample}"}
        for row in rows["one"]
        for sample in range(3 if row["split"] == "train" else 1)
    ]
    tables.write_table(tables.rationale_table("one"), rows["one"])
    worth = write_usefulness(rows)
    order = {}
    for teacher in TEACHERS:
        for row in rows[teacher]:
            key = (row["id"], teacher, row["sample"])
            if row["split"] != "train" or row["status"] not in STATUSES or not row["rationale"]:
                continue
            if choose == "ratio" and worth[key] is None:
                continue
            text = row["rationale"]
            drawn_number = blake2b(
                json.dumps([7, row["id"], teacher, text]).encode(), digest_size=8
            )
            order.setdefault(row["id"], []).append(
                {
                    "ratio": -(worth[key] or 0.0),
                    "shortest": len(text),
                    "random": int.from_bytes(drawn_number.digest(), sys.byteorder),
                    "text": text,
                    "other": row["status"] != "ok",
                }
            )
    settings = Assemble(statuses=STATUSES, choose=choose, per_question=number, scorer="any")
    found, _ = joined(assemble=settings, seed=7)
    for row in found:
        candidates = order.get(row["id"], [])
        best = sorted(candidates, key=lambda each: (each["other"], each[choose]))[:number]
        expected = [each["text"] for each in candidates if each in best]
        assert [r["text"] for r in row["rationales"]] == expected
    if choose == "random":
        assert joined(assemble=settings, seed=8)[0] != found


def test_equal_rationales_of_a_teacher_count_once(drawn):
    rows = list(drawn["one"].values())
    twice = [
        row | {"sample": sample, "rationale": f"one on {row['id']} {sample // 2}"}
        for row in rows
        for sample in range(3 if row["split"] == "train" else 1)
    ]
    tables.write_table(tables.rationale_table("one"), twice)
    found, _ = joined(assemble=Assemble(statuses=STATUSES, scorer="any"))
    for row in found:
        own = [r["text"] for r in row["rationales"] if r["teacher"] == "one"]
        assert own in ([], [f"one on {row['id']} 0", f"one on {row['id']} 1"])
    assert any(len(row["rationales"]) > 1 for row in found)


def test_usefulness_of_other_rationales_is_named(drawn):
    write_usefulness({teacher: list(drawn[teacher].values())[1:] for teacher in TEACHERS})
    settings = Assemble(statuses=STATUSES, choose="best", scorer="any")
    with pytest.raises(
        UserError, match="usefulness/one.parquet: its rows are not those of .*repro"
    ):
        joined(assemble=settings)


def test_a_table_of_other_questions_is_named(drawn):
    row = drawn["one"].pop("train-1") if "train-1" in drawn["one"] else drawn["one"]["train-2"]
    drawn["one"]["train-x"] = row | {"id": "train-x"}
    write(drawn)
    with pytest.raises(UserError, match=r"one.parquet: row 'train-x' belongs to no question"):
        assembled("train")


@pytest.mark.parametrize("places", [(3, 4), (3, 60)])
def test_a_table_in_another_order_is_named(drawn, places):
    rows = list(drawn["saliency"].values())
    a, b = places
    rows[a], rows[b] = rows[b], rows[a]
    tables.write_table(tables.SALIENCY, rows)
    with pytest.raises(UserError, match=r"saliency.parquet: row 'train-\d+' belongs to no"):
        assembled("train")
    assert not tables.distill_table("train").exists()
