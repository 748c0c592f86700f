"""The watch by kopf: what it tells, what it leaves alone, and that its death is noticed."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from perdure_operator.handlers import Watch, WatchEndedError
from tests.operator.stage import create_pod
from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane
from tests.support.world import run_async


class Notes:
    """Writes down what the watch tells."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, Mapping[str, Any]]] = []
        self.news = asyncio.Event()

    def instance(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        self._note(body, deleted)

    def pod(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        self._note(body, deleted)

    def _note(self, body: Mapping[str, Any], deleted: bool) -> None:
        self.seen.append((body["metadata"]["name"], deleted, body))
        self.news.set()

    async def until(self, name: str, *, deleted: bool) -> Mapping[str, Any]:
        while True:
            for seen in self.seen:
                if seen[:2] == (name, deleted):
                    return seen[2]
            self.news.clear()
            await self.news.wait()


@pytest.fixture(autouse=True)
def _kubeconfig(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))


@run_async
async def test_objects_are_told_of_as_they_come_and_go_and_nothing_is_written_on_them(
    control_plane: ControlPlane, instances: Instances, kube_namespace: str
) -> None:
    instances.create_order("before")
    notes = Notes()
    task = asyncio.create_task(Watch(notes, (kube_namespace,), pods=True).run())
    body = await notes.until("before", deleted=False)
    assert (body["apiVersion"], body["kind"]) == ("perdure.dev/v1", "WorkflowInstance")
    instances.create_order("after")
    await notes.until("after", deleted=False)
    instances.kubectl("delete", "wfi", "before")
    await notes.until("before", deleted=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    metadata = instances.read("after")["metadata"]
    assert "annotations" not in metadata
    assert "finalizers" not in metadata
    verbs = {entry.verb for entry in control_plane.audit_entries(namespace=kube_namespace, name="after")}
    assert verbs == {"get"}


@run_async
async def test_only_pods_of_workers_are_told_of(control_plane: ControlPlane, kube_namespace: str) -> None:
    notes = Notes()
    task = asyncio.create_task(Watch(notes, (kube_namespace,), pods=True).run())
    for name, component in (("other", "operator"), ("mine", "worker")):
        create_pod(control_plane, kube_namespace, name, component)
    await notes.until("mine", deleted=False)
    assert [seen[0] for seen in notes.seen] == ["mine"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@run_async
async def test_tasks_that_began_after_the_watch_outlive_it(kube_namespace: str) -> None:
    notes = Notes()
    watch = asyncio.create_task(Watch(notes, (kube_namespace,), pods=False).run())
    await asyncio.sleep(0)
    other = asyncio.create_task(asyncio.sleep(60))
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    assert not other.done()
    other.cancel()


def test_a_watch_that_cannot_log_in_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    @run_async
    async def test() -> None:
        with pytest.raises(WatchEndedError, match="watch of the objects"):
            await Watch(Notes(), ("default",), pods=False).run()

    test()
