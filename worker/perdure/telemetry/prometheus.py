"""Numbers as Prometheus reads them.

What lives here: the names, types and descriptions of a worker's metrics, and `page`, which writes any metrics. What
must not: counting, HTTP. The command line wires it to the health endpoints; the operator has metrics of its own and
shares `page`, `counter` and `gauge`.

Labels are bounded: outcomes, reasons and kinds by Perdure, workflows and activities by the code that a worker runs.
No label names a run or an instance.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from perdure.telemetry.tally import BOUNDS, Histogram, Tally

Values = Mapping[tuple[str, ...], float]
"""A value for each combination of labels."""


class _Given(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def page(metrics: Iterable[Metric], accept: str = "") -> tuple[str, bytes]:
    """Return content type and content of a page with these metrics, in the format that ``accept`` asks for."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(_Given(metrics))


def counter(name: str, text: str, values: Values | float, labels: Sequence[str] = ()) -> Metric:
    """Return a counter; ``_total`` is added to its name."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in _labelled(values).items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, values: Values | float, labels: Sequence[str] = ()) -> Metric:
    """Return a gauge."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in _labelled(values).items():
        family.add_metric(key, value)
    return family


def _labelled(values: Values | float) -> Values:
    return values if isinstance(values, Mapping) else {(): values}


def _histogram(name: str, text: str, values: Mapping[tuple[str, ...], Histogram], labels: Sequence[str] = ()) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        buckets, below = [], 0
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], value.counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(key, buckets, value.total)
    return family


def worker_metrics(tally: Tally) -> Iterator[Metric]:
    """Yield the metrics of a worker, all of its processes together."""
    now = tally.now
    yield gauge(
        "perdure_worker_ready", "Processes that take work, by the build of their code.", _keyed(now.ready), ["build"]
    )
    yield gauge("perdure_worker_runs_owned", "Runs that this worker owns.", now.runs)
    yield counter("perdure_worker_claims", "Runs taken from the database.", tally.claims)
    yield counter(
        "perdure_worker_recovered",
        "Runs made ready again: those of workers that vanished, and held ones that fit the code of this worker.",
        tally.recovered,
    )
    yield counter("perdure_worker_turns", "Turns recorded.", tally.turns)
    yield _histogram(
        "perdure_worker_flush_seconds", "From handing turns to the database to its answer.", {(): tally.flush}
    )
    yield counter(
        "perdure_worker_runs_closed",
        "Runs that ended here, by outcome: completed, failed, cancelled, timed_out.",
        {
            (workflow, outcome): count
            for workflow, outcomes in tally.closed.items()
            for outcome, count in outcomes.items()
        },
        ["workflow", "outcome"],
    )
    yield counter(
        "perdure_worker_runs_held", "Runs that were held here until somebody acts.", _keyed(tally.held), ["reason"]
    )
    yield from _attempts(tally)
    yield counter("perdure_worker_lease_lost", "Leases lost: others have taken the runs over.", tally.leases_lost)
    yield counter("perdure_worker_store_errors", "Times that the database could not be used.", tally.store_errors)


def _attempts(tally: Tally) -> Iterator[Metric]:
    slots = tally.now.slots
    yield gauge(
        "perdure_worker_activities_running",
        "Attempts under way, on event loops and in threads.",
        {(kind,): value.running for kind, value in slots.items()},
        ["kind"],
    )
    yield gauge(
        "perdure_worker_activities_waiting",
        "Attempts that wait for a place.",
        {(kind,): value.waiting for kind, value in slots.items()},
        ["kind"],
    )
    yield gauge(
        "perdure_worker_activity_places",
        "Attempts that may be under way at a time.",
        {(kind,): value.places for kind, value in slots.items()},
        ["kind"],
    )
    yield counter(
        "perdure_worker_activity_attempts",
        "Attempts that ended, by outcome: completed, failed, cancelled.",
        {
            (name, outcome): getattr(counts, outcome)
            for name, counts in tally.attempts.items()
            for outcome in ("completed", "failed", "cancelled")
        },
        ["activity", "outcome"],
    )
    yield _histogram(
        "perdure_worker_activity_attempt_seconds",
        "How long attempts took that were not cancelled.",
        {(name,): counts.seconds for name, counts in tally.attempts.items()},
        ["activity"],
    )


def _keyed(values: Mapping[str, float]) -> Values:
    return {(key,): value for key, value in values.items()}
