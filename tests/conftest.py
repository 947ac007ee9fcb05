"""Virtual time for tests: an async test marked `virtual` lives hours in milliseconds.

Properties are tried on the same examples each time, so that what lands does not hang on luck;
`HYPOTHESIS_PROFILE=search pytest tests/properties` looks for new ones.
"""

import asyncio
import os
from collections.abc import Callable, Mapping

import hypothesis
import pytest
import structlog

from scenarios.virtual.loop import VirtualLoop

# no test is timed: this machine may be busy with others
untimed = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("steady", derandomize=True, print_blob=True, **untimed)
hypothesis.settings.register_profile("search", max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


# where `rich` is there, structlog's own choice prints every local variable: a second for each exception
PLAIN = [
    *structlog.get_config()["processors"][:-1],
    structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
]


@pytest.fixture(autouse=True)
def _plain_logs() -> None:
    structlog.configure(processors=PLAIN)


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
