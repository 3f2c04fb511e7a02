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


@pytest.mark.parametrize("reply", ["tea", ""])
def test_a_thought_of_its_own_field_is_joined_and_split(reply):
    assert split_thought(join_thought("Maybe milk?", reply)) == ("Maybe milk?", reply)
