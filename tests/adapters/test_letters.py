import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from controller import letters, neighbours, record, report
from controller.cluster import Cluster
from controller.model import Reason
from controller.page import views
from scenarios.fates import said
from tests.adapters.letterbox import SLACK, WEBHOOK, long_history, message, rolled_back

SNAPSHOT = Path(__file__).parent / "snapshots" / "slack-rolled-back.json"
KEYS = ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "bm90LXRoZS1zYW1lLWtleS1hcy10aGUtZmlyc3Q=")


def blocks_of(body: bytes) -> list[dict]:
    return json.loads(body)["blocks"]


def texts(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["text"]] if isinstance(value.get("text"), str) else []
        return own + [text for item in value.values() for text in texts(item)]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def test_a_rollback_in_slack_looks_as_the_snapshot_does() -> None:
    body = json.loads(letters.slack(rolled_back(SLACK), message()))
    assert body == json.loads(SNAPSHOT.read_text()), (
        f"if this is meant, write it to {SNAPSHOT.name}:\n{json.dumps(body, indent=2, ensure_ascii=False)}"
    )


def test_slack_s_limits_hold_for_the_longest_message() -> None:
    run = long_history(rolled_back(SLACK), 500)
    run = replace(run, name="n" * 253, check="c" * 40, plan=replace(run.plan, canary="d" * 253))
    body = letters.slack(run, message(sentence="<&>" * 4000))
    assert len(blocks_of(body)) <= 50
    assert all(len(text) <= 3000 for text in texts(json.loads(body)))
    assert len(blocks_of(body)[0]["text"]["text"]) <= 150
    assert all(len(field["text"]) <= 2000 for field in blocks_of(body)[2]["fields"])
    assert len(blocks_of(body)[2]["fields"]) <= 10


def test_a_cut_text_does_not_end_inside_an_escape() -> None:
    for length in range(2980, 3010):
        text = blocks_of(letters.slack(rolled_back(SLACK), message(sentence="x" * length + "<>")))[1]["text"][
            "text"
        ]
        assert "&" not in text.replace("&lt;", "").replace("&gt;", "")


def test_a_message_cannot_mention_a_channel_or_hide_a_link() -> None:
    body = letters.slack(rolled_back(SLACK), message(sentence="aborted: <!channel> <https://x|y> & co"))
    assert "<" not in "".join(texts(json.loads(body)))
    assert "&lt;!channel&gt;" in blocks_of(body)[1]["text"]["text"]


def test_a_run_that_never_had_traffic_has_no_history_block() -> None:
    body = letters.slack(replace(rolled_back(SLACK), weights=()), message())
    assert [block["type"] for block in blocks_of(body)] == ["header", "section", "section", "context"]


def test_the_history_shows_the_newest_twenty_changes_and_counts_the_rest() -> None:
    lines = letters.history(long_history(rolled_back(SLACK), 45).weights).splitlines()
    assert len(lines) == 21
    assert lines[0] == "(25 earlier)"


def test_a_cloud_event_says_who_what_and_why() -> None:
    event = json.loads(letters.cloud_event(rolled_back(WEBHOOK), message()))
    assert event["specversion"] == "1.0"
    assert event["id"] == message().id
    assert event["type"] == "dev.serin.run.rolledback"
    assert event["source"] == "/apis/serin.dev/v1alpha1/namespaces/lab/canaryruns/model-canary-6f7-1"
    assert event["time"] == "2026-03-01T12:01:15.200Z"
    assert event["data"]["reason"] == "CheckFailed"
    assert event["data"]["severity"] == "critical"
    assert event["data"]["check"] == "latency-p95"
    assert [change["weight"] for change in event["data"]["weights"]] == [5, 10, 0]


@pytest.mark.parametrize("prefix", ["", "whsec_"])
def test_every_key_of_a_rotation_verifies_by_the_standard_s_own_library(prefix: str) -> None:
    body = letters.cloud_event(rolled_back(WEBHOOK), message())
    secrets = letters.signing_secrets(" \n".join(prefix + key for key in KEYS).encode())
    headers = letters.signed(message().id, body, secrets=secrets, at=datetime.now(tz=UTC))
    for key in KEYS:
        assert Webhook(prefix + key).verify(body, dict(headers)) == json.loads(body)


@pytest.mark.parametrize("value", [b"", b"  ", b"not base64!", b"whsec_", b"\xff\xfe"])
def test_a_secret_that_is_none_is_refused_without_being_quoted(value: bytes) -> None:
    with pytest.raises(letters.BadSecret, match="openssl rand") as refused:
        letters.signing_secrets(value)
    assert "not base64!" not in str(refused.value)


def test_without_a_secret_there_is_an_id_and_no_signature() -> None:
    headers = letters.signed("a", b"{}", secrets=(), at=datetime(2026, 1, 1, tzinfo=UTC))
    assert headers == {"webhook-id": "a", "webhook-timestamp": "1767225600"}


@pytest.mark.parametrize("reason", list(Reason))
def test_alerts_explain_page_and_witness_agree_on_what_says_nothing_against_a_version(reason: Reason) -> None:
    """Each had a list of its own: a reason that was added to one would have been missing in the others."""
    told = letters.title_of(replace(message("RolledBack"), reason=reason))
    run = {"spec": {"plan": {}}, "status": {"phase": "Failed", "reason": reason.value}}
    unjudged = reason in record.ENDINGS
    assert (told != "Rolled back") == unjudged
    assert (report.standing(run) != "rolled back") == unjudged
    assert (views.answer(run).tone == "ended") == unjudged
    if reason is not Reason.PROMOTED:
        assert said.title_of(reason) == told


def test_runs_are_in_one_order_for_the_controller_and_for_people() -> None:
    """Of two in one second the one that gave way came first; attempts are numbered, and 10 is after 9."""
    made = {"creationTimestamp": "2026-11-27T14:00:00Z", "namespace": "models"}
    plan = {"spec": {"plan": {"canary": "model-canary"}}}
    ended = {"phase": "Failed", "state": {"stage": "Ended"}}
    runs = [
        plan | {"metadata": made | {"name": f"model-canary-5b-{number}"}, "status": status}
        for number, status in ((11, ended | {"reason": "Superseded"}), (9, ended), (10, ended), (2, {}))
    ]
    cluster = Cluster()
    cluster.listed("canaryruns", [runs[2], runs[0], runs[3], runs[1]])
    found = neighbours.runs_of(cluster, "models", "model-canary")
    assert found == runs
    assert found == sorted([runs[1], runs[3], runs[0], runs[2]], key=record.order)
