"""The demo and the order example, as a stranger runs them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.order.workflows import Receipt, approve, charge, order, pack, refund, ship
from perdure import Client, Worker
from perdure.manifest import load
from perdure.model.runs import RunId

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "examples" / "order" / "order.yaml"


def test_the_demo_kills_a_worker_and_proves_that_nothing_ran_twice() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    demo = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stderr == ""
    assert "\x1b" not in demo.stdout
    killed = re.search(r"kill -9 \d+: (worker-[12]) is dead", demo.stdout)
    survivor = re.search(r"(worker-[12]) has taken over, \d+\.\d s after the kill", demo.stdout)
    assert killed is not None
    assert survivor is not None
    assert killed[1] != survivor[1]
    assert "The end: Succeeded" in demo.stdout
    assert "right: before the kill, not run again" in demo.stdout
    assert "WRONG" not in demo.stdout


@pytest.mark.parametrize("answer", [True, False], ids=["approved", "refused"])
def test_the_order_of_the_document_ships_or_refunds(answer: bool, journal: Path) -> None:
    [document] = load(DOCUMENT.read_text(), "order.yaml")

    async def main() -> Receipt:
        async with Client.connect("memory://") as client:
            await client.start_new(document.new_run("default"))
            handle = client.handle("order-1", order)
            async with Worker(client, workflows=[order], activities=[charge, pack, refund, ship]):
                await handle.signal(approve, answer)
                return await handle.result()

    receipt = asyncio.run(main())
    run = RunId(1)
    assert re.fullmatch(rf"payment [0-9a-f]{{12}}/{run}/1 of 42 on card …4242", receipt.payment)
    assert receipt.boxes == ["box with tea", "box with biscuits", "box with teapot"]
    assert receipt.tracking == ("parcel of 3 boxes" if answer else None)
    names = [line.split("\t")[1] for line in journal.read_text().splitlines()]
    assert sorted(names) == sorted(["charge", "charge", "pack", "pack", "pack", "ship" if answer else "refund"])


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Lend the file in which each attempt of the example leaves a line, and let nothing be fragile."""
    path = tmp_path / "journal"
    monkeypatch.setenv("PERDURE_DEMO_JOURNAL", str(path))
    monkeypatch.setattr("examples.order.workflows.FRAGILE", {})
    yield path
    asyncio.set_event_loop(None)
