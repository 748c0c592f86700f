"""A start means the same alone and among others: one statement writes it when it is alone, and another with others."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.model.runs import NewRun
from tests.support.stores import NAMESPACE, Stage, behaviour, new_run

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "urgent": {"priority": 3},
    "bounded": {"timeout": 60.0},
    "suspended": {"suspended": True},
    "built": {"build": "build-1"},
    "keyed": {"key": "uid"},
    "large": {"input": b'["' + b"x" * 50_000 + b'"]'},
    "another": {"workflow": "refund", "queue": "other"},
}


def kinds(prefix: str) -> list[NewRun]:
    """Return a start of every kind."""
    changes = {name: fields | ({"key": f"{prefix}-uid"} if "key" in fields else {}) for name, fields in KINDS.items()}
    return [new_run(f"{prefix}-{name}", **fields) for name, fields in changes.items()]


async def seen(stage: Stage, prefix: str) -> dict[str, dict[str, Any]]:
    """Return what a claim, or else a summary, says of each run but for what differs between any two."""
    worker = await stage.worker(f"{prefix}-worker", workflows=("order", "refund"), queues=("default", "other"))
    claimed = {run.info.id: run for run in await stage.store.claim(worker, 50) if run.info.id.startswith(prefix)}
    found = {}
    for name in KINDS:
        summary = await stage.store.describe(NAMESPACE, f"{prefix}-{name}")
        assert summary is not None
        run = claimed.get(summary.id)
        found[name] = {
            "summary": (summary.workflow, summary.queue, summary.state, summary.priority, summary.suspended),
            "key": (summary.key or "").removeprefix(prefix),
            "build": summary.build,
            "claimed": run is not None,
            "deadline": run.deadline - run.created_at if run is not None and run.deadline is not None else None,
            "input": run.history[0].events[0] if run is not None else None,
        }
    return found


@behaviour
async def test_runs_that_are_started_together_are_as_those_that_are_started_alone(stage: Stage) -> None:
    alone = [await stage.store.start(new) for new in kinds("alone")]
    first = await seen(stage, "alone")
    together = await asyncio.gather(*(stage.store.start(new) for new in kinds("together")))
    assert await seen(stage, "together") == first
    assert [first[name]["claimed"] for name in ("plain", "large", "suspended")] == [True, True, False]
    assert first["bounded"]["deadline"] == 60_000_000
    answers = [[(started.created, started.workflow, started.taken) for started in each] for each in (alone, together)]
    assert answers[0] == answers[1]


@behaviour
async def test_what_is_known_already_is_found_alone_and_together(stage: Stage) -> None:
    before = {new.id: await stage.store.start(new) for new in kinds("known")}
    again = [new_run("known-plain", workflow="refund"), new_run("elsewhere", key="known-uid")]
    alone = [await stage.store.start(new) for new in [*again, new_run("fresh-1")]]
    together = await asyncio.gather(*(stage.store.start(new) for new in [*again, new_run("fresh-2")]))
    for found in (alone, together):
        assert [(started.created, started.workflow) for started in found] == [
            (False, "order"),
            (False, "order"),
            (True, "order"),
        ]
        assert [started.run_id for started in found[:2]] == [
            before[name].run_id for name in ("known-plain", "known-keyed")
        ]
