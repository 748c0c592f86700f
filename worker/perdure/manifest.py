"""WorkflowInstance documents: YAML or an object of the API server, as a typed object and back to a start.

What lives here: reading and checking. What must not: talking to a cluster or a
store. The CLI (``perdure apply``) and the operator share it, so that the same
YAML means the same on a laptop and on a cluster.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import yaml

from perdure.errors import ManifestError
from perdure.model.payload import encode
from perdure.model.runs import NewRun

API_VERSION = "perdure.dev/v1"
KIND = "WorkflowInstance"
INPUT_LIMIT = 256 * 1024
"""Bytes of ``spec.input`` as JSON; more belongs in a store of the user's, with a reference in the input."""

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class _Spec(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    workflow: _Name
    task_queue: _Name = "default"
    input: dict[str, Any] = {}  # msgspec copies it
    cancel: bool = False
    deletion_policy: Literal["Cancel", "Abandon"] = "Cancel"
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None


class _Document(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    metadata: _Metadata
    spec: _Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInstance:
    """One WorkflowInstance. ``uid`` is empty for a document that no API server has seen."""

    name: str
    namespace: str
    uid: str
    generation: int
    deleting: bool
    workflow: str
    task_queue: str
    input: dict[str, Any]
    cancel: bool
    deletion_policy: Literal["Cancel", "Abandon"]
    timeout_seconds: int | None
    priority: int

    def new_run(self, namespace: str) -> NewRun:
        """Return the run to start; its key is the UID, so that an object starts exactly one."""
        return NewRun(
            id=self.name,
            namespace=namespace,
            workflow=self.workflow,
            queue=self.task_queue,
            input=bytes(encode(self.input, "spec.input")),
            seed=os.urandom(8).hex(),
            key=self.uid or None,
            priority=self.priority,
            timeout=self.timeout_seconds,
        )


def is_uid(key: str | None) -> bool:
    """Tell whether the key of a run is the UID of an object of an API server."""
    return key is not None and _UID.fullmatch(key) is not None


def parse(document: Any) -> WorkflowInstance:
    """Return the instance in one document; raise `ManifestError` naming the field that is wrong."""
    if not isinstance(document, Mapping):
        message = f"a {KIND} is a YAML mapping, not {type(document).__name__}"
        raise ManifestError(message)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(field) != wanted:
            message = f"{field}: expected {wanted}, found {document.get(field)!r}"
            raise ManifestError(message)
    try:
        read = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        message = _readable(str(error))
        raise ManifestError(message) from None
    metadata, spec = read.metadata, read.spec
    if not metadata.name:
        message = "metadata.name: a name is required"
        raise ManifestError(message)
    size = len(encode(spec.input, "spec.input"))
    if size > INPUT_LIMIT:
        message = f"spec.input: {size} bytes of JSON are more than the limit of {INPUT_LIMIT}; pass a reference instead"
        raise ManifestError(message)
    return WorkflowInstance(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        generation=metadata.generation,
        deleting=metadata.deletion_timestamp is not None,
        workflow=spec.workflow,
        task_queue=spec.task_queue,
        input=spec.input,
        cancel=spec.cancel,
        deletion_policy=spec.deletion_policy,
        timeout_seconds=spec.timeout_seconds,
        priority=spec.priority,
    )


def load(text: str, source: str) -> list[WorkflowInstance]:
    """Return every instance in a YAML text of one or more documents; ``source`` names it in errors."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        message = f"{source} is not YAML: {error}"
        raise ManifestError(message) from None
    if not documents:
        message = f"{source} holds no document"
        raise ManifestError(message)
    instances = []
    for number, document in enumerate(documents, 1):
        try:
            instances.append(parse(document))
        except ManifestError as error:
            message = f"{source}, document {number}: {error}"
            raise ManifestError(message) from None
    return instances


def _readable(text: str) -> str:
    """Turn ``Expected `int`, got `str` - at `$.spec.priority``` into ``spec.priority: expected int, got str``."""
    what, _, where = text.replace("`", "").partition(" - at ")
    field = where.removeprefix("$").removeprefix(".") or "document"
    return f"{field}: {what[:1].lower()}{what[1:]}"
