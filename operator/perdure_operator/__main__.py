"""``python -m perdure_operator``: the same program as ``perdure operator``, for images without the command line."""

import argparse
import os
import sys

from perdure.errors import PerdureError
from perdure.telemetry.logs import VARIABLE, LogFormat
from perdure_operator.main import run


def main() -> int:
    """Read the arguments and run until stopped; 1 when it ended by an error."""
    parser = argparse.ArgumentParser("perdure-operator", description="WorkflowInstance objects in, their status out.")
    parser.add_argument("--url", default="", help="the database; by default PERDURE_URL")
    parser.add_argument("--namespace", "-n", action="append", metavar="NAME", help="serve this one only; repeatable")
    parser.add_argument(
        "--log-format",
        type=LogFormat,
        choices=list(LogFormat),
        default=os.environ.get(VARIABLE) or LogFormat.TEXT,
        help=f"log records as text or as JSON, one object a line; by default {VARIABLE}, or text",
    )
    arguments = parser.parse_args()
    try:
        run(arguments.url, namespaces=arguments.namespace, log_format=arguments.log_format)
    except PerdureError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # a program speaks to its terminal
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
