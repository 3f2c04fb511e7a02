"""What a student cannot read or write is said before it is trained."""

import shutil

import pytest
from transformers import AutoConfig, AutoTokenizer

from stages.distil.encoding.limits import find_limits
from stages.distil.encoding.samples import Encoder
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import Student, StudentPrompt
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.student_prompts import student_context
from stages.distil.storage import tables


def row(number: int, options=("red", "green"), answer="green", words=3, rationale="So.") -> dict:
    return {
        "id": f"q{number}",
        "context": student_context("why " * words, list(options)),
        "options": list(options),
        "answer": answer,
        "rationales": [{"teacher": "one", "text": rationale}],
        "saliency": ["why"],
    }


@pytest.fixture
def limits(tmp_path, write_params, monkeypatch, tiny_model):
    """Return the lines about these rows of a split; the student is the tiny Llama."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "models/tiny")

    def find(split: str, *rows: dict, **changes) -> list[str]:
        for name in ("train", "validation", "test"):
            file = tables.distill_table(name) / "00000.parquet"
            with tables.TableWriter(file, tables.SCHEMAS[tables.DISTILL]) as table:
                for each in rows if name == split else [row(0)]:
                    table.write(each)
        values = {
            "teachers": ["one"],
            "models/one": {"source": "provided"},
            "models/tiny": {"source": "folder", "path": "models/tiny"},
            "student/model": "tiny",
            "evaluate/max_tokens": 12,
        }
        changed = {name.replace("__", "/"): value for name, value in changes.items()}
        return list(find_limits(load_parameters(write_params(values | changed))))

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


def test_options_that_the_tokenizer_changes_are_named(limits, tmp_path):
    """A tokenizer that writes lower case only cannot tell BB from bb."""
    from tokenizers import Tokenizer, normalizers

    file = tmp_path / "models/tiny/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(file))
    [line] = limits("test", row(1, ["BB", "Bb", "bb"], "BB"), row(2, ["Red", "Green"], "Red"))
    assert line.startswith("test: answers or options that the student's tokenizer changes")
    assert "1 question, the first 'q1' ('BB' becomes ' bb')" in line


def test_texts_that_training_cuts_or_leaves_out_are_counted(limits):
    rows = [row(1), row(2, words=60), row(3, rationale="because " * 40)]
    [line] = limits("train", *rows, student__context=100)
    assert line == "train: longer than 100 tokens: {'cut': 1, 'one': 1}"


def test_texts_before_the_question_count_too(limits):
    """Each task has a prefix of its own; that of the rationale is the longest."""
    names = {"answer": "predict", "saliency": "words", "one": "why " * 40 + "so"}
    prompt = StudentPrompt(options="lettered", prefixes=names)
    long = row(2, words=12)
    long["context"] = student_context("why " * 12, long["options"], prompt)
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


def test_the_models_own_limit_is_not_the_users_to_raise(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    encoder = Encoder(AutoConfig.from_pretrained(tiny_model), tokenizer, Student(model="tiny"))
    long = "long " * 2000
    with pytest.raises(UserError, match="choose a student that reads more"):
        encoder.samples(row(1, [long, "red"], long), {"answer": 1.0})


def test_a_tokenizer_without_an_end_of_text_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="its tokenizer has no end-of-text token"):
        Encoder(AutoConfig.from_pretrained(tiny_model), tokenizer, Student(model="tiny"))
