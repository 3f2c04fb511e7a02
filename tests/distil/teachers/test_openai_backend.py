"""The OpenAI-compatible backend against a server with many kinds of failures."""

import json
import threading

import pytest

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.teachers import openai_backend as server
from stages.distil.teachers.backend import TOO_LONG, Request
from tests.openai_server import Teacher, refusal, serve

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def requests(count: int = 12) -> list[Request]:
    return [
        Request(Conversation("Be brief.", (), f"Question {n}\nCorrect answer: {n}", "So:"), 8)
        for n in range(count)
    ]


def run(url: str, count: int = 12, **changes) -> dict[str, str]:
    source = ServerModel(source="server", url=url, model="m", **{"tries": 3, **changes})
    done = server.Server("far", source).complete(iter(requests(count)))
    return {request.conversation.user: completion.text for request, completion in done}


def test_every_request_is_answered_with_bounded_concurrency():
    teacher = Teacher()
    teacher.delay = 0.02
    with serve(teacher) as url:
        texts = run(url, 40, in_flight=4)
    assert len(texts) == 40
    assert all(text.endswith(f"is {user.split()[-1]}.") for user, text in texts.items())
    assert teacher.most_at_once <= 4
    assert teacher.keys == {f"Bearer {KEY}"}
    assert teacher.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_base_model_gets_a_plain_text():
    teacher = Teacher()
    with serve(teacher) as url:
        assert len(run(url, 3, chat=False)) == 3
    prompts = sorted(body["prompt"] for body in teacher.requests)
    assert prompts[0] == "Be brief.\n\nQuestion 0\nCorrect answer: 0\nSo:"


def fail_first(*faults):
    """Answer the first requests of each question with these faults, later ones normally."""
    attempts: dict[str, int] = {}

    def fault(number, body):
        last = body["messages"][-1]["content"]
        attempts[last] = attempts.get(last, 0) + 1
        return faults[attempts[last] - 1] if attempts[last] <= len(faults) else None

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        refusal(429),
        refusal(429, Retry_After="0"),
        refusal(500),
        refusal(503),
        refusal(408),
        (200, b'{"choices": [', {}),
        (200, b'{"object": "else"}', {}),
        (200, b"<html>proxy</html>", {"Content-Type": "text/html"}),
    ],
)
def test_temporary_failures_are_retried(fault):
    teacher = Teacher(fail_first(fault))
    with serve(teacher) as url:
        assert len(run(url, 3)) == 3
    assert len(teacher.requests) == 6


def test_tries_limits_the_number_of_attempts():
    teacher = Teacher(lambda number, body: refusal(503, Retry_After="0.01"))
    with serve(teacher) as url, pytest.raises(UserError, match="failed after 4 tries each"):
        run(url, 2, tries=4)
    assert len(teacher.requests) == 2 * 4


def test_a_request_that_keeps_failing_is_skipped_and_counted():
    def fault(number, body):
        return refusal(500) if body["messages"][-1]["content"].startswith("Question 5") else None

    teacher = Teacher(fault)
    done = []
    with serve(teacher) as url:
        source = ServerModel(source="server", url=url, model="m", tries=3)
        with pytest.raises(UserError) as error:
            for request, _ in server.Server("far", source).complete(requests()):
                done.append(request)
    assert len(done) == 11
    assert "models.far: 1 request to" in str(error.value)
    assert "failed after 3 tries each, 11 were completed and are kept" in str(error.value)
    assert "HTTP 500 no" in str(error.value)
    assert len(teacher.requests) == 11 + 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(401, f"wrong key {KEY}"), "set the environment variable OPENAI_API_KEY"),
        (refusal(403), "may not use this model"),
        (refusal(404), "models.far.url ends as the server expects"),
        (refusal(400, "Use 'max_completion_tokens'"), "set models.far.max_completion_tokens,"),
        (refusal(400, "temperature is not a number"), "HTTP 400 temperature is not a number"),
        (refusal(400, "'temperature' does not support 0"), "models.far.temperature to false"),
        (refusal(400, "the prompt is no text"), "check the server's log and models.far"),
    ],
)
def test_a_permanent_refusal_ends_the_run_without_showing_the_key(fault, message):
    teacher = Teacher(lambda number, body: fault)
    with serve(teacher) as url, pytest.raises(UserError) as error:
        run(url, 100, in_flight=4)
    assert message in str(error.value)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(teacher.requests) < 20


def test_a_limit_that_the_server_does_not_know_is_to_be_removed():
    teacher = Teacher(lambda number, body: refusal(400, "unknown: max_completion_tokens"))
    with serve(teacher) as url, pytest.raises(UserError, match="remove models.far.max_completion"):
        run(url, max_completion_tokens=9)


def reply(content, **message) -> tuple[int, bytes, dict[str, str]]:
    choice = {"index": 0, "finish_reason": "stop"}
    choice["message"] = {"role": "assistant", "content": content} | message
    return 200, json.dumps({"id": "1", "object": "x", "choices": [choice]}).encode(), {}


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Milk?"}]},
    {"type": "text", "text": "It is tea."},
]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("tea \ud83d", "tea \ufffd"),
        ("tea \U0001f375", "tea \U0001f375"),
        (None, ""),
        ([], ""),
        (PARTS, "<think>\nMilk?\n</think>\n\nIt is tea."),
        (PARTS[:1], "<think>\nMilk?"),
        (PARTS[1:], "It is tea."),
    ],
)
def test_any_content_of_a_reply_is_a_text(content, text):
    with serve(Teacher(lambda number, body: reply(content))) as url:
        assert set(run(url, 1).values()) == {text}


def test_the_servers_own_reason_is_told():
    body = json.dumps({"error": {"message": "quota exceeded"}}).encode()
    with serve(Teacher(lambda number, _: (200, body, {}))) as url:
        with pytest.raises(UserError, match="not a completion .*quota exceeded"):
            run(url, 20, tries=1)


@pytest.mark.parametrize("sent", [True, False])
def test_the_temperature_can_be_left_to_the_server(sent):
    teacher = Teacher()
    with serve(teacher) as url:
        run(url, 1, temperature=sent)
    assert ("temperature" in teacher.requests[0]) is sent


def test_a_prompt_beyond_the_context_is_not_an_error():
    message = "This model's maximum context length is 16 tokens. However, you requested 20."

    with serve(Teacher(lambda n, b: refusal(400, message) if n == 1 else None)) as url:
        source = ServerModel(source="server", url=url, model="m")
        done = [c for _, c in server.Server("far", source).complete(requests())]
    assert [completion.finish_reason for completion in done].count(TOO_LONG) == 1


def test_a_timeout_is_retried():
    finished = threading.Event()

    def stuck(number, body):
        if number == 0:
            finished.wait()
        return None

    teacher = Teacher(stuck)
    with serve(teacher) as url:
        assert len(run(url, 2, timeout=0.5, tries=50)) == 2
        finished.set()
    assert len(teacher.requests) >= 3


def test_an_unreachable_server_is_named():
    with pytest.raises(UserError) as error:
        run("http://127.0.0.1:9/v1", 100)
    assert "no connection to http://127.0.0.1:9/v1" in str(error.value)
    assert f"{server.FAILED_IN_A_ROW} requests" in str(error.value)


def test_several_servers_share_the_requests():
    first, second = Teacher(), Teacher()
    first.delay = second.delay = 0.02
    with serve(first) as one, serve(second) as two:
        texts = run([one, two], 40, in_flight=3)
    assert set(texts) == {request.conversation.user for request in requests(40)}
    assert len(first.requests) + len(second.requests) == 40
    assert min(len(first.requests), len(second.requests)) > 10
    assert max(first.most_at_once, second.most_at_once) <= 3


def test_a_server_that_dies_hands_its_requests_to_the_others(capsys):
    living, dying = Teacher(), Teacher()

    def die(number, body):
        dying.gone = number >= 5
        return None

    dying.fault = die
    living.delay = 0.01
    with serve(living) as one, serve(dying) as two:
        texts = run([two, one], 120, in_flight=4, tries=1)
    assert len(texts) == 120
    assert all(text.endswith(f"is {user.split()[-1]}.") for user, text in texts.items())
    told = capsys.readouterr().err
    assert told.count(f"far: {two} gets no more requests, 16 failed in a row") == 1


def test_without_a_living_server_the_run_ends(capsys):
    with serve(Teacher()) as url:
        pass  # it ends
    with pytest.raises(UserError, match="requests to http://.* and http://.*:9/v1 failed") as error:
        run([url, "http://127.0.0.1:9/v1"], 100, tries=1)
    assert "0 were completed" in str(error.value)


def test_a_request_that_every_server_refuses_for_a_while_is_counted_once():
    def fault(number, body):
        last = body["messages"][-1]["content"]
        return refusal(500) if last.startswith("Question 7\n") else None

    done = []
    with serve(Teacher(fault)) as one, serve(Teacher(fault)) as two:
        source = ServerModel(source="server", url=[one, two], model="m", tries=1)
        with pytest.raises(UserError, match="models.far: 1 request to .* 11 were completed"):
            done.extend(server.Server("far", source).complete(requests(12)))


def test_completions_before_a_server_dies_are_kept():
    teacher = Teacher()
    done = []
    with pytest.raises(UserError, match="10 were completed and are kept") as error:
        with serve(teacher) as url:
            source = ServerModel(source="server", url=url, model="m", tries=2, in_flight=1)
            stream = server.Server("far", source).complete(requests(100))
            for _ in range(10):
                done.append(next(stream))
        done += list(stream)
    assert len(done) == 10
    assert "no connection" in str(error.value)
