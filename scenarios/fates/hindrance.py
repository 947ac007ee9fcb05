"""What happens to a replica's requests on their way, and to its watches."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from random import Random

from controller.ports import Answer, Transport
from scenarios.fates.again import REFUSED, Again
from scenarios.fates.between import Late
from scenarios.fates.fate import WRITTEN, ZERO, Ail, Crash
from scenarios.fates.lagging import lagging
from scenarios.fates.others import Others
from scenarios.objects import NAMESPACE, STABLE

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
REFUSALS: Mapping[int, str] = {
    409: "Conflict",
    429: "TooManyRequests",
    500: "InternalError",
    504: "Timeout",
}
AGENT = "user-agent"
READ = ("GET", f"namespaces/{NAMESPACE}/deployments/{STABLE}")  # by whoever is about to write it


class Hindered:
    """A `ports.Transport` of one replica, on which the fate's ails lie and on which it may end."""

    def __init__(
        self,
        beyond: Transport,
        name: str,
        *,
        ails: Sequence[Ail],
        anew: Again | None,
        crashes: dict[tuple[str, int], Crash],
        writes: Counter[str],
        chance: Random,
        clock: Callable[[], float],
        end: Callable[[Crash, Callable[[], Awaitable[None]]], None],
        meddle: Callable[[str, int], None],
        late: Sequence[Late],
        others: Others | None,
    ) -> None:
        self._beyond = beyond
        self._name = name
        self._ails = ails
        self._anew = anew
        self._crashes = crashes  # by kind and number of the write, whosever it is
        self._writes = writes  # of all replicas
        self._chance = chance
        self._clock = clock  # seconds since the story's beginning
        self._end = end  # told how the write is done that was on its way
        self._meddle = meddle  # told before each write of a kind is done
        self._late = late
        self._others = others

    @contextlib.asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[Answer]:
        """The answer to one request, unless the fate has it otherwise."""
        await self._on_its_way()
        if self._anew is not None and self._is_its_status(method, path, self._anew):
            yield _Refusal(500)
            return
        if self._shut(method, path):
            yield _Refusal(500)
            return
        refused = self._strikes("refused")
        if refused:
            codes = [code for code in REFUSALS if code != 409 or method in WRITES]
            yield _Refusal(self._chance.choice(codes))
            return
        unanswered = self._strikes("unanswered")
        asking = partial(
            self._beyond.request, method, path, query=query, headers={**headers, AGENT: self._name}, body=body
        )
        if method in WRITES:
            await self._ending(path, body or b"", partial(_done, asking))
        if self._others is not None and (method, path.rpartition("/apps/v1/")[2]) == READ:
            self._others.come("read")
        async with asking() as answer, self._lagging(answer, path, query) as late:
            if unanswered:
                raise ConnectionResetError("the connection broke before the answer")
            yield _Hindered(late, self, torn=self._strikes("torn"))

    def _lagging(
        self, answer: Answer, path: str, query: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Answer]:
        """The answer, whose lines may come late if it is a watch."""
        kind = path.rpartition("/")[2]
        late = [one for one in self._late if kind in one.kinds]
        if not late or "watch" not in query:
            return contextlib.nullcontext(answer)

        def by() -> float:
            return max((one.by for one in late if self._clock() < one.until), default=0.0)

        return lagging(answer, late=by, clock=self._clock)

    def _shut(self, method: str, path: str) -> bool:
        shut = () if self._others is None or method not in WRITES else self._others.shut
        return any(path.endswith(one) for one in shut)

    def _is_its_status(self, method: str, path: str, anew: Again) -> bool:
        """Whether this is one of the writes that are refused while the run is deleted."""
        over = self._writes[REFUSED] >= anew.times
        if over or self._clock() < anew.at or not (method == "PATCH" and path.endswith("/status")):
            return False
        self._writes[REFUSED] += 1
        self._meddle(REFUSED, self._writes[REFUSED])
        return True

    async def _on_its_way(self) -> None:
        while self.much("cut"):  # noqa: ASYNC110 (nothing arrives, and nobody says so)
            await asyncio.sleep(1)
        if slow := self.much("slow"):
            await asyncio.sleep(slow * self._chance.random())

    async def _ending(self, path: str, body: bytes, send: Callable[[], Awaitable[None]]) -> None:
        """The process may end here: just before its write is done, or when it is done and unknown to it.

        If it is frozen before, the write is on its way for as long, whatever becomes of the process.
        """
        for kind in WRITTEN:
            if f"/{kind}" in path or (kind == ZERO and b'/weight", "value": 0}' in body):
                self._writes[kind] += 1
                self._meddle(kind, self._writes[kind])
                crash = self._crashes.pop((kind, self._writes[kind]), None)
                if crash is not None:
                    self._end(crash, send)
                    if not crash.done:
                        await (asyncio.sleep(0) if crash.frozen else asyncio.Event().wait())
                        raise ConnectionResetError("the connection broke while it was frozen")

    def much(self, kind: str) -> float:
        """How much of it there is now; 0 if it is not there."""
        now = self._clock()
        return max(
            (one.much for one in self._ails if one.kind == kind and one.at <= now < one.until), default=0
        )

    def _strikes(self, kind: str) -> bool:
        much = self.much(kind)
        return much > 0 and self._chance.random() < much

    async def watched(self, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The lines of a watch, as late as they are, until it breaks."""
        async for line in lines:
            while self.much("stale") or self.much("cut"):  # noqa: ASYNC110 (until it is over)
                await asyncio.sleep(1)
            if self._strikes("expired"):
                yield _EXPIRED
                return
            if self._strikes("torn"):
                yield line[: len(line) // 2]
                raise ConnectionResetError("the connection broke in the middle of a line")
            yield line


async def _done(asking: Callable[[], AbstractAsyncContextManager[Answer]]) -> None:
    async with asking() as answer:
        await answer.read()


_EXPIRED = (
    json.dumps(
        {
            "type": "ERROR",
            "object": {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "message": "too old resource version",
                "reason": "Expired",
                "code": 410,
            },
        }
    ).encode()
    + b"\n"
)


class _Hindered:
    """A `ports.Answer` that may end too early."""

    def __init__(self, answer: Answer, way: Hindered, *, torn: bool) -> None:
        self._answer = answer
        self._way = way
        self._torn = torn
        self.status = answer.status
        self.headers = answer.headers

    async def read(self) -> bytes:
        body = await self._answer.read()
        if self._torn:
            raise ConnectionResetError(f"the connection broke after {len(body) // 2} bytes")
        return body

    def lines(self) -> AsyncIterator[bytes]:
        return self._way.watched(self._answer.lines())


class _Refusal:
    """A `ports.Answer` in place of the one that would have come."""

    def __init__(self, code: int) -> None:
        self.status = code
        self.headers: Mapping[str, str] = {"Retry-After": "1"} if code == 429 else {}
        reason = REFUSALS[code]
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        self._body = json.dumps(said | {"message": f"the fate says {code}"}).encode()

    async def read(self) -> bytes:
        return self._body

    async def lines(self) -> AsyncIterator[bytes]:
        yield self._body
