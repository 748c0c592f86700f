"""`helm uninstall` takes programs away and nothing else."""

from tests.e2e.conftest import Orders
from tests.e2e.installation import Installation


def test_runs_resume_when_an_uninstalled_release_is_installed_again(shop: Installation, orders: Orders) -> None:
    ordered = orders(5, steps=4, seconds=0.5, pause=4)
    shop.apply(ordered, workflow="linger")
    before = {name: status["runId"] for name, status in shop.until_phase(ordered, "Running").items()}
    shop.uninstall()

    shop.cluster.out("get", "crd", "workflowinstances.perdure.dev")
    left = shop.statuses()
    assert {name: left[name]["runId"] for name in ordered} == before
    assert {left[name]["phase"] for name in ordered} == {"Running"}

    # An object that was applied while nobody was there is found by whoever comes.
    late = orders(2, steps=1, seconds=0.1)
    shop.apply(late)
    shop.install()
    shop.judge(ordered | late)
    after = shop.statuses()
    assert {name: after[name]["runId"] for name in ordered} == before
