"""The OpenAI-compatible backend against a server that fails in every way."""

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from stages.distil.conversations import Conversation
from stages.distil.errors import UserError
from stages.distil.parameters import ServerModel
from stages.distil.teachers import TOO_LONG, Request, server
from tests.openai_server import Teacher, refusal, serve

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(server, "FIRST_WAIT", 0.01)
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


def test_every_request_is_answered_a_bounded_number_at_once():
    teacher = Teacher()
    teacher.delay = 0.02
    with serve(teacher) as url:
        texts = run(url, 40, in_flight=4)
    assert len(texts) == 40
    assert all(text.endswith(f"is {user.split()[-1]}.") for user, text in texts.items())
    assert teacher.most_at_once <= 4
    assert teacher.keys == {f"Bearer {KEY}"}
    assert teacher.asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_base_model_gets_a_plain_text():
    teacher = Teacher()
    with serve(teacher) as url:
        assert len(run(url, 3, chat=False)) == 3
    prompts = sorted(body["prompt"] for body in teacher.asked)
    assert prompts[0] == "Be brief.\n\nQuestion 0\nCorrect answer: 0\nSo:"


def once(*faults):
    """Answer each question's first requests with these faults, then as usual."""
    met: dict[str, int] = {}

    def fault(number, body):
        last = body["messages"][-1]["content"]
        met[last] = met.get(last, 0) + 1
        return faults[met[last] - 1] if met[last] <= len(faults) else None

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
def test_what_may_pass_is_tried_again(fault):
    teacher = Teacher(once(fault))
    with serve(teacher) as url:
        assert len(run(url, 3)) == 3
    assert len(teacher.asked) == 6


def test_retry_after_is_respected_in_seconds_and_as_a_date(monkeypatch, capsys):
    """No clock is waited for: the pauses that would be made are looked at."""
    pauses = []
    monkeypatch.setattr(
        server.tenacity, "sleep_using_event", lambda event: lambda seconds: pauses.append(seconds)
    )
    with serve(Teacher(once(refusal(429, Retry_After="17"), refusal(503)))) as url:
        assert len(run(url, 1)) == 1
    assert pauses[0] == 17
    assert "models.far: HTTP 429 no; trying again in 17 s" in capsys.readouterr().err
    assert 0 < pauses[1] < 1
    pauses.clear()
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=3600), usegmt=True)
    with serve(Teacher(once(refusal(429, Retry_After=later)))) as url:
        assert len(run(url, 1)) == 1
    assert 3000 < pauses[0] <= 3600


def test_pauses_grow():
    pauses = []
    for attempt in range(1, 6):
        state = server.tenacity.RetryCallState(None, None, (), {})
        state.attempt_number = attempt
        pauses.append(server._pause(state))
    assert all(0.01 * 2**n <= pause <= 0.01 * 2**n + 0.01 for n, pause in enumerate(pauses))


def test_a_request_that_keeps_failing_is_set_aside_and_counted():
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
    assert "models.far: 1 requests to" in str(error.value)
    assert "failed after 3 tries each, 11 were completed and are kept" in str(error.value)
    assert "HTTP 500 no" in str(error.value)
    assert len(teacher.asked) == 11 + 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (refusal(401, f"wrong key {KEY}"), "set the environment variable OPENAI_API_KEY"),
        (refusal(403), "may not use this model"),
        (refusal(404), "models.far.url ends as the server's does"),
        (refusal(400, "temperature is no number"), "HTTP 400 temperature is no number"),
    ],
)
def test_a_refusal_that_stays_ends_the_run_at_once_without_the_key(fault, message):
    teacher = Teacher(lambda number, body: fault)
    with serve(teacher) as url, pytest.raises(UserError) as error:
        run(url, 100, in_flight=4)
    assert message in str(error.value)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(teacher.asked) < 20


def test_a_prompt_beyond_the_context_is_no_error():
    message = "This model's maximum context length is 16 tokens. However, you requested 20."

    with serve(Teacher(lambda n, b: refusal(400, message) if n == 1 else None)) as url:
        source = ServerModel(source="server", url=url, model="m")
        done = [c for _, c in server.Server("far", source).complete(requests())]
    assert [completion.finish_reason for completion in done].count(TOO_LONG) == 1


def test_an_answer_that_does_not_come_in_time_is_tried_again():
    over = threading.Event()

    def stuck(number, body):
        if number == 0:
            over.wait()
        return None

    teacher = Teacher(stuck)
    with serve(teacher) as url:
        assert len(run(url, 2, timeout=0.5, tries=50)) == 2
        over.set()
    assert len(teacher.asked) >= 3


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(UserError) as error:
        run("http://127.0.0.1:9/v1", 100)
    assert "no connection to http://127.0.0.1:9/v1" in str(error.value)
    assert f"{server.FAILED_IN_A_ROW} requests" in str(error.value)


def test_a_server_that_dies_keeps_what_was_finished():
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
