"""Questions to a tiny trained student, beside what `evaluate` wrote of the same questions."""

import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.distil.demo.asking import Asker
from stages.distil.demo.nearest import Lessons, Rationale
from stages.distil.demo.page import Page, run
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.storage import tables
from tests.conftest import PARAMS, ROOT, question, write_jsonl, write_values
from tests.test_methods import run_stages

EVIL = "<script>window.injected = true</script><img src=x onerror='window.injected = 1'>"
EVIL += "${window.injected = 2}{{constructor}}"


def train_tiny(folder: Path, model: Path, **changes) -> Asker:
    """Train a tiny student in the current folder, with parameters KEY__KEY; return it."""
    counts = {"train": 8, "validation": 2, "test": 4}
    splits = {split: [question(n, split) for n in range(size)] for split, size in counts.items()}
    splits["test"][3]["question"] = f"Which colour has {EVIL}?"
    splits["test"][2]["options"] = ["if a:\n  b", "if a:\n  c", "blue"]
    splits["train"][7]["rationales"]["two"] = f"{EVIL} So it is green."
    splits["train"][6]["rationales"]["two"] = "It must be blue."  # wrong
    write_jsonl(folder / "balls", **splits)
    values = YAML(typ="safe").load(PARAMS)
    prompts = values["rationales"]["prompts"]
    values["rationales"]["prompts"] = {name: str(ROOT / path) for name, path in prompts.items()}
    provided = {"source": "provided"}
    values["models"] = {"one": provided, "two": provided}
    values["models"]["tiny"] = {"source": "folder", "path": str(model)}
    values["datasets"] = {"balls": {"source": "files", "folder": str(folder / "balls")}}
    values |= {"teachers": ["one", "two"]}
    values["saliency"] |= {"of": "question", "teacher": "tiny", "dtype": "float32"}
    values["data"]["name"] = "balls"
    values["assemble"]["scorer"] = "tiny"
    values["student"] |= {"model": "tiny", "form": "branch", "direct": True, "dtype": "float32"}
    values["train"] |= {"epochs": 1, "batch_size": 4}
    values["evaluate"] |= {"max_tokens": 6, "reasoning_tokens": 12, "explained": 2}
    changes = {name.replace("__", "/"): value for name, value in changes.items()}
    parameters = load_parameters(write_values(folder, values, changes))
    shutil.copytree(model, folder / "models/tiny", dirs_exist_ok=True)
    run_stages(parameters)
    return Asker(parameters)


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda model, **changes: train_tiny(tmp_path, model, **changes)


@pytest.mark.parametrize("form", ["branch", "after_answer", "before_answer"])
def test_the_answers_and_scores_are_those_of_evaluate(train, family, form):
    asker = train(family, student__form=form)
    for row in tables.read_table(tables.PREDICTIONS):
        reply = asker.ask(row["question"], row["options"])
        columns = {"directly": "direct_", "after reasoning": ""}
        assert [way.name for way in reply.ways] == (
            ["after reasoning", "directly"] if form == "before_answer" else ["directly"]
        )
        for way in reply.ways:
            before = columns[way.name] if form == "before_answer" else ""
            assert way.answer == row[f"{before}prediction"]
            order = sorted(range(3), key=lambda n: row[f"{before}scores"][n])
            assert sorted(range(3), key=lambda n: way.shares[n]) == order
            assert sum(way.shares) == pytest.approx(1)
        if form == "before_answer":
            assert reply.ways[0].reasoning == row["reasoning"]


def test_a_student_that_reasons_always_is_not_asked_directly(train, tiny_model):
    asker = train(tiny_model, student__form="before_answer", student__direct=False)
    assert [way.name for way in asker.ask("Which colour?", ["red", "blue"]).ways] == [
        "after reasoning"
    ]


def test_what_was_taught_is_asked_for(train, tiny_model):
    reply = train(tiny_model, alpha={"one": 0.5, "two": 0}).ask("Where?", [])
    assert reply.words is not None
    assert set(reply.rationales) == {"one"}
    assert reply.ways[0].shares == []
    without = train(tiny_model, alpha=0, saliency__weight=0).ask("Where?", ["here", "there"])
    assert without.words is None
    assert without.rationales == {}
    assert len(without.ways[0].shares) == 2


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (" ", [], "the question is empty"),
        ("Who?", ["one"], "expected no options or 2 to 100, one per line, found 1"),
        ("Who?", ["he", "he "], "two options read the same"),
        ("Who?" * 20_000, [], "more than 50,000 characters"),
        ("Who?", ["x" * 3000, "y"], "more than the 1024 tokens"),
    ],
)
def test_what_cannot_be_asked_is_an_error_of_one_line(train, tiny_model, asked, options, message):
    asker = train(tiny_model)
    with pytest.raises(UserError, match=message):
        asker.ask(asked, options)
    shown = Page(asker).answer(asked, "\n".join(options))
    assert shown.startswith('<p class="no">')


def test_the_nearest_train_question_comes_with_all_that_teachers_wrote(train, tiny_model):
    train(tiny_model)
    lessons = Lessons(["one", "two"])
    lesson = lessons.nearest("Which colour has the train ball number 6?")
    assert (lesson.example.id, lesson.example.answer) == ("train-6", "red")
    assert lesson.rationales == [
        Rationale("one", "ok", "Ball 6 of train is red."),
        Rationale("two", "contradicts", "It must be blue."),
    ]
    assert lessons.nearest("and what of ball number 4?").example.id == "train-4"
    assert Lessons([]).nearest("ball number 4").rationales == []


def test_texts_are_escaped_and_a_test_question_says_what_is_right(train, tiny_model):
    page = Page(train(tiny_model))
    typed = page.answer("Which colour has the train ball number 7?", f"{EVIL}\nred")
    assert "<script" not in typed and "<img" not in typed
    assert typed.count("&lt;script&gt;") >= 2  # an option, and what a teacher wrote
    assert "right answer" not in typed
    asked, options, reply = page.pick(3)
    assert (options, reply) == ("red\ngreen\nblue", "")
    picked = page.answer(asked, options)
    assert "The right answer is <strong>red</strong>" in picked
    assert picked.count('class="yes"') + picked.count('class="no"') == 1
    assert page.pick(None) == ("", "", "")


def test_options_of_several_lines_stay_whole(train, tiny_model):
    page = Page(train(tiny_model))
    asked, options, _ = page.pick(2)
    assert options.count("\n") == 4
    assert page.answer(asked, options).count('<th scope="row">') == 3


def test_without_a_student_or_gradio_the_command_ends_with_one_line(train, tiny_model, monkeypatch):
    with pytest.raises(UserError, match="models/student: no trained student; `make repro`"):
        run()
    train(tiny_model)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="`make gradio` installs it"):
        run()
