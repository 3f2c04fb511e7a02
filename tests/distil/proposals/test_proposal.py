"""The entry that is proposed for files of every form, or the question that decides it."""

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.distil.interface.catalogue import Files
from stages.distil.interface.errors import UserError
from stages.distil.language.answers import is_correct
from stages.distil.proposals.proposal import Proposal, propose
from stages.distil.questions.reading import read
from stages.distil.storage.examples import Example
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared/datasets"
ANIMALS = ["otter", "heron", "newt", "vole"]
COUNT = 40


def asked(number: int) -> str:
    return f"Which animal did the warden count {number} times at the weir?"


def right(number: int) -> int:
    """The place of the right option: each of the four in turn."""
    return number * 3 % 4


def rows(make) -> list[dict]:
    return [make(number) for number in range(COUNT)]


def write(path: Path, table: list[dict], delimiter: str = ",", bom: bool = False) -> Path:
    """Write rows in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
        return path
    if path.suffix in (".csv", ".tsv"):
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
        text = stream.getvalue()
    elif path.suffix == ".json":
        text = json.dumps(table)
    else:
        text = "".join(json.dumps(row) + "\n" for row in table)
    content = text.encode("utf-8-sig" if bom else "utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def look(path: Path, **given) -> Proposal:
    return propose(path, given, 50_000)


def examples(entry: dict) -> list[Example]:
    """The questions that the pipeline reads with an entry; no row is refused."""
    found = list(read(Files(**entry), 0, 50_000, Counter()))
    assert all(isinstance(row, Example) for row in found), found
    return found


FORMS = {
    "text": (
        lambda n: {"id": n, "question": asked(n), "options": ANIMALS, "answer": ANIMALS[right(n)]},
        {"answer_is": "text"},
    ),
    "letter": (
        lambda n: {"question": asked(n), "choices": ANIMALS, "gold": "ABCD"[right(n)]},
        {"id": None, "options": "choices", "answer": "gold", "answer_is": "letter"},
    ),
    "index from 0": (
        lambda n: {"query": asked(n), "options": ANIMALS, "label": right(n), "uid": f"u{n}"},
        {"id": "uid", "question": "query", "answer": "label", "answer_is": "index"},
    ),
    "index from 1": (
        lambda n: {"id": n, "problem": asked(n), "options": ANIMALS, "correct": right(n) + 1},
        {"question": "problem", "answer": "correct", "answer_is": "index", "first_index": 1},
    ),
    "names": (
        lambda n: {
            "id": f"k{n}",
            "question": {
                "stem": asked(n),
                "choices": [
                    {"label": label, "text": text}
                    for label, text in zip("1234" if n % 2 else "ABCD", ANIMALS, strict=True)
                ],
            },
            "answerKey": ("1234" if n % 2 else "ABCD")[right(n)],
        },
        {
            "question": "question.stem",
            "options": "question.choices.text",
            "option_names": "question.choices.label",
            "answer": "answerKey",
        },
    ),
    "a column for each option": (
        lambda n: {"goal": asked(n), "sol1": "otter", "sol2": "heron", "label": n % 2},
        {
            "id": None,
            "question": "goal",
            "options": ["sol1", "sol2"],
            "answer": "label",
            "answer_is": "index",
        },
    ),
    "options by their letters": (
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": dict(zip("ABCD", ANIMALS, strict=True)),
            "answer": ANIMALS[right(n)],
            "answer_idx": "ABCD"[right(n)],
        },
        {
            "options": ["options.A", "options.B", "options.C", "options.D"],
            "answer_is": "text",
        },
    ),
    "a template and fixed options": (
        lambda n: {
            "premise": f"The warden saw {n} otters.",
            "hypothesis": f"Somebody saw animal number {n}.",
            "gold_label": ["entailment", "neutral", "contradiction"][n % 3],
        },
        {
            "id": None,
            "question": "{premise}\nDoes it follow that: {hypothesis}",
            "fixed_options": ["contradiction", "entailment", "neutral"],
            "answer": "gold_label",
            "answer_is": "text",
        },
    ),
    "true and false": (
        lambda n: {"passage": f"Weir {n} is shut.", "question": asked(n), "answer": n % 2 == 0},
        {
            "id": None,
            "question": "{passage}\n{question}",
            "fixed_options": ["yes", "no"],
            "answer_is": "text",
        },
    ),
    "a free-form answer": (
        lambda n: {"ID": f"c-{n}", "Body": f"Ann has {n} eels.", "Question": asked(n), "Answer": n},
        {"id": "ID", "question": "{Body} {Question}", "answer": "Answer"},
    ),
    "a whole solution": (
        lambda n: {"question": asked(n), "answer": f"She counts {n} and 2.\n#### {n + 2}"},
        {"id": None},
    ),
    "equal options": (
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": [*ANIMALS, "otter"] if n % 9 == 0 else ANIMALS,
            "answer": ANIMALS[right(n)],
        },
        {"answer_is": "text", "equal_options": "merge"},
    ),
    "people's notes in several columns": (
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": ANIMALS,
            "answer": ANIMALS[right(n)],
            "explanation_1": f"It is written on page {n}.",
            "explanation_2": "The warden said so.",
            "rationale_gpt4": f"So the answer is {ANIMALS[right(n)]}.",
        },
        {
            "answer_is": "text",
            "rationales": {
                "human": ["explanation_1", "explanation_2"],
                "gpt4": "rationale_gpt4",
            },
        },
    ),
    "several forms": (
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": ANIMALS,
            "answer": ANIMALS[right(n)] if n % 2 else "ABCD"[right(n)],
        },
        {},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_fields_of_each_form_are_found(tmp_path, form):
    make, fields = FORMS[form]
    proposal = look(write(tmp_path / "mine.jsonl", rows(make)))
    assert proposal.choices == []
    assert proposal.entry.get("fields", {}) == fields
    questions = examples(proposal.entry)
    assert Counter(each.split for each in questions) == {"train": 32, "validation": 4, "test": 4}
    if "premise" not in make(0) and "fixed_options" not in fields:
        for each in questions:
            number = int("".join(filter(str.isdigit, each.question.rpartition("count")[2])))
            if "sol1" in make(0):
                assert each.answer == ["otter", "heron"][number % 2]
            elif each.options:
                assert each.answer == ANIMALS[right(number)]
    if form == "a whole solution":
        assert all(each.answer.isdigit() for each in questions)


@pytest.mark.parametrize("written", ["({})", "{}.", "{})", "Option {}", "**{}**"])
def test_letters_are_read_as_people_write_them(tmp_path, written):
    table = rows(
        lambda n: {
            "id": n,
            "question": asked(n),
            "choices": ANIMALS,
            "answer": written.format("ABCD"[right(n)]),
        }
    )
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.choices == []
    assert proposal.entry["fields"] == {"options": "choices", "answer_is": "letter"}
    for each in examples(proposal.entry):
        number = int(each.id)
        assert (each.options, each.answer) == (ANIMALS, ANIMALS[right(number)])


LISTED: dict[str, dict] = {
    "choices": {"choices": ANIMALS},
    "question": {"question": {"stem": "Which?", "choices": {"text": ANIMALS}}},
    "A": dict(zip("ABCD", ANIMALS, strict=True)),
}


@pytest.mark.parametrize("column", LISTED)
@pytest.mark.parametrize("answers", [["(I)", "(II)"], [f"number {n}" for n in range(COUNT)]])
def test_options_that_no_answer_names_are_never_given_up(tmp_path, column, answers):
    table = rows(
        lambda n: {"question": asked(n)} | LISTED[column] | {"answer": answers[n % len(answers)]}
    )
    if column == "question":
        for n, row in enumerate(table):
            row["question"] = row["question"] | {"stem": asked(n)}
    with pytest.raises(UserError) as error:
        look(write(tmp_path / "mine.jsonl", table))
    assert f"the first of the others: answer {answers[0]!r} is not" in str(error.value)
    hint = "(SET=fixed_options=[] if these are no options)"
    assert (hint in str(error.value)) == (column == "A")


def test_columns_that_are_no_options_can_be_named_so(tmp_path):
    table = rows(lambda n: {"question": asked(n), "a": n, "b": 2, "answer": f"{n + 2} eels"})
    path = write(tmp_path / "mine.jsonl", table)
    with pytest.raises(UserError, match="reads 0% of the rows"):
        look(path)
    fields = look(path, fixed_options=[]).entry["fields"]
    assert fields == {"id": None}


def test_options_in_some_rows_are_not_given_up(tmp_path):
    table = rows(
        lambda n: (
            {"question": asked(n), "answer": ANIMALS[right(n)]}
            | ({"choices": ANIMALS} if n % 3 else {})
        )
    )
    with pytest.raises(UserError, match="choices seems to hold options, but not a list of two"):
        look(write(tmp_path / "mine.jsonl", table))


@pytest.mark.parametrize(
    "options", ["otter, heron", "a ) otter b ) heron", "A. otter\nB. heron", "otter;heron"]
)
def test_options_in_one_text_are_not_given_up(tmp_path, options):
    table = rows(lambda n: {"question": asked(n), "choices": options, "answer": "AB"[n % 2]})
    table[3]["choices"] = "otter"
    with pytest.raises(UserError, match="choices seems to hold several options in one text"):
        look(write(tmp_path / "mine.csv", table))


def test_an_option_that_is_null_costs_its_row_alone(tmp_path):
    make, fields = FORMS["letter"]
    table = [*rows(make), make(90) | {"choices": ["otter", None, "newt", "vole"]}]
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.entry["fields"] == fields
    (bad,) = proposal.reading.bad
    assert bad.reason == "options[1]: expected a text, found NoneType"


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.tsv", "q.parquet", "q.jsonl.gz"])
def test_every_format_is_read(tmp_path, name):
    table = rows(
        lambda n: {"question": asked(n), "A": "otter", "B": "heron", "answer": "AB"[n % 2]}
    )
    path = write(tmp_path / name, table, "\t" if name == "q.tsv" else ",")
    proposal = look(path)
    assert proposal.entry == {
        "source": "files",
        "folder": str(tmp_path),
        "splits": {"train": name},
        "hold_out": {"validation": 4, "test": 4},
        "fields": {"id": None, "options": ["A", "B"], "answer_is": "letter"},
    }
    assert len(examples(proposal.entry)) == COUNT


@pytest.mark.parametrize("written", ["{}. {}", "({}) {}", "{}) {}"])
@pytest.mark.parametrize("answer_is", ["text", "letter"])
def test_letters_before_options_are_left_out(tmp_path, written, answer_is):
    def full(n: int) -> list[str]:
        named = zip("ABCD", [f"{animal} {n}" for animal in ANIMALS], strict=True)
        return [written.format(*each) for each in named]

    answers = {"text": lambda n: full(n)[right(n)], "letter": lambda n: "ABCD"[right(n)]}
    table = rows(
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": full(n),
            "answer": answers[answer_is](n),
        }
    )
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.choices == []
    assert proposal.entry["fields"] == {"answer_is": answer_is}
    note = f"{COUNT} questions have letters before their options, which are left out"
    assert note in proposal.notes
    for each in examples(proposal.entry):
        number = int(each.id)
        assert each.options == [f"{animal} {number}" for animal in ANIMALS]
        assert each.answer == f"{ANIMALS[right(number)]} {number}"
        assert is_correct(f"The answer is {each.answer}.", vars(each))


def test_answers_with_letters_that_are_the_same_options_for_all_lose_them(tmp_path):
    answers = ["A. wet", "B. dry"]
    table = rows(lambda n: {"id": n, "question": asked(n), "answer": answers[n % 2]})
    proposal = look(write(tmp_path / "mine.csv", table))
    assert proposal.entry["fields"] == {"fixed_options": answers, "answer_is": "text"}
    for each in examples(proposal.entry):
        assert each.options == ["wet", "dry"]
        assert each.answer == ["wet", "dry"][int(each.id) % 2]


def ragged(number: int) -> dict[str, str]:
    """Four options in every second row, three in the others, whose answers are among them."""
    return dict(zip("ABCD", ANIMALS[: 4 - number % 2], strict=False))


ANSWERED = {
    "letter": lambda n: "ABCD"[right(n) % len(ragged(n))],
    "text": lambda n: ANIMALS[right(n) % len(ragged(n))],
}


@pytest.mark.parametrize("answer_is", ANSWERED)
@pytest.mark.parametrize("name", ["q.csv", "q.jsonl", "q.parquet"])
def test_a_column_of_options_may_be_empty_in_many_rows(tmp_path, name, answer_is):
    empty = "" if name == "q.csv" else None
    table = rows(
        lambda n: (
            {"id": n, "question": asked(n)}
            | {f"option_{letter}": ragged(n).get(letter, empty) for letter in "ABCDE"}
            | {"answer": ANSWERED[answer_is](n)}
        )
    )
    proposal = look(write(tmp_path / name, table))
    assert proposal.choices == []
    paths = [f"option_{letter}" for letter in "ABCDE"]
    assert proposal.entry["fields"] == {"options": paths, "answer_is": answer_is}
    note = f"{COUNT} questions have fewer options than columns: an empty cell is none"
    assert note in proposal.notes
    for each in examples(proposal.entry):
        number = int(each.id)
        assert each.options == list(ragged(number).values())
        assert each.answer == ANSWERED["text"](number)


def test_an_object_of_options_may_lack_letters(tmp_path):
    table = rows(
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": ragged(n),
            "answer": ANSWERED["letter"](n),
        }
    )
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.entry["fields"] == {
        "options": ["options.A", "options.B", "options.C", "options.D"],
        "answer_is": "letter",
    }
    for each in examples(proposal.entry):
        assert each.options == list(ragged(int(each.id)).values())


def test_a_row_with_an_empty_cell_between_options_is_refused(tmp_path):
    table = rows(
        lambda n: (
            {"question": asked(n)}
            | dict(zip("ABCD", ANIMALS, strict=True))
            | {"answer": "ABCD"[right(n)]}
        )
    )
    table[1]["C"] = ""
    assert table[1]["answer"] == "D"
    proposal = look(write(tmp_path / "mine.csv", table))
    assert proposal.entry["fields"]["options"] == list("ABCD")
    (bad,) = proposal.reading.bad
    assert bad.reason == "C: missing or empty, but D is not"


def test_another_column_of_a_single_letter_does_not_hide_the_options(tmp_path):
    table = rows(
        lambda n: (
            {"Q": asked(n)} | dict(zip("ABCD", ANIMALS, strict=True)) | {"Answer": "ABCD"[right(n)]}
        )
    )
    assert look(write(tmp_path / "mine.csv", table)).entry["fields"] == {
        "id": None,
        "question": "Q",
        "options": list("ABCD"),
        "answer": "Answer",
        "answer_is": "letter",
    }


def test_rows_inside_a_json_file_are_found(tmp_path):
    make, _ = FORMS["text"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"version": 1, "data": {"questions": rows(make)}}))
    assert look(path).entry["rows"] == "data.questions"


@pytest.mark.parametrize("trap", ["semicolon", "bom"])
def test_delimiters_and_byte_order_marks_are_no_trap(tmp_path, trap):
    table = rows(lambda n: {"id": n, "question": f"{asked(n)} Yes, {n}", "answer": f"{n} eels"})
    path = write(
        tmp_path / "mine.csv", table, ";" if trap == "semicolon" else ",", bom=trap == "bom"
    )
    proposal = look(path)
    assert "fields" not in proposal.entry
    assert examples(proposal.entry)[0].answer.endswith("eels")


def two_labels(tmp_path: Path) -> Path:
    table = rows(
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": ANIMALS,
            "label1": ANIMALS[right(n)],
            "label2": ANIMALS[right(n) if n < 30 else 0],
        }
    )
    return write(tmp_path / "mine.jsonl", table)


def test_two_label_columns_are_a_question(tmp_path):
    path = two_labels(tmp_path)
    proposal = look(path)
    assert [choice.fields for choice in proposal.choices] == [
        {"answer": "label1"},
        {"answer": "label2"},
    ]
    assert proposal.place == (str(path), 31)  # the first row in which they differ
    assert [choice.answer for choice in proposal.choices] == ["newt", "otter"]
    chosen = look(path, **proposal.choices[1].fields)
    assert chosen.choices == []
    assert chosen.entry["fields"] == {"answer": "label2", "answer_is": "text"}


def test_two_columns_with_the_same_answers_are_none(tmp_path):
    table = rows(
        lambda n: {
            "id": n,
            "question": asked(n),
            "options": ANIMALS,
            "answer": ANIMALS[right(n)],
            "label": right(n),
        }
    )
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.choices == []
    assert proposal.entry["fields"] == {"answer_is": "text"}


def test_whether_an_index_starts_at_0_or_1_is_a_question_unless_a_row_tells(tmp_path):
    table = rows(lambda n: {"id": n, "question": asked(n), "options": ANIMALS, "answer": 1 + n % 3})
    path = write(tmp_path / "mine.jsonl", table)
    proposal = look(path)
    assert [choice.fields for choice in proposal.choices] == [
        {"first_index": 0},
        {"first_index": 1},
    ]
    for choice, answer in zip(proposal.choices, ["heron", "otter"], strict=True):
        chosen = look(path, **choice.fields)
        assert chosen.choices == [] and choice.answer == answer
        first = next(e for e in examples(chosen.entry) if e.question == asked(0))
        assert first.answer == answer
    table[20]["answer"] = table[21]["answer"] = 4
    assert look(write(path, table)).entry["fields"] == {"answer_is": "index", "first_index": 1}


def test_a_row_beyond_the_sample_tells_where_the_index_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.distil.proposals.trials.SAMPLE", 20)
    table = rows(lambda n: {"id": n, "question": asked(n), "options": ANIMALS, "answer": 1 + n % 3})
    for row in table[30:]:
        row["answer"] = 4
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.choices == []
    assert proposal.entry["fields"]["first_index"] == 1


def test_what_numbers_stand_for_is_a_question(tmp_path):
    table = [
        {"id": n, "premise": f"Otter {n} swims.", "hypothesis": f"It is {n}.", "label": n % 3}
        for n in range(60)
    ]
    path = write(tmp_path / "mine.jsonl", table)
    words, numbers = look(path).choices
    assert words.fields == {"fixed_options": ["entailment", "neutral", "contradiction"]}
    assert numbers.fields == {"fixed_options": []}
    assert (words.answer, numbers.answer) == ("entailment", "0")
    chosen = look(path, fixed_options=["follows", "open", "denied"])
    assert chosen.choices == []
    assert chosen.entry["fields"] == {
        "question": "{premise}\nDoes it follow that: {hypothesis}",
        "fixed_options": ["follows", "open", "denied"],
        "answer": "label",
        "answer_is": "index",
    }
    free = look(path, fixed_options=[])
    assert free.choices == [] and "fixed_options" not in free.entry["fields"]
    for row in table[::7]:
        row["label"] = -1  # no label, as in SNLI
    assert len(look(write(path, table)).choices) == 2


def test_class_labels_of_a_hub_folder_have_names(tmp_path):
    table = pa.table(
        {
            "text": [f"Otter {n} swims well." for n in range(60)],
            "label": [n % 2 for n in range(60)],
        }
    )
    features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        renamed = table.set_column(0, "text", [[f"{t} {split}" for t in table["text"].to_pylist()]])
        name = tmp_path / f"data/{split}-00000-of-00001.parquet"
        pq.write_table(renamed.replace_schema_metadata(metadata), name)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    proposal = look(tmp_path)
    assert proposal.choices == []
    assert proposal.entry["fields"] == {
        "id": None,
        "question": "text",
        "fixed_options": ["bad", "good"],
        "answer": "label",
        "answer_is": "index",
    }
    assert proposal.entry["splits"] == {
        "train": "data/train-00000-of-00001.parquet",
        "test": "data/test-00000-of-00001.parquet",
    }
    assert {each.answer for each in examples(proposal.entry)} == {"bad", "good"}


def test_an_unlabelled_test_is_not_used(tmp_path):
    make, _ = FORMS["text"]
    write(tmp_path / "cqa_train.jsonl", rows(make))
    write(tmp_path / "cqa_dev.jsonl", [make(n) for n in range(50, 60)])
    unlabelled = [make(n) | {"answer": None} for n in range(60, 70)]
    write(tmp_path / "cqa_test.jsonl", unlabelled)
    proposal = look(tmp_path)
    assert proposal.entry["splits"] == {"train": "cqa_train.jsonl", "test": "cqa_dev.jsonl"}
    assert proposal.entry["hold_out"] == 4
    assert any("cqa_test.jsonl is not used: 10 of its first 10" in n for n in proposal.notes)
    assert Counter(each.split for each in examples(proposal.entry)) == {
        "train": 36,
        "validation": 4,
        "test": 10,
    }


def test_the_rows_that_would_be_refused_are_shown(tmp_path):
    make, _ = FORMS["text"]
    table = [*rows(make), make(90) | {"answer": "stoat"}, make(3) | {"id": 200}]
    reading = look(write(tmp_path / "mine.jsonl", table)).reading
    assert (reading.read["train"], reading.refused["train"], reading.repeated["train"]) == (
        COUNT,
        1,
        1,
    )
    (bad,) = reading.bad
    assert (bad.row, bad.reason) == (41, "answer 'stoat' is not one of the options")


def test_an_id_that_is_repeated_later_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.distil.proposals.trials.SAMPLE", 20)
    make, _ = FORMS["text"]
    table = rows(make)
    table[30]["id"] = 3
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert proposal.entry["fields"] == {"id": None, "answer_is": "text"}
    assert proposal.reading.read["train"] == COUNT


def test_rationales_that_rows_lack_cost_no_rows(tmp_path):
    make, _ = FORMS["text"]
    table = rows(lambda n: make(n) | ({"explanation": "As written."} if n % 2 else {}))
    proposal = look(write(tmp_path / "mine.jsonl", table))
    assert "rationales" not in proposal.entry["fields"]
    assert any("not read as rationales" in note for note in proposal.notes)
    assert proposal.reading.read["train"] == COUNT


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            [{"question": asked(n), "note": "x"} for n in range(9)],
            "no column is named as an answer",
        ),
        ([{"number": n, "answer": 3} for n in range(9)], "no column holds texts"),
        (
            [{"question": asked(n), "options": "a|b|c", "answer": "a"} for n in range(9)],
            "options seems to hold several options in one text, such as 'a|b|c'",
        ),
        (
            [{"question": asked(n), "options": ANIMALS, "answer": "stoat"} for n in range(9)],
            "reads 0% of the rows; the first of the others: answer 'stoat' is not one",
        ),
        ([{"question": asked(n), "answer": f"{n}"} for n in range(9)], "9 questions are too few"),
        ([[1], [2]], "row 1: expected an object with fields, found list"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path, table, message):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    with pytest.raises(UserError) as error:
        look(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


# The entries of params.yaml for these, but for what nobody can see in the files: how many questions
# to draw.
SETS = {
    "arc": {"fields": {"answer_is": "text"}},
    "obqa": {"fields": {"answer_is": "text", "equal_options": "merge"}},
    "cqa": {
        "hold_out": 500,
        "fields": {"answer_is": "text", "equal_options": "merge"},
        "conclude": {"human": False},
    },
    "svamp": {"hold_out": 80},
    "shuffled": {"hold_out": 51, "fields": {"answer_is": "text"}},
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data sets")
@pytest.mark.parametrize("name", SETS)
def test_the_shared_sets_get_the_entries_that_they_have(name):
    proposal = look(SHARED / name)
    assert proposal.choices == []
    assert proposal.entry == {"source": "files", "folder": str(SHARED / name)} | SETS[name]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data sets")
def test_of_the_shared_e_snli_only_the_labels_are_a_question():
    proposal = look(SHARED / "esnli")
    words, numbers = proposal.choices
    assert words.fields == {"fixed_options": ["entailment", "neutral", "contradiction"]}
    assert numbers.fields == {"fixed_options": []}
    chosen = look(SHARED / "esnli", **words.fields)
    assert chosen.choices == []
    assert chosen.entry["conclude"] == {"human": False}
    assert chosen.entry["fields"] == {
        "question": "{premise}\nDoes it follow that: {hypothesis}",
        "fixed_options": ["entailment", "neutral", "contradiction"],
        "answer": "label",
        "answer_is": "index",
        "rationales": {
            "palm-540b": "rationales.palm-540b",
            "human": ["rationales.human-1", "rationales.human-2", "rationales.human-3"],
        },
    }
