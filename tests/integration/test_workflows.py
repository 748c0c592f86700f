"""Workflows from start to result, on every store: what an author relies on."""

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

import pytest

from perdure import (
    ActivityError,
    ApplicationError,
    Limits,
    NonRetryableError,
    RetryPolicy,
    Worker,
    WorkflowCancelledError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowIdInUseError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    workflow,
)
from tests.support.world import World, eventually, run_async, types

QUICKLY = RetryPolicy(initial_interval=0.01)
calls: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def count(name: str) -> int:
    calls[name] = calls.get(name, 0) + 1
    return calls[name]


@dataclass
class Receipt:
    payment: str
    boxes: list[str]
    approved: bool


approve = workflow.signal("approve", bool)


@activity.define(timeout=timedelta(seconds=30), retry=RetryPolicy(initial_interval=0.01, max_attempts=5))
async def charge(card: str, amount: int) -> str:
    if count("charge") < 3:
        raise ConnectionError("the bank does not answer")
    return f"{card} paid {amount}"


@activity.define
def pack(item: str) -> str:
    return f"{item} packed off the event loop: {threading.current_thread() is not threading.main_thread()}"


@workflow.define
async def order(card: str, items: list[str], total: int) -> Receipt:
    payment = await charge(card, total)
    boxes = await asyncio.gather(*(pack(item) for item in items))
    try:
        async with asyncio.timeout(3600):
            approved = await approve.receive()
    except TimeoutError:
        approved = False
    return Receipt(payment, list(boxes), approved)


@run_async
async def test_an_order_is_charged_packed_approved_and_done(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[order], activities=[charge, pack]):
        handle = await client.start(order, "4242", ["tea", "milk"], 12, id="order-1")
        await handle.signal(approve, True)
        receipt = await handle.result()
    assert receipt.payment == "4242 paid 12"
    assert receipt.boxes[0] == "tea packed off the event loop: True"
    assert receipt.approved is True
    history = await handle.history()
    assert types(history).count("ActivityAttemptFailed") == 2
    assert [event.id for event in history] == list(range(1, len(history) + 1))
    assert (await handle.describe()).phase == "Succeeded"
    await world.close()


@workflow.define
async def refuse() -> None:
    try:
        await never_again(1)
    except ActivityError as error:
        raise RuntimeError("no way") from error


class Declined(NonRetryableError):
    pass


@activity.define(retry=QUICKLY)
async def never_again(number: int) -> None:
    count("never_again")
    raise Declined("card stolen")


@run_async
async def test_a_failure_comes_with_its_causes_and_tracebacks(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[refuse], activities=[never_again]):
        handle = await client.start(refuse, id="refused")
        with pytest.raises(WorkflowFailedError, match="refused failed: RuntimeError: no way") as caught:
            await handle.result()
    assert calls == {"never_again": 1}, "a non-retryable error ends the retries"
    chain: list[ApplicationError] = []
    cause = caught.value.__cause__
    while isinstance(cause, ApplicationError):
        chain.append(cause)
        cause = cause.__cause__
    assert [error.type for error in chain][:2] == ["RuntimeError", "ActivityError"]
    assert "Declined" in chain[2].type
    assert "in refuse" in chain[0].traceback
    assert "in never_again" in chain[2].traceback
    await world.close()


@activity.define
async def slow() -> str:
    count("slow")
    await asyncio.sleep(30)
    return "late"


@workflow.define
async def impatient(attempts: int) -> str:
    try:
        return await slow.options(timeout=0.05, retry=RetryPolicy(initial_interval=0.01, max_attempts=attempts))()
    except ActivityError as error:
        return f"{error.type} after {error.attempts}"


@run_async
async def test_every_attempt_has_its_timeout_and_attempts_are_limited(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[impatient], activities=[slow]):
        assert await (await client.start(impatient, 3)).result() == "TimeoutError after 3"
    assert calls == {"slow": 3}
    await world.close()


@activity.define(timeout=0.05, retry=RetryPolicy(max_attempts=1))
def blocking() -> None:
    while not activity.is_cancelled():
        time.sleep(0.01)
    count("told to stop")


@workflow.define
async def blocked() -> str:
    try:
        await blocking()
    except ActivityError as error:
        return error.type
    return "?"


@run_async
async def test_a_thread_is_told_when_its_time_is_up(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[blocked], activities=[blocking]):
        assert await (await client.start(blocked)).result() == "TimeoutError"

        async def told() -> bool:
            return calls == {"told to stop": 1}

        await eventually(told)
    await world.close()


@workflow.define
async def patient() -> str:
    try:
        await asyncio.sleep(3600)
    finally:
        await tidy()
    return "slept"


@activity.define
async def tidy() -> None:
    count("tidy")


@run_async
async def test_cancelling_runs_the_cleanup_and_ends_as_cancelled(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[patient], activities=[tidy]):
        handle = await client.start(patient, id="p")
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError, match="p was cancelled: enough"):
            await handle.result()
        assert (await handle.describe()).phase == "Cancelled"
    assert calls == {"tidy": 1}
    await world.close()


@run_async
async def test_terminating_asks_nobody(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[patient], activities=[tidy]):
        handle = await client.start(patient, id="p")

        async def waiting() -> bool:
            return "TimerStarted" in types(await handle.history())

        await eventually(waiting)
        await handle.terminate("now")
        with pytest.raises(WorkflowTerminatedError, match="p was terminated: now"):
            await handle.result()
        with pytest.raises(WorkflowClosedError, match=r"p is closed \(Terminated\)"):
            await handle.cancel()
    assert calls == {}
    await world.close()


@run_async
async def test_a_run_has_its_own_timeout(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[patient], activities=[tidy]):
        handle = await client.start(patient, id="p", timeout=0.3)
        with pytest.raises(WorkflowTimedOutError):
            await handle.result()
    await world.close()


@run_async
async def test_a_start_is_idempotent_while_the_instance_is_open(world: World) -> None:
    client = await world.client()
    handle = await client.start(patient, id="same")
    again = await client.start(patient, id="same")
    assert again.run_id == handle.run_id
    with pytest.raises(WorkflowIdInUseError, match="runs workflow patient, not refuse"):
        await client.start(refuse, id="same")
    await handle.terminate()
    assert (await client.start(patient, id="same")).run_id != handle.run_id
    await world.close()


@run_async
async def test_messages_to_nobody_are_refused(world: World) -> None:
    client = await world.client()
    with pytest.raises(WorkflowNotFoundError, match="no workflow instance ghost in namespace default"):
        await client.handle("ghost").signal("approve", True)
    await world.close()


@run_async
async def test_namespaces_do_not_see_each_other(world: World) -> None:
    one, other = await world.client("one"), await world.client("other")
    await one.start(patient, id="same")
    await other.start(patient, id="same")
    assert len(await one.list()) == 1
    async with Worker(other, workflows=[patient], activities=[tidy]):
        await other.handle("same").cancel()
        with pytest.raises(WorkflowCancelledError):
            await other.handle("same").result()
    assert (await one.handle("same").describe()).phase == "Pending"
    await world.close()


@workflow.define
async def fan_out(width: int) -> int:
    return sum(await asyncio.gather(*(one(number) for number in range(width))))


@activity.define
async def one(number: int) -> int:
    return 1


@run_async
async def test_a_wide_fan_out_uses_the_task_table_for_what_does_not_fit(world: World) -> None:
    client, elsewhere = await world.client(), await world.client()
    few = Limits(activities=3)
    async with (
        Worker(client, workflows=[fan_out], activities=[one], limits=few),
        Worker(elsewhere, activities=[one], limits=few),
    ):
        assert await (await client.start(fan_out, 200)).result() == 200
    await world.close()


@workflow.define
async def somewhere_else() -> list[str]:
    return [await where.options(queue="gpu")(), await workflow.execute_activity("where", queue="gpu", result_type=str)]


@activity.define
async def where() -> str:
    if count("where") == 1:
        raise ValueError("warming up")
    return activity.info().queue


@run_async
async def test_an_activity_can_go_to_the_workers_of_another_queue(world: World) -> None:
    client, gpu = await world.client(), await world.client()
    retry = RetryPolicy(initial_interval=0.01)
    assert where.options(retry=retry).default_options.retry == retry
    async with Worker(client, workflows=[somewhere_else]), Worker(gpu, activities=[where], queues=["gpu"]):
        assert await (await client.start(somewhere_else)).result() == ["gpu", "gpu"]
    await world.close()


@workflow.define
async def wrong_input(number: int) -> int:
    return number


@run_async
async def test_input_that_does_not_fit_fails_the_run_with_a_clear_message(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[wrong_input]):
        handle = await client.start("wrong_input", "seven", id="w")
        with pytest.raises(WorkflowFailedError, match="the input does not fit wrong_input"):
            await handle.result()
    await world.close()


@activity.define(retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
async def leaving() -> None:
    raise SystemExit(count("leaving"))


@activity.define(retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
def leaving_in_a_thread() -> None:
    raise SystemExit(count("leaving in a thread"))


@workflow.define
async def tolerant() -> list[str]:
    failures = await asyncio.gather(leaving(), leaving_in_a_thread(), return_exceptions=True)
    return [str(failure) for failure in failures]


@run_async
async def test_an_activity_that_exits_the_program_fails_and_the_worker_lives_on(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[tolerant], activities=[leaving, leaving_in_a_thread]):
        for _ in range(2):
            calls.clear()
            assert await (await client.start(tolerant)).result() == [
                "activity leaving failed after 2 attempts: SystemExit: 2",
                "activity leaving_in_a_thread failed after 2 attempts: SystemExit: 2",
            ]
    await world.close()
