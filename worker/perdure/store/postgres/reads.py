"""The reading half of the PostgreSQL store.

What lives here: `PostgresReads`, one statement a question, on lanes of their own so that a slow page delays no turn.
What must not: writes, except the acknowledgement of status changes.
"""

from collections.abc import Sequence

from perdure.model.runs import Ended, HistoryEvent, RunId, RunSummary, WorkerId
from perdure.store import records
from perdure.store.base import Census, Poller, Queue, RunFilter, StatusChange
from perdure.store.postgres import rows
from perdure.store.postgres.arrays import int4, int4s, int8, int8s, text, texts
from perdure.store.postgres.connection import Lane, Lanes


class PostgresReads:
    """Everything that looks at runs. ``pages`` is for questions whose best plan depends on what is asked."""

    def __init__(self, lane: Lane, pages: Lane, *others: Lane) -> None:
        self._reads = lane
        self._pages = pages
        self._results = Lanes(lane, *others)

    async def describe(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunSummary | None:
        """Return the newest run of an instance, or the run of it with this id."""
        parameters = {"namespace": text(namespace), "instance": text(instance), "run": int8(run_id)}
        found = await self._reads.fetch("describe", parameters)
        return rows.summary(found[0]) if found else None

    async def ended(self, runs: Sequence[RunId]) -> dict[RunId, Ended | None]:
        """Return how those of these runs ended that have closed; None for those that are not here (any more)."""
        lane = self._results.pick(len(runs))
        if len(runs) == 1:
            found = await lane.fetch("ended_one", {"run": int8(runs[0])})
        else:
            found = await lane.fetch("ended", {"runs": int8s(runs)})
        return {
            RunId(run_id): None if instance is None else Ended(instance, records.outcome_for_readers(outcome))
            for run_id, instance, outcome in found
        }

    async def by_key(self, keys: Sequence[str]) -> list[RunSummary]:
        """Return the runs that were started with these keys."""
        return [rows.brief(row) for row in await self._reads.fetch("by_key", {"keys": texts(keys)})]

    async def newest(self, instances: Sequence[tuple[str, str]]) -> list[RunSummary]:
        """Return the newest run of each of these instances."""
        each = list(dict.fromkeys(instances))
        parameters = {"namespaces": texts([name for name, _ in each]), "instances": texts([name for _, name in each])}
        return [rows.brief(row) for row in await self._reads.fetch("newest", parameters)]

    async def open_keys(self) -> dict[str, tuple[str, str]]:
        """Return key -> (namespace, instance) of every open run that has a key."""
        found = await self._reads.fetch("open_keys", {})
        return {key: (namespace, instance) for key, namespace, instance in found}

    async def list_runs(self, namespace: str, where: RunFilter) -> list[RunSummary]:
        """Return one page of runs, newest first, with the beginnings of long results."""
        found = await self._pages.fetch(
            "list_runs",
            {
                "namespace": text(namespace),
                "workflow": text(where.workflow),
                "instance": text(where.instance),
                "states": int4s(sorted(where.states)) if where.states else None,
                "before": int8(where.before),
                "limit": int4(where.limit),
            },
        )
        return [rows.brief(row) for row in found]

    async def history(self, run_id: RunId) -> list[HistoryEvent]:
        """Return every recorded event of a run, in order."""
        found = await self._reads.fetch("history", {"run": int8(run_id)})
        return records.readable((seq, events, outside) for seq, events, outside in found)

    async def workers(self, namespace: str) -> list[tuple[WorkerId, str, str]]:
        """Return id, name and build of the workers whose lease is in force."""
        found = await self._reads.fetch("workers", {"namespace": text(namespace)})
        return [(WorkerId(worker), name, build) for worker, name, build in found]

    async def census(self, namespaces: Sequence[str] | None) -> Census:
        """Count what is open in these namespaces, None: in all."""
        parameters = {"namespaces": None if namespaces is None else texts(namespaces)}
        found = await self._reads.fetch("census", parameters)
        return Census(
            open=sum(runs for kind, _, _, runs, *_ in found if kind == "open"),
            held={reason: runs for kind, _, reason, runs, *_ in found if kind == "held"},
            queues={
                (namespace, queue): Queue(runs=runs, activities=activities, workers=workers, oldest=max(0.0, oldest))
                for kind, namespace, queue, runs, activities, workers, oldest in found
                if kind == "queue"
            },
        )

    async def pollers(self) -> frozenset[Poller]:
        """Return which queues are served with which builds."""
        return frozenset(Poller(*row) for row in await self._reads.fetch("pollers", {}))

    async def status_changes(self, limit: int, after: int = 0) -> list[StatusChange]:
        """Return changes of runs with a key, oldest first."""
        found = await self._reads.fetch("status_changes", {"limit": int4(limit), "after": int8(after)})
        return [StatusChange(number=row[0], run=rows.brief(row[1:])) for row in found]

    async def acknowledge(self, numbers: Sequence[int]) -> None:
        """Forget changes that have been written to their objects."""
        await self._reads.fetch("acknowledge", {"numbers": int8s(numbers)})
