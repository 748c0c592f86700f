"""`make demo`: a worker is killed in the middle of an order, and the order goes on.

What lives here: the story, on real parts: a PostgreSQL server, the program `perdure`, two worker processes, SIGKILL.
What must not: anything that makes the outcome look better than it is. It ends with 0 only if every check holds.
"""

import asyncio
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.proof import Row, prove
from perdure import Client
from perdure.cli import output
from perdure.cli.narration import Narrator, arguments
from perdure.cli.steps import Outcome, steps_of
from perdure.model.events import ActivityCompleted, TimerFired
from perdure.model.runs import HistoryEvent, RunSummary
from tests.support.postgres import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]
PERDURE = Path(sysconfig.get_path("scripts")) / "perdure"
DOCUMENT = "examples/order/order.yaml"
ORDER = "order-1"
LEASE = 2.0
PATIENCE = 60.0
LOOK = 0.02
WORKERS = {"worker-1": "cyan", "worker-2": "magenta"}

# A pipe has no width: lines are long enough there for the whole proof.
terminal = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)


class DemoError(Exception):
    """The story did not go as it must."""


class Stage:
    """The processes of the demo, and the folder with what they write."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.journal.touch()
        self.environment = os.environ | {
            "PERDURE_URL": url,
            "PERDURE_NAMESPACE": "default",
            "PERDURE_DEMO_JOURNAL": str(self.journal),
        }
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *arguments: str) -> str:
        """Run `perdure` as a person would, show the command and what it says."""
        say(f"$ perdure {' '.join(arguments)}", "bold")
        done = subprocess.run(  # noqa: S603  # our own program
            [PERDURE, *arguments], cwd=ROOT, env=self.environment, check=False, capture_output=True, text=True
        )
        for line in (done.stdout + done.stderr).splitlines():
            say(f"  {line}")
        if done.returncode:
            raise DemoError(f"perdure {arguments[0]} ended with exit code {done.returncode}")
        return done.stdout

    def start_worker(self, name: str) -> None:
        """Start a worker process; its log goes to a file."""
        arguments = ("worker", "examples.order.workflows", "--name", name, "--lease", f"{LEASE:g}")
        with (self.folder / f"{name}.log").open("wb") as log:
            self.workers[name] = subprocess.Popen(  # noqa: S603  # our own program
                [PERDURE, *arguments], cwd=ROOT, env=self.environment, stderr=log
            )
        say(f"$ perdure {' '.join(arguments)} &", "bold")

    def kill(self, name: str) -> int:
        """`kill -9` a worker, wait until it is dead, and return what its pid was."""
        worker = self.workers[name]
        worker.kill()
        worker.wait()
        return worker.pid

    def stop(self) -> None:
        """Stop what still runs; nothing that it does is wanted any more."""
        for worker in self.workers.values():
            worker.kill()
            worker.wait()

    def logs(self) -> str:
        """Return what the workers wrote."""
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(self.folder.glob("*.log")))


class Watch:
    """Looks at the order again and again, and tells every event once."""

    def __init__(self, client: Client) -> None:
        self._handle = client.handle(ORDER)
        self._narrator = Narrator()
        self.events: list[HistoryEvent] = []

    async def until(self, what: str, holds: Callable[[list[HistoryEvent], RunSummary], bool]) -> RunSummary:
        """Wait until ``holds`` is true of history and run, telling what happens meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while True:
            run = await self._handle.describe()
            history = await self._handle.history()
            for event in history[len(self.events) :]:
                self._tell(event)
            self.events = history
            if holds(history, run):
                return run
            if time.monotonic() > deadline:
                raise DemoError(f"waited {PATIENCE:g} s for {what}")
            await asyncio.sleep(LOOK)

    def _tell(self, event: HistoryEvent) -> None:
        sentence = self._narrator.tell(event)
        line = Text(output.clock(event.time), style="dim").append("  ")
        line.append(f"{event.worker:<10}", style=f"not dim {WORKERS.get(event.worker, '')}")
        line.append(f"{event.type:<28}", style=f"not dim {sentence.style}").append(sentence.details, style="not dim")
        if terminal.is_terminal:
            line.truncate(terminal.width, overflow="ellipsis")
        terminal.print(line, soft_wrap=True)


async def tell(stage: Stage, url: str) -> list[Row]:
    """Play the story and return the proof."""
    chapter("A database, and two workers that know the order workflow")
    stage.run("migrate")
    for name in WORKERS:
        stage.start_worker(name)
    chapter("An order, from the document that a cluster takes too")
    stage.run("apply", "-f", DOCUMENT)
    async with Client.connect(url, namespace="default") as client:
        watch = Watch(client)
        run = await watch.until("some recorded steps", lambda events, _: results(events) >= 3)
        killed, survivor = await takeover(stage, watch, run)
        await watch.until("the timer", lambda events, _: any(isinstance(event.event, TimerFired) for event in events))
        chapter("The order waits for somebody to approve it")
        stage.run("signal", ORDER, "approve", "true")
        run = await watch.until("the end", lambda _, run: run.state.closed)
    chapter(f"The end: {run.phase}")
    stage.run("result", ORDER)
    rows = prove(watch.events, stage.journal.read_text(), killed)
    chapter("The proof: what the history has, and what really ran")
    show(rows)
    check(survivor != killed, "another worker finished the order")
    check(run.phase == "Succeeded", "the order has succeeded")
    return rows


async def takeover(stage: Stage, watch: Watch, run: RunSummary) -> tuple[str, str]:
    """Kill the owner of the run in the middle and wait until another worker has it; return both names."""
    killed = run.worker
    if killed is None or run.state.closed:
        raise DemoError(f"nobody has the order, it is {run.phase}: there is nobody to kill")
    pid = stage.kill(killed)
    since = time.monotonic()
    banner(f"kill -9 {pid}: {killed} is dead in the middle of the order", "white on red")
    with waiting(
        f"nobody has the order until the lease of {killed} runs out ({LEASE:g} s after its last sign of life)"
    ):
        run = await watch.until("the takeover", lambda _, run: run.worker not in (None, killed))
    took = time.monotonic() - since
    banner(
        f"{run.worker} has taken over, {took:.1f} s after the kill: it replays the history and goes on",
        "black on green",
    )
    for step in steps_of(watch.events).values():
        if step.outcome is Outcome.UNDER_WAY:
            call = f"{step.name}{arguments(step.scheduled.input, 40)}"
            say(f"{call} was under way and is tried again; what is recorded is not")
    return killed, run.worker or ""


def results(history: list[HistoryEvent]) -> int:
    """Return how many steps have their result in the history."""
    return sum(isinstance(event.event, ActivityCompleted) for event in history)


def show(rows: list[Row]) -> None:
    """Print the proof."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("step", no_wrap=True)
    table.add_column("in the history", no_wrap=True)
    table.add_column("ran", no_wrap=True)
    table.add_column("")
    for row in rows:
        verdict = Text("right: " if row.right else "WRONG: ", style="green" if row.right else "bold red")
        times = "once" if row.ran == 1 else f"{row.ran} times"
        table.add_row(row.call, row.recorded, times, verdict.append(row.note, style="not green"))
    terminal.print(table)
    if any(row.note.startswith("under way") for row in rows):
        say("")
        say("A step whose end was not recorded is tried again. Where that could do harm, pass its idempotency key on.")


def check(holds: bool, what: str) -> None:
    """Say that a check holds, or end the demo."""
    if not holds:
        raise DemoError(f"this is not true: {what}")


def say(text: str, style: str = "") -> None:
    terminal.print(Text(text, style=style), soft_wrap=True)


def chapter(title: str) -> None:
    say("")
    say(title, "bold yellow")


def banner(text: str, style: str) -> None:
    say("")
    say(f"  {text}  ", f"bold {style}")
    say("")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something is being waited for; on a terminal it moves."""
    if not terminal.is_terminal:
        say(text)
        yield
        return
    with terminal.status(Text(text, style="dim")):
        yield


def main() -> None:
    """Play the demo and exit with 0 if everything was as promised."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the end below is reached
    say("Perdure: a worker dies in the middle of an order, and the order goes on.", "bold")
    server: Any = None
    stage: Stage | None = None
    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as folder:
        try:
            server = EmbeddedServer()
            url = server.create_database()
            stage = Stage(url, Path(folder))
            rows = asyncio.run(tell(stage, url))
            check(all(row.right for row in rows), "no recorded step ran again, and every step has one result")
        except DemoError as error:
            say(f"\nThe demo failed: {error}", "bold red")
            say(stage.logs() if stage else "")
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            if stage is not None:
                stage.stop()
            if server is not None:
                server.stop()
    say("")
    say("Every step has exactly one result, and no recorded step ran again.", "bold green")
    say(f"{time.monotonic() - began:.0f} seconds in all; the database and the workers are gone.", "dim")


if __name__ == "__main__":
    main()
