"""What is stored, seen past the verbs of the store, and the actors that a model puts on a store.

What lives here: `View` of the tables in memory and on PostgreSQL, and `Actor`, which remembers what a worker remembers.
What must not: rules and verdicts; those are the models'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from perdure.model import codec
from perdure.model.events import ClosedFromOutside, Event, Incoming, Turn
from perdure.model.runs import ClaimedRun, InboxItem, RunId, RunState
from perdure.model.workers import Lease
from perdure.store.base import Start
from tests.support.stores import MemoryStage


@dataclass(frozen=True)
class Row:
    """A run as it is stored; ``inbox`` has number, owner and body of each message."""

    instance: str
    state: RunState
    suspended: bool
    build: str | None
    owner: int | None
    mail: int
    inbox: tuple[tuple[int, int | None, bytes], ...]
    tasks: tuple[int, ...]
    history: tuple[tuple[int, bytes], ...]

    def events(self) -> list[Event]:
        """Return the recorded events, in order."""
        return [event for seq, data in self.history for event in codec.decode_turn(seq, data).events]


@dataclass(frozen=True)
class View:
    """Everything that is stored about runs, and worker and epoch of the leases in force."""

    runs: dict[RunId, Row]
    alive: frozenset[tuple[int, int]]

    def in_force(self, lease: Lease) -> bool:
        """Tell whether a lease is in force."""
        return (lease.worker, lease.epoch) in self.alive


def in_memory(stage: MemoryStage) -> View:
    """Look into the tables of the store in memory."""
    store = stage.store
    runs = {
        run.id: Row(
            run.instance,
            run.state,
            run.suspended,
            run.build,
            run.owner,
            run.mail,
            tuple((number, row.owner, row.body) for number, row in sorted(run.inbox.items())),
            tuple(sorted(run.tasks)),
            tuple(sorted(run.history.items())),
        )
        for run in store.runs.values()
    }
    alive = [(row.id, row.epoch) for row in store.workers_by_id.values() if row.expires_at > store.clock()]
    return View(runs, frozenset(alive))


def in_postgres(connection: psycopg.Connection[Any]) -> View:
    """Look into the tables of PostgreSQL, on a connection that is not the store's."""

    def by_run(query: str) -> dict[RunId, list[tuple[Any, ...]]]:
        found: dict[RunId, list[tuple[Any, ...]]] = defaultdict(list)
        for run_id, *rest in connection.execute(query.encode()).fetchall():
            found[RunId(run_id)].append(tuple(rest))
        return found

    inbox = by_run("SELECT run_id, number, owner, body FROM perdure.inbox ORDER BY run_id, number")
    tasks = by_run("SELECT run_id, seq FROM perdure.task ORDER BY run_id, seq")
    history = by_run("SELECT run_id, seq, events FROM perdure.history ORDER BY run_id, seq")
    runs = {
        run_id: Row(
            instance,
            RunState(state),
            suspended,
            build,
            owner,
            mail,
            tuple((number, who, body) for number, who, body in inbox[run_id]),
            tuple(seq for (seq,) in tasks[run_id]),
            tuple((seq, data) for seq, data in history[run_id]),
        )
        for run_id, ((instance, state, suspended, build, owner, mail),) in by_run(
            "SELECT id, instance, state, suspended, build, owner, mail FROM perdure.run ORDER BY id"
        ).items()
    }
    alive = connection.execute("SELECT id, epoch FROM perdure.worker WHERE expires_at > clock_timestamp()").fetchall()
    return View(runs, frozenset((worker, epoch) for worker, epoch in alive))


@dataclass
class Held:
    """What a worker remembers of a run that it owns: the next turn, and the mail that it has and has not recorded."""

    turns: int
    seen: int
    waiting: list[Incoming] = field(default_factory=list)

    @classmethod
    def of(cls, run: ClaimedRun) -> Held:
        """Return what a claim tells; its history and its inbox have no gap."""
        assert [turn.seq for turn in run.history] == list(range(len(run.history)))
        assert [item.number for item in run.inbox] == list(range(run.mail - len(run.inbox) + 1, run.mail + 1))
        return cls(len(run.history), run.mail, [item.event for item in run.inbox if isinstance(item.event, Incoming)])


@dataclass
class Actor:
    """A worker, as far as the store can tell. It is its own `Taker` and `Beginning`."""

    lease: Lease
    name: str
    runs: dict[RunId, Held] = field(default_factory=dict)
    tasks: set[tuple[RunId, int]] = field(default_factory=set)
    turn: Turn | None = None

    def takes_along(self, starts: int) -> bool:
        """Write them alone."""
        assert starts > 0
        return False

    def begin(self, starts: Sequence[Start]) -> list[Actor]:
        """Prepare to own new runs."""
        assert all(started.workflow == new.workflow for new, started in starts)
        return [self] * len(starts)

    def took(self, run: ClaimedRun) -> None:
        """Own a run from now on."""
        self.runs[run.info.run_id] = Held.of(run)

    def dropped(self) -> None:
        """Own nothing."""

    def told(self, items: Sequence[InboxItem]) -> None:
        """Take in messages, each once and in the order of their numbers, as an execution does."""
        for item in items:
            held = self.runs.get(item.run_id)
            if held is None or item.event is None or item.number != held.seen + 1:
                continue
            held.seen = item.number
            if isinstance(item.event, ClosedFromOutside):
                del self.runs[item.run_id]
            else:
                held.waiting.append(item.event)
