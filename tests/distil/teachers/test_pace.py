"""How a server's limit of the rate slows down all requests to it; the tests have a clock."""

import asyncio

import pytest

from stages.distil.teachers import pace as module
from stages.distil.teachers.pace import LONGEST_WAIT, Pace


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when somebody sleeps; its value is in a list of one number."""
    now = [1000.0]

    async def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return now


def take_turn(pace: Pace) -> float:
    async def turn():
        async with pace.turn() as began:
            return began

    return asyncio.run(turn())


def test_all_requests_wait_as_long_as_the_server_asks(clock):
    pace = Pace(32)
    turn = take_turn(pace)
    assert pace.wait(turn, 150, fewer=True) == 150
    assert take_turn(pace) == turn + 150


def test_requests_that_were_under_way_together_halve_their_number_once(clock):
    pace = Pace(32)
    turn = take_turn(pace)
    assert pace.wait(turn, 1, fewer=True) == 1
    clock[0] += 0.1
    assert pace.wait(turn, 1, fewer=True) == pytest.approx(0.1)
    assert pace.at_once == 16
    assert pace.wait(take_turn(pace), None, fewer=True) == 1.0
    assert pace.at_once == 8


def test_completions_raise_the_number_again_up_to_the_most(clock):
    pace = Pace(4)
    pace.wait(take_turn(pace), 1, fewer=True)
    assert pace.at_once == 2
    for _ in range(6):
        pace.completed()
    assert pace.at_once == 4
    pace.completed()
    assert pace.at_once == 4


def test_without_a_time_the_waits_in_a_row_double_and_end(clock):
    pace = Pace(4)
    waits = []
    while (seconds := pace.wait(take_turn(pace), None, fewer=True)) is not None:
        waits.append(seconds)
    assert waits[:9] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert sum(waits) <= LONGEST_WAIT
    pace.completed()
    assert pace.wait(take_turn(pace), None, fewer=True) == 0.5


@pytest.mark.parametrize("asked", [LONGEST_WAIT + 1, 1e99])
def test_a_wait_beyond_the_bound_is_not_begun(clock, asked):
    pace = Pace(4)
    turn = take_turn(pace)
    assert pace.wait(turn, asked, fewer=True) is None
    assert take_turn(pace) == turn


def test_no_more_than_the_allowed_number_are_sent_at_once():
    async def run() -> int:
        pace, active, most = Pace(3), 0, 0

        async def request():
            nonlocal active, most
            async with pace.turn():
                active += 1
                most = max(most, active)
                for _ in range(3):
                    await asyncio.sleep(0)
                active -= 1

        await asyncio.gather(*(request() for _ in range(20)))
        return most

    assert asyncio.run(run()) == 3
