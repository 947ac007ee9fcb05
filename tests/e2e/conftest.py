"""One API server for the whole session: the one that `--kubeconfig` leads to, or the emulated one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import aiohttp
import pytest
import pytest_asyncio

from controller.kube import Kube, _configuration, connect
from scenarios.live import processes

pytest.register_assert_rewrite("tests.adapters.apiserver_conformance")

from tests.adapters.apiserver_conformance import Api  # noqa: E402
from tests.adapters.test_apiserver_conformance import Connection  # noqa: E402
from tests.e2e.cluster import StandIn  # noqa: E402
from tests.e2e.controllers import Controllers  # noqa: E402
from tests.e2e.journeys import Journey, begun  # noqa: E402
from tests.e2e.rooms import Rooms  # noqa: E402

EMULATED = Path(__file__).with_name("emulated.py")
STARTED_WITHIN = 60.0  # seconds
NODES = 3  # as many as stable has pods: from fewer, noise cannot be told from harm


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kubeconfig",
        metavar="FILE",
        help="run tests/e2e against this cluster, which needs Istio's CRDs (default: the emulated server)",
    )
    parser.addoption(
        "--controller-kubeconfig",
        metavar="FILE",
        help="whom the controllers are for the cluster of --kubeconfig (default: the same as the suite)",
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kubeconfig(request: pytest.FixtureRequest, logs: Path) -> AsyncIterator[Path]:
    """Where the API server is."""
    # collected late, as in a plain `pytest`, the option is not there: then nobody can have given it
    given = request.config.getoption("kubeconfig", default=None)
    if given:
        yield Path(given)
        return
    there = logs / "kubeconfig"
    process = await processes.python(str(EMULATED), str(there), log=logs / "emulated.log")
    try:
        async with asyncio.timeout(STARTED_WITHIN):
            while not there.exists():
                assert process.returncode is None, (logs / "emulated.log").read_text()
                await asyncio.sleep(0.05)
        yield there
    finally:
        await processes.end(process)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rooms(kubeconfig: Path) -> AsyncIterator[Rooms]:
    """Namespaces of our own, all of them gone in the end."""
    async with connect(agent="serin-e2e", kubeconfig=str(kubeconfig)) as transport:
        rooms = Rooms(Kube(transport, chance=Random(0)))
        try:
            await rooms.furnish()
            yield rooms
        finally:
            await rooms.clear()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(rooms: Rooms) -> AsyncIterator[StandIn]:
    """A namespace, and somebody who runs its pods."""
    nodes = [await rooms.node() for _ in range(NODES)]
    async with StandIn(rooms.kube, await rooms.namespace(), nodes=nodes).open() as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def controllers(
    request: pytest.FixtureRequest, kubeconfig: Path, cluster: StandIn, logs: Path
) -> AsyncIterator[Controllers]:
    """The controller's processes for that namespace."""
    given = request.config.getoption("controller_kubeconfig", default=None)
    both = Controllers(Path(given or kubeconfig), cluster.namespace, logs)
    try:
        yield both
    finally:
        await both.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def journey(cluster: StandIn, controllers: Controllers, logs: Path) -> AsyncIterator[Journey]:
    """A journey of its own, with both controllers running."""
    await controllers.start()
    journey = begun(cluster, logs)
    try:
        yield journey
    finally:
        await journey.end()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def connection(kubeconfig: Path) -> AsyncIterator[Connection]:
    """HTTP to the API server as plain as can be, but for the kubeconfig's credentials."""
    from kubernetes_asyncio.client import ApiClient

    configuration = await _configuration(str(kubeconfig), None)
    headers: dict[str, str] = {}
    async with ApiClient(configuration) as client:
        await client.update_params_for_auth(headers, [], ["BearerToken"])
        connector = client.rest_client.pool_manager.connector
        async with aiohttp.ClientSession(
            connector=connector, connector_owner=False, headers=headers
        ) as session:
            yield Connection(session, configuration.host)


@pytest_asyncio.fixture(loop_scope="session")
async def api(rooms: Rooms, connection: Connection) -> AsyncIterator[Api]:
    """The conformance suite's client, for a namespace of its own."""
    namespace = await rooms.namespace()
    yield Api(connection, namespace)
    await rooms.leave(namespace)
