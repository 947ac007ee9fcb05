"""What an alert says: a run's message as Slack blocks or as a signed CloudEvent.

Pure: the same run and message make the same bytes, so a repeated delivery is recognised as one.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from controller import record, retraining
from controller.explain import duration
from controller.gating import Question
from controller.model import Message, Run, WeightChange
from controller.telling import severity

Json = Any

TITLES = {
    "RolledBack": "Rolled back",
    "Held": "On hold",
    "Promoted": "Promoted",
    "Drifted": "Retraining wanted",
    "Warned": "Checklist not passed",
}

KINDS = ("slack", "teams", "discord", "alertmanager", "webhook")  # of receivers

# Slack's own limits (characters), from its reference of layout blocks.
HEADER_LIMIT = 150
TEXT_LIMIT = 3000
HISTORY_LINES = 20  # 20 lines of at most 70 characters leave room under TEXT_LIMIT
BAR = 20  # characters of a full bar: one for every 5 percent


class BadSecret(ValueError):
    """A signing secret cannot be used; the text says what one looks like, never what it was."""


# -- Slack -----------------------------------------------------------------------------------------


def slack(run: Run, message: Message) -> bytes:
    """The body of one POST to a Slack incoming webhook."""
    title = heading(run, message)
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(title, HEADER_LIMIT)}},
        _section(_cut(escaped(sentence(message)), TEXT_LIMIT)),
        {
            "type": "section",
            "fields": [_mrkdwn(f"*{name}*\n{escaped(value)}") for name, value in facts(run, message)],
        },
        *([_section(f"*Weight*\n```\n{escaped(history(run.weights))}\n```")] if run.weights else []),
        {"type": "context", "elements": [_mrkdwn(f"Look further: `{escaped(look(run))}`")]},
    ]
    return encoded({"text": _cut(escaped(f"{title}. {message.sentence}"), TEXT_LIMIT), "blocks": blocks})


def title_of(message: Message) -> str:
    """What happened, in two words."""
    if message.outcome == "RolledBack" and message.reason in record.ENDINGS:
        return spaced(message.reason)  # traffic was taken back, if there was any, and nothing had been found
    return TITLES.get(message.outcome, message.outcome or message.reason.value)


def spaced(reason: str) -> str:
    """A reason as people write it: "Stable changed"."""
    return re.sub("(?<=[a-z])[A-Z]", lambda letter: f" {letter[0].lower()}", reason)


def heading(run: Run, message: Message) -> str:
    """What happened to which canary."""
    return f"{title_of(message)}: {run.plan.canary} in {run.plan.namespace}"


def sentence(message: Message) -> str:
    """What happened, or at least why."""
    return message.sentence or message.reason.value


def escaped(text: str) -> str:
    """`text` with the three characters that Slack reads as markup made harmless."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def history(weights: Sequence[WeightChange]) -> str:
    """One line for each change of the weight, the newest twenty, with a bar to read at a glance."""
    left_out = max(0, len(weights) - HISTORY_LINES)
    lines = [f"({left_out} earlier)"] if left_out else []
    for change in weights[left_out:]:
        since = duration(change.at - weights[0].at)
        bar = "█" * -(-change.weight * BAR // 100)  # rounded up: one percent shows
        lines.append(f"{since:>12} {change.weight:>4}% {bar:<{BAR}} {change.reason.value}")
    return "\n".join(lines)


def facts(run: Run, message: Message) -> list[tuple[str, str]]:
    """What people look for first, by name."""
    found = [
        ("Reason", message.reason.value),
        ("Check", run.check or ""),
        ("Run", run.name),
        ("Stable", run.plan.stable),
        ("At", f"{message.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"),
    ]
    return [(name, value) for name, value in found if value]


def look(run: Run) -> str:
    """The command that says more."""
    return f"kubectl serin explain {run.name} -n {run.plan.namespace}"


def _section(text: str) -> Json:
    return {"type": "section", "text": _mrkdwn(text)}


def _mrkdwn(text: str) -> Json:
    return {"type": "mrkdwn", "text": text}


def _cut(text: str, limit: int) -> str:
    """`text`, or as much of it as fits, never ending inside an escape such as `&lt;`."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    ampersand = kept.rfind("&", limit - 6)
    return (kept[:ampersand] if ampersand >= 0 and ";" not in kept[ampersand:] else kept) + "…"


# -- CloudEvents, signed as Standard Webhooks say ------------------------------------------------------


def cloud_event(run: Run, message: Message) -> bytes:
    """The message as a CloudEvent 1.0 in structured JSON."""
    plan = run.plan
    data = {
        "outcome": message.outcome,
        "reason": message.reason.value,
        "severity": severity(message.outcome, message.reason),
        "message": message.sentence,
        "check": run.check,
        "namespace": plan.namespace,
        "run": run.name,
        "canary": plan.canary,
        "stable": plan.stable,
        "canaryHash": plan.canary_hash,
        "virtualService": plan.virtual_service,
        "weight": run.weight,
        **({} if (drift := retraining.evidence(run)) is None else {"inputs": drift}),
        "weights": [
            {"at": _time(change.at), "weight": change.weight, "reason": change.reason.value}
            for change in run.weights
        ],
    }
    kind = f"run.{(message.outcome or message.reason.value).lower()}"
    return _event(message.id, kind, plan.namespace, run.name, at=message.at, data=data)


def asked(question: Question, *, at: datetime) -> bytes:
    """A gate's question as a CloudEvent 1.0."""
    kind = f"gate.{question.before.value.lower()}"
    return _event(question.id, kind, question.namespace, question.run, at=at, data=question.data)


def _event(
    event_id: str, kind: str, namespace: str, run: str, *, at: datetime, data: Mapping[str, Json]
) -> bytes:
    return encoded(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": f"/apis/serin.dev/v1alpha1/namespaces/{namespace}/canaryruns/{run}",
            "type": f"dev.serin.{kind}",
            "subject": run,
            "time": _time(at),
            "datacontenttype": "application/json",
            "data": data,
        }
    )


def signed(message_id: str, body: bytes, *, secrets: Sequence[bytes], at: datetime) -> Mapping[str, str]:
    """The three headers of Standard Webhooks; one signature for each secret, none without any."""
    timestamp = str(int(at.timestamp()))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
    if secrets:
        headers["webhook-signature"] = " ".join(f"v1,{_hmac(secret, content)}" for secret in secrets)
    return headers


def signing_secrets(value: bytes) -> tuple[bytes, ...]:
    """The keys in a Secret's value: base64, with or without `whsec_`, several separated by blanks."""
    try:
        keys = tuple(
            base64.b64decode(word.removeprefix("whsec_"), validate=True) for word in value.decode().split()
        )
    except (UnicodeDecodeError, binascii.Error):
        keys = ()
    if not keys or not all(keys):
        raise BadSecret("not base64; make one with: echo whsec_$(openssl rand -base64 32)")
    return keys


def _hmac(secret: bytes, content: bytes) -> str:
    return base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encoded(value: Json) -> bytes:
    """JSON as it is sent."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
