import pyarrow.parquet as pq
import pytest

from tests.conftest import question, write_jsonl

GOOD = {
    "train": [question(n) for n in range(6)],
    "validation": [question(n, "validation") for n in range(2)],
    "test": [question(n, "test") for n in range(3)],
}


def params(write_params, folder, **changes):
    return write_params(
        {"data/name": "arc", "datasets/arc": {"source": "jsonl", "folder": str(folder)}} | changes
    )


def test_the_kinship_table_is_the_same_bytes_twice(tmp_path, write_params, run_stage):
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
    assert [row["split"] for row in rows] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    assert rows[0]["rationales"][0] == {"teacher": "one", "text": "Ball 0 of train is red."}


BAD = [
    ('{"id": "x", ', "not JSON"),
    ("[1, 2]", "expected a JSON object, found list"),
    ({"id": "x", "question": "?"}, "answer: field required"),
    (question(9, answer="pink"), "answer 'pink' is none of the options"),
    (question(9, options=["red", "red"]), "two options are equal"),
    (question(9, question=" "), "question: string should match"),
    (question(9, options="red"), "options: input should be a valid list"),
    (question(9, id="train-0"), "id 'train-0' stands on an earlier row"),
    (question(0) | {"id": "other"}, "the same question stands on an earlier row"),
    (question(9, question=GOOD["test"][0]["question"]), "the same question stands on an earlier"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_bad_row_stops_the_run_with_its_file_and_line(
    tmp_path, write_params, run_stage, row, reason
):
    rows = GOOD | {"train": [*GOOD["train"][:3], row]}
    params(write_params, write_jsonl(tmp_path / "mine", **rows))
    done = run_stage("prepare")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "mine/train.jsonl, line 4: " in line
    assert reason in line
    assert not (tmp_path / "data").exists()


def test_bad_rows_can_be_set_aside_with_their_reasons(tmp_path, write_params, run_stage):
    rows = GOOD | {"train": GOOD["train"] + [row for row, _ in BAD]}
    folder = write_jsonl(tmp_path / "mine", **rows)
    with (folder / "train.jsonl").open("ab") as file:
        file.write(b'{"id": "\xff"}\n')
    params(write_params, folder, **{"data/max_rejected": 0.9})
    assert run_stage("prepare").returncode == 0
    rejected = pq.read_table(tmp_path / "data/rejected.parquet").to_pylist()
    reasons = [*(reason for _, reason in BAD), "not UTF-8"]
    assert len(rejected) == len(reasons)
    for number, (row, reason) in enumerate(zip(rejected, reasons, strict=True), start=7):
        assert row["row"] == number
        assert reason in row["reason"]
        assert row["source"].endswith("mine/train.jsonl")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_or_empty_file_is_named(tmp_path, write_params, run_stage, split):
    folder = write_jsonl(tmp_path / "mine", **GOOD)
    params(write_params, folder)
    (folder / f"{split}.jsonl").write_text("\n")
    assert f"has no {split} question" in run_stage("prepare").stderr
    (folder / f"{split}.jsonl").unlink()
    done = run_stage("prepare")
    assert f"mine/{split}.jsonl: no such file" in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_mistyped_parameter_is_one_line_and_a_traceback_only_when_asked(write_params, run_stage):
    write_params({"data/nmae": "arc"})
    done = run_stage("prepare")
    assert done.returncode == 1
    assert "data.nmae: unknown parameter 'nmae'; did you mean 'name'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in run_stage("prepare", "--debug").stderr


def test_every_stage_explains_itself(run_stage):
    for stage in ("fetch", "prepare", "rationales", "saliency", "assemble", "train", "evaluate"):
        help_text = run_stage(stage, "--help").stdout
        assert f"python -m stages.{stage}" in help_text
        assert "Stage `" in help_text


def test_a_stage_without_its_inputs_says_how_to_make_them(write_params, run_stage):
    write_params()
    for stage, arguments in [
        ("rationales", ["--teacher", "smollm2-135m"]),
        ("saliency", []),
        ("assemble", []),
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
