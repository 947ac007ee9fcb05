"""Alerter: Slack and signed webhooks, at least once, never in anybody's way.

Every receiver has a task of its own that lives while something is to be delivered, so one that hangs
delays only what is meant for itself. The outbox is the run's and is saved with it: what was not
delivered when a leader died is offered again by the next one, under the same id.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from zlib import crc32

import structlog

from controller.cards import RENDERED
from controller.model import Alert, Message, Reason, Run, Tell
from controller.posting import Key, Sender, Undelivered

log = structlog.get_logger(__name__)

ATTEMPT_TIMEOUT = 10.0  # seconds; Slack answers within one, and an attempt holds up only its receiver
FIRST_RETRY = 1.0  # seconds, doubling
LONGEST_RETRY = 300.0  # seconds; about 290 attempts in a day
LONGEST_WAIT = 3600.0  # seconds; a Retry-After beyond it is taken as this
GIVE_UP_AFTER = timedelta(hours=24)
LASTING = 3  # failed attempts of which people are told: fewer may be a moment's
JSON = "application/json; charset=utf-8"
RESULTS = ("delivered", "retried", "given_up")  # of one attempt: the last two failed
QUEUE_LIMIT = 100  # letters a receiver; what is over it stays in the outbox and is offered again


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one ended; nothing in it is secret."""

    kind: str  # of receiver
    result: str  # one of `RESULTS`
    attempts: int  # with this one
    namespace: str
    run: str
    created: datetime  # the run
    at: datetime  # when it was to be told
    ended: datetime


Heed = Callable[[Attempt], None]
"""Hears of each attempt; `telemetry.Telemetry.alerted` is one."""


def _unheard(_attempt: Attempt) -> None:
    """Nobody counts."""


Says = Callable[[Run, Tell], Awaitable[None]]
"""Says it where a run's people read, who have no log of ours; `ports.Recorder.tell` is one."""


async def _unsaid(_run: Run, _what: Tell) -> None:
    """Nobody reads."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where one alert of a policy goes: the same definition in the same namespace is one receiver."""

    namespace: str
    alert: Alert


@dataclass(slots=True, kw_only=True)
class Letter:
    """One message on its way, rendered once so that every attempt sends the same bytes."""

    message: Message
    run: Run  # as it was then
    body: bytes
    taken: float  # the loop's clock, as it is for the next one: others may be set
    attempts: int = 0
    due: float = 0.0


@dataclass(slots=True)
class Desk:
    """A receiver's letters and the task that delivers them."""

    letters: dict[str, Letter] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # a letter, while others wait
    not_before: float = 0.0  # the receiver asked for a pause (Retry-After)
    task: asyncio.Task[None] | None = None


class Alerts:
    """An Alerter (`ports.Alerter`); `close` ends its tasks, undelivered messages stay in the outbox."""

    def __init__(self, sender: Sender, heed: Heed = _unheard, say: Says = _unsaid) -> None:
        self._sender = sender
        self._heed = heed
        self._say = say
        self._clock = sender.clock
        self._desks: dict[Receiver, Desk] = {}
        self._delivered: dict[str, set[str]] = {}

    def offer(self, run: Run) -> None:
        """Every message in the run's outbox is being delivered; offering again changes nothing."""
        self._forget(run)
        for message in run.outbox:
            if message.id not in self._delivered.get(run.name, ()):
                self._take(run, message)

    def delivered(self, run: str) -> frozenset[str]:
        """Ids of messages that arrived, or were given up, and may leave the outbox."""
        return frozenset(self._delivered.get(run, ()))

    async def close(self) -> None:
        """No task of ours runs any more."""
        tasks = [desk.task for desk in self._desks.values() if desk.task is not None]
        self._desks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, run: Run) -> None:
        """What has left the outbox needs no remembering; another namespace's run may share the name."""
        known = self._delivered.get(run.name, set())
        mine = f"{run.plan.namespace}/"
        known -= {id_ for id_ in known if id_.startswith(mine)} - {message.id for message in run.outbox}
        if not known:
            self._delivered.pop(run.name, None)

    def _take(self, run: Run, message: Message) -> None:
        alerts = run.plan.policy.alerts
        if not 0 <= message.alert < len(alerts):  # somebody's edit of the status; it must not keep the others
            log.warning("alert_of_nobody", run=run.name, id=message.id, alert=message.alert)
            self._delivered.setdefault(run.name, set()).add(message.id)
            return
        receiver = Receiver(run.plan.namespace, alerts[message.alert])
        desk = self._desks.setdefault(receiver, Desk())
        if message.id in desk.letters or len(desk.letters) >= QUEUE_LIMIT:
            return
        render = RENDERED[receiver.alert.kind]
        desk.letters[message.id] = Letter(
            message=message,
            run=run,
            body=render(run, message),
            taken=asyncio.get_running_loop().time(),
        )
        desk.arrived.set()
        if desk.task is None:
            desk.task = asyncio.create_task(self._deliver(receiver, desk), name="alerts")

    async def _deliver(self, receiver: Receiver, desk: Desk) -> None:
        """The receiver's letters, the one that is due first, until there are none."""
        loop = asyncio.get_running_loop()
        while desk.letters:
            letter = min(desk.letters.values(), key=lambda one: one.due)
            pause = max(letter.due, desk.not_before) - loop.time()
            if pause > 0:
                await _either(desk.arrived, pause)
            else:
                await self._try(receiver, desk, letter)
        del self._desks[receiver]

    async def _try(self, receiver: Receiver, desk: Desk, letter: Letter) -> None:
        """One attempt; afterwards the letter is gone or due again later."""
        letter.attempts += 1
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT), self._sender.turn("alerts", receiver.namespace):
                await self._send(receiver, letter)
        except Exception as error:  # noqa: BLE001 - whatever one receiver does, its task goes on
            if (said := self._put_off(receiver, desk, letter, _reason(error))) is not None:
                with contextlib.suppress(Exception):
                    await self._say(letter.run, Tell(Reason.ALERT_DELAYED, said))
        else:
            self._done(desk, letter)
            self._ended(receiver, letter, "delivered")
            log.info("alert_delivered", **_keys(receiver, letter))

    async def _send(self, receiver: Receiver, letter: Letter) -> None:
        alert, sender = receiver.alert, self._sender
        named = alert.secret is not None
        key = Key(namespace=receiver.namespace, secret=alert.secret or "", key=alert.key or "")
        if alert.kind == "alertmanager":
            status, answer = await sender.send(alert.url or "", letter.body, headers={"content-type": JSON})
        elif alert.kind != "webhook":  # their URLs are the secret
            url = (await sender.value(key)).decode(errors="replace").strip()
            status, answer = await sender.send(url, letter.body, headers={"content-type": JSON})
        else:
            status, answer = await sender.event(
                alert.url or "", letter.body, event_id=letter.message.id, key=key if named else None
            )
        _accept(status, answer, now=self._clock())

    def _put_off(self, receiver: Receiver, desk: Desk, letter: Letter, error: Undelivered) -> str | None:
        """The letter is due again later, or was given up; what people are to be told of it, if anything."""
        whom, of = f"alerts[{letter.message.alert}] ({receiver.alert.kind})", letter.message.outcome
        now = asyncio.get_running_loop().time()
        if error.final or now - letter.taken >= GIVE_UP_AFTER.total_seconds():
            self._ended(receiver, letter, "given_up")
            log.warning("alert_given_up", why=str(error), **_keys(receiver, letter))
            self._done(desk, letter)
            return f"{whom} is not told of {of}, and not tried any more: {error}"
        self._ended(receiver, letter, "retried")
        if letter.attempts == 1:
            log.warning("alert_delayed", why=str(error), **_keys(receiver, letter))
        backoff = min(FIRST_RETRY * 2.0 ** min(letter.attempts - 1, 16), LONGEST_RETRY)
        letter.due = now + backoff * _jitter(letter)
        desk.not_before = now + error.wait
        if letter.attempts == LASTING:
            return f"{whom} has not been told of {of} and is tried again for a day: {error}"
        return None

    def _ended(self, receiver: Receiver, letter: Letter, result: str) -> None:
        self._heed(
            Attempt(
                kind=receiver.alert.kind,
                result=result,
                attempts=letter.attempts,
                namespace=receiver.namespace,
                run=letter.run.name,
                created=letter.run.created,
                at=letter.message.at,
                ended=self._clock(),
            )
        )

    def _done(self, desk: Desk, letter: Letter) -> None:
        desk.letters.pop(letter.message.id)
        self._delivered.setdefault(letter.run.name, set()).add(letter.message.id)


async def _either(event: asyncio.Event, seconds: float) -> None:
    """The event was set, and is cleared for the next one, or the seconds have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


def _jitter(letter: Letter) -> float:
    """From 0.5 to 1.5, spread over letters and attempts; the same in every replay of a history."""
    return 0.5 + crc32(f"{letter.message.id} {letter.attempts}".encode()) / 2**32


def _accept(status: int, headers: Mapping[str, str], *, now: datetime) -> None:
    """A 2xx was answered; raises `Undelivered` with how long to wait and whether to try again."""
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise Undelivered(f"the receiver redirects ({status}), which is not followed; name its final URL")
    if status == 410:  # Standard Webhooks: the receiver is gone and wants no more
        raise Undelivered("the receiver is gone (410); take it out of the policy", final=True)
    wait = retry_after({name.lower(): value for name, value in headers.items()}.get("retry-after"), now=now)
    raise Undelivered(f"the receiver answered {status}", wait=wait)


def retry_after(value: str | None, *, now: datetime) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 without a usable one."""
    if value is None:
        return 0.0
    try:
        seconds = float(value) if value.strip().isdecimal() else _until(value, now=now)
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _until(value: str, *, now: datetime) -> float:
    when = parsedate_to_datetime(value)
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()


def _reason(error: Exception) -> Undelivered:
    """Why, in words of ours: other libraries' texts may quote the URL, which is Slack's secret."""
    if isinstance(error, Undelivered):
        return error
    if isinstance(error, TimeoutError):
        return Undelivered(f"no answer within {ATTEMPT_TIMEOUT:g} s")
    return Undelivered(f"the receiver cannot be reached ({type(error).__name__})")


def _keys(receiver: Receiver, letter: Letter) -> dict[str, object]:
    return {
        "namespace": receiver.namespace,
        "run": letter.run.name,
        "receiver": receiver.alert.kind,
        "message": letter.message.id,
        "attempts": letter.attempts,
    }
