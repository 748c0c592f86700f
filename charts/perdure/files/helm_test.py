"""What `helm test` runs: one workflow from a WorkflowInstance to its status, through every part of the installation.

The instance is created by the API server as a user would do it; the operator has to see it and to record it in the
database; a worker takes it, runs an activity and a timer; the operator has to write the result to the object. Unless
WORKFLOW names a workflow of the pools, the worker is this pod, on a task queue of its own.
"""

import asyncio
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from perdure import Client, Worker, activity, workflow

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
API = "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}".format_map(os.environ)
NAMESPACE = os.environ["PERDURE_NAMESPACE"]
OBJECTS = f"/apis/perdure.dev/v1/namespaces/{NAMESPACE}/workflowinstances"
NAME = f"perdure-test-{uuid.uuid4().hex[:8]}"


@activity.define
async def greet(name: str) -> str:
    return f"hello, {name}"


@workflow.define(name="perdure-test")
async def hello(name: str) -> str:
    greeting = await greet(name)
    await asyncio.sleep(0.1)
    return greeting


def request(method: str, path: str, body: object = None) -> dict[str, Any]:
    """Ask the API server with the rights of this pod."""
    asked = urllib.request.Request(
        API + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(asked, context=trust, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


async def until_finished(deadline: float) -> dict[str, Any]:
    """Return the status of the instance when its run has ended, or as it is when the time is over."""
    phase = None
    while True:
        seen = await asyncio.to_thread(request, "GET", f"{OBJECTS}/{NAME}")
        status: dict[str, Any] = seen.get("status", {})
        if status.get("phase") != phase:
            phase = status.get("phase")
            print(f"{NAME}: {phase}", flush=True)
        conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
        if conditions.get("Finished") == "True" or time.monotonic() > deadline:
            return status
        await asyncio.sleep(0.5)


async def run(spec: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Create the instance, wait for its end and delete it; return its last status."""
    document = {"apiVersion": "perdure.dev/v1", "kind": "WorkflowInstance", "metadata": {"name": NAME}, "spec": spec}
    await asyncio.to_thread(request, "POST", OBJECTS, document)
    try:
        return await until_finished(time.monotonic() + timeout)
    finally:
        await asyncio.to_thread(request, "DELETE", f"{OBJECTS}/{NAME}")


async def main() -> int:
    """Return 0 if the workflow succeeded."""
    timeout = float(os.environ["TIMEOUT"])
    if os.environ.get("WORKFLOW"):
        status = await run({"workflow": os.environ["WORKFLOW"], **json.loads(os.environ["SPEC"])}, timeout)
    else:
        async with (
            Client.connect(os.environ["PERDURE_URL"], namespace=NAMESPACE) as client,
            Worker(client, workflows=[hello], activities=[greet], queues=[NAME]),
        ):
            spec = {"workflow": "perdure-test", "taskQueue": NAME, "input": {"name": NAMESPACE}}
            status = await run(spec, timeout)
            if json.loads(status.get("result") or "null") != f"hello, {NAMESPACE}":
                status["phase"] = f"not as expected: {status}"
    print(json.dumps(status, indent=2))
    return 0 if status.get("phase") == "Succeeded" else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except urllib.error.HTTPError as error:
        sys.exit(f"the API server refused: {error.read().decode()}")
