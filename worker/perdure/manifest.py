"""WorkflowInstance documents: YAML or an object of the API server, as a typed object and back to a start.

What lives here: reading and checking. What must not: talking to a cluster or a
store. The CLI (``perdure apply``) and the operator share it, so that the same
YAML means the same on a laptop and on a cluster.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import yaml

from perdure.errors import InputMissingError, ManifestError
from perdure.model.payload import LIMIT, check_size, encode
from perdure.model.policies import LONGEST
from perdure.model.runs import NewRun

API_VERSION = "perdure.dev/v1"
KIND = "WorkflowInstance"
INPUT_LIMIT = 256 * 1024
"""Bytes of ``spec.input`` as JSON; more belongs in a store of the user's, with a reference in the input."""
DEPTH_LIMIT = 100
"""How deep an argument may be nested: what reads it goes down by recursion, and nobody writes such a thing by hand."""
ENVELOPE = 3
"""What an argument is nested in: the document, its spec and the input."""

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
_ObjectName = Annotated[str, msgspec.Meta(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")]
_Key = Annotated[str, msgspec.Meta(max_length=253, pattern=r"^[-._A-Za-z0-9]+\Z")]


class KeyRef(msgspec.Struct, frozen=True):
    """A key of a ConfigMap or a Secret of the namespace of the instance."""

    name: _ObjectName
    key: _Key


class InputSource(msgspec.Struct, frozen=True, rename="camel"):
    """One argument of ``spec.inputFrom``; exactly one of the two references is there."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")]
    format: Literal["Text", "JSON"] = "Text"
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class Cancellation(msgspec.Struct, frozen=True):
    """``spec.cancel``: how the run is ended, and why."""

    mode: Literal["Cancel", "Terminate"] = "Cancel"
    reason: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class _Spec(msgspec.Struct, rename="camel"):
    workflow: _Name
    task_queue: _Name = "default"
    input: dict[str, Any] = {}  # msgspec copies it
    input_from: tuple[InputSource, ...] = ()
    build_id: _Name | None = None
    suspend: bool = False
    cancel: Cancellation | None = None
    ttl_seconds_after_finished: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ttl_seconds_after_failure: Annotated[int, msgspec.Meta(ge=0)] | None = None
    deletion_policy: Literal["Cancel", "Abandon"] = "Cancel"
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=LONGEST)] | None = None
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
    input_from: tuple[InputSource, ...]
    build_id: str | None
    suspend: bool
    cancel: Cancellation | None
    deletion_policy: Literal["Cancel", "Abandon"]
    timeout_seconds: int | None
    priority: int

    @property
    def config_maps(self) -> frozenset[str]:
        """The names of the ConfigMaps that have to be read before the run can start."""
        return frozenset(one.config_map_key_ref.name for one in self.input_from if one.config_map_key_ref is not None)

    def arguments(self, config_maps: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """Return the arguments of the workflow by name, as `new_run` records them."""
        return self.input | {one.name: _value(one, config_maps) for one in self.input_from}

    def new_run(self, namespace: str, config_maps: Mapping[str, Mapping[str, str]] = MappingProxyType({})) -> NewRun:
        """Return the run to start; its key is the UID, so that an object starts exactly one.

        ``config_maps`` has the data of each of `config_maps` that exists. Raises `InputMissingError` when that does not
        give every argument, `PayloadError` when the arguments are too large.
        """
        payload = encode(self.arguments(config_maps), "the input")
        check_size(payload, "spec.input and spec.inputFrom together", LIMIT)
        return NewRun(
            id=self.name,
            namespace=namespace,
            workflow=self.workflow,
            queue=self.task_queue,
            input=bytes(payload),
            seed=os.urandom(8).hex(),
            key=self.uid or None,
            priority=self.priority,
            timeout=self.timeout_seconds,
            suspended=self.suspend,
            build=self.build_id,
        )


def is_uid(key: str | None) -> bool:
    """Tell whether the key of a run is the UID of an object of an API server."""
    return key is not None and _UID.fullmatch(key) is not None


def parse(document: Any, *, strict: bool = True) -> WorkflowInstance:
    """Return the instance in one document; raise `ManifestError` naming the field that is wrong.

    A field that nobody knows is wrong too when ``strict``. An API server has refused those already, and what is there
    all the same is of a later release, with a default perhaps on every object: it must not disturb this one.
    """
    if not isinstance(document, Mapping):
        message = f"a {KIND} is a YAML mapping, not {type(document).__name__}"
        raise ManifestError(message)
    for field, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(field) != wanted:
            message = f"{field}: expected {wanted}, found {document.get(field)!r}"
            raise ManifestError(message)
    if _is_deeper(document, ENVELOPE + DEPTH_LIMIT):
        message = f"spec.input: an argument is nested more than {DEPTH_LIMIT} deep; pass a reference instead"
        raise ManifestError(message)
    try:
        read = msgspec.convert(document, _Document)
        if strict:
            _refuse_unknown(document["spec"], _Spec, "spec")
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
    _check_sources(spec)
    return WorkflowInstance(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        generation=metadata.generation,
        deleting=metadata.deletion_timestamp is not None,
        workflow=spec.workflow,
        task_queue=spec.task_queue,
        input=spec.input,
        input_from=spec.input_from,
        build_id=spec.build_id,
        suspend=spec.suspend,
        cancel=spec.cancel,
        deletion_policy=spec.deletion_policy,
        timeout_seconds=spec.timeout_seconds,
        priority=spec.priority,
    )


def _refuse_unknown(value: Mapping[str, Any], kind: type[msgspec.Struct], path: str) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, part in value.items():
        if name not in fields:
            message = f"{path}: object contains unknown field {name}"
            raise ManifestError(message)
        inner = _PARTS.get((kind, name))
        for one in part if isinstance(part, list) else [part]:
            if inner is not None and isinstance(one, Mapping):
                _refuse_unknown(one, inner, f"{path}.{name}")


_PARTS: dict[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {
    (_Spec, "cancel"): Cancellation,
    (_Spec, "inputFrom"): InputSource,
    (InputSource, "configMapKeyRef"): KeyRef,
    (InputSource, "secretKeyRef"): KeyRef,
}


def _check_sources(spec: _Spec) -> None:
    names = set(spec.input)
    for place, one in enumerate(spec.input_from):
        if (one.config_map_key_ref is None) == (one.secret_key_ref is None):
            message = f"spec.inputFrom[{place}]: give either configMapKeyRef or secretKeyRef"
            raise ManifestError(message)
        if one.name in names:
            message = f"spec.inputFrom[{place}].name: the argument {one.name} is given twice"
            raise ManifestError(message)
        names.add(one.name)


def _is_deeper(value: Any, limit: int) -> bool:
    """Tell whether objects and lists are nested deeper than ``limit``; it does not go down by recursion itself."""
    level = [value]
    for _ in range(limit):
        level = [inner for one in level for inner in _members(one)]
    return any(isinstance(one, dict | list) for one in level)


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _value(one: InputSource, config_maps: Mapping[str, Mapping[str, str]]) -> Any:
    if one.secret_key_ref is not None:
        return {"name": one.secret_key_ref.name, "key": one.secret_key_ref.key}
    wanted = one.config_map_key_ref
    assert wanted is not None
    if wanted.name not in config_maps:
        message = f"spec.inputFrom {one.name}: there is no ConfigMap {wanted.name}; create it in the same namespace"
        raise InputMissingError(message)
    value = config_maps[wanted.name].get(wanted.key)
    if value is None:
        message = f"spec.inputFrom {one.name}: ConfigMap {wanted.name} has no key {wanted.key} in its data"
        raise InputMissingError(message)
    try:
        found = value if one.format == "Text" else msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"spec.inputFrom {one.name}: key {wanted.key} of ConfigMap {wanted.name} is not JSON: {error}"
        raise InputMissingError(message) from None
    if _is_deeper(found, DEPTH_LIMIT):
        message = f"spec.inputFrom {one.name}: it is nested more than {DEPTH_LIMIT} deep; pass a reference instead"
        raise InputMissingError(message)
    return found


def load(text: str, source: str) -> list[WorkflowInstance]:
    """Return every instance in a YAML text of one or more documents; ``source`` names it in errors."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except (yaml.YAMLError, RecursionError) as error:
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
