"""The stage as it runs, against a server: resume, growth, samples, free reasoning, examples."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest

from stages.distil.storage import tables
from stages.distil.teachers.writer import GENERATIONS
from tests.conftest import ROOT, question, write_jsonl
from tests.openai_server import Teacher, refusal, serve

TRAIN, TEST = 60, 20


@pytest.fixture
def project(tmp_path, write_params, run_stage, monkeypatch):
    """A folder whose one teacher is a server; a function that sets it up and runs its stages."""
    monkeypatch.chdir(tmp_path)
    rows = {"validation": [question(0, "validation")], "test": []}
    rows["train"] = [question(n) for n in range(TRAIN)]
    rows["test"] = [question(n, "test") for n in range(TEST)]
    write_jsonl(tmp_path / "mine", **rows)

    def run(url: str, prepare: bool = True, code: int = 0, **changes):
        own = {
            "teachers": ["far"],
            "models/far": {"source": "server", "url": url, "model": "m", "in_flight": 4},
            "data/name": "mine",
            "datasets/mine": {"source": "files", "folder": "mine"},
            "rationales/num_examples": 2,
        }
        write_params(own | {name.replace("__", "/"): value for name, value in changes.items()})
        if prepare:
            assert run_stage("prepare").returncode == 0
        done = run_stage("rationales", "--teacher", "far")
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def table() -> list[dict]:
    return tables.read_table(tables.rationale_table("far"))


def train_prompts(teacher: Teacher) -> list[str]:
    last = [body["messages"][-1]["content"] for body in teacher.asked]
    return [text for text in last if "Correct answer" in text]


def test_the_table_holds_every_question_in_order_whatever_finishes_first(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url)
    rows = table()
    assert [row["id"] for row in rows] == [f"train-{n}" for n in range(TRAIN)] + [
        f"test-{n}" for n in range(TEST)
    ]
    for row in rows[:TRAIN]:
        number = int(row["id"].split("-")[1])
        assert row["rationale"].endswith(f"is {['red', 'green', 'blue'][number % 3]}.")
        assert (row["status"], row["answer"], row["sample"]) == ("ok", None, 0)
    assert all(row["answer"] in ("red", "green") for row in rows[TRAIN:])
    assert teacher.most_at_once <= 4


def test_a_killed_stage_goes_on_where_it_was_and_writes_the_same_bytes(project, tmp_path):
    """Twenty times kill -9, each at a moment drawn anew."""
    teacher = Teacher()
    moments = sorted(random.Random(0).sample(range(1, TRAIN + TEST - 4), 20))
    with serve(teacher) as url:
        project(url)
        whole = (tmp_path / tables.rationale_table("far")).read_bytes()
        (tmp_path / tables.rationale_table("far")).unlink()
        shutil.rmtree(tmp_path / GENERATIONS.parent)
        teacher.answered.clear()
        teacher.delay = 0.01
        command = [sys.executable, "-m", "stages.rationales", "--teacher", "far"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for moment in moments:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
            )
            while len(set(teacher.answered)) < moment:
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            process.wait()
            assert not tables.rationale_table("far").exists()
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / tables.rationale_table("far")).read_bytes() == whole
    times = Counter(teacher.answered)
    assert len(times) == TRAIN + TEST
    assert sum(count - 1 for count in times.values()) <= 4 * len(moments)  # those in flight


def test_a_larger_data_set_costs_its_new_questions_only(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, data__limit=40, rationales__examples="random")
        assert len(teacher.asked) == 40 + TEST
        done = project(url, data__limit=44, rationales__examples="random")
        assert len(teacher.asked) == 44 + TEST
        assert f"4 new, {40 + TEST} found" in done.stderr
        done = project(url, alpha=0.1, saliency__top_k=2)  # the other changes stay
        assert len(teacher.asked) == 44 + TEST
        assert "0 new" in done.stderr


def test_a_changed_prompt_is_asked_again(project, tmp_path):
    teacher = Teacher()
    mine = tmp_path / "mine.jinja"
    mine.write_text((ROOT / "stages/prompts/rationale.jinja").read_text())
    with serve(teacher) as url:
        project(url, rationales__prompts__rationale=str(mine))
        before = len(teacher.asked)
        mine.write_text(mine.read_text().replace("Explain", "Say"))
        project(url, prepare=False, rationales__prompts__rationale=str(mine))
    assert len(teacher.asked) == before + TRAIN
    assert teacher.asked[-1]["messages"][0]["content"].startswith("Say why")


def test_several_rationales_of_a_question(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, rationales__samples=3, rationales__temperature=0.8)
    rows = [row for row in table() if row["split"] == "train"]
    assert [row["sample"] for row in rows] == [0, 1, 2] * TRAIN
    assert len({row["rationale"] for row in rows}) == 3 * TRAIN
    assert len({body["seed"] for body in teacher.asked if body["temperature"]}) == 3


@pytest.mark.parametrize("on_bad", ["keep", "drop", "retry"])
def test_what_becomes_of_a_bad_rationale(project, on_bad):
    class Wrong(Teacher):
        def text(self, body):
            text = super().text(body)
            bad = "number 4?" in body["messages"][-1]["content"]
            return (
                "It is red or green, so blue or red." if bad and not body["temperature"] else text
            )

    teacher = Wrong()
    with serve(teacher) as url:
        project(url, rationales__on_bad=on_bad, datasets__mine__sizes={"test": 2})
    row = next(row for row in table() if row["id"] == "train-4")
    assert row["status"] == ("ok" if on_bad == "retry" else "contradicts")
    if on_bad == "keep":
        assert row["rationale"].startswith("It is red or green")
    elif on_bad == "drop":
        assert row["rationale"] is None
    hot = [body for body in teacher.asked if body["temperature"]]
    assert len(hot) == (1 if on_bad == "retry" else 0)


def test_without_teacher_forcing_the_teachers_own_answers_are_kept(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, rationales__teacher_forcing=False)
    assert not train_prompts(teacher)
    shown = teacher.asked[0]["messages"][2]
    assert shown["role"] == "assistant" and "\nAnswer: " in shown["content"]
    for row in table():
        assert row["answer"] in ("red", "green")
        if row["split"] == "train":
            assert row["rationale"].endswith("it follows.")
            gold = ["red", "green", "blue"][int(row["id"].split("-")[1]) % 3]
            assert row["status"] == ("ok" if row["answer"] == gold else "contradicts")


def test_examples_without_a_rationale_are_explained_by_the_teacher_itself(project, tmp_path):
    bare = [question(n, rationales={}) for n in range(TRAIN)]
    write_jsonl(tmp_path / "mine", train=bare)
    teacher = Teacher()
    with serve(teacher) as url:
        done = project(url, data__pool=8, rationales__examples="similar")
    alone = [body for body in teacher.asked if len(body["messages"]) == 2]
    assert len([b for b in alone if "Correct answer" in b["messages"][-1]["content"]]) == 8
    explained = [body for body in teacher.asked if len(body["messages"]) == 6]
    assert len(explained) == TRAIN
    assert all("it follows that" in body["messages"][2]["content"] for body in explained)
    assert "examples" in done.stderr


def test_a_failing_request_ends_the_stage_with_a_count_and_the_rest_is_kept(project):
    def fault(number, body):
        return refusal(500) if "ball number 7?" in body["messages"][-1]["content"] else None

    with serve(Teacher(fault)) as url:
        far = {"source": "server", "url": url, "model": "m", "tries": 1}
        done = project(url, code=1, models__far=far)
        assert "1 requests to" in done.stderr.splitlines()[-1]
        assert not tables.rationale_table("far").exists()
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, prepare=False)
    assert len(teacher.asked) == 1 + TEST
    assert len(table()) == TRAIN + TEST


def test_too_few_solved_examples_say_what_to_change(project, tmp_path):
    write_jsonl(tmp_path / "mine", train=[question(n) for n in range(2)])
    with serve(Teacher()) as url:
        done = project(url, code=1)
    assert "needs more than 2 solved questions" in done.stderr
    assert len(done.stderr.splitlines()) == 1
