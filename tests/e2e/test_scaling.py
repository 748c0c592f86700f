"""`kubectl scale`: to nothing, and work waits and says so; to three, and they share it."""

from collections import Counter

from tests.e2e.cluster import until
from tests.e2e.conftest import Orders, Report
from tests.e2e.installation import SLOTS, Installation

PODS = 3
FAIR = 0.5
"""The part of an equal share that every worker has to take at least."""


def test_work_waits_for_workers_and_is_shared_by_all_that_come(
    shop: Installation, orders: Orders, report: Report
) -> None:
    shop.scale(0)
    # More than all of them carry out at a time, so that there is something to share when the last one comes.
    ordered = orders(SLOTS * PODS * 5, steps=2, seconds=0.5)
    shop.apply(ordered)
    waiting = shop.until_phase(ordered, "Pending")
    until(lambda: {shop.statuses()[name].get("waitingFor") for name in ordered} == {"Workers"}, "waitingFor: Workers")
    assert all("startTime" not in status or not status["startTime"] for status in waiting.values())

    pods = shop.scale(PODS)
    shop.judge(ordered)

    runs = {status["runId"] for status in waiting.values()}
    shares = Counter(note.pod for note in shop.notes(runs))
    total = sum(shares.values())
    report(f"{total} attempts of {len(runs)} orders by {PODS} workers: " + ", ".join(map(str, shares.values())))
    assert set(shares) == pods
    assert min(shares.values()) > FAIR * total / PODS


def test_workers_that_are_scaled_down_in_the_middle_lose_nothing(shop: Installation, orders: Orders) -> None:
    shop.scale(PODS)
    ordered = orders(PODS * SLOTS, steps=4, seconds=1)
    shop.apply(ordered)
    runs = {status["runId"] for status in shop.until_phase(ordered, "Running").values()}
    until(lambda: len({note.pod for note in shop.notes(runs)}) == PODS, "work of every worker")
    shop.scale(1)
    shop.judge(ordered)
