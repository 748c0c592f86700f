"""What the workers of the operator's tests run. Gates are files that a test creates when an activity may go on."""

import asyncio
import os
from pathlib import Path

from perdure import Secret, activity, workflow


@activity.define(timeout=120)
async def pass_gate(name: str) -> str:
    gate = Path(os.environ["PERDURE_SAMPLES"]) / name
    while not gate.exists():  # noqa: ASYNC110  # the test that opens the gate is another process
        await asyncio.sleep(0.02)
    return name


@activity.define
async def note(line: str) -> None:
    with (Path(os.environ["PERDURE_SAMPLES"]) / "journal").open("a") as journal:
        journal.write(line + "\n")


@workflow.define
async def greet(name: str) -> str:
    await note(name)
    return f"hello {name}"


@workflow.define
async def gated(gate: str) -> str:
    workflow.set_status(f"waiting at {gate}", "0/1")
    await pass_gate(gate)
    return gate


@workflow.define
async def approval() -> str:
    try:
        return await workflow.signal("approve", str).receive()
    finally:
        await note("cleaned up")


@workflow.define
async def reluctant(gate: str) -> str:
    try:
        return await workflow.signal("approve", str).receive()
    finally:
        await pass_gate(gate)


@workflow.define
async def two_gates() -> str:
    return await pass_gate("one") + await pass_gate("two")


@activity.define
async def length_of(secret: Secret) -> int:
    return len(secret.read())


@workflow.define
async def configured(greeting: str, rules: dict[str, int], token: Secret) -> list[object]:
    return [greeting, rules, token.name, await length_of(token)]


@workflow.define
async def broken() -> None:
    message = "the card was refused"
    raise ValueError(message)


@workflow.define
async def huge(size: int) -> str:
    return '<"é&' * size


@workflow.define
async def noted(gate: str) -> str:
    """Note that the gate was passed: a second line is a second time."""
    await pass_gate(gate)
    await note(gate)
    return gate
