"""The health endpoints: answers from a thread, whatever the event loop does."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from perdure.runtime.health import Health, HealthServer, Pulse


def no_metrics(accept: str) -> tuple[str, bytes]:
    return "text/plain", f"asked for {accept}".encode()


class Told:
    """What a server is told to answer."""

    health = Health()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def server(told: Told) -> Iterator[HealthServer]:
    server = HealthServer("127.0.0.1", 0, lambda: told.health, no_metrics)
    server.start()
    yield server
    server.stop()


def ask(server: HealthServer, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_a_healthy_process_says_yes_twice(server: HealthServer) -> None:
    assert ask(server, "/livez") == (200, {"live": True})
    assert ask(server, "/readyz?verbose") == (200, {"ready": True})


def test_a_process_that_is_not_ready_lives_all_the_same(server: HealthServer, told: Told) -> None:
    told.health = Health(not_ready="the database is away")
    assert ask(server, "/livez")[0] == 200
    assert ask(server, "/readyz") == (503, {"ready": False, "reason": "the database is away"})


def test_another_path_is_not_found(server: HealthServer) -> None:
    status, body = ask(server, "/")
    assert status == 404
    assert "/livez" in str(body["reason"])


def test_the_page_of_metrics_is_in_the_format_that_was_asked_for(server: HealthServer) -> None:
    wanted = urllib.request.Request(f"{server.url}/metrics", headers={"Accept": "text/special"})
    with urllib.request.urlopen(wanted, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain"
        assert answer.read() == b"asked for text/special"


def test_a_stuck_event_loop_is_found_out_from_outside() -> None:
    answers: list[tuple[int, dict[str, object]]] = []

    async def main() -> None:
        pulse = Pulse(stuck_after=0)
        server = HealthServer("127.0.0.1", 0, lambda: Health(not_live=pulse.complaint()), no_metrics)
        server.start()
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0)
        answers.append(ask(server, "/livez"))  # blocks the loop: it cannot beat meanwhile
        beating.cancel()
        server.stop()

    asyncio.run(main())
    asyncio.set_event_loop(None)
    assert answers == [(503, {"live": False, "reason": "the event loop has not moved for 0 s"})]


def test_a_loop_that_turns_has_nothing_to_complain_about() -> None:
    async def main() -> str:
        pulse = Pulse()
        beating = asyncio.create_task(pulse.beat())
        await asyncio.sleep(0)
        beating.cancel()
        return pulse.complaint()

    assert asyncio.run(main()) == ""
    asyncio.set_event_loop(None)


def test_an_address_of_the_sixth_version_is_written_in_brackets() -> None:
    server = HealthServer("::1", 0, Health, no_metrics)
    server.start()
    try:
        assert server.url.startswith("http://[::1]:")
        assert ask(server, "/livez")[0] == 200
    finally:
        server.stop()
