"""When requests are due: as far as stable's own latencies say."""

from dataclasses import replace

import pytest
from test_gather import START, sight, stepping, ticks

from analysis.samples import Histogram
from controller import gather
from controller.hearing import AT_ONCE, BEYOND, Lag, Waits, lag_of
from controller.served import Hush, Load

SLOW = Lag((1.0, 2.0, 4.0), (0.0, 0.5, 0.95), slower=1.5, unknown=30.0)


@pytest.mark.parametrize(
    ("seconds", "part"), [(0.0, 0.0), (2.9, 0.0), (3.0, 0.5), (5.9, 0.5), (6.0, 0.95), (30.0, 1.0)]
)
def test_a_request_is_back_when_stables_would_be_and_a_slower_one_later(seconds: float, part: float) -> None:
    assert SLOW.back(seconds) == part


def test_what_is_slower_than_the_last_bucket_is_waited_for_and_not_for_ever() -> None:
    beyond = Lag((10.0,), (0.0,), unknown=30.0)
    assert (beyond.back(59.0), beyond.back(BEYOND * 10.0), beyond.most) == (0.0, 1.0, 60.0)


def test_shares_are_compared_once_most_requests_are_back() -> None:
    assert (SLOW.most, AT_ONCE.most) == (6.0, 0.0)


def test_where_no_check_knows_latencies_a_canary_that_never_answered_has_its_warm_up() -> None:
    nobody = Lag(unknown=30.0)
    assert [nobody.back(29.0), nobody.back(30.0), nobody.back(1.0, spoke=True)] == [0.0, 1.0, 1.0]


def test_where_nobody_says_how_long_requests_wait_the_first_answer_has_its_warm_up() -> None:
    quick = Lag((0.1,), (1.0,), unknown=30.0, first=30.0)
    assert [quick.back(29.0), quick.back(30.0), quick.back(1.0, spoke=True), quick.most] == [0, 1, 1, 30]


def test_how_long_requests_wait_is_as_the_sidecars_say_ever_or_of_late() -> None:
    le, waits = (1.0, 10.0), Waits()
    ever = {"a": Histogram(le, (900, 100, 0)), "b": None}
    assert waits.took(ever) == [ever["a"]]
    later = {"a": Histogram(le, (900, 300, 0)), "b": Histogram(le, (0, 50, 0))}
    both, recent = waits.took(later)
    assert (both.count, recent.count) == ((900, 350, 0), (0, 200, 0))
    slow = lag_of(recent, slower=1.5, unknown=5.0)
    assert [slow.back(14.9), slow.back(15.0)] == [0.0, 1.0]
    again = {"a": Histogram(le, (5, 0, 0))}  # its process began anew
    assert waits.took(again) == [again["a"]]


def test_how_long_requests_take_is_known_from_stables_ticks() -> None:
    policy = stepping().plan.policy
    known = gather.begin(policy)
    assert gather.lag(known, policy) == Lag(unknown=policy.warm_up.total_seconds())
    known = gather.learn(known, [tick for second in range(5) for tick in ticks(second)], "abc", at=0.0)
    assert 0.05 < gather.lag(known, policy).most < 0.3  # p90 of 95 ms, by half slower


def seen_of(load: Load, *, now: float, canary: tuple[str, ...] = ("c1", "c2")) -> gather.LoadSeen:
    loads = {"step": load, "weight": load}
    return gather.load_seen(stepping(), loads, canary, sampled=1.0, now=now)


def test_each_pod_is_silent_by_its_own_page_and_unheard_without_it() -> None:
    pods = {"c1": Hush(0.0, 20.0, 500), "c2": Hush(0.0, 10.0, 100, missed=400), "s1": Hush(20.0, 20.0)}
    load = Load(since=0.0, hush=Hush(0.0, 10.0, 100, missed=400), pods=pods)
    found = seen_of(load, now=20.5)
    assert [(one.pod, one.silence) for one in found.quiet] == [("c1", 500)]
    assert (found.unheard, found.unheard_for.total_seconds(), found.uneven) == (("c2",), 0.0, False)

    both = replace(load, pods={**pods, "c1": Hush(0.0, 12.0, 120, missed=380)})
    found = seen_of(both, now=20.5)
    assert (found.unheard, found.unheard_for.total_seconds()) == (("c1", "c2"), 8.5)
    assert (found.quiet, found.missed) == ((), 380)


def test_where_stables_pods_are_left_out_too_nothing_is_said_of_the_canarys() -> None:
    pods = {"c1": Hush(0.0, 20.0, 500), "s1": Hush(20.0, 20.0), "s2": Hush(0.0, 20.0, 500)}
    assert seen_of(Load(since=0.0, hush=Hush(0.0, 20.0), pods=pods), now=20.0).uneven


def test_while_a_page_is_away_its_requests_are_no_part_of_the_shares() -> None:
    load = Load(since=0.0, hush=Hush(0.0, 10.0), shared=(2000, 0), stable_until=30.0, canary_until=20.0)
    away = replace(load, pods={"c1": Hush(0.0, 10.0)})
    assert seen_of(away, now=30.0).follows_weight
    assert not seen_of(replace(load, pods={"c1": Hush(0.0, 30.0)}), now=30.0).follows_weight


def test_a_check_is_overdue_without_a_tick_of_both_arms() -> None:
    run, gathered = stepping(), gather.begin(stepping().plan.policy)
    names = tuple(one.name for one in run.plan.policy.checks)
    at = START.timestamp() + 1.0
    how = {"pace": gather.Pace(), "queried": gather.Pace()}
    assert gather.overdue(gathered, run.plan.policy, at=at, **how) == names
    steps = gather.take(gather.begin_step(gathered, 0, at=0.0), run, sight(), ticks(0), START)
    gathered = gather.scored(steps, gather.ev.update)
    told = {tick.check for tick in ticks(0)}
    assert set(gather.overdue(gathered, run.plan.policy, at=at, **how)) == set(names) - told
    assert gather.overdue(gathered, run.plan.policy, at=at + 11.0, **how) == names


@pytest.mark.parametrize(
    ("still", "silent_for", "silent"),
    [(1.0, 3.0, True), (8.0, 9.9, False), (8.0, 10.0, True), (60.0, 19.9, False), (60.0, 20.0, True)],
)
def test_a_page_that_is_worked_out_now_and_then_makes_no_silence_and_not_for_ever(
    still: float, silent_for: float, *, silent: bool
) -> None:
    load = Load(since=0.0, hush=Hush(0.0, silent_for, 500), pods={"c1": Hush(0.0, silent_for, 500)})
    loads = {"step": load, "weight": load}
    found = gather.load_seen(stepping(), loads, ("c1",), sampled=1.0, now=silent_for, still=still)
    assert (bool(found.silent_for), bool(found.quiet)) == (silent, silent)


@pytest.mark.parametrize(("seconds", "missed"), [(20.0, 39), (2.9, 500)])
def test_a_pod_of_stable_that_had_little_or_for_a_moment_nothing_to_do_was_not_left_out(
    seconds: float, missed: int
) -> None:
    pods = {"c1": Hush(0.0, 20.0, 500), "s1": Hush(20.0, 20.0), "s2": Hush(20.0 - seconds, 20.0, missed)}
    assert not seen_of(Load(since=0.0, hush=Hush(0.0, 20.0), pods=pods), now=20.0).uneven
