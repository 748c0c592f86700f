"""One installation of the chart: what was said to helm, the objects that users apply, and the verdict on their runs.

What lives here: `Installation`. What must not: faults; the tests have those.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import yaml

from perdure import Client
from perdure.model.runs import HistoryEvent
from tests.chaos.verdict import Attempts, check_history, check_leftovers
from tests.e2e.cluster import Cluster, until
from tests.e2e.machine import ROOT, Machine
from tests.e2e.shop.orders import MAKE_NOTES, NOTES, expected

CHART = ROOT / "charts" / "perdure"
RELEASE = "perdure"
IMAGE = "docker.io/e2e/shop"
OPERATOR = "app.kubernetes.io/component=operator"
WORKERS = "perdure.dev/pool=shop"
DATABASE = "app.kubernetes.io/component=demo-database"
DEPLOYMENT = "deployment/perdure-worker-shop"
SLOTS: Final = 10
"""Activities that a worker carries out at a time: few, so that several workers have something to do."""


@dataclass(frozen=True)
class Note:
    """What a step wrote down as it began."""

    key: str
    attempt: int
    pod: str
    at: float


class Installation:
    """The release in the namespace of the tests."""

    def __init__(self, cluster: Cluster, machine: Machine, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder
        self._values: dict[str, Any] = {
            "postgresql": {"mode": "demo", "demo": machine.database_values()},
            "operator": {"leaseSeconds": 5, "resyncSeconds": 10},
            "workers": {
                "shop": {
                    "image": {"repository": IMAGE, "tag": "1"},
                    "modules": ["shop.orders"],
                    "maxActivities": SLOTS,
                    "drainSeconds": 2,
                    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                },
            },
        }

    def install(self) -> None:
        """Install the chart as the documentation says, in one command, and wait until everything is ready."""
        self.cluster.helm.out("install", RELEASE, str(CHART), "--wait", "--timeout=3m", "--values", self._values_file())
        with self.database() as connection:
            connection.execute(MAKE_NOTES.encode())

    def upgrade(self, tag: str) -> None:
        """Give the workers another image and wait until they all have it."""
        self._values["workers"]["shop"]["image"]["tag"] = tag
        self.cluster.helm.out("upgrade", RELEASE, str(CHART), "--wait", "--timeout=3m", "--values", self._values_file())

    def uninstall(self) -> None:
        """Remove the release and wait until its pods are gone."""
        self.cluster.helm.out("uninstall", RELEASE, "--wait", "--timeout=3m")
        for selector in (WORKERS, OPERATOR, DATABASE):
            self.cluster.until_ready(selector, 0)

    def scale(self, count: int) -> set[str]:
        """Scale the workers as a user does; return the names of their pods when they are ready."""
        self.cluster.out("scale", DEPLOYMENT, f"--replicas={count}")
        return self.cluster.until_ready(WORKERS, count)

    def _values_file(self) -> str:
        path = self._folder / "values.yaml"
        path.write_text(yaml.safe_dump(self._values))
        return str(path)

    # Objects

    def apply(self, orders: Mapping[str, Mapping[str, Any]], workflow: str = "fulfil") -> None:
        """Apply workflow instances, each with its name and input."""
        self.cluster.apply(
            *(
                {
                    "apiVersion": "perdure.dev/v1",
                    "kind": "WorkflowInstance",
                    "metadata": {"name": name},
                    "spec": {"workflow": workflow, "input": dict(order)},
                }
                for name, order in orders.items()
            )
        )

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Return the status of every instance, by name."""
        return {each["metadata"]["name"]: each.get("status", {}) for each in self.cluster.get("wfi")}

    def until_phase(self, names: Iterable[str], phase: str) -> dict[str, dict[str, Any]]:
        """Wait until the objects say that all these instances are in a phase; return their statuses."""
        wanted = set(names)

        def look() -> dict[str, dict[str, Any]]:
            seen = {name: status for name, status in self.statuses().items() if name in wanted}
            there = {name for name, status in seen.items() if status.get("phase") == phase}
            return seen if there == wanted else {}

        try:
            return until(look, f"{phase} of {len(wanted)} instances")
        except AssertionError:
            with contextlib.suppress(Exception):
                phases = Counter(status.get("phase") for status in self.statuses().values())
                print(f"phases: {phases}", self.cluster.out("get", "pods", "-o", "wide"), sep="\n")
                for pod in self.cluster.get("pods"):
                    name = pod["metadata"]["name"]
                    print(f"--- {name}", self.cluster.out("logs", name, "--all-containers", "--tail=40"), sep="\n")
                print(self.cluster.out("get", "endpointslices", "-o", "yaml"))
            raise

    # The database

    def inside_url(self) -> str:
        """Return the URL of the database for pods."""
        (secret,) = (one for one in self.cluster.get("secrets") if {"uri", "password"} <= one.get("data", {}).keys())
        return base64.b64decode(secret["data"]["uri"]).decode()

    @contextmanager
    def url(self) -> Iterator[str]:
        """Lend the URL of the database, by way of the cluster."""
        inside = urlsplit(self.inside_url())
        service = (inside.hostname or "").partition(".")[0]
        with self.cluster.forward(f"service/{service}", 5432) as port:
            yield inside._replace(netloc=f"{inside.username}:{inside.password}@127.0.0.1:{port}").geturl()

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection]:
        """Lend a connection to the database."""
        with self.url() as url, psycopg.connect(url, autocommit=True) as connection:
            yield connection

    def notes(self, run_ids: Iterable[str] | None = None) -> list[Note]:
        """Return what steps wrote down, of all runs or of these."""
        step = "substr(key, strpos(key, '/') + 1)"  # a key begins with the installation, and there is one here
        query = f"SELECT {step}, attempt, pod, extract(epoch FROM at)::float8 FROM {NOTES} ORDER BY at"
        with self.database() as connection:
            notes = [Note(*row) for row in connection.execute(query.encode()).fetchall()]
        wanted = None if run_ids is None else set(run_ids)
        return [note for note in notes if wanted is None or note.key.partition("/")[0] in wanted]

    def judge(self, orders: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[HistoryEvent]]:
        """Wait for the end of these instances, check that each step was recorded once, and return their histories.

        The results have to be exact, in the database and on the objects, and nothing may be left over of closed runs.
        """
        statuses = self.until_phase(orders, "Succeeded")
        attempts = Attempts(defaultdict(list))
        for note in self.notes():
            attempts.begun[note.key].append((note.at, note.attempt, 0))
        with self.url() as url:
            histories = asyncio.run(_histories(url, self.cluster.namespace, orders))
            complaints = check_leftovers(url)
        for name, order in orders.items():
            complaints += check_history(int(statuses[name]["runId"]), histories[name], attempts)
            if json.loads(statuses[name]["result"]) != expected(order):
                complaints.append(f"{name}: {statuses[name]['result']} instead of {expected(order)}")
        assert not complaints, "\n".join(complaints)
        return histories


async def _histories(url: str, namespace: str, names: Iterable[str]) -> dict[str, Sequence[HistoryEvent]]:
    async with Client.connect(url, namespace=namespace) as client:
        return {name: await client.handle(name).history() for name in names}
