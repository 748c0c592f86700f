"""What an operator tells Prometheus about itself, and about the database on behalf of everybody.

What lives here: `Backlog`, the census of the database that the leader takes now and then, and `operator_metrics`, names
and descriptions. What must not: effects. `main` runs one and hands in how things stand.

The census is taken by the leader alone, so that a scrape costs nothing and more workers or standbys do not ask more
often. An operator that stands by, or whose database does not answer, shows none rather than an old one.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric

from perdure.errors import StoreError
from perdure.store.base import POISON, TOO_LARGE, UNKNOWN_WORKFLOW, UNREADABLE, Census, Queue
from perdure.telemetry.prometheus import counter, gauge

from .database import Database

logger = logging.getLogger("perdure.operator")

INTERVAL = 15.0
SHARE = 20.0
"""A census may take this share of the time, as a divisor: the next one waits longer after one that took long."""
MOST_QUEUES = 100
"""Queues that have metrics of their own. Their names come from objects, so anybody could make up more."""
OTHERS = "(others)"
Place = tuple[str, str]
"""Namespace and queue. The label is not called namespace, which scrapers use for that of the operator's pod."""
REASONS = (POISON, TOO_LARGE, UNKNOWN_WORKFLOW, UNREADABLE)
"""Reasons that are shown even when no run is held for them, so that there is always something to add up."""


class Backlog:
    """The last census, while it is not too old."""

    def __init__(self, database: Database, namespaces: tuple[str, ...] | None) -> None:
        self._database = database
        self._namespaces = namespaces
        self.census: Census | None = None

    async def run(self) -> None:
        """Take a census now and then until cancelled."""
        while True:
            began = time.monotonic()
            try:
                store = await self._database.store()
                self.census = await store.census(self._namespaces)
            except StoreError as error:
                self.census = None
                self._database.failed(error)
                logger.warning("runs cannot be counted: %s", error)
            await asyncio.sleep(max(INTERVAL, SHARE * (time.monotonic() - began)))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How an operator stands. Times are in seconds since 1970, None when something has not happened in this term."""

    leading: bool
    terms: int
    objects: int = 0
    objects_waiting: int = 0
    statuses_waiting: int = 0
    status_writes: Mapping[str, int]
    reconcile_errors: int
    api_errors: Mapping[str, int]
    store_errors: int
    watched_at: float | None = None
    compared_at: float | None = None
    census: Census | None = None


def operator_metrics(standing: Standing) -> Iterator[Metric]:
    """Yield the metrics of an operator, and those of the database while it leads."""
    yield gauge("perdure_operator_is_leader", "1 on the operator that leads, 0 on the others.", int(standing.leading))
    yield counter("perdure_operator_terms", "Times that this process began to lead.", standing.terms)
    yield gauge("perdure_operator_objects", "WorkflowInstances that the leader knows.", standing.objects)
    yield gauge("perdure_operator_queue_depth", "Objects that wait to be reconciled.", standing.objects_waiting)
    yield gauge("perdure_operator_statuses_waiting", "Statuses that wait to be written.", standing.statuses_waiting)
    yield counter(
        "perdure_operator_status_writes",
        "Status writes by outcome: written, gone, conflict, error.",
        {(outcome,): count for outcome, count in standing.status_writes.items()},
        ["outcome"],
    )
    yield counter(
        "perdure_operator_reconcile_errors",
        "Reconciliations that failed and will be tried again.",
        standing.reconcile_errors,
    )
    yield counter(
        "perdure_operator_api_errors",
        "Requests that the API server refused or did not answer, by code; unreachable without one.",
        {(code,): count for code, count in {"unreachable": 0, **standing.api_errors}.items()},
        ["code"],
    )
    yield counter("perdure_operator_store_errors", "Times that the database could not be used.", standing.store_errors)
    if standing.watched_at is not None:
        yield gauge(
            "perdure_operator_watch_alive_timestamp_seconds",
            "When the watch of the objects last showed a sign of life.",
            standing.watched_at,
        )
    if standing.compared_at is not None:
        yield gauge(
            "perdure_operator_comparison_timestamp_seconds",
            "When all objects and runs were last compared; every minute they are.",
            standing.compared_at,
        )
    if standing.census is not None:
        yield from _census_metrics(standing.census)


def _census_metrics(census: Census) -> Iterator[Metric]:
    yield gauge("perdure_runs_open", "Runs that have not ended.", census.open)
    held = {**dict.fromkeys(REASONS, 0), **census.held}
    yield gauge(
        "perdure_runs_held",
        "Runs that are held until somebody acts, by reason.",
        {(reason,): count for reason, count in held.items()},
        ["reason"],
    )
    queues = _most(census.queues)
    yield gauge(
        "perdure_backlog_runs",
        "Runs that are ready and that no worker owns.",
        {place: queue.runs for place, queue in queues.items()},
        ["run_namespace", "queue"],
    )
    yield gauge(
        "perdure_backlog_activities",
        "Activities that are due and that no worker has taken.",
        {place: queue.activities for place, queue in queues.items()},
        ["run_namespace", "queue"],
    )
    yield gauge(
        "perdure_backlog_oldest_seconds",
        "For how long the first of them has waited to start.",
        {place: queue.oldest for place, queue in queues.items()},
        ["run_namespace", "queue"],
    )
    yield gauge(
        "perdure_backlog_workers",
        "Worker processes that serve the queue.",
        {place: queue.workers for place, queue in queues.items()},
        ["run_namespace", "queue"],
    )


def _most(queues: Mapping[Place, Queue]) -> dict[Place, Queue]:
    """Return the queues that matter most, and the sum of the others under one name."""
    order = sorted(queues.items(), key=lambda item: (-item[1].runs - item[1].activities, -item[1].workers, item[0]))
    rest = [queue for _, queue in order[MOST_QUEUES - 1 :]]
    if len(rest) <= 1:
        return dict(order)
    others = Queue(
        runs=sum(queue.runs for queue in rest),
        activities=sum(queue.activities for queue in rest),
        workers=max(queue.workers for queue in rest),
        oldest=max(queue.oldest for queue in rest),
    )
    return {**dict(order[: MOST_QUEUES - 1]), (OTHERS, OTHERS): others}
