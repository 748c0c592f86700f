"""The database's clock as a worker knows it: what slow heartbeats may do to it, and what a real change does."""

from __future__ import annotations

import time

from perdure.runtime.clock import StoreClock

MILLISECOND = 1_000
SECOND = 1_000_000
START = 1_700_000_000 * SECOND


MOMENT = time.monotonic_ns()
"""When all of this happens, as far as the clock is told: a test that is held up between two lines changes nothing."""


def heartbeat(clock: StoreClock, now: int, there: int, back: int) -> None:
    """Let a heartbeat end at the moment, when the store's clock shows ``now``; both ways in microseconds."""
    clock.set(now - back, MOMENT - (there + back) * 1_000, MOMENT)


def error(clock: StoreClock, now: int) -> float:
    """Return how far the clock is from what it should show if it was ``now`` at the moment, in seconds."""
    return abs(clock.now() - (time.monotonic_ns() - MOMENT) // 1_000 - now) / SECOND


def test_the_first_heartbeat_sets_the_clock() -> None:
    clock = StoreClock()
    heartbeat(clock, START, there=MILLISECOND, back=MILLISECOND)
    assert error(clock, START) < 0.1


def test_a_heartbeat_that_was_held_up_on_its_way_there_does_not_turn_the_clock_forward() -> None:
    clock = StoreClock()
    heartbeat(clock, START, there=MILLISECOND, back=MILLISECOND)
    heartbeat(clock, START, there=4 * SECOND, back=MILLISECOND)
    assert error(clock, START) < 0.1


def test_an_answer_that_was_held_up_does_not_turn_the_clock_back() -> None:
    clock = StoreClock()
    heartbeat(clock, START, there=MILLISECOND, back=MILLISECOND)
    heartbeat(clock, START, there=MILLISECOND, back=4 * SECOND)
    assert error(clock, START) < 0.1


def test_a_better_heartbeat_corrects_a_bad_first_one() -> None:
    clock = StoreClock()
    heartbeat(clock, START, there=4 * SECOND, back=MILLISECOND)
    assert error(clock, START) > 1
    heartbeat(clock, START, there=MILLISECOND, back=MILLISECOND)
    assert error(clock, START) < 0.1


def test_another_server_with_another_clock_is_followed_at_once_even_when_it_is_slow() -> None:
    clock = StoreClock()
    heartbeat(clock, START, there=MILLISECOND, back=MILLISECOND)
    heartbeat(clock, START + 60 * SECOND, there=SECOND, back=SECOND)
    assert error(clock, START + 60 * SECOND) < 0.1
