"""Log records of a worker: a line for people, or a JSON object for machines.

What lives here: the two formats and where the ids of a record come from. What
must not: what is logged. A worker process calls `configure` before anything else.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum

from perdure.activity import context


class LogFormat(StrEnum):
    """How records are written."""

    TEXT = "text"
    JSON = "json"


def configure(form: LogFormat, *, debug: bool) -> None:
    """Send every record of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    handler.addFilter(_add_ids)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _add_ids(record: logging.LogRecord) -> bool:
    """Add the ids of the activity whose attempt logs; workflow code has put its own there."""
    if not hasattr(record, "workflow_id"):
        attempt = context.get(None)
        if attempt is not None:
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
    """One object a line: time, level, logger, process, message, and the ids that are known."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        for name in ("workflow_id", "run_id", "activity", "attempt"):
            if hasattr(record, name):
                fields[name] = getattr(record, name)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)
