"""The API server does what a real one does: the cases that the emulated one is held to, on any server."""

import pytest

from tests.adapters.apiserver_conformance import *  # noqa: F403

pytestmark = [pytest.mark.live, pytest.mark.asyncio(loop_scope="session")]
