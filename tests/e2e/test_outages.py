"""What fails on a cluster, one part at a time, with orders under way: all converges, nothing is lost or doubled."""

import time
from collections.abc import Callable
from datetime import datetime

import pytest

from tests.e2e.cluster import Cluster, until
from tests.e2e.conftest import Orders, Report
from tests.e2e.installation import DATABASE, OPERATOR, WORKERS, Installation
from tests.e2e.machine import Machine
from tests.support.tool import CommandError

OUTAGE = 150.0
"""Seconds without an API server: longer than any Lease, and than a node may be silent before it counts as lost."""


def delete_the_operator(cluster: Cluster) -> None:
    cluster.out("delete", "pod", "--selector", OPERATOR)


def kill_the_operator(cluster: Cluster) -> None:
    cluster.out("delete", "pod", "--selector", OPERATOR, "--grace-period=0", "--force")


def delete_the_database(cluster: Cluster) -> None:
    cluster.out("delete", "pod", "--selector", DATABASE)


def kill_the_database(cluster: Cluster) -> None:
    cluster.out("delete", "pod", "--selector", DATABASE, "--grace-period=0", "--force")


@pytest.mark.parametrize(
    "fault",
    [delete_the_operator, kill_the_operator, delete_the_database, kill_the_database],
    ids=lambda fault: fault.__name__,
)
def test_orders_outlast_a_pod_that_goes(
    shop: Installation, orders: Orders, fault: Callable[[Cluster], None], report: Report
) -> None:
    restarts = _restarts(shop)
    ordered = orders(10, steps=3, seconds=1)
    shop.apply(ordered)
    shop.until_phase(ordered, "Running")
    began = time.monotonic()
    fault(shop.cluster)
    # The API server takes objects whatever else is away.
    late = orders(5, steps=1, seconds=0.1)
    shop.apply(late)
    shop.cluster.until_ready(DATABASE, 1)
    shop.cluster.until_ready(OPERATOR, 1)
    report(f"{fault.__name__}: everything was ready again after {time.monotonic() - began:.1f} s")
    shop.judge(ordered | late)
    assert _restarts(shop) == restarts, "a worker did not live through it"


@pytest.mark.parametrize("program", ["kubelet", "containerd"])
def test_pods_do_not_notice_that_a_program_of_the_node_is_restarted(
    shop: Installation, orders: Orders, machine: Machine, program: str
) -> None:
    restarts = _restarts(shop)
    ordered = orders(10, steps=3, seconds=1)
    shop.apply(ordered)
    shop.until_phase(ordered, "Running")
    machine.restart(program)
    shop.judge(ordered)
    assert _restarts(shop) == restarts
    # It works: a new pod comes up.
    shop.scale(2)


def test_runs_end_while_the_api_server_is_away_and_objects_catch_up(
    shop: Installation, orders: Orders, machine: Machine, report: Report
) -> None:
    restarts = _restarts(shop)
    ordered = orders(10, steps=10, seconds=0.5, pause=2)
    shop.apply(ordered, workflow="linger")
    shop.until_phase(ordered, "Running")
    machine.stop_api_server()
    went = time.time()
    try:
        with pytest.raises(CommandError):
            shop.cluster.get("pods")
        # What is waited for is time itself: the outage has to outlast the patience of everything else.
        time.sleep(OUTAGE)
    finally:
        machine.start_api_server()
    came = time.time()
    until(shop.statuses, "an answer of the API server")
    histories = shop.judge(ordered)
    report(f"after {came - went:.0f} s without an API server all statuses were right {time.time() - came:.1f} s later")
    ends = [history[-1].time.timestamp() for history in histories.values()]
    assert all(went < end < came for end in ends), "the runs did not go on by themselves"
    for name, status in shop.statuses().items():
        if name in ordered:
            shown = datetime.fromisoformat(status["completionTime"]).timestamp()
            assert abs(shown - histories[name][-1].time.timestamp()) < 1.5
    assert _restarts(shop) == restarts
    shop.cluster.until_ready(OPERATOR, 1)
    late = orders(3, steps=1, seconds=0.1)
    shop.apply(late)
    shop.judge(late)


def _restarts(shop: Installation) -> dict[str, int]:
    """Return the workers' pods, each with how often its container was started again."""
    return {
        pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
        for pod in shop.cluster.get("pods", WORKERS)
    }
