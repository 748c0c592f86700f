"""Which values can be recorded and come back as they were, and what is refused at once."""

import enum
import math
import re
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from perdure import activity, workflow
from perdure.errors import DefinitionError, PayloadError
from perdure.model.payload import Reader, Signature, encode
from perdure.runtime.limits import Limits


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Box:
    name: str
    when: datetime
    price: Decimal
    colour: Colour
    id: uuid.UUID


class Model(pydantic.BaseModel):
    number: int
    tags: list[str] = []


class Point(msgspec.Struct):
    x: int
    y: int = 0


BOX = Box("a", datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.10"), Colour.RED, uuid.UUID(int=7))


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (Box, BOX),
        (Model, Model(number=1)),
        (Point, Point(1)),
        (list[Box], [BOX]),
        (dict[str, int], {"a": 1}),
        (Any, [1]),
    ],
)
def test_values_survive_the_record(wanted: Any, value: Any) -> None:
    assert Reader(wanted).read(encode(value, "it"), "it") == value


@pytest.mark.parametrize("bad", [object(), lambda: 0, {1: {2: object()}}])
def test_what_cannot_be_recorded_says_so_and_says_what_can(bad: Any) -> None:
    with pytest.raises(PayloadError, match=r"it cannot be recorded: .* Use builtins, dataclasses"):
        encode(bad, "it")


@dataclass
class Inner:
    path: dict[str, list[Path | None]]


@pytest.mark.parametrize(
    "wanted",
    [Path, OrderedDict[str, int], deque[int], complex, re.Pattern, Callable[[], int], Inner, pydantic.SecretStr],
)
def test_what_could_not_be_read_back_is_refused_where_it_is_declared(wanted: Any) -> None:
    def takes(value: Any) -> None: ...

    def gives() -> Any: ...

    takes.__annotations__["value"] = gives.__annotations__["return"] = wanted
    for function in (takes, gives):
        with pytest.raises(DefinitionError, match=r"cannot be read back; use builtins such as list and dict"):
            activity.define(function)
    with pytest.raises(DefinitionError, match=r"signal go: .* cannot be read back"):
        workflow.signal("go", wanted)


def test_what_json_is_read_as_may_be_declared_by_what_it_can_do() -> None:
    assert Signature(sum_up, "sum_up").decode_call(encode([[1, 2]], "it")) == (([1, 2],), {})


def sum_up(numbers: Iterable[int]) -> object: ...


def test_a_generator_is_no_activity() -> None:
    def counting() -> Any:
        yield 1

    async def counting_slowly() -> Any:
        yield 1

    for function in (counting, counting_slowly):
        with pytest.raises(DefinitionError, match=r"counting.* is a generator, .*: return a list instead"):
            activity.define(function)


@pytest.mark.parametrize("name", ["runs", "activities", "threads", "payload", "lease", "turn", "drain"])
@pytest.mark.parametrize("number", [0, -1, math.nan, True, "1"])
def test_limits_with_which_nothing_would_be_done_are_refused(name: str, number: Any) -> None:
    if (name, number) == ("drain", 0):
        assert Limits(drain=0).drain == 0
        return
    with pytest.raises(DefinitionError, match=f"^Limits.{name} must be a .*, not {number!r}$"):
        Limits(**{name: number})


class Aliased(pydantic.BaseModel):
    order_id: int = pydantic.Field(alias="orderId")


class Asymmetric(pydantic.BaseModel):
    number: int = pydantic.Field(validation_alias="NUMBER_IN", serialization_alias="numberOut")


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    when: datetime
    price: Decimal
    id: uuid.UUID

    @pydantic.computed_field  # type: ignore[prop-decorator]  # the way pydantic documents
    @property
    def year(self) -> int:
        return self.when.year


STRICT = Strict(when=BOX.when, price=BOX.price, id=BOX.id)


@pytest.mark.parametrize("value", [Aliased(orderId=1), Asymmetric.model_validate({"NUMBER_IN": 1}), STRICT])
def test_pydantic_models_with_aliases_and_strict_ones_survive_the_record(value: pydantic.BaseModel) -> None:
    assert Reader(type(value)).read(encode(value, "it"), "it") == value
    holder = msgspec.defstruct("Holder", [("held", dict[str, list[type(value)]])])  # type: ignore[misc]  # known then
    assert Reader(holder).read(encode({"held": {"a": [value]}}, "it"), "it") == holder({"a": [value]})


def test_pydantic_models_are_read_by_the_aliases_that_people_write_as_well() -> None:
    assert Reader(Aliased).read(b'{"orderId":7}', "it") == Reader(Aliased).read(b'{"order_id":7}', "it")


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Told(Login):
    @pydantic.field_serializer("password")
    def tell(self, password: pydantic.SecretStr) -> str:
        return password.get_secret_value()


def test_a_secret_of_which_asterisks_would_be_left_is_refused() -> None:
    login = Login(user="*" * 10, password=pydantic.SecretStr("hush"))
    with pytest.raises(PayloadError, match=r"SecretStr of Login - at `\$\['password'\]` - asterisks .* pass the name"):
        encode([login], "it")
    told = Told(user="*" * 10, password=pydantic.SecretStr("hush"))
    assert Reader(Told).read(encode(told, "it"), "it") == told


class Measured(pydantic.BaseModel):
    mean: float
    rest: Any = None


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (float("nan"), "nan - at `$`"),
        ([1.0, float("-inf")], "-inf - at `$[1]`"),
        (({"a": [None, Point(1)]}, 2**70, {"b": {"c": float("inf")}}), "inf - at `$[2]['b']['c']`"),
        ([Measured(mean=float("nan"))], "nan - at `$[0]['mean']`"),
        (Measured(mean=1, rest={"x": float("inf")}), "inf - at `$['rest']['x']`"),
    ],
)
def test_a_number_that_json_does_not_have_is_refused_where_it_is_and_not_made_null(value: Any, where: str) -> None:
    with pytest.raises(PayloadError, match=re.escape(f"it cannot be recorded: JSON has no number {where}")):
        encode(value, "it")


@pytest.mark.parametrize("odd", [2**70, Decimal("NaN"), "\xcb\x7f\xf0", 0xCB7FF0, BOX, Model(number=1), {1: None}])
def test_what_is_beside_nothing_is_recorded_as_ever(odd: Any) -> None:
    assert bytes(encode([None, odd], "it")) == b"[null," + bytes(encode(odd, "it")) + b"]"


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        assert self.number > 0
        if self.number > 9:
            raise LookupError("it has two digits")


@pytest.mark.parametrize(("number", "words"), [(0, "AssertionError"), (10, "LookupError: it has two digits")])
def test_whatever_a_class_of_an_author_raises_when_it_is_read_says_that_the_value_does_not_fit(
    number: int, words: str
) -> None:
    def takes(value: Positive) -> None: ...

    with pytest.raises(PayloadError, match=f"it does not fit its declared type: {words}"):
        Reader(Positive).read(msgspec.Raw(b'{"number":%d}' % number), "it")
    with pytest.raises(PayloadError, match=rf"the input does not fit takes\(value\): {words}"):
        Signature(takes, "takes").decode_call(msgspec.Raw(b'[{"number":%d}]' % number))
