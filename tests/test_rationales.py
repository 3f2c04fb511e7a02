"""The stage `rationales` against a server: resuming, growth, samples, reasoning, examples."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest

from stages.distil.interface.parameters import load_parameters
from stages.distil.storage import tables
from stages.distil.teachers.writer import GENERATIONS
from stages.prepare import prepare
from stages.rationales import rationales
from tests.conftest import ROOT, question, write_jsonl
from tests.openai_server import Teacher, refusal, serve

TRAIN, TEST = 60, 20


@pytest.fixture
def project(tmp_path, write_params, run_stage, monkeypatch):
    """A function that sets up a project whose teacher is a server and runs its stages."""
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
    last = [body["messages"][-1]["content"] for body in teacher.requests]
    return [text for text in last if "Correct answer" in text]


def test_the_table_has_every_question_in_order(project):
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


@pytest.mark.slow
def test_a_killed_stage_resumes_and_writes_identical_bytes(project, tmp_path):
    """The stage is killed with SIGKILL at twenty random moments."""
    teacher = Teacher()
    moments = sorted(random.Random(0).sample(range(1, TRAIN + TEST - 4), 20))
    with serve(teacher) as url:
        project(url)
        uninterrupted = (tmp_path / tables.rationale_table("far")).read_bytes()
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
    assert (tmp_path / tables.rationale_table("far")).read_bytes() == uninterrupted
    counts = Counter(teacher.answered)
    assert len(counts) == TRAIN + TEST
    assert sum(count - 1 for count in counts.values()) <= 4 * len(moments)  # in flight


def test_a_published_rationale_that_stops_in_mid_sentence_is_truncated(
    tmp_path, write_params, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    texts = ["It is so. It is red.", "It is so. It is bl", "It is so, so blue", "It is", " "]
    rows = [question(n, answer="red", rationales={"human": t}) for n, t in enumerate(texts)]
    others = {split: [question(0, split)] for split in ("validation", "test")}
    write_jsonl(tmp_path / "mine", train=rows, **others)
    source = {"source": "files", "folder": "mine"}
    parameters = load_parameters(write_params({"data/name": "mine", "datasets/mine": source}))
    prepare(parameters)
    rationales(parameters, "human")
    rows = tables.read_table(tables.rationale_table("human"))
    assert [(row["rationale"], row["status"]) for row in rows] == [
        (texts[0], "ok"),
        ("It is so.", "truncated"),
        (texts[2], "contradicts"),
        (texts[3], "inconclusive"),
        ("", "empty"),
    ]
    assert "1 truncated" in capsys.readouterr().out


@pytest.mark.parametrize("paths", [None, ["first", "second"]])
def test_a_data_set_may_hold_several_rationales_of_a_teacher(
    tmp_path, write_params, monkeypatch, paths
):
    monkeypatch.chdir(tmp_path)
    listed = [["It is red.", None, "So it is red."], ["It is red."], []]
    if paths:
        listed.pop()  # a row needs one of the fields that are named
    rows = []
    for n, texts in enumerate(listed):
        row = question(n, answer="red")
        row.pop("rationales", None)
        pair = dict(zip(["first", "second"], [t for t in texts if t], strict=False))
        rows.append(row | (pair if paths else {"rationales": {"human": texts}}))
    others = {split: [question(0, split)] for split in ("validation", "test")}
    write_jsonl(tmp_path / "mine", train=rows, **others)
    source = {"source": "files", "folder": "mine"}
    source |= {"fields": {"rationales": {"human": paths}}} if paths else {}
    parameters = load_parameters(write_params({"data/name": "mine", "datasets/mine": source}))
    prepare(parameters)
    rationales(parameters, "human")
    rows = tables.read_table(tables.rationale_table("human"))
    assert [(row["sample"], row["rationale"], row["status"]) for row in rows] == [
        (0, "It is red.", "ok"),
        (1, "So it is red.", "ok"),
        (0, "It is red.", "ok"),
        *([] if paths else [(0, "", "empty")]),
    ]


@pytest.mark.parametrize("conclude", [False, {"human": False}, {"other": False}, True])
def test_a_data_sets_rationales_need_not_conclude(tmp_path, write_params, monkeypatch, conclude):
    monkeypatch.chdir(tmp_path)
    texts = ["It is red.", "It shines like a rose.", "The sky is blue.", "The answer is blue."]
    rows = [question(n, answer="red", rationales={"human": t}) for n, t in enumerate(texts)]
    others = {split: [question(0, split)] for split in ("validation", "test")}
    write_jsonl(tmp_path / "mine", train=rows, **others)
    source = {"source": "files", "folder": "mine", "conclude": conclude}
    parameters = load_parameters(write_params({"data/name": "mine", "datasets/mine": source}))
    prepare(parameters)
    rationales(parameters, "human")
    rows = tables.read_table(tables.rationale_table("human"))
    free = conclude in (False, {"human": False})
    named = ["ok", "ok"] if free else ["inconclusive", "contradicts"]
    statuses = ["ok", *named, "contradicts"]
    assert [row["status"] for row in rows] == statuses


def test_a_larger_data_set_requests_only_new_questions(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, data__limit=40, rationales__examples="random")
        assert len(teacher.requests) == 40 + TEST
        done = project(url, data__limit=44, rationales__examples="random")
        assert len(teacher.requests) == 44 + TEST
        assert f"4 new, {40 + TEST} found" in done.stderr
        done = project(url, alpha=0.1, saliency__top_k=2)  # the earlier changes still apply
        assert len(teacher.requests) == 44 + TEST
        assert "0 new" in done.stderr


def test_a_changed_prompt_is_requested_again(project, tmp_path):
    teacher = Teacher()
    mine = tmp_path / "mine.jinja"
    mine.write_text((ROOT / "stages/prompts/rationale.jinja").read_text())
    with serve(teacher) as url:
        project(url, rationales__prompts__rationale=str(mine))
        before = len(teacher.requests)
        mine.write_text(mine.read_text().replace("Explain", "Say"))
        project(url, prepare=False, rationales__prompts__rationale=str(mine))
    assert len(teacher.requests) == before + TRAIN
    assert teacher.requests[-1]["messages"][0]["content"].startswith("Say why")


def test_a_question_can_have_several_rationales(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, rationales__samples=3, rationales__temperature=0.8)
    rows = [row for row in table() if row["split"] == "train"]
    assert [row["sample"] for row in rows] == [0, 1, 2] * TRAIN
    assert len({row["rationale"] for row in rows}) == 3 * TRAIN


def test_every_question_sample_and_attempt_is_drawn_with_a_seed_of_its_own(project, tmp_path):
    class Empty(Teacher):
        def text(self, body):
            return "" if body["temperature"] else super().text(body)

    def seeds(**rows) -> dict[str, list[int]]:
        write_jsonl(tmp_path / "mine", **rows)
        teacher = Empty()
        with serve(teacher) as url:
            project(
                url,
                rationales__samples=2,
                rationales__temperature=0.8,
                rationales__on_bad="retry",
                rationales__retries=2,
            )
        shutil.rmtree(GENERATIONS.parent)
        drawn: dict[str, list[int]] = {}
        for body in teacher.requests:
            if body["temperature"]:
                asked = body["messages"][-1]["content"]
                drawn.setdefault(asked, []).append(body["seed"])
        return {asked: sorted(values) for asked, values in drawn.items()}

    rows = [question(n) for n in range(TRAIN)]
    of_all = seeds(train=rows)
    assert len(of_all) == TRAIN
    different = {seed for values in of_all.values() for seed in values}
    assert len(different) == TRAIN * 2 * 3, "two texts were drawn with the same noise"
    shown = rows[:8]  # the solved examples come from the start of the data
    of_some = seeds(train=shown + rows[:7:-2])
    common = of_some.keys() & of_all.keys()
    assert len(common) >= TRAIN // 2
    for asked in common:
        assert of_some[asked] == of_all[asked], "neither the order nor the others count"


@pytest.mark.parametrize("on_bad", ["keep", "retry"])
def test_on_bad_decides_about_a_bad_rationale(project, on_bad):
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
    hot = [body for body in teacher.requests if body["temperature"]]
    assert len(hot) == (1 if on_bad == "retry" else 0)


def test_without_teacher_forcing_the_teachers_own_answers_are_kept(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, rationales__teacher_forcing=False)
    assert not train_prompts(teacher)
    shown = teacher.requests[0]["messages"][2]
    assert shown["role"] == "assistant" and "\nAnswer: " in shown["content"]
    for row in table():
        assert row["answer"] in ("red", "green")
        if row["split"] == "train":
            assert row["rationale"].endswith("it follows.")
            gold = ["red", "green", "blue"][int(row["id"].split("-")[1]) % 3]
            assert row["status"] == ("ok" if row["answer"] == gold else "contradicts")


def test_where_a_teachers_labels_are_taught_its_gate_does_not_see_the_gold_answers(project):
    teacher = Teacher()
    own = {"rationales__teacher_forcing": False, "rationales__on_bad": "retry"}
    with serve(teacher) as url:
        project(url, assemble__labels="far", saliency__weight=0, **own)
    rows = [row for row in table() if row["split"] == "train"]
    gold = [["red", "green", "blue"][n % 3] for n in range(TRAIN)]
    assert any(row["answer"] != answer for row, answer in zip(rows, gold, strict=True))
    assert {row["status"] for row in rows} == {"ok"}
    assert not any(body["temperature"] for body in teacher.requests), "nothing was asked again"


@pytest.mark.parametrize("own", [True, False])
def test_the_teacher_explains_examples_without_a_rationale_or_all_if_asked(project, tmp_path, own):
    changes = {"rationales__example_rationales": "teacher"} if own else {}
    if not own:
        bare = [question(n, rationales={}) for n in range(TRAIN)]
        write_jsonl(tmp_path / "mine", train=bare)
    teacher = Teacher()
    with serve(teacher) as url:
        done = project(url, data__pool=8, rationales__examples="similar", **changes)
    alone = [body for body in teacher.requests if len(body["messages"]) == 2]
    assert len([b for b in alone if "Correct answer" in b["messages"][-1]["content"]]) == 8
    explained = [body for body in teacher.requests if len(body["messages"]) == 6]
    assert len(explained) == TRAIN
    assert all("it follows that" in body["messages"][2]["content"] for body in explained)
    assert "examples" in done.stderr


def test_a_failing_request_ends_the_stage_but_completions_are_kept(project):
    def fault(number, body):
        return refusal(500) if "ball number 7?" in body["messages"][-1]["content"] else None

    with serve(Teacher(fault)) as url:
        far = {"source": "server", "url": url, "model": "m", "tries": 1}
        done = project(url, code=1, models__far=far)
        assert "1 request to" in done.stderr.splitlines()[-1]
        assert not tables.rationale_table("far").exists()
    teacher = Teacher()
    with serve(teacher) as url:
        project(url, prepare=False)
    assert len(teacher.requests) == 1 + TEST
    assert len(table()) == TRAIN + TEST


def test_a_reply_ends_before_the_question_that_the_teacher_invents_next(project):
    def fault(number, body):
        if "train ball number 7?" not in body["messages"][-1]["content"]:
            return None
        text = "So it is green.\n\nQuestion: Which colour has the sk"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        return 200, json.dumps({"choices": [choice]}).encode(), {}

    with serve(Teacher(fault)) as url:
        project(url)
    row = next(row for row in table() if row["id"] == "train-7")
    assert (row["rationale"], row["status"]) == ("So it is green.", "ok")


BAD_MINUTES = {
    "filter": ({"content": None}, "content_filter", "empty"),
    "refusal": ({"content": None, "refusal": "I cannot help with that."}, "stop", "empty"),
    "overload": ({"content": ""}, "stop", "empty"),
    "cut": ({"content": "It is so. It is gr"}, "content_filter", "truncated"),
}


@pytest.mark.parametrize("kind", BAD_MINUTES)
def test_a_bad_minute_of_a_server_is_not_kept(project, kind):
    """A reply without a whole text is asked for again in the next run, and only that."""
    message, reason, status = BAD_MINUTES[kind]

    def fault(number, body):
        if "ball number 7?" not in body["messages"][-1]["content"]:
            return None
        choice = {"message": {"role": "assistant"} | message, "finish_reason": reason}
        return 200, json.dumps({"choices": [choice]}).encode(), {}

    with serve(Teacher(fault)) as url:
        done = project(url)
        row = next(row for row in table() if row["id"] == "train-7")
        assert (row["status"], row["finish_reason"]) == (status, reason)
        assert row["rationale"] == ("It is so." if kind == "cut" else "")
        assert "dvc repro --force --single-item rationales@far` asks again" in done.stdout
    teacher = Teacher()
    with serve(teacher) as url:
        done = project(url, prepare=False)
    assert {"ball number 7?" in body["messages"][-1]["content"] for body in teacher.requests} == {
        True
    }
    assert {row["status"] for row in table() if row["split"] == "train"} == {"ok"}
    assert "asks again" not in done.stdout


def test_two_servers_with_a_model_of_one_name_each_write_their_own_texts(project):
    first, second = Teacher(), Teacher()
    with serve(first) as one, serve(second) as two:
        project(one)
        far = {"source": "server", "url": two, "model": "m"}
        again = project(one, prepare=False, models__far=far | {"url": one, "identity": "other"})
        assert "0 found" in again.stderr
        near = {"source": "server", "url": two, "model": "m"}
        refused = project(one, prepare=False, code=1, models__near=near)
        assert "models.near.identity" in refused.stderr and len(refused.stderr.splitlines()) == 1
        project(one, prepare=False, models__near=near | {"identity": "near"})
    assert not second.requests


def test_too_few_solved_examples_are_reported(project, tmp_path):
    write_jsonl(tmp_path / "mine", train=[question(n) for n in range(2)])
    with serve(Teacher()) as url:
        done = project(url, code=1)
    assert "needs more than 2 solved questions" in done.stderr
    assert len(done.stderr.splitlines()) == 1


THOUGHT = "Maybe it is green. No."


def thinking(number, body):
    """Reply after a thought: in the text, in a field of its own, or cut off."""
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    gold = re.findall(r"Correct answer: (.*)", body["messages"][-1]["content"])
    reply = f"So it is {gold[-1]}." if gold else "red"
    kind = body["model"]
    message = {
        "tagged": {"content": f"<think>\n{THOUGHT}\n</think>\n\n{reply}"},
        "closed": {"content": f"{THOUGHT}\n</think>\n\n{reply}"},
        "field": {"content": reply, "reasoning_content": THOUGHT},
        "cut": {"content": None, "reasoning": THOUGHT},
    }[kind]
    choice = {
        "index": 0,
        "finish_reason": "length" if kind == "cut" else "stop",
        "message": {"role": "assistant"} | message,
    }
    answer = {"id": "1", "object": "chat.completion", "created": 0, "model": kind}
    usage = {"prompt_tokens": 9, "completion_tokens": limit, "total_tokens": 9 + limit}
    return 200, json.dumps(answer | {"choices": [choice], "usage": usage}).encode(), {}


@pytest.mark.parametrize("kind", ["tagged", "closed", "field"])
def test_a_thought_is_dropped_or_becomes_the_rationale(project, kind):
    with serve(Teacher(thinking)) as url:
        settings = {"models__far__model": kind, "rationales__examples": "none"}
        project(url, **settings)
        rows = table()
        assert all(re.fullmatch("So it is [a-z]+[.]", row["rationale"]) for row in rows[:TRAIN])
        assert {row["status"] for row in rows if row["split"] == "train"} == {"ok"}
        assert {row["answer"] for row in rows if row["split"] == "test"} == {"red"}
        project(url, **settings, rationales__thinking="rationale")
        train = [row for row in table() if row["split"] == "train"]
        assert {row["rationale"] for row in train} == {THOUGHT}
        assert {row["status"] for row in train} == {"ok"}  # by what the reply concludes


def test_a_thought_that_was_cut_off_is_truncated_and_empty_answers_are_counted(project):
    with serve(Teacher(thinking)) as url:
        done = project(url, models__far__model="cut", rationales__examples="none")
    assert {row["status"] for row in table() if row["split"] == "train"} == {"truncated"}
    assert {row["rationale"] for row in table() if row["split"] == "train"} == {""}
    assert f"far: {TEST} of {TEST} test answers are empty" in done.stdout
    assert "models.far.max_completion_tokens" in done.stdout


def test_a_limit_and_template_variables_of_the_model_are_sent(project):
    teacher = Teacher()
    with serve(teacher) as url:
        project(
            url,
            models__far__max_completion_tokens=900,
            models__far__chat_template_kwargs={"enable_thinking": False},
            rationales__examples="none",
        )
    assert {body.get("max_completion_tokens") for body in teacher.requests} == {900}
    assert not any("max_tokens" in body for body in teacher.requests)
    assert {str(body["chat_template_kwargs"]) for body in teacher.requests} == {
        "{'enable_thinking': False}"
    }
