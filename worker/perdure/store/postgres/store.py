"""The store on PostgreSQL, put together.

What lives here: `PostgresStore`, which owns the connections and sends the hints that follow from each verb. What must
not: SQL, nor the packing of its parameters; each concern has a module beside this one.

Four lanes, so that none waits for another: for turns, for starts and messages, for readers, and for the rest. The lease
has a connection of its own, in its own thread, and so has LISTEN.
"""

from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from perdure.errors import SchemaVersionError
from perdure.model.events import Incoming, Turn
from perdure.model.hints import NOTHING, Audience, Hint
from perdure.model.runs import (
    ClaimAnswer,
    ClaimedRun,
    ClaimedTask,
    Commit,
    Committed,
    Heartbeat,
    Hold,
    InboxItem,
    NewRun,
    RunId,
    Started,
    TaskResult,
)
from perdure.model.workers import Expired, Known, Lease, Renewal, WorkerInfo
from perdure.store.base import TOO_LARGE, UNREADABLE, Taker
from perdure.store.postgres import flushing, leasing, owning, rows, starting, tasking
from perdure.store.postgres.address import Address, check_settings
from perdure.store.postgres.births import Births
from perdure.store.postgres.connection import Lane, Lanes, Patience, Pooler
from perdure.store.postgres.deliveries import Deliveries
from perdure.store.postgres.hints import Hints
from perdure.store.postgres.line import LeaseLine
from perdure.store.postgres.migrate import check_version
from perdure.store.postgres.reads import PostgresReads
from perdure.store.postgres.sealing import Seal


class PostgresStore(PostgresReads):
    """A `Store` and `ReadStore` on PostgreSQL; belongs to the event loop in which `connect` was called.

    ``statements`` counts the statements sent, by the name of their query.
    """

    def __init__(self, address: Address) -> None:
        self.statements: Counter[str] = Counter()
        pooler = Pooler(address)
        self._address = address
        self._turns = Lane(address, pooler, self.statements, hot=True, pairs=True)
        self._starts = Lane(address, pooler, self.statements, hot=True)
        self._misc = Lane(address, pooler, self.statements, hot=True)
        reads = Lane(address, pooler, self.statements, hot=True)
        super().__init__(reads, Lane(address, pooler, self.statements, hot=False), self._turns, self._starts)
        self._hints = Hints(address, pooler, self._misc)
        starts = Lanes(self._starts, self._turns)
        self._births = Births(starts, self._turns, self._hints)
        self._deliveries = Deliveries(starts)
        self._line = LeaseLine(address, pooler, self.statements)
        self._runs = owning.Claims(self._misc, "claim")
        self._tasks = owning.Claims(self._misc, "claim_tasks")
        self._mail = owning.Inbox(self._misc)

    @classmethod
    async def connect(cls, url: str) -> "PostgresStore":
        """Connect and check the version of the schema.

        Raises `StoreUnavailableError` when nobody answers, `SchemaVersionError` when ``perdure migrate`` has to run,
        `RequestError` when the URL cannot be read or leads to settings that cannot be worked with.
        """
        address = Address.parse(url)
        store = cls(address)
        try:
            await _check(store._misc, address)
            store._hints.seal = Seal(await _announcement_key(store._misc, address))
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close every connection."""
        await self._hints.close()
        await self._births.close()
        await self._deliveries.close()
        for lane in (self._turns, self._starts, self._misc, self._reads, self._pages):
            await lane.close()
        self._line.close()

    # Starting and telling

    def start(self, new: NewRun, taker: Taker | None = None) -> Coroutine[Any, Any, Started]:
        """Create the run and its turn 0, or return the run that has the key or the id already."""
        return self._births.start(new, taker)

    async def deliver(
        self, namespace: str, instance: str, event: Incoming, run_id: RunId | None = None
    ) -> RunId | None:
        """Number the message and put it into the inbox of the open run; a parked run is ready then."""
        told, hint = await self._deliveries.deliver(namespace, instance, event, run_id)
        self.hint(hint)
        return told

    async def terminate(self, namespace: str, instance: str, reason: str, run_id: RunId | None = None) -> RunId | None:
        """Close the open run; the last message in its inbox tells its owner."""
        closed, hint = await starting.terminate(self._misc, namespace, instance, reason, run_id)
        self.hint(hint)
        return closed

    async def hold_unknown(self, lease: Lease) -> int:
        """Hold ready runs that no worker can take."""
        held, hint = await leasing.hold_unknown(self._misc, lease)
        self.hint(hint)
        return held

    async def time_out(self, lease: Lease) -> int:
        """Close runs that nobody owns and whose deadline has passed."""
        closed, hint = await starting.time_out(self._misc, lease)
        self.hint(hint)
        return closed

    async def resume(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunId | None:
        """Make a held run ready again."""
        resumed, hint = await starting.resume(self._misc, namespace, instance, run_id)
        self.hint(hint)
        return resumed

    async def adopt(self, run_id: RunId, key: str) -> None:
        """Give a run the key of another object."""
        self.hint(await starting.adopt(self._misc, run_id, key))

    async def suspend(
        self, namespace: str, instance: str, run_id: RunId | None = None, *, suspended: bool
    ) -> RunId | None:
        """Let nobody take the open run, or let them again."""
        found, hint = await starting.suspend(self._misc, namespace, instance, run_id, suspended=suspended)
        self.hint(hint)
        return found

    # Workers and their leases

    async def register(self, info: WorkerInfo) -> Lease:
        """Create a worker with a fresh id and a random epoch."""
        lease = await leasing.register(self._misc, info)
        self._hints.hear_of_work(lease.worker, info.queues)
        return lease

    def renew(self, lease: Lease) -> Renewal:
        """Extend the lease and forget the workers of this namespace whose lease expired. Blocks."""
        return leasing.renew(self._line, lease)

    async def resign(self, lease: Lease) -> None:
        """Give back every owned run and task and forget the worker."""
        self.hint(await leasing.resign(self._misc, lease))

    async def expire(self, namespace: str, worker_name: str) -> Expired:
        """Take the leases of the workers of this name away, and give back what they had."""
        expired, hint = await leasing.expire(self._misc, namespace, worker_name)
        self.hint(hint)
        return expired

    async def recover(self, lease: Lease) -> int:
        """Make ready what vanished workers had, and held runs that this worker's code may free."""
        freed, hint = await leasing.recover(self._misc, lease)
        self.hint(hint)
        return freed

    # What owners do

    async def claim(self, lease: Lease, limit: int) -> list[ClaimedRun]:
        """Take over runs that are due or ready. Those that only a newer release can read are held."""
        claimed, unreadable, hint = await owning.claim_runs(self._runs, lease, limit)
        self.hint(hint)
        await self._hold(lease, unreadable)
        return claimed

    async def claim_announced(self, lease: Lease, run: ClaimedRun, turn: Turn) -> ClaimAnswer:
        """Take a run as it was announced, and record its turn 1, where its next turn will be recorded."""
        answer, hint = await owning.claim_announced(self._runs, self._turns, lease, run, turn)
        self.hint(hint)
        return answer

    async def absolve(self, runs: Sequence[RunId]) -> None:
        """Clear runs of the suspicion that they end their workers."""
        await owning.absolve(self._misc, runs)

    async def owned(self, lease: Lease) -> list[RunId]:
        """Return the runs of this worker."""
        return await owning.owned(self._misc, lease)

    async def flush(self, lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        """Carry out commits of different runs."""
        flushed = await flushing.flush(self._turns, self._hints, lease, commits)
        self.hint(flushed.hint)
        return flushed.results()

    async def remembers(self, lease: Lease, known: Sequence[Known]) -> Lease | None:
        """Return the lease with the server that answers now; None when that lacks something that is known."""
        return await owning.remembers(self._turns, lease, known)

    async def inbox(self, lease: Lease) -> list[InboxItem]:
        """Return messages that came to this worker. Runs with mail that only a newer release can read are held."""
        items, unreadable = await self._mail.read(lease)
        await self._hold(lease, unreadable)
        return items

    async def claim_tasks(self, lease: Lease, limit: int, passed_over: Sequence[str] = ()) -> list[ClaimedTask]:
        """Take due tasks, those first that have waited longest."""
        return await owning.claim_tasks(self._tasks, lease, limit, passed_over)

    async def owned_tasks(self, lease: Lease) -> list[tuple[RunId, int]]:
        """Return the tasks that this worker has."""
        return await tasking.owned(self._misc, lease)

    async def finish_tasks(self, lease: Lease, results: Sequence[TaskResult]) -> None:
        """Record what became of tasks that this worker still has."""
        self.hint(await tasking.finish(self._misc, lease, results))

    async def heartbeat(self, lease: Lease, beats: Sequence[Heartbeat]) -> None:
        """Keep the details of attempts under way."""
        await tasking.heartbeat(self._misc, lease, beats)

    # Hints

    def hint(self, hint: Hint) -> None:
        """Wake listeners soon, coalesced."""
        if hint != NOTHING:
            self._hints.send(hint)

    def hear(self, audience: Audience) -> None:
        """Let those who listen hear what is for this audience, too."""
        self._hints.hear(audience)

    def listen(self) -> AsyncIterator[Hint]:
        """Yield hints from all processes; raises when it cannot listen."""
        return self._hints.listen()

    async def _hold(self, lease: Lease, unreadable: owning.Unreadable) -> None:
        if unreadable:
            commits = [
                Commit(
                    run_id=run_id,
                    ending=Hold(
                        reason=TOO_LARGE if isinstance(error, rows.RunTooLargeError) else UNREADABLE, message=str(error)
                    ),
                )
                for run_id, error in unreadable.items()
            ]
            # They were read just now: there is nothing that another server could have forgotten.
            confirmed = await self.remembers(lease, ())
            assert confirmed is not None
            await self.flush(confirmed, commits)


async def _check(lane: Lane, address: Address) -> None:
    try:
        ((version, isolation, synchronous_commit),) = await lane.fetch("version", {}, patience=Patience(0))
    except SchemaVersionError:
        check_version(0, address.database, address.host)  # there is no table of migrations
    else:
        check_version(version, address.database, address.host)
        check_settings(address, isolation, synchronous_commit)


async def _announcement_key(lane: Lane, address: Address) -> bytes:
    found = await lane.fetch("announcement_key", {})
    if not found:
        message = (
            f"the table perdure.announcement_key of database {address.database} at {address.host} is empty: "
            "restore its row, or insert 32 random bytes and start every process again"
        )
        raise SchemaVersionError(message)
    return bytes(found[0][0])
