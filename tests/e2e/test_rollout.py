"""New workers take the place of old ones while orders keep coming."""

import threading
from typing import Any

from tests.e2e.conftest import Orders, Report
from tests.e2e.installation import WORKERS, Installation

BATCH = 10
MOST = 100
"""Orders under way at a time: a slow update meets as many as a quick one, not a heap that grows by the second."""


def test_a_rolling_update_under_load_loses_and_doubles_nothing(
    shop: Installation, orders: Orders, report: Report
) -> None:
    before = shop.scale(3)
    everything: dict[str, dict[str, Any]] = {}
    over = threading.Event()

    def keep_ordering() -> None:
        last = False
        # The last batch is for the new workers alone.
        while not last:
            last = over.wait(1)
            statuses = shop.statuses()
            if not last and sum(statuses.get(name, {}).get("phase") != "Succeeded" for name in everything) >= MOST:
                continue
            batch = orders(BATCH, steps=5, seconds=0.5)
            shop.apply(batch)
            everything.update(batch)

    thread = threading.Thread(target=keep_ordering)
    thread.start()
    try:
        (worker,) = shop.cluster.get("deployments", WORKERS)
        tag = worker["spec"]["template"]["spec"]["containers"][0]["image"].rpartition(":")[2]
        shop.upgrade("2" if tag == "1" else "1")
    finally:
        over.set()
        thread.join()
    after = shop.cluster.until_ready(WORKERS, 3)
    assert not before & after

    histories = shop.judge(everything)
    both = sum(1 for history in histories.values() if len({event.worker for event in history} - {""}) > 1)
    report(f"{len(everything)} orders during a rolling update, {both} of them by more than one worker")
    assert both > 0, "no order was under way when its worker went"
