"""The WorkflowInstance definition as the tests read it, and the judgement of a refused request."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.kubernetes import Answer

FILE = Path(__file__).resolve().parents[2] / "crds" / "workflowinstances.yaml"
DEFINITION: dict[str, Any] = yaml.safe_load(FILE.read_text())
VERSION: dict[str, Any] = DEFINITION["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]


def refusal(answer: Answer, field: str) -> str:
    """Return the server's message, having checked that it refused the request because of `field`."""
    assert answer.status == 422, answer.body
    assert field in [cause["field"] for cause in answer.body["details"]["causes"]], answer.body
    message: str = answer.body["message"]
    return message
