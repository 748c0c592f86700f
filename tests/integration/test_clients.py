"""What a client refuses, before anything is sent: each refusal says what to do instead."""

from typing import Any

import pytest

from perdure import Client, PerdureError, Worker, activity, workflow
from perdure.errors import DefinitionError, PayloadError
from perdure.store.memory import MemoryStore
from tests.support.world import World, run_async, types, until_held

approve = workflow.signal("approve", int)


@workflow.define
async def order() -> list[int]:
    return [await approve.receive(), await approve.receive()]


@activity.define
async def pack() -> None: ...


@run_async
async def test_a_signal_that_its_receiver_could_not_read_is_refused_before_it_is_sent(world: World) -> None:
    client = await world.client()
    handle = await client.start(order)
    wrong: Any = "no number"
    with pytest.raises(PayloadError, match=r"signal approve does not fit its declared type: Expected `int`, got `str`"):
        await handle.signal(approve, wrong)
    await handle.signal(approve, 1)
    await handle.signal("approve", "nobody knows its type here")
    await handle.signal("approve", 2)
    async with Worker(client, workflows=[order]):
        assert await handle.result() == [1, 2]
    assert types(await handle.history()).count("SignalReceived") == 3
    await world.close()


@pytest.mark.parametrize("closed", [False, True])
@run_async
async def test_a_client_that_is_not_open_does_nothing(closed: bool) -> None:
    client = Client.over(MemoryStore())
    if closed:
        async with client:
            await client.start(order, id="order-1")
    handle = client.handle("order-1", order, run_id=1)
    asked = (client.start(order), client.list(), handle.signal(approve, 1), handle.result(), handle.describe())
    for question in (*asked, Worker(client, workflows=[order]).run()):
        with pytest.raises(PerdureError, match="this client is not open; use it inside"):
            await question


@run_async
async def test_what_is_no_workflow_and_what_is_no_id_cannot_be_started(world: World) -> None:
    client = await world.client()
    wrong: Any = pack
    with pytest.raises(DefinitionError, match=r"takes a function with @workflow.define, .* not <activity"):
        await client.start(wrong)
    with pytest.raises(PayloadError, match="a workflow id has 1 to 255 printable characters, not ''"):
        await client.start(order, id="")
    assert await client.list() == []
    await world.close()


shared: list[Client] = []


@workflow.define
async def starting(how: str) -> None:
    match how:
        case "connect":
            async with Client.connect("memory://"):
                pass
        case "start":
            await shared[0].start(order)
        case "handle":
            await shared[0].handle("order-1").signal(approve, 1)
        case "list":
            await shared[0].list()


@pytest.mark.parametrize("how", ["connect", "start", "handle", "list"])
@run_async
async def test_a_workflow_that_uses_a_client_is_held_and_told_to_do_it_in_an_activity(how: str) -> None:
    world = World("memory://")
    client = await world.client()
    shared[:] = [client]
    async with Worker(client, workflows=[starting]):
        held = await until_held(await client.start(starting, how))
        assert "a workflow may not use a client; start other workflows, signal" in held.hold_message
    assert len(await client.list()) == 1
    await world.close()
