"""Commands that tell an instance something: ``signal``, ``cancel``, ``terminate``, ``suspend``, ``resume``.

What lives here: one call of the client each. What must not: rules about what a
run does with a message.
"""

import asyncio
import json
from typing import Annotated

import typer

from perdure.cli import output
from perdure.cli.options import InstanceId, Target, flattened, value_of
from perdure.errors import RequestError
from perdure.manifest import is_uid
from perdure.model.runs import RunSummary

Reason = Annotated[str, typer.Option(help="Why; it is recorded and shown.", show_default=False)]
Force = Annotated[
    bool, typer.Option("--force", help="Also a run that belongs to a WorkflowInstance, if that was deleted.")
]


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
def suspend(instance: InstanceId, target: Target, force: Force = False) -> None:
    """Let no worker go on with an instance; what is under way ends first, and signals and timers are kept."""
    asyncio.run(_suspend(instance, target, force=force))


async def _suspend(instance: str, target: Target, *, force: bool) -> None:
    async with target.client() as client:
        if not force:
            _refuse_object(await client.handle(instance).describe(), wanted=True)
        await client.handle(instance).suspend()
    output.note(f"{instance} is suspended; perdure resume {instance} lets it go on")


def _refuse_object(run: RunSummary, *, wanted: bool) -> None:
    """Raise `RequestError` for a run whose object says whether it is suspended: the operator would undo it."""
    if is_uid(run.key) and not run.state.closed:
        patch = json.dumps({"spec": {"suspend": wanted}})
        message = (
            f"{run.id} belongs to a WorkflowInstance, and what its spec says counts; say it there: "
            f"kubectl -n {run.namespace} patch wfi {run.id} --type merge -p '{patch}'\n"
            "If that object was deleted and its run abandoned, add --force"
        )
        raise RequestError(message)


@flattened
def resume(instance: InstanceId, target: Target, force: Force = False) -> None:
    """Let a suspended instance go on, and a held one try again with the code that its workers have now."""
    asyncio.run(_resume(instance, target, force=force))


async def _resume(instance: str, target: Target, *, force: bool) -> None:
    async with target.client() as client:
        run = await client.handle(instance).describe()
        if run.suspended and not force:
            _refuse_object(run, wanted=False)
        if not await client.handle(instance).resume():
            message = f"{instance} is neither suspended nor held, it is {run.phase}; there is nothing to resume"
            raise RequestError(message)
    output.note(f"{instance} is ready to run again")
