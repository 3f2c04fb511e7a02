import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.distil.interface.catalogue import Files
from stages.distil.interface.errors import UserError
from stages.distil.questions.fields import QuestionReader
from stages.distil.storage.examples import Example, Record, Rejected


def read(rows: list, **changes) -> list[Example | Rejected]:
    data_set = Files(source="files", folder=".", **changes)
    records = [Record("train", "f", n, "", row) for n, row in enumerate(rows, start=1)]
    return list(QuestionReader(data_set, 1_000, Counter()).accept(records))


ROW = {"id": "1", "question": "Who?", "options": ["Ann", "Bob", "Cy"], "answer": "Bob"}


@pytest.mark.parametrize(
    "answer", ["Bob", " bob ", "B", "b", 1, "1", ["Bob"]], ids=lambda a: repr(a)
)
def test_an_answer_is_a_text_a_letter_or_an_index(answer):
    (example,) = read([ROW | {"answer": answer}])
    assert isinstance(example, Example), example
    assert example.answer == "Bob"


LETTERED = ["(B)", "b.", "B)", "Option B", "option (b)", "**B**", "Answer: B", "choice_b", "[B]"]


@pytest.mark.parametrize("answer", LETTERED)
@pytest.mark.parametrize("fields", [{}, {"answer_is": "letter"}, {"option_names": "keys"}])
def test_a_letter_may_stand_in_brackets_or_after_a_word(answer, fields):
    (example,) = read([ROW | {"answer": answer, "keys": ["A", "B", "C"]}], fields=fields)
    assert isinstance(example, Example), example
    assert example.answer == "Bob"


@pytest.mark.parametrize("answer", ["B+", "B-", "BB", "options", "A or B", "(D)", "-B", "B#"])
def test_what_is_more_than_a_letter_is_none(answer):
    (rejected,) = read([ROW | {"answer": answer}])
    assert rejected.reason == f"answer {answer!r} is not one of the options"


def test_names_are_compared_as_written_before_they_are_letters():
    names = {"keys": ["(a)", "(b)", "(c)"]}
    assert read([ROW | names | {"answer": "B"}], fields={"option_names": "keys"})[0].answer == "Bob"
    names = {"keys": ["A", "A.", "C"]}
    named, unclear = read(
        [ROW | names | {"answer": "A."}, ROW | names | {"id": "2", "answer": "(A)"}],
        fields={"option_names": "keys"},
    )
    assert named.answer == "Bob"
    assert unclear.reason == "answer '(A)' is none of the names in keys"


TEXTS = ["foo 3", "bar 4", "(a) baz"]
FULL = {
    "A.": ["A. foo 3", "B. bar 4", "C. (a) baz"],
    "(a)": ["(a) foo 3", "(b)bar 4", "(c)\u00a0(a) baz"],
    "A)": ["A) foo 3", "B)bar 4", "c ) (a) baz"],
}


@pytest.mark.parametrize("style", FULL)
@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ("bar 4", {}),
        ("B. bar 4", {"answer_is": "text"}),
        ("(b) Bar 4.", {"answer_is": "text"}),
        ("B", {}),
        ("(B)", {"answer_is": "letter"}),
        (1, {}),
        ("two", {"option_names": "names"}),
    ],
)
def test_letters_before_all_options_are_left_out(style, answer, fields):
    row = ROW | {"options": FULL[style], "answer": answer, "names": ["one", "two", "three"]}
    (example,) = read([row], fields=fields)
    assert isinstance(example, Example), example
    assert (example.options, example.answer) == (TEXTS, "bar 4")


@pytest.mark.parametrize(
    "options",
    [
        ["A. foo", "C. bar"],
        ["B. foo", "C. bar"],
        ["B. bar", "A. foo"],
        ["A. foo", "bar"],
        ["(A) only", "(B) only"],
        ["A.", "B. bar"],
        ["(A)", "(B)"],
        ["A.D. 79", "B.C. 79"],
        ["A foo", "B bar"],
        ["1. foo", "2. bar"],
    ],
)
def test_other_options_keep_their_texts(options):
    (example,) = read([ROW | {"options": options, "answer": options[0]}])
    assert (example.options, example.answer) == (options, options[0])


def test_a_text_with_the_letter_of_another_option_is_refused():
    (agrees,) = read([ROW | {"answer": "(B) Bob"}])
    assert agrees.answer == "Bob"
    (differs,) = read([ROW | {"answer": "A. Bob"}])
    assert differs.reason == "answer 'A. Bob' is not one of the options"


def test_letters_are_left_out_of_columns_and_fixed_options_too():
    row = {"id": "1", "question": "Who?", "A": "A) Ann", "B": "B) Bob", "C": "", "answer": "b"}
    (example,) = read([row], fields={"options": ["A", "B", "C"]})
    assert (example.options, example.answer) == (["Ann", "Bob"], "Bob")
    (example,) = read([row], fields={"fixed_options": ["A. sun", "B. rain"], "answer_is": "letter"})
    assert (example.options, example.answer) == (["sun", "rain"], "rain")


BLOOD = ["B", "O", "A", "AB"]
NUMBERS = ["1", "0", "3", "2"]


@pytest.mark.parametrize(
    ("options", "answer", "message"),
    [
        (NUMBERS, 1, "'1' is '1' by its text and '0' by its index; set answer_is"),
        (NUMBERS, "1", "to text or index"),
        (BLOOD, "A", "'A' is 'A' by its text and 'B' by its letter"),
        (BLOOD, "A.", "'A.' is 'A' by its text and 'B' by its letter"),
        (["1.0", "0.5", "2.0"], "1", "'1.0' by its text and '0.5' by its index"),
        (["１", "２", "３"], 2, "'２' by its text and '３' by its index"),
    ],
)
def test_a_key_with_two_meanings_stops_the_run(options, answer, message):
    with pytest.raises(UserError, match=message) as error:
        read([ROW | {"options": options, "answer": answer}])
    assert str(error.value).startswith("f, row 1: the answer ")


@pytest.mark.parametrize(
    ("options", "answer", "fields", "expected"),
    [
        (NUMBERS, 1, {"answer_is": "index"}, "0"),
        (NUMBERS, 1.0, {"answer_is": "index"}, "0"),
        (NUMBERS, "1", {"answer_is": "text"}, "1"),
        (NUMBERS, 2, {"first_index": 1}, "0"),
        (BLOOD, "A", {"answer_is": "letter"}, "B"),
        (BLOOD, "A", {"answer_is": "text"}, "A"),
        (["red", "blue"], 1.0, {}, "blue"),
        (["no", "yes"], True, {}, "yes"),
        (["yes", "no"], True, {}, "yes"),
        (["yes", "no", "maybe"], False, {}, "no"),
        (["no", "yes"], True, {"first_index": 1}, "yes"),
        (["sweet", "sour"], True, {"answer_is": "index"}, "sour"),
        (["sweet", "sour"], False, {"answer_is": "index", "first_index": 1}, "sweet"),
        (["The sea", "a wood"], "sea.", {}, "The sea"),
        (["True", "False"], True, {}, "True"),
        (["True", "False"], "false", {}, "False"),
        (["BB", "Bb", "bb"], "bb", {}, "bb"),
    ],
)
def test_a_declared_or_single_meaning_counts(options, answer, fields, expected):
    (example,) = read([ROW | {"options": options, "answer": answer}], fields=fields)
    assert isinstance(example, Example), example
    assert example.answer == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"choices": ["Ann", "Bob"]}, "options: missing, but there is 'choices'; set fields.opt"),
        ({"options": None, "choices": {"text": ["Ann"]}}, "there is 'choices'"),
        ({"options": ["Ann", None]}, "options[1]: expected a text, found NoneType"),
        ({"answer": float("nan")}, "answer: expected a text, found nan, which marks a missing"),
        ({"question": float("nan")}, "question: expected a text, found nan"),
        ({"answer": "BB"}, "answer 'BB' is not one of the options"),
        ({"answer": True}, "answer: true is none of the options; if false means the first option"),
        ({"answer": False}, "answer: false is none of the options"),
    ],
)
def test_what_is_missing_is_refused_by_name(row, reason):
    values = {name: value for name, value in ROW.items() if name != "options"} | row
    (rejected,) = read([values | ({"options": ["Ann", "Bob"]} if "answer" in row else {})])
    assert isinstance(rejected, Rejected), rejected
    assert reason in rejected.reason


def test_a_row_without_options_among_others_is_refused():
    free = {"id": "2", "question": "Who else?", "answer": "Ann"}
    assert "no options, but the first question has options" in read([ROW, free])[1].reason
    assert "options, but the first question has none" in read([free, ROW])[1].reason


COLUMNS = {"id": "1", "question": "Who?", "A": "Ann", "B": "Bob", "C": "Cy", "D": "Di"}


@pytest.mark.parametrize("empty", [None, "", " ", "\u200b", float("nan")], ids=repr)
@pytest.mark.parametrize(
    ("answer", "expected"), [("C", "Cy"), (1, "Bob"), ("Ann", "Ann"), ("D", None), (3, None)]
)
def test_empty_cells_after_the_last_option_are_no_options(empty, answer, expected):
    row = COLUMNS | {"D": empty, "E": empty, "answer": answer}
    (example,) = read([row], fields={"options": ["A", "B", "C", "D", "E"]})
    if expected is None:
        assert example.reason == f"answer '{answer}' is not one of the options (empty: D, E)"
    else:
        assert (example.options, example.answer) == (["Ann", "Bob", "Cy"], expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"C": ""}, "C: missing or empty, but D is not"),
        ({"A": None, "D": " "}, "A: missing or empty, but C is not"),
        (dict.fromkeys("ABCD"), "A, B, C, D: missing"),
        (dict.fromkeys("BCD", ""), "only one option"),
        ({"D": True}, "options[3]: expected a text, found bool"),
    ],
)
def test_no_letter_shifts_for_an_empty_cell(changes, reason):
    (row,) = read([COLUMNS | changes | {"answer": "D"}], fields={"options": list("ABCD")})
    assert isinstance(row, Rejected), row
    assert row.reason.startswith(reason)


def test_a_column_that_no_row_has_costs_the_rows_whose_answer_it_holds():
    rows = [COLUMNS | {"id": n, "question": f"Who {n}?", "answer": "ABCD"[n]} for n in range(4)]
    read_rows = read(rows, fields={"options": ["A", "B", "C", "DD"], "answer_is": "letter"})
    assert [isinstance(row, Example) for row in read_rows] == [True, True, True, False]
    assert read_rows[3].reason == "answer 'D' is not one of the first 3 letters (empty: DD)"


def test_indices_can_start_at_one():
    (example,) = read([ROW | {"answer": 1}], fields={"first_index": 1})
    assert example.answer == "Ann"


def test_names_alone_count_where_the_options_have_names():
    row = {"keys": ["1", "2", "3", "4"], "options": ["2", "3", "4", "5"], "answer": "3"}
    assert read([ROW | row], fields={"option_names": "keys"})[0].answer == "4"
    row = {"keys": ["A", "B", "C", "D"], "options": BLOOD, "answer": "A"}
    assert read([ROW | row], fields={"option_names": "keys"})[0].answer == "B"
    refused = read([ROW | row | {"answer": "AB"}], fields={"option_names": "keys"})[0]
    assert "'AB' is none of the names in keys" in refused.reason
    twice = row | {"keys": ["A", "A", "C", "D"]}
    refused = read([ROW | twice], fields={"option_names": "keys"})[0]
    assert refused.reason == "keys: two options have the same name"


def test_a_gold_is_cut_to_a_result_that_ends_the_solution():
    free = {name: value for name, value in ROW.items() if name != "options"}
    cut, whole = read(
        [
            free | {"id": "a", "question": "1?", "answer": "3 + 5 = 8\n#### 8"},
            free | {"id": "b", "question": "2?", "answer": "So:\n#### Step 2\nThe result is 7"},
        ]
    )
    assert (cut.answer, whole.answer) == ("8", "So:\n#### Step 2\nThe result is 7")


def test_option_names_take_precedence_over_letters():
    row = ROW | {"keys": ["B", "C", "A"], "answer": "B"}
    (example,) = read([row], fields={"option_names": "keys"})
    assert example.answer == "Ann"


def test_names_that_do_not_match_the_options_are_refused():
    (row,) = read([ROW | {"keys": ["A"], "answer": "A"}], fields={"option_names": "keys"})
    assert "keys: expected one name for each option" in row.reason


def test_a_field_that_is_set_must_exist_but_a_default_need_not():
    free = {"id": "1", "question": "Who?", "answer": "Ann"}
    assert read([free])[0].options == []
    assert "choices: missing" in read([free], fields={"options": "choices"})[0].reason


@pytest.mark.parametrize(
    ("solution", "answer"),
    [("3 + 5 = 8\n#### 8", "8"), (r"So it is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"), ("8", "8")],
)
def test_the_answer_is_the_result_of_a_whole_solution(solution, answer):
    row = {"id": "1", "question": "How many?", "answer": solution}
    assert read([row])[0].answer == answer


def test_white_space_does_not_hide_a_repeated_question():
    first, second = read([ROW, ROW | {"id": "2", "question": " Who?  "}])
    assert isinstance(first, Example)
    assert "the same question" in second.reason


def split_rows(**questions: list[dict]) -> list[Example | Rejected]:
    """Read rows of several splits, in the order of the keyword arguments."""
    reader = QuestionReader(Files(source="files", folder="."), 1_000, Counter())
    return [
        row
        for split, rows in questions.items()
        for row in reader.accept(Record(split, split, n, "", row) for n, row in enumerate(rows, 1))
    ]


def test_an_id_is_unique_with_its_split():
    test, train, again = split_rows(
        test=[ROW | {"id": 0}],
        train=[ROW | {"id": 0, "question": "Who else?"}, ROW | {"id": 0, "question": "Why?"}],
    )
    assert [(row.split, row.id) for row in (test, train)] == [("test", "0"), ("train", "0")]
    assert again.reason == "id '0' is already used on an earlier row of train"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: f"\ufeff{text}",
        lambda text: text.replace(" ", " \u200b"),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace("Café", "Ca\u00adfé"),
        lambda text: f"{text}\u200e",
        lambda text: text.replace("-", "\u2011"),
    ],
)
def test_a_train_question_that_reads_like_one_of_test_is_refused(change):
    asked = "Who is in Zoë's Café, her mother-in-law?"
    options = ["Zoë", "René"]
    row = {"question": asked, "options": options, "answer": "René"}
    other = {"question": change(asked), "options": [change(option) for option in options[::-1]]}
    assert other["question"] != asked
    _, train = split_rows(test=[row | {"id": 1}], train=[row | other | {"id": 2, "answer": "A"}])
    assert train.reason == "the same question is also in test"


def test_options_that_differ_in_the_indentation_of_code_are_accepted():
    options = ["if x:\n    a()\n    b()", "if x:\n    a()\nb()"]
    (example,) = read([{"id": 1, "question": "Which?", "options": options, "answer": "B"}])
    assert example.options == options


BRIDGES = ["park", "bridge", "bridge ", "train  station", "train station", "sea"]


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        ("bridge", {}, "bridge"),
        ("train   station", {"answer_is": "text"}, "train  station"),
        ("C", {"answer_is": "letter"}, "bridge"),
        ("F", {"answer_is": "letter"}, "sea"),
        (4, {"answer_is": "index"}, "train  station"),
        (6, {"first_index": 1}, "sea"),
        ("q5", {"option_names": "names"}, "train  station"),
        ("q6", {"option_names": "names"}, "sea"),
    ],
)
def test_equal_options_are_one_option(answer, fields, expected):
    row = ROW | {"options": BRIDGES, "answer": answer, "names": [f"q{n}" for n in range(1, 7)]}
    (example,) = read([row], fields=fields | {"equal_options": "merge"})
    assert isinstance(example, Example), example
    assert example.options == ["park", "bridge", "train  station", "sea"]
    assert example.answer == expected


def test_equal_booleans_are_one_option():
    row = ROW | {"options": ["yes", "no", "yes"], "answer": True}
    (example,) = read([row], fields={"equal_options": "merge"})
    assert (example.options, example.answer) == (["yes", "no"], "yes")


def test_unless_they_are_merged_equal_options_cost_the_row():
    (row,) = read([ROW | {"options": ["Bob", "Ann", " Bob"]}])
    assert row.reason.startswith("two options are equal; set fields.equal_options to merge if")


def test_of_equal_options_alone_a_question_cannot_be_made():
    (row,) = read([ROW | {"options": ["Bob", "Bob", " Bob"]}])
    assert row.reason.startswith("all options are equal; a question has two or more")


def test_fixed_options_that_read_the_same_are_a_wrong_parameter():
    fields = {"fixed_options": ["yes", "yes\u200b"]}
    with pytest.raises(UserError, match=r"fixed_options: two options read the same: 'yes' and"):
        read([], fields=fields)


def test_the_reason_and_the_text_of_a_refused_row_are_cut():
    (row,) = read([ROW | {"answer": "x" * 900}])
    assert row.reason == f"answer '{'x' * 492} …"
    records = [Record("train", "f", 1, "x" * 20_000, error="not JSON")]
    (row,) = QuestionReader(Files(source="files", folder="."), 9, Counter()).accept(records)
    assert row.text == "x" * 10_000 + " …"


def test_a_question_that_differs_in_case_is_another():
    assert all(
        isinstance(row, Example) for row in read([ROW, ROW | {"id": "2", "question": "WHO?"}])
    )


def test_the_same_question_with_other_options_is_a_different_question():
    rows = read([ROW, ROW | {"id": "2", "options": ["Ann", "Bob", "Di"]}])
    assert all(isinstance(row, Example) for row in rows)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
names = ["id", "question", "options", "answer", "rationales"]
rows = (
    json_values
    | st.dictionaries(st.sampled_from(names), json_values)
    | st.fixed_dictionaries(
        {
            "id": st.text(min_size=1, max_size=3),
            "question": st.text(max_size=4),
            "options": st.lists(st.text(max_size=2), max_size=3),
            "answer": st.text(max_size=2) | st.integers(-2, 4),
        }
    )
)


@given(st.lists(rows, max_size=12), st.sampled_from(["text", "letter", "index"]))
@settings(max_examples=300)
def test_every_row_is_accepted_or_refused(values, answer_is):
    results = read(values, fields={"answer_is": answer_is})
    assert len(results) == len(values)
    for row in results:
        if isinstance(row, Example):
            assert row.question.strip() and row.answer.strip()
            assert not row.options or row.answer in row.options
            " ".join([row.id, row.question, row.answer, *row.options]).encode()
        else:
            assert row.reason
