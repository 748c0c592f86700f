"""Commands that tell an instance something: ``signal``, ``cancel``, ``terminate``, ``resume``.

What lives here: one call of the client each. What must not: rules about what a
run does with a message.
"""

import asyncio
from typing import Annotated

import typer

from perdure.cli import output
from perdure.cli.options import InstanceId, Target, flattened, value_of
from perdure.errors import RequestError

Reason = Annotated[str, typer.Option(help="Why; it is recorded and shown.", show_default=False)]


@flattened
def signal(
    instance: InstanceId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the signal.", show_default=False)],
    target: Target,
    payload: Annotated[
        str | None,
        typer.Argument(metavar="[PAYLOAD]", help="The message, as JSON; what is not JSON is a string."),
    ] = None,
) -> None:
    """Send a signal to an open instance. It is recorded when this returns, whether a worker runs or not."""
    asyncio.run(_signal(instance, name, target, payload))


async def _signal(instance: str, name: str, target: Target, payload: str | None) -> None:
    async with target.client() as client:
        await client.handle(instance).signal(name, value_of(payload))
    output.note(f"{instance} has the signal {name}")


@flattened
def cancel(instance: InstanceId, target: Target, reason: Reason = "") -> None:
    """Ask an instance to cancel: its code sees asyncio.CancelledError and may clean up."""
    asyncio.run(_cancel(instance, target, reason))


async def _cancel(instance: str, target: Target, reason: str) -> None:
    async with target.client() as client:
        await client.handle(instance).cancel(reason)
    output.note(f"{instance} was asked to cancel")


@flattened
def terminate(instance: InstanceId, target: Target, reason: Reason = "") -> None:
    """Close an instance now, without asking its code."""
    asyncio.run(_terminate(instance, target, reason))


async def _terminate(instance: str, target: Target, reason: str) -> None:
    async with target.client() as client:
        await client.handle(instance).terminate(reason)
    output.note(f"{instance} was terminated")


@flattened
def resume(instance: InstanceId, target: Target) -> None:
    """Let a held instance try again, with the code that its workers have now."""
    asyncio.run(_resume(instance, target))


async def _resume(instance: str, target: Target) -> None:
    async with target.client() as client:
        if await client.store.resume(client.namespace, instance) is None:
            run = await client.handle(instance).describe()
            message = f"{instance} is not held, it is {run.phase}; there is nothing to resume"
            raise RequestError(message)
    output.note(f"{instance} is ready to run again")
