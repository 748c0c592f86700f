"""The writer against a real API server: whom it writes to, how often, and what it does when it is refused."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from perdure.model.runs import RunId, RunState, RunSummary
from perdure_operator.cluster import Cluster, Gone, Mismatch, Written
from perdure_operator.objects import Known, Objects
from perdure_operator.settings import Settings
from perdure_operator.status import Status, project
from perdure_operator.writer import StatusWriter
from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane
from tests.support.world import run_async

SETTINGS = Settings(url="", identity="test", lease=15.0, hold_back=0.2)


class Always:
    """The right to write, for as long as it is not taken away."""

    seconds = 10.0

    def remaining(self) -> float:
        return self.seconds


class Desk:
    """A writer at work, and what it knows of the objects of one namespace."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self.cluster = cluster
        self.objects = Objects()
        self.mandate = Always()
        self.writer = StatusWriter(cluster, self.objects, self.mandate, settings)
        self.settled: list[int] = []

    def know(self, body: dict[str, Any]) -> Known:
        self.objects.see(body)
        known = self.objects.get(body["metadata"]["uid"])
        assert known is not None
        return known

    async def until_settled(self, *numbers: int) -> None:
        while not set(numbers) <= set(self.settled):
            await self.writer.on_settled.wait()
            self.writer.on_settled.clear()
            self.settled += self.writer.settled()


@asynccontextmanager
async def desk(settings: Settings = SETTINGS) -> AsyncIterator[Desk]:
    async with Cluster(settings.connections) as cluster:
        opened = Desk(cluster, settings)
        task = asyncio.create_task(opened.writer.run())
        try:
            yield opened
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _kubeconfig(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))


def status(text: str = "", *, state: RunState = RunState.OWNED) -> Status:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    run = RunSummary(
        id="order-1",
        run_id=RunId(7),
        namespace="n",
        workflow="order",
        queue="default",
        state=state,
        created_at=now,
        started_at=now,
        closed_at=None,
        wake_at=None,
        worker="w",
        priority=0,
        key="k",
        waiting_for="",
        status_text=text,
        progress="",
        hold_reason="NonDeterminism" if state is RunState.HELD else "",
        hold_message="",
        cancel_requested=False,
        outcome=None,
    )
    return project(run, 1)


def writes(plane: ControlPlane, namespace: str) -> int:
    return len(plane.audit_entries("patch", "status", namespace=namespace, name="order-1"))


@run_async
async def test_a_status_for_another_uid_is_refused(instances: Instances, kube_namespace: str) -> None:
    body = instances.create_order()
    version = int(body["metadata"]["resourceVersion"])
    uid = body["metadata"]["uid"]
    async with Cluster(1) as cluster:

        async def write(uid: str, version: int, name: str = "order-1") -> Written | Gone | Mismatch:
            return await cluster.write_status(kube_namespace, name, uid, version=version, status={"phase": "Failed"})

        assert isinstance(await write("another-uid", version), Mismatch)
        assert isinstance(await write("another-uid", 0), Mismatch)
        assert isinstance(await write(uid, version - 1), Mismatch)
        assert isinstance(await write(uid, version, "order-2"), Gone)
        assert "status" not in instances.read()
        answer = await write(uid, version)
        assert isinstance(answer, Written)
        assert answer.status == {"phase": "Failed"}
        assert answer.version > version


@run_async
async def test_what_was_meant_for_a_deleted_object_never_reaches_its_successor(
    control_plane: ControlPlane, instances: Instances, kube_namespace: str
) -> None:
    old = instances.create_order()
    instances.kubectl("delete", "wfi", "order-1")
    instances.create_order()
    async with desk() as writing:
        known = writing.know(old)
        writing.writer.put(known.uid, status("old", state=RunState.HELD), [1])
        await writing.until_settled(1)
        assert writing.objects.get(known.uid) is None
    assert "status" not in instances.read()
    assert writes(control_plane, kube_namespace) == 1


@run_async
async def test_the_last_status_wins_and_the_same_one_is_not_written_again(
    control_plane: ControlPlane, instances: Instances, kube_namespace: str
) -> None:
    async with desk() as writing:
        known = writing.know(instances.create_order())
        for number in range(1, 51):
            writing.writer.put(known.uid, status(str(number)), [number])
        await writing.until_settled(*range(1, 51))
        assert instances.read()["status"]["message"] == "50"
        writing.writer.put(known.uid, status("50"), [51])
        await writing.until_settled(51)
    assert writes(control_plane, kube_namespace) == 1


@run_async
async def test_an_edit_of_the_spec_in_between_costs_a_look_and_no_status(instances: Instances) -> None:
    async with desk() as writing:
        known = writing.know(instances.create_order())
        edited = instances.patch_spec({"cancel": {}}).body
        writing.writer.put(known.uid, status("late", state=RunState.HELD), [1])
        await writing.until_settled(1)
        assert instances.read()["status"]["phase"] == "Stalled"
        # The edit is still news for whoever acts on specs, although the writer has seen it.
        assert writing.objects.see(edited)


@run_async
async def test_a_status_that_the_definition_does_not_allow_is_given_up(instances: Instances) -> None:
    async with desk() as writing:
        known = writing.know(instances.create_order())
        wrong = status(state=RunState.HELD)
        broken = replace(wrong, conditions=(replace(wrong.conditions[0], reason="not camel case"),))
        writing.writer.put(known.uid, broken, [1])
        await writing.until_settled(1)
        writing.writer.put(known.uid, status("fine", state=RunState.HELD), [2])
        await writing.until_settled(2)
        assert instances.read()["status"]["message"] == "fine"


@run_async
async def test_nothing_is_written_without_the_right_to(instances: Instances) -> None:
    async with desk() as writing:
        known = writing.know(instances.create_order())
        writing.mandate.seconds = 0.0
        writing.writer.put(known.uid, status(state=RunState.HELD), [1])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.7):
                await writing.until_settled(1)
        assert "status" not in instances.read()
        writing.mandate.seconds = 10.0
        await writing.until_settled(1)
        assert instances.read()["status"]["phase"] == "Stalled"


@run_async
async def test_many_objects_are_written_no_faster_than_the_rate(instances: Instances) -> None:
    settings = replace(SETTINGS, status_rate=20.0, status_burst=5)
    async with desk(settings) as writing:
        bodies = [instances.create_order(f"order-{number}") for number in range(20)]
        begun = time.monotonic()
        for number, body in enumerate(bodies):
            writing.writer.put(writing.know(body).uid, status(), [number])
        await writing.until_settled(*range(20))
        # Five at once, fifteen at twenty a second.
        assert time.monotonic() - begun >= 15 / 20


class Front(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the real API server, but answers some of them itself, as an overloaded one does."""

    plane: ControlPlane
    busy: list[tuple[int, str]]
    turned_away: list[float]

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.busy and "order-1" in self.path:
            code, after = self.busy.pop()
            self.turned_away.append(time.monotonic())
            self._send(
                code, {"kind": "Status", "message": "too many requests"}, {"Retry-After": after} if after else {}
            )
        else:
            self._pass_on(body)

    def _pass_on(self, body: object) -> None:
        answer = self.plane.request(self.command, self.path, body, content_type=self.headers["Content-Type"])
        self._send(answer.status, answer.body, {})

    def _send(self, code: int, body: object, headers: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def front(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Front]]:
    handler = type("Busy", (Front,), {"plane": control_plane, "busy": [], "turned_away": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        config = yaml.safe_load(control_plane.kubeconfig.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"] = {"server": f"http://127.0.0.1:{server.server_address[1]}"}
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield handler
        server.shutdown()


@pytest.mark.parametrize(("code", "after", "least"), [(429, "1", 1.0), (500, "", 0.1), (409, "", 0.1)])
def test_a_busy_api_server_is_given_time_while_other_objects_go_on(
    front: type[Front], instances: Instances, code: int, after: str, least: float
) -> None:
    front.busy.append((code, after))

    @run_async
    async def test() -> None:
        async with desk() as writing:
            for number, name in enumerate(("order-1", "order-2")):
                known = writing.know(instances.create_order(name))
                writing.writer.put(known.uid, status("", state=RunState.HELD), [number])
            await writing.until_settled(1)
            assert writing.settled == [1]
            await writing.until_settled(0)
            assert time.monotonic() - front.turned_away[0] >= least
            assert writing.writer.trouble == ""

    test()
    assert instances.read()["status"]["phase"] == "Stalled"
