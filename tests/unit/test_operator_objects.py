"""What is news to the operator, and what is only an echo of what it did itself."""

from typing import Any

import pytest

from perdure.errors import RequestError
from perdure.manifest import is_uid
from perdure_operator.objects import Known, Objects
from perdure_operator.reconcile import DeletionPolicy
from perdure_operator.settings import Settings
from perdure_operator.status import canonical

FINISHED = {"observedGeneration": 1, "conditions": [{"type": "Finished", "status": "True"}]}


def body(version: int, *, generation: int = 1, status: Any = None, **fields: Any) -> dict[str, Any]:
    metadata = {"uid": "u", "namespace": "n", "name": "o", "resourceVersion": str(version), "generation": generation}
    found: dict[str, Any] = {"metadata": {**metadata, **fields}, "spec": {"workflow": "order"}}
    return {**found, "status": status} if status is not None else found


def known(objects: Objects) -> Known:
    found = objects.get("u")
    assert found is not None
    return found


def acted(objects: Objects, generation: int = 1) -> Known:
    """Take note that the spec was acted on, as the controller does."""
    found = known(objects)
    found.generation = generation
    return found


def test_an_object_is_news_until_it_was_acted_on() -> None:
    objects = Objects()
    assert objects.see(body(5))
    assert objects.see(body(5))
    acted(objects)
    assert not objects.see(body(5))


def test_an_edit_is_news_even_if_it_is_heard_of_late() -> None:
    objects = Objects()
    objects.see(body(5))
    acted(objects).record({"phase": "Running"}, 9)
    assert objects.see(body(7, generation=2))
    assert known(objects).status() == {"phase": "Running"}, "the older status does not count"


def test_the_echo_of_an_own_write_is_no_news() -> None:
    objects = Objects()
    objects.see(body(5))
    found = acted(objects)
    found.sent = canonical({"phase": "Running"})
    assert not objects.see(body(6, status={"phase": "Running"})), "before the answer to the write"
    found.record({"phase": "Running"}, 6)
    assert not objects.see(body(6, status={"phase": "Running"})), "after it"
    assert not objects.see(body(5)), "and the one before it, late"


def test_a_status_of_somebody_else_is_news() -> None:
    objects = Objects()
    objects.see(body(5))
    acted(objects).record({"phase": "Running"}, 6)
    assert objects.see(body(7, status={"phase": "Failed"}))


def test_labels_are_no_news() -> None:
    objects = Objects()
    objects.see(body(5))
    acted(objects)
    assert not objects.see(body(6, labels={"team": "a"}))


def test_a_deletion_that_is_under_way_is_news_until_it_was_acted_on() -> None:
    objects = Objects()
    objects.see(body(5))
    acted(objects)
    assert objects.see(body(6, deletionTimestamp="2026-01-02T03:04:05Z"))
    known(objects).deleting = True
    assert not objects.see(body(7, deletionTimestamp="2026-01-02T03:04:05Z"))


def test_an_object_that_ended_before_the_operator_began_is_no_news_unless_it_was_edited_since() -> None:
    objects = Objects()
    assert not objects.see(body(5, status=FINISHED))
    assert known(objects).finished
    assert Objects().see(body(5, generation=2, status=FINISHED))


def test_versions_that_are_no_numbers_are_taken_as_new() -> None:
    objects = Objects()
    first = body(5)
    first["metadata"]["resourceVersion"] = "abc"
    objects.see(first)
    acted(objects)
    second = body(5, status={"phase": "Failed"})
    second["metadata"]["resourceVersion"] = "abb"
    assert objects.see(second)


def test_the_deletion_policy_is_remembered_when_the_object_is_gone() -> None:
    objects = Objects()
    objects.see(body(5))
    assert known(objects).policy is DeletionPolicy.CANCEL
    edited = body(6, generation=2)
    edited["spec"] = {"deletionPolicy": "Abandon", "priority": "nonsense"}
    objects.see(edited)
    gone = objects.remove("u")
    assert gone is not None
    assert gone.policy is DeletionPolicy.ABANDON
    assert objects.get("u") is None
    assert objects.remove("u") is None


@pytest.mark.parametrize(
    ("key", "answer"),
    [("8ec385e5-0b1c-4a0a-9e0a-38afb951775e", True), ("apply/shop/order-1", False), ("", False), ("8EC385E5", False)],
)
def test_only_uids_are_keys_of_the_operator(key: str, answer: bool) -> None:
    assert is_uid(key) is answer


def test_settings_come_from_arguments_then_from_the_environment() -> None:
    environment = {
        "PERDURE_URL": "postgresql://a/b",
        "PERDURE_WATCH_NAMESPACES": "one, two,",
        "POD_NAME": "operator-1",
        "POD_NAMESPACE": "system",
        "PERDURE_OPERATOR_STATUS_RATE": "5.5",
    }
    settings = Settings.read("", None, environment)
    assert (settings.url, settings.namespaces) == ("postgresql://a/b", ("one", "two"))
    assert settings.identity.startswith("operator-1_")
    assert (settings.lease_namespace, settings.status_rate, settings.lease) == ("system", 5.5, 15.0)
    settings = Settings.read("postgresql://c/d", ["three", "three"], environment)
    assert (settings.url, settings.namespaces) == ("postgresql://c/d", ("three",))
    assert Settings.read("postgresql://c/d", None, {}).namespaces is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "PERDURE_URL"),
        ({"PERDURE_URL": "x", "PERDURE_OPERATOR_LEASE_SECONDS": "0.5"}, "at least 1 second"),
        ({"PERDURE_URL": "x", "PERDURE_OPERATOR_STATUS_RATE": "fast"}, "a number is needed, not 'fast'"),
        ({"PERDURE_URL": "x", "PERDURE_OPERATOR_STATUS_RATE": "-1"}, "above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_name(environment: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Settings.read("", None, environment)


def test_what_becomes_of_an_object_later_follows_its_newest_spec_however_late_events_come() -> None:
    objects = Objects()
    newer = body(9, generation=2) | {"spec": {"workflow": "order", "deletionPolicy": "Abandon"}}
    objects.see(newer)
    objects.see(body(5))
    assert known(objects).policy is DeletionPolicy.ABANDON
    # The writer has seen a later version of the object before the event of the edit arrives.
    known(objects).record({"phase": "Running"}, 20)
    objects.see(body(12, generation=3) | {"spec": {"workflow": "order", "ttlSecondsAfterFinished": 5}})
    assert known(objects).policy is DeletionPolicy.CANCEL
    assert known(objects).ttl == (5, 5)


@pytest.mark.parametrize(
    ("spec", "succeeded", "seconds"),
    [
        ({}, "True", None),
        ({"ttlSecondsAfterFinished": 60}, "True", 60),
        ({"ttlSecondsAfterFinished": 60}, "False", 60),
        ({"ttlSecondsAfterFinished": 60, "ttlSecondsAfterFailure": 5}, "True", 60),
        ({"ttlSecondsAfterFinished": 60, "ttlSecondsAfterFailure": 5}, "False", 5),
        ({"ttlSecondsAfterFailure": 0}, "True", None),
        ({"ttlSecondsAfterFailure": 0}, "False", 0),
    ],
)
def test_an_object_expires_so_long_after_the_end_of_its_run(
    spec: dict[str, int], succeeded: str, seconds: int | None
) -> None:
    conditions = [*FINISHED["conditions"], {"type": "Succeeded", "status": succeeded}]  # type: ignore[misc]  # a list
    status = {**FINISHED, "conditions": conditions, "completionTime": "1970-01-01T00:16:40Z"}
    objects = Objects()
    objects.see(body(5, status=status) | {"spec": {"workflow": "order", **spec}})
    assert known(objects).expires_at == (None if seconds is None else 1_000 + seconds)
    known(objects).deleting = True
    assert known(objects).expires_at is None


def test_an_object_without_an_end_does_not_expire() -> None:
    objects = Objects()
    objects.see(body(5, status={"phase": "Running"}) | {"spec": {"workflow": "order", "ttlSecondsAfterFinished": 0}})
    assert known(objects).expires_at is None
