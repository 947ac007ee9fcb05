"""What the live fail-over rows draw, and what they read off; the rest is measured by running them."""

import json
from pathlib import Path

import pytest

from scenarios.failover import HOWS, MOMENTS, canary_answers, drawn, outage, risen, story_of


@pytest.mark.parametrize("what", HOWS)
def test_twenty_runs_have_every_moment_and_every_way_and_some_mend_soon(what: str) -> None:
    blows = [drawn(what, seed) for seed in range(100, 120)]
    assert {blow.moment for blow in blows} == set(MOMENTS)
    assert {blow.how for blow in blows} == set(HOWS[what])
    assert {blow.lasting is None for blow in blows} == {True, False}
    assert blows == [drawn(what, seed) for seed in range(100, 120)]
    assert all(story_of(blow, seed=1).controllers == 2 for blow in blows)


def test_ten_outages_have_both_ways_at_both_moments() -> None:
    blows = [outage(seed) for seed in range(100, 110)]
    assert len({(blow.moment, blow.how) for blow in blows}) == 4
    assert {(blow.everybody, blow.lasting) for blow in blows} == {(True, 60.0)}


def test_only_answers_of_canary_pods_count(tmp_path: Path) -> None:
    said = [
        {"due": 1.0, "took": 0.5, "pod": "model-canary-5w52z8wgc2-abcde"},
        {"due": 2.0, "took": 0.5, "pod": "model-rlp7snxm9x-abcde"},
        {"due": 3.0, "took": 0.5, "error": "unanswered at the end"},
    ]
    file = tmp_path / "sent.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in said) + '{"due": 4.0, "to')
    assert canary_answers(file) == [1.5]


def test_a_weight_that_rises_after_the_fault_is_harm() -> None:
    began = [(0.0, 0), (5.0, 10), (9.0, 0)]  # what the next leader begins, and ends
    assert not risen(began, since=4.0)
    assert not risen([(0.0, 0), (1.0, 10), (3.9, 50), (11.0, 0)], since=4.0)
    assert risen([*began, (11.0, 10)], since=4.0)
    assert risen([(0.0, 0), (5.0, 10), (9.0, 50), (11.0, 0)], since=4.0)
