"""What an operator is told when it starts, from arguments and the environment; frozen afterwards.

What lives here: names, defaults and their reading. What must not: anything that uses them. `main` builds one.
"""

import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from perdure.errors import RequestError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an operator runs. Times are in seconds. ``pod`` is the name of its pod, empty outside of a cluster.

    ``namespaces`` None means all. Of the operators that share the Lease ``lease_namespace/lease_name`` one is active;
    another takes over ``lease`` after the last sign of life. ``status_rate`` status writes a second go out in the long
    run, ``status_burst`` at once, over ``connections``. ``hold_back`` is how long the first status waits for something
    more telling, and the least time between two status writes of a run that goes on. Every ``resync`` objects and runs
    are compared. ``health`` is ``host:port`` for the probes, None for no probes.
    """

    url: str
    namespaces: tuple[str, ...] | None = None
    identity: str
    pod: str = ""
    lease_namespace: str = "default"
    lease_name: str = "perdure-operator"
    lease: float = 15.0
    status_rate: float = 50.0
    status_burst: int = 100
    connections: int = 8
    hold_back: float = 1.0
    resync: float = 60.0
    health: str | None = None

    @classmethod
    def read(cls, url: str, namespaces: Sequence[str] | None, environment: Mapping[str, str]) -> Self:
        """Return the settings; an argument that is given counts more than its variable.

        Raises `RequestError` when a variable cannot be read or no database is named.
        """
        url = url or environment.get("PERDURE_URL", "")
        if not url:
            message = "no database is named; pass a URL or set PERDURE_URL, such as postgresql://user@host/database"
            raise RequestError(message)
        named = [name.strip() for name in environment.get("PERDURE_WATCH_NAMESPACES", "").split(",") if name.strip()]
        chosen = tuple(dict.fromkeys(namespaces or named))
        lease = _number(environment, "PERDURE_OPERATOR_LEASE_SECONDS", cls.lease)
        if lease < 1:
            message = f"PERDURE_OPERATOR_LEASE_SECONDS: a Lease lasts at least 1 second, not {lease:g}"
            raise RequestError(message)
        return cls(
            url=url,
            namespaces=chosen or None,
            identity=f"{environment.get('POD_NAME') or socket.gethostname()}_{secrets.token_hex(4)}",
            pod=environment.get("POD_NAME", ""),
            lease_namespace=environment.get("PERDURE_OPERATOR_LEASE_NAMESPACE") or _own_namespace(environment),
            lease_name=environment.get("PERDURE_OPERATOR_LEASE_NAME") or cls.lease_name,
            lease=lease,
            status_rate=_number(environment, "PERDURE_OPERATOR_STATUS_RATE", cls.status_rate),
            status_burst=int(_number(environment, "PERDURE_OPERATOR_STATUS_BURST", cls.status_burst)),
            resync=_number(environment, "PERDURE_OPERATOR_RESYNC_SECONDS", cls.resync),
            health=environment.get("PERDURE_OPERATOR_HEALTH") or None,
        )


def _own_namespace(environment: Mapping[str, str]) -> str:
    if environment.get("POD_NAMESPACE"):
        return environment["POD_NAMESPACE"]
    try:
        return NAMESPACE_FILE.read_text().strip() or "default"
    except OSError:
        return "default"


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        message = f"{name}: a number is needed, not {text!r}"
        raise RequestError(message) from None
    if not 0 < number < float("inf"):
        message = f"{name}: a number above 0 is needed, not {text!r}"
        raise RequestError(message)
    return number
