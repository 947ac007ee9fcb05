"""Which ticks become evidence, and that none of it is lost between two leaders."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from test_resource import canary_run

from analysis.evidence import update
from analysis.judge import Judgement, Verdict
from analysis.samples import Counts, Histogram, PodSample, Sample
from controller import gather, resource
from controller.gather import Gathered, follows
from controller.hearing import LoadSeen
from controller.model import ArmSeen, PodSeen, RouteSeen, Run, Seen, Stage
from controller.served import Hush, Load
from controller.ticks import Pace, Tick

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LE = tuple(0.005 * 1.1**step for step in range(60))


def stepping(**changes: object) -> Run:
    run = replace(resource.run(canary_run()), stage=Stage.STEPPING, weight=10, weight_since=START)
    return replace(run, **changes)  # type: ignore[arg-type]


def arm(name: str, pods: int) -> ArmSeen:
    named = tuple(
        PodSeen(name=f"{name}-{i}", node=f"{name}-node-{i}", ip="10.0.0.1", ready=True, created=START)
        for i in range(pods)
    )
    return ArmSeen(exists=True, template_hash=name, wanted=pods, pods=named)


def sight(*, stable: int = 3, canary: int = 2, served: int = 0) -> Seen:
    return Seen(
        stable=arm("stable", stable),
        canary=arm("canary", canary),
        route=RouteSeen(weight=10),
        judgement=Judgement(verdict=Verdict.NO_DATA, log_e=0.0),
        load=LoadSeen(step_canary_requests=served),
    )


def ticks(second: int, *, slower: float = 1.0, errors: int = 0) -> list[Tick]:
    rng = np.random.default_rng(1000 + second)
    start = START.timestamp() + second

    def histogram(n: int, factor: float) -> Histogram:
        seconds = rng.lognormal(np.log(0.05), 0.5, n) * factor
        count, _ = np.histogram(seconds, bins=[0.0, *LE, np.inf])
        return Histogram(LE, tuple(int(one) for one in count))

    def sample(name: str, values: list[Counts] | list[Histogram]) -> Sample:
        pods = (PodSample(f"{name}-{i}", f"{name}-node-{i}", value) for i, value in enumerate(values))
        return Sample(start, start + 1, tuple(pods))

    latency = Tick(
        "latency-p95",
        sample("stable", [histogram(30, 1.0) for _ in range(3)]),
        sample("canary", [histogram(10, slower) for _ in range(2)]),
    )
    failed = Tick(
        "errors",
        sample("stable", [Counts(30, 0)] * 3),
        sample("canary", [Counts(10, errors)] * 2),
    )
    return [latency, failed]


def taken(gathered: Gathered, run: Run, seen: Seen, *, seconds: range, **what: float) -> Gathered:
    for second in seconds:
        now = START + timedelta(seconds=second + 1)
        steps = gather.take(gathered, run, seen, ticks(second, **what), now)  # type: ignore[arg-type]
        gathered = gather.scored(steps, update)
    return gathered


def log_e(gathered: Gathered, check: str) -> float:
    return next(one.log_e for one in gathered.evidence if one.spec.name == check)


def begun(run: Run) -> Gathered:
    history = taken(gather.begin(run.plan.policy), replace(run, weight=0), sight(), seconds=range(-60, 0))
    return gather.begin_step(history, 0, at=START.timestamp())


def test_history_of_stable_is_learned_and_is_no_evidence() -> None:
    gathered = begun(stepping())

    assert (log_e(gathered, "latency-p95"), log_e(gathered, "errors")) == (0.0, 0.0)


@pytest.mark.parametrize("silent", ["stable", "canary"])
def test_a_tick_in_which_an_arm_says_nothing_is_no_news_of_its_check(silent: str) -> None:
    """Else a step could pass by what the other arm alone has said of late."""
    run, pace = stepping(), Pace()
    before = taken(begun(run), run, sight(), seconds=range(10))
    after = before
    for second in range(10, 30):
        new = [replace(tick, **{silent: replace(getattr(tick, silent), pods=())}) for tick in ticks(second)]
        now = START + timedelta(seconds=second + 1)
        after = gather.scored(gather.take(after, run, sight(), new, now), update)
    at = START.timestamp() + 30
    assert gather.overdue(before, run.plan.policy, at=at - 20, pace=pace, queried=pace) == ()
    assert gather.overdue(after, run.plan.policy, at=at, pace=pace, queried=pace) == ("latency-p95", "errors")


def test_a_check_whose_tick_is_still_open_keeps_the_time_of_its_last_one() -> None:
    run, pace = stepping(), Pace()
    both = taken(begun(run), run, sight(), seconds=range(10))
    one = [tick for tick in ticks(10) if tick.check == "errors"]  # the other waits for a flush
    now = START + timedelta(seconds=11)
    after = gather.scored(gather.take(both, run, sight(), one, now), update)
    assert gather.overdue(after, run.plan.policy, at=now.timestamp(), pace=pace, queried=pace) == ()


def test_how_long_stable_was_read_grows_with_its_ticks_and_two_checks_count_it_once() -> None:
    gathered = taken(gather.begin(stepping().plan.policy), stepping(), sight(), seconds=range(10))
    assert gathered.known == pytest.approx(10.0)


def test_a_later_step_keeps_what_the_last_one_found_and_the_same_step_begins_anew() -> None:
    """What fails a little at each step fails by all of them; what was interrupted, by what is new."""
    found = taken(begun(stepping()), stepping(), sight(), seconds=range(20), errors=1)
    gained, at = log_e(found, "errors"), START.timestamp() + 20
    assert gained > 0
    for step, kept in ((0, 0.0), (1, gained)):
        after = gather.begin_step(found, step, at=at)
        errors = next(one for one in after.evidence if one.spec.name == "errors")
        assert (after.step, int(errors.step)) == (step, step)
        assert float(errors.finished.sum()) == pytest.approx(kept, abs=0.01)


def test_while_pods_warm_up_errors_count_and_latency_does_not() -> None:
    gathered = taken(begun(stepping()), stepping(), sight(), seconds=range(20), slower=4.0, errors=3)

    assert log_e(gathered, "latency-p95") == 0.0
    assert log_e(gathered, "errors") > 5


def gap(seconds: int, *, before: float) -> list[Tick]:
    """The first ticks of a new leader: everything since a checkpoint of `before` the step."""
    return [
        replace(
            tick,
            stable=replace(tick.stable, start=START.timestamp() - before, end=START.timestamp() + seconds),
            canary=replace(tick.canary, start=START.timestamp() - before, end=START.timestamp() + seconds),
            began=START.timestamp() - before - 0.3,
        )
        for tick in ticks(0, slower=4.0, errors=8)
    ]


@pytest.mark.parametrize(("before", "least"), [(0.5, 5.0), (2.0, 0.0)])
def test_what_happened_while_nobody_led_counts_although_the_checkpoint_is_the_raise_s(
    before: float, least: float
) -> None:
    run = stepping()
    steps = gather.take(begun(run), run, sight(), gap(9, before=before), START + timedelta(seconds=9))
    gathered = gather.scored(steps, update)

    assert (log_e(gathered, "errors") > 0) == (least > 0)
    assert log_e(gathered, "errors") >= least
    assert log_e(gathered, "latency-p95") == 0.0  # half of it is the first step's warm-up


def test_a_tick_of_a_second_that_began_before_its_step_is_not_the_step_s() -> None:
    run = stepping()
    steps = gather.take(begun(run), run, sight(), gap(1, before=0.2), START + timedelta(seconds=1))

    assert log_e(gather.scored(steps, update), "errors") == 0.0


@pytest.mark.parametrize("served", [0, 500])
def test_latency_counts_once_pods_are_warm_by_time_or_by_requests(served: int) -> None:
    first = 40 if served == 0 else 5
    seen = sight(served=served)
    gathered = taken(begun(stepping()), stepping(), seen, seconds=range(first, first + 20), slower=4.0)

    assert log_e(gathered, "latency-p95") > 5


def queried(run: Run) -> Run:
    policy = replace(run.plan.policy, pages={"latency-p95": None})
    return replace(run, plan=replace(run.plan, policy=policy))


@pytest.mark.parametrize(("began", "warm"), [(29.0, False), (30.0, True)])
def test_of_a_prometheus_tick_all_must_be_after_the_warm_up(began: float, *, warm: bool) -> None:
    """Fifteen seconds of a cold canary in a tick that ends when it is warm would be evidence."""
    run, gathered = queried(stepping()), begun(queried(stepping()))
    for second in range(60, 80):
        (latency, _) = ticks(second, slower=4.0)
        late = replace(latency, began=START.timestamp() + began)
        now = START + timedelta(seconds=second + 1)
        gathered = gather.scored(gather.take(gathered, run, sight(served=5000), [late], now), update)
    assert bool(log_e(gathered, "latency-p95") > 5) is warm


def test_latency_under_more_load_per_pod_than_stables_is_no_evidence() -> None:
    run = stepping(weight=50, step=1)
    gathered = taken(begun(run), run, sight(canary=2), seconds=range(40, 60), slower=4.0)

    assert log_e(gathered, "latency-p95") == 0.0


def test_while_subsets_do_not_tell_the_arms_apart_only_errors_are_evidence() -> None:
    mixed = replace(sight(served=5000), route=replace(sight().route, mixed=True))
    gathered = taken(begun(stepping()), stepping(), mixed, seconds=range(40, 60), slower=4.0, errors=3)

    assert log_e(gathered, "latency-p95") == 0.0
    assert log_e(gathered, "errors") > 5


def test_a_change_of_pods_begins_latency_anew_and_keeps_the_errors() -> None:
    before = taken(begun(stepping()), stepping(), sight(), seconds=range(40, 50), slower=4.0, errors=2)
    later = START + timedelta(seconds=51)
    after = gather.scored(gather.take(before, stepping(), sight(stable=4), [], later), update)

    assert log_e(before, "latency-p95") > 2
    assert log_e(after, "latency-p95") == pytest.approx(0.0, abs=1e-6)
    assert log_e(after, "errors") == log_e(before, "errors")


def left_alone(gathered: Gathered, run: Run, seen: Seen, *, seconds: range) -> Gathered:
    """Its second pod is gone, and the first fails every request."""
    for second in seconds:
        failed = ticks(second, errors=10)[1]
        failed = replace(failed, canary=replace(failed.canary, pods=failed.canary.pods[:1]))
        now = START + timedelta(seconds=second + 1)
        gathered = gather.scored(gather.take(gathered, run, seen, [failed], now), update)
    return gathered


def test_the_errors_of_a_pod_that_others_left_alone_need_no_second_node() -> None:
    run = stepping()
    two = taken(begun(run), run, sight(), seconds=range(40))
    flaps = replace(sight().canary.pods[1], ready=False)
    there = replace(sight(), canary=replace(sight().canary, pods=(*sight(canary=1).canary.pods, flaps)))

    gone, away = (left_alone(two, run, seen, seconds=range(40, 50)) for seen in (sight(canary=1), there))

    assert log_e(gone, "errors") > 10
    assert log_e(away, "errors") < 4  # it may come back, and say that it was one node


def test_a_few_other_pods_of_many_begin_nothing_anew_and_they_add_up() -> None:
    run, gathered = (
        stepping(),
        taken(begun(stepping()), stepping(), sight(stable=20, canary=4), seconds=range(40, 50)),
    )
    before, later = gathered, START + timedelta(seconds=51)
    for stable in (21, 22, 24, 25):
        gathered = gather.scored(
            gather.take(gathered, run, sight(stable=stable, canary=4), [], later), update
        )
        assert gathered.evidence[0].tally.sum() == before.evidence[0].tally.sum() > 0
    gathered = gather.scored(gather.take(gathered, run, sight(stable=26, canary=4), [], later), update)
    assert gathered.evidence[0].tally.sum() == 0


def test_a_new_leader_goes_on_as_if_nothing_had_been() -> None:
    run = stepping()
    before = taken(begun(run), run, sight(), seconds=range(40, 50), slower=1.5)
    other = gather.load(run.plan, gather.save(before))

    one = taken(before, run, sight(), seconds=range(50, 60), slower=1.5)
    two = taken(other, run, sight(), seconds=range(50, 60), slower=1.5)

    assert gather.save(one) == gather.save(two)


def test_evidence_that_is_moved_in_time_is_the_same_evidence_then() -> None:
    run, later = stepping(), 4000.0
    before = taken(begun(run), run, sight(), seconds=range(40, 50), slower=1.5)
    moved = gather.moved(before, later)
    ticks_, at = ticks(50, slower=1.5), START + timedelta(seconds=51)
    shifted = [replace(t, stable=_later(t.stable, later), canary=_later(t.canary, later)) for t in ticks_]
    one = gather.scored(gather.take(before, run, sight(), ticks_, at), update)
    since = START + timedelta(seconds=later)
    there = replace(run, weight_since=since)
    steps = gather.take(moved, there, sight(), shifted, at + timedelta(seconds=later))
    assert log_e(one, "latency-p95") != log_e(before, "latency-p95")
    assert gather.save(gather.moved(one, later)) == gather.save(gather.scored(steps, update))


def _later(sample: Sample, by: float) -> Sample:
    return replace(sample, start=sample.start + by, end=sample.end + by)


@pytest.mark.parametrize("saved", ["null", "true", "-5.0", "1e300", "NaN", '"yesterday"', "1" + "0" * 400])
def test_an_edit_of_when_a_checkpoint_was_made_harms_nothing(saved: str) -> None:
    run = stepping()
    body = gather.save(replace(begun(run), saved=1e9))
    edited = gather.load(run.plan, body.replace('"saved":1000000000.0', f'"saved":{saved}'))
    assert edited.step == 0
    assert gather.saved_at(edited, otherwise=0.0) == gather.newest(edited, otherwise=0.0) > 0


@pytest.mark.parametrize("known", ["1e300", "-5", "Infinity", "NaN", "1" + "0" * 400])
def test_an_edit_of_how_long_stable_was_known_harms_nothing(known: str) -> None:
    run = stepping()
    body = gather.save(begun(run))
    edited = re.sub(r'"known":[^,}]*', f'"known":{known}', body)
    assert edited != body
    assert gather.load(run.plan, edited).known == 0.0


@pytest.mark.parametrize("bound", ["Infinity", "NaN", "1e999", "-Infinity"])
def test_buckets_without_a_number_for_a_bound_begin_anew(bound: str) -> None:
    """What was taken from such a checkpoint could not be written down again."""
    run = stepping()
    cursor = '"cursor":{"v":3,"bounds":[[0.1,0.5]]'
    body = re.sub(r'"cursor":\{"v":3,"bounds":\[\]', cursor, gather.save(begun(run)))
    assert gather.load(run.plan, body).step == 0
    edited = body.replace(cursor, cursor.replace("0.5", bound))
    assert gather.load(run.plan, edited).step is None


@pytest.mark.parametrize("body", [None, "", "{}", "[]", '{"evidence":[],"cursor":null,"step":0}'])
def test_a_checkpoint_that_cannot_be_read_begins_anew(body: str | None) -> None:
    plan = stepping().plan

    assert gather.save(gather.load(plan, body)) == gather.save(gather.begin(plan.policy))


@pytest.mark.parametrize(
    ("stable", "canary", "holds"),
    [(900, 100, True), (850, 150, True), (500, 500, False), (1000, 0, False), (20, 0, True), (0, 0, True)],
)
def test_traffic_follows_its_weight_within_a_factor_of_two(stable: int, canary: int, *, holds: bool) -> None:
    assert follows(10, stable=stable, canary=canary, sampled=1.0) is holds


def test_the_share_is_judged_by_the_pods_that_are_read() -> None:
    assert follows(10, stable=450, canary=100, sampled=0.5)
    assert not follows(10, stable=450, canary=450, sampled=0.5)


def test_traffic_at_twice_the_weight_is_called_off_in_at_most_one_of_a_thousand_runs() -> None:
    rng = np.random.default_rng(4)
    called = 0
    for _ in range(400):
        canary = np.cumsum(rng.random(2000) < 2 / 11)  # odds twice those of weight 10
        called += any(
            not follows(10, stable=n - int(canary[n - 1]), canary=int(canary[n - 1]), sampled=1.0)
            for n in range(50, 2001, 50)
        )

    assert called <= 2  # P(more than 2 of 400 at 1/1000) = 0.8 %


def test_silence_is_scaled_to_all_of_stables_pods() -> None:
    load = Load(since=0, hush=Hush(10, 14, 50), stable_until=14, canary=7)
    seen = gather.load_seen(stepping(), {"step": load, "weight": load}, (), sampled=0.25, now=14)

    assert (seen.silence, seen.silent_for, seen.step_canary_requests) == (200, timedelta(seconds=4), 7)


@pytest.mark.parametrize(("until", "silent"), [(54.0, 0), (55.0, 45)])
def test_a_silence_shorter_than_three_readings_is_none(until: float, silent: int) -> None:
    """Stable's second scrape, half a minute after a raise, may come before the canary's first whole one."""
    load, slow = Load(since=10, hush=Hush(10, until, 3000), stable_until=until), timedelta(seconds=15)
    loads = {"step": load, "weight": load}
    seen = gather.load_seen(stepping(), loads, (), sampled=1.0, now=until, pace=Pace(interval=slow))
    assert seen.silent_for == timedelta(seconds=silent)


@pytest.mark.parametrize(("until", "follows_weight"), [(0.0, True), (1002.9, True), (1003.0, False)])
def test_a_weight_that_is_new_is_not_said_to_be_unheeded(until: float, *, follows_weight: bool) -> None:
    """A second after a raise stable's pages may count and the canary's not yet: 200 requests to none."""
    load = Load(
        since=1000.0,
        shared=(200, 0),
        stable_until=1010.0,
        canary_until=until,
        hush=Hush(1000.0, 1000.0),
    )
    seen = gather.load_seen(stepping(), {"step": load, "weight": load}, (), sampled=1.0, now=1010.0)
    assert seen.follows_weight is follows_weight


def test_load_is_counted_since_the_weight_is_there_and_the_step_s_since_it_began() -> None:
    run, at = stepping(step_since=START), START.timestamp()
    assert gather.instants(run, idle=0.0) == {"step": at, "weight": at}
    assert gather.instants(run, idle=at + 7) == {"step": at, "weight": at + 7}  # nothing was sent before
    assert gather.instants(replace(run, weight=0), idle=0.0) == {}


def test_where_nobody_says_how_long_requests_wait_the_first_has_the_whole_warm_up() -> None:
    gathered = begun(stepping())
    policy = stepping().plan.policy
    assert gather.lag(gathered, policy).first == 0.0
    assert gather.lag(gathered, policy, told=False).first == policy.warm_up.total_seconds()


def test_only_required_checks_are_overdue_and_a_prometheus_s_later_than_a_page_s() -> None:
    run = stepping()
    policy = run.plan.policy
    optional = replace(
        policy, checks=tuple(replace(one, required=one.name == "errors") for one in policy.checks)
    )
    at, pace, slow = START.timestamp() + 1, Pace(), Pace(interval=timedelta(seconds=15))
    gathered = taken(begun(run), run, sight(), seconds=range(1))
    how = {"pace": pace, "queried": slow}
    assert gather.overdue(gathered, optional, at=at + 60, **how) == ("errors",)
    queried = replace(policy, pages={"errors": None})
    assert gather.overdue(gathered, queried, at=at + pace.fresh + 1, **how) == ("latency-p95",)
    assert gather.overdue(gathered, queried, at=at + slow.fresh + 1, **how) == ("latency-p95", "errors")


def test_pods_warm_up_in_the_first_step_and_not_in_later_ones() -> None:
    run = stepping(step=1, weight=50)
    more = sight(canary=3)
    first = replace(run, step=0)
    before = gather.begin_step(begun(stepping()), 1, at=START.timestamp())
    for one, tallied in ((run, True), (first, False)):
        after = taken(before, one, more, seconds=range(5))
        latency = next(each for each in after.evidence if each.spec.name == "latency-p95")
        assert bool(latency.tally.sum() > 0) is tallied
