import pytest

from stages.distil.language.thinking import MARKS, join_thought, split_thought, without_thought


@pytest.mark.parametrize(("opening", "closing"), MARKS)
def test_a_thought_is_told_from_the_reply(opening, closing):
    whole = f"{opening}\nMaybe milk?\n{closing}\n\nIt is tea."
    assert split_thought(whole) == ("Maybe milk?", "It is tea.")
    assert split_thought(f"Maybe milk?\n{closing}\nIt is tea.") == ("Maybe milk?", "It is tea.")
    assert split_thought(f"{opening}Maybe") == ("Maybe", "")
    assert split_thought(f"{opening}\n\n{closing}\n\ntea") == ("", "tea")
    assert without_thought(f"Who?\n{opening}\n") == f"Who?\n{opening}\n\n{closing}\n\n"


def test_a_text_without_a_thought_stays_as_it_is():
    assert split_thought(" It is <tea>. ") == (None, " It is <tea>. ")
    assert without_thought("Who?\n") == "Who?\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<THINK>Milk?</Think> tea", ("Milk?", "tea")),
        ("Sure!\n<think>\nMilk? maybe", ("Milk? maybe", "")),
        ("Sure!\n<think>\nMilk?\n</think>\nIt is tea.", ("Milk?", "It is tea.")),
        ("<think>Milk?</think><answer>\ntea\n</answer>", ("Milk?", "tea")),
        ("<Thought>Milk?</Thought>\n<Output>tea</Output>", ("Milk?", "tea")),
        (
            "<|begin_of_thought|>Milk?<|end_of_thought|><|begin_of_solution|>tea"
            "<|end_of_solution|>",
            ("Milk?", "tea"),
        ),
        (
            "<|START_THINKING|>Milk?<|END_THINKING|><|START_RESPONSE|>tea<|END_RESPONSE|>",
            ("Milk?", "tea"),
        ),
        ("<|channel>thought\nMilk?<channel|>tea", ("Milk?", "tea")),
        ("Here is my thought process: Milk? Here is my response: tea", ("Milk?", "tea")),
        ("analysisMilk?assistantfinalIt is tea.", ("Milk?", "It is tea.")),
        ("analysis of drinks: tea", (None, "analysis of drinks: tea")),
        ("Tags such as <think> are text.", (None, "Tags such as <think> are text.")),
    ],
)
def test_other_forms_of_a_thought(text, expected):
    assert split_thought(text) == expected


@pytest.mark.parametrize("reply", ["tea", ""])
def test_a_thought_of_its_own_field_is_joined_and_split(reply):
    assert split_thought(join_thought("Maybe milk?", reply)) == ("Maybe milk?", reply)
