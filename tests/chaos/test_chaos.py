"""A short chaos: real worker processes, all kinds of faults, every run right; ``make chaos`` does minutes of it."""

import asyncio
from pathlib import Path

from tests.chaos import report
from tests.chaos.scenario import Plan, go_through


def test_every_run_ends_right_whatever_happens_to_workers_and_database(tmp_path: Path) -> None:
    outcome = asyncio.run(go_through(Plan(seed=1, seconds=17, runs=100_000, lease=2), tmp_path, print))
    print(report.write(outcome, tmp_path))
    assert not outcome.complaints
    # Too little of either would prove nothing.
    assert outcome.runs >= 200
    assert len({fault.kind for fault in outcome.faults}) >= 5
    assert any(fault.recovered for fault in outcome.faults)
