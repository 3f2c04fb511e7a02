import pytest

from stages.distil.language.answers import (
    conclusion,
    find_options,
    normalise,
    parse_answer,
    same,
    split_answer,
)
from stages.distil.language.quality import is_repetitive, rationale_status, whole_sentences

KIN = ["mother", "mother-in-law", "aunt", "niece"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Aunt.", " aunt"), ("the aunt", "AUNT"), ("ﬁne", "fine"), ("dry  palms\n", "Dry palms!")],
)
def test_answers_that_differ_only_in_form_are_equal(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("mother", "mother-in-law"), ("1.5", "15"), ("vitamin A", "vitamin"), ("A", "B"), ("", "a")],
)
def test_answers_that_differ_in_meaning_are_not_equal(one, other):
    assert not same(one, other)


def test_normalising_keeps_a_single_letter():
    assert normalise("A") == "a"
    assert normalise("(A)") == "a"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("aunt", "aunt"),
        ("Aunt.", "aunt"),
        ("The answer is mother-in-law.", "mother-in-law"),
        ("\n\nniece\nbecause she is", "niece"),
        ("either aunt or niece", "either aunt or niece"),
        ("grandaunt", "grandaunt"),
        ("", ""),
    ],
)
def test_an_answer_is_read_from_the_first_line(text, answer):
    assert parse_answer(text, KIN) == answer


def test_an_option_inside_a_longer_word_or_option_does_not_count():
    assert find_options("her mother-in-law, not her mother", KIN) == ["mother-in-law", "mother"]
    assert find_options("step-mother and aunts", KIN) == []


def test_a_rationale_concludes_in_the_last_option_of_its_last_sentence():
    assert conclusion("Ann is no aunt. So she is the niece of Bo.", KIN) == "niece"
    assert conclusion("Ann is the niece of Bo. This is clear.", KIN) is None
    assert conclusion("", KIN) is None


@pytest.mark.parametrize(
    ("text", "finish", "status"),
    [
        ("So Ann is the aunt of Bo.", "stop", "ok"),
        ("Ann grew up with Bo's father.", "stop", "inconclusive"),
        ("So Ann is the aunt of Bo. Clear.", "stop", "inconclusive"),
        (" \n", "stop", "empty"),
        ("So Ann is the aunt of", "length", "truncated"),
        ("So Ann is the niece of Bo.", "stop", "contradicts"),
        ("So Ann is the niece and aunt of Bo.", "stop", "ok"),
        ("", "too_long", "too_long"),
        ("So is Ann the aunt. " * 9, "length", "repetitive"),
        ("So is Ann the aunt. " * 9, "stop", "repetitive"),
        ("", "length", "truncated"),
    ],
)
def test_the_quality_gate_gives_a_status(text, finish, status):
    assert rationale_status(text, finish, KIN, "aunt") == status


def test_a_derivation_that_repeats_names_is_not_repetitive():
    text = (
        "Ann is the mother of Bo and Bo is the sister of Cy, so Ann is the mother of Cy. Ann is "
        "the mother of Cy and Cy is the father of Di, so Ann is the grandmother of Di."
    )
    assert not is_repetitive(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Ann is old. Bo is", "Ann is old."),
        ("It is 3.5 m long! (So it fits.) And", "It is 3.5 m long! (So it fits.)"),
        ("No sentence ends", ""),
        ("Ann sagt: „Ja.“ Bo", "Ann sagt: „Ja.“"),
        ("安是姐姐。博是", "安是姐姐。"),
        ("", ""),
    ],
)
def test_a_truncated_text_keeps_its_complete_sentences(text, kept):
    assert whole_sentences(text) == kept


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        ("She is his aunt's aunt.\nAnswer: aunt", "She is his aunt's aunt.", "aunt"),
        ("So. **Answer:** The mother.", "So.", "mother"),
        ("Answer: aunt. No.\nanswer: niece", "Answer: aunt. No.", "niece"),
        ("So she is the niece.", "So she is the niece.", "niece"),
        ("So. Answer: cousin", "So.", None),
        ("I cannot tell.", "I cannot tell.", None),
        ("Answer:", "", None),
    ],
)
def test_a_teacher_that_reasons_freely_gives_its_answer_last(text, rationale, answer):
    assert split_answer(text, KIN) == (rationale, answer)


def test_a_free_form_answer_follows_the_answer_mark():
    assert split_answer("3 and 4 make 7. Answer: 7.0", []) == ("3 and 4 make 7.", "7.0")
    assert split_answer("No idea", []) == ("No idea", None)


def test_a_rationale_of_a_free_form_answer_need_not_name_it():
    assert rationale_status("Three and four make seven.", "stop", [], "7") == "ok"


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("145", "145.0", True),
        ("1,200", "1200", True),
        ("$3.50", "3.5", True),
        ("7.", "7", True),
        (".5", "0.50", True),
        ("\u22125", "-5", True),
        ("-5", "5", False),
        ("+1", "-1", False),
        ("1,20", "120", False),
        ("12", "1.2", False),
        ("1.0.0", "1.0", False),
        ("five", "5", False),
        ("", "0", False),
    ],
)
def test_numbers_are_compared_as_numbers(prediction, answer, expected):
    assert same(prediction, answer) is expected
    assert same(answer, prediction) is expected
