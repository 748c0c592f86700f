"""The Kubernetes API as this operator uses it: objects, their status, one Lease.

What lives here: requests and what their answers mean. What must not: decisions, retries. It is the only module that
knows the Kubernetes client; `writer`, `sync`, `leader` and `health` call it.

Requests go through the client's authentication and connections, and past its thousands of generated models: an object
is the JSON that the API server sent.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from perdure.errors import PerdureError, RequestError

from .objects import version_of

GROUP = "perdure.dev/v1"
PLURAL = "workflowinstances"
PAGE = 50
"""Objects that are read at once: each may have a megabyte, and takes several times that while it is read."""
NAMES = 500
"""The same for objects without their content."""
TIMEOUT = 30.0
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class ClusterError(PerdureError):
    """The API server did not do what it was asked. ``code`` is 0 when it could not be reached."""

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Written:
    """A status was written; this is what is on the object now."""

    status: Mapping[str, Any]
    version: int


class Gone:
    """There is no object of this UID any more."""


class Mismatch:
    """The API server refused the patch: one of its tests failed, or the status is not valid."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object in a listing, without spec and status."""

    uid: str
    namespace: str
    name: str
    version: int


class Cluster:
    """A connection to one API server. Use it as a context manager."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._client: ApiClient
        self.errors: Counter[str] = Counter()
        """Requests that failed, by the code of the answer."""
        self.status_writes = Counter(dict.fromkeys(("written", "gone", "conflict", "error"), 0))

    async def __aenter__(self) -> Self:
        configuration = Configuration()
        try:
            await _log_in(configuration)
        except (config.ConfigException, OSError) as error:
            message = f"no cluster is named: set KUBECONFIG to a file that names one, or run in a pod of it ({error})"
            raise RequestError(message) from error
        configuration.connection_pool_maxsize = self._connections
        configuration.retries = None
        self._client = ApiClient(configuration)
        self._client.user_agent = "perdure-operator"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]  # as above

    # Objects

    async def objects(self, namespace: str | None) -> AsyncIterator[dict[str, Any]]:
        """Yield every object of a namespace (None: of all), page by page; raise rather than leave some out."""
        async for item in self._pages(_objects_path(namespace), PAGE, {}):
            yield {"apiVersion": GROUP, "kind": "WorkflowInstance", **item}

    async def listing(self, namespace: str | None) -> dict[str, Seen]:
        """Return the same objects by UID, without their content; raise rather than leave some out."""
        found = {}
        async for item in self._pages(_objects_path(namespace), NAMES, {"Accept": _METADATA_ONLY}):
            metadata = item["metadata"]
            seen = Seen(metadata["uid"], metadata["namespace"], metadata["name"], version_of(metadata))
            found[seen.uid] = seen
        return found

    async def read(self, namespace: str, name: str, uid: str) -> dict[str, Any] | None:
        """Return the object of this name if it has this UID."""
        code, body, _ = await self._request("GET", _path(namespace, name), accepted=(200, 404))
        return body if code == 200 and body["metadata"]["uid"] == uid else None

    async def write_status(
        self, namespace: str, name: str, uid: str, *, version: int, status: Mapping[str, Any]
    ) -> Written | Gone | Mismatch:
        """Replace the status of the object of this UID, if nobody has written to the object since ``version``.

        A merge patch would land on a new object of the same name. The second test makes an operator that does not
        lead any more, and does not know it yet, lose against the one that does. (To test the status itself would be
        more exact, but the API server compares texts as they are encoded, and there are many ways to encode one.)
        """
        patch: list[dict[str, object]] = [{"op": "test", "path": "/metadata/uid", "value": uid}]
        if version:
            patch.append({"op": "test", "path": "/metadata/resourceVersion", "value": str(version)})
        patch.append({"op": "add", "path": "/status", "value": status})
        path = f"{_path(namespace, name)}/status"
        outcome = "error"
        try:
            code, body, _ = await self._request("PATCH", path, patch, accepted=(200, 404, 422))
            outcome = {200: "written", 404: "gone"}.get(code, "conflict")
        finally:
            self.status_writes[outcome] += 1
        if code == 200:
            return Written(body.get("status") or {}, version_of(body["metadata"]))
        return Gone() if code == 404 else Mismatch()

    async def post_event(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Create an event; in a namespace that is on its way out there is nobody to tell."""
        path = f"/apis/events.k8s.io/v1/namespaces/{_part(namespace)}/events"
        await self._request("POST", path, body, accepted=(201, 404))

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """Return the data of a ConfigMap, None if there is none."""
        path = f"/api/v1/namespaces/{_part(namespace)}/configmaps/{_part(name)}"
        code, body, _ = await self._request("GET", path, accepted=(200, 404))
        return (body.get("data") or {}) if code == 200 else None

    async def delete(self, namespace: str, name: str, uid: str, version: int) -> bool:
        """Delete the object of this UID if it has not changed since ``version``; tell whether that was so."""
        conditions = {"uid": uid, **({"resourceVersion": str(version)} if version else {})}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        code, _, _ = await self._request("DELETE", _path(namespace, name), body, accepted=(200, 202, 404, 409))
        return code in (200, 202)

    async def may_watch_pods(self, namespaces: Sequence[str] | None) -> bool:
        """Tell whether pods may be listed wherever objects are watched."""
        for namespace in namespaces or (None,):
            prefix = "/api/v1" if namespace is None else f"/api/v1/namespaces/{_part(namespace)}"
            code, _, _ = await self._request("GET", f"{prefix}/pods?limit=1", accepted=(200, 403))
            if code == 403:
                return False
        return True

    # The Lease

    async def lease(self, namespace: str, name: str, timeout: float) -> dict[str, Any] | None:
        """Return the Lease, None if there is none."""
        code, body, _ = await self._request("GET", _lease_path(namespace, name), accepted=(200, 404), timeout=timeout)
        return body if code == 200 else None

    async def create_lease(self, namespace: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any] | None:
        """Create the Lease; None if somebody else was first."""
        path = _lease_path(namespace, "").rstrip("/")
        code, found, _ = await self._request("POST", path, body, accepted=(201, 409), timeout=timeout)
        return found if code == 201 else None

    async def replace_lease(
        self, namespace: str, name: str, body: Mapping[str, Any], timeout: float
    ) -> dict[str, Any] | None:
        """Write the Lease as it was read and changed; None if somebody else wrote since, or it is gone."""
        path = _lease_path(namespace, name)
        code, found, _ = await self._request("PUT", path, body, accepted=(200, 404, 409), timeout=timeout)
        return found if code == 200 else None

    # Requests

    async def _pages(self, path: str, limit: int, headers: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        token = ""
        while True:
            query = urlencode({"limit": str(limit), **({"continue": token} if token else {})})
            _, page, _ = await self._request("GET", f"{path}?{query}", headers=headers)
            for item in page["items"] or ():  # an empty list of metadata comes as null
                yield item
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def _request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        accepted: Sequence[int] = (200,),
        timeout: float = TIMEOUT,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Send one request; return code, JSON and headers, or raise `ClusterError` for a code that is not accepted."""
        kind = "application/json-patch+json" if method == "PATCH" else "application/json"
        wanted = {"Accept": "application/json", "Content-Type": kind, **(headers or {})}
        try:
            async with asyncio.timeout(timeout):
                arguments = await self._client.param_serialize(
                    method, path, header_params=wanted, body=body, auth_settings=["BearerToken"]
                )
                answer = await self._client.call_api(*arguments)
                data: bytes = await answer.read()  # type: ignore[no-untyped-call]  # as above
        except TimeoutError:
            self.errors["unreachable"] += 1
            raise ClusterError(0, f"{method} {path}: no answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            self.errors["unreachable"] += 1
            raise ClusterError(0, f"{method} {path}: {str(error) or type(error).__name__}") from error
        if answer.status not in accepted:
            self.errors[str(answer.status)] += 1
            raise _error(method, path, answer.status, data, answer.headers)
        return answer.status, msgspec.json.decode(data) if data[:1] == b"{" else {}, answer.headers


async def _log_in(configuration: Configuration) -> None:
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # the client's typing is partial
        return
    file = os.environ.get("KUBECONFIG") or config.KUBE_CONFIG_DEFAULT_LOCATION
    load = config.load_kube_config(config_file=file, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]  # as above
    await load


def _error(method: str, path: str, code: int, data: bytes, headers: Mapping[str, str]) -> ClusterError:
    try:
        message = str(msgspec.json.decode(data).get("message"))
    except (msgspec.MsgspecError, AttributeError):
        message = data[:200].decode("utf-8", "replace").strip()
    text = headers.get("Retry-After", "")
    return ClusterError(code, f"{method} {path}: {code} {message}", float(text) if text.isdecimal() else None)


def _objects_path(namespace: str | None) -> str:
    return f"/apis/{GROUP}/{PLURAL}" if namespace is None else f"/apis/{GROUP}/namespaces/{_part(namespace)}/{PLURAL}"


def _part(name: str) -> str:
    """Return one part of a path; a name with a slash must not lead elsewhere, such as to another namespace."""
    return quote(name, safe="")


def _path(namespace: str, name: str) -> str:
    return f"/apis/{GROUP}/namespaces/{_part(namespace)}/{PLURAL}/{_part(name)}"


def _lease_path(namespace: str, name: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{_part(namespace)}/leases/{_part(name)}"
