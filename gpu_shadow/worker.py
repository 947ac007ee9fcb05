"""Runs that want to know: for each the models, its replay, and what is known by now.

A run asks with everything its verdict depends on, and asks again every second; the answer repeats the
question, so that nobody takes one run's verdict for another's. What has not been asked for a minute is
forgotten with all that was recorded for it.

Where a baseline is named, the same requests are compared with it. That decides nothing: a Pass waits for
enough of them, but not for long, and what is wrong with a baseline is said and otherwise without effect.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog
import torch
from aiohttp import web

from analysis.judge import Verdict
from gpu_shadow.compare import Margins
from gpu_shadow.endpoints import opened as reached
from gpu_shadow.finding import VERDICTS
from gpu_shadow.keeping import Keeper
from gpu_shadow.model import Later, Model, Refused
from gpu_shadow.models import load
from gpu_shadow.recorder import Recorded, Recorder, Stream
from gpu_shadow.replay import Replay
from gpu_shadow.requests import shuffled
from gpu_shadow.states import States
from gpu_shadow.turns import both
from gpu_shadow.watch import ENOUGH, WINDOW, Watch, opened, page

Json = Any
log = structlog.get_logger(__name__)

EVERY = 0.5  # seconds between looks at what was recorded
MEMORY = 2**30  # bytes of all models' weights at once: loading takes as much again, and the pod has 2 GiB
LATER = 5.0  # seconds until a model that was not there is asked for again
FORGOTTEN_AFTER = 60.0  # seconds without the run's asking
MOST_RUNS = 32  # at once; models stay in memory while a run is not decided
INPUTS_WITHIN = 30.0  # seconds that a Pass waits for the inputs to be known
NAMED = 5  # rules of redaction in a sentence, and the most different requests in an answer
LARGEST_QUESTION = 64 * 1024  # bytes


Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Allowed(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """What may differ, and how sure that has to be."""

    max_flips: Probability
    alpha: Probability
    beta: Probability


class Question(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """All that a verdict depends on; `generation` tells two runs of one name apart."""

    run: str
    generation: str
    hosts: tuple[str, ...]
    stable: str
    canary: str
    margins: Allowed
    baseline: str | None = None  # what the canary was trained on


@dataclass(slots=True)
class Shadow:
    """One run: its question, and how far its answer is."""

    question: Question
    said: Json  # the question as it was put
    stream: Stream  # what is recorded for it
    renewed: float  # loop time
    task: asyncio.Task[None] | None = None
    replay: Replay | None = None
    trouble: str = ""  # why there is no answer and will be none
    watch: Watch | None = None
    unwatched: str = ""  # why a baseline that is named is not compared with
    decided: float | None = None  # loop time when the replay was decided
    resident: int = 0  # bytes that its models take at once
    again: Sequence[Recorded] = ()  # requests at which a server went away: they come first when it is back

    @property
    def key(self) -> Json:
        """The question as plain JSON values, whatever the order in which it was put."""
        return json.loads(msgspec.json.encode(self.question))

    @property
    def settled(self) -> bool:
        """Whether nothing more has to be recorded for it."""
        return self.replay is not None and self.replay.decided and not self.waits

    @property
    def waits(self) -> bool:
        """Whether a Pass is not said yet, since too few inputs have been compared with the baseline."""
        found = None if self.replay is None else self.replay.finding
        passed = found is not None and found.verdict is Verdict.PASS
        known = self.watch is None or self.watch.enough
        since = asyncio.get_running_loop().time() - INPUTS_WITHIN
        return passed and not known and (self.decided is None or self.decided > since)


Compute = Callable[..., Awaitable[Any]]
"""(function, arguments …) -> its result, once it was computed."""


class Worker:
    """All of them. One thread computes; the event loop only talks."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        models: Path,
        device: torch.device,
        compute: Compute | None = None,
        keeper: Keeper | None = None,
        memory: int = MEMORY,
        endpoints: Collection[str] = (),
        state: Path | None = None,
    ) -> None:
        self._recorder = recorder
        self._keeper = keeper
        redaction = recorder.redaction
        self._states = States(state, redaction="" if redaction is None else redaction.digest)
        self._models = models
        self._device = device
        self._memory = memory
        self._endpoints = endpoints
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="replay")
        self._compute = compute or self._beside
        self.shadows: dict[str, Shadow] = {}

    # -- what is asked

    def asked(self, name: str, said: Json) -> Json:
        """The answer by now to the question `said`; raises `Refused` for what is no question."""
        try:
            question = msgspec.convert(said, Question)
        except msgspec.ValidationError as error:
            raise Refused(f"not a question: {error}") from None
        if question.run != name:
            raise Refused(f"run is {question.run}, and it was put to {name}; let them agree")
        self._forget_old()
        now = asyncio.get_running_loop().time()
        known = self.shadows.get(name)
        if known is None or known.question != question:
            self.forget(name)
            if len(self.shadows) >= MOST_RUNS:
                raise Refused(f"{MOST_RUNS} runs are being looked at already; ask again later")
            stream = self._recorder.open(name, question.hosts)
            known = self.shadows[name] = Shadow(question, said, stream, now)
            known.task = asyncio.create_task(self._look_after(name, known))
        known.renewed = now
        return {"asked": known.said, **answer(known)}

    def forget(self, name: str) -> None:
        """Nothing is left of what was recorded and compared under this name."""
        shadow = self._ended(name)
        if shadow is not None:  # after what the thread may be writing just now, or it would outlive this
            self._thread.submit(self._states.drop, shadow.key)

    def _ended(self, name: str) -> Shadow | None:
        """Nothing is done under this name any more."""
        shadow = self.shadows.pop(name, None)
        self._recorder.close(name)
        if shadow is not None and shadow.task is not None:
            shadow.task.cancel()
            self._recorder.release(*shadow.again)
            shadow.again = ()
        return shadow

    def _forget_old(self) -> None:
        since = asyncio.get_running_loop().time() - FORGOTTEN_AFTER
        for name in [name for name, shadow in self.shadows.items() if shadow.renewed < since]:
            log.info("forgotten", run=name)
            self.forget(name)

    async def close(self) -> None:
        """Nothing runs any more; how far each replay came is kept."""
        ended = [shadow for name in list(self.shadows) if (shadow := self._ended(name)) is not None]
        tasks = [shadow.task for shadow in ended if shadow.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)
        for shadow in ended:
            if shadow.replay is not None:
                self._states.keep(shadow.key, shadow.replay, now=True)

    # -- what is done for it

    async def _look_after(self, name: str, shadow: Shadow) -> None:
        """Until it is decided, or cannot be; then nothing more is recorded for it."""
        try:
            while not await self._tried(name, shadow):
                await asyncio.sleep(LATER)
                self._forget_old()
        except Refused as trouble:
            shadow.trouble = str(trouble)
        except Exception as error:
            log.exception("not_compared", run=name)
            shadow.trouble = f"the worker could not compare the models: {type(error).__name__}: {error}"
        if self.shadows.get(name) is shadow:
            self._recorder.close(name)
        if shadow.replay is not None:
            await self._compute(partial(self._states.keep, now=True), shadow.key, shadow.replay)
            shadow.replay.put_away()
        shadow.resident = 0
        log.info("looked_after", run=name, **answer(shadow))
        while self.shadows.get(name) is shadow:
            await asyncio.sleep(FORGOTTEN_AFTER / 2)
            self._forget_old()

    async def _tried(self, name: str, shadow: Shadow) -> bool:
        """Whether it was decided; if a model is not there, that is the answer until it is."""
        try:
            await self._decide(name, shadow)
        except Later as trouble:
            if shadow.trouble != str(trouble):
                log.warning("not_there_yet", run=name, why=str(trouble))
            shadow.trouble = str(trouble)
            return False
        return True

    async def _decide(self, name: str, shadow: Shadow) -> None:
        asked = shadow.question
        if shadow.replay is None:
            stable, canary = await self._compute(self._both, shadow)
            margins = margins_of(asked.margins, stable, canary)
            replay = Replay(stable, canary, margins, redacted=shadow.stream.redacted)
            await self._compute(self._states.resume, shadow.key, replay)
            shadow.replay, shadow.trouble = replay, ""
            await self._compute(self._open, shadow)
        while not shadow.settled:
            await asyncio.sleep(EVERY)
            self._forget_old()
            some = self._recorder.take(name)
            if self._keeper is not None:
                self._keeper.keep(name, some, model=asked.stable, modified=shadow.stream.redacted)
            await self._compare(shadow, shadow.replay, [*shadow.again, *some])
            if shadow.replay.decided and shadow.decided is None:
                shadow.decided = asyncio.get_running_loop().time()

    async def _compare(self, shadow: Shadow, replay: Replay, some: Sequence[Recorded]) -> None:
        """These go through, some at a time. Those that meet a server that is away are not passed over.

        Else a canary whose server dies of one request in a hundred would be judged by the other ninety-nine.
        """
        shadow.again = ()
        turn: Sequence[Recorded] = ()
        away: set[int] = set()
        try:
            for at in range(0, len(some), replay.turn):  # other runs have theirs in between
                turn = some[at : at + replay.turn]
                await self._compute(_go_on, shadow, turn)
                shadow.trouble = ""
            if not replay.decided:
                await self._compute(self._states.keep, shadow.key, replay)
        except Later:
            shadow.again, away = turn, {each.order for each in turn}
            raise
        finally:
            self._recorder.release(*(each for each in some if each.order not in away))

    def _open(self, shadow: Shadow) -> None:
        """The inputs are watched, if a baseline is named and can be read."""
        asked = shadow.question
        try:
            if asked.baseline is not None:
                shadow.watch = opened(asked.baseline, self._models, redaction=self._recorder.redaction)
        except Exception as trouble:  # noqa: BLE001 - whatever it is, the models are compared
            shadow.unwatched = str(trouble)
            log.warning("inputs_not_watched", run=asked.run, why=shadow.unwatched)

    async def _beside(self, work: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    def _both(self, shadow: Shadow) -> Sequence[Model]:
        asked = shadow.question
        free = self._memory - sum(one.resident for one in self.shadows.values())
        references = asked.stable, asked.canary
        models, shadow.resident = both(
            references, partial(self._load, hosts=asked.hosts), memory=self._memory, free=free
        )
        return models

    def _load(self, reference: str, hosts: Collection[str]) -> Model:
        if reference.startswith("http://"):
            return reached(reference, self._endpoints, production=hosts)
        return load(reference, self._models, device=self._device)

    def page(self) -> str:
        """For a metrics page: what was recorded and kept, and the inputs' figures by the canary's model."""
        known, keeper = self.shadows.values(), self._keeper
        watched = {_model(one.question.canary): one.watch for one in known if one.watch is not None}
        if keeper is None:
            return self._recorder.page() + page(watched)
        self._recorder.dropped["disk"] = keeper.dropped  # beside the rest: they were replayed, and not kept
        return self._recorder.page() + keeper.page() + page(watched)


def _go_on(shadow: Shadow, some: Sequence[Recorded]) -> None:
    """The requests are compared, first the answers, then what was asked."""
    if shadow.replay is not None and not shadow.replay.decided:
        shadow.replay.go_on(shuffled(some))  # they come in bursts, and answers may go with those
    try:
        if shadow.watch is not None:
            shadow.watch.take(some)
    except Exception as trouble:
        log.exception("inputs_not_watched", run=shadow.question.run)
        shadow.watch, shadow.unwatched = None, f"{type(trouble).__name__}: {trouble}"


def _model(reference: str) -> str:
    return Path(reference.partition("@")[0]).stem


def margins_of(allowed: Allowed, stable: Model, canary: Model) -> Margins:
    """What may differ between two models of one task; raises `Refused`."""
    if stable.task != canary.task:
        raise Refused(
            f"stable's task is {stable.task}, the canary's {canary.task}: answers of two kinds cannot be"
            " compared; correct the metadata's task of either"
        )
    if stable.input is not None and canary.input is None:  # which of two tensors it reads, nobody knows
        raise Refused(
            f"stable's file says that it reads the tensor {stable.input}, the canary's says nothing;"
            " name it in the metadata's input of both, or of neither"
        )
    try:
        return Margins(max_flips=allowed.max_flips, alpha=allowed.alpha, beta=allowed.beta, task=stable.task)
    except ValueError as error:
        raise Refused(f"margins: {error}") from None


def answer(shadow: Shadow) -> Json:
    """What is known of a run by now, without its question."""
    replay = shadow.replay
    if shadow.trouble:
        return {"verdict": VERDICTS[Verdict.NO_DATA], "sentence": shadow.trouble}
    if replay is None or replay.finding is None:
        return {"verdict": VERDICTS[Verdict.INCONCLUSIVE], "sentence": _so_far(shadow)}
    found = replay.finding
    said: Json = {
        "verdict": VERDICTS[Verdict.INCONCLUSIVE if shadow.waits else found.verdict],
        "sentence": _sentence(replay) + _of_redaction(shadow) + _of_inputs(shadow),
        "requests": found.requests,
        "modifiedInputs": bool(shadow.stream.redacted),
        "worst": [{"id": name, "score": how} for how, name in found.worst[:NAMED]],
    }
    if found.overall is not None:
        figures = (found.overall.flips, *found.overall.interval)
        said |= {"flips": figures[0], "interval": list(figures[1:])} if all(map(isfinite, figures)) else {}
    return said | _inputs(shadow)


def _of_redaction(shadow: Shadow) -> str:
    """What both models were given instead of what callers sent, after a blank."""
    done = sorted(shadow.stream.redacted)
    more = [f"{len(done) - NAMED} more"] if len(done) > NAMED else []
    return f" Requests were redacted: {', '.join(done[:NAMED] + more)}." if done else ""


def _of_inputs(shadow: Shadow) -> str:
    """What has to be said of the inputs beside the verdict, after a blank."""
    if shadow.waits:
        return f" Inputs are compared with the training's, of {ENOUGH * WINDOW} requests at least."
    watch, why = shadow.watch, shadow.unwatched
    if watch is not None and watch.enough and not watch.requests:
        why = "no request has a feature of the baseline's"
    return f" Inputs are not compared with the training's: {why}." if why else ""


def _inputs(shadow: Shadow) -> Json:
    """What is known of the inputs; nothing where no baseline is named."""
    if shadow.unwatched:
        return {"inputs": {"trouble": shadow.unwatched}}
    return {} if shadow.watch is None else {"inputs": shadow.watch.said()}


def _so_far(shadow: Shadow) -> str:
    """Why nothing was compared yet, as far as that can be told."""
    stream, replay = shadow.stream, shadow.replay
    if not stream.seen:
        return "no request has been mirrored yet"
    why = [f"{count} {reason}" for reason, count in stream.dropped.most_common(3)]
    if replay is not None and replay.unfit:
        why += [f"{count} {reason}" for reason, count in replay.unfit.most_common(3)]
    return f"none of {stream.seen} mirrored requests was replayed yet" + (
        f": {', '.join(why)}" if why else ""
    )


def _sentence(replay: Replay) -> str:
    stable, canary = replay.stable, replay.canary
    why = " ".join(replay.finding.why) if replay.finding else ""
    unproven = [name for name, one in (("stable", stable), ("the canary", canary)) if one.unproven]
    if unproven:
        why += (
            f" Nobody proves the digest of {' and of '.join(unproven)}: its server's metadata do not say one."
        )
    if stable.takes != canary.takes and stable.takes and canary.takes:
        return f"the canary takes {canary.takes}, stable {stable.takes}: {why}"
    return why


def read(body: bytes) -> Json:
    """The JSON of a request, which is UTF-8 whatever its headers say; raises `Refused`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"not JSON: {error}; put a question as an object in UTF-8") from None


def application(worker: Worker) -> web.Application:
    """What the controller talks to; on a port of its own, which no mirrored request reaches."""

    def name(asked: web.Request) -> str:
        return f"{asked.match_info['namespace']}/{asked.match_info['name']}"

    async def put(asked: web.Request) -> web.Response:
        try:
            return web.json_response(worker.asked(name(asked), read(await asked.read())))
        except Refused as error:
            return web.json_response({"error": str(error)}, status=400)

    async def get(asked: web.Request) -> web.Response:
        shadow = worker.shadows.get(name(asked))
        if shadow is None:
            return web.json_response({"error": f"{name(asked)} has not asked"}, status=404)
        return web.json_response({"asked": shadow.said, **answer(shadow)})

    async def delete(asked: web.Request) -> web.Response:
        worker.forget(name(asked))
        return web.json_response({})

    async def fine(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=worker.page(), content_type="text/plain")

    app = web.Application(client_max_size=LARGEST_QUESTION)
    where = "/v1/shadows/{namespace}/{name}"
    app.add_routes([web.put(where, put), web.get(where, get), web.delete(where, delete)])
    app.add_routes([web.get("/livez", fine), web.get("/readyz", fine), web.get("/metrics", metrics)])
    return app


def device(wanted: str) -> torch.device:
    """`auto` is the GPU if there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
