"""``make chaos``: minutes of faults from a seed, then a report. Exit code 1 when anything is not as it has to be."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import report
from tests.chaos.scenario import Plan, go_through

ENDLESS = 1_000_000


def main() -> None:
    """Read the options, live through it, say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=None, help="how long runs are started (default 5)")
    parser.add_argument("--runs", type=int, default=None, help="how many runs are started, however long it takes")
    parser.add_argument("--in-flight", type=int, default=400)
    parser.add_argument("--lease", type=float, default=3.0)
    parser.add_argument("--apart", action="store_true", help="one fault at a time, with time to recover")
    parser.add_argument("--report", type=Path, default=None, help="folder of the report and the logs of the workers")
    chosen = parser.parse_args()
    minutes = chosen.minutes if chosen.minutes is not None else 5 if chosen.runs is None else 24 * 60
    plan = Plan(
        seed=chosen.seed,
        seconds=minutes * 60,
        runs=chosen.runs or ENDLESS,
        in_flight=chosen.in_flight,
        lease=chosen.lease,
        apart=chosen.apart,
    )
    folder = chosen.report or Path(tempfile.mkdtemp(prefix="perdure-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {plan.seed}; logs and report in {folder}", flush=True)
    began = time.monotonic()
    outcome = asyncio.run(
        go_through(plan, folder, lambda text: print(f"{time.monotonic() - began:7.1f} s  {text}", flush=True))
    )
    print(report.write(outcome, folder))
    sys.exit(1 if outcome.complaints else 0)


if __name__ == "__main__":
    main()
