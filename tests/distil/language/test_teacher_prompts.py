import os

import pytest

from stages.distil.interface.errors import UserError
from stages.distil.language.student_prompts import question_text
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.storage.examples import Example
from tests.conftest import ROOT

PROMPTS = ROOT / "stages/prompts"
BLOCKS = "".join(f"{{% block {name} %}}{name}{{% endblock %}}" for name in ("system", "cue"))
EXAMPLE = Example("1", "train", "What is 1 {{ 7 }}?", ["one", "<two>"], "one")
SOLVED = Example("2", "pool", "And 2?", [], "two")
COMMAS = Example("3", "train", "And 3?", ["three, or so", "four"], "four")


def write_prompt_file(folder, user="{{ question }}", assistant="{{ rationale }}"):
    path = folder / "mine.jinja"
    text = f"{{% block user %}}{user}{{% endblock %}}"
    path.write_text(f"{BLOCKS}{text}{{% block assistant %}}{assistant}{{% endblock %}}")
    return path


def test_the_committed_rationale_prompt():
    forced = PromptFile(PROMPTS / "rationale.jinja").conversation(EXAMPLE, [(SOLVED, "So two.")])
    assert forced.messages() == [
        {
            "role": "system",
            "content": "Explain why the given answer is right, with only the facts that matter.",
        },
        {"role": "user", "content": "And 2?\nCorrect answer: two"},
        {"role": "assistant", "content": "So two."},
        {
            "role": "user",
            "content": "What is 1 {{ 7 }}?\nOptions: one, <two>\nCorrect answer: one",
        },
    ]
    assert forced.text().endswith(
        "Correct answer: two\nExplanation: So two.\n\n"
        "What is 1 {{ 7 }}?\nOptions: one, <two>\nCorrect answer: one\n"
        "Explanation:"
    )


def test_without_teacher_forcing_the_prompt_omits_the_answer():
    free = PromptFile(PROMPTS / "reason.jinja").conversation(EXAMPLE, [(SOLVED, "So two.")])
    assert "Correct" not in free.text() and not free.user.endswith("one")
    assert free.shown == (("And 2?", "So two.\nAnswer: two"),)
    assert "one of the options" in free.system


@pytest.mark.parametrize("name", ["rationale", "reason", "answer"])
def test_options_with_a_comma_have_a_line_each(name):
    user = PromptFile(PROMPTS / f"{name}.jinja").conversation(COMMAS).user
    assert user.startswith("And 3?\nOptions:\n- three, or so\n- four")


@pytest.mark.parametrize("example", [EXAMPLE, SOLVED, COMMAS])
def test_the_zero_shot_prompt_contains_the_question_text_that_attribution_scores(example):
    prompt = PromptFile(PROMPTS / "answer.jinja").conversation(example)
    assert prompt.user == question_text(example.question, example.options)
    assert ("one of the options" in prompt.system) == bool(example.options)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("{{ qestion }}", "mine.jinja, block user: 'qestion' is undefined"),
        ("{% if %}", "mine.jinja, line 1: "),
        ("{{ ().__class__.__bases__ }}", "block user: access to attribute '__class__'"),
        ("{{ 1 // 0 }}", "block user: integer division"),
        ("{% include '/etc/passwd' %}", "block user: "),
    ],
)
def test_a_wrong_prompt_file_is_named(tmp_path, user, message):
    with pytest.raises(UserError) as error:
        PromptFile(write_prompt_file(tmp_path, user)).conversation(EXAMPLE)
    assert message in str(error.value)


def test_a_missing_file_or_block_is_named(tmp_path):
    with pytest.raises(UserError, match="none.jinja: no such prompt file"):
        PromptFile(tmp_path / "none.jinja")
    (tmp_path / "half.jinja").write_text(BLOCKS)
    with pytest.raises(UserError, match="half.jinja: expected .* missing: user, assistant"):
        PromptFile(tmp_path / "half.jinja")


def test_the_papers_prompt_letters_any_number_of_options():
    options = [f"class {n}" for n in range(30)]
    example = Example("1", "train", "Which?", options, "class 27")
    user = PromptFile(PROMPTS / "tinyllm.jinja").conversation(example).user
    assert "Options:\n(a) class 0\n(b) class 1\n" in user
    assert "(z) class 25\n(aa) class 26\n(ab) class 27\n" in user
    assert user.startswith("Question:\nWhich?\n")
    assert "\nAnswer:\nab\nRationale:" in user


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (NESTED, "it runs more than 1,000,000 lines"),
        (
            "{% for a in question %}{% for b in question %}{% for c in question %}{% for d in "
            "question %}{% for e in question %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}"
            "{% endfor %}",
            "it runs more than 1,000,000 lines",
        ),
        (
            "{% macro twice(n) %}{{ twice(n + 1) if n < 40 }}{{ twice(n + 1) if n < 40 }}"
            "{% endmacro %}{{ twice(0) }}",
            "it runs more than 1,000,000 lines",
        ),
        ("{% macro more() %}{{ more() }}{% endmacro %}{{ more() }}", "maximum recursion depth"),
        ("{{ 'x' * 10 ** 12 }}", "** is not available"),
        ("{{ 'x' * 1000000000000 }}", "it writes more than 10,000,000 characters"),
        (
            "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
            "it writes more than 10,000,000",
        ),
        ("{{ range(1000000) | list }}", "Range too big"),
    ],
)
def test_a_prompt_that_never_ends_is_an_error(tmp_path, user, message):
    path = write_prompt_file(tmp_path, user=user)
    with pytest.raises(UserError, match=r"mine.jinja, block user: ") as error:
        PromptFile(path).conversation(EXAMPLE)
    assert message in str(error.value)


def test_a_line_of_signs_in_a_prompt_is_fine(tmp_path):
    path = write_prompt_file(tmp_path, user="{{ '=' * 20 }}\n{{ question }}")
    assert PromptFile(path).conversation(EXAMPLE).user == f"{'=' * 20}\n{EXAMPLE.question}"


def test_a_prompt_file_that_is_no_text_file_is_named(tmp_path):
    deep = write_prompt_file(tmp_path, user="{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
    with pytest.raises(UserError, match="mine.jinja: it is nested too deeply"):
        PromptFile(deep)
    deep.unlink()
    os.mkfifo(deep)
    with pytest.raises(UserError, match="mine.jinja: expected a file, found a folder, device"):
        PromptFile(deep)
