"""What Slack, Teams, Discord and Alertmanager are told, sent to servers that check what those document."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controller import cards, letters, policies, wire
from controller.alerts import Alerts
from controller.model import Alert, Message, Reason
from controller.posting import Sender
from tests.adapters.letterbox import SLACK, long_history, message, rolled_back
from tests.adapters.test_connect import serving
from tests.adapters.test_http import letters as posting

Json = Any
SNAPSHOTS = Path(__file__).parent / "snapshots"
TOLD = {
    "RolledBack": (Reason.CHECK_FAILED, None),
    "Held": (
        Reason.AWAITING_APPROVAL,
        "waiting for approval of step 2: kubectl serin approve model-canary-6f7-1",
    ),
    "Promoted": (Reason.PROMOTED, "model runs the template that was analysed (6f7)"),
    "Drifted": (Reason.RETRAINING_WANTED, "inputs are not those of the training any more: age by 0.31 (PSI)"),
    "Warned": (Reason.PREFLIGHT_FAILED, "preflight: 1 item of the checklist failed: autoscaling"),
}
NASTY = "aborted: @everyone <!channel> [here](https://evil.example) **now** `rm` <@1> " + "x" * 5000


def told(outcome: str) -> Message:
    reason, sentence = TOLD[outcome]
    one = replace(message(), outcome=outcome, reason=reason)
    return one if sentence is None else replace(one, sentence=sentence)


@pytest.mark.parametrize("outcome", TOLD)
@pytest.mark.parametrize("form", ["slack", "teams", "discord", "alertmanager"])
def test_what_each_receiver_is_told_looks_as_the_snapshot_does(form: str, outcome: str) -> None:
    run = rolled_back(SLACK) if outcome == "RolledBack" else replace(rolled_back(SLACK), check=None)
    body = json.loads(cards.RENDERED[form](run, told(outcome)))
    snapshot = SNAPSHOTS / "cards" / f"{form}-{outcome}.json"
    assert body == json.loads(snapshot.read_text()), json.dumps(body, indent=2, ensure_ascii=False)


def test_the_snapshots_are_of_all_kinds_of_receivers_and_all_outcomes() -> None:
    assert set(cards.RENDERED) == set(letters.KINDS)
    assert set(TOLD) == set(letters.TITLES)


# -- what the receivers document ----------------------------------------------------------------------


def teams(body: Json) -> None:
    """A message with one Adaptive Card 1.4 of known elements, at most 28 kB."""
    assert set(body) == {"type", "attachments"}
    assert body["type"] == "message"
    (attachment,) = body["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    for element in card["body"]:
        if element["type"] == "FactSet":
            assert all(set(fact) == {"title", "value"} for fact in element["facts"])
            continue
        assert element["type"] == "RichTextBlock"
        for run in element["inlines"]:
            assert run["type"] == "TextRun"
            assert set(run) <= {"type", "text", "size", "weight", "fontType", "isSubtle"}
            assert isinstance(run["text"], str)
    assert len(json.dumps(body)) <= 28 * 1024


def discord(body: Json) -> None:
    """Execute Webhook: embeds within their limits, and nobody mentioned."""
    assert set(body) <= {"content", "embeds", "allowed_mentions", "username"}
    assert body["allowed_mentions"] == {"parse": []}
    assert 1 <= len(body["embeds"]) <= 10
    for embed in body["embeds"]:
        assert len(embed["title"]) <= 256
        assert len(embed["description"]) <= 4096
        assert 0 <= embed["color"] <= 0xFFFFFF
        assert len(embed["fields"]) <= 25
        assert all(0 < len(f["name"]) <= 256 and 0 < len(f["value"]) <= 1024 for f in embed["fields"])
        assert len(embed["footer"]["text"]) <= 2048
        assert datetime.fromisoformat(embed["timestamp"]).tzinfo
        texts = [embed["title"], embed["description"], embed["footer"]["text"]]
        texts += [text for field in embed["fields"] for text in (field["name"], field["value"])]
        assert sum(map(len, texts)) <= 6000


def alertmanager(body: Json) -> None:
    """postableAlerts of its OpenAPI description."""
    assert isinstance(body, list)
    for alert in body:
        assert set(alert) <= {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
        assert alert["labels"]["alertname"]
        for name, value in (*alert["labels"].items(), *alert["annotations"].items()):
            assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name)
            assert isinstance(value, str)
            assert value
        assert datetime.fromisoformat(alert["startsAt"]).tzinfo


def door(check: Callable[[Json], None], got: list[Json], status: int) -> Any:
    """A server that answers 400 to what the receiver's documentation does not allow."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        try:
            assert request.content_type == "application/json"
            check(body)
        except (AssertionError, KeyError, TypeError, ValueError) as why:
            return web.Response(status=400, text=repr(why))
        got.append((request.path, body))
        return web.Response(status=status)

    return answer


WORST = replace(long_history(rolled_back(), 500), name="n" * 253, check="c" * 40, message=NASTY)
FORMS = [("Teams", teams, 202), ("Discord", discord, 204), ("Alertmanager", alertmanager, 200)]


@pytest.mark.parametrize(("form", "check", "status"), FORMS)
async def test_a_receiver_takes_an_everyday_and_the_worst_message(
    form: str, check: Callable[[Json], None], status: int
) -> None:
    got: list[Json] = []

    async def secrets(_namespace: str, _name: str) -> dict[str, bytes]:
        return {"url": url.encode()}

    async with serving(door(check, got, status)) as server, posting() as post:
        url = f"http://127.0.0.1:{server.port}/api/v2/alerts?sig=secret"
        asked = wire.Alert(webhook=wire.Webhook(**_asked(form, url)))
        alert: Alert = policies._alert(asked)
        alerts = Alerts(Sender(post, secrets, lambda: message().at))
        everyday = replace(rolled_back(alert), outbox=(message(0),))
        policy = replace(WORST.plan.policy, alerts=(alert,))
        worst = replace(WORST, plan=replace(WORST.plan, policy=policy), outbox=(message(1, sentence=NASTY),))
        for run in (everyday, worst):
            alerts.offer(run)
        async with asyncio.timeout(5):
            while len(got) < 2:  # noqa: ASYNC110 - as a pass does
                await asyncio.sleep(0.01)
        await alerts.close()
    assert {path for path, _ in got} == {"/api/v2/alerts"}


def _asked(form: str, url: str) -> dict[str, Any]:
    secret = wire.Secret(name="alerts", key="url")
    return {"format": form, **({"url": url} if form == "Alertmanager" else {"secret_ref": secret})}


def test_a_door_that_checks_does_refuse() -> None:
    for _, check, _ in FORMS:
        with pytest.raises((AssertionError, KeyError, TypeError)):
            check(json.loads(letters.cloud_event(rolled_back(SLACK), message())))


def test_nobody_is_mentioned_and_nothing_is_a_link() -> None:
    nasty = message(sentence=NASTY)
    embed = json.loads(cards.discord(rolled_back(SLACK), nasty))["embeds"][0]
    assert "\\[here\\]\\(https" in embed["description"]
    assert "\\*\\*now" in embed["description"]
    card = json.loads(cards.teams(rolled_back(SLACK), nasty))["attachments"][0]["content"]
    assert "TextBlock" not in {one["type"] for one in card["body"]}  # it is what reads Markdown


@pytest.mark.parametrize(
    ("reason", "title", "severity"),
    [
        (Reason.CANARY_NOT_ANSWERING, "Rolled back", "critical"),
        (Reason.LEADER_LOST, "Rolled back", "critical"),
        (Reason.ABORTED, "Aborted", "warning"),
        (Reason.STABLE_CHANGED, "Stable changed", "warning"),
        (Reason.SUPERSEDED, "Superseded", "info"),
    ],
)
def test_what_ended_for_nothing_that_was_found_wakes_nobody(
    reason: Reason, title: str, severity: str
) -> None:
    """An edit of a policy before any traffic was "Rolled back" to whoever is on call."""
    one = replace(message(), reason=reason)
    (alert,) = json.loads(cards.alertmanager(rolled_back(SLACK), one))
    assert alert["labels"]["severity"] == severity
    assert json.loads(letters.slack(rolled_back(SLACK), one))["text"].startswith(
        f"{title}: model-canary in lab"
    )
    assert json.loads(letters.cloud_event(rolled_back(SLACK), one))["data"]["outcome"] == "RolledBack"


def test_an_alert_says_what_alertmanager_routes_by() -> None:
    (alert,) = json.loads(cards.alertmanager(rolled_back(SLACK), message()))
    assert alert["labels"] == {
        "alertname": "CanaryRolledBack",
        "severity": "critical",
        "namespace": "lab",
        "workload": "model-canary",
        "run": "model-canary-6f7-1",
        "reason": "CheckFailed",
        "check": "latency-p95",
    }
