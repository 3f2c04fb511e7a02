"""What is asked of a backend, and what is not: with a backend that notes every request."""

from collections.abc import Iterable, Iterator

import pytest

from stages.distil.language.teacher_prompts import Conversation
from stages.distil.teachers.backend import TOO_LONG, Completion, Request
from stages.distil.teachers.writer import Author, Generations, Wanted


class Noting:
    """Answers in another order than asked; reads `context` characters of a conversation."""

    def __init__(self, context: int = 10_000):
        self.asked: list[Request] = []
        self.waiting_at_once = 0
        self.context = context

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        coming, waiting = iter(requests), []
        while True:
            while len(waiting) < 8 and (request := next(coming, None)) is not None:
                waiting.append(request)
            if not waiting:
                return
            request = waiting.pop()
            if len(request.conversation.text()) > self.context:
                yield request, Completion("", TOO_LONG, 99, 0)
                continue
            self.asked.append(request)
            hot = f" at {request.temperature} with {request.seed}" if request.temperature else ""
            yield request, Completion(request.conversation.user + hot, "stop", 1, 1)


@pytest.fixture
def store(tmp_path):
    with Generations(tmp_path / "store.sqlite") as opened:
        yield opened


def wanted(user: str, shown: int = 0, **settings) -> Wanted:
    def conversations():
        for first in range(shown + 1):
            yield Conversation("", (("question", "reply"),) * (shown - first), user, "")

    return Wanted(conversations, 8, **settings)


def author(store, backend, teacher="teacher"):
    return Author(teacher, lambda: backend, store)


def test_nothing_is_generated_twice(store):
    users = [f"q{n}" for n in range(30)]
    first = Noting()
    writer = author(store, first)
    writer.write(lambda: map(wanted, users), 30, "x")
    assert sorted(r.conversation.user for r in first.asked) == sorted(users)
    assert [writer.read(wanted(user)).text for user in users] == users
    assert (store.found, store.written) == (0, 30)

    more = Noting()
    grown = [*users, "new 1", "new 2"]
    author(store, more).write(lambda: map(wanted, grown), 32, "x")
    assert sorted(r.conversation.user for r in more.asked) == ["new 1", "new 2"]
    assert store.found == 30


def test_a_backend_is_not_started_for_nothing(store):
    author(store, Noting()).write(lambda: [wanted("q")], 1, "x")

    def start():
        raise AssertionError("started")

    Author("teacher", start, store).write(lambda: [wanted("q")], 1, "x")


def test_everything_that_determines_a_text_is_in_its_key(store):
    def asked(one: Wanted, teacher: str = "teacher") -> int:
        backend = Noting()
        author(store, backend, teacher).write(lambda: [one], 1, "x")
        return len(backend.asked)

    assert asked(wanted("q")) == 1
    assert asked(wanted("q")) == 0
    assert asked(wanted("q"), "other teacher") == 1
    assert asked(wanted("q", shown=1)) == 1
    assert asked(wanted("q", attempts=((0.0, 5),))) == 0  # greedy: the seed does not count
    assert asked(wanted("q", attempts=((0.5, 5),))) == 1
    assert asked(wanted("q", attempts=((0.5, 6),))) == 1
    assert asked(wanted("q", attempts=((0.6, 5),))) == 1
    assert asked(Wanted(wanted("q").conversations, 9)) == 1


def test_the_same_prompt_twice_is_asked_once(store):
    backend = Noting()
    author(store, backend).write(lambda: [wanted("q"), wanted("q"), wanted("q")], 3, "x")
    assert len(backend.asked) == 1


def test_a_prompt_that_is_too_long_loses_its_examples_one_by_one(store):
    backend = Noting(context=30)
    writer = author(store, backend)
    long = wanted("a question of some 30 characters", shown=2)
    short = wanted("short", shown=2)
    writer.write(lambda: [short, long], 2, "x")
    assert [len(r.conversation.shown) for r in backend.asked] == [1]
    assert writer.read(short).text == "short"
    assert writer.read(long).finish_reason == TOO_LONG


def test_a_bad_text_is_tried_again_and_the_first_stays_where_none_is_sound(store):
    backend = Noting()
    writer = author(store, backend)
    attempts = ((0.0, 0), (0.7, 1), (0.7, 2), (0.7, 3))
    good = wanted("good", attempts=attempts)
    late = wanted("late", attempts=attempts, is_sound=lambda c: c.text.endswith("2"))
    bad = wanted("bad", attempts=attempts, is_sound=lambda c: False)
    writer.write(lambda: [good, late, bad], 3, "x")
    assert writer.read(good).text == "good"
    assert writer.read(late).text == "late at 0.7 with 2"
    assert writer.read(bad).text == "bad"
    assert len(backend.asked) == 1 + 3 + 4


def test_what_was_finished_before_a_fault_is_kept(store):
    class Failing(Noting):
        def complete(self, requests):
            for number, done in enumerate(super().complete(requests)):
                if number == 5:
                    raise OSError("the server is gone")
                yield done

    users = [f"q{n}" for n in range(20)]
    with pytest.raises(OSError, match="gone"):
        author(store, Failing()).write(lambda: map(wanted, users), 20, "x")
    backend = Noting()
    author(store, backend).write(lambda: map(wanted, users), 20, "x")
    assert len(backend.asked) == 15
