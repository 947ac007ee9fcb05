"""A run's message in the forms that other receivers read: Teams, Discord, Alertmanager.

Pure, as `controller.letters` is. What people or programs wrote into a message is text there, whatever
marks it has: nobody is mentioned and nothing is a link.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any

from controller import letters
from controller.model import Message, Run
from controller.telling import severity

Json = Any

# Discord's own limits (characters), from its reference of embeds; Teams takes 28 kB, more than ours ever is.
TITLE_LIMIT, TEXT_LIMIT, FIELD_LIMIT = 256, 3000, 1024
COLOURS = {"critical": 0xD13438, "warning": 0xF2A900, "info": 0x2E7D32}
_MARKS = re.compile(r"([\\*_~`|>\[\]()#])")


def teams(run: Run, message: Message) -> bytes:
    """An Adaptive Card, as a Teams workflow takes it ("When a Teams webhook request is received")."""
    body = [
        _rich(letters.heading(run, message), size="Large", weight="Bolder"),
        _rich(letters.sentence(message)),
        {"type": "FactSet", "facts": [{"title": k, "value": v} for k, v in letters.facts(run, message)]},
        *([_rich(letters.history(run.weights), fontType="Monospace")] if run.weights else []),
        _rich(letters.look(run), fontType="Monospace", isSubtle=True),
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    return letters.encoded({"type": "message", "attachments": [{"contentType": kind, "content": card}]})


def discord(run: Run, message: Message) -> bytes:
    """One embed, and nobody is mentioned."""
    fields = [
        {"name": name, "value": _cut(_plain(value), FIELD_LIMIT), "inline": True}
        for name, value in letters.facts(run, message)
    ]
    embed = {
        "title": _cut(_plain(letters.heading(run, message)), TITLE_LIMIT),
        "description": _cut(_plain(letters.sentence(message)), TEXT_LIMIT),
        "color": COLOURS[severity(message.outcome, message.reason)],
        "timestamp": message.at.astimezone(UTC).isoformat(timespec="milliseconds"),
        "fields": fields,
        "footer": {"text": _cut(letters.look(run), FIELD_LIMIT)},
    }
    return letters.encoded({"embeds": [embed], "allowed_mentions": {"parse": []}})


def alertmanager(run: Run, message: Message) -> bytes:
    """One alert for `POST /api/v2/alerts`; it resolves when Alertmanager has not heard of it for a while."""
    labels = {
        "alertname": f"Canary{message.outcome or message.reason.value}",
        "severity": severity(message.outcome, message.reason),
        "namespace": run.plan.namespace,
        "workload": run.plan.canary,
        "run": run.name,
        "reason": message.reason.value,
        "check": run.check or "",
    }
    alert = {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {
            "summary": letters.heading(run, message),
            "description": letters.sentence(message),
            "command": letters.look(run),
        },
        "startsAt": message.at.astimezone(UTC).isoformat(timespec="milliseconds"),
    }
    return letters.encoded([alert])


RENDERED: Mapping[str, Callable[[Run, Message], bytes]] = {
    "slack": letters.slack,
    "teams": teams,
    "discord": discord,
    "alertmanager": alertmanager,
    "webhook": letters.cloud_event,
}


def _rich(text: str, **how: Json) -> Json:
    """Text that is no Markdown."""
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **how}]}


def _plain(text: str) -> str:
    return _MARKS.sub(r"\\\1", text)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip("\\") + "…"
