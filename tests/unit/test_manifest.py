"""WorkflowInstance documents: what is read from them, and what is said about those that are wrong."""

from typing import Any

import msgspec
import pytest

from perdure.errors import InputMissingError, ManifestError
from perdure.manifest import INPUT_LIMIT, Cancellation, InputSource, KeyRef, load, parse

MINIMAL = {
    "apiVersion": "perdure.dev/v1",
    "kind": "WorkflowInstance",
    "metadata": {"name": "order-1"},
    "spec": {"workflow": "order"},
}


def changed(**parts: Any) -> dict[str, Any]:
    """Return the minimal document with parts replaced; `spec` and `metadata` are merged."""
    document: dict[str, Any] = {**MINIMAL, **parts}
    for part in ("metadata", "spec"):
        if isinstance(parts.get(part), dict):
            document[part] = {**MINIMAL[part], **parts[part]}  # type: ignore[dict-item]  # both are mappings
    return document


def source(name: str, key: str) -> dict[str, Any]:
    return {"name": "text", "configMapKeyRef": {"name": name, "key": key}}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"inner": value}
    return value


def test_a_minimal_document_has_defaults_for_everything_else() -> None:
    instance = parse(MINIMAL)
    assert (instance.name, instance.namespace, instance.uid, instance.generation) == ("order-1", "", "", 0)
    assert (instance.workflow, instance.task_queue, instance.input) == ("order", "default", {})
    assert (instance.cancel, instance.suspend, instance.deleting) == (None, False, False)
    assert (instance.deletion_policy, instance.input_from, instance.build_id) == ("Cancel", (), None)
    assert (instance.timeout_seconds, instance.priority) == (None, 0)


def test_every_field_of_the_spec_is_read() -> None:
    spec = {
        "workflow": "order",
        "taskQueue": "express",
        "input": {"items": ["tea"], "total": 42},
        "inputFrom": [{"name": "key", "secretKeyRef": {"name": "payment", "key": "token"}}],
        "buildId": "v7",
        "suspend": True,
        "cancel": {"mode": "Terminate", "reason": "enough"},
        "ttlSecondsAfterFinished": 60,
        "ttlSecondsAfterFailure": 600,
        "deletionPolicy": "Abandon",
        "timeoutSeconds": 60,
        "priority": 7,
    }
    instance = parse(changed(spec=spec))
    assert instance.task_queue == "express"
    assert instance.input == {"items": ["tea"], "total": 42}
    assert instance.input_from == (InputSource(name="key", secret_key_ref=KeyRef("payment", "token")),)
    assert (instance.build_id, instance.suspend, instance.deletion_policy) == ("v7", True, "Abandon")
    assert instance.cancel == Cancellation("Terminate", "enough")
    assert (instance.timeout_seconds, instance.priority) == (60, 7)


def test_an_object_of_the_api_server_is_read_with_what_the_server_added() -> None:
    metadata = {
        "namespace": "shop",
        "uid": "2f6c7a5e-4e0c-4d7a-9a61-1f6e5b0a7c11",
        "generation": 3,
        "deletionTimestamp": "2026-01-02T03:04:05Z",
        "resourceVersion": "812",
        "labels": {"team": "tea"},
        "managedFields": [{"manager": "kubectl"}],
    }
    instance = parse(changed(metadata=metadata, status={"phase": "Running"}))
    assert (instance.namespace, instance.generation, instance.deleting) == ("shop", 3, True)
    assert instance.uid == metadata["uid"]


def test_the_run_to_start_has_the_uid_as_its_key_and_the_input_by_name() -> None:
    instance = parse(changed(metadata={"uid": "some-uid"}, spec={"input": {"total": 42}, "timeoutSeconds": 5}))
    new = instance.new_run("shop")
    assert (new.id, new.namespace, new.workflow, new.queue, new.key) == (
        "order-1",
        "shop",
        "order",
        "default",
        "some-uid",
    )
    assert msgspec.json.decode(new.input) == {"total": 42}
    assert new.timeout == 5.0


def test_a_document_that_no_server_has_seen_has_no_key() -> None:
    assert parse(MINIMAL).new_run("default").key is None


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("order", "a WorkflowInstance is a YAML mapping, not str"),
        (changed(apiVersion="perdure.dev/v2"), "apiVersion: expected perdure.dev/v1, found 'perdure.dev/v2'"),
        (changed(kind="Pod"), "kind: expected WorkflowInstance, found 'Pod'"),
        ({"apiVersion": "perdure.dev/v1", "kind": "WorkflowInstance"}, "document: object missing required field"),
        (changed(metadata={"name": ""}), "metadata.name: a name is required"),
        (changed(metadata={"name": 7}), "metadata.name: expected str, got int"),
        (changed(spec={"workflow": ""}), "spec.workflow: expected str of length >= 1"),
        (changed(spec=None), "spec: expected object, got null"),
        (changed(spec={"input": ["tea"]}), "spec.input: expected object, got array"),
        (changed(spec={"timeoutSeconds": 0}), "spec.timeoutSeconds: expected int >= 1"),
        (changed(spec={"timeoutSeconds": 2**63 - 1}), "spec.timeoutSeconds: expected int <= "),
        (changed(spec={"workflow": "or\0der"}), "spec.workflow: expected str matching"),
        (changed(spec={"taskQueue": "fast\n"}), "spec.taskQueue: expected str matching"),
        (changed(spec={"input": {"tree": nested(101)}}), "spec.input: an argument is nested more than 100 deep"),
        (changed(spec={"input": {"tree": nested(20_000)}}), "spec.input: an argument is nested more than 100 deep"),
        (
            changed(spec={"inputFrom": [source("../../other/configmaps/texts", "k")]}),
            "[0].configMapKeyRef.name: expected",
        ),
        (changed(spec={"inputFrom": [source("..", "k")]}), "spec.inputFrom[0].configMapKeyRef.name: expected str"),
        (changed(spec={"inputFrom": [source("texts", "a/b")]}), "spec.inputFrom[0].configMapKeyRef.key: expected str"),
        (changed(spec={"timeoutSeconds": "1m"}), "spec.timeoutSeconds: expected int | null, got str"),
        (changed(spec={"priority": 1001}), "spec.priority: expected int <= 1000"),
        (changed(spec={"deletionPolicy": "Keep"}), "spec.deletionPolicy: invalid enum value 'Keep'"),
        (changed(spec={"taskqueue": "x"}), "spec: object contains unknown field taskqueue"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_field(document: object, complaint: str) -> None:
    with pytest.raises(ManifestError) as refused:
        parse(document)
    assert complaint in str(refused.value)


def test_an_argument_may_be_nested_as_deep_as_the_limit() -> None:
    instance = parse(changed(spec={"input": {"tree": nested(100)}}))
    assert instance.input == {"tree": nested(100)}
    sources = changed(spec={"inputFrom": [{**source("texts", "tree.json"), "format": "JSON"}]})
    fitting, deep, bottomless = ("[" * depth + "]" * depth for depth in (100, 101, 100_000))
    parse(sources).new_run("shop", {"texts": {"tree.json": fitting}})
    for text in (deep, bottomless):
        with pytest.raises(InputMissingError, match=r"spec\.inputFrom text: "):
            parse(sources).new_run("shop", {"texts": {"tree.json": text}})


def test_an_input_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    around = len(msgspec.json.encode({"text": ""}))
    fitting = parse(changed(spec={"input": {"text": "x" * (INPUT_LIMIT - around)}}))
    assert len(fitting.new_run("default").input) == INPUT_LIMIT
    with pytest.raises(ManifestError, match=r"spec\.input: 262145 bytes of JSON are more than the limit"):
        parse(changed(spec={"input": {"text": "x" * (INPUT_LIMIT - around + 1)}}))


def test_a_text_may_hold_several_documents_and_empty_ones_do_not_count() -> None:
    text = "---\n".join(msgspec.yaml.encode(changed(metadata={"name": name})).decode() for name in ("a", "b"))
    assert [instance.name for instance in load(f"---\n{text}\n---\n", "orders.yaml")] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "orders.yaml holds no document"),
        ("# nothing\n---\n", "orders.yaml holds no document"),
        ("spec: [", "orders.yaml is not YAML: "),
        ("a: 1\n", "orders.yaml, document 1: apiVersion: expected perdure.dev/v1, found None"),
        ("!!python/object/apply:os.getcwd []", "orders.yaml is not YAML: "),
        ("[" * 5_000 + "]" * 5_000, "orders.yaml is not YAML: "),
    ],
)
def test_a_text_that_cannot_be_read_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ManifestError) as refused:
        load(text, "orders.yaml")
    assert complaint in str(refused.value)


def test_the_document_that_is_wrong_is_numbered() -> None:
    text = msgspec.yaml.encode(MINIMAL).decode() + "---\n" + msgspec.yaml.encode(changed(kind="Pod")).decode()
    with pytest.raises(ManifestError, match=r"orders\.yaml, document 2: kind: expected WorkflowInstance"):
        load(text, "orders.yaml")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"wrokflow": "x"}, "spec: object contains unknown field wrokflow"),
        ({"cancel": {"why": "x"}}, "spec.cancel: object contains unknown field why"),
        ({"inputFrom": [{"name": "a", "secretRef": {}}]}, "spec.inputFrom: object contains unknown field secretRef"),
        (
            {"inputFrom": [{"name": "a", "secretKeyRef": {"name": "b", "key": "c", "namespace": "d"}}]},
            "spec.inputFrom.secretKeyRef: object contains unknown field namespace",
        ),
    ],
)
def test_an_unknown_field_is_named_in_a_document_and_left_aside_in_an_object(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(ManifestError, match=path):
        parse(changed(spec=spec))
    if "secretRef" not in str(spec):
        assert parse(changed(spec=spec), strict=False).workflow == "order"


REFERENCE = {"name": "texts", "key": "k"}


@pytest.mark.parametrize("source", [{}, {"secretKeyRef": REFERENCE, "configMapKeyRef": REFERENCE}])
def test_each_argument_has_one_source(source: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="give either configMapKeyRef or secretKeyRef"):
        parse(changed(spec={"inputFrom": [{"name": "a", **source}]}))


def test_arguments_come_from_config_maps_as_text_or_as_json_and_from_secrets_by_name() -> None:
    sources = [
        {"name": "text", "configMapKeyRef": REFERENCE},
        {"name": "value", "configMapKeyRef": REFERENCE, "format": "JSON"},
        {"name": "token", "secretKeyRef": {"name": "payment", "key": "token"}},
    ]
    instance = parse(changed(spec={"input": {"total": 42}, "inputFrom": sources}))
    assert instance.config_maps == {"texts"}
    assert msgspec.json.decode(instance.new_run("shop", {"texts": {"k": "[1]"}}).input) == {
        "total": 42,
        "text": "[1]",
        "value": [1],
        "token": {"name": "payment", "key": "token"},
    }
    wrong: list[tuple[dict[str, dict[str, str]], str]] = [
        ({}, "no ConfigMap texts"),
        ({"texts": {}}, "no key k"),
        ({"texts": {"k": "["}}, "not JSON"),
    ]
    for there, complaint in wrong:
        with pytest.raises(InputMissingError, match=complaint):
            instance.new_run("shop", there)
