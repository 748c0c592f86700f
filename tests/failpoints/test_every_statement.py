"""Every statement is lost, unanswered, or the last one of its process, at every place: the scenario ends the same."""

from __future__ import annotations

import asyncio
import os

import pytest

from perdure.store.postgres.queries import QUERIES
from tests.failpoints import workflows
from tests.failpoints.campaign import LANES, Campaign, everywhere, somewhere
from tests.support.failpoints import Kind

CHOICE = everywhere if os.environ.get("FAILPOINTS") == "all" else somewhere
"""Every statement is cut at least once; with ``FAILPOINTS=all`` at each place where it is sent, which takes long."""

NOT_CUT: dict[str, str] = {
    "dismiss": "records nothing: it ends its own connection, behind a pooler, when the database takes no writes",
}
"""Queries that no process of the scenario sends, each with the reason."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Lend a campaign that is over."""
    workflows.Process.broken.add("fragile")  # here histories are replayed only, and this one does not break again
    fought = Campaign(tmp_path_factory.mktemp("failpoints"), LANES)
    asyncio.run(fought.fight(CHOICE))
    print(fought.report())
    return fought


def test_without_a_cut_everything_ends_right(campaign: Campaign) -> None:
    assert not campaign.baseline.complaints, str(campaign.baseline)
    assert set(campaign.baseline.performance.sent) == {"caller", "helper", "host"}


def test_whatever_is_cut_recovery_ends_in_the_same_results(campaign: Campaign) -> None:
    wrong = [result for result in campaign.results if result.complaints]
    assert not wrong, "\n".join([campaign.report(), *map(str, wrong)])


def test_every_query_of_the_store_is_cut_in_every_way(campaign: Campaign) -> None:
    made = campaign.made
    missing = [f"{name}: {kind}" for name in QUERIES if name not in NOT_CUT for kind in Kind if not made[name, kind]]
    assert not missing, "\n".join([campaign.report(), "never cut, and not in NOT_CUT:", *missing])


def test_some_starts_go_along_with_turns_and_are_cut_with_them(campaign: Campaign) -> None:
    pairs = {pair for result in campaign.results if result.performance.made for pair in result.performance.together}
    assert any(start == "start_own" for _, start in pairs), pairs


def test_the_list_of_what_is_not_cut_is_true(campaign: Campaign) -> None:
    names = {name for name, _ in campaign.made}
    assert set(NOT_CUT) <= set(QUERIES) - names
