"""A rolled-back run with something to tell, and receivers that do as they are told."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from analysis.evidence import CheckKind, CheckSpec
from controller.model import (
    Alert,
    Message,
    OnDoubt,
    Plan,
    Policy,
    PromotionMode,
    Reason,
    Run,
    Sizing,
    Stage,
    WeightChange,
)

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SLACK_URL = "https://hooks.slack.example/services/T0/B0/very-secret"
SLACK = Alert(kind="slack", secret="alerts", key="url")
WEBHOOK = Alert(kind="webhook", url="https://receiver.example/serin", secret="alerts", key="secret")
SENTENCE = (
    "p95 at the canary is 2.03x stable's (at least 1.41x); 61 of 240 canary requests took longer than 142 ms"
)


def policy(*alerts: Alert) -> Policy:
    return Policy(
        steps=(5, 10, 25, 50),
        warm_up=timedelta(seconds=30),
        min_step=timedelta(seconds=60),
        min_requests=300,
        step_timeout=timedelta(minutes=10),
        progress_deadline=timedelta(minutes=15),
        alpha=0.01,
        beta=0.05,
        canary_replicas=Sizing.MATCH,
        on_inconclusive=OnDoubt.HOLD,
        on_no_data=OnDoubt.HOLD,
        no_data_timeout=timedelta(minutes=5),
        scale_down_promoted=timedelta(seconds=30),
        scale_down_rolled_back=timedelta(minutes=10),
        promotion=PromotionMode.COPY,
        history_limit=10,
        burst_tolerance=timedelta(seconds=6),
        checks=(CheckSpec(name="latency-p95", kind=CheckKind.LATENCY, max_increase=0.2),),
        alerts=alerts,
    )


def message(number: int = 0, *, alert: int = 0, sentence: str = SENTENCE) -> Message:
    return Message(
        id=f"lab/model-canary-6f7-1/1/CheckFailed/{number}",
        alert=alert,
        outcome="RolledBack",
        reason=Reason.CHECK_FAILED,
        sentence=sentence,
        at=START + timedelta(seconds=75, milliseconds=200),
    )


def rolled_back(*alerts: Alert, outbox: tuple[Message, ...] = ()) -> Run:
    after = (0.0, Reason.STARTED, 5), (62.0, Reason.WEIGHT_RAISED, 10), (75.2, Reason.CHECK_FAILED, 0)
    return Run(
        name="model-canary-6f7-1",
        plan=Plan(
            namespace="lab",
            canary="model-canary",
            stable="model",
            canary_hash="6f7",
            stable_hash="5d9",
            virtual_service="model",
            stable_subset="stable",
            canary_subset="canary",
            policy=policy(*alerts),
        ),
        stage=Stage.ENDED,
        step=1,
        reason=Reason.CHECK_FAILED,
        check="latency-p95",
        message=SENTENCE,
        created=START,
        weights=tuple(
            WeightChange(at=START + timedelta(seconds=at), weight=weight, reason=why)
            for at, why, weight in after
        ),
        outbox=outbox,
    )


def long_history(run: Run, changes: int) -> Run:
    """The same run after so many changes of its weight."""
    change = run.weights[1]
    weights = (replace(change, at=START + timedelta(minutes=number)) for number in range(changes))
    return replace(run, weights=tuple(weights))


@dataclass(frozen=True)
class Delivery:
    """One POST as it came in."""

    url: str
    body: bytes
    headers: Mapping[str, str]


@dataclass
class Receivers:
    """A `Post` that answers by host: the next of its script, the last one for ever."""

    scripts: dict[str, list[int | Exception | tuple[int, dict[str, str]]]] = field(default_factory=dict)
    got: list[Delivery] = field(default_factory=list)

    async def __call__(
        self, url: str, body: bytes, *, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str]]:
        self.got.append(Delivery(url, body, headers))
        script = next((lines for host, lines in self.scripts.items() if host in url), [200])
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, Exception):
            raise answer
        return (answer, {}) if isinstance(answer, int) else answer
