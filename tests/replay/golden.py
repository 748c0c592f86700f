"""Recording and reading golden histories: ``python -m tests.replay.golden`` writes those of this release once.

A recorded file is never written again. A release that cannot replay it has
broken every run that is open somewhere.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import perdure
from perdure.model.codec import JSON, decode_turn
from perdure.model.events import Turn
from tests.replay import workflows
from tests.support.engine import Script

FOLDER = Path(__file__).parent / "golden"


def record() -> dict[str, list[Any]]:
    """Run every golden workflow by hand and return its turns as JSON."""
    scripts = {}
    script = scripts["every_primitive"] = Script(workflows.every_primitive, 3)
    script.turn()
    script.complete((1, 6))
    script.complete((4, 4), (2, 0))
    script.complete((3, 2))
    script.turn(script.signal("go", 5), script.signal("go", 6))
    script.fire(min(script.run.timers))
    script = scripts["races"] = Script(workflows.races, 6)
    decision = script.turn()
    while decision.closing is None:
        pending = sorted(script.run.activities, reverse=True)
        decision = script.complete(*((seq, seq) for seq in pending))
    script = scripts["cancelled_with_cleanup"] = Script(workflows.cancelled_with_cleanup)
    script.turn()
    script.cancel("told to")
    script.complete((max(script.run.activities), 198))
    script = scripts["failing"] = Script(workflows.failing)
    script.turn()
    script.fail(1)
    here = str(Path(__file__).parents[2]) + "/"  # tracebacks name files; a history is the same wherever it was recorded
    texts = {name: [row[1:].decode().replace(here, "") for row in script.rows] for name, script in scripts.items()}
    return {name: [json.loads(text) for text in rows] for name, rows in texts.items()}


def stored() -> Iterator[tuple[str, str, list[Turn]]]:
    """Yield release, workflow and turns of every recorded history."""
    for file in sorted(FOLDER.glob("*.json")):
        for name, rows in json.loads(file.read_text()).items():
            yield file.stem, name, [decode_turn(n, JSON + msgspec.json.encode(row)) for n, row in enumerate(rows)]


def main() -> None:
    """Write the file of this release, unless it exists."""
    file = FOLDER / f"{perdure.__version__}.json"
    if file.exists():
        sys.exit(f"{file} exists; a golden history is recorded once")
    FOLDER.mkdir(exist_ok=True)
    file.write_text(json.dumps(record(), indent=1) + "\n")


if __name__ == "__main__":
    main()
