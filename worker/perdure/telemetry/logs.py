"""Log records of a worker or an operator: a line for people, or a JSON object for machines.

What lives here: the two formats and where the ids of a record come from. What must not: what is logged. A process
calls `configure` before anything else.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum

from perdure.activity import context
from perdure.engine.run import current
from perdure.model.runs import UNBORN, RunInfo

VARIABLE = "PERDURE_LOG_FORMAT"
IDS = ("namespace", "workflow_id", "run_id", "workflow", "activity", "attempt")
"""What a record may say about whom it is about, in this order. A caller passes it as ``extra``."""


class LogFormat(StrEnum):
    """How records are written."""

    TEXT = "text"
    JSON = "json"


def configure(form: LogFormat, *, debug: bool) -> None:
    """Send every record of this process to stderr, warnings of Python too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    handler.addFilter(_add_ids)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def about(run: RunInfo) -> dict[str, object]:
    """Return what a record about this run has as ``extra``."""
    known: dict[str, object] = {"namespace": run.namespace, "workflow_id": run.id, "workflow": run.workflow}
    return known if run.run_id == UNBORN else {**known, "run_id": run.run_id}


def _add_ids(record: logging.LogRecord) -> bool:
    """Add the ids of the activity or the workflow that logs, whatever logger it uses."""
    if hasattr(record, "workflow_id"):
        return True
    attempt, run = context.get(None), current()
    if run is not None:
        record.__dict__.update(about(run.info))
    elif attempt is not None:
        record.workflow_id, record.run_id = attempt.info.workflow_id, attempt.info.run_id
        record.activity, record.attempt = attempt.info.name, attempt.info.attempt
    return True


class TextFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.123 INFO    perdure.worker[4711]: message``; before it the ids of an activity that logs."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s[%(process)d]: %(ids)s%(message)s")
        self.default_time_format = "%Y-%m-%d %H:%M:%S"
        self.datefmt = self.default_time_format

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; a traceback follows on lines of its own."""
        name = getattr(record, "activity", None)
        record.ids = f"[{getattr(record, 'workflow_id', '')} {name}] " if name else ""
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, process, message, the ids that are known, the error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            # The logger of workflow code puts the id before its text, for people.
            "message": record.getMessage().removeprefix(f"[{getattr(record, 'workflow_id', '')}] "),
        }
        fields.update((name, getattr(record, name)) for name in IDS if hasattr(record, name))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=True, default=str)
