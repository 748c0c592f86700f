"""A worker in a process of its own: serves the workloads until its standard input closes.

What lives here: the process. What must not: measuring; whoever starts it reads its counters from outside.
"""

import asyncio
import sys

from benchmarks.loops import runner
from benchmarks.perdure_subject import serving
from benchmarks.talk import Setup, say
from benchmarks.workloads import Gate
from perdure import Client


async def main(setup: Setup) -> None:
    Gate.open = setup.options.get("open", True)
    async with Client.connect(setup.dsn) as client, serving(client, setup.options):
        say("ready")
        while await asyncio.to_thread(sys.stdin.readline):  # any line opens the gate
            Gate.open = True
            Gate.event.set()
        Gate.event.set()


if __name__ == "__main__":
    started_with = Setup.from_command_line()
    with runner(uvloop=started_with.options.get("uvloop", False)) as event_loop:
        event_loop.run(main(started_with))
