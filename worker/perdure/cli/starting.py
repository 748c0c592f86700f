"""Commands that start instances: ``start`` and ``apply``.

What lives here: reading of arguments and files, and what is said about the
outcome. What must not: rules of documents (`perdure.manifest`).
"""

import asyncio
import dataclasses
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from perdure.cli import output
from perdure.cli.looking import print_result
from perdure.cli.options import Target, flattened, seconds_option, value_of
from perdure.client import Client
from perdure.errors import ManifestError, RequestError
from perdure.manifest import WorkflowInstance, load
from perdure.model.events import WorkflowExecutionCancelRequested, WorkflowExecutionStarted
from perdure.model.runs import NewRun, RunSummary

Positional = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ARG]...", help="Arguments by position, as JSON; what is not JSON is a string."),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartOptions:
    """How an instance is started."""

    named: Annotated[
        str | None,
        typer.Option(
            "--input", help="Arguments by name instead, as a JSON object.", metavar="JSON", show_default=False
        ),
    ] = None
    instance: Annotated[
        str | None,
        typer.Option("--id", help="The id of the instance; a random one by default.", show_default=False),
    ] = None
    queue: Annotated[str, typer.Option("--queue", "-q", help="The task queue whose workers run it.")] = "default"
    timeout: Annotated[float | None, seconds_option("Close the run when it takes longer.")] = None
    priority: Annotated[int, typer.Option(help="Runs of a higher priority are claimed first.", min=0, max=1000)] = 0
    build: Annotated[
        str | None,
        typer.Option("--build-id", help="Let only workers of this build run it.", metavar="ID", show_default=False),
    ] = None
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it, as `result` does.")] = False


@flattened
def start(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The name of the workflow.", show_default=False)],
    options: StartOptions,
    target: Target,
    arguments: Positional = None,
) -> None:
    """Start an instance of a workflow and print its id.

    With --id this can be repeated: while the instance is open, nothing new is started.
    """
    asyncio.run(_start(workflow, options, target, _input(arguments or [], options.named)))


async def _start(workflow: str, options: StartOptions, target: Target, payload: bytes) -> None:
    async with target.client() as client:
        new = NewRun(
            id=options.instance or os.urandom(8).hex(),
            namespace=client.namespace,
            workflow=workflow,
            queue=options.queue,
            input=payload,
            seed=os.urandom(8).hex(),
            timeout=options.timeout,
            priority=options.priority,
            build=options.build,
        )
        before = await client.store.describe(client.namespace, new.id) if options.instance else None
        run_id = await client.start_new(new)
        if before is not None and before.run_id == run_id:
            output.note(f"{new.id} is open already ({before.phase}); nothing was started")
        if options.wait:
            output.note(f"started {workflow} as {new.id}")
            print_result(await client.handle(new.id, run_id=run_id).result())
        else:
            output.out.print(new.id)


def _input(positional: Sequence[str], named: str | None) -> bytes:
    """Return the input as it is recorded: an array of what was given by position, or an object by name."""
    if named is None:
        return msgspec.json.encode([value_of(text) for text in positional])
    if positional:
        message = "give the arguments by position or with --input, not both"
        raise RequestError(message)
    try:
        values = msgspec.json.decode(named)
    except msgspec.DecodeError as error:
        message = f"--input is not JSON: {error}"
        raise RequestError(message) from None
    if not isinstance(values, dict):
        message = f"--input takes a JSON object of arguments by name, not {output.clip(named, 60)}"
        raise RequestError(message)
    return msgspec.json.encode(values)


@flattened
def apply(
    files: Annotated[
        list[str],
        typer.Option(
            "--filename",
            "-f",
            help="A YAML file, a folder of them, or - for stdin.",
            metavar="FILE|DIR|-",
            show_default=False,
        ),
    ],
    target: Target,
) -> None:
    """Start what WorkflowInstance documents ask for, without a cluster.

    Like kubectl apply this can be repeated: a document starts its instance once,
    and never again, also when the run has finished. To run it again, give it another name.
    What a document says under `suspend` and `cancel` is done to its run.
    No document is applied when one of them is not valid.
    """
    documents = [document for name in files for document in _read(name)]
    for document in documents:
        if document.config_maps:
            message = (
                f"{document.name}: spec.inputFrom names ConfigMaps, and without a cluster there are none to read; "
                "give their values under spec.input"
            )
            raise ManifestError(message)
    asyncio.run(_apply(documents, target))


async def _apply(documents: Sequence[WorkflowInstance], target: Target) -> None:
    namespaces = list(dict.fromkeys(document.namespace for document in documents))
    for namespace in namespaces:
        _refuse_contradiction(namespace, target)
    async with target.client() as client:
        for document in documents:
            done = await apply_document(client, document)
            output.out.print(f"workflowinstance/{document.name} {done}")


def _refuse_contradiction(namespace: str, target: Target) -> None:
    if namespace and target.namespace and namespace != target.namespace:
        message = f"metadata.namespace is {namespace}, but --namespace says {target.namespace}; say one of them"
        raise RequestError(message)


async def apply_document(client: Client, document: WorkflowInstance) -> str:
    """Bring about what one document asks for and return what was done, in a word or two.

    Without a cluster there is no UID; the key of a document is its namespace and
    name, so that each of them starts one run for ever.
    """
    namespace = document.namespace or client.namespace
    key = f"apply/{namespace}/{document.name}"
    found = await client.store.by_key([key])
    if found:
        run = found[0]
        await _refuse_changes(client, document, run)
        return "unchanged" if run.state.closed else await _steer(client, document, run)
    if document.cancel is not None:
        return "not started: its document says cancel"
    run_id = await client.start_new(dataclasses.replace(document, uid=key).new_run(namespace))
    started = await client.store.by_key([key])
    if not started:
        message = (
            f"{document.name} is open already, as run {run_id} that no document started; "
            f"give the document another name, or end that run: perdure terminate {document.name}"
        )
        raise RequestError(message)
    return "created"


async def _refuse_changes(client: Client, document: WorkflowInstance, run: RunSummary) -> None:
    """Raise `ManifestError` when the document differs from the run that it started."""
    first = (await client.store.history(run.run_id))[0].event
    assert isinstance(first, WorkflowExecutionStarted)
    pairs = (
        ("workflow", run.workflow, document.workflow),
        ("taskQueue", run.queue, document.task_queue),
        ("input", msgspec.json.decode(first.input), document.arguments({})),
        ("priority", run.priority, document.priority),
        ("buildId", run.build, document.build_id),
    )
    for field, recorded, wanted in pairs:
        if recorded != wanted:
            shown = (output.clip(msgspec.json.encode(value).decode(), 80) for value in (recorded, wanted))
            message = (
                f"workflowinstance/{document.name}: spec.{field} cannot be changed from {' to '.join(shown)}, "
                "because the run has begun with it; give the document another name to run it again"
            )
            raise ManifestError(message)


async def _steer(client: Client, document: WorkflowInstance, run: RunSummary) -> str:
    """Cancel, terminate, suspend or resume an open run. It may close in that moment; then there is nothing to do."""
    store, cancel = client.store, document.cancel
    reason = (cancel.reason if cancel is not None else "") or "its document says cancel"
    if cancel is not None and cancel.mode == "Terminate":
        done, word = await store.terminate(run.namespace, run.id, reason, run.run_id), "terminated"
    elif cancel is not None and not run.cancel_requested:
        request = WorkflowExecutionCancelRequested(reason, uuid.uuid4().hex)
        done, word = await store.deliver(run.namespace, run.id, request, run.run_id), "cancel requested"
    elif document.suspend != run.suspended and not run.cancel_requested:
        done = await store.suspend(run.namespace, run.id, run.run_id, suspended=document.suspend)
        word = "suspended" if document.suspend else "resumed"
    else:
        return "unchanged"
    return word if done is not None else "unchanged"


def _read(name: str) -> list[WorkflowInstance]:
    """Return the documents of a file, of every YAML file in a folder, or of stdin."""
    if name == "-":
        return load(sys.stdin.read(), "stdin")
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml", ".json"))
        if not files:
            message = f"there is no .yaml, .yml or .json file in {name}"
            raise ManifestError(message)
        return [document for file in files for document in load(_text(file), str(file))]
    return load(_text(path), name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        message = f"cannot read {path}: {what}"
        raise ManifestError(message) from None
