"""Webhooks that gates ask, in virtual time."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from controller import gating
from controller.gates import EVERY, PATIENCE, Gates
from controller.model import Before, Gate, Run, Stage
from controller.posting import Sender
from scenarios.virtual.loop import VirtualLoop
from tests.adapters.letterbox import SLACK, Receivers, message, rolled_back

URL = "https://change.example/ask?token=hush"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNED = Gate(before=Before.RAISE, url=URL, secret="hooks", key="secret")
OPEN = Gate(before=Before.RAISE, url=URL)


@dataclass
class Story:
    """Gates before scripted webhooks."""

    gates: Gates
    webhooks: Receivers
    news: list[str] = field(default_factory=list)

    def said(self, run: Run) -> Mapping[int, str]:
        return self.gates.read(f"{run.plan.namespace}/{run.name}")


def standing(*asked: Gate) -> Run:
    """A run at step 1 of 2 whose raise waits for these gates."""
    run = rolled_back(SLACK)
    policy = replace(run.plan.policy, gates=asked or (OPEN,), steps=(5, 50))
    plan = replace(run.plan, policy=policy)
    return replace(run, plan=plan, stage=Stage.STEPPING, step=0, weight=5, ended=None, gated=True)


def story(tell: Callable[[Story], Awaitable[None]], *script: object, values: object = None) -> None:
    """Runs `tell` against a webhook that answers as `script` says, then 200."""

    async def read(namespace: str, name: str) -> Mapping[str, bytes]:
        assert (namespace, name) == ("lab", "hooks")
        return {"secret": KEY.encode()} if values is None else values  # type: ignore[return-value]

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        webhooks = Receivers({"change.example": [*script, 200], "slow.example": [503]})
        sender = Sender(webhooks, read, lambda: message().at + timedelta(seconds=loop.time()))
        one = Story(Gates(sender), webhooks)
        one.gates.on_news = one.news.append
        await tell(one)
        await one.gates.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(whole())


def test_a_2xx_opens_the_gate_and_the_run_hears_of_it() -> None:
    async def tell(one: Story) -> None:
        run = standing()
        one.gates.watch(run)
        assert one.said(run) == {}
        await asyncio.sleep(1)
        assert one.said(run) == {0: gating.OPEN}
        assert one.news == [f"lab/{run.name}"]
        await asyncio.sleep(10 * EVERY)
        assert len(one.webhooks.got) == 1  # what is open is not asked again

    story(tell, 204)


def test_the_question_is_a_signed_cloud_event_that_says_which_move_is_asked_for() -> None:
    async def tell(one: Story) -> None:
        run = standing(SIGNED)
        one.gates.watch(run)
        await asyncio.sleep(1)
        (got,) = one.webhooks.got
        body = json.loads(got.body)
        assert (body["type"], body["subject"]) == ("dev.serin.gate.raise", run.name)
        assert body["id"] == got.headers["webhook-id"]
        assert (body["data"]["before"], body["data"]["weight"], body["data"]["nextWeight"]) == (
            "Raise",
            5,
            50,
        )
        signature = Webhook(KEY).sign(body["id"], message().at, got.body.decode())
        assert got.headers["webhook-signature"] == signature

    story(tell)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (403, "keeps it shut (answered 403)"),
        (302, "keeps it shut (answered 302)"),
        (TimeoutError(), f"did not answer within {PATIENCE:g} s"),
        (
            ConnectionRefusedError(),
            "cannot be asked: the receiver cannot be reached (ConnectionRefusedError)",
        ),
    ],
)
def test_anything_else_leaves_it_shut_with_the_reason_and_is_asked_again(answer: object, why: str) -> None:
    async def tell(one: Story) -> None:
        run = standing()
        with capture_logs() as lines:
            one.gates.watch(run)
            await asyncio.sleep(EVERY + 1)
            assert one.said(run) == {0: why}
            await asyncio.sleep(3 * EVERY)
        assert one.said(run) == {0: gating.OPEN}
        assert [line["said"] for line in lines] == [why, "opened"]
        assert "hush" not in repr(lines)

    story(tell, answer, answer)


def test_a_key_that_is_missing_leaves_it_shut_and_names_the_secret() -> None:
    async def tell(one: Story) -> None:
        run = standing(SIGNED)
        one.gates.watch(run)
        await asyncio.sleep(1)
        assert one.said(run)[0].startswith("cannot be asked: Secret lab/hooks, key secret, does not exist")
        assert one.webhooks.got == []

    story(tell, values={})


def test_each_gate_is_asked_for_itself() -> None:
    async def tell(one: Story) -> None:
        run = standing(Gate(before=Before.RAISE, url="https://slow.example/"), OPEN)
        one.gates.watch(run)
        await asyncio.sleep(3 * EVERY + 1)
        assert one.said(run) == {0: "keeps it shut (answered 503)", 1: gating.OPEN}
        assert [got.url for got in one.webhooks.got].count(OPEN.url) == 1

    story(tell)


def test_an_answer_to_one_move_is_none_to_the_next() -> None:
    async def tell(one: Story) -> None:
        run = standing()
        one.gates.watch(run)
        await asyncio.sleep(1)
        assert one.said(run) == {0: gating.OPEN}
        one.gates.watch(replace(run, gated=False))
        assert one.said(run) == {}
        later = replace(run, step=1)  # before the promotion, which this gate does not guard
        one.gates.watch(later)
        await asyncio.sleep(1)
        assert one.said(later) == {}
        assert len(one.webhooks.got) == 1

    story(tell)


def test_watching_again_asks_no_sooner() -> None:
    async def tell(one: Story) -> None:
        run = standing()
        for _ in range(30):  # a pass a second
            one.gates.watch(run)
            await asyncio.sleep(1)
        assert len(one.webhooks.got) == 3

    story(tell, 503, 503, 503)


def test_nobody_is_asked_for_a_run_that_is_forgotten() -> None:
    async def tell(one: Story) -> None:
        run = standing()
        one.gates.watch(run)
        one.gates.forget(f"lab/{run.name}")
        await asyncio.sleep(60)
        assert (one.webhooks.got, one.said(run)) == ([], {})

    story(tell)
