"""The student's texts, literally as in the code of TinyLLM and Distilling step-by-step."""

from stages.distil.interface.method import StudentPrompt
from stages.distil.language.student_prompts import (
    letters,
    question_text,
    student_context,
    text_before,
)

QUESTION, OPTIONS = "The sun is responsible for", ["puppies", "plants, and more"]
PAPER = StudentPrompt(options="lettered", prefixes={"answer": "predict", "one": "explain"})


def test_the_default_lists_the_options_on_one_line():
    expected = "Question: The sun is responsible for\nOptions: puppies, plants, and more"
    assert student_context(QUESTION, OPTIONS) == expected
    assert student_context(QUESTION, []) == "Question: The sun is responsible for"


def test_the_papers_put_a_word_before_the_question_and_letters_before_the_options():
    expected = "The sun is responsible for\nAnswer Choices:\n(a) puppies\n(b) plants, and more"
    assert question_text(QUESTION, OPTIONS, PAPER) == expected
    assert student_context(QUESTION, OPTIONS, PAPER) == f"predict: {expected}"
    assert text_before("one", PAPER) == "explain: "
    assert student_context(QUESTION, [], PAPER) == f"predict: {QUESTION}"


def test_letters_go_on_after_z_each_of_them_once():
    names = letters(26 + 26**2 + 1)
    assert names[:3] + names[25:28] == ["a", "b", "c", "z", "aa", "ab"]
    assert names[26 + 26**2 - 1 :] == ["zz", "aaa"]
    assert len(set(names)) == len(names)
