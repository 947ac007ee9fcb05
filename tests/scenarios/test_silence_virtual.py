"""Canaries of which little is heard: pages do not come, stand still, or tell of requests that take long."""

import logging
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import structlog

from controller.model import Reason
from controller.ports import Outside
from scenarios import story as stories
from scenarios.play import Theatre, silent
from scenarios.result import Result
from scenarios.virtual.loop import run_virtual
from scenarios.virtual.pods import Life

STORY = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {{name: silence}}
spec:
  seed: 7
  duration: {duration}
  traffic: {{requestsPerSecond: {rps}}}
  history: 60s
  stable:
    replicas: 3
    latency: {{distribution: lognormal, median: {median}, p95: {p95}}}
    errorRate: 0.1%
    predictions: {{distribution: beta, a: 2, b: 5}}
  canary: {{replicas: 2}}
  faults: [{faults}]
  policy: {{steps: [{steps}], warmUp: {warm}, minStep: {step}, preflight: 'Off'{policy}}}
  expect: {{outcome: RolledBack}}
"""
USUAL = {
    "duration": "150s",
    "rps": 100,
    "median": "20ms",
    "p95": "60ms",
    "faults": "",
    "steps": "10",
    "step": "15s",
    "warm": "5s",
    "policy": "",
}
ONE_FAILS = "{at: 3s, arm: canary, pods: one, errorRate: 100%}"
Page = Callable[[Theatre, Life, bytes], bytes]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


def played(page: Page | None = None, **said: object) -> Result:
    """How the story ends whose pods' pages are what `page` makes of them."""

    class Stage(Theatre):
        def outside(self, replica: str) -> Outside:
            usual = super().outside(replica)

            async def fetch(url: str, *, accept: str, limit: int) -> tuple[str, bytes]:
                kind, text = await usual.fetch(url, accept=accept, limit=limit)
                life = next(one for one in self.pods.lives.values() if f"//{one.ip}:" in url)
                return kind, text if page is None else page(self, life, text)

            return replace(usual, fetch=fetch)

    async def through() -> Result:
        stage = Stage(stories.loads(STORY.format(**{**USUAL, **said}), file="silence.yaml"), report=silent)
        await stage.through()
        return stage.result

    return run_virtual(through())


def struck(stage: Theatre, life: Life) -> bool:
    """Whether it is the canary pod that a fault of one pod strikes."""
    return life.pod.name == min(name for name, one in stage.pods.lives.items() if one.pod.arm == "canary")


def refused(_stage: Theatre, _life: Life, _page: bytes) -> bytes:
    raise ConnectionRefusedError("nobody listens")


def of_the_struck(what: Page) -> Page:
    return lambda stage, life, page: what(stage, life, page) if struck(stage, life) else page


@pytest.mark.parametrize("wish", ["", ", onInconclusive: Proceed, stepTimeout: 60s"])
def test_a_pod_that_fails_and_is_never_heard_keeps_its_traffic_and_raises_nothing_where_the_policy_holds(
    wish: str,
) -> None:
    found = played(of_the_struck(refused), faults=ONE_FAILS, duration="400s", policy=wish)
    assert (found.outcome, [weight for _, weight in found.weights]) == ("Held", [0, 10])
    assert "shows no fresh metrics page" in found.evidence["message"]
    assert found.seconds_to_verdict is not None
    assert found.seconds_to_verdict < 12  # people are told so soon


def test_a_pod_that_fails_and_is_never_heard_loses_its_traffic_where_the_policy_rolls_back() -> None:
    policy = ", onNoData: RollBack, noDataTimeout: 30s"
    found = played(of_the_struck(refused), faults=ONE_FAILS, policy=policy)
    assert (found.outcome, found.reason) == ("RolledBack", "NoData")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < 35


def test_a_pod_whose_page_stands_still_is_rolled_back() -> None:
    first: dict[str, bytes] = {}
    frozen = of_the_struck(lambda _stage, life, page: first.setdefault(life.pod.name, page))
    found = played(frozen, faults=ONE_FAILS)
    assert (found.outcome, found.reason) == ("RolledBack", "CanaryNotAnswering")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < 15


def test_a_pod_of_two_that_loses_every_request_is_rolled_back() -> None:
    found = played(faults="{at: 3s, arm: canary, pods: one, blackhole: true}")
    assert (found.outcome, found.reason) == ("RolledBack", "CanaryNotAnswering")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < 15


def anothers(stage: Theatre, life: Life, page: bytes) -> bytes:
    """From 20 s on the canary's addresses are stable's, and nobody has told us."""
    if life.pod.arm == "stable" or stage.now < 20:
        return page
    stables = (one.pod for one in stage.pods.lives.values() if one.pod.arm == "stable")
    return next(stables).page.text().encode()


def anothers_fresh(stage: Theatre, life: Life, page: bytes) -> bytes:
    """The same of a stable pod that has served nothing in its first two seconds."""
    page = anothers(stage, life, page)
    fresh = life.pod.arm == "canary" and 0 <= stage.now - 20 < 2
    lines = page.splitlines(keepends=True)
    return b"".join(line for line in lines if not (fresh and line.startswith(b"istio_request")))


@pytest.mark.parametrize("page", [anothers, anothers_fresh])
def test_a_canary_whose_address_a_stable_pod_has_now_is_not_promoted_by_that_ones_page(page: Page) -> None:
    dead = "{at: 20s, arm: canary, blackhole: true}"
    found = played(page, faults=dead, steps="40, 50")  # at 40 % pods of both arms have equal loads
    assert (found.outcome, found.reason) == ("RolledBack", "NoData")
    assert "its page is one of model now, not of model-canary" in found.evidence["message"]


def of_one_of(workers: int) -> Page:
    """Each scrape is answered by another of the model server's processes, which counts for itself."""
    chance = random.Random(workers)
    shares = [(1 + 0.1 * worker) / workers / 1.1 for worker in range(workers)]

    def page(_stage: Theatre, life: Life, page: bytes) -> bytes:
        if life.pod.arm == "stable":
            return page
        share = chance.choice(shares)
        lines = (line.rpartition(b" ") for line in page.splitlines())
        return b"".join(
            before + b" %d\n" % (float(n) * share)
            if before.startswith(b"model_")
            else before + between + n + b"\n"
            for before, between, n in lines
        )

    return page


@pytest.mark.parametrize("workers", [2, 4])
def test_a_canary_whose_page_is_of_one_of_several_processes_is_held_and_it_is_said_why(workers: int) -> None:
    found = played(of_one_of(workers))
    assert (found.outcome, found.reason) == ("Held", "NoData")
    assert "its counters fall again and again" in found.evidence["message"]
    assert found.seconds_to_verdict is not None
    assert found.seconds_to_verdict < 60


def without(series: bytes) -> Page:
    return lambda _stage, _life, page: b"".join(
        line for line in page.splitlines(keepends=True) if series not in line
    )


def frozen(series: bytes, *, since: float) -> Page:
    """The series stand still from then on, while requests are served."""
    kept: dict[str, bytes] = {}

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        if stage.now < since:
            return page
        there = b"".join(line for line in page.splitlines(keepends=True) if series in line)
        return without(series)(stage, life, page) + kept.setdefault(life.pod.name, there)

    return page


WRONG = "{at: 4s, arm: canary, pods: one, predictions: {distribution: beta, a: 9, b: 2}}"


@pytest.mark.parametrize("what", [without(b"model_prediction"), frozen(b"model_prediction", since=4)])
def test_a_canary_of_whose_pods_one_shows_no_predictions_is_not_promoted_by_the_others(what: Page) -> None:
    found = played(of_the_struck(what), faults=WRONG, duration="300s")
    assert (found.outcome, found.reason) == ("Held", "NoData")
    assert "serves requests and shows nothing of predictions" in found.evidence["message"]
    assert found.seconds_to_verdict is not None
    assert found.seconds_to_verdict < 20


def test_a_pod_that_shows_no_predictions_for_a_moment_keeps_nobody_from_promoting() -> None:
    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        return without(b"model_prediction")(stage, life, page) if 20 <= stage.now < 40 else page

    assert played(of_the_struck(page), duration="300s").outcome == "Promoted"


def test_at_a_request_in_two_seconds_pods_that_have_none_in_a_tick_keep_nobody_from_promoting() -> None:
    assert played(rps=5, steps="20", duration="1100s", policy=", stepTimeout: 20m").outcome == "Promoted"


def waiting(page: bytes) -> bytes:
    """The sidecar counts each request two buckets higher than it took: it waited for the model."""
    lines, last, counts = [], b"", [b"0", b"0"]
    for line in page.splitlines(keepends=True):
        before, _, rest = line.partition(b'le="')
        if b"istio_request_duration_milliseconds_bucket" not in before or b"+Inf" in rest:
            lines.append(line)
            continue
        start, _, count = line.rpartition(b" ")
        counts, last = [*(counts if before == last else [b"0\n", b"0\n"]), count], before
        lines.append(start + b" " + counts[-3])
    return b"".join(lines)


def unmeasured(arm: str, *, begins: float = 0.0, lasts: float = 1000.0) -> Page:
    """The model's own latencies are not on this arm's pages meanwhile, and its sidecars see requests wait."""

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        gone = life.pod.arm == arm and 0 <= stage.now - begins < lasts
        return waiting(without(b"model_inference")(stage, life, page) if gone else page)

    return page


OWN, SIDECARS = "model_inference_duration_seconds", "istio_request_duration_milliseconds"


@pytest.mark.parametrize(
    ("page", "of_canary", "of_stable"),
    [
        (unmeasured("canary"), SIDECARS, OWN),  # was rolled back as 4 times as slow
        (unmeasured("canary", begins=20), SIDECARS, OWN),
        (unmeasured("stable"), OWN, SIDECARS),
    ],
)
def test_arms_whose_latencies_are_not_measured_alike_are_not_compared_and_it_is_said_why(
    page: Page, of_canary: str, of_stable: str
) -> None:
    found = played(page, step="60s")
    assert (found.outcome, found.reason) == ("Held", "NoData")
    said = f"latency-p95: the canary is read from {of_canary}, stable from {of_stable}"
    assert said in found.evidence["message"]


def test_a_slow_canary_is_not_promoted_since_stable_is_measured_with_its_waiting() -> None:
    found = played(unmeasured("stable"), faults="{at: 0s, arm: canary, latencyFactor: 3}", duration="300s")
    assert (found.outcome, found.reason) == ("Held", "NoData")


def test_a_healthy_canary_whose_own_latencies_are_away_for_a_moment_is_promoted() -> None:
    assert played(unmeasured("canary", begins=20, lasts=10), duration="300s").outcome == "Promoted"


def test_a_slow_pod_whose_own_latencies_are_away_is_not_promoted_by_the_others() -> None:
    slow = "{at: 3s, arm: canary, pods: one, latencyFactor: 5}"
    found = played(of_the_struck(without(b"model_inference")), faults=slow, duration="300s")
    assert (found.outcome, found.reason) == ("Held", "NoData")
    assert f"is read from {SIDECARS}, stable from {OWN}" in found.evidence["message"]


BOUND = re.compile(rb'(model_prediction_value_bucket{.*le=")(0[.][^"]*)(")')


def other_buckets(_stage: Theatre, life: Life, page: bytes) -> bytes:
    """Of stable's bounds the canary has 1.0 alone."""
    return page if life.pod.arm == "stable" else BOUND.sub(rb"\g<1>\g<2>01\3", page)


def test_predictions_in_buckets_that_have_nothing_but_the_last_bound_in_common_are_not_promoted() -> None:
    found = played(
        other_buckets, faults="{at: 0s, arm: canary, predictions: {distribution: beta, a: 9, b: 2}}"
    )
    assert (found.outcome, found.reason) == ("Held", "NoData")
    assert "the two arms have only the bucket bounds 1 in common" in found.evidence["message"]


PAGES_GO = "{at: 80s, target: metrics, kind: outage}, {at: 81s, arm: canary, errorRate: 100%}"


def test_a_step_whose_pages_went_away_just_before_its_time_was_up_is_not_passed() -> None:
    found = played(faults=PAGES_GO, step="90s")
    assert [weight for _, weight in found.weights] == [0, 10]


def test_a_hand_off_sees_that_nothing_is_known_and_does_what_the_policy_says() -> None:
    policy = ", promotion: {mode: Handoff}, onNoData: RollBack, noDataTimeout: 30s"
    found = played(faults=PAGES_GO, policy=policy)
    assert (found.outcome, found.reason) == ("RolledBack", "NoData")
    assert found.weights[-1][0] < 120


def away(begins: float, lasts: float) -> Page:
    """The canary's pages are away meanwhile; its requests are answered."""

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        gone = life.pod.arm == "canary" and 0 <= stage.now - begins < lasts
        return refused(stage, life, page) if gone else page

    return page


@pytest.mark.parametrize("lasts", [4.0, 6.0, 8.0])
def test_a_healthy_canary_whose_pages_are_away_for_a_moment_is_promoted(lasts: float) -> None:
    assert played(away(40, lasts)).outcome == "Promoted"


def lacking(begins: float, lasts: float, what: tuple[bytes, ...]) -> Page:
    """Meanwhile the canary's pages come without these lines."""

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        if life.pod.arm == "stable" or not 0 <= stage.now - begins < lasts:
            return page
        return b"".join(line for line in page.splitlines(keepends=True) if not line.startswith(what))

    return page


@pytest.mark.parametrize("what", [b"", b"istio_ model_inference"])
@pytest.mark.parametrize("lasts", [4.0, 8.0])
def test_a_healthy_canary_whose_pages_lack_their_requests_for_a_moment_is_promoted(
    lasts: float, what: bytes
) -> None:
    assert played(lacking(40, lasts, tuple(what.split(b" ")))).outcome == "Promoted"


def test_a_canary_whose_pages_are_gone_for_good_loses_its_traffic_as_one_of_which_nothing_is_known() -> None:
    found = played(away(40, 1000))
    assert (found.outcome, found.reason) == ("RolledBack", "NoData")
    assert 48 < found.weights[-1][0] < 55
    assert "no metrics page of model-canary was read" in found.evidence["message"]


COUNTED = rb'istio_requests_total{.*response_code="200".*}|model_inference_duration_seconds_count\S*'
LIVED = re.compile(rb"^((?:" + COUNTED + rb") )(\d+)$", re.MULTILINE)


def lived(page: bytes, n: int = 100_000) -> bytes:
    """The page of a pod that had completed so many requests before."""
    return LIVED.sub(lambda found: found[1] + b"%d" % (int(found[2]) + n), page)


def less(page: bytes) -> bytes:
    return lived(page, 95_000)


def of_the_model(page: bytes) -> bytes:
    lines = lived(page, 130_000).splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"istio_"))


@pytest.mark.parametrize("odd", [less, of_the_model])
def test_one_odd_page_of_one_stable_pod_makes_no_silence_of_a_canary_that_gets_little(
    odd: Callable[[bytes], bytes],
) -> None:
    struck = []

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        if life.pod.arm == "canary":
            return page
        if stage.now > 30 and not struck:
            struck.append(life.pod.name)
            return odd(page)
        return lived(page)

    found = played(page, rps=10, steps="2", duration="80s", step="150s")
    assert (found.outcome, found.reason, struck != []) == ("Held", None, True)
    assert [weight for _, weight in found.weights] == [0, 2]


def late(seconds: float) -> Page:
    """Pages tell of the requests that came so long ago: the others are not answered yet."""
    kept: dict[str, list[tuple[float, bytes]]] = {}

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        pages = kept.setdefault(life.pod.name, [])
        pages.append((stage.now, page))
        return next((one for at, one in reversed(pages) if at <= stage.now - seconds), pages[0][1])

    return page


@pytest.mark.parametrize(("rps", "seconds", "lasts"), [(100, 2, 300), (100, 8, 300), (20, 30, 900)])
def test_a_healthy_canary_whose_requests_take_long_is_promoted(rps: int, seconds: int, lasts: int) -> None:
    found = played(
        late(seconds),
        rps=rps,
        median=f"{seconds}s",
        p95=f"{1200 * seconds}ms",
        steps="5, 50",
        duration=f"{lasts}s",
    )
    assert found.outcome == "Promoted"


def cached(seconds: float) -> Page:
    """Pages are worked out every so often only, each pod's at its own time."""
    kept: dict[str, tuple[int, bytes]] = {}

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        name, chance = life.pod.name, random.Random(life.pod.name).random()
        turn = int(stage.now / seconds + chance)
        if name not in kept or kept[name][0] != turn:
            kept[name] = turn, page
        return kept[name][1]

    return page


@pytest.mark.parametrize(("seconds", "rps"), [(5, 2000), (8, 100), (10, 30), (10, 400), (15, 100), (15, 400)])
def test_a_healthy_canary_whose_pages_are_worked_out_now_and_then_is_not_taken_for_silent(
    seconds: int, rps: int
) -> None:
    found = played(cached(seconds), rps=rps, duration="120s")
    assert found.outcome in {"Promoted", "Held"}
    assert found.reason is not Reason.CANARY_NOT_ANSWERING


@pytest.mark.parametrize(("seconds", "within"), [(0.5, 4.5), (5, 13), (10, 18), (30, 25)])
@pytest.mark.parametrize("at", [0, 40])
def test_a_dead_canary_loses_its_traffic_little_later_than_pages_can_tell(
    at: int, seconds: float, within: float
) -> None:
    found = played(cached(seconds), faults=f"{{at: {at}s, arm: canary, blackhole: true}}")
    assert (found.outcome, found.reason) == ("RolledBack", "CanaryNotAnswering")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < within


BUCKET = re.compile(rb'(istio_request_duration_milliseconds_bucket{.*le="([^"]*)"}) (\d+)')


def queued(seconds: float, *, shown: bool = True) -> Page:
    """The model takes as long as it says, and its requests wait so long before; the sidecar saw that."""
    told = late(seconds)

    def waited(found: re.Match[bytes]) -> bytes:
        before, le, count = found.groups()
        return before + b" " + (count if float(le) >= 1250 * seconds else b"0")

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        lines = told(stage, life, page).splitlines(keepends=True)
        lines = [line for line in lines if shown or b"istio_request_duration" not in line]
        return b"".join(BUCKET.sub(waited, line) for line in lines)

    return page


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("seconds", [2, 8, 30])
def test_a_healthy_canary_whose_requests_wait_before_its_model_sees_them_is_promoted(
    seconds: int, *, shown: bool
) -> None:
    warm = "5s" if shown else "40s"  # where nobody says how long they wait, the policy has to
    found = played(queued(seconds, shown=shown), steps="5, 50", duration="600s", warm=warm)
    assert found.outcome == "Promoted"


@pytest.mark.parametrize(("shown", "within"), [(True, 40), (False, 60)])
def test_a_canary_that_hangs_is_found_out_although_requests_wait(*, shown: bool, within: int) -> None:
    hangs = "{at: 0s, arm: canary, blackhole: true}"
    found = played(queued(8, shown=shown), duration="120s", faults=hangs, warm="30s")
    assert (found.outcome, found.reason) == ("RolledBack", "CanaryNotAnswering")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < within


def test_a_canary_that_hangs_is_found_out_although_its_requests_take_long() -> None:
    found = played(
        late(8),
        median="8s",
        p95="9600ms",
        duration="120s",
        faults="{at: 0s, arm: canary, blackhole: true}",
    )
    assert (found.outcome, found.reason) == ("RolledBack", "CanaryNotAnswering")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < 30


PAST = b'istio_requests_total{reporter="destination",response_code="503",source_workload="of-last-week"} 50\n'


def merged(until: float, *, without: bytes, past: bytes = PAST) -> Page:
    """A sidecar's merged pages, and until then the canary's without its part."""

    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        own = b"# TYPE envoy_server_live gauge\nenvoy_server_live 1\n"
        if life.pod.arm == "stable" or stage.now >= until:
            return page + own + (past if life.pod.arm == "canary" else b"")
        parts = tuple(without.split(b" "))
        return b"".join(line for line in page.splitlines(keepends=True) if not line.startswith(parts))

    return page


@pytest.mark.parametrize("without", [b"istio_", b"istio_ model_"])
@pytest.mark.parametrize("until", [6.0, 14.0])
def test_what_a_canary_served_before_its_sidecars_part_came_is_no_news(until: float, without: bytes) -> None:
    """Its first pages were without that part: a week's errors were the first second's, or it was silent."""
    found = played(merged(until, without=without), duration="300s")
    assert (found.outcome, found.reason) == ("Promoted", "Promoted")


def test_a_canary_that_shows_nothing_of_its_sidecar_gets_no_traffic() -> None:
    found = played(merged(1000.0, without=b"istio_ model_"))
    assert (found.outcome, [weight for _, weight in found.weights]) == ("Held", [0])
    assert "no metrics page of model-canary can be read" in found.evidence["message"]


def test_a_dead_canary_with_a_sidecar_that_counts_nothing_loses_its_traffic_in_seconds() -> None:
    dead = "{at: 0s, arm: canary, blackhole: true}"
    found = played(merged(0.0, without=b"", past=b""), faults=dead)
    assert (found.outcome, found.reason) == ("RolledBack", "CanaryNotAnswering")
    assert found.seconds_to_weight_zero is not None
    assert found.seconds_to_weight_zero < 8


@pytest.mark.parametrize("lasts", [1.0, 3.0])
def test_failures_of_last_week_that_pages_lack_for_a_moment_are_not_those_of_the_second_when_they_are_back(
    lasts: float,
) -> None:
    def page(stage: Theatre, life: Life, page: bytes) -> bytes:
        lacks = life.pod.arm == "stable" or 20 <= stage.now < 20 + lasts
        return page if lacks else page + PAST

    assert played(page).outcome == "Promoted"
