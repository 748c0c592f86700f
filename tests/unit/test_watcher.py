"""The watcher: when it looks for the results of runs, on the store in memory."""

import asyncio

import pytest

from perdure import watcher
from perdure.errors import WorkflowNotFoundError
from perdure.store.memory import MemoryStore
from perdure.watcher import Watcher
from tests.support.stores import NAMESPACE, new_run
from tests.support.world import run_async


@run_async
async def test_a_run_that_was_open_long_ago_is_looked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "SHORTEST", 3_600.0)
    store, now = MemoryStore(), asyncio.get_running_loop().time()
    watching, run_id = Watcher(store), (await store.start(new_run("closed"))).run_id
    await store.terminate(NAMESPACE, "closed", "enough")
    assert await watching.outcome("closed", run_id, open_at=now - 7_200) == await watching.outcome("closed", run_id)

    recently = asyncio.ensure_future(watching.outcome("closed", run_id, open_at=now))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not recently.done(), "one that was open a moment ago is given the time to close"
    await watching.stop()
    with pytest.raises(asyncio.CancelledError):
        await recently


@run_async
async def test_the_result_of_another_instance_under_the_same_number_is_nobodys_result() -> None:
    """A server that takes over may give numbers away again that were given just before."""
    store = MemoryStore()
    watching, run_id = Watcher(store), (await store.start(new_run("another"))).run_id
    await store.terminate(NAMESPACE, "another", "enough")
    with pytest.raises(WorkflowNotFoundError):
        await watching.outcome("forgotten", run_id)
    await watching.stop()
