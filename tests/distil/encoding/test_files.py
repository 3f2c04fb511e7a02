"""Encoded questions are those of the encoder, whoever encoded them."""

import json

import pytest
from stages.distil.encoding.questions import ENCODED, encode_questions, remove_encoded

from stages.distil.dataset.joining import distill_schema
from stages.distil.encoding import questions
from stages.distil.encoding.samples import Encoder
from stages.distil.interface.method import Assemble
from stages.distil.storage import tables
from tests.distil.student.test_samples import ROWS, load
from tests.distil.student.test_weights import WEIGHTED

WEIGHTS = {"answer": 1.0, "one": 0.5, "two": 0.0, "silent": 1.0, "saliency": 0.1}
MAX_TOKENS = 4


@pytest.fixture
def encode(tmp_path, monkeypatch):
    """Encode ROWS as both splits; return the questions and the encoder."""
    monkeypatch.chdir(tmp_path)
    write("train", ROWS)
    write("validation", ROWS)

    def run(model, weights=WEIGHTS, identity="", **settings):
        *_, encoder = load(model, **settings)
        return encode_questions(encoder, weights, MAX_TOKENS, identity), encoder

    return run


def write(split: str, rows: list[dict], schema=tables.SCHEMAS[tables.DISTILL]) -> None:
    file = tables.distill_table(split) / "00000.parquet"
    with tables.TableWriter(file, schema) as table:
        for row in rows:
            table.write(row)


@pytest.mark.parametrize(
    "settings", [{}, {"shared_context": False}, {"form": "after_answer"}, {"context": 60}], ids=str
)
def test_questions_are_read_as_they_were_encoded(encode, family, settings):
    encoded, encoder = encode(family, **settings)
    *_, again = load(family, **settings)
    expected = [again.samples(row, WEIGHTS) for row in ROWS]
    assert list(encoded.train) == expected
    assert list(encoded.prompts) == [again.prompt(row, MAX_TOKENS) for row in ROWS]
    answers = [(row["options"], row["answer"]) for row in encoded.validation]
    assert answers == [(row["options"], row["answer"]) for row in ROWS]
    samples = [(s, n) for n, question in enumerate(expected) for s in question]
    assert encoded.too_long == again.shortened == encoder.shortened
    assert encoded.taught == ["answer", "one", "saliency"]
    shared = [(s.length, -n) for s, n in samples if len(s.branches) > 1]
    assert encoded.longest == -max(shared, default=(0, 0))[1]


def test_weights_of_rationales_are_kept(encode, tiny_model):
    settings = Assemble(statuses=["ok"], choose="weighted", scorer="any")
    write("train", WEIGHTED, distill_schema(settings, False))
    encoded, encoder = encode(tiny_model)
    assert list(encoded.train) == [encoder.samples(row, WEIGHTS) for row in WEIGHTED]
    assert {b.weight for [s] in encoded.train for b in s.branches} == {1.0, 1.5, 0.25, 1.75}


def test_questions_are_encoded_once(encode, tiny_model, monkeypatch):
    first, _ = encode(tiny_model)
    calls = []
    samples = Encoder.samples
    monkeypatch.setattr(
        Encoder, "samples", lambda *arguments: calls.append(1) or samples(*arguments)
    )
    again, _ = encode(tiny_model, WEIGHTS | {"one": 0.25})  # how large a weight is changes no token
    assert not calls
    assert (again.digest, again.too_long) == (first.digest, first.too_long)
    assert list(again.train) == list(first.train)
    remove_encoded()
    assert not ENCODED.exists()
    remove_encoded()


@pytest.mark.parametrize("change", ["weights", "identity", "train", "validation", "version"])
def test_what_changes_the_tokens_encodes_again(encode, tiny_model, monkeypatch, change):
    encode(tiny_model)
    old = json.loads((ENCODED / "summary.json").read_text())
    (ENCODED / "summary.json").write_text(json.dumps(old | {"too_long": {"stale": 1}}))
    arguments = {}
    if change == "weights":
        arguments["weights"] = WEIGHTS | {"two": 1.0}
    elif change == "identity":
        arguments["identity"] = "another"
    elif change == "version":
        monkeypatch.setattr(questions.versions, "TRAINING", 0)
    else:
        write(change, ROWS[1:])
    encoded, _ = encode(tiny_model, **arguments)
    assert "stale" not in encoded.too_long
    same = change in ("identity", "version")  # whose tokens happen to be equal
    assert (encoded.digest == old["digest"]) == same
