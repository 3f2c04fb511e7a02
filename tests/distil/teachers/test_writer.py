"""Which requests reach a backend, tested with a backend that records every request."""

from collections.abc import Iterable, Iterator

import pytest
from pydantic import ValidationError

from stages.distil.interface.errors import UserError
from stages.distil.language.quality import TOO_LONG
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.teachers.backend import Completion, Request
from stages.distil.teachers.writer import MOST_ASKED, CachedWriter, Generations, WritingTask


class RecordingBackend:
    """Complete requests in another order; the limit of a conversation is `context` characters."""

    def __init__(self, context: int = 10_000):
        self.requests: list[Request] = []
        self.context = context

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        remaining, waiting = iter(requests), []
        while True:
            while len(waiting) < 8 and (request := next(remaining, None)) is not None:
                waiting.append(request)
            if not waiting:
                return
            request = waiting.pop()
            if len(request.conversation.text()) > self.context:
                yield request, Completion("", TOO_LONG, 99, 0)
                continue
            self.requests.append(request)
            hot = f" at {request.temperature} with {request.seed}" if request.temperature else ""
            yield request, Completion(request.conversation.user + hot, "stop", 1, 1)


@pytest.fixture
def store(tmp_path):
    with Generations(tmp_path / "store.sqlite") as opened:
        yield opened


def make_task(user: str, shown: int = 0, **settings) -> WritingTask:
    def conversations():
        for first in range(shown + 1):
            yield Conversation("", (("question", "reply"),) * (shown - first), user, "")

    return WritingTask(conversations, 8, **settings)


def make_writer(store, backend, teacher="teacher"):
    return CachedWriter(teacher, lambda: backend, store)


def test_a_stored_text_is_not_generated_again(store):
    users = [f"q{n}" for n in range(30)]
    first = RecordingBackend()
    writer = make_writer(store, first)
    writer.write(lambda: map(make_task, users), 30, "x")
    assert sorted(r.conversation.user for r in first.requests) == sorted(users)
    assert [writer.read(make_task(user)).text for user in users] == users
    assert (store.hits, store.written) == (0, 30)

    more = RecordingBackend()
    grown = [*users, "new 1", "new 2"]
    make_writer(store, more).write(lambda: map(make_task, grown), 32, "x")
    assert sorted(r.conversation.user for r in more.requests) == ["new 1", "new 2"]
    assert store.hits == 30


def test_a_backend_starts_only_if_a_text_is_missing(store):
    make_writer(store, RecordingBackend()).write(lambda: [make_task("q")], 1, "x")

    def start():
        raise AssertionError("started")

    CachedWriter("teacher", start, store).write(lambda: [make_task("q")], 1, "x")


def test_everything_that_determines_a_text_is_in_its_key(store):
    def new_requests(task: WritingTask, teacher: str = "teacher") -> int:
        backend = RecordingBackend()
        make_writer(store, backend, teacher).write(lambda: [task], 1, "x")
        return len(backend.requests)

    assert new_requests(make_task("q")) == 1
    assert new_requests(make_task("q")) == 0
    assert new_requests(make_task("q"), "other teacher") == 1
    assert new_requests(make_task("q", shown=1)) == 1
    greedy = make_task("q", attempts=((0.0, 5),))
    assert new_requests(greedy) == 0, "the seed does not matter"
    assert new_requests(make_task("q", attempts=((0.5, 5),))) == 1
    assert new_requests(make_task("q", attempts=((0.5, 6),))) == 1
    assert new_requests(make_task("q", attempts=((0.6, 5),))) == 1
    assert new_requests(WritingTask(make_task("q").conversations, 9)) == 1


def test_a_repeated_prompt_is_requested_once(store):
    backend = RecordingBackend()
    make_writer(store, backend).write(lambda: [make_task("q")] * 3, 3, "x")
    assert len(backend.requests) == 1


def test_a_prompt_that_is_too_long_loses_examples_one_by_one(store):
    backend = RecordingBackend(context=30)
    writer = make_writer(store, backend)
    long = make_task("a question of some 30 characters", shown=2)
    short = make_task("short", shown=2)
    writer.write(lambda: [short, long], 2, "x")
    assert [len(r.conversation.shown) for r in backend.requests] == [1]
    assert writer.read(short).text == "short"
    assert writer.read(long).finish_reason == TOO_LONG


def test_a_bad_text_is_retried_and_the_first_is_kept_if_all_are_bad(store):
    backend = RecordingBackend()
    writer = make_writer(store, backend)
    attempts = ((0.0, 0), (0.7, 1), (0.7, 2), (0.7, 3))
    good = make_task("good", attempts=attempts)
    late = make_task("late", attempts=attempts, is_sound=lambda c: c.text.endswith("2"))
    bad = make_task("bad", attempts=attempts, is_sound=lambda c: False)
    writer.write(lambda: [good, late, bad], 3, "x")
    assert writer.read(good).text == "good"
    assert writer.read(late).text == "late at 0.7 with 2"
    assert writer.read(bad).text == "bad"
    assert len(backend.requests) == 1 + 3 + 4


def test_completions_before_a_failure_are_kept(store):
    class Failing(RecordingBackend):
        def complete(self, requests):
            for number, done in enumerate(super().complete(requests)):
                if number == 5:
                    raise OSError("the server is gone")
                yield done

    users = [f"q{n}" for n in range(20)]
    with pytest.raises(OSError, match="gone"):
        make_writer(store, Failing()).write(lambda: map(make_task, users), 20, "x")
    backend = RecordingBackend()
    make_writer(store, backend).write(lambda: map(make_task, users), 20, "x")
    assert len(backend.requests) == 15


def test_the_key_covers_the_prompt_as_the_teacher_reads_it(store):
    """A chat template with today's date must not give yesterday's text."""
    for day in ("Monday", "Tuesday", "Monday"):

        def render(conversation: Conversation, day: str = day) -> str:
            return f"{day}: {conversation.user}"

        writer = CachedWriter("teacher", RecordingBackend, store, render)
        writer.write(lambda: [make_task("q")], 1, "x")
    assert (store.written, store.hits) == (2, 1)


class BadDay(RecordingBackend):
    """A server that gives no whole reply to some questions."""

    def __init__(self, *replies: Completion):
        super().__init__()
        self.replies = replies

    def complete(self, requests):
        for request, completion in super().complete(requests):
            bad = request.conversation.user.startswith("bad")
            yield (
                request,
                self.replies[len(self.requests) % len(self.replies)] if bad else completion,
            )


LACKING = [
    Completion("", "stop", 1, 0),
    Completion(" \n", "content_filter", 1, 0),
    Completion("It is hot. It", "content_filter", 1, 3),
    Completion("<think>\nHm.", "stop", 1, 3),
]


@pytest.mark.parametrize("lacking", LACKING)
def test_a_server_is_asked_again_on_another_run_for_a_reply_it_failed_to_give(store, lacking):
    tasks = [make_task("good"), make_task("bad")]
    ill = BadDay(lacking)
    writer = make_writer(store, ill)
    writer.write(lambda: tasks, 2, "x")
    assert len(ill.requests) == 2, "once in a run"
    assert writer.read(tasks[1]) == lacking
    assert writer.lacking == 1
    well = RecordingBackend()
    writer = make_writer(store, well)
    writer.write(lambda: tasks, 2, "x")
    assert [request.conversation.user for request in well.requests] == ["bad"]
    assert writer.read(tasks[1]).text == "bad"
    assert writer.lacking == 0


@pytest.mark.parametrize("lacking", LACKING)
def test_a_server_that_never_gives_it_is_asked_in_a_bounded_number_of_runs(store, lacking):
    backend = BadDay(lacking)
    for _ in range(3 * MOST_ASKED):
        writer = make_writer(store, backend)
        writer.write(lambda: [make_task("bad")], 1, "x")
        assert writer.read(make_task("bad")) == lacking
    assert len(backend.requests) == MOST_ASKED
    assert writer.lacking == 0


@pytest.mark.parametrize(
    "whole", [Completion("", "length", 1, 8), Completion("<think>\nHm", "length", 1, 8)]
)
def test_a_thought_that_the_limit_cut_off_is_not_asked_for_again(store, whole):
    for _ in range(2):
        backend = BadDay(whole)
        make_writer(store, backend).write(lambda: [make_task("bad")], 1, "x")
    assert backend.requests == []


def test_a_model_on_this_machine_is_not_asked_again(store):
    for expected in (1, 0):
        backend = BadDay(LACKING[0])
        writer = CachedWriter("teacher", lambda b=backend: b, store, Conversation.text)
        writer.write(lambda: [make_task("bad")], 1, "x")
        assert (len(backend.requests), writer.lacking) == (expected, 0)


def test_a_later_sound_attempt_is_enough(store):
    attempts = ((0.0, 0), (0.7, 1))
    task = make_task("bad", attempts=attempts, is_sound=lambda c: c.text.startswith("sound"))
    backend = BadDay(Completion("sound", "stop", 1, 1), LACKING[0])  # the second comes first
    make_writer(store, backend).write(lambda: [task], 1, "x")
    assert len(backend.requests) == 2
    again = RecordingBackend()
    writer = make_writer(store, again)
    writer.write(lambda: [task], 1, "x")
    assert again.requests == [] and writer.read(task).text == "sound"


def test_a_store_that_keeps_nothing_ends_the_run_after_one_request(tmp_path):
    class Forgetful(Generations):
        def insert(self, key, values):
            pass

    backend = RecordingBackend()
    with Forgetful(tmp_path / "store.sqlite") as store:
        with pytest.raises(UserError, match="does not keep what is written"):
            make_writer(store, backend).write(lambda: map(make_task, "abc"), 3, "x")
    assert len(backend.requests) == 1


def test_a_backend_that_drops_requests_ends_the_run(store):
    class Dropping(RecordingBackend):
        def complete(self, requests):
            yield from list(super().complete(requests))[1:]

    backend = Dropping()
    with pytest.raises(UserError, match="1 requests were not completed"):
        make_writer(store, backend).write(lambda: map(make_task, "abc"), 3, "x")
    assert len(backend.requests) == 3


@pytest.mark.parametrize(
    "fields",
    [
        (None, "stop", 1, 1),
        ("a", 7, 1, 1),
        ("a", ["stop"], 1, 1),
        ("a", "stop", "nine", 1),
        ("a", "stop", None, 1),
        ("a", "stop", 1.5, 1),
        ("a", "stop", True, 1),
        ("a", "stop", 2**40, 1),
        ("a", "stop", 1, -1),
    ],
)
def test_a_completion_has_valid_fields_or_is_none(fields):
    with pytest.raises(ValidationError):
        Completion(*fields)


@pytest.mark.parametrize("poison", [("text", "stop", "nine", 5), ("text", "stop", 2**40, 5)])
def test_what_earlier_versions_stored_of_a_bad_reply_is_asked_for_again(tmp_path, poison):
    path, task = tmp_path / "store.sqlite", make_task("q")
    key = Request(next(task.conversations()), 8).key("teacher")
    with Generations(path) as store:
        columns = "key, text, finish_reason, prompt_tokens, output_tokens"
        values = [key, *poison]
        store._database.execute(f"INSERT INTO generations ({columns}) VALUES (?,?,?,?,?)", values)
        backend = RecordingBackend()
        writer = make_writer(store, backend)
        writer.write(lambda: [task], 1, "x")
        assert len(backend.requests) == 1
        assert writer.read(task) == Completion("q", "stop", 1, 1)
