"""The controller on a real store and without a cluster: what becomes of an object that it cannot deal with."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from perdure.manifest import is_uid
from perdure_operator.abandoned import MOST, Abandoned
from perdure_operator.cluster import Cluster
from perdure_operator.controller import Controller
from perdure_operator.database import Database
from perdure_operator.objects import Objects
from perdure_operator.settings import Settings
from perdure_operator.writer import StatusWriter
from tests.unit.test_manifest import changed, source


class Always:
    """A mandate that does not end."""

    def remaining(self) -> float:
        return 60.0


class FaultyMaps:
    """ConfigMaps of which one cannot be read for a reason that the operator does not know."""

    def __init__(self) -> None:
        self.repaired = False

    async def read(self, _: str, name: str) -> Mapping[str, str] | None:
        if name == "faulty" and not self.repaired:
            raise ZeroDivisionError
        return {"k": "v"}


class GoneMeanwhile(FaultyMaps):
    """The object whose ConfigMap is read is deleted while that goes on."""

    def __init__(self) -> None:
        self.delete: Callable[[], None] = lambda: None

    async def read(self, _: str, __: str) -> Mapping[str, str] | None:
        self.delete()
        return {"k": "v"}


def body(name: str, **spec: Any) -> dict[str, Any]:
    return changed(metadata={"name": name, "namespace": "shop", "uid": str(uuid.uuid4()), "generation": 1}, spec=spec)


def test_an_object_that_the_operator_fails_on_is_tried_again_and_does_not_hold_up_the_others() -> None:
    asyncio.run(deal_with_a_faulty_object())


async def deal_with_a_faulty_object() -> None:
    database, objects, maps = Database("memory://"), Objects(), FaultyMaps()
    writer = StatusWriter(Cluster(1), objects, Always(), Settings(url="memory://", identity="a"))
    controller = Controller(database, objects, writer, Abandoned(), maps.read)
    working = asyncio.create_task(controller.run())
    controller.see(body("faulty", inputFrom=[source("faulty", "k")]))
    store = await database.store()
    async with asyncio.timeout(20):
        for number in range(20):
            controller.see(body(f"fine-{number}"))
            await controller.catch_up(20)
            assert await store.describe("shop", f"fine-{number}") is not None
        assert controller.errors == 1, "it has a pause of its own"
        assert writer.waiting == 21, "its object says so"
        maps.repaired = True
        while await store.describe("shop", "faulty") is None:  # noqa: ASYNC110  # the store has no event for it
            await asyncio.sleep(0.05)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await database.close()


def test_an_object_that_is_deleted_while_it_finds_its_name_in_use_is_not_started_when_the_name_is_free() -> None:
    asyncio.run(delete_while_the_name_is_in_use())


async def delete_while_the_name_is_in_use() -> None:
    database, objects, maps = Database("memory://"), Objects(), GoneMeanwhile()
    writer = StatusWriter(Cluster(1), objects, Always(), Settings(url="memory://", identity="a"))
    controller = Controller(database, objects, writer, Abandoned(), maps.read)
    working = asyncio.create_task(controller.run())
    store = await database.store()
    first, second = body("order"), body("order", inputFrom=[source("late", "k")])
    async with asyncio.timeout(20):
        controller.see(first)
        await controller.catch_up(20)
        maps.delete = lambda: controller.see_gone(second["metadata"]["uid"], "shop", "order")
        controller.see(second)
        await controller.catch_up(20)
        await store.terminate("shop", "order", "enough")
        controller.name_is_free("shop", "order")
        await controller.catch_up(20)
        run = await store.describe("shop", "order")
        assert run is not None
        assert run.key == first["metadata"]["uid"], "nobody wants the second run"
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await database.close()


def test_any_number_of_runs_go_on_without_their_objects_whoever_leads_next() -> None:
    asyncio.run(abandon_more_than_a_lease_remembers())


async def abandon_more_than_a_lease_remembers() -> None:
    database, objects = Database("memory://"), Objects()
    writer = StatusWriter(Cluster(1), objects, Always(), Settings(url="memory://", identity="a"))
    controller = Controller(database, objects, writer, Abandoned(), FaultyMaps().read)
    working = asyncio.create_task(controller.run())
    store = await database.store()
    names = [f"order-{number}" for number in range(MOST + 1)]
    uids = {}
    async with asyncio.timeout(60):
        for name in names:
            document = body(name, deletionPolicy="Abandon")
            uids[name] = document["metadata"]["uid"]
            controller.see(document)
        await controller.catch_up(60)
        for again in range(2):  # the watch tells, and then the comparison
            for name in names:
                controller.see_gone(uids[name], "shop", name)
            assert controller.waiting == len(names), again
        await controller.catch_up(60)
        keys = await store.open_keys()
    assert len(keys) == len(names)
    assert not any(is_uid(key) for key in keys), "the next leader would look for the object"
    assert not any(run.cancel_requested for run in await store.by_key(list(keys)))
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await database.close()
