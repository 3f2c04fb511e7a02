from collections import Counter
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.interface.catalogue import FileSizes
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.answers import (
    find_options,
    is_correct,
    normalise,
    numbers_in,
    parse_answer,
    same,
)
from stages.distil.language.conclusions import conclusion, split_answer, without_conclusion
from stages.distil.language.quality import (
    is_repetitive,
    rationale_status,
    stops_in_mid_sentence,
    whole_sentences,
)
from stages.distil.questions.reading import read
from stages.distil.storage.examples import Example
from tests.conftest import PARAMS, ROOT

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
        ("So Ann is the aunt of", "content_filter", "truncated"),
        ("", "content_filter", "empty"),
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
        ("B. hockey", ""),
        ("Add them.\n1. Three\n2. Fo", "Add them."),
        ("Three and four make\n7. More", ""),
        ("Three and four make\n7.", "Three and four make\n7."),
        ("", ""),
    ],
)
def test_a_truncated_text_keeps_its_complete_sentences(text, kept):
    assert whole_sentences(text) == kept


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Ann is old. So she is the au", True),
        ("Ann is old.\nAnswer:", True),
        ("安是姐姐。博是", True),
        ("Ann is old. So she is the aunt!\n", False),
        ("Ann is the aunt", False),  # perhaps a note without full stops
        ("Three and four make seven. So it is\n#### 7", False),
        ("They make seven. So it is $\\boxed{7}$", False),
        ("They make seven. Answer: $7", False),
        ("They make seven. Hence the answer is 3 + 4 = 7 apples", False),
        ("They make seven. Hence the answer is 7 apples and she still ha", True),
        ("They are 22 more.\n\nTo find out:\n\n81 - 59 = 22", False),
        ("They are 22 more. (81 - 59 = 22)", False),
        ("They are 22 more.\n\n81 - 59 =", True),
        ("They are 22 more.\n81 - 59 = 22\nSo the", True),
        ("", False),
    ],
)
def test_a_text_that_goes_on_after_its_last_full_stop_was_cut_off(text, cut):
    assert stops_in_mid_sentence(text) == cut


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("She is old. Hence the answer is Answer: (b) aunt", False),
        ("She is old. Hence the answer is (b)", False),
        ("She is old. Hence the answer is aunt", False),
        ("She is old. So the answer is the au", True),
        ("She is old. The answer is aunt and mot", True),
    ],
)
def test_a_stated_answer_needs_no_full_stop(text, cut):
    assert stops_in_mid_sentence(text, KIN + ["nephew"]) is cut


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Bo is old. The answer is B.", "Bo is old."),
        ("Bo is old, so the answer is aunt; the niece is younger.", "Bo is old"),
        ("Bo is old. Answer: aunt.", "Bo is old."),
        ("Bo is old. Answer: Option C", "Bo is old."),
        (
            "Ann is Bo's aunt, Bo is Cy's son, so Ann is the niece of Cy.",
            "Ann is Bo's aunt, Bo is Cy's son",
        ),
        (
            "Ann is the mother of Bo. So she is the aunt. So, yes, the aunt.",
            "Ann is the mother of Bo. So she is the aunt. So, yes",
        ),
        ("Bo is old.\nIt follows that Ann is the aunt, not the niece.", "Bo is old."),
        ("Ann is the aunt. This is clear.", "Ann is the aunt. This is clear."),
        ("She is the aunt of Bo.", ""),
        ("安是姐姐。所以，她是aunt。", "安是姐姐。所以"),
        ("", ""),
    ],
)
def test_the_conclusion_is_the_last_clause_that_names_an_option(text, rest):
    assert without_conclusion(text, KIN, "aunt") == rest


def test_the_conclusion_without_options_names_the_answer():
    text = "There are 5 cats, 2 more came: 5 + 2 = 7."
    assert without_conclusion(text, [], "7") == "There are 5 cats, 2 more came"
    assert without_conclusion(text, [], "9") == text
    assert (
        without_conclusion("It is wet. So go for hot, dry air.", ["hot, dry air"], "")
        == "It is wet."
    )


@pytest.mark.parametrize(
    ("text", "rationale", "answer"),
    [
        ("She is his aunt's aunt.\nAnswer: aunt", "She is his aunt's aunt.", "aunt"),
        ("So. **Answer:** The mother.", "So.", "mother"),
        ("Answer: aunt. No.\nanswer: niece", "Answer: aunt. No.", "niece"),
        ("So she is the niece.", "So she is the niece.", "niece"),
        ("So. Answer: cousin", "So.", None),
        ("So. Answer: (c)", "So.", "aunt"),
        ("So. Answer: Option C", "So.", "aunt"),
        ("So.\n**Answer: option (c)**", "So.", "aunt"),
        ("I cannot tell.", "I cannot tell.", None),
        ("Answer:", "", None),
    ],
)
def test_a_teacher_that_reasons_freely_gives_its_answer_last(text, rationale, answer):
    assert split_answer(text, KIN) == (rationale, answer)


def test_a_free_form_answer_follows_the_answer_mark():
    assert split_answer("3 and 4 make 7. Answer: 7.0", []) == ("3 and 4 make 7.", "7.0")
    assert split_answer("No idea", []) == ("No idea", None)


LETTERED = ["mother", "aunt", "niece", "mother-in-law"]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("Thus the answer is B.", "aunt"),
        ("the answer is (b)", "aunt"),
        ("(b) aunt", "aunt"),
        ("The answer is b: aunt", "aunt"),
        ("Hence the answer is Answer: (b)", "aunt"),
        ("So, the correct choice is: (B)**.", "aunt"),
        ("Therefore I choose B.", "aunt"),
        ("Option (b) is correct.", "aunt"),
        ("Final answer:\n\n(B) aunt", "aunt"),
        ("The answer is (b).\nExplanation:\nThe mother is older.", "aunt"),
        (r"So $\boxed{B}$", "aunt"),
        ("Answer: Option B", "aunt"),
        ("The answer is option (b)", "aunt"),
        ("The answer is **Option B**.", "aunt"),
        ("The answer is the option (b), since she is old.", "aunt"),
        ("The answer is: Option (c): mother.", "mother"),  # the words count
        (r"So \boxed{\text{Option B}}", "aunt"),
        ("The answer is option (b) or (c).", None),
        ("The answer is an option.", None),
        ("The answer is B, not A.", "aunt"),
        ("The answer is B because the niece is younger.", "aunt"),
        ("The answer is a mother.", "mother"),
        ("The answer is a.", "mother"),
        ("The correct answer is aunt; the other options do not fit.", "aunt"),
        ("The correct answer is aunt; niece and mother do not fit.", "aunt"),
        ("The correct answer is aunt. The niece is younger.", "aunt"),
        ("Aunt is the correct answer; the niece is younger.", "aunt"),
        ("The answer is (c) mother.", "mother"),  # the words count
        ("The answer is not B.", None),
        ("The answer is (a) or (b).", None),
        ("The answer is either (a) mother or (b) aunt.", None),
        ("The answer is mother, aunt or niece.", None),
        ("The answer is likely to be mother or aunt.", None),
        ("The answer is to be aunt, not niece.", "aunt"),
        ("The answer is (c) the sister.", None),
        ("The answer is E.", None),
        ("Options (a), (b) and (c) are wrong.", None),
        ("Aunt. She is his father's sister.", "aunt"),
        ("**(b) Aunt**\n\nShe is his father's sister.", "aunt"),
        ("(d)\n\nShe is his father's sister.", "mother-in-law"),
        ("The aunt:\nshe is his father's sister.", "aunt"),
        ("Aunt. She is younger than the niece.", "niece"),  # the last sentence counts
        ("The aunt is old. She is his father's sister.", None),
        ("(a) mother\nShe is young.\n(b) aunt\nShe is old.", None),
        ("She is his father's sister. Aunt. She is old.", None),
    ],
)
def test_a_rationale_concludes_by_letter_and_in_what_it_states(text, option):
    assert conclusion(text, LETTERED) == option


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("The scan shows a clear gain with no harm.", None),
        ("So yes, no other scan is needed.", "yes"),
        ("The scan showed nothing, so no.", "no"),
        ("No, yes-sayers are rare.", "no"),
        ("Hence: maybe.", "maybe"),
        ("The scan shows no harm. The answer is yes.", "yes"),
        ("No. The scan shows some harm.", "no"),
        ("We cannot say yes or no.", None),
    ],
)
def test_yes_and_no_are_names_only_as_a_clause(text, option):
    assert conclusion(text, ["yes", "no", "maybe"]) == option


LISTED = ["1. tea", "2. milk", "3. St. Louis"]


@pytest.mark.parametrize(
    ("text", "options", "option"),
    [
        ("The answer is 2. milk.", LISTED, "2. milk"),
        ("It is 2. milk, not 1. tea.", LISTED, "2. milk"),
        ("Tea is hot.\n1. tea", LISTED, "1. tea"),
        ("1. Tea is the best choice.", LISTED, "1. tea"),
        ("The answer is 3. st.\nlouis. It is warm.", LISTED, "3. St. Louis"),
        ("The answer is (b).", LISTED, "2. milk"),
        ("The answer is 2. Then drink.", LISTED, None),
        ("So it is no. 2. A milk.", LISTED, None),
        ("The answer is St. Louis.", ["Paris", "St. Louis"], "St. Louis"),
        ("She is in St. Louis. So she is here.", ["Paris", "St. Louis"], None),
        ("答案是。红。茶。", ["红。茶", "牛乳"], "红。茶"),
        ("The answer is a) milk.", ["b) tea", "a) milk"], "a) milk"),
        ("The answer is (b) tea.", ["b) tea", "a) milk"], "b) tea"),
        ("The answer is (b).", ["b) tea", "a) milk"], None),  # by its place or by its own letter?
        ("The answer is (b).", ["a) milk", "b) tea"], "b) tea"),
        ("The answer is y.", ["x) tea", "y) milk"], "y) milk"),
    ],
)
def test_an_option_may_begin_like_a_list_or_hold_a_full_stop(text, options, option):
    assert conclusion(text, options) == option


def test_the_end_of_a_sentence_inside_an_option_is_none_for_the_clauses_either():
    text = "She flew east. So she is in St. Louis."
    assert without_conclusion(text, ["Paris", "St. Louis"], "St. Louis") == "She flew east."


def test_letters_are_no_names_where_they_are_options():
    assert conclusion("The answer is A.", ["B", "O", "A", "AB"]) == "A"
    assert conclusion("The answer is C.", ["B", "O", "A", "AB"]) is None


@pytest.mark.parametrize(
    ("text", "gold", "status"),
    [
        ("The answer is (84 / 2).", "42", "ok"),
        ("84 / 2 = 42. The answer is (84 / 2) points.", "42", "ok"),
        ("The answer is (7 * 36).", "210", "contradicts"),
        ("So he has 42 points. The answer is 40.", "42", "contradicts"),
        ("The answer is 42.", "( 84.0 / 2.0 )", "ok"),
        ("The answer is (2 * 21).", "( 84.0 / 2.0 )", "ok"),
        ("The answer is (2 * 22).", "( 84.0 / 2.0 )", "contradicts"),
        ("Hence the answer is 114 kg - 110 kg = 4 kg. Answer: 4 kg", "4", "ok"),
        ("So she has 3 + 2 = 5 apples in 4 days.", "5", "ok"),
        ("So 3 + 2 = 5.", "3", "contradicts"),
        ("So it is 84/2.", "42", "ok"),
        ("In 16 shirts there are 2 minutes.", "2", "ok"),
        ("She has 9.\n#### 8", "9", "contradicts"),
        (r"So $\boxed{\frac{84}{2}}$.", "42", "ok"),
        (r"So $\boxed{1{,}000}$.", "1000", "ok"),
        (r"So $\boxed{1{,}000}$.", "1", "contradicts"),
        (r"The answer is $12{,}345{,}000.50$.", "12345000.5", "ok"),
        (r"So it is 400 + 600 = 1\,000.", "1000", "ok"),
        (r"The answer is 1,\!000 apples.", "1,000 apples", "ok"),
        ("The answer is 1,000.", r"1{,}000", "ok"),
        (r"So it is one of {1{,}2}.", "12", "contradicts"),
        ("The answer is 42 since 84 / 2 is 42.", "42", "ok"),
        ("The answer is 5 pears.", "5 apples", "contradicts"),
        ("The answer is (3 * x).", "3", "contradicts"),
        ("The answer is seven.", "7", "ok"),
        ("The answer is seven.", "8", "contradicts"),
        ("The answer is that he had 20 tanks of 2 fish each.", "20", "ok"),
        ("The answer is that he had 20 tanks of 2 fish each.", "2", "contradicts"),
        ("The answer is x = 5 apples in 4 days.", "5", "ok"),
        ("Here is the solution:\n\n1. Subtract: 90 - 40 = 50.\n\nSo she has 50.", "50", "ok"),
        (
            "Here is the solution:\n\n1. Subtract: 90 - 40 = 50.\n\nSo she has 50.",
            "1",
            "contradicts",
        ),
        ("Solution:\nShe had 90 pages and read 40 of them. So she has 50.", "50", "ok"),
        ("The solution has 2 steps:\nWe add 3 to 4. They are 7.", "7", "ok"),
        ("Final answer:\n\n50 pages\n\nShe read 40 of 90.", "50", "ok"),
        ("6 * 7 = 42. So he has 42. The answer is clear.", "42", "ok"),
        ("84 / 2 = 40. So he has 40. The answer is clear.", "42", "contradicts"),
        ("It is 9 - 2. We cannot tell.", "6", "contradicts"),
        ("So he has 7 pens. Check: 7 + 2 = 9. It fits.", "7", "ok"),
        ("So he has 7 pens. Check: 7 + 2 = 9. It fits.", "9", "contradicts"),
        ("He has 7 pens.\n\n1. Add.\n2. Subtract.", "7", "ok"),
        ("The answer is 10 / 0.", "5", "contradicts"),
        ("The answer is 9^9^9^9^9.", "5", "contradicts"),
        ("The capital was founded in 52.", "Paris", "ok"),
    ],
)
def test_a_number_is_compared_by_its_value(text, gold, status):
    assert rationale_status(text, "stop", [], gold) == status


def test_numbers_are_found_in_order():
    assert numbers_in("5 + 3 pens, 1,200 of (7 * 6), no B2") == ["5 + 3", "1,200", "(7 * 6)"]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("( 84.0 / 2.0 )", "(84 / 2)", True),
        ("84/2", "42", True),
        ("0.1 + 0.2", "0.3", True),
        ("(84 / 2)", "84", False),
        ("2020-01-02", "2017", False),
        ("2 - 3", "5 - 6", False),
        ("4/2/2020", "2/1/2020", False),
    ],
)
def test_arithmetic_is_equal_by_its_exact_value(one, other, equal):
    assert same(one, other) is equal
    assert is_correct(f"The answer is {one}.", {"options": [], "answer": other}) is equal


def test_a_rationale_that_need_not_conclude_may_still_contradict():
    def status(text: str) -> str:
        return rationale_status(text, "stop", KIN, "aunt", conclude=False)

    assert status("Bo grew up with Ann's mother's sister's son") == "ok"
    assert status("an aunt is younger than a mother") == "ok"
    assert status("so the answer is mother") == "contradicts"
    assert status("the correct choice is a") == "contradicts"
    assert status("Bo grew up with her son") == "ok"
    assert status("") == "empty"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("7 pens, 2 of them red", "ok"),
        ("so 9", "ok"),
        ("The answer is 9", "contradicts"),
        ("#### 9", "contradicts"),
    ],
)
def test_a_note_about_a_number_contradicts_only_by_what_it_states(text, status):
    assert rationale_status(text, "stop", [], "5", conclude=False) == status


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


COLLIDING = {
    "genotypes": ["BB", "Bb", "bb", "B only"],
    "languages": ["C", "C++", "C#", "Java"],
    "blood groups": ["A+", "A-", "B+", "O-"],
    "comparisons": [">", "<", "="],
    "signs with units": ["-5 °C", "5 °C", "0 °C"],
    "fractions": ["-1/2", "1/2", "2"],
    "algebra": ["x", "-x", "2x"],
    "intervals": ["(0, 1)", "[0, 1]", "(0, 1]"],
    "inequalities": ["x > 5", "> 5", "< 5"],
    "articles": ["a university", "an university", "the university"],
    "powers": ["10²", "102", "20"],
    "elements": ["Co", "CO", "CO₂"],
    "percentages": ["5%", "5", "0.05"],
    "logic": ["~P", "P", "Q"],
    "currencies": ["$5", "€5", "£5"],
    "ions": ["Na", "Na+", "Cl-"],
    "factorials": ["3!", "3", "6"],
    "dots": ["tea", "..."],
    "code": ["def f():\n    return 1", "def f():\n    return 2"],
    "signs": ["5", "-5"],
    "letters": ["the", "a"],
    "indentation": ["def f():\n    return 1", "def f():\n\treturn 1"],
    "white space": ["tea", "a b", "a  b"],
    "brackets": ["(5)", "5"],
    "numbers": ["#5", "5"],
    "angles": ["5°", "5", "5'"],
    "a power and a number": ["10²", "5"],
}


@pytest.mark.parametrize("options", COLLIDING.values(), ids=COLLIDING)
def test_options_that_look_alike_are_told_apart(options):
    for option in options:
        assert parse_answer(option, options) == option
        for gold in options:
            question = {"options": options, "answer": gold}
            assert is_correct(option, question) is (option == gold)
            assert same(option, gold, options) is (option == gold)
        assert split_answer(f"So it is.\nAnswer: {option}", options)[1] in (option, None)


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [
        ("BB.", "genotypes", "BB"),
        ("The child is bb.", "genotypes", "bb"),
        ('"C++"', "languages", "C++"),
        ("**C#**", "languages", "C#"),
        ("The answer is -5 °C.", "signs with units", "-5 °C"),
        ("The answer is -5.", "signs", "-5"),
        ("It costs €5", "currencies", "€5"),
        ("x > 5.", "inequalities", "x > 5"),
        ("It is 5.", "percentages", "5"),
        ("It is 5%.", "percentages", "5%"),
        ("**3**", "factorials", "3"),
        ('"3"', "factorials", "3"),
        ("**3!**", "factorials", "3!"),
        ("It is (5).", "brackets", "(5)"),
        ("It is 5.", "brackets", "5"),
        ("It is #5.", "numbers", "#5"),
        ("It is 5'.", "angles", "5'"),
        ("It is 5°.", "angles", "5°"),
        ("It is 102.", "powers", "102"),
        ("It is 10².", "powers", "10²"),
        ("102", "a power and a number", "102"),
        ("The answer is tea.", "white space", "tea"),
        (" def f():\n\treturn 1", "indentation", "def f():\n\treturn 1"),
    ],
)
def test_an_option_that_looks_like_another_is_found_in_a_sentence(text, options, answer):
    assert parse_answer(text, COLLIDING[options]) == answer


visible = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=4)
phrases = st.lists(visible, min_size=1, max_size=2).map(" ".join)


@given(st.lists(phrases, min_size=2, max_size=5, unique_by=lambda text: normalize("NFC", text)))
def test_of_any_options_the_gold_ones_text_is_right_and_no_other(options):
    for gold in options:
        question = {"options": options, "answer": gold}
        assert [is_correct(option, question) for option in options] == [o == gold for o in options]


@pytest.mark.parametrize("name", ["arc", "obqa"])
def test_in_the_shared_sets_the_gold_text_is_right_and_no_other(name):
    data = load_parameters(PARAMS).datasets[name].model_copy(update={"sizes": FileSizes()})
    if not (ROOT / data.folder).is_dir():
        pytest.skip(f"{data.folder} is not there")
    data = data.model_copy(update={"folder": ROOT / data.folder})
    questions = [q for q in read(data, 0, 50_000, Counter()) if isinstance(q, Example)]
    assert len(questions) > 2_000
    for question in questions:
        correct = [is_correct(option, vars(question)) for option in question.options]
        assert correct == [option == question.answer for option in question.options], question


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [
        ("The answer is -5.", ["5", "-5"], "-5"),
        ("The answer is 5.", ["-5", "3"], None),
        ("The answer is 1,000.", ["1", "1000"], "1000"),
        (r"The answer is $1{,}000$.", ["1", "1000", "0"], "1000"),
        (r"Hence \boxed{1{,}000}.", ["1", "1,000", "0"], "1,000"),
        ("The pH of water is 7.", ["1.6", "7.0"], "7.0"),
        ("It is 3.5 m, so 3.", ["3", "5"], "3"),
        ("So it is version 1.2.", ["1", "2"], None),
        ("It occurs every 365.3 days.", ["3", "365"], None),
        ("The sum is $5.", ["$5", "€5"], "$5"),
        ("It is neutral, not entailment.", ["entailment", "neutral"], "neutral"),
        ("There is no entailment: neutral", ["entailment", "neutral"], "neutral"),
        ("It isn't a tea but milk.", ["tea", "milk"], "milk"),
        ("It is neither tea nor milk.", ["tea", "milk"], None),
        ("The answer is no.", ["yes", "no"], "no"),
        ("The answer is no, yes would need rain.", ["yes", "no", "maybe"], "no"),
        ("**Answer:** tea", ["tea", "milk"], "tea"),
        ("So **tea**.", ["tea", "milk"], "tea"),
        (r"Thus \boxed{\text{tea}}, no milk.", ["tea", "milk"], "tea"),
        (r"Not milk: $\boxed{tea}$, as milk is cold.", ["tea", "milk"], "tea"),
        ("答案是红色。", ["红色", "绿色"], "红色"),
        ("答案是red。", ["red", "green"], "red"),
        ("答えはお茶です", ["お茶", "牛乳"], "お茶"),
        ("คำตอบคือชาร้อน", ["ชาร้อน", "นม"], "ชาร้อน"),
    ],
)
def test_a_conclusion_is_read_in_any_script_with_numbers_and_denials(text, options, answer):
    assert conclusion(text, options) == answer


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("The answer is 5 apples.", "5", True),
        ("Ann has 5 apples left.", "5", True),
        ("Ann has 5 of 8 apples left.", "5", False),
        ("3 + 5 = 8", "8", True),
        ("3 + 5 = 8\n#### 8", "8", True),
        (r"So the area is $\boxed{\frac{1}{2}}$.", "0.5", True),
        (r"\boxed{12}", "12.0", True),
        ("**Answer:** 42", "42", True),
        ("Answer:\n42", "42", True),
        ("**42**", "42", True),
        ("1/2", "0.5", True),
        ("5", "5 apples", True),
        ("5 pears", "5 apples", False),
        ("5%", "0.05", False),
        ("-5", "5", False),
        ("The answer is -5.", "5", False),
        ("$1,200.50", "1200.5", True),
        ("five", "5", False),
        ("1/0", "1", False),
        ("Apollo 11", "11", True),  # the only number; a gold number asks for no more
        ("11", "Apollo 11", False),
        ("C++", "C#", False),
        ("A-", "A+", False),
        ("P", "~P", False),
        ("€5", "$5", False),
        ("5", "$5", True),
        ("102", "10²", False),
        ("10²", "10²", True),
        ("[0, 1]", "(0, 1)", False),
        ("<", ">", False),
        ("5 Mg", "5 mg", False),
        ("5 Apples", "5 apples", True),
        ("１２", "12", True),
        ("", "...", False),
        ("?", "...", False),
        ("...", "...", True),
        ("The cat", "a Cat", True),
        ("Paris.", "paris", True),
        ("The answer is Paris.", "Paris", True),
        ("step one\nstep two", "step one\nstep two", True),
    ],
)
def test_a_free_form_answer_is_read_by_its_number_or_its_text(text, gold, expected):
    assert is_correct(text, {"options": [], "answer": gold}) is expected


LONG = "9" * 6000  # more digits than Python turns into an integer
ENDLESS = ["0." + "3" * 6000, LONG, f"-{LONG}", f"1/{LONG}", f"{LONG}/7", f"{LONG} apples", "1/00"]
ENDLESS += [rf"\frac{{1}}{{{LONG}}}", f"${LONG}", "1,234," * 2000, f"x = {LONG}"]


@pytest.mark.parametrize("text", ENDLESS, ids=lambda text: text[:8])
@pytest.mark.parametrize("options", [[], ["0.5", "2"]], ids=len)
def test_a_number_of_any_length_is_wrong_unless_it_is_the_gold_one(text, options):
    assert not is_correct(text, {"options": options, "answer": "0.5"})
    assert is_correct(text, {"options": [], "answer": text})
    assert not same(text, "0.5", options)
    assert split_answer(f"One by two.\nAnswer: {text}", [])[1] == parse_answer(text, [])
    expected = "inconclusive" if options else "ok"
    assert rationale_status(f"So it is {text}", "stop", options, "0.5") in (expected, "contradicts")


def test_an_option_may_be_a_number_of_any_length():
    question = {"options": [LONG, f"-{LONG}", "2"], "answer": LONG}
    assert [is_correct(option, question) for option in question["options"]] == [True, False, False]
    assert conclusion(f"So it is -{LONG}.", question["options"]) == f"-{LONG}"


@pytest.mark.parametrize("written", ["au\u00adnt", "aunt\u200b", "\ufeffThe aunt."])
def test_an_answer_is_right_if_it_reads_like_the_gold_one(written):
    question = {"options": ["aunt", "uncle"], "answer": "aunt"}
    assert is_correct(written, question)
    assert is_correct(written, question | {"options": []})
    assert conclusion(f"So she is the {written}", question["options"]) == "aunt"


def test_repetition_is_found_in_scripts_without_spaces():
    assert is_repetitive("因为她是姐姐，" * 6)
    assert not is_repetitive("红茶比牛奶热，因为水在炉子上烧开了很久。")


FIRST_NUMBERS = ["1", "2", "3", "4"]
RELATIVES = ["aunt", "uncle", "niece"]
HOUSES = ["motel", "hotel", "apartment"]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("The answer is 2 + 1 = 3.", FIRST_NUMBERS, "3"),
        ("the result is 4 - 1 = 3", FIRST_NUMBERS, "3"),
        ("Total choice: 1 + 3 = 4.", FIRST_NUMBERS, "4"),
        ("So the wrong answer is uncle. B is her aunt.", RELATIVES, "aunt"),
        ("The incorrect option is uncle, so B is the aunt.", RELATIVES, "aunt"),
        ("If the answer is uncle, B would be male. So B is the aunt.", RELATIVES, "aunt"),
        ("uncle would be the right answer if B were male. But B is the aunt.", RELATIVES, "aunt"),
        ("Option B is correct. Option A is not the correct answer.", RELATIVES, "uncle"),
        ("The correct answer is aunt. The other options do not fit.", RELATIVES, "aunt"),
        ("The answer is (a) motel, or (c) apartment.", HOUSES, None),
        ("The answer is either motel, hotel, or apartment.", HOUSES, None),
        (f"So it is {'only ' * 60}a guess.", RELATIVES, None),
    ],
)
def test_a_statement_is_read_as_it_is_meant(text, options, expected):
    assert conclusion(text, options) == expected
