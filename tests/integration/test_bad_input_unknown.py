"""Names that nobody knows: the run waits, held with a reason, until somebody does."""

from perdure import Worker, activity, workflow
from perdure.model.runs import RunState
from tests.support.world import World, eventually, run_async


@activity.define
async def echo(text: str) -> str:
    return text


@workflow.define
async def known() -> str:
    return await echo("known")


@workflow.define
async def stranger() -> str:
    return "no more"


@run_async
async def test_a_workflow_that_is_started_while_nobody_knows_it_is_held_at_once(world: World) -> None:
    near, far = await world.client(), await world.client()
    async with Worker(near, workflows=[known], activities=[echo]) as worker:

        async def ready() -> bool:
            return worker.ready

        await eventually(ready)
        for client in (near, far):
            handle = await client.start("stranger", id=f"stranger of {id(client)}")

            async def held(instance: str = handle.id) -> bool:
                summary = await far.handle(instance).describe()
                return (summary.state, summary.hold_reason) == (RunState.HELD, "UnknownWorkflow")

            await eventually(held)
            message = (await handle.describe()).hold_message
            assert message == "no worker that serves queue default knows workflow stranger; start one that has it"
            assert await (await client.start(known)).result() == "known"
    async with Worker(far, workflows=[known, stranger], activities=[echo]):
        for client in (near, far):
            assert await far.handle(f"stranger of {id(client)}").result() == "no more"
    await world.close()
