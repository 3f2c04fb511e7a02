"""The student's texts, literally as in the code of TinyLLM and Distilling step-by-step."""

from hypothesis import given
from hypothesis import strategies as st

from stages.distil.interface.method import StudentPrompt
from stages.distil.language.student_prompts import (
    letters,
    question_spans,
    question_text,
    student_context,
    text_before,
)

QUESTION, OPTIONS = "The sun is responsible for", ["puppies", "plants and more"]
COMMAS = ["puppies", "plants, and more"]
PAPER = StudentPrompt(options="lettered", prefixes={"answer": "predict", "one": "explain"})


def test_the_default_lists_the_options_on_one_line():
    expected = "Question: The sun is responsible for\nOptions: puppies, plants and more"
    assert student_context(QUESTION, OPTIONS) == expected
    assert student_context(QUESTION, []) == "Question: The sun is responsible for"


def test_options_with_a_comma_have_a_line_each():
    expected = f"Question: {QUESTION}\nOptions:\n- puppies\n- plants, and more"
    assert student_context(QUESTION, COMMAS) == expected
    lettered = f"{QUESTION}\nAnswer Choices:\n(a) puppies\n(b) plants, and more"
    assert question_text(QUESTION, COMMAS, PAPER) == lettered


@given(st.text(max_size=9), st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_the_spans_are_those_of_the_question_and_its_options(question, options):
    text = question_text(question, options)
    assert [text[a:b] for a, b in question_spans(question, options)] == [question, *options]


def test_the_papers_put_a_word_before_the_question_and_letters_before_the_options():
    expected = "The sun is responsible for\nAnswer Choices:\n(a) puppies\n(b) plants and more"
    assert question_text(QUESTION, OPTIONS, PAPER) == expected
    assert student_context(QUESTION, OPTIONS, PAPER) == f"predict: {expected}"
    assert text_before("one", PAPER) == "explain: "
    assert student_context(QUESTION, [], PAPER) == f"predict: {QUESTION}"


def test_letters_go_on_after_z_each_of_them_once():
    names = letters(26 + 26**2 + 1)
    assert names[:3] + names[25:28] == ["a", "b", "c", "z", "aa", "ab"]
    assert names[26 + 26**2 - 1 :] == ["zz", "aaa"]
    assert len(set(names)) == len(names)
