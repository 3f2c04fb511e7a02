from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.distil.evaluation.salient_words import (
    LARGEST_K,
    Scored,
    kept_mass,
    overlap,
    pieces,
    scan_scored,
)
from stages.distil.interface.method import Saliency
from stages.distil.storage import tables
from stages.distil.storage.tables import SALIENCY, SCHEMAS
from tests.conftest import question
from tests.distil.language.test_words import words_of

KIND = SCHEMAS[SALIENCY].field("words").type


def scored(*rows: tuple[str, list[float], str]) -> Scored:
    texts, scores, answers = zip(*rows, strict=True)
    words = [words_of(text, values) for text, values in zip(texts, scores, strict=True)]
    ids = [f"q{n}" for n in range(len(rows))]
    options = np.array([[len(text)] * 2 for text in texts])
    return Scored(ids, pa.array(texts), options, pa.array(words, KIND), list(answers))


def settings(top_k: int, **changes: Any) -> Saliency:
    return Saliency(teacher="big", top_k=top_k, weight=1, **changes)


def test_the_options_of_a_scored_text_stand_between_question_and_rationale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [question(0, question="Rot oder grün?"), question(1), question(2, options=[])]
    tables.write_table(tables.EXAMPLES, [r | {"split": "train", "rationales": []} for r in rows])
    texts = [
        "Rot oder grün?\nOptions: red, green, blue\nSo it is.",
        rows[2]["question"] + "\nSo it is.",
    ]
    about = {"words": [], "method": "any", "target": "any", "delta": None}
    scored = [about | {"id": f"train-{n}", "text": t} for n, t in zip((0, 2), texts, strict=True)]
    tables.write_table(tables.SALIENCY, scored)
    [found] = scan_scored()
    assert [text[a:b] for text, (a, b) in zip(texts, found.options, strict=True)] == [
        "\nOptions: red, green, blue",
        "",
    ]
    assert found.answers == [rows[0]["answer"], rows[2]["answer"]]


def test_without_a_scored_question_there_is_nothing_to_measure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [question(n) | {"split": "train", "rationales": []} for n in range(2)]
    tables.write_table(tables.EXAMPLES, rows)
    tables.write_table(tables.SALIENCY, [])
    assert overlap(scan_scored(), settings(1)) == {}
    assert kept_mass(scan_scored()) == []


def test_overlap_counts_questions_whose_top_words_include_a_word_of_the_answer():
    rows = scored(
        ("Is it red or blue", [1, 1, 9, 1, 1], "Red"),
        ("Is it red or blue", [9, 1, 1, 1, 1], "the blue"),
        ("Is it red or blue", [9, 1, 1, 1, 1], "green"),
    )
    metrics = overlap([rows], settings(1))
    assert metrics["overlap"] == pytest.approx(1 / 3, abs=1e-6)
    assert metrics["chance"] == pytest.approx((1 / 5 + 1 / 5 + 0) / 3, abs=1e-6)
    assert metrics["questions"] == 3


def test_a_word_of_a_script_without_spaces_is_found_within_the_answer():
    text = "哪里 北京 上海"
    words = [{"start": a, "end": a + 2, "score": s} for a, s in ((0, 1.0), (3, 9.0), (6, 2.0))]
    for answer, hit in (("中国的北京市", 1.0), ("北方的京城", 0.0), ("上海", 0.0)):
        options = np.array([[len(text)] * 2])
        rows = Scored(["q"], pa.array([text]), options, pa.array([words], KIND), [answer])
        assert overlap([rows], settings(1))["overlap"] == hit
    rows = scored(("red or reddish", [9.0, 1.0, 1.0], "reddish"))  # no part of a word with spaces
    assert overlap([rows], settings(1))["overlap"] == 0.0


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_chance_is_the_share_of_all_choices_of_k_words(k):
    text, answer = "a b c a d B e", "b e x"
    rows = scored((text, [1.0] * 7, answer))
    distinct = ["a", "b", "c", "d", "e"]
    choices = list(combinations(distinct, min(k, len(distinct))))
    hits = sum(bool({"b", "e"} & set(choice)) for choice in choices)
    assert overlap([rows], settings(k))["chance"] == pytest.approx(hits / len(choices), abs=1e-6)


def test_stop_words_that_are_not_chosen_do_not_count_for_chance():
    rows = scored(("the cat is red", [9.0, 1.0, 9.0, 2.0], "red"))
    assert overlap([rows], settings(1))["chance"] == 0.25
    metrics = overlap([rows], settings(1, stop_words=False))
    assert (metrics["overlap"], metrics["chance"]) == (1.0, 0.5)


def test_a_question_without_words_does_not_count_as_a_hit():
    rows = scored(("?", [], "yes"))
    assert overlap([rows], settings(5)) == {"overlap": 0.0, "chance": 0.0, "questions": 1}


def test_the_mass_of_the_top_words_grows_to_one():
    rows = scored(("a b c", [1.0, -2.0, 1.0], "a"), ("a b", [0.0, 3.0], "a"), ("c", [0.0], "c"))
    mass = kept_mass([rows])
    assert mass[:4] == [0.0, 0.75, 0.875, 1.0]
    assert len(mass) == LARGEST_K + 1
    assert mass == sorted(mass)


def test_a_text_is_split_into_words_with_shades():
    rows = scored(("Red, or\tred?", [0.5, 0.0, -1.0], "red"))
    assert pieces("Red, or\tred?", rows.words.to_pylist()[0], {"red"}) == [
        ("", None, 0.0, False),
        ("Red", 4, 0.5, True),
        (", ", None, 0.0, False),
        ("or", 0, 0.0, False),
        ("\t", None, 0.0, False),
        ("red", 8, -1.0, True),
        ("?", None, 0.0, False),
    ]
