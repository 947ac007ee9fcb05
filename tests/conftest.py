"""Virtual time for tests: an async test marked `virtual` lives hours in milliseconds."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from scenarios.virtual.loop import VirtualLoop


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual: the event loop's time jumps to the next timer")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """`@pytest.mark.virtual` runs on virtual time; all else, with real sockets, on real time."""
    del config
    if item.get_closest_marker("virtual"):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.SelectorEventLoop}
