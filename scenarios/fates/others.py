"""Whoever does something to the cluster just when our replicas are between two steps."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from scenarios.cluster.patches import clone
from scenarios.cluster.refusals import Refused
from scenarios.fates.between import OTHER, Between, Deed, Moment
from scenarios.fates.said import waits
from scenarios.objects import NAMESPACE, STABLE
from scenarios.plot import Arm
from scenarios.result import ended
from scenarios.world import World

Json = Any


class Others:
    """Those of one history, whose deeds are done at once: no fault of the connections is in their way."""

    def __init__(
        self, between: Between, world: World, *, pages: set[str], say: Callable[[str], None]
    ) -> None:
        self._between = between
        self._world = world
        self._pages = pages  # what is wrong with pods' pages now
        self._say = say
        self._had: Counter[int] = Counter()  # how often each moment came
        self._stood: dict[str, set[str]] = {}  # what each run has given occasion for already, and still does
        self._came: asyncio.Queue[Moment] = asyncio.Queue()
        self.shut: list[str] = []  # paths whose writes are refused now

    @property
    def busy(self) -> bool:
        """Whether they keep the controller from writing something now."""
        return bool(self.shut)

    def furnish(self) -> None:
        """What they have in the cluster before the story begins."""
        if self._between.elsewhere:
            other = clone(self._world.get("virtualservices", NAMESPACE, STABLE))
            meta = {"name": OTHER, "namespace": NAMESPACE}
            self._world.create({**other, "metadata": meta, "spec": other["spec"] | {"hosts": [OTHER]}})

    def hear(self, resource: str, run: Json) -> None:
        """An object was written; what a run says may be an occasion, once it begins to say so."""
        if resource != "canaryruns":
            return
        name, occasions = run["metadata"]["name"], _occasions(run)
        for on in sorted(occasions - self._stood.get(name, set())):
            self.come(on)
        self._stood[name] = occasions

    def come(self, on: str) -> None:
        """The occasion is there."""
        for place, moment in enumerate(self._between.moments):
            if moment.on == on and self._had[place] < moment.times:
                self._had[place] += 1
                self._came.put_nowait(moment)

    async def act(self) -> None:
        """Deeds are done as their moments come."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._through(await self._came.get()))

    async def _through(self, moment: Moment) -> None:
        for deed in moment.deeds:
            if deed.after:
                await asyncio.sleep(deed.after)
            self._say(f"on {moment.on}: {deed}")
            with contextlib.suppress(Refused):  # what it was about is gone
                self._do(deed)

    def _do(self, deed: Deed) -> None:
        done: Mapping[str, Callable[[Any], None]] = {
            "merge": lambda how: self._merge(*how),
            "approve": self._approve,
            "drain": lambda _: self._drain(),
            "away": self._pages.add,
            "back": lambda _: self._pages.difference_update({"outage", "hang"}),
            "shut": self.shut.append,
            "open": self.shut.remove,
        }
        done[deed.what](deed.how)

    def _merge(self, plural: str, name: str, what: Json) -> None:
        for each in [name] if name else self._live():
            self._world.patch(plural, "" if plural == "namespaces" else NAMESPACE, each, what)

    def _drain(self) -> None:
        for pod in self._world.objects("pods", NAMESPACE):
            if pod["metadata"]["labels"].get("version") == Arm.CANARY:
                self._world.evict(NAMESPACE, pod["metadata"]["name"])

    def _live(self) -> list[str]:
        runs = self._world.stored("canaryruns", NAMESPACE)
        return [run["metadata"]["name"] for run in runs if not ended(run)]

    def _approve(self, times: int) -> None:
        for run in self._live():
            there: Json = self._world.get("canaryruns", NAMESPACE, run)
            approved = there["spec"].get("approved", [])
            more = [f"approval {len(approved) + one + 1}" for one in range(times)]
            self._world.patch("canaryruns", NAMESPACE, run, {"spec": {"approved": [*approved, *more]}})


def _occasions(run: Json) -> set[str]:
    status = run.get("status") or {}
    found = set()
    if status.get("weight"):
        found.add("weight")
    if (status.get("state") or {}).get("stage") == "Promoting":
        found.add("promoting")
    if waits(run):
        found.add("held")
    return found
