import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from controller import alerts
from controller.alerts import Alerts
from controller.kube import ApiError
from controller.model import Alert, Reason, Run, Tell
from controller.posting import Sender, Undelivered, check_url
from controller.receivers import FORBIDDEN
from scenarios.virtual.loop import VirtualLoop
from tests.adapters.letterbox import SLACK, SLACK_URL, WEBHOOK, Receivers, message, rolled_back

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VALUES = {"url": SLACK_URL.encode() + b"\n", "secret": KEY.encode()}


@dataclass
class Post:
    """One story: alerts on their way to receivers, in virtual time."""

    alerts: Alerts
    receivers: Receivers
    clock: Callable[[], datetime]
    said: list[tuple[float, str, Tell]]  # when, of which run, what

    def at(self) -> float:
        return asyncio.get_running_loop().time()

    async def until_delivered(self, run: Run) -> float:
        """Seconds until the run's whole outbox was delivered."""
        self.alerts.offer(run)
        while self.alerts.delivered(run.name) < {one.id for one in run.outbox}:  # noqa: ASYNC110 - as a pass does
            await asyncio.sleep(0.1)
        return self.at()


def story(
    tell: Callable[[Post], Awaitable[None]],
    *,
    scripts: Mapping[str, list] | None = None,
    secrets: Mapping[str, bytes] | Exception = VALUES,
    post: Callable[..., Awaitable] | None = None,
) -> None:
    """Runs `tell` to its end in virtual time; nothing of ours is left running."""

    async def read(namespace: str, name: str) -> Mapping[str, bytes]:
        assert (namespace, name) == ("lab", "alerts")
        if isinstance(secrets, Exception):
            raise secrets
        return secrets

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        receivers = Receivers({host: list(script) for host, script in (scripts or {}).items()})

        def clock() -> datetime:
            return message().at + timedelta(seconds=loop.time())

        said: list[tuple[float, str, Tell]] = []

        async def say(run: Run, what: Tell) -> None:
            said.append((loop.time(), run.name, what))
            raise ApiError(403, "Forbidden", "Events may not be written either")

        ours = Alerts(Sender(post or receivers, read, clock), say=say)
        await tell(Post(ours, receivers, clock, said))
        await ours.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(whole())


def test_slack_gets_the_message_at_the_url_in_the_secret() -> None:
    async def tell(post: Post) -> None:
        assert await post.until_delivered(rolled_back(SLACK, outbox=(message(),))) < 1
        (delivery,) = post.receivers.got
        assert delivery.url == SLACK_URL
        assert json.loads(delivery.body)["blocks"][0]["type"] == "header"

    story(tell)


def test_a_webhook_s_signature_is_that_of_the_standard() -> None:
    async def tell(post: Post) -> None:
        await post.until_delivered(rolled_back(WEBHOOK, outbox=(message(),)))
        (delivery,) = post.receivers.got
        assert delivery.headers["content-type"].startswith("application/cloudevents+json")
        assert delivery.headers["webhook-id"] == message().id
        stamp = int(delivery.headers["webhook-timestamp"])
        assert stamp == int(message().at.timestamp())
        signature = Webhook(KEY).sign(message().id, message().at, delivery.body.decode())
        assert delivery.headers["webhook-signature"] == signature

    story(tell)


def test_a_webhook_without_a_secret_is_told_unsigned() -> None:
    async def tell(post: Post) -> None:
        alert = Alert(kind="webhook", url="http://receiver.lab/")
        await post.until_delivered(rolled_back(alert, outbox=(message(),)))
        assert "webhook-signature" not in post.receivers.got[0].headers

    story(tell)


def test_offering_again_and_again_delivers_once() -> None:
    async def tell(post: Post) -> None:
        run = rolled_back(SLACK, outbox=(message(0), message(1)))
        for _ in range(50):
            post.alerts.offer(run)
            await asyncio.sleep(1)
        assert len(post.receivers.got) == 2

    story(tell)


def test_what_left_the_outbox_is_forgotten_and_another_namespace_s_run_is_not() -> None:
    async def tell(post: Post) -> None:
        run = rolled_back(SLACK, outbox=(message(),))
        await post.until_delivered(run)
        post.alerts._delivered[run.name].add("other/model-canary-6f7-1/1/CheckFailed/0")
        post.alerts.offer(rolled_back(SLACK))
        assert post.alerts.delivered(run.name) == {"other/model-canary-6f7-1/1/CheckFailed/0"}

    story(tell)


def test_a_failing_receiver_is_tried_again_under_the_same_id_with_the_same_body() -> None:
    async def tell(post: Post) -> None:
        await post.until_delivered(rolled_back(WEBHOOK, outbox=(message(),)))
        deliveries = post.receivers.got
        assert len(deliveries) == 4
        assert len({delivery.body for delivery in deliveries}) == 1
        assert len({delivery.headers["webhook-id"] for delivery in deliveries}) == 1
        assert deliveries[0].headers["webhook-timestamp"] < deliveries[-1].headers["webhook-timestamp"]

    story(tell, scripts={"receiver": [500, OSError("refused"), 302, 204]})


@pytest.mark.parametrize("header", ["Retry-After", "retry-after"])
def test_retry_after_is_honoured(header: str) -> None:
    async def tell(post: Post) -> None:
        assert 120 <= await post.until_delivered(rolled_back(SLACK, outbox=(message(),))) < 125
        assert len(post.receivers.got) == 2

    story(tell, scripts={"slack": [(429, {header: "120"}), 200]})


def test_retry_after_holds_for_every_letter_to_that_receiver() -> None:
    async def tell(post: Post) -> None:
        post.alerts.offer(rolled_back(SLACK, outbox=(message(0),)))
        await asyncio.sleep(5)
        assert await post.until_delivered(rolled_back(SLACK, outbox=(message(0), message(1)))) >= 120
        assert len(post.receivers.got) == 3

    story(tell, scripts={"slack": [(429, {"Retry-After": "120"}), 200]})


def test_a_hanging_receiver_delays_nobody_else() -> None:
    async def tell(post: Post) -> None:
        run = rolled_back(SLACK, WEBHOOK, outbox=(message(0, alert=0), message(1, alert=1)))
        before = post.at()
        post.alerts.offer(run)
        assert post.at() == before
        await asyncio.sleep(0.5)
        assert post.alerts.delivered(run.name) == {message(1).id}
        await asyncio.sleep(60)
        assert post.alerts.delivered(run.name) == {message(1).id}

    async def hangs_on_slack(url: str, body: bytes, *, headers: Mapping[str, str]) -> tuple[int, Mapping]:
        del body, headers
        if "slack" in url:
            await asyncio.Event().wait()
        return 200, {}

    story(tell, post=hangs_on_slack)


def test_a_letter_overtakes_one_that_waits_for_its_next_try() -> None:
    async def tell(post: Post) -> None:
        post.alerts.offer(rolled_back(WEBHOOK, outbox=(message(0),)))
        await asyncio.sleep(200)  # tried some eight times by now: the next one is minutes away
        run = rolled_back(WEBHOOK, outbox=(message(0), message(1)))
        post.alerts.offer(run)
        await asyncio.sleep(0.1)
        assert post.alerts.delivered(run.name) == {message(1).id}

    story(tell, scripts={"receiver": [*[500] * 8, 200]})


def test_a_receiver_that_stays_away_is_given_up_after_a_day_and_a_warning_says_so() -> None:
    async def tell(post: Post) -> None:
        with capture_logs() as logs:
            took = await post.until_delivered(rolled_back(SLACK, outbox=(message(),)))
        assert timedelta(hours=24) <= timedelta(seconds=took) < timedelta(hours=24, minutes=8)
        assert [line["event"] for line in logs] == ["alert_delayed", "alert_given_up"]
        assert 250 < len(post.receivers.got) < 400

    story(tell, scripts={"slack": [503]})


def test_after_three_failed_attempts_an_event_says_why_once() -> None:
    """Whoever owns the model cannot read the controller's log."""

    async def tell(post: Post) -> None:
        run = rolled_back(WEBHOOK, SLACK, outbox=(message(alert=1),))
        post.alerts.offer(run)
        await asyncio.sleep(1)
        assert not post.said
        assert await post.until_delivered(run) > 3600
        ((at, of, what),) = post.said
        assert (2 <= at <= 6, of, what.reason, what.outcome) == (True, run.name, Reason.ALERT_DELAYED, None)
        assert what.message == (
            "alerts[1] (slack) has not been told of RolledBack and is tried again for a day:"
            " the receiver answered 503"
        )

    story(tell, scripts={"slack": [*[503] * 20, 200]})


def test_a_receiver_that_says_gone_is_given_up_at_once_and_an_event_says_so() -> None:
    async def tell(post: Post) -> None:
        assert await post.until_delivered(rolled_back(WEBHOOK, outbox=(message(),))) < 1
        ((_, _, what),) = post.said
        assert what.message == (
            "alerts[0] (webhook) is not told of RolledBack, and not tried any more:"
            " the receiver is gone (410); take it out of the policy"
        )

    story(tell, scripts={"receiver": [410]})


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        (PermissionError("403"), "let the controller get it with a Role there"),
        (ApiError(404, "NotFound", "no"), "there is no such Secret in lab; create it"),
        ({"other": b""}, "does not exist"),
        ({"url": b"ftp://hooks.example/x"}, "not http or https"),
        ({"url": b"https://me:pass@hooks.example/x"}, "user name"),
        ({"url": b"\xff\xfe"}, "not http or https"),
        ({"url": b"https://[::1/"}, "not http or https"),
        ({"url": b"https://hooks.example/a b"}, "not http or https"),
    ],
)
def test_a_bad_secret_is_named_and_never_quoted(secrets: Mapping | Exception, says: str) -> None:
    async def tell(post: Post) -> None:
        with capture_logs() as logs:
            post.alerts.offer(rolled_back(SLACK, outbox=(message(),)))
            await asyncio.sleep(5)
        assert not post.receivers.got
        assert says in logs[0]["why"]
        assert "hooks.example" not in str(logs)

    story(tell, secrets=secrets)


def test_a_signing_secret_that_is_not_base64_stops_nothing_but_its_own_letters() -> None:
    async def tell(post: Post) -> None:
        with capture_logs() as logs:
            post.alerts.offer(rolled_back(WEBHOOK, outbox=(message(),)))
            await asyncio.sleep(5)
        assert "Secret lab/alerts, key secret, is not base64" in logs[0]["why"]
        assert "hunter2!" not in str(logs)

    story(tell, secrets={"secret": b"hunter2!"})


def test_an_error_that_quotes_the_url_does_not_reach_the_log() -> None:
    async def tell(post: Post) -> None:
        with capture_logs() as logs:
            post.alerts.offer(rolled_back(SLACK, outbox=(message(),)))
            await asyncio.sleep(5)
        assert "very-secret" not in str(logs)
        assert "OSError" in logs[0]["why"]

    story(tell, scripts={"slack": [OSError(f"cannot connect to {SLACK_URL}")]})


def test_where_a_letter_may_not_go_is_said_without_the_url() -> None:
    async def tell(post: Post) -> None:
        with capture_logs() as logs:
            post.alerts.offer(rolled_back(SLACK, outbox=(message(),)))
            await asyncio.sleep(5)
        assert "not a public one" in logs[0]["why"]
        assert "--receivers" in logs[0]["why"]
        assert "very-secret" not in str(logs)

    story(tell, scripts={"slack": [PermissionError(FORBIDDEN)]})


def test_a_full_desk_leaves_the_rest_in_the_outbox_and_takes_it_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alerts, "QUEUE_LIMIT", 2)

    async def tell(post: Post) -> None:
        run = rolled_back(SLACK, outbox=tuple(message(number) for number in range(5)))
        for _ in range(10):
            post.alerts.offer(run)
            await asyncio.sleep(1)
        assert len(post.alerts.delivered(run.name)) == 5

    story(tell)


@pytest.mark.parametrize("alert", [1, -1])
def test_a_message_for_a_receiver_that_the_policy_does_not_have_keeps_no_other_back(alert: int) -> None:
    """It stood in a status that somebody had edited: what came after it was told to nobody, for ever."""

    async def tell(post: Post) -> None:
        run = rolled_back(SLACK, outbox=(message(0, alert=alert), message(1)))
        await post.until_delivered(run)
        assert len(post.receivers.got) == 1

    story(tell)


def test_closing_ends_a_hanging_delivery_and_a_successor_delivers_it() -> None:
    async def hangs(url: str, body: bytes, *, headers: Mapping[str, str]) -> tuple[int, Mapping]:
        del url, body, headers
        await asyncio.Event().wait()
        return 200, {}

    async def tell(post: Post) -> None:
        run = rolled_back(SLACK, outbox=(message(),))
        post.alerts.offer(run)
        await asyncio.sleep(1)
        await post.alerts.close()
        assert not post.alerts.delivered(run.name)
        successor = Alerts(replace(post.alerts._sender, post=post.receivers))
        assert await Post(successor, post.receivers, post.clock, post.said).until_delivered(run) < 2

    story(tell, post=hangs)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("7", 7),
        ("-3", 0),
        ("soon", 0),
        ("999999", 3600),
        ("Sun, 01 Mar 2026 12:02:15 GMT", 59.8),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float) -> None:
    assert alerts.retry_after(value, now=message().at) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "url", ["https://hooks.example/x", "http://receiver.lab:8080/", "http://[::1]:80/a?b=c"]
)
def test_an_http_url_with_a_host_is_fine(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url", ["", "hooks.example", "file:///etc/passwd", "https:///x", "http://a:0x/", "http://a\n/"]
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(Undelivered):
        check_url(url)


def test_each_attempt_is_counted_by_kind_of_receiver() -> None:
    counted: Counter[tuple[str, str]] = Counter()

    async def tell(post: Post) -> None:
        post.alerts._heed = lambda one: counted.update([(one.kind, one.result)])
        await post.until_delivered(
            rolled_back(SLACK, WEBHOOK, outbox=(message(0, alert=0), message(1, alert=1)))
        )

    story(tell, scripts={"slack": [500, OSError("refused"), 200], "receiver": [500, 410]})
    assert counted == {
        ("slack", "retried"): 2,
        ("slack", "delivered"): 1,
        ("webhook", "retried"): 1,
        ("webhook", "given_up"): 1,
    }
