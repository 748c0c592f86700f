"""A worker's pod goes in the middle of its work, and another one goes on as soon as the pod is gone."""

import time

import pytest

from tests.e2e.cluster import until
from tests.e2e.conftest import Orders, Report
from tests.e2e.installation import WORKERS, Installation, Note

SOON = 3.0
"""Seconds from the end of the pod to the next attempt: well below a lease (10 s), which is what it takes otherwise."""


@pytest.mark.parametrize("how", [(), ("--grace-period=0", "--force")], ids=["in order", "by force"])
def test_another_worker_goes_on_about_a_second_after_the_pod_is_gone(
    shop: Installation, orders: Orders, how: tuple[str, ...], report: Report
) -> None:
    ordered = orders(4, steps=2, seconds=8)
    shop.scale(2)
    shop.apply(ordered)
    runs = {status["runId"] for status in shop.until_phase(ordered, "Running").values()}
    # Every run is in the middle of a step that takes longer than a worker may take to end.
    begun = until(lambda: _all_begun(shop, runs), "the first step of every order")
    victim = max({note.pod for note in begun}, key=lambda pod: sum(note.pod == pod for note in begun))
    orphans = {note.key for note in begun if note.pod == victim}

    shop.cluster.out("delete", "pod", victim, *how)
    gone = time.time()

    def look() -> list[Note]:
        again = [note for note in shop.notes(runs) if note.key in orphans and note.pod != victim]
        return again if {note.key for note in again} == orphans else []

    again = until(look, f"other workers trying what {victim} did")
    latest = max(note.at for note in again)
    report(f"{len(orphans)} steps of {victim} were tried elsewhere {latest - gone:+.2f} s after its pod was gone")
    assert latest - gone < SOON
    shop.judge(ordered)
    shop.cluster.until_ready(WORKERS, 2)


def _all_begun(shop: Installation, runs: set[str]) -> list[Note]:
    notes = shop.notes(runs)
    return notes if len(notes) == len(runs) else []
