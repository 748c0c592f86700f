"""The watcher: when it looks for the results of runs, on the store in memory."""

import asyncio
from collections.abc import Sequence

import pytest

from perdure import watcher
from perdure.errors import WorkflowNotFoundError
from perdure.listening import Hints
from perdure.model.hints import Audience, Hint
from perdure.model.runs import Ended, RunId
from perdure.store.memory import MemoryStore
from perdure.watcher import Watcher
from tests.support.stores import NAMESPACE, new_run
from tests.support.world import run_async


class Asked(MemoryStore):
    """A store that remembers which results it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[RunId]] = []

    async def ended(self, runs: Sequence[RunId]) -> dict[RunId, Ended | None]:
        self.asked.append(list(runs))
        return await super().ended(runs)


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
async def test_who_takes_a_hint_with_a_bug_makes_its_process_deaf_for_a_while_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    hints, heard = Hints(store), asyncio.Event()

    def take(hint: Hint) -> None:
        heard.set()
        raise RuntimeError(f"a bug met by {hint}")

    hints.add(take, Audience.CLIENTS)
    while not heard.is_set():
        store.hint(Hint(closed=frozenset({RunId(1)})))
        await asyncio.sleep(0)
    while not hints.deaf:  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)
    assert "RuntimeError: a bug met by Hint" in caplog.text
    await hints.stop()


@run_async
async def test_the_result_of_another_instance_under_the_same_number_is_nobodys_result() -> None:
    """A server that takes over may give numbers away again that were given just before."""
    store = MemoryStore()
    watching, run_id = Watcher(store), (await store.start(new_run("another"))).run_id
    await store.terminate(NAMESPACE, "another", "enough")
    with pytest.raises(WorkflowNotFoundError):
        await watching.outcome("forgotten", run_id)
    await watching.stop()


@run_async
async def test_only_runs_that_are_waited_for_and_said_to_be_closed_are_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process that waits for something hears of all that closes."""
    monkeypatch.setattr(watcher, "SHORTEST", 3_600.0)
    store, loop = Asked(), asyncio.get_running_loop()
    watching = Watcher(store)
    first, second, third = [(await store.start(new_run(name))).run_id for name in ("first", "second", "third")]
    waiting = [
        asyncio.ensure_future(watching.outcome(name, run_id, open_at=loop.time()))
        for name, run_id in (("first", first), ("second", second))
    ]
    await asyncio.sleep(0)
    for name in ("second", "third"):
        await store.terminate(NAMESPACE, name, "enough")
    watching.on_hint(Hint(closed=frozenset({third})))
    watching.on_hint(Hint(closed=frozenset({second})))
    await waiting[1]
    assert store.asked == [[second]]
    assert not waiting[0].done()
    await watching.stop()
    await asyncio.gather(*waiting, return_exceptions=True)


@run_async
async def test_a_run_whose_end_nobody_tells_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """While other runs end every moment, and are told."""
    monkeypatch.setattr(watcher, "LONGEST", watcher.SHORTEST)
    store, loop = Asked(), asyncio.get_running_loop()
    watching = Watcher(store)
    silent, other = [(await store.start(new_run(name))).run_id for name in ("silent", "other")]
    waiting = asyncio.ensure_future(watching.outcome("silent", silent, open_at=loop.time()))
    never = asyncio.ensure_future(watching.outcome("other", other, open_at=loop.time()))
    await asyncio.sleep(0)
    await store.terminate(NAMESPACE, "silent", "enough")
    while not waiting.done():
        watching.on_hint(Hint(closed=frozenset({other})))
        await asyncio.sleep(0)
    assert [other] in store.asked
    assert not never.done()
    await watching.stop()
    await asyncio.gather(never, return_exceptions=True)
