import json
import shutil
from collections import Counter

import pyarrow.parquet as pq
import pytest

from stages.distil.storage import tables
from tests.conftest import question, write_jsonl

GOOD = {
    "train": [question(n) for n in range(6)],
    "validation": [question(n, "validation") for n in range(2)],
    "test": [question(n, "test") for n in range(3)],
}


def params(write_params, folder, **changes):
    own = {
        "data/name": "mine",
        "data/max_rejected": 0.0,
        "datasets/mine": {"source": "files", "folder": str(folder)},
    }
    return write_params(own | changes)


def test_the_kinship_table_is_reproducible(tmp_path, write_params, run_stage):
    write_params({"datasets/kinship/sizes": {"train": 9, "validation": 3, "test": 3, "pool": 2}})
    tables = []
    for _ in range(2):
        assert run_stage("prepare").returncode == 0
        tables.append((tmp_path / "data/examples.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert pq.read_table(tmp_path / "data/examples.parquet").num_rows == 17


def test_a_folder_of_json_lines_becomes_a_table(tmp_path, write_params, run_stage):
    params(write_params, write_jsonl(tmp_path / "mine", **GOOD), **{"data/limit": 4})
    done = run_stage("prepare")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    rows = pq.read_table(tmp_path / "data/examples.parquet").to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 3 + [
        "pool"
    ] * 6
    for row in rows[:4]:
        number = row["id"].removeprefix("train-")
        assert row["rationales"][0]["text"].startswith(f"Ball {number} of train is ")


STAGES = ["fetch", "prepare", "rationales", "saliency", "assemble"]
STAGES += ["encode", "card", "train", "evaluate"]


def test_the_order_in_which_shards_are_written_does_not_matter(tmp_path, write_params, run_stage):
    written = []
    for order in (range(4), reversed(range(4))):
        folder = write_jsonl(tmp_path / "mine", validation=GOOD["validation"], test=GOOD["test"])
        for n in order:
            rows = [question(2 * n), question(2 * n + 1), "{bad"]
            write_jsonl(folder / "train", **{f"part-{n}": rows})
        params(write_params, folder, **{"data/max_rejected": 0.5, "data/fraction": 0.5})
        assert run_stage("prepare").returncode == 0
        names = ("examples", "rejected")
        written.append([(tmp_path / f"data/{name}.parquet").read_bytes() for name in names])
        shutil.rmtree(folder)
    assert written[0] == written[1]


YES_NO = {"id": "x", "question": "Is it?", "options": ["yes", "no"], "answer": "yes"}
BAD = [
    ('{"id": "x", ', "not JSON: Expecting property name"),
    ("{'id': 'x'}", "not JSON: Expecting property name"),
    ("id,question,answer", "not JSON: Expecting value"),
    ('{"id": "x"} {"id": "y"}', "not JSON: Extra data"),
    ("[" * 100_000, "not JSON: maximum recursion depth exceeded"),
    ('"' + "a" * 10, "not JSON: Unterminated string"),
    (b'{"id": "\xff"}', "not UTF-8 at byte 9"),
    ("{}".encode("utf-16"), "not UTF-8 at byte 1"),
    ("[1, 2]", "expected an object with fields, found list"),
    ('"a text"', "expected an object with fields, found str"),
    ("7", "expected an object with fields, found int"),
    ("null", "expected an object with fields, found NoneType"),
    ("{}", "question: missing"),
    (YES_NO | {"question": None}, "question: missing"),
    (YES_NO | {"question": " \t"}, "question: empty"),
    (YES_NO | {"question": ["Is it?"]}, "question: expected a text, found list"),
    (YES_NO | {"question": True}, "question: expected a text, found bool"),
    (YES_NO | {"question": "Caf\ufffd?"}, "question: contains U+FFFD"),
    (YES_NO | {"question": "a\x00b"}, "question: contains U+0000"),
    ('{"id": "x", "question": "\\ud800", "answer": "a"}', "question: contains U+D800"),
    (YES_NO | {"question": "x" * 50_001}, "50,009 characters in question and options"),
    (YES_NO | {"id": None}, "id: missing"),
    (YES_NO | {"id": ""}, "id: empty"),
    (YES_NO | {"id": {"n": 1}}, "id: expected a text, found dict"),
    (YES_NO | {"id": "train-0"}, "id 'train-0' is already used on an earlier row"),
    (YES_NO | {"question": "\u200b\ufeff"}, "question: nothing but invisible characters"),
    (YES_NO | {"id": "\u00ad"}, "id: nothing but invisible characters"),
    (YES_NO | {"question": "Is \x9b31m it?"}, "question: contains U+009B"),
    (
        YES_NO | {"options": ["yes", "no", "no\u200b"]},
        "two options read the same: 'no' and 'no\\u2",
    ),
    (
        YES_NO | {"options": ["yes", "é", "e\u0301"]},
        "two options read the same: '\\xe9' and 'e\\u0",
    ),
    (YES_NO | {"answer": "9" * 5000}, "answer '999"),
    (f'{{"id": "x", "question": "Is it?", "answer": {"9" * 5000}}}', "answer: a number of 5,000"),
    (
        '{"id": "x", "question": "Is it?", "answer": "a", "answer": "b"}',
        "key 'answer' occurs twice",
    ),
    (
        '{"id": "x", "question": "Is it?", "answer": {"a": "b", "a": "b"}}',
        "answer: key 'a' occurs twice",
    ),
    (YES_NO | {"options": "yes"}, "options: expected a list of texts, found str"),
    (YES_NO | {"options": ["yes", None]}, "options[1]: expected a text, found NoneType"),
    (YES_NO | {"options": ["yes", " "]}, "options[1]: empty"),
    (YES_NO | {"options": ["yes", " yes "]}, "all options are equal"),
    (YES_NO | {"options": ["yes"]}, "only one option"),
    ({"id": "x", "question": "Is it?", "options": ["yes", "no"]}, "answer: missing"),
    (YES_NO | {"answer": ""}, "answer: empty"),
    (YES_NO | {"answer": "maybe"}, "answer 'maybe' is not one of the options"),
    (YES_NO | {"answer": "C"}, "answer 'C' is not one of the options"),
    (YES_NO | {"answer": 2}, "answer '2' is not one of the options"),
    (YES_NO | {"answer": -1}, "answer: -1, which means that there is no label"),
    (
        YES_NO | {"rationales": ["It is."]},
        "rationales: expected an object of teacher: text, found list",
    ),
    (YES_NO | {"rationales": {"a.b": "It is."}}, "rationales: 'a.b' is not a valid teacher name"),
    (YES_NO | {"rationales": {"one": "It is.", "two": {}}}, "rationales.two: expected a text"),
    (YES_NO | {"rationales": {"one": ["It is.", ["So."]]}}, "rationales.one: expected a text"),
    (YES_NO | {"rationales": {"one": ["It is."] * 65}}, "rationales.one: 65 texts; expected at"),
    (question(0) | {"id": "other"}, "the same question is also on an earlier row"),
    (GOOD["test"][0] | {"id": "leak"}, "the same question is also in test"),
    (GOOD["validation"][0] | {"id": "leak"}, "the same question is also in validation"),
]


def test_only_a_train_question_is_refused_for_its_rationale(tmp_path, write_params, run_stage):
    """Others are not explained, so no test question is lost by it."""
    broken = {"rationales": {"one": "It is \x15.", "two": "So."}}
    rows = {split: [*own, question(9, split, **broken)] for split, own in GOOD.items()}
    folder = write_jsonl(tmp_path / "mine", **rows)
    params(write_params, folder, **{"data/max_rejected": 0.5})
    done = run_stage("prepare")
    assert done.returncode == 0, done.stderr
    refused = pq.read_table(tmp_path / "data/rejected.parquet").to_pylist()
    assert [row["reason"].partition(",")[0] for row in refused] == [
        "rationales.one: contains U+0015"
    ]
    examples = pq.read_table(tmp_path / "data/examples.parquet").to_pylist()
    kept = Counter(row["split"] for row in examples)
    kept.pop("pool")
    assert kept == {split: len(own) + (split != "train") for split, own in GOOD.items()}


def test_equal_options_are_counted(tmp_path, write_params, run_stage):
    twice = {"id": "x", "question": "Who?", "options": ["Ann", "Bo", "Bo "], "answer": "C"}
    folder = write_jsonl(tmp_path / "mine", **GOOD | {"train": [twice]})
    entry = {"source": "files", "folder": str(folder), "fields": {"equal_options": "merge"}}
    params(write_params, folder, **{"datasets/mine": entry})
    done = run_stage("prepare")
    assert "; 1 with equal options" in done.stdout
    row = pq.read_table(tmp_path / "data/examples.parquet").to_pylist()[0]
    assert (row["options"], row["answer"]) == (["Ann", "Bo"], "Bo")


@pytest.mark.parametrize(("row", "reason"), BAD[:40:6])
def test_a_bad_row_stops_the_run_and_is_located(tmp_path, write_params, run_stage, row, reason):
    rows = GOOD | {"train": [*GOOD["train"][:3], row]}
    params(write_params, write_jsonl(tmp_path / "mine", **rows))
    done = run_stage("prepare")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "mine/train.jsonl, row 4: " in line
    assert reason in line
    assert not list((tmp_path / "data").iterdir())


def test_bad_rows_can_be_skipped_with_their_reasons(tmp_path, write_params, run_stage):
    assert len(BAD) >= 40
    rows = GOOD | {"train": GOOD["train"] + [row for row, _ in BAD]}
    folder = write_jsonl(tmp_path / "mine", **rows)
    params(write_params, folder, **{"data/max_rejected": 0.9})
    done = run_stage("prepare")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    rejected = pq.read_table(tmp_path / "data/rejected.parquet").to_pylist()
    assert len(rejected) == len(BAD)
    for number, (row, (_, reason)) in enumerate(zip(rejected, BAD, strict=True), start=7):
        assert row["row"] == number
        assert row["reason"].startswith(reason), row
        assert row["source"].endswith("mine/train.jsonl")
    rows = pq.read_table(tmp_path / "data/examples.parquet").to_pylist()
    assert len([r for r in rows if r["split"] != "pool"]) == sum(map(len, GOOD.values()))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_or_empty_file_is_named(tmp_path, write_params, run_stage, split):
    folder = write_jsonl(tmp_path / "mine", **GOOD)
    params(write_params, folder)
    (folder / f"{split}.jsonl").write_text("\n")
    assert f"has no {split} questions" in run_stage("prepare").stderr
    (folder / f"{split}.jsonl").unlink()
    done = run_stage("prepare")
    assert f"mine/{split}.* or " in done.stderr
    assert f"no such file; datasets.*.splits can name the files of {split}" in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_split_without_rows_says_where_they_went(tmp_path, write_params, run_stage):
    folder = write_jsonl(tmp_path / "mine", **GOOD)
    (folder / "train.jsonl").unlink()
    (folder / "TRAIN.CSV").write_text("id;question;answer\n")
    params(write_params, folder)
    done = run_stage("prepare")
    assert "data set 'mine' has no train questions; there are no rows for it" in done.stderr
    write_jsonl(folder, train=[GOOD["test"][0] | {"id": "leak"}])
    done = run_stage("prepare")
    assert "has no train questions; of the rows of all splits, 1 repeated" in done.stderr
    data = {"source": "files", "folder": str(folder), "where": {"answer": "none"}}
    params(write_params, folder, **{"datasets/mine": data})
    done = run_stage("prepare")
    assert "has no train questions; of the rows of all splits, 6 left out by where" in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_half_of_a_surrogate_pair_matters_in_a_used_field_only(
    tmp_path, write_params, run_stage, kind
):
    folder = write_jsonl(tmp_path / "mine", **GOOD)
    (folder / "train.jsonl").unlink()
    half = "half \ud83d"
    rows = [
        question(0, note=half),
        question(1, question=half),
        question(2, options=["red", half], answer="red"),
        question(3, rationales={"one": half}),
        question(4, id=half),
        question(5, **{half: half}),
        question(6, answer="none", note=half),
        question(0, id="again", note=half),
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"train.{kind}").write_text(json.dumps(rows) if kind == "json" else lines)
    params(write_params, folder, **{"data/max_rejected": 0.9})
    done = run_stage("prepare")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    refused = pq.read_table(tmp_path / "data/rejected.parquet").to_pylist()
    assert [(row["row"], row["reason"].partition(",")[0]) for row in refused] == [
        (2, "question: contains U+D83D"),
        (3, "options[1]: contains U+D83D"),
        (4, "rationales.one: contains U+D83D"),
        (5, "id: contains U+D83D"),
        (7, "answer 'none' is not one of the options"),
        (8, "the same question is also on an earlier row"),
    ]
    assert all(r"half \ud83d" in row["text"] for row in refused)
    train = [row["id"] for row in tables.read_table(tmp_path / tables.EXAMPLES)]
    assert train[:2] == ["train-0", "train-5"]


def test_open_quotes_count_as_the_rows_that_they_cost(tmp_path, write_params, run_stage):
    free = {
        split: [row | {"options": []} for row in GOOD[split]] for split in ("validation", "test")
    }
    folder = write_jsonl(tmp_path / "mine", **free)
    rows = [f"train-{n},Which is {n}?,red" for n in range(8)]
    rows[3:3] = ['bad,"Which,red', 'bad,"Which,red']
    (folder / "train.csv").write_text("\n".join(["id,question,answer", *rows]))
    params(write_params, folder)
    done = run_stage("prepare")
    assert "mine/train.csv, row 5: not CSV: " in done.stderr
    assert "(2 bad rows of 15; fix them, or raise data.max_rejected" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_hub_folder_that_cannot_be_read_is_one_line(tmp_path, write_params, run_stage):
    shards = {f"{split}-{n}": [question(n, split)] for split in GOOD for n in range(2)}
    shards["train-1"] = [question(1, more="x")]
    folder = write_jsonl(tmp_path / "mine", **shards)
    data = {"source": "hub", "folder": str(folder)}
    params(write_params, folder, **{"datasets/mine": data})
    done = run_stage("prepare")
    (line,) = done.stderr.splitlines()
    assert "split 'test' or another: its files differ in their columns" in line
    assert done.returncode == 1
    params(write_params, folder)
    assert run_stage("prepare").returncode == 0


def test_a_mistyped_parameter_shows_a_traceback_only_with_debug(write_params, run_stage):
    write_params({"data/nmae": "arc"})
    done = run_stage("prepare")
    assert done.returncode == 1
    assert "data.nmae: unknown parameter 'nmae'; did you mean 'name'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in run_stage("prepare", "--debug").stderr


def test_every_stage_has_a_help_text(run_stage):
    for stage in STAGES:
        help_text = run_stage(stage, "--help").stdout
        assert f"python -m stages.{stage}" in help_text
        assert "Stage `" in help_text


def test_a_stage_without_its_inputs_says_how_to_create_them(write_params, run_stage):
    write_params()
    for stage, arguments in [
        ("rationales", ["--teacher", "smollm2-135m"]),
        ("saliency", []),
        ("assemble", []),
        ("encode", []),
        ("card", []),
        ("train", []),
        ("evaluate", []),
    ]:
        done = run_stage(stage, *arguments)
        assert done.returncode == 1, stage
        assert "no such table; `dvc repro` makes it" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_an_unknown_teacher_or_model_is_named(write_params, run_stage):
    write_params()
    assert "unknown teacher 'gpt'; models in" in run_stage("rationales", "--teacher", "gpt").stderr
    assert "unknown model 'gpt'; models in" in run_stage("fetch", "--model", "gpt").stderr


MARBLES = (
    "Ann put {} marbles into a bag, took four of them out, and gave it to Bea. How many are in it?"
)


@pytest.fixture
def near_copies(tmp_path, write_params, run_stage):
    """Prepare a set whose last train questions nearly repeat one of validation and one of test."""
    nine = {"question": MARBLES.format("nine"), "options": ["5", "8"], "answer": "5"}
    twelve = {"question": MARBLES.format("twelve"), "options": ["5", "8"], "answer": "8"}

    def copy(number: int, **fields) -> dict:
        return question(number, **fields | {"question": fields["question"] + " Say it."})

    folder = write_jsonl(
        tmp_path / "mine",
        train=[*GOOD["train"], copy(6, **twelve), copy(7, **nine)],
        validation=[*GOOD["validation"], question(2, "validation", **twelve)],
        test=[*GOOD["test"], question(3, "test", **nine)],
    )

    def prepare(**changes) -> tuple:
        params(write_params, folder, **changes)
        done = run_stage("prepare")
        assert done.returncode == 0, done.stderr
        names = ("examples", "near_copies", "rejected")
        return done.stdout, *(
            pq.read_table(tmp_path / f"data/{name}.parquet").to_pylist() for name in names
        )

    return prepare


def test_near_copies_are_kept_and_named(near_copies):
    said, examples, copies, rejected = near_copies(**{"data/similarity": 0.8})
    assert "1 of test with a near copy in train" in said
    assert "1 of validation with a near copy in train" in said
    assert ([row["split"] for row in examples].count("train"), rejected) == (8, [])
    assert [(row["split"], row["id"], row["train_id"]) for row in copies] == [
        ("validation", "validation-2", "train-6"),
        ("test", "test-3", "train-7"),
    ]
    assert all(0.8 <= row["similarity"] < 1 for row in copies)


def test_a_near_copy_that_is_not_used_is_not_named(near_copies):
    _, examples, copies, _ = near_copies(**{"data/similarity": 0.8, "data/limit": 3})
    used = {row["id"] for row in examples if row["split"] == "train"}
    assert {row["train_id"] for row in copies} == used & {"train-6", "train-7"}
    assert len(used) == 3


def test_near_copies_are_removed_if_asked(near_copies):
    changes = {"data/similarity": 0.8, "data/near_copies": "remove", "data/limit": 7}
    said, examples, copies, rejected = near_copies(**changes)
    assert "2 near copies removed" in said
    assert [row["id"] for row in examples if row["split"] == "train"] == [
        f"train-{n}" for n in range(6)
    ]
    assert copies == []
    assert [(row["row"], row["reason"].partition(" (similarity 0.")[0]) for row in rejected] == [
        (7, "nearly 'validation-2' of validation"),
        (8, "nearly 'test-3' of test"),
    ]


def test_a_train_split_of_near_copies_alone_is_not_removed(near_copies):
    with pytest.raises(AssertionError, match="every train question nearly repeats one of valid"):
        near_copies(**{"data/similarity": 0.01, "data/near_copies": "remove"})
