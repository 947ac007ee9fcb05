"""Who is posted to: receivers of alerts, and webhooks that gates ask.

Whatever is sent says who it is from: signed as Standard Webhooks say, with a key that is read anew for each
attempt, so that a rotated or mended one is used. No text here quotes a URL, which may be a secret itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from controller import letters
from controller.ports import Post, Unreached

Secrets = Callable[[str, str], Awaitable[Mapping[str, bytes]]]  # (namespace, name) -> values by key

CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"
# Alerts of one namespace under way at once, and as many questions of its gates: both together take a fifth of
# the connections to receivers, and a third of the lookups of their names. Gates that hang delay no alert, and
# neither delays another namespace's.
AT_ONCE = 20


class Undelivered(Exception):
    """An attempt failed; the text says why and what to do, without any secret."""

    def __init__(self, why: str, *, wait: float = 0.0, final: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A value in a Secret; Secrets are read in the run's own namespace."""

    namespace: str
    secret: str
    key: str

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.secret}, key {self.key},"


@dataclass(frozen=True, slots=True)
class Sender:
    """How they are reached. Callers set the time that an attempt may take."""

    post: Post
    secrets: Secrets
    clock: Callable[[], datetime]
    turns: WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = field(
        default_factory=WeakValueDictionary
    )

    @asynccontextmanager
    async def turn(self, what: str, namespace: str) -> AsyncIterator[None]:
        """One attempt of that kind and namespace, its Secret and its lookup included; others of it wait."""
        turns = self.turns.get((what, namespace))
        if turns is None:
            turns = self.turns[what, namespace] = asyncio.Semaphore(AT_ONCE)
        async with turns:
            yield

    async def value(self, key: Key) -> bytes:
        """What stands there; raises `Undelivered`."""
        try:
            values = await self.secrets(key.namespace, key.secret)
        except Exception as error:
            what = f"cannot be read ({type(error).__name__}); let the controller get it with a Role there"
            if getattr(error, "status", None) == 404:  # by the API server
                what = f"cannot be read: there is no such Secret in {key.namespace}; create it"
            raise Undelivered(f"{key} {what}") from error
        if key.key not in values:
            raise Undelivered(f"{key} does not exist; add it or change secretRef.key")
        return values[key.key]

    async def event(
        self, url: str, body: bytes, *, event_id: str, key: Key | None
    ) -> tuple[int, Mapping[str, str]]:
        """A CloudEvent is posted, signed if there is a key: status and headers; raises `Undelivered`."""
        keys: tuple[bytes, ...] = ()
        if key is not None:
            try:
                keys = letters.signing_secrets(await self.value(key))
            except letters.BadSecret as error:
                raise Undelivered(f"{key} is {error}") from None
        headers = letters.signed(event_id, body, secrets=keys, at=self.clock())
        return await self.send(url, body, headers={"content-type": CLOUD_EVENT, **headers})

    async def send(
        self, url: str, body: bytes, *, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        """Status and headers of the answer; raises `Undelivered` for a URL that is not one to post to."""
        check_url(url)
        try:
            return await self.post(url, body, headers=headers)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            if isinstance(error, PermissionError | Unreached):  # `ports.Post`'s own words
                raise Undelivered(str(error)) from None
            # in words of ours: other libraries' texts may quote the URL
            raise Undelivered(f"the receiver cannot be reached ({type(error).__name__})") from None


def check_url(url: str) -> None:
    """`url` is one we post to: http or https, a host, no credentials in it; raises `Undelivered`."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fine = False
    if not fine or any(character <= " " for character in url):
        raise Undelivered("the URL is not http or https with a host; correct it in the policy or Secret")
    if "@" in parts.netloc:
        raise Undelivered("the URL carries a user name; name a secret instead, which signs the message")
