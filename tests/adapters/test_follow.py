import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from controller.kube import ApiError, Changed, Kube, Listed
from scenarios.virtual.loop import virtual_loop
from scenarios.world import World
from tests.adapters.scripted import (
    NEVER,
    Answer,
    Answered,
    Asked,
    Scripted,
    event,
    in_turn,
    listed,
    page,
    pod,
    refuses,
    watched,
)

pytestmark = pytest.mark.virtual
PATH = "/api/v1/namespaces/lab/pods"
HOUR = 3600.0
QUIET = watched(NEVER)


class Followed:
    """What came out of a follower, and what it asked for, until it had lived for so long."""

    def __init__(self, answer: Callable[[Asked], Answer], seed: int = 1) -> None:
        self.transport = Scripted(answer)
        self.kube = Kube(self.transport, chance=random.Random(seed))
        self.heard: list[Listed | Changed] = []
        self.times: list[float] = []

    async def live(self, seconds: float) -> "Followed":
        async def follow() -> None:
            async with aclosing(self.kube.follow(PATH)) as changes:
                async for change in changes:
                    self.heard.append(change)
                    self.times.append(asyncio.get_running_loop().time())

        task = asyncio.create_task(follow())
        await asyncio.sleep(seconds)
        assert not task.done()
        task.cancel()
        await asyncio.wait((task,))
        assert self.transport.open == 0
        return self

    @property
    def names(self) -> list[str]:
        """`+a` for what was listed, `MODIFIED b` for what changed."""
        told = []
        for one in self.heard:
            if isinstance(one, Listed):
                told.append("+" + ",".join(item["metadata"]["name"] for item in one.items))
            else:
                told.append(f"{one.type} {one.object['metadata']['name']}")
        return told


def lists_and(lists: Answer | Callable[[], Answer], *watches: Answer) -> Callable[[Asked], Answer]:
    """Every list gets the one answer, watches get theirs in turn."""
    watch = in_turn(*watches)
    return lambda asked: watch(asked) if asked.watch else (lists() if callable(lists) else lists)


async def test_first_everything_then_every_change() -> None:
    changes = [
        event("ADDED", pod("b", "11")),
        event("MODIFIED", pod("b", "12")),
        event("DELETED", pod("a", "13")),
    ]
    followed = await Followed(lists_and(listed(pod("a", "9")), watched(*changes, NEVER))).live(60)
    assert followed.names == ["+a", "ADDED b", "MODIFIED b", "DELETED a"]
    (watch,) = followed.transport.watches
    assert watch.query["resourceVersion"] == "10"
    assert watch.query["allowWatchBookmarks"] == "true"
    assert 260 <= int(watch.query["timeoutSeconds"]) <= 320


async def test_listed_objects_look_like_watched_ones() -> None:
    followed = await Followed(lists_and(listed(pod("a", "9")), QUIET)).live(1)
    assert followed.heard[0].items[0]["kind"] == "Pod"
    assert followed.heard[0].items[0]["apiVersion"] == "v1"


async def test_long_lists_come_page_by_page_and_are_told_as_one() -> None:
    pages = in_turn(listed(pod("a", "1"), version="7", more="next"), listed(pod("b", "2"), version="7"))
    followed = await Followed(lambda asked: QUIET if asked.watch else pages(asked)).live(1)
    assert followed.names == ["+a,b"]
    assert [asked.query.get("continue") for asked in followed.transport.lists] == [None, "next"]
    assert followed.transport.watches[0].query["resourceVersion"] == "7"


async def test_a_page_that_has_expired_starts_the_list_again() -> None:
    pages = in_turn(listed(pod("a", "1"), more="next"), refuses(410, "Expired"), listed(pod("c", "3")))
    followed = await Followed(lambda asked: QUIET if asked.watch else pages(asked)).live(5)
    assert followed.names == ["+c"]


async def test_an_empty_list_may_be_null() -> None:
    nothing = b'{"kind": "PodList", "metadata": {"resourceVersion": "3"}, "items": null}'
    followed = await Followed(lists_and(Answered(200, nothing), QUIET)).live(1)
    assert followed.heard == [Listed(())]


async def test_a_watch_that_ends_in_good_order_is_resumed_at_once_from_the_last_version() -> None:
    silent = 80.0
    ends = watched(event("ADDED", pod("b", "11")), silent, event("BOOKMARK", pod("", "40")), silent)
    followed = await Followed(lists_and(listed(), ends, QUIET)).live(200)
    assert followed.names == ["+", "ADDED b"]
    assert [watch.query["resourceVersion"] for watch in followed.transport.watches] == ["10", "40"]
    assert followed.transport.watches[1].at == 160
    assert len(followed.transport.lists) == 1


async def test_bookmarks_are_asked_for_remembered_and_never_told() -> None:
    bookmark = event("BOOKMARK", pod("", "99"))
    followed = await Followed(lists_and(listed(), watched(bookmark, 6.0), QUIET)).live(20)
    assert followed.heard == [Listed(())]
    assert followed.transport.watches[1].query["resourceVersion"] == "99"


async def test_410_in_the_stream_lists_again_instead_of_resuming_from_the_same_stale_version() -> None:
    gone = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
    lists = in_turn(listed(pod("a", "9")), listed(pod("b", "50"), version="50"))
    followed = await Followed(lists_and(lambda: lists(None), watched(gone), QUIET)).live(10)
    assert followed.names == ["+a", "+b"]
    assert [watch.query["resourceVersion"] for watch in followed.transport.watches] == ["10", "50"]


async def test_410_as_the_answer_lists_again() -> None:
    lists = in_turn(listed(pod("a", "9")), listed(pod("b", "50"), version="50"))
    followed = await Followed(lists_and(lambda: lists(None), refuses(410, "Gone"), QUIET)).live(10)
    assert followed.names == ["+a", "+b"]


async def test_a_server_that_only_says_410_is_asked_ever_more_rarely() -> None:
    followed = await Followed(lists_and(listed(), refuses(410, "Gone"))).live(HOUR)
    assert 100 < len(followed.transport.watches) < 300


@pytest.mark.parametrize(
    "close",
    [
        watched(),
        watched(OSError("reset")),
        OSError("connection refused"),
        page(503),
        refuses(429, "TooManyRequests"),
        Answered(200, b"<html>\n<body>Service Unavailable</body>\n</html>"),
        watched(b'{"type": "ADDED", "object": {"metadata": {"resou'),
    ],
    ids=["closes", "resets", "refuses", "503 page", "429", "200 page of HTML", "torn line"],
)
async def test_a_server_that_is_of_no_use_is_not_flooded_and_nothing_it_says_is_an_event(
    close: Answer,
) -> None:
    """The library made 2 255 connections a second and told each line of the page as an event."""
    followed = await Followed(lists_and(listed(), close)).live(HOUR)
    assert all(isinstance(told, Listed) for told in followed.heard)
    first = [watch.at for watch in followed.transport.watches if watch.at < 1]
    assert len(first) <= 5
    assert 100 < len(followed.transport.watches) < 300


async def test_lists_that_fail_are_tried_ever_more_rarely() -> None:
    followed = await Followed(in_turn(page(503))).live(HOUR)
    assert not followed.heard
    assert 100 < len(followed.transport.asked) < 300


async def test_a_thread_that_cannot_be_taken_up_again_is_given_up_for_a_list() -> None:
    """After a restore of etcd our version lies in the future, and no watch from it will ever work."""
    followed = await Followed(
        lists_and(listed(), refuses(504, "Timeout", "Too large resource version"))
    ).live(120)
    assert len(followed.transport.lists) >= 2


async def test_followers_do_not_come_back_in_step() -> None:
    comebacks = [
        (await Followed(lists_and(listed(), watched()), seed).live(10)).transport.watches[1].at
        for seed in range(5)
    ]
    steps = [later - 10 * number for number, later in enumerate(comebacks)]
    assert len({round(step, 3) for step in steps}) == 5
    assert all(0.1 <= step <= 0.3 for step in steps)


async def test_the_first_event_makes_the_next_trouble_a_new_one() -> None:
    answers = [watched()] * 7 + [watched(event("ADDED", pod("b", "11"))), QUIET]
    followed = await Followed(lists_and(listed(), *answers)).live(200)
    *_, useful, after = followed.transport.watches[:9]
    assert after.at - useful.at <= 0.3


async def test_silence_is_a_dead_connection_and_costs_no_list() -> None:
    """Half-open connections hung for ever: no event, no error."""
    followed = await Followed(
        lists_and(listed(), watched(10.0, event("ADDED", pod("b", "11")), NEVER), QUIET)
    ).live(150)
    assert [watch.at for watch in followed.transport.watches] == [0, 100]
    assert followed.transport.watches[1].query["resourceVersion"] == "11"
    assert len(followed.transport.lists) == 1


async def test_a_quiet_kind_is_listed_once_however_long_nothing_happens() -> None:
    followed = await Followed(lists_and(listed(), QUIET)).live(24 * HOUR)
    assert len(followed.transport.lists) == 1
    assert len(followed.transport.watches) <= 24 * HOUR / 90 + 1


async def test_a_server_that_never_answers_a_watch_is_asked_again() -> None:
    followed = await Followed(lists_and(listed(), watched_after(NEVER), QUIET)).live(60)
    assert [round(watch.at) for watch in followed.transport.watches] == [0, 30]


def watched_after(seconds: float) -> Answered:
    return Answered(200, after=seconds)


async def test_a_consumer_that_takes_its_time_does_not_look_like_silence() -> None:
    followed = Followed(
        lists_and(listed(), watched(event("ADDED", pod("a", "11")), event("ADDED", pod("b", "12")), NEVER))
    )
    names = []
    async with aclosing(followed.kube.follow(PATH)) as changes:
        async for change in changes:
            await asyncio.sleep(200)
            names.append(change)
            if len(names) == 3:
                break
    assert len(followed.transport.watches) == 1


async def test_cancelling_a_follower_interrupts_a_read_that_waits() -> None:
    """The library's `stop()` was only looked at before the next read."""
    followed = Followed(lists_and(listed(), QUIET))
    await followed.live(30)
    assert asyncio.get_running_loop().time() == 30


async def test_a_torn_line_is_repaired_by_resuming_from_the_version_before_it() -> None:
    torn = watched(event("ADDED", pod("b", "11")), b'{"type": "MODIF', OSError("reset"))
    whole = watched(event("MODIFIED", pod("b", "12")), NEVER)
    followed = await Followed(lists_and(listed(), torn, whole)).live(10)
    assert followed.names == ["+", "ADDED b", "MODIFIED b"]
    assert followed.transport.watches[1].query["resourceVersion"] == "11"


@pytest.mark.parametrize(
    "line", [b"null", b"[]", b"1", b'{"type": "NEWS", "object": {}}', b'{"type": "ADDED"}']
)
async def test_json_that_is_no_event_is_not_told(line: bytes) -> None:
    followed = await Followed(lists_and(listed(), watched(line), QUIET)).live(60)
    assert followed.heard == [Listed(())]


async def test_blank_lines_are_nothing() -> None:
    followed = await Followed(lists_and(listed(), watched(b"", event("ADDED", pod("b", "11")), NEVER))).live(
        10
    )
    assert followed.names == ["+", "ADDED b"]


async def test_what_may_not_be_followed_is_told_once_and_backed_off() -> None:
    with capture_logs() as logs:
        followed = await Followed(in_turn(refuses(403, "Forbidden", "pods is forbidden"))).live(HOUR)
    assert "pods is forbidden" in followed.kube.denied[PATH]
    assert [entry["event"] for entry in logs] == ["follow_interrupted"]
    assert len(followed.transport.asked) < 300


async def test_what_is_allowed_again_is_denied_no_more() -> None:
    lists = in_turn(refuses(403, "Forbidden"), listed())
    with capture_logs() as logs:
        followed = await Followed(
            lists_and(lambda: lists(None), watched(event("ADDED", pod("a", "11")), NEVER))
        ).live(9)
    assert not followed.kube.denied
    assert [entry["event"] for entry in logs] == ["follow_interrupted", "follow_resumed"]


def config_map(name: str) -> Any:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": "0"}}


def stir(world: World, chance: random.Random) -> None:
    """One change of something."""
    name = f"map-{chance.randrange(5)}"
    if world.get("configmaps", "default", name) is None:
        world.create(config_map(name))
    elif chance.random() < 0.3:
        world.delete("configmaps", "default", name)
    else:
        world.patch("configmaps", "default", name, {"data": {"n": str(chance.random())}})


@pytest.mark.parametrize("fault", ["outage", "hang", "slow", "watch-drop", "all"])
async def test_after_any_trouble_what_was_told_is_what_there_is(fault: str) -> None:
    world, chance = World(clock=virtual_loop().now, history=20), random.Random(fault)
    kube = Kube(world.transport(), chance=random.Random(1))
    view: dict[str, Any] = {}

    async def follow() -> None:
        async for news in kube.follow("/api/v1/namespaces/default/configmaps"):
            if isinstance(news, Listed):
                view.clear()
                view.update({item["metadata"]["name"]: item for item in news.items})
            elif news.type == "DELETED":
                del view[news.object["metadata"]["name"]]
            else:
                view[news.object["metadata"]["name"]] = news.object

    follower = asyncio.create_task(follow())
    for _ in range(10):
        kinds = ["outage", "hang", "slow", "watch-drop"] if fault == "all" else [fault]
        world.fault(chance.choice(kinds), seconds=chance.uniform(1, 100))
        for _ in range(40):
            stir(world, chance)
            await asyncio.sleep(chance.expovariate(1))
    await asyncio.sleep(200)
    assert not follower.done()
    there = world.objects("configmaps", "default")
    assert {name: item["metadata"]["resourceVersion"] for name, item in view.items()} == {
        item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in there
    }
    follower.cancel()
    await asyncio.wait((follower,))
    await world.close()


async def back_after(outage: float, *, lease: bool) -> float:
    """Seconds from the end of an outage until a follower tells what happened in it."""
    world = World(clock=virtual_loop().now)
    kube = Kube(world.transport(), chance=random.Random(1))
    heard = asyncio.Event()

    async def follow() -> None:
        async for news in kube.follow("/api/v1/namespaces/default/configmaps"):
            if "late" in str(news):
                heard.set()

    async def ask() -> None:
        while lease:
            await asyncio.sleep(1)
            with suppress(ApiError):
                await kube.once("GET", "/api/v1/namespaces/default")

    tasks = [asyncio.create_task(follow()), asyncio.create_task(ask())]
    await asyncio.sleep(10)
    world.fault("outage", seconds=outage)
    await asyncio.sleep(outage)
    world.create(config_map("late"))
    await heard.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await world.close()
    return virtual_loop().time() - 10 - outage


async def test_a_follower_is_back_within_a_minute_of_a_long_outage() -> None:
    assert await back_after(600, lease=False) <= 45


async def test_a_follower_is_back_within_seconds_where_another_call_finds_the_server_back() -> None:
    assert await back_after(600, lease=True) <= 2.6


@pytest.mark.parametrize("refused", [page(503), refuses(429, "TooManyRequests"), OSError("refused")])
async def test_a_watch_is_back_within_seconds_after_a_server_that_refused_it_answers_anything(
    refused: Answer,
) -> None:
    """Seed 8594: a leader heard nothing of its runs for 40 s: its Lease was answered before its watch."""
    well, loop = 100.0, asyncio.get_running_loop()

    def answer(asked: Asked) -> Answer:
        return listed() if not asked.watch else refused if loop.time() < well else QUIET

    followed = Followed(answer)

    async def ask() -> None:
        await asyncio.sleep(well + 0.1 - loop.time())
        while True:
            await followed.kube.once("GET", PATH)
            await asyncio.sleep(1)

    asking = asyncio.create_task(ask())
    await followed.live(well + 10)
    asking.cancel()
    await asyncio.wait((asking,))
    assert 0 < followed.transport.watches[-1].at - well < 3


async def test_a_server_that_answers_calls_but_drops_watches_is_not_flooded() -> None:
    calls = in_turn(*[page(503), listed()] * 4000)
    followed = Followed(lambda asked: page(503) if asked.watch else calls(asked))

    async def ask() -> None:
        while True:
            await asyncio.sleep(1)
            with suppress(ApiError):
                await followed.kube.once("GET", PATH)

    asking = asyncio.create_task(ask())
    await followed.live(HOUR)
    assert len(followed.transport.watches) < HOUR
    asking.cancel()
    await asyncio.wait((asking,))


NO_OBJECTS = [
    {},
    {"metadata": None},
    {"metadata": {"name": "a", "uid": "u"}},
    {"metadata": {"name": 7, "uid": "u", "resourceVersion": "1"}},
    {"metadata": {"name": "a", "uid": "u", "resourceVersion": "new"}},
    {"metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "annotations": None}},
    {"metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "ownerReferences": [None]}},
    {"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}, "spec": "none"},
    {"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}, "status": [1]},
]


@pytest.mark.parametrize("obj", NO_OBJECTS)
async def test_what_is_no_object_is_never_told(obj: Any) -> None:
    """Found by fuzzing: one of them in a list or a watch ended the controller."""
    in_a_list = await Followed(lists_and(listed(obj), watched(NEVER))).live(60)
    in_a_watch = await Followed(
        lists_and(listed(pod("a", "9")), watched(event("ADDED", obj), NEVER), watched(NEVER))
    ).live(60)
    assert in_a_list.names == []
    assert in_a_watch.names == ["+a"]


async def test_a_line_nested_without_end_is_not_told() -> None:
    followed = await Followed(lists_and(listed(pod("a", "9")), watched(b"[" * 100_000), watched(NEVER))).live(
        9
    )
    assert followed.names == ["+a"]
