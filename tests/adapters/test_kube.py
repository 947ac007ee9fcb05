import asyncio
import math
import random
from collections.abc import Callable
from datetime import timedelta

import pytest

from controller.kube import ApiError, Kube
from controller.lane import CONCURRENCY
from tests.adapters.scripted import (
    NEVER,
    Answer,
    Answered,
    Asked,
    Scripted,
    in_turn,
    page,
    refuses,
    says,
)

pytestmark = pytest.mark.virtual
PATH = "/api/v1/namespaces/lab/pods/a"


def kube(answer: Callable[[Asked], Answer] | Answer) -> tuple[Kube, Scripted]:
    transport = Scripted(answer if callable(answer) else in_turn(answer))
    return Kube(transport, chance=random.Random(1)), transport


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_answer_is_its_json() -> None:
    api, transport = kube(says({"kind": "Pod"}))
    assert await api.call("GET", PATH, query={"a": "b c"}) == {"kind": "Pod"}
    (asked,) = transport.asked
    assert (asked.method, asked.path, asked.query) == ("GET", PATH, {"a": "b c"})


async def test_an_empty_answer_is_none() -> None:
    api, _ = kube(Answered(200))
    assert await api.call("DELETE", PATH) is None


async def test_a_body_is_sent_as_the_content_type_that_was_named() -> None:
    api, transport = kube(says({}))
    await api.call("PATCH", PATH, body={"spec": {}}, content_type="application/merge-patch+json")
    assert transport.asked[0].headers["Content-Type"] == "application/merge-patch+json"
    assert transport.asked[0].body == {"spec": {}}


@pytest.mark.parametrize(
    ("status", "reason", "kinds"),
    [
        (404, "NotFound", {"not_found"}),
        (409, "Conflict", {"conflict"}),
        (409, "AlreadyExists", {"exists"}),
        (410, "Expired", {"gone"}),
        (422, "Invalid", {"invalid"}),
        (401, "Unauthorized", {"denied"}),
        (403, "Forbidden", {"denied"}),
        (400, "BadRequest", set()),
    ],
)
async def test_an_error_says_what_kind_it_is_and_is_not_tried_again(
    status: int, reason: str, kinds: set[str]
) -> None:
    api, transport = kube(refuses(status, reason, "because"))
    with pytest.raises(ApiError, match=f"PATCH {PATH}: {status} {reason}: because") as raised:
        await api.call("PATCH", PATH, body={})
    every = ("conflict", "exists", "not_found", "invalid", "gone", "denied", "unreachable", "passing")
    assert {kind for kind in every if getattr(raised.value, kind)} == kinds
    assert len(transport.asked) == 1


async def test_errors_on_streamed_answers_are_not_hidden() -> None:
    """The library's `_preload_content=False` returns a 409 like a success."""
    api, _ = kube(refuses(409, "Conflict"))
    with pytest.raises(ApiError) as raised:
        await api.call("PUT", PATH, body={})
    assert raised.value.conflict


async def test_an_error_page_of_somebody_else_is_an_error_too() -> None:
    api, _ = kube(Answered(404, b"<html>nginx</html>"))
    with pytest.raises(ApiError, match="404 HTTP404: '<html>nginx</html>'"):
        await api.call("GET", PATH)


async def test_a_page_of_html_with_status_200_is_not_an_object() -> None:
    api, transport = kube(Answered(200, b"<html>log in</html>"))
    with pytest.raises(ApiError, match="expected JSON, got '<html>log in</html>'"):
        await api.call("GET", PATH)
    assert len(transport.asked) > 1  # it may pass


@pytest.mark.parametrize(
    "trouble", [refuses(429, "TooManyRequests"), refuses(500, "InternalError"), page(503), OSError("reset")]
)
async def test_trouble_that_may_pass_is_tried_again(trouble: Answer) -> None:
    api, transport = kube(in_turn(trouble, trouble, says({"ok": True})))
    assert await api.call("GET", PATH) == {"ok": True}
    assert len(transport.asked) == 3
    assert 0.15 <= now() <= 0.45  # 0.1 s and 0.2 s, half or one and a half times


async def test_retry_after_is_honoured() -> None:
    api, _ = kube(in_turn(refuses(429, "TooManyRequests", Retry_After="3"), says({})))
    await api.call("GET", PATH)
    assert now() == 3


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    api, _ = kube(refuses(429, "TooManyRequests", Retry_After="60"))
    with pytest.raises(ApiError) as raised:
        await api.call("GET", PATH)
    assert (now(), raised.value.retry_after) == (0, 60)


async def test_an_outage_ends_with_its_own_error_before_the_deadline() -> None:
    api, transport = kube(page(503))
    with pytest.raises(ApiError) as raised:
        await api.call("GET", PATH)
    assert raised.value.status == 503
    assert 4 < now() <= 8
    assert len(transport.asked) <= 12  # no flood: 0.1 s doubling to 2 s


async def test_a_server_that_hangs_is_given_up_at_the_deadline() -> None:
    api, transport = kube(says({}, after=NEVER))
    with pytest.raises(ApiError, match="no answer within") as raised:
        await api.call("GET", PATH)
    assert raised.value.unreachable
    assert now() == 8
    assert len(transport.asked) == 2  # another connection may lead to another server
    assert transport.open == 0


async def test_callers_choose_their_own_deadline() -> None:
    api, _ = kube(says({}, after=NEVER))
    with pytest.raises(ApiError, match="no answer within 2 s"):
        await api.call("GET", PATH, deadline=timedelta(seconds=2))
    assert now() == 2


async def test_somebody_elses_timeout_is_not_taken_for_ours() -> None:
    api, _ = kube(says({}, after=NEVER))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await api.call("GET", PATH)


async def test_at_most_twenty_calls_are_under_way() -> None:
    api, transport = kube(says({}, after=0.1))
    await asyncio.gather(*(api.call("GET", PATH) for _ in range(100)))
    assert transport.most_open == CONCURRENCY == 20
    assert now() == pytest.approx(0.5)


async def test_an_urgent_call_does_not_queue_behind_the_others() -> None:
    api, _ = kube(says({}, after=1))
    others = asyncio.gather(*(api.call("GET", PATH) for _ in range(60)))
    await asyncio.sleep(0.5)
    await api.call("PATCH", PATH, body=[], urgent=True)
    assert now() == 1.5
    await others


async def test_a_number_that_is_not_one_never_leaves_and_is_no_null() -> None:
    api, transport = kube(says({}))
    with pytest.raises(ApiError, match="not JSON") as raised:
        await api.call("PATCH", PATH, body={"status": {"logE": math.nan}})
    assert raised.value.status == 400
    assert not transport.asked


async def test_every_attempt_is_observed() -> None:
    seen = []
    transport = Scripted(in_turn(OSError("reset"), page(503), says({}, after=0.25)))
    api = Kube(
        transport,
        chance=random.Random(1),
        on_answer=lambda method, code, *, took: seen.append((method, code, took.total_seconds())),
    )
    await api.call("GET", PATH)
    assert seen == [("GET", "<error>", 0), ("GET", "503", 0), ("GET", "200", pytest.approx(0.25))]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"kind": "\xff"}', b'{"a": 1e999}'])
@pytest.mark.parametrize("status", [200, 409])
async def test_a_body_that_json_cannot_hold_is_an_error_of_the_answer(body: bytes, status: int) -> None:
    """Found by fuzzing: nesting without end was a `RecursionError`, which nobody expects of a call."""
    api, _ = kube(Answered(status, body))
    with pytest.raises(ApiError, match=r"expected JSON|HTTP409"):
        await api.call("GET", PATH)
