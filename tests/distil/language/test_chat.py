"""How conversations are rendered in chat templates in the manner of well-known models."""

import pytest
from transformers import AutoTokenizer

from stages.distil.interface.errors import UserError, tell_once
from stages.distil.language.chat import Chat, Ends
from stages.distil.language.teacher_prompts import Conversation

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
WITHOUT_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)
REFUSING = "{{ raise_exception('never') }}"
OPENED = f"{TURNS}<|im_start|>assistant\n<think>\n"
SWITCHED = (
    f"{TURNS}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}"
)
TALK = Conversation("Be brief.", (("Who is he?", "Bo."),), "Who is she?", "Answer:")
FOLDED = (
    "<|im_start|>user\nBe brief.\n\nWho is he?<|im_end|>\n<|im_start|>assistant\nBo.<|im_end|>\n"
    "<|im_start|>user\nWho is she?<|im_end|>\n"
)


@pytest.fixture
def make_chat(tiny_model):
    tell_once.cache_clear()

    def make(template, **settings) -> Chat:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.chat_template = template
        return Chat("far", tokenizer, settings)

    return make


@pytest.mark.parametrize("template", [NO_SYSTEM + TURNS, ALTERNATING + TURNS, WITHOUT_SYSTEM])
def test_without_a_system_role_the_instruction_opens_the_first_turn(make_chat, template, capsys):
    teacher = make_chat(template)
    assert teacher.render(TALK) == teacher.render(TALK) == FOLDED
    assert capsys.readouterr().err.count("far: the instruction opens the user's first turn") == 1


@pytest.mark.parametrize("template", [TURNS, NO_SYSTEM + TURNS, None])
def test_an_empty_instruction_is_no_message(make_chat, template, capsys):
    text = make_chat(template).render(Conversation("", (), "Who is she?", "Answer:"))
    turn = "<|im_start|>user\nWho is she?<|im_end|>\n"
    assert text == (turn if template else "Who is she?\nAnswer:")
    assert capsys.readouterr().err == ""


def test_a_template_that_takes_the_system_message_gets_it(make_chat, capsys):
    assert make_chat(TURNS).render(TALK).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert capsys.readouterr().err == ""


def test_a_template_that_refuses_everything_is_one_line(make_chat):
    with pytest.raises(UserError, match=r"models\.far: its chat template refuses .*never"):
        make_chat(REFUSING).render(TALK)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1].content }}",
        "{% for m in messages if m.role != 'assistant' %}{{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.content | replace('?', '') }}{% endfor %}",
    ],
)
def test_a_template_that_leaves_out_a_message_is_one_line(make_chat, template):
    with pytest.raises(UserError, match=r"models\.far: its chat template leaves out or changes"):
        make_chat(template).render(TALK)


def test_any_error_of_a_template_is_one_line(make_chat):
    with pytest.raises(UserError, match=r"models\.far: its chat template refuses .*zero"):
        make_chat("{{ 1 // 0 }}").render(TALK)


def test_a_template_with_the_date_warns(make_chat, capsys):
    make_chat("{{ strftime_now('%d %b %Y') }}" + TURNS)
    assert "far: its chat template may write today's date" in capsys.readouterr().err


def test_an_opened_thought_is_told(make_chat):
    assert make_chat(OPENED).encode(TALK)[1] == "<think>"
    assert make_chat(SWITCHED).encode(TALK)[1] == ""


def test_the_templates_variables_can_be_set(make_chat):
    assert make_chat(SWITCHED).render(TALK).endswith("assistant\n")
    closed = make_chat(SWITCHED, enable_thinking=False).render(TALK)
    assert closed.endswith("<think>\n\n</think>\n\n")


def test_marks_that_are_special_tokens_are_kept(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokens = tokenizer.encode("[THINK]So.[/THINK]tea<|im_end|>", add_special_tokens=False)
    plain = tokenizer.decode(tokens, skip_special_tokens=True)
    assert plain == "So.tea"
    assert Chat("far", tokenizer).with_marks(plain, tokens) == "[THINK]So.[/THINK]tea"
    assert Chat("far", tokenizer).with_marks("tea", tokens[-2:-1]) == "tea"


MISSING = "far: its chat template ends a turn with '<|im_end|>', its generation settings with "


def test_the_end_of_a_turn_that_the_settings_lack_ends_a_reply(make_chat, capsys):
    teacher = make_chat(TURNS)
    text, turn = teacher.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert not teacher.ends({turn})
    assert not teacher.ends({text, turn})
    assert capsys.readouterr().err == ""
    assert teacher.ends({text}) == teacher.ends({text}) == Ends(tokens=(turn,))
    assert capsys.readouterr().err.count(f"{MISSING}<|endoftext|>; a reply ends") == 1
    assert teacher.ends(set()) == Ends(tokens=(turn,))
    assert f"{MISSING}nothing; a reply ends" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (None, Ends(texts=("\n\n",))),
        (REFUSING, Ends()),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", Ends()),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}</turn>\n{% endfor %}",
            Ends(texts=("</turn>",)),
        ),
        # One of the tokens after a reply is declared: the others are part of it.
        ("{% for m in messages %}{{ m.content }}<|im_end|><|endoftext|>{% endfor %}", Ends()),
        ("{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|>", None),
    ],
)
def test_where_a_template_ends_a_turn(make_chat, template, ends):
    teacher = make_chat(template)
    text, start = teacher.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>"])
    assert teacher.ends({text}) == (Ends(tokens=(start,)) if ends is None else ends)


def test_a_text_is_cut_at_its_first_end():
    ends = Ends(texts=("</turn>", "\n\n"))
    assert ends.cut("\n\nIt is tea.\n\nWhy?</turn>") == "It is tea."
    assert ends.cut("It is tea.</turn>\n\nWhy?") == "It is tea."
    assert ends.cut("It is tea.") is None
    assert Ends().cut("a\n\nb") is None


def test_a_template_whose_loops_never_end_is_refused(make_chat):
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match="its chat template refuses .*its loops are too long"):
        make_chat(f"{loops}{TURNS}").render(TALK)


def test_a_template_that_is_nested_too_deeply_is_refused(make_chat):
    with pytest.raises(UserError, match="its chat template refuses the conversation"):
        make_chat(TURNS + "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}").render(TALK)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 10 ** (10 ** 8) }}", "is not available"),
        ("{{ messages[0].content * 300000000 }}", "more than 10,000,000 characters"),
        ("{% set n = 99999999 %}{{ n * n * n }}", "a product is larger than"),
    ],
)
def test_a_template_that_computes_without_end_is_refused(make_chat, template, reason):
    with pytest.raises(UserError, match=reason):
        make_chat(template + TURNS).render(TALK)
