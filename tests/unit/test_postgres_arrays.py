"""Parameters packed by hand: what PostgreSQL reads is what was packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.errors import PayloadError
from perdure.store.postgres import arrays
from tests.support.postgres import Server

Pack = Callable[[Sequence[Any]], arrays.Packed]

CASES: list[tuple[Pack, st.SearchStrategy[Any]]] = [
    (arrays.int4s, st.integers(-(2**31), 2**31 - 1)),
    (arrays.int8s, st.integers(-(2**63), 2**63 - 1)),
    (arrays.byteas, st.binary(max_size=40)),
    (arrays.texts, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)),
]


def echo(dsn: str, parameter: arrays.Packed | None) -> object:
    with psycopg.connect(dsn) as connection:
        arrays.register(connection)
        cursor = psycopg.RawCursor(connection)
        cursor.execute("SELECT $1", [parameter], binary=True)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(("pack", "element"), CASES, ids=["int4s", "int8s", "byteas", "texts"])
def test_arrays_arrive_as_they_were_packed(
    postgres_server: Server, pack: Pack, element: st.SearchStrategy[Any]
) -> None:
    with psycopg.connect(postgres_server.dsn) as connection:
        arrays.register(connection)
        cursor = psycopg.RawCursor(connection)

        @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(st.lists(st.none() | element, max_size=6))
        def check(values: list[Any]) -> None:
            cursor.execute("SELECT $1", [pack(values)], binary=True)
            assert cursor.fetchone() == (values,)

        check()


def test_scalars_arrive_as_they_were_packed(postgres_server: Server) -> None:
    assert echo(postgres_server.dsn, arrays.int4(-7)) == -7
    assert echo(postgres_server.dsn, arrays.int8(2**62)) == 2**62
    assert echo(postgres_server.dsn, arrays.text("größer")) == "größer"
    assert echo(postgres_server.dsn, arrays.boolean(True)) is True
    assert echo(postgres_server.dsn, arrays.boolean(False)) is False
    assert echo(postgres_server.dsn, arrays.Bytea(b"\0\xff")) == b"\0\xff"
    assert (arrays.int8(None), arrays.text(None)) == (None, None)


def test_half_a_character_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PayloadError, match="surrogate"):
        arrays.texts(["fine", "\ud800"])
    with pytest.raises(PayloadError, match="surrogate"):
        arrays.text("\udfff")
