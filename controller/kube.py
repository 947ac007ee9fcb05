"""JSON over HTTP to the API server, and the only place that knows `kubernetes_asyncio`.

The library reads the configuration, renews tokens and speaks TLS. It has no time limits, no retries
and hides errors where answers are streamed; all of that is here, above any `ports.Transport`, so that
the emulated API server is used through exactly the same code as a real one.

Time is the running loop's, chance is passed in: a test can live through an hour of outage at once.
"""

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import aiohttp
import msgspec
import structlog
import yaml

from controller.lane import Lane
from controller.ports import Answer, Json, Transport

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

DEADLINE = timedelta(seconds=8)  # a whole call: two attempts that hang, or an API server's restart
ATTEMPT = timedelta(seconds=4)  # one attempt; a loaded API server answered within 0.5 s (p99), so x8
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts of one call, doubling
SOCKET_SILENCE = 100.0  # seconds; a little above `follow.SILENCE`, which normally notices first
CONNECT = 5.0  # seconds for a TCP connection
TOKEN_LIFE = 60.0  # seconds before a kubeconfig's token is looked at again, as in-cluster tokens are

# A name with a slash or a dot at either end is none of Kubernetes', and led to other objects: clients
# shorten "lab/secrets/../../other/secrets/a" before they send it.
_PATH = re.compile(r"(/[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?)+")

# What the library raises about a kubeconfig whose parts are not where it looks for them.
_MISSHAPEN = (OSError, TypeError, AttributeError, ValueError, LookupError, AssertionError)

_log = structlog.get_logger(__name__)


class NoCluster(Exception):
    """Nothing says where the API server is, or what says it cannot be used."""


class ApiError(Exception):
    """The API server said no, or said nothing (`status` 0). The text names request and reason."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        request: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{request}: {status or ''} {reason}: {message}".replace("  ", " "))
        self.status = status
        self.reason = reason
        self.message = message
        self.request = request
        self.retry_after = retry_after  # seconds the server asked us to wait

    @property
    def conflict(self) -> bool:
        """Somebody wrote the object since we read it."""
        return self.status == 409 and not self.exists

    @property
    def exists(self) -> bool:
        """What was to be created is there already."""
        return self.reason == "AlreadyExists"

    @property
    def not_found(self) -> bool:
        """There is no such object, or no such kind of object."""
        return self.status == 404

    @property
    def invalid(self) -> bool:
        """The object breaks a rule of its schema, or a JSON patch's `test` failed."""
        return self.status == 422

    @property
    def gone(self) -> bool:
        """The resourceVersion (or the list's next page) is no longer kept: list again."""
        return self.status == 410 or self.reason in {"Expired", "Gone"}

    @property
    def denied(self) -> bool:
        """We are not who we should be, or may not do this; a person has to act."""
        return self.status in {401, 403}

    @property
    def unreachable(self) -> bool:
        """No answer: whether the request had an effect is unknown."""
        return self.status == 0

    @property
    def passing(self) -> bool:
        """The same request may well succeed a little later."""
        return self.unreachable or self.status == 429 or self.status >= 500 or self.reason == "NotJson"


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything there is as of `version`; whatever is not among `items` is gone."""

    items: tuple[Json, ...]
    version: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """One object was ADDED, MODIFIED or DELETED (`type`); `object` is its last state."""

    type: str
    object: Json


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Observer(Protocol):
    """Hears of every attempt; `telemetry.Telemetry.requested` is one."""

    def __call__(self, method: str, code: str, *, took: timedelta) -> None:
        """The server answered with this status code, or did not: `<error>`, as client-go says it."""
        ...


def _unobserved(method: str, code: str, *, took: timedelta) -> None:
    """Nobody counts the requests."""


class Kube:
    """An API server that is asked politely: retried within a deadline, never flooded.

    `denied` holds, by path, why something cannot be followed; it is empty while all is well.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        chance: random.Random,
        on_answer: Observer = _unobserved,
    ) -> None:
        self.transport = transport
        self.chance = chance
        self.denied: dict[str, str] = {}
        self._on_answer = on_answer
        self._lane = Lane()
        self.away = False  # whatever was asked last was not answered, or with "not now"
        self._back = asyncio.Event()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json = None,
        content_type: str = "application/json",
        deadline: timedelta = DEADLINE,
        urgent: bool = False,
    ) -> Json:
        """The answer's JSON; raises `ApiError`, also when there is no answer before the deadline.

        An urgent call (the lease, the way to zero) does not queue behind the others.
        """
        request = _request(method, path, query=query, body=body, content_type=content_type)
        ends = asyncio.get_running_loop().time() + deadline.total_seconds()
        lane: AbstractAsyncContextManager[Any] = nullcontext() if urgent else self._lane
        try:
            async with asyncio.timeout_at(ends), lane:
                return await self._persist(request, ends)
        except TimeoutError as error:
            message = f"no answer within {deadline.total_seconds():g} s"
            raise ApiError(0, "Timeout", message, request=str(request)) from error

    async def once(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, within: timedelta = ATTEMPT
    ) -> Json:
        """As `call`, in a single attempt: for callers that have a patience of their own."""
        return await self._attempt(_request(method, path, query=query), within)

    def follow(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[Listed | Changed, None]:
        """First everything at `path`, then every change, for ever; see `controller.follow`."""
        from controller.follow import follow

        return follow(self, path, query=query)

    async def back(self) -> None:
        """The API server has just answered again, after it had not."""
        await self._back.wait()

    def _observe(self, method: str, code: str, took: float) -> None:
        away = code in {"<error>", "429"} or code.startswith("5")
        if self.away and not away:
            self._back.set()  # for those who wait now; who comes later waits for the next time
            self._back = asyncio.Event()
        self.away = away
        self._on_answer(method, code, took=timedelta(seconds=took))

    async def _persist(self, request: _Request, ends: float) -> Json:
        """The answer of the first attempt that does not fail in passing."""
        for pause in _pauses(self.chance):
            try:
                return await self._attempt(request, ATTEMPT)
            except ApiError as error:
                wait = max(pause, error.retry_after or 0.0)
                if not error.passing or asyncio.get_running_loop().time() + wait >= ends:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("pauses never end")

    async def _attempt(self, request: _Request, within: timedelta) -> Json:
        loop = asyncio.get_running_loop()
        began, code = loop.time(), "<error>"
        try:
            async with asyncio.timeout(within.total_seconds()), self._open(request) as answer:
                body = await answer.read()
                code = str(answer.status)
                return _result(request, answer, body)
        except TimeoutError as error:
            message = f"no answer within {within.total_seconds():g} s"
            raise ApiError(0, "Timeout", message, request=str(request)) from error
        except OSError as error:
            raise ApiError(0, "Unreachable", str(error), request=str(request)) from error
        finally:
            self._observe(request.method, code, loop.time() - began)

    def _open(self, request: _Request) -> AbstractAsyncContextManager[Answer]:
        return self.transport.request(
            request.method, request.path, query=request.query, headers=request.headers, body=request.body
        )


def _pauses(chance: random.Random) -> Iterator[float]:
    """Doubling pauses with jitter, without end."""
    pause = FIRST_PAUSE
    while True:
        yield pause * chance.uniform(0.5, 1.5)
        pause = min(2 * pause, LONGEST_PAUSE)


def _request(
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None,
    body: Json = None,
    content_type: str = "application/json",
) -> _Request:
    if not _PATH.fullmatch(path):
        message = "a name in this path is none that an object can have; nothing was sent"
        raise ApiError(400, "BadRequest", message, request=f"{method} {path!r}")
    headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": content_type})
    try:
        # not msgspec, which writes NaN as null: a number that is not one must not become "no value"
        payload = None if body is None else json.dumps(body, allow_nan=False).encode()
    except ValueError as error:
        message = f"the body is not JSON ({error}); nothing was sent"
        raise ApiError(400, "BadRequest", message, request=f"{method} {path}") from error
    return _Request(method, path, dict(query or {}), headers, payload)


def _result(request: _Request, answer: Answer, body: bytes) -> Json:
    """What the body holds, or the error that it reports."""
    if not 200 <= answer.status < 300:
        raise error_of(answer.status, body, request=str(request), headers=answer.headers)
    try:
        return decoded(body) if body else None
    except ValueError as error:
        message = f"expected JSON, got {_excerpt(body)}; is there a proxy between us?"
        raise ApiError(answer.status, "NotJson", message, request=str(request)) from error


def decoded(body: bytes) -> Json:
    """What the body holds; `ValueError` if that is not JSON, or is nested beyond what anything here is."""
    try:
        return msgspec.json.decode(body)
    except (
        msgspec.DecodeError,
        RecursionError,
    ) as error:  # bytes that are not UTF-8 are a ValueError already
        raise ValueError(str(error)) from error


def error_of(status: int, body: bytes, *, request: str, headers: Mapping[str, str]) -> ApiError:
    """The error that an answer stands for: a `Status` object, or anybody's page."""
    try:
        told = decoded(body)
    except ValueError:
        told = None
    if not isinstance(told, dict) or told.get("kind") != "Status":
        told = {"message": _excerpt(body)}
    return ApiError(
        status,
        str(told.get("reason") or f"HTTP{status}"),
        str(told.get("message") or ""),
        request=request,
        retry_after=_retry_after(headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that the server asks for; the other form, a date, is not used by API servers."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    return float(text) if text.isdecimal() else None


def _excerpt(body: bytes) -> str:
    text = body[:120].decode(errors="replace")
    return repr(text + ("..." if len(body) > len(text) else ""))


# -- a real connection -----------------------------------------------------------------------------


class _Streamed:
    """An answer of aiohttp's."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """The whole body."""
        with _unreached():
            return await self._response.read()

    async def lines(self) -> AsyncIterator[bytes]:
        """The body by lines of any length: aiohttp's own lines end at 4 MiB with an error."""
        begun: list[bytes] = []
        with _unreached():
            async for chunk in self._response.content.iter_any():
                head, *rest = chunk.split(b"\n")
                begun.append(head)
                for line in rest:
                    yield b"".join(begun)
                    begun = [line]
        if any(begun):
            yield b"".join(begun)


@contextmanager
def _unreached() -> Iterator[None]:
    """What aiohttp says of a broken connection is an `OSError`, where it happens: not all of it is one."""
    try:
        yield
    except aiohttp.ClientError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


class _Raised:
    """An answer that the library raised: some of its versions do, for errors on streams."""

    def __init__(self, error: Any) -> None:
        self.status = int(error.status or 500)
        self.headers: Mapping[str, str] = error.headers or {}
        body = error.body or str(error.reason or "")
        self._body = body.encode() if isinstance(body, str) else body

    async def read(self) -> bytes:
        """The whole body."""
        return bytes(self._body)

    async def lines(self) -> AsyncIterator[bytes]:
        """The body by lines."""
        for line in self._body.splitlines():
            yield line


class KubeTransport:
    """`ports.Transport` over one `kubernetes_asyncio` ApiClient, which somebody else closes."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._timeout = aiohttp.ClientTimeout(sock_connect=CONNECT, sock_read=SOCKET_SILENCE)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[Answer]:
        """One request; whatever goes wrong on the way is an `OSError`."""
        from kubernetes_asyncio.client.exceptions import ApiException
        from kubernetes_asyncio.config import ConfigException

        try:
            with _unreached():
                response = await self._api.call_api(
                    path,
                    method,
                    query_params=list(query.items()),
                    header_params=dict(headers),
                    body=None if body is None else json.loads(body),
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=self._timeout,
                )
            try:
                yield _Streamed(response)
            finally:
                response.close()  # a body that was read to its end has given its connection back already
        except ApiException as error:
            yield _Raised(error)
        except ConfigException as error:
            raise ConnectionError(f"credentials: {error}") from error


@asynccontextmanager
async def connect(
    *, agent: str, kubeconfig: str | None = None, context: str | None = None
) -> AsyncIterator[Transport]:
    """A connection to the API server that the pod, or the kubeconfig, belongs to.

    `agent` is who we are in audit logs. Raises `NoCluster` where there is nothing to connect to.
    """
    from kubernetes_asyncio.client import ApiClient

    async with ApiClient(await _configuration(kubeconfig, context)) as api:
        api.user_agent = agent
        yield KubeTransport(api)


async def _configuration(kubeconfig: str | None, context: str | None) -> Any:
    from kubernetes_asyncio import config
    from kubernetes_asyncio.client import Configuration

    configuration = Configuration()
    in_cluster = kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        if in_cluster:
            config.load_incluster_config(client_configuration=configuration)  # renews its token itself
        else:
            await _load_kubeconfig(configuration, kubeconfig, context)
    except (config.ConfigException, yaml.YAMLError, *_MISSHAPEN) as error:
        source = "the pod's service account" if in_cluster else kubeconfig or "the default kubeconfig"
        remedy = "pass --kubeconfig FILE (and --context NAME), or run in a pod with a service account"
        raise NoCluster(f"{source} does not lead to an API server: {_line(error)}; {remedy}") from error
    return configuration


def _line(error: Exception) -> str:
    """The error on one line, with a plain word for what Python says about missing parts."""
    text = " ".join(str(error).split())
    return f"it is not a kubeconfig ({text})" if isinstance(error, (TypeError, AttributeError)) else text


async def _load_kubeconfig(configuration: Any, kubeconfig: str | None, context: str | None) -> None:
    from kubernetes_asyncio import config

    loader = await config.load_kube_config(
        config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
    )
    due = asyncio.get_running_loop().time() + TOKEN_LIFE

    async def renew(configuration: Any) -> None:
        """Tokens of exec plug-ins expire, token files change; the old one is kept where that fails."""
        nonlocal due
        if asyncio.get_running_loop().time() < due:
            return
        due = asyncio.get_running_loop().time() + TOKEN_LIFE
        try:
            await loader.load_and_set(configuration)
        except Exception as error:  # noqa: BLE001 - plug-ins fail in every way; the API server will say 401
            _log.warning("token_not_renewed", error=str(error))

    configuration.refresh_api_key_hook = renew
