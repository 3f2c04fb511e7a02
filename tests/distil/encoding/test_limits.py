"""What a student cannot read or write is said before it is trained."""

import shutil

import pytest

from stages.distil.encoding.limits import Affected, Limits
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import StudentPrompt
from stages.distil.interface.parameters import load_parameters
from stages.distil.storage import tables
from stages.encode import encode
from tests.students import write_distill


def row(number: int, options=("red", "green"), answer="green", words=3, rationale="So.") -> dict:
    return {
        "id": f"q{number}",
        "question": "why " * words,
        "options": list(options),
        "answer": answer,
        "rationales": [{"teacher": "one", "text": rationale, "status": "ok"}],
        "saliency": ["why"],
    }


@pytest.fixture
def limits(tmp_path, write_params, monkeypatch, tiny_model, capsys):
    """Return the lines about these rows of a split; the student is the tiny Llama."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models/tiny")

    def find(split: str, *rows: dict, **changes) -> list[str]:
        for name in ("train", "validation", "test"):
            write_distill(name, rows if name == split else [row(0)])
        values = {
            "teachers": ["one"],
            "models/one": {"source": "provided"},
            "models/tiny": {"source": "folder", "path": "models/tiny"},
            "student/model": "tiny",
            "evaluate/max_tokens": 12,
        }
        changed = {name.replace("__", "/"): value for name, value in changes.items()}
        capsys.readouterr()
        encode(load_parameters(write_params(values | changed)))
        start = "encode: warning: "
        lines = capsys.readouterr().err.splitlines()
        return [line.removeprefix(start) for line in lines if line.startswith(start)]

    return find


def test_what_fits_is_not_mentioned(limits):
    assert limits("train", row(1), row(2)) == []


def test_answers_longer_than_the_student_may_write_are_counted(limits):
    long = "a rather long answer of many tokens"
    rows = [row(1), row(2, ["red", long]), row(3, [], long)]
    [line] = limits("test", *rows)
    assert line.startswith("test: answers or options of more than 12 tokens")
    assert "2 questions, the first 'q2'" in line
    needed = int(line.rsplit(" ", 1)[1])
    assert limits("test", *rows, evaluate__max_tokens=needed) == []
    assert limits("test", *rows, evaluate__max_tokens=needed - 1) != []
    assert limits("train", *rows) == []  # it learns them, and is not asked for them


@pytest.mark.parametrize("text", ["<|endoftext|>", "a <|im_end|> b", " <|im_start|>"])
def test_what_looks_like_a_control_token_is_learnt_and_written_as_text(limits, text):
    assert limits("test", row(1, ["red", text], text), evaluate__max_tokens=40) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_options_that_the_tokenizer_changes_are_named(limits, tmp_path, split):
    """A tokenizer that writes lower case only cannot tell BB from bb."""
    from tokenizers import Tokenizer, normalizers

    file = tmp_path / "models/tiny/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(file))
    [line] = limits(split, row(1, ["BB", "Bb", "bb"], "BB"), row(2, ["Red", "Green"], "Red"))
    assert line.startswith(f"{split}: answers or options that the student's tokenizer changes")
    assert "1 question, the first 'q1' ('BB' becomes ' bb')" in line


def test_texts_that_training_cuts_or_leaves_out_are_counted(limits):
    rows = [row(1), row(2, words=60), row(3, rationale="because " * 40)]
    [line] = limits("train", *rows, student__context=100)
    assert line == "train: longer than 100 tokens: {'cut': 1, 'one': 1}"


def test_questions_that_are_cut_for_the_answer_are_counted(limits):
    """The student must be able to write as many tokens as it may, or its longest option."""
    rows = [row(1), row(2, words=60)]
    for split in ("validation", "test"):
        [line] = limits(split, *rows, student__context=100)
        assert line == f"{split}: longer than 100 tokens: {{'cut': 1}}"


def test_texts_before_the_question_count_too(limits):
    """Each task has a prefix of its own; that of the rationale is the longest."""
    names = {"answer": "predict", "saliency": "words", "one": "why " * 40 + "so"}
    prompt = StudentPrompt(options="lettered", prefixes=names)
    long = row(2, words=12)
    changes = {"student__prompt": prompt.model_dump(), "student__shared_context": False}
    context = 150
    assert limits("train", long, student__context=400, **changes) == []
    [line] = limits("train", long, student__context=context, **changes)
    assert line.startswith(f"train: longer than {context} tokens: {{'cut': 0, 'one': 1}}")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_question_that_no_student_can_read_stops_the_run_before_training(limits, split):
    rows = [row(1), row(2, ["long " * 30, "longer " * 30], "long " * 30), row(3)]
    with pytest.raises(UserError, match=f"{split}: question 'q2': .* raise student.context") as e:
        limits(split, *rows, *[each | {"id": "q4"} for each in rows[1:2]], student__context=60)
    assert str(e.value).endswith("; so are 1 more")
    assert not tables.ENCODED.exists()


def test_limits_of_later_questions_are_added():
    total, first, second = Limits(), Limits(), Limits()
    first.cut, first.left_out["one"], first.longest = 2, 1, 7
    first.changed.add(1, "'a'")
    second.cut, second.left_out["two"], second.longest = 1, 3, 5
    second.changed.add(2, "'b'")
    second.refused.add(1, "too long")
    for each in (first, second):
        total.add(each)
    assert total.shortened == {"cut": 3, "one": 1, "two": 3}
    assert (total.longest, total.changed, total.unwritten) == (7, Affected(3, "'a'"), Affected())
    with pytest.raises(UserError, match="^train: too long$"):
        total.check("train")
