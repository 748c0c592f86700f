"""Runs that may have ended their last owners: each shows what it does before the worker takes another one."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from perdure import Client, Limits, Worker, activity, workflow
from perdure.activity import Activity
from perdure.runtime import claiming
from perdure.store.base import POISONOUS
from perdure.workflow import Workflow
from tests.support.world import eventually, run_async


class Scene:
    """What the activities look at; each test sets it up."""

    dsn = ""
    gate = asyncio.Event()
    reached = asyncio.Event()


@activity.define
async def looks_at(instance: str) -> str:
    """Return the state of a run after as many looks as a claim would need several times over."""
    async with await psycopg.AsyncConnection.connect(Scene.dsn, autocommit=True) as connection:
        for _ in range(100):
            rows = await connection.execute("SELECT state FROM perdure.run WHERE instance = %s", (instance,))
            row = await rows.fetchone()
    assert row is not None
    return str(row[0])


@activity.define
async def waits_at_the_gate() -> None:
    Scene.reached.set()
    await Scene.gate.wait()


@workflow.define
async def looks(instance: str) -> str:
    return await looks_at(instance) + await looks_at(instance)


@workflow.define
async def waits() -> str:
    await waits_at_the_gate()
    return "waited"


@workflow.define
async def quick() -> str:
    return "quick"


WORKFLOWS: list[Workflow[..., Any]] = [looks, waits, quick]
ACTIVITIES: list[Activity[..., Any]] = [looks_at, waits_at_the_gate]


async def suspect(dsn: str) -> None:
    """Let all runs be such as two owners in a row did not survive."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("UPDATE perdure.run SET takeovers = 2")
    Scene.dsn, Scene.gate, Scene.reached = dsn, asyncio.Event(), asyncio.Event()


@run_async
async def test_nothing_is_claimed_while_a_suspect_moves(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the one that is claimed next would be blamed for what the first one does after its first turn."""
    monkeypatch.setattr(claiming, "TRIAL", 60.0)
    async with Client.connect(migrated) as client:
        first = await client.start(looks, "second", id="first")
        second = await client.start(quick, id="second")
        await suspect(migrated)
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES):
            assert await first.result() == "00", "ready, and not owned"
            assert await second.result() == "quick"


@run_async
async def test_a_suspect_that_takes_long_keeps_the_others_waiting_for_a_moment_only(migrated: str) -> None:
    async with Client.connect(migrated) as client:
        first = await client.start(waits)
        second = await client.start(quick)
        await suspect(migrated)
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES):
            await Scene.reached.wait()
            assert await second.result() == "quick"
            Scene.gate.set()
            assert await first.result() == "waited"


@run_async
async def test_a_run_in_a_long_activity_outlives_any_number_of_lost_leases(migrated: str) -> None:
    """As long as the process lives, the run is not what ended it."""
    async with Client.connect(migrated) as client:
        handle = await client.start(waits)
        Scene.gate, Scene.reached = asyncio.Event(), asyncio.Event()
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES, limits=Limits(lease=0.6)) as worker:
            for outages in range(POISONOUS + 1):

                async def lost(outages: int = outages) -> bool:
                    return worker.tally().leases_lost > outages

                await Scene.reached.wait()
                Scene.reached.clear()
                async with await psycopg.AsyncConnection.connect(migrated) as connection:
                    await connection.execute("LOCK TABLE perdure.worker IN ACCESS EXCLUSIVE MODE")
                    await eventually(lost)
            await Scene.reached.wait()
            Scene.gate.set()
            assert await handle.result() == "waited"
