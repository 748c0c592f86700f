"""Commands that look: ``list``, ``describe``, ``history``, ``result``.

What lives here: one call of the client each, and printing. What must not: what
is shown about a run (`portrait`) or an event (`narration`).
"""

import asyncio
import dataclasses
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli import output, portrait
from perdure.cli.exits import WaitTimedOutError
from perdure.cli.narration import QUIET, Narrator, event_object
from perdure.cli.options import AsJson, InstanceId, Target, flattened, seconds_option
from perdure.client import Client, WorkflowHandle
from perdure.model.runs import PHASES, HistoryEvent, RunState

FOLLOW_POLL = 0.2
"""Seconds between two looks at a history that is followed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Which runs are listed."""

    workflow: Annotated[str | None, typer.Option(help="Runs of this workflow only.", show_default=False)] = None
    phases: Annotated[
        list[str] | None,
        typer.Option("--phase", metavar="PHASE", help=f"Runs in this phase only; repeatable. {', '.join(PHASES)}."),
    ] = None
    limit: Annotated[int, typer.Option(help="The most rows, newest first.", min=1, max=10_000)] = 50
    as_json: AsJson = False


@flattened
def list_runs(options: ListOptions, target: Target) -> None:
    """List runs, newest first."""
    asyncio.run(_list(options, target))


async def _list(options: ListOptions, target: Target) -> None:
    async with target.client() as client:
        runs = await client.list(workflow=options.workflow, phases=options.phases or (), limit=options.limit)
    # Stored as one state, told apart by whether somebody has ever claimed the run.
    runs = [run for run in runs if not options.phases or run.phase in options.phases]
    if options.as_json:
        for run in runs:
            output.show_json_line(portrait.as_object(run))
    elif runs:
        output.show_table(["ID", "WORKFLOW", "PHASE", "AGE", "ABOUT"], [portrait.row(run) for run in runs])
    else:
        output.note(f"no runs in namespace {client.namespace}")


@flattened
def describe(instance: InstanceId, target: Target, as_json: AsJson = False) -> None:
    """Show everything about an instance: where it stands, what it waits for, why it is held and what to do."""
    asyncio.run(_describe(instance, target, as_json=as_json))


async def _describe(instance: str, target: Target, *, as_json: bool) -> None:
    async with target.client() as client:
        handle = client.handle(instance)
        run = await handle.describe()
        history = await handle.history()
        workers = await client.store.workers(client.namespace) if run.state is RunState.READY else []
    if as_json:
        output.show_json({**portrait.as_object(run), "events": len(history)})
        return
    output.out.print(Text(run.id, style="bold"))
    for name, value in portrait.facts(run, history, [worker for _, worker, _ in workers]):
        for number, line in enumerate(_lines(value)):
            output.out.print(Text(f"  {'' if number else name:<12}", style=QUIET).append_text(line))


def _lines(value: output.Cell) -> list[Text]:
    """Return the lines of a value; on a terminal they fit beside the names."""
    lines = [_plain(line) for line in value.split("\n")] if isinstance(value, str) else [value]
    if not output.out.is_terminal:
        return lines
    width = max(20, output.out.width - 14)
    return [part for line in lines for part in line.wrap(output.out, width)]


def _plain(cell: output.Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(output.printable(cell), style="not dim")


@flattened
def history(
    instance: InstanceId,
    target: Target,
    as_json: AsJson = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new events until the run closes.")] = False,
) -> None:
    """Show what was recorded: one event a line, with number, time, type, what is telling, and the worker."""
    asyncio.run(_history(instance, target, as_json=as_json, follow=follow))


async def _history(instance: str, target: Target, *, as_json: bool, follow: bool) -> None:
    async with target.client() as client:
        handle = client.handle(instance)
        narrator, shown = Narrator(), 0
        while True:
            closed = (await handle.describe()).state.closed  # asked first: what is read next is then complete
            for event in (await handle.history())[shown:]:
                shown += 1
                if as_json:
                    output.show_json_line(event_object(event))
                else:
                    output.show_line(event_line(narrator, event))
            if closed or not follow:
                return
            await asyncio.sleep(FOLLOW_POLL)


def event_line(narrator: Narrator, event: HistoryEvent) -> Text:
    """Return one line of a history."""
    sentence = narrator.tell(event)
    line = Text(f"{event.id:>4}  ", style=QUIET).append(output.clock(event.time), style="not dim")
    line.append(f"  {event.type:<33}", style=f"not dim {sentence.style}").append(sentence.details, style="not dim")
    return line.append(f"  ({event.worker})" if event.worker else "")


@flattened
def result(
    instance: InstanceId,
    target: Target,
    timeout: Annotated[float | None, seconds_option("Wait no longer than this; the run goes on.")] = None,
) -> None:
    """Wait until an instance closes and print its result as JSON.

    A run that failed is told on stderr, with the traceback of its code. Exit codes: see perdure --help.
    """
    asyncio.run(_result(instance, target, timeout))


async def _result(instance: str, target: Target, timeout: float | None) -> None:
    async with target.client() as client:
        handle = client.handle(instance)
        value = await _within(timeout, client, handle)
    print_result(value)


async def _within(timeout: float | None, client: Client, handle: WorkflowHandle[Any]) -> Any:
    try:
        async with asyncio.timeout(timeout):
            return await handle.result()
    except TimeoutError:
        run = await client.handle(handle.id).describe()
        message = f"{handle.id} did not close within {timeout:g} s; it is {run.phase}: perdure describe {handle.id}"
        raise WaitTimedOutError(message) from None


def print_result(value: Any) -> None:
    """Print what a workflow returned, as JSON on stdout."""
    output.show_json(value)
