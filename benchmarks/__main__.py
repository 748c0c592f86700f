"""The command: measure, then write the report.

What lives here: the command line, the server, and the files. What must not: numbers; see `plan` and `report`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from pathlib import Path
from typing import Final

from benchmarks.campaign import Campaign
from benchmarks.chart import charts
from benchmarks.environment import dbos_python
from benchmarks.machine import describe
from benchmarks.plan import SCALES
from benchmarks.programs import ROOT
from benchmarks.report import render
from benchmarks.results import as_json, from_json
from benchmarks.scenarios import scenarios
from tests.support.postgres import EmbeddedServer

SETTINGS: Final = {"shared_buffers": "256MB", "max_connections": "200", "timezone": "UTC"}
"""Everything else is PostgreSQL's default, so `fsync` and `synchronous_commit` are on."""

FOLDER: Final = ROOT / "docs" / "benchmarks"


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="make bench", description="Perdure, its floors and DBOS at the same work.")
    parser.add_argument("--scale", choices=SCALES, default="default")
    names = [scenario.name for scenario in scenarios(SCALES["default"])]
    parser.add_argument("--only", nargs="+", default=[], choices=names, help="measure these; needs another --folder")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the report goes")
    parser.add_argument("--report-only", action="store_true", help="write the report anew from the numbers in --folder")
    asked = parser.parse_args()
    if asked.only and asked.folder == FOLDER:
        parser.error("--only needs a --folder of its own: the report in docs is of all scenarios")
    asked.folder.mkdir(parents=True, exist_ok=True)
    numbers = asked.folder / "numbers.json"
    failed: list[str] = []
    if not asked.report_only:
        failed = measure(asked.scale, asked.only, numbers)
    data = json.loads(numbers.read_text())
    found = from_json(data["measured"])
    for name, picture in charts(found).items():
        (asked.folder / name).write_text(picture)
    report = asked.folder / "report.md"
    report.write_text(render(data["about"], scenarios(SCALES[data["about"]["scale"]]), found))
    print(f"\nThe report is in {report}")
    if failed:
        raise SystemExit(f"could not be measured: {', '.join(failed)}")


def measure(scale: str, only: list[str], numbers: Path) -> list[str]:
    """Measure and write the raw numbers; return the scenarios that failed."""
    began = time.monotonic()
    dbos_python()
    chosen = [scenario for scenario in scenarios(SCALES[scale]) if not only or scenario.name in only]
    server = EmbeddedServer(SETTINGS)
    try:
        about = describe(server.dsn, SETTINGS)
        campaign = Campaign(server, say=lambda line: print(line, flush=True))
        found = campaign.run(chosen)
    finally:
        server.stop()
    about |= {"scale": scale, "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"}
    about["duration"] = f"{time.monotonic() - began:.0f} s"
    numbers.write_text(json.dumps({"about": about, "measured": as_json(found)}, indent=1) + "\n")
    return list(campaign.failed)


if __name__ == "__main__":
    main()
