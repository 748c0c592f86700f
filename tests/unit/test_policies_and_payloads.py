"""Retry arithmetic, payloads and the codec: pure functions."""

import math
import re
import sys
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import RetryPolicy, activity, workflow
from perdure.errors import ActivityError, ApplicationError, DefinitionError, NonRetryableError, PayloadError
from perdure.model.codec import decode_turn, encode_turn, join_payloads, split_payloads
from perdure.model.events import ActivityCompleted, ActivityScheduled, Failure, TimerFired, Turn, TurnHeader
from perdure.model.failure import rebuild, record
from perdure.model.ids import check_id, new_id, new_seed
from perdure.model.payload import Signature
from perdure.model.policies import ActivityOptions, seconds
from perdure.model.runs import MOVES, IllegalMoveError, RunState, move
from perdure.runtime.options import decode_options, encode_options


def test_delays_grow_to_their_limit_and_stop_with_the_last_attempt() -> None:
    policy = RetryPolicy(initial_interval=1, backoff_coefficient=3, max_interval=timedelta(seconds=10), max_attempts=5)
    assert [policy.delay(attempt) for attempt in range(1, 6)] == [1, 3, 9, 10, None]


@pytest.mark.parametrize("length", [0, -1, float("inf"), float("nan"), timedelta.max, True, "1m"])
def test_what_is_no_length_of_time_that_can_be_waited_for_is_refused(length: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^timeout must be a timedelta or a number of seconds above 0, at most"):
        seconds(length, "timeout")


@given(st.integers(1, 10**9))
def test_without_a_limit_there_is_always_a_next_attempt_within_the_longest_interval(attempt: int) -> None:
    delay = RetryPolicy().delay(attempt)
    assert delay is not None
    assert 1 <= delay <= 100


class Declined(ValueError):
    pass


@pytest.mark.parametrize(
    ("listed", "error", "again"),
    [
        ((), ValueError(), True),
        ((), NonRetryableError(), False),
        ((ValueError,), Declined(), False),
        (("ValueError",), Declined(), False),
        (("Declined",), Declined(), False),
        ((f"{__name__}.Declined",), Declined(), False),
        (("Other",), Declined(), True),
    ],
)
def test_what_is_tried_again(listed: Any, error: Exception, again: bool) -> None:
    assert RetryPolicy(non_retryable=listed).allows(error) is again


@pytest.mark.parametrize("bad", [0, -1, float("inf"), float("nan"), "1", None, True])
def test_a_length_of_time_must_be_one(bad: Any) -> None:
    with pytest.raises(DefinitionError, match="initial_interval must be a timedelta or a number of seconds"):
        RetryPolicy(initial_interval=bad)


class Count(int):
    """A number that JSON does not know."""


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("backoff_coefficient", [0, 0.5, math.inf, math.nan, 10**400, Fraction(3, 2), Decimal(2), True, "2", None]),
        ("max_attempts", [-1, 2.5, 3.0, math.inf, math.nan, 2**31, Fraction(3), True, "3", None]),
        (
            "non_retryable",
            ["ValueError", ValueError, (ValueError("no"),), (int,), (None,), None, iter(("ValueError",))],
        ),
        ("max_interval", [math.inf, math.nan, Fraction(3, 2), Decimal(2)]),
    ],
)
def test_a_retry_policy_is_refused_where_it_is_made_by_the_name_of_what_is_wrong(option: str, wrong: list[Any]) -> None:
    for value in wrong:
        with pytest.raises(DefinitionError, match=rf"^RetryPolicy\.{option} must be .*, not "):
            RetryPolicy(**{option: value})


@pytest.mark.parametrize(
    "policy",
    [
        RetryPolicy(),
        RetryPolicy(backoff_coefficient=Count(3), max_attempts=Count(4), initial_interval=Count(5)),
        RetryPolicy(backoff_coefficient=sys.float_info.max, max_attempts=2**31 - 1, max_interval=timedelta(days=1)),
        RetryPolicy(non_retryable=("shop.Declined", ValueError)),
    ],
)
def test_a_retry_policy_that_was_accepted_means_the_same_in_another_process(policy: RetryPolicy) -> None:
    there = decode_options(encode_options(ActivityOptions(retry=policy))).retry
    assert [there.delay(attempt) for attempt in (1, 2, 9, 10**6)] == [policy.delay(n) for n in (1, 2, 9, 10**6)]
    assert there.allows(ValueError()) is policy.allows(ValueError())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 7}, "queue must be a str, not 7"),
        ({"retry": 3}, "retry must be a RetryPolicy, not 3"),
        ({"timeout": math.nan}, "timeout must be a timedelta or a number"),
        ({"heartbeat_timeout": math.inf}, "heartbeat_timeout must be a timedelta or a number"),
    ],
)
def test_options_of_an_activity_are_refused_where_they_are_given(options: dict[str, Any], words: str) -> None:
    @activity.define
    async def charge() -> None: ...

    for give in (activity.define, charge.options):
        with pytest.raises(DefinitionError, match=words):
            give(**options)


def test_a_name_is_a_text() -> None:
    with pytest.raises(DefinitionError, match="the name of a workflow must be a str, not 7"):
        workflow.define(name=7)  # type: ignore[call-overload]  # that is the point
    with pytest.raises(DefinitionError, match="the name of an activity must be a str, not 7"):
        activity.define(name=7)  # type: ignore[call-overload]  # that is the point


def test_calls_bind_by_position_by_name_and_with_defaults() -> None:
    def function(a: int, b: str = "b", *, c: list[int] | None = None) -> None: ...
    def plain(a: int, b: str = "b") -> None: ...

    signature = Signature(plain, "plain")
    assert bytes(signature.encode_call((1,), {"b": "x"})) == b'[1,"x"]'
    assert signature.decode_call(msgspec.Raw(b"[1]")) == ((1, "b"), {})
    assert signature.decode_call(msgspec.Raw(b'{"b":"y","a":2}')) == ((2, "y"), {})
    named = Signature(function, "function")
    assert bytes(named.encode_call((1,), {"c": [2]})) == b'{"a":1,"c":[2]}'
    assert named.decode_call(msgspec.Raw(b'{"a":1,"c":[2]}')) == ((1, "b"), {"c": [2]})
    with pytest.raises(TypeError, match=r"plain\(\): missing a required argument: 'a'"):
        signature.encode_call((), {})


def test_calls_bind_when_keyword_only_parameters_come_in_any_order_and_others_are_positional_only() -> None:
    def late(*, a: int = 1, b: int) -> None: ...
    def mixed(a: int, /, b: int = 2, *, c: int = 3, d: int) -> None: ...

    signature = Signature(late, "late")
    assert signature.decode_call(signature.encode_call((), {"b": 5})) == ((), {"a": 1, "b": 5})
    signature = Signature(mixed, "mixed")
    assert signature.decode_call(signature.encode_call((1,), {"d": 4})) == ((1, 2), {"c": 3, "d": 4})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'["x"]', r"Expected `int`, got `str` - at `\$\[0\]`"),
        (b"{}", "missing required field `a`"),
        (b'{"a":1,"z":2}', "unknown field `z`"),
        (b'[1,"b",3]', "at most length 2"),
        (b"7", "Expected `array`"),
        (b"[", "truncated"),
    ],
)
def test_input_that_does_not_fit_names_what_is_wrong(raw: bytes, words: str) -> None:
    def plain(a: int, b: str = "b") -> None: ...

    with pytest.raises(PayloadError, match=words):
        Signature(plain, "plain").decode_call(msgspec.Raw(raw))


def test_definitions_that_cannot_be_recorded_are_refused_where_they_are_made() -> None:
    def many(*items: int) -> None: ...

    with pytest.raises(DefinitionError, match="declare a list or a dict parameter instead"):
        activity.define(many)
    with pytest.raises(DefinitionError, match="decorates an async function"):
        workflow.define(many)  # type: ignore[arg-type]  # that is the point


def test_outside_a_workflow_an_activity_is_its_function() -> None:
    @activity.define
    def double(number: int) -> int:
        return number * 2

    assert double(4) == 8  # type: ignore[comparison-overlap]  # outside a workflow a synchronous one returns at once


headers = st.builds(
    TurnHeader, time=st.integers(0, 2**50), build=st.none() | st.text(max_size=9), flags=st.none() | st.integers(0, 9)
)
raws = st.recursive(st.integers() | st.text(max_size=40) | st.none(), lambda inner: st.lists(inner, max_size=3)).map(
    lambda value: msgspec.Raw(msgspec.json.encode(value) if not isinstance(value, int) or abs(value) < 2**63 else b"0")
)
events = st.one_of(
    st.builds(ActivityCompleted, seq=st.integers(1, 99), result=raws),
    st.builds(ActivityScheduled, seq=st.integers(1, 99), name=st.text(max_size=9), input=raws),
    st.builds(TimerFired, seq=st.integers(1, 99)),
)


@given(headers, st.lists(events, max_size=6), st.integers(0, 20))
def test_turns_and_their_payloads_survive_the_record(header: TurnHeader, recorded: list[Any], threshold: int) -> None:
    kept, outside = split_payloads(recorded, threshold)
    turn = join_payloads(decode_turn(3, encode_turn(header, kept)), outside)
    assert turn.header == header
    assert encode_turn(turn.header, turn.events) == encode_turn(header, recorded)
    assert turn == Turn(3, header, turn.events)


@pytest.mark.parametrize(
    "row", [b"", b"\x02[]", b"\x01[", b"\x01[]", b"\x01[1]", b'\x01[1,[["new",1]]]', b'\x01[1,[["ac"]]]']
)
def test_a_row_that_cannot_be_read_is_an_error_that_says_so(row: bytes) -> None:
    with pytest.raises(PayloadError):
        decode_turn(1, row)


def test_failures_keep_their_chain_and_never_fail_themselves() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    try:
        try:
            raise Broken
        except Broken as broken:
            raise KeyError("k\udc80") from broken
    except KeyError as error:
        failure = record(error)
    assert (failure.type, failure.message) == ("KeyError", "'k\\udc80'")
    assert failure.cause is not None
    assert "raised RuntimeError" in failure.cause.message
    assert record(rebuild(failure)) == failure


class Hopeless(NonRetryableError):
    pass


class Named(ApplicationError):
    pass


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(), "ValueError"),
        (Declined(), f"{__name__}.Declined"),
        (Hopeless(), f"{__name__}.Hopeless"),
        (Named("x"), f"{__name__}.Named"),
        (Named("x", type_name="shop.Gone"), "shop.Gone"),
        (ApplicationError("x"), "ApplicationError"),
        (NonRetryableError(), "NonRetryableError"),
    ],
)
def test_a_failure_has_the_name_of_its_class_with_the_module_that_an_author_gave_it(
    error: Exception, name: str
) -> None:
    assert record(error).type == name
    assert record(rebuild(record(error))).type == name
    assert f"{name}: " in record(ExceptionGroup("", [error])).message


def test_each_exception_is_recorded_once_when_the_cause_is_raised_for_its_error() -> None:
    cause = ApplicationError("card expired", type_name="ValueError")
    try:
        try:
            raise ActivityError("charge", 1, cause)
        except ActivityError:
            raise cause  # noqa: B904  # as authors do it with the __cause__ of what they caught
    except ApplicationError as raised:
        failure: Failure | None = record(raised)
    names = []
    while failure is not None:
        names.append(failure.type)
        failure = failure.cause
    assert names == ["ValueError", "ActivityError"]


def test_the_failure_of_a_group_names_its_members() -> None:
    inner = ExceptionGroup("inner", [KeyError("k")])
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("no money"), inner])
    failure = record(group)
    assert failure.message.endswith("a TaskGroup (2 sub-exceptions): ValueError: no money; KeyError: 'k'")
    assert failure.cause is not None
    assert (failure.cause.type, failure.cause.message) == ("ValueError", "no money")
    group.__cause__ = OSError("before")
    failure = record(group)
    assert failure.cause is not None
    assert failure.cause.message == "before"


def test_a_group_is_tried_again_when_all_of_its_members_are() -> None:
    again, never = ValueError("again"), NonRetryableError("never")
    assert RetryPolicy().allows(ExceptionGroup("", [again]))
    assert not RetryPolicy().allows(ExceptionGroup("", [again, ExceptionGroup("", [never])]))
    assert not RetryPolicy(non_retryable=(ValueError,)).allows(ExceptionGroup("", [again]))


def test_runs_move_by_the_table_only() -> None:
    for before in RunState:
        for after in RunState:
            if after in MOVES[before]:
                assert move(before, after) is after
            else:
                with pytest.raises(IllegalMoveError):
                    move(before, after)
        assert before.closed is (MOVES[before] == frozenset())


def test_ids_of_instances_that_nobody_named_sort_by_their_time() -> None:
    ids = [
        new_id(moment, noise) for moment in (0, 1, 1_795_000_000_000, 2**45 - 1) for noise in (bytes(13), b"\xff" * 13)
    ]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    for instance in ids:
        check_id(instance)
        assert re.fullmatch("[0-9a-v]{22}", instance)


def test_every_random_byte_makes_a_character_of_an_id_and_of_a_seed() -> None:
    for make, bits in ((lambda noise: new_id(0, noise)[9:], 5), (new_seed, 6)):
        found = [make(bytes([number])) for number in range(256)]
        assert all(found.count(character) == 256 >> bits for character in found)
