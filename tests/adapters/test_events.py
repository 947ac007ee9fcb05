import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller.events import Events, note
from controller.kube import Kube
from controller.model import Reason, Run, Tell
from controller.ports import Transport
from scenarios.virtual.loop import virtual_loop
from scenarios.world import World
from tests.adapters.scripted import NEVER, Scripted, in_turn, page, refuses, says
from tests.adapters.test_runs import bare_run

pytestmark = pytest.mark.virtual


def run() -> Run:
    return replace(bare_run(), uid="u-1")


def recorder(transport: Transport, identity: str = "serin-abc") -> Events:
    kube = Kube(transport, chance=random.Random(1))
    return Events(kube, identity=identity, clock=virtual_loop().now)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(clock=virtual_loop().now)
    yield world
    await world.close()


async def events(world: World) -> list[Any]:
    kube = Kube(world.transport(), chance=random.Random(1))
    found = await kube.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")
    return found["items"]


async def test_an_event_stands_on_the_canarys_deployment_and_says_who_what_and_why(world: World) -> None:
    said = Tell(Reason.CHECK_FAILED, "p95 is 2.1 times stable's", outcome="RolledBack")
    await recorder(world.transport()).tell(run(), said)
    (event,) = await events(world)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "namespace": "default",
        "name": "model-canary",
    }
    assert event["regarding"] == deployment | {"uid": "u-1"}
    assert event["related"]["kind"] == "CanaryRun"
    assert event["reason"] == "CheckFailed"
    assert event["action"] == "RollBack"
    assert event["type"] == "Warning"
    assert event["note"] == "p95 is 2.1 times stable's"
    assert event["reportingController"] == "serin.dev/controller"
    assert event["reportingInstance"] == "serin-abc"
    assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"


async def test_every_reason_has_a_type_and_an_action_that_kubernetes_accepts(world: World) -> None:
    for reason in Reason:
        await recorder(world.transport()).tell(run(), Tell(reason, "so"))
    found = await events(world)
    assert {event["reason"] for event in found} == {reason.value for reason in Reason}
    assert all(event["action"].isalpha() for event in found)


async def test_good_news_is_normal(world: World) -> None:
    for reason in (Reason.STARTED, Reason.WEIGHT_RAISED, Reason.PROMOTED, Reason.ABORTED):
        await recorder(world.transport()).tell(run(), Tell(reason, "so"))
    assert {event["type"] for event in await events(world)} == {"Normal"}


async def test_the_same_words_at_another_time_are_another_event(world: World) -> None:
    for _ in range(3):
        await recorder(world.transport()).tell(run(), Tell(Reason.PAUSED, "so"))
        await asyncio.sleep(1)
    assert len(await events(world)) == 3


async def test_different_words_at_the_same_instant_are_two_events(world: World) -> None:
    for message in ("one", "two", "two"):
        await recorder(world.transport()).tell(run(), Tell(Reason.PAUSED, message))
    assert sorted(event["note"] for event in await events(world)) == ["one", "two"]


def asking(version: str = "41") -> Any:
    meta = {"namespace": "default", "name": "model-canary", "uid": "u-1", "resourceVersion": version}
    return {"metadata": meta}


async def test_a_refusal_is_said_once_of_an_object_whoever_says_it_and_however_often(world: World) -> None:
    with capture_logs() as logs:
        for identity in ("a", "b", "a"):
            await recorder(world.transport(), identity).refuse(asking(), "steps: must increase")
            await asyncio.sleep(5)
        await recorder(world.transport()).refuse(asking("42"), "steps: must increase")
    assert [event["reason"] for event in await events(world)] == ["Refused", "Refused"]
    assert not logs


async def test_a_refusal_that_comes_again_is_an_event_of_its_own(world: World) -> None:
    """It had the name of the one that was there: the newest Event spoke of a mistake that was mended."""
    for message in ("a", "b", "a"):
        await recorder(world.transport()).refuse(asking(), message, again=True)
        await asyncio.sleep(5)
    found = sorted(await events(world), key=lambda event: event["eventTime"])
    assert [event["note"] for event in found] == ["a", "b", "a"]


async def test_that_nothing_is_refused_any_more_is_good_news_about_the_deployment(world: World) -> None:
    await recorder(world.transport()).mend(asking(), "it asks for no canary any more")
    (event,) = await events(world)
    assert (event["reason"], event["type"], event["action"]) == ("Mended", "Normal", "Accept")
    assert event["regarding"]["name"] == "model-canary"
    assert "related" not in event


@pytest.mark.parametrize(
    "answer",
    [
        lambda: page(503),
        lambda: OSError("reset"),
        lambda: says({}, after=NEVER),
        lambda: refuses(403, "Forbidden"),
    ],
    ids=["unavailable", "reset", "hangs", "forbidden"],
)
async def test_an_event_that_cannot_be_written_is_logged_and_not_waited_for(
    answer: Callable[[], Any],
) -> None:
    with capture_logs() as logs:
        await recorder(Scripted(in_turn(answer()))).tell(run(), Tell(Reason.PROMOTED, "so"))
    assert asyncio.get_running_loop().time() <= 2
    (entry,) = logs
    assert (entry["event"], entry["reason"], entry["note"]) == ("event_not_recorded", "Promoted", "so")


async def test_names_fit_however_long_the_deployments_is(world: World) -> None:
    long = replace(run().plan, canary="m" * 253)
    await recorder(world.transport()).tell(replace(run(), plan=long), Tell(Reason.PROMOTED, "so"))
    (event,) = await events(world)
    assert len(event["metadata"]["name"]) == 253


async def test_a_short_note_is_left_alone() -> None:
    assert note("p95 is 2.1 * stable's") == "p95 is 2.1 * stable's"


async def test_a_long_note_ends_at_a_word_within_1024_bytes() -> None:
    """The API server counts bytes, and refuses one too many."""
    text = "zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich " * 40
    short = note(text)
    assert 1000 <= len(short.encode()) <= 1024
    assert short.endswith(" …")
    assert text.startswith(short.removesuffix(" …") + " ")


async def test_characters_of_several_bytes_count_as_such() -> None:
    text = "Bär " * 250  # 1 000 characters, 1 250 bytes
    assert len(note(text).encode()) <= 1024


async def test_a_long_note_without_words_is_cut_between_characters() -> None:
    short = note("ü" * 2000)
    assert len(short.encode()) <= 1024
    assert set(short.removesuffix(" …")) == {"ü"}


async def test_no_note_is_refused_for_its_length(world: World) -> None:
    await recorder(world.transport()).tell(run(), Tell(Reason.PROMOTED, "wörter " * 500))
    assert len(await events(world)) == 1
