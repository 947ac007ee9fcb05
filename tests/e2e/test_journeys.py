"""The ways a canary can go, with the real controller's processes, on any API server."""

import pytest

from scenarios.plot import Behaviour
from tests.e2e.cluster import FAILING, SLOW
from tests.e2e.controllers import Controllers
from tests.e2e.journeys import Journey

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="session")]

FINALIZER = "serin.dev/restore-traffic"
STAYS = "10m"  # a step that lasts longer than the test: what happens is not that it was passed


async def test_a_good_canary_is_promoted_by_copying_its_template(journey: Journey) -> None:
    await journey.begin()
    run = await journey.first_ended()
    assert (run["status"]["phase"], run["status"]["reason"]) == ("Succeeded", "Promoted")
    assert journey.weights() == [0, 20, 50, 0]
    await journey.until(lambda: journey.available(journey.name), "stable is not rolled out")
    assert journey.version(journey.name) == "v2"
    assert journey.template(journey.name)["metadata"]["labels"]["version"] == "stable"
    await journey.until(lambda: journey.replicas(journey.canary) == 0, "the canary was not scaled down")
    name = run["metadata"]["name"]
    await journey.until(
        lambda: FINALIZER not in journey.run(name)["metadata"].get("finalizers", ()), "the finalizer is there"
    )


async def test_a_good_canary_is_promoted_when_somebody_gives_stable_its_template(journey: Journey) -> None:
    await journey.begin(mode="Handoff")
    await journey.until(
        lambda: [run for run in journey.runs() if run.get("status", {}).get("reason") == "ReadyToPromote"],
        "it is not ready to promote",
    )
    assert journey.weights() == [0, 20, 50]
    assert journey.version(journey.name) == "v1"
    await journey.retrain(journey.name, "v2")
    run = await journey.first_ended()
    assert (run["status"]["phase"], run["status"]["reason"]) == ("Succeeded", "Promoted")
    assert journey.weights() == [0, 20, 50, 0]


@pytest.mark.parametrize(("like", "check"), [(SLOW, "latency"), (FAILING, "errors")], ids=["slow", "failing"])
async def test_a_bad_canary_is_rolled_back(journey: Journey, like: Behaviour, check: str) -> None:
    await journey.begin(like=like)
    run = await journey.first_ended()
    status = run["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "CheckFailed")
    assert [one["name"] for one in status["checks"] if one["verdict"] == "Fail"] == [check]
    assert journey.weights()[-1] == 0
    assert journey.version(journey.name) == "v1"
    await journey.until(lambda: journey.replicas(journey.canary) == 0, "the canary was not scaled down")
    assert "CheckFailed" in await journey.events()
    assert len(journey.runs()) == 1  # what has failed is not tried again by itself


async def test_a_new_template_takes_the_traffic_off_the_old_one_first(journey: Journey) -> None:
    await journey.begin(min_step=STAYS)
    await journey.shifted()
    await journey.retrain(journey.canary, "v3")
    run = await journey.first_ended()
    assert (run["status"]["phase"], run["status"]["reason"]) == ("Failed", "Superseded")
    await journey.until(lambda: journey.weights() == [0, 20, 0, 20], "the new template has no traffic")
    assert len(journey.runs()) == 2


async def test_a_deleted_canary_leaves_no_traffic_behind(journey: Journey) -> None:
    await journey.begin(min_step=STAYS)
    run = await journey.shifted()
    await journey.people.delete("Deployment", journey.canary)
    gone = await journey.until(lambda: journey.cluster.gone.get(run["metadata"]["uid"]), "the run is there")
    assert journey.zeroed() < gone
    assert journey.weights() == [0, 20, 0]


async def test_a_deleted_run_goes_when_the_traffic_is_back_at_stable(journey: Journey) -> None:
    await journey.begin(min_step=STAYS)
    run = await journey.shifted()
    assert FINALIZER in run["metadata"]["finalizers"]
    await journey.people.delete("CanaryRun", run["metadata"]["name"])
    gone = await journey.until(lambda: journey.cluster.gone.get(run["metadata"]["uid"]), "the run is there")
    await journey.until(lambda: 0 in journey.weights()[2:], "the weight is not back at 0")
    assert journey.zeroed() < gone


async def test_a_change_of_stable_takes_the_traffic_off_the_canary(journey: Journey) -> None:
    await journey.begin(min_step=STAYS)
    await journey.shifted()
    await journey.retrain(journey.name, "v1b")
    run = await journey.first_ended()
    assert (run["status"]["phase"], run["status"]["reason"]) == ("Failed", "StableChanged")
    assert journey.version(journey.name) == "v1b"


async def test_the_second_replica_rolls_back_when_the_leader_is_killed(
    journey: Journey, controllers: Controllers
) -> None:
    await journey.begin(min_step=STAYS)
    run = await journey.shifted()
    leader = await journey.leader()
    journey.cluster.behave(journey.name, "v2", SLOW)
    await controllers.kill(leader)
    ended = await journey.first_ended()
    assert ended["metadata"]["uid"] == run["metadata"]["uid"]
    assert (ended["status"]["phase"], ended["status"]["reason"]) == ("Failed", "CheckFailed")
    assert ended["status"]["epoch"] > run["status"]["epoch"]
    assert await journey.leader() != leader
    assert journey.weights() == [0, 20, 0]
