"""The OpenAI-compatible backend against a server with many kinds of failures."""

import dataclasses
import gzip
import json
import socket
import threading
import traceback

import pytest

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.language.quality import TOO_LONG
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.teachers import openai_backend as server
from stages.distil.teachers import openai_client, openai_transport, pace
from stages.distil.teachers.backend import Request
from tests.openai_server import Fault, Teacher, refusal, serve

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def no_pauses(monkeypatch):
    """Let no request wait for another try, nor for a server that limits the rate."""
    monkeypatch.setattr(openai_client, "LONGEST_PAUSE", 0)
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(pace, "LONGEST_OWN_WAIT", 0.001)
    monkeypatch.setattr(pace, "LONGEST_WAIT", 0.1)


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


def test_tries_limits_the_number_of_attempts(no_pauses):
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


def test_completions_before_a_server_dies_are_kept(no_pauses):
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


def elsewhere(status: int, location: str) -> Fault:
    return status, b"", {"Location": location}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_prompts_and_key_are_not_sent_to_another_host(status):
    other = Teacher()
    with serve(other) as far:
        target = far.replace("127.0.0.1", "localhost") + "/chat/completions"
        teacher = Teacher(lambda number, body: elsewhere(status, target))
        with serve(teacher) as url, pytest.raises(UserError, match="redirects .*not followed"):
            run(url)
        port = Teacher(lambda number, body: elsewhere(status, f"{far}/chat/completions"))
        with serve(port) as url, pytest.raises(UserError, match="redirects .*not followed"):
            run(url)
    assert not other.requests


@pytest.mark.parametrize("location", ["file:///etc/passwd", "//[bad", "https:", "ftp://x/", ""])
def test_a_redirect_to_anything_else_is_one_line(location):
    teacher = Teacher(lambda number, body: elsewhere(307, location))
    with serve(teacher) as url, pytest.raises(UserError, match="models.far") as error:
        run(url, tries=1)
    assert "\n" not in str(error.value)


def test_a_redirect_on_the_same_server_is_followed_but_not_in_a_loop():
    teacher = Teacher(lambda n, body: elsewhere(308, "/v1/chat/completions") if n == 0 else None)
    with serve(teacher) as url:
        assert len(run(url, 1)) == 1
    assert teacher.requests[0] == teacher.requests[1]
    teacher = Teacher(lambda n, body: elsewhere(307, "/v1/chat/completions"))
    with serve(teacher) as url, pytest.raises(UserError, match="redirects in a loop"):
        run(url, 1)
    assert len(teacher.requests) == 1 + openai_transport.MOST_REDIRECTS


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 418, 429, 500])
@pytest.mark.parametrize("padding", [0, 270, 290, 70_000])
def test_no_error_shows_the_key_not_even_its_traceback(status, padding, capsys, no_pauses):
    """The message that is printed, and what --debug prints: all exceptions and their texts."""
    message = f"{'x' * padding} {KEY} {KEY[3:]} {KEY[:9]}"
    bodies = [
        json.dumps({"error": {"message": message}}).encode(),
        message.encode(),
        b"[" + KEY.encode(),
    ]
    for body in bodies:
        headers = {"Retry-After": KEY, "Content-Type": KEY}
        with serve(
            Teacher(lambda number, _, body=body, headers=headers: (status, body, headers))
        ) as url:
            with pytest.raises(UserError) as error:
                run(url, 1, tries=2)
        printed = "".join(traceback.format_exception(error.value)) + "".join(capsys.readouterr())
        assert "secret" not in printed.replace("test_", "")
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_reply_is_bounded_in_size_also_after_decompression(no_pauses):
    bomb = gzip.compress(b" " * (2 * openai_transport.LONGEST_REPLY))
    for body, headers in [
        (b" " * (openai_transport.LONGEST_REPLY + 1), {}),
        (bomb, {"Content-Encoding": "gzip"}),
    ]:
        with serve(Teacher(lambda number, _, fault=(200, body, headers): fault)) as url:
            with pytest.raises(UserError, match="longer than 4 MiB"):
                run(url, 1, tries=1)


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        (b"no gzip", "gzip", "not gzip"),
        (gzip.compress(b"{}" * 100)[:-9], "gzip", "in the middle of its gzip"),
        (b"", "br", "an encoding that was not asked for"),
        (b"", "gzip, gzip", "an encoding that was not asked for"),
    ],
)
def test_a_damaged_encoding_is_named(body, encoding, reason, no_pauses):
    fault = (200, body, {"Content-Encoding": encoding})
    with serve(Teacher(lambda number, _: fault)) as url, pytest.raises(UserError, match=reason):
        run(url, 1, tries=1)


def test_a_compressed_reply_is_read():
    body = reply("It is tea.")[1]
    fault = (200, gzip.compress(body), {"Content-Encoding": "gzip"})
    with serve(Teacher(lambda number, _: fault)) as url:
        assert set(run(url, 1).values()) == {"It is tea."}


def test_the_time_limit_is_for_the_whole_reply():
    """A server that sends a byte now and then is given up like one that sends none."""
    ended = threading.Event()

    def drip(connection):
        connection.recv(2**16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not ended.wait(0.05):
            connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=r"no whole answer in 0.3 s \(models.far.timeout\)"):
            run(url, 1, timeout=0.3, tries=1)
        ended.set()


def test_what_a_server_asks_is_waited_for_and_told(capsys):
    teacher = Teacher(
        lambda n, body: refusal(429, "slow down", Retry_After="0.6") if n < 3 else None
    )
    with serve(teacher) as url:
        assert len(run(url, 12, in_flight=4)) == 12
    told = capsys.readouterr().err
    assert "limits the requests; waiting 0.6 s, then sending at most 2 at once" in told
    assert "a lower models.far.in_flight" in told and "HTTP 429 slow down" in told


def test_a_limit_of_the_rate_loses_no_request(monkeypatch):
    """Twice as many refusals as `tries`: the server's limit is no failure of a request."""
    monkeypatch.setattr(pace, "FIRST_WAIT", 0.001)
    with serve(Teacher(lambda n, body: refusal(429) if n % 3 else None)) as url:
        assert len(run(url, 30, in_flight=8, tries=1)) == 30


def test_a_wait_beyond_the_bound_ends_the_run_with_what_the_server_asks():
    teacher = Teacher(lambda number, body: refusal(429, Retry_After="3600"))
    with serve(teacher) as url, pytest.raises(UserError) as error:
        run(url, 100, in_flight=4)
    assert "asks to wait 3600 s" in str(error.value) and "at most 300 s" in str(error.value)
    assert "models.far.in_flight" in str(error.value) and "tries" not in str(error.value)
    assert len(teacher.requests) <= 4


def test_a_request_that_is_always_over_the_limit_is_given_up(no_pauses):
    def fault(number, body):
        return refusal(429) if body["messages"][-1]["content"].startswith("Question 5\n") else None

    teacher = Teacher(fault)
    with serve(teacher) as url, pytest.raises(UserError, match="1 request to .*20 times: HTTP 429"):
        run(url, 12)
    assert len(teacher.requests) == 11 + openai_client.MOST_REFUSALS_FOR_RATE


def test_a_used_up_account_is_not_asked_again():
    fault = refusal(429, "You exceeded your current quota (insufficient_quota)")
    teacher = Teacher(lambda number, body: fault)
    with serve(teacher) as url, pytest.raises(UserError, match="OPENAI_API_KEY is used up"):
        run(url, 100, in_flight=4)
    assert len(teacher.requests) <= 4


def test_a_prompt_that_only_is_refused_is_set_aside_and_told(capsys):
    """The server's words are unknown; a short prompt of the same settings is accepted."""

    def fault(number, body):
        is_fifth = body["messages"][-1]["content"].startswith("Question 5\n")
        return refusal(400, "bad vibes") if is_fifth else None

    teacher = Teacher(fault)
    with serve(teacher) as url:
        source = ServerModel(source="server", url=url, model="m")
        done = {
            r.conversation.user: c for r, c in server.Server("far", source).complete(requests())
        }
    assert [user for user, c in done.items() if c.finish_reason == TOO_LONG] == [
        "Question 5\nCorrect answer: 5"
    ]
    assert len(done) == 12 and len(teacher.requests) == 13
    assert "refuses a prompt, but not a short one" in capsys.readouterr().err


def test_a_prompt_that_a_filter_refuses_has_no_text():
    fault = refusal(400, "filtered by Azure's content management policy")
    with serve(Teacher(lambda n, b: fault if n == 1 else None)) as url:
        source = ServerModel(source="server", url=url, model="m")
        done = [c for _, c in server.Server("far", source).complete(requests())]
    assert [(c.text, c.lacks_reply) for c in done].count(("", True)) == 1


@pytest.mark.parametrize("seed", [True, False])
def test_the_seed_can_be_left_out(seed):
    teacher = Teacher()
    with serve(teacher) as url:
        source = ServerModel(source="server", url=url, model="m", seed=seed)
        hot = [dataclasses.replace(request, temperature=0.7, seed=5) for request in requests(2)]
        assert len(list(server.Server("far", source).complete(hot))) == 2
    assert ["seed" in body for body in teacher.requests] == [seed] * 2


def test_a_refused_seed_names_the_parameter_that_leaves_it_out():
    body = {"message": {"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}}
    fault = (422, json.dumps(body).encode(), {})
    with serve(Teacher(lambda n, b: fault if "seed" in b else None)) as url:
        source = ServerModel(source="server", url=url, model="m")
        hot = [dataclasses.replace(request, temperature=0.7) for request in requests(1)]
        with pytest.raises(UserError, match="set models.far.seed to false"):
            list(server.Server("far", source).complete(hot))


def test_a_server_that_was_given_up_may_still_complete_and_fail(monkeypatch):
    """Its requests in flight end after it was removed, some of them well."""
    monkeypatch.setattr(server, "FAILED_IN_A_ROW", 2)
    late = threading.Event()
    bad, good = Teacher(), Teacher()

    def fault(number, body):
        if number >= 2:
            late.wait(10)
        return None if number == 3 else refusal(500)

    bad.fault = fault
    good.fault = lambda number, body: late.set() if number > 20 else None
    with serve(bad) as one, serve(good) as two:
        assert len(run([one, two], 60, in_flight=10, tries=1)) == 60
    assert len(bad.requests) <= 10


@pytest.mark.parametrize(
    ("url", "environment", "reason"),
    [
        ("http://nowhere.invalid:8000/v1", {}, "no connection to .*: .*(name|resol)"),
        ("http://127.0.0.1:9/v1", {}, "Connection refused"),
        ("http://127.0.0.1:9/v1", {"ALL_PROXY": "socks5://u:pw@127.0.0.1:1"}, "proxy socks5://127"),
        ("http://127.0.0.1:9/v1", {"HTTP_PROXY": "http://u:pw@127.0.0.1:9"}, "proxy http://127"),
        ("http://127.0.0.1:99999999/v1", {}, "models.far.url: .* not an address"),
        ("http://a..b/v1", {}, "models.far.url: .* not an address"),
    ],
)
def test_why_there_is_no_connection_is_told(monkeypatch, no_pauses, url, environment, reason):
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"(?i){reason}") as error:
        run(url, 1, tries=1)
    assert "pw" not in str(error.value) and "\n" not in str(error.value)


def test_a_proxy_is_not_used_for_a_host_that_is_excepted(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Teacher()) as url:
        assert len(run(url, 1)) == 1


def test_a_key_that_no_header_can_carry_names_its_variable(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ключ")
    with pytest.raises(UserError, match="environment variable OPENAI_API_KEY"):
        run("http://127.0.0.1:9/v1")


def test_what_is_in_flight_when_a_request_is_refused_is_kept():
    """It is paid for: a key that is revoked in the middle loses no completion."""
    refused = threading.Event()

    def fault(number, body):
        if number == 0:
            return refusal(401)
        refused.wait(0.2)  # the others are answered later
        return None

    teacher = Teacher(fault)
    done = []
    with serve(teacher) as url, pytest.raises(UserError, match="HTTP 401"):
        source = ServerModel(source="server", url=url, model="m", in_flight=4)
        done.extend(server.Server("far", source).complete(requests(100)))
    assert len(teacher.requests) == 4
    assert len(done) == 3


def test_a_server_that_writes_the_key_into_a_text_does_not_publish_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY * 2)
    with serve(Teacher(lambda number, body: reply(f"It is {KEY * 2}."))) as url:
        assert set(run(url, 1).values()) == {"It is ***."}


def test_an_account_that_a_filter_blocks_ends_the_run():
    """A short prompt is refused too, so it is not this prompt that the filter refuses."""
    fault = refusal(403, "Your organization has been flagged for violating our usage policies")
    teacher = Teacher(lambda number, body: fault)
    with serve(teacher) as url, pytest.raises(UserError, match="may not use this model"):
        run(url, 100, in_flight=4)
    assert len(teacher.requests) <= 8
