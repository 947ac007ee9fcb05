"""Letters and questions of many namespaces: none has all the room."""

import asyncio
import gc
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from controller.posting import AT_ONCE, Sender

pytestmark = pytest.mark.virtual
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def no_secrets(_namespace: str, _name: str) -> Mapping[str, bytes]:
    return {}


async def test_a_namespace_whose_receivers_hang_waits_for_itself_alone() -> None:
    """Forty runs with ten gates each, each of another name, had every connection to receivers."""
    waiting, most = 0, 0

    async def post(url: str, _body: bytes, *, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
        nonlocal waiting, most
        if "hangs" in url:
            waiting += 1
            most = max(most, waiting)
            try:
                await asyncio.sleep(10)
            finally:
                waiting -= 1
        return 200, headers

    sender = Sender(post, no_secrets, lambda: NOW)

    async def told(namespace: str, host: str, what: str = "gates") -> None:
        async with sender.turn(what, namespace):
            await sender.send(f"https://{host}/", b"", headers={})

    loop = asyncio.get_running_loop()
    many = [asyncio.create_task(told("noisy", f"{each}.hangs.example")) for each in range(400)]
    await asyncio.sleep(1)
    began = loop.time()
    await told("quiet", "hooks.example")
    await told("noisy", "hooks.example", what="alerts")
    assert loop.time() == began
    assert waiting == most == AT_ONCE
    for one in many:
        one.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    await told("noisy", "hooks.example")
    assert loop.time() == began
    del one, many
    await asyncio.sleep(0)
    gc.collect()
    assert not sender.turns  # of namespaces that are gone nothing is kept
