"""The lines for other trainers: what they hold, and that TRL trains on them."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from stages.distil.encoding.encoder import Encoder
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student
from stages.distil.interface.parameters import load_parameters
from stages.distil.models.loading import load_model
from stages.distil.reporting.sft import EXPORT, FORMS, LINES, export
from stages.distil.storage import tables
from tests.students import taught

OPTIONS = ["mother", "aunt"]
ALPHA = {"qwen-coder-1b5": 0.5, "qwen-coder-0b5": 0.25}


def row(number: int, split: str = "train", **changes) -> dict:
    empty = {"id": f"{split}-{number}", "question": f"Who is Ann {number}?", "options": OPTIONS}
    return empty | {"answer": "aunt", "rationales": [], "saliency": []} | changes


def rationale(teacher: str, text: str, status: str = "ok") -> dict:
    return {"teacher": teacher, "text": text, "status": status}


FIRST = row(
    1,
    rationales=[
        rationale("qwen-coder-1b5", "Ann is an aunt."),
        rationale("qwen-coder-1b5", "It is “aunt”.\u2028Answer: no."),
        rationale("qwen-coder-0b5", "Perhaps.", "inconclusive"),
    ],
    saliency=["Ann", "Who"],
)
ROWS = [FIRST, row(2), row(3, rationales=[rationale("qwen-coder-0b5", "She is.")])]


def write_data(train: list[dict]) -> None:
    schema = tables.SCHEMAS[tables.DISTILL]
    for split in ("train", "validation", "test"):
        rows = train if split == "train" else [row(n, split) for n in range(3)]
        table = pa.Table.from_pylist(rows, schema=schema)
        tables.write_shards(tables.distill_table(split), [table], schema)


@pytest.fixture
def parameters(tmp_path, write_params, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(ROWS)
    return load_parameters(write_params({"alpha": ALPHA}))


def lines(split: str = "train") -> list[dict]:
    text = (EXPORT / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_every_target_is_a_line_with_its_teacher_status_and_weight(parameters, capsys):
    export("messages", "target", parameters)
    columns = ("id", "target", "teacher", "status", "weight")
    described = [tuple(line[column] for column in columns) for line in lines()]
    assert described == [
        ("train-1", "answer", "", "", 1.0),
        ("train-1", "rationale", "qwen-coder-1b5", "ok", 0.25),  # two share the weight of one
        ("train-1", "rationale", "qwen-coder-1b5", "ok", 0.25),
        ("train-1", "rationale", "qwen-coder-0b5", "inconclusive", 0.25),
        ("train-1", "saliency", "qwen-coder-0b5", "", 0.1),
        ("train-2", "answer", "", "", 1.0),
        ("train-3", "answer", "", "", 1.0),
        ("train-3", "rationale", "qwen-coder-0b5", "ok", 0.25),
    ]
    texts = [[message["content"] for message in line["messages"]] for line in lines()[:5]]
    question = "Who is Ann 1?\nOptions: mother, aunt"
    assert texts == [
        [question, "aunt"],
        [f"{question}\nReason 1:", "Ann is an aunt."],
        [f"{question}\nReason 1:", "It is “aunt”.\u2028Answer: no."],
        [f"{question}\nReason 2:", "Perhaps."],
        [f"{question}\nKey words:", "Ann, Who"],
    ]
    assert {message["role"] for line in lines() for message in line["messages"][::2]} == {"user"}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("data/export/train.jsonl: 8 lines (answer 3, rationale qwen-coder")
    assert printed[2] == "data/export/test.jsonl: 3 lines (answer 3)"


def test_a_line_per_rationale_leads_to_the_answer(parameters):
    export("messages", "rationale", parameters)
    replies = [(line["id"], line["messages"][1]["content"]) for line in lines()]
    assert replies == [
        ("train-1", "Ann is an aunt.\nAnswer: aunt"),
        ("train-1", "It is “aunt”.\u2028answer is no.\nAnswer: aunt"),
        ("train-3", "She is.\nAnswer: aunt"),
    ]
    assert [line["weight"] for line in lines()] == [0.25, 0.25, 0.25]
    assert lines()[0]["messages"][0]["content"] == "Who is Ann 1?\nOptions: mother, aunt"
    assert [line["messages"][1]["content"] for line in lines("validation")] == ["aunt"] * 3


@pytest.mark.parametrize(("per", "form"), [("target", "branch"), ("rationale", "before_answer")])
def test_prompt_and_completion_are_the_tokens_of_the_students_training(
    parameters, tiny_model, per, form
):
    """Up to the token that ends a text, which a trainer adds."""
    export("prompt-completion", per, parameters)
    model, tokens = load_model(tiny_model, "float32")
    encoder = Encoder(model.config, tokens, Student(model="tiny", form=form), parameters.teachers)
    written = [
        (tokens(line["prompt"])["input_ids"], tokens(line["completion"])["input_ids"])
        for line in lines()
    ]
    tasks = [*parameters.teachers, *(["answer", "saliency"] if per == "target" else [])]
    learnt = [
        (sample.context + branch.prefix, branch.target[:-1])
        for each in ROWS
        for sample in taught(encoder, each, tasks)
        for branch in sample.branches
    ]
    assert written == learnt


@pytest.mark.parametrize("form", FORMS)
def test_the_files_are_always_the_same(parameters, form):
    export(form, "target", parameters)
    first = {file.name: file.read_bytes() for file in EXPORT.iterdir()}
    assert sorted(first) == ["test.jsonl", "train.jsonl", "validation.jsonl"]
    export(form, "target", parameters)
    assert {file.name: file.read_bytes() for file in EXPORT.iterdir()} == first


def test_what_has_no_weight_is_left_out(parameters, write_params):
    changes = {"alpha": ALPHA | {"qwen-coder-0b5": 0}, "saliency/weight": 0}
    export("messages", "target", load_parameters(write_params(changes)))
    assert {line["teacher"] for line in lines()} == {"", "qwen-coder-1b5"}


def test_a_refused_export_leaves_the_one_before(parameters):
    export("messages", "target", parameters)
    before = lines()
    with pytest.raises(UserError, match="^FORM is 'chat'; it must be messages or prompt-completio"):
        export("chat", "target", parameters)
    with pytest.raises(UserError, match="^PER is 'teacher'; it must be target or rationale$"):
        export("messages", "teacher", parameters)
    write_data([row(1, rationales=[rationale("qwen-coder-1b5", "So?", "inconclusive")])])
    with pytest.raises(UserError, match="data/distill/train: no rationale is ok .* use PER=target"):
        export("messages", "rationale", parameters)
    write_data([row(1, rationales=[rationale("oracle", "Ann is an aunt.")])])
    with pytest.raises(UserError, match="rationales of 'oracle', who is not one of `teachers`"):
        export("messages", "target", parameters)
    assert lines() == before
    assert [path.name for path in Path("data").iterdir() if path.suffix == ".tmp"] == []


def test_data_that_is_not_assembled_is_reported(parameters, tmp_path):
    (tmp_path / "data/distill/test/00000.parquet").unlink()
    (tmp_path / "data/distill/test").rmdir()
    with pytest.raises(UserError, match="data/distill/test: no such table; `dvc repro` makes it"):
        export("messages", "target", parameters)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per", LINES)
def test_trl_trains_an_epoch_on_it(parameters, tiny_model, form, per):
    trl = pytest.importorskip("trl", reason="`make trl` installs it")
    import datasets

    export(form, per, parameters)
    files = {split: str(EXPORT / f"{split}.jsonl") for split in ("train", "validation")}
    data = datasets.load_dataset("json", data_files=files, cache_dir="cache")
    settings = trl.SFTConfig(
        "trained",
        num_train_epochs=1,
        per_device_train_batch_size=2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = trl.SFTTrainer(
        str(tiny_model), settings, train_dataset=data["train"], eval_dataset=data["validation"]
    )
    assert trainer.train().global_step == (len(lines()) + 1) // 2
    assert trainer.state.log_history[0]["eval_loss"] > 0
    taught = trainer.train_dataset[0]
    tokenizer = trainer.processing_class
    learnt = [
        t for t, label in zip(taught["input_ids"], taught["labels"], strict=True) if label >= 0
    ]
    line = lines()[0]
    if form == "messages":
        assert learnt == tokenizer.apply_chat_template(line["messages"])["input_ids"]
    else:
        assert tokenizer.decode(learnt) == line["completion"] + tokenizer.eos_token
