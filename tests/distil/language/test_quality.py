"""What the quality gate makes of published texts, which nobody says how they ended."""

import pytest

from stages.distil.language.conclusions import before_next_question
from stages.distil.language.quality import read_published

KIN = ["mother", "mother-in-law", "aunt", "niece"]


@pytest.mark.parametrize(
    "mark",
    [
        "Question:",
        "Question 3:",
        "Question 12\nWho is it?",
        "Q.",
        "Q2.",
        "Q 2:",
        "### Q2:",
        "**Question:**",
        "#\n# 17\n\nQuestion:",
        "---\n### Q.13\nQuestion:",
    ],
)
def test_a_text_ends_before_the_next_question(mark):
    text = f"\nSo she is the aunt.\n\n{mark} Who is Bo?\nOptions:\n(a) nephew\nAnswer: mother"
    assert read_published(text, KIN, "aunt", True) == ("So she is the aunt.", "ok")


@pytest.mark.parametrize(
    "text",
    [
        "Question: who is she? She is the aunt.",
        "She is old.\nQuestion 3 asks for the aunt.",
        "It is\nquite clear.",
        "They make seven.\n#### 7",
    ],
)
def test_a_text_without_a_next_question_is_whole(text):
    assert before_next_question(text) == text


def test_a_marked_result_is_no_heading_of_the_next_question():
    assert before_next_question("They make seven.\n#### 7\n\nQ: And now?") == (
        "They make seven.\n#### 7"
    )


@pytest.mark.parametrize(
    ("conclude", "kept", "status"),
    [(True, "Bo is old.", "truncated"), (False, "Bo is old. she is kin", "ok")],
)
def test_a_note_may_stop_without_a_full_stop(conclude, kept, status):
    assert read_published("Bo is old. she is kin", KIN, "aunt", conclude) == (kept, status)


def test_a_list_of_letters_has_no_sentences():
    assert read_published("B. mother", KIN, "mother", True) == ("B. mother", "ok")
