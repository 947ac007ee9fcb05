"""What the table of many canaries says."""

from dataclasses import replace
from math import isnan

from scenarios.bench_scale import Measured, table
from scenarios.scale import yardstick


def measured(*, canaries: int, cpu: float, ticks: float) -> Measured:
    return Measured(
        canaries=canaries,
        cpu=cpu,
        waited=0.1,
        rss=200.0,
        p50=0.2,
        p99=0.3,
        ticks=ticks,
        rollbacks={"slow": [(0.9, 0.3), (1.2, 0.1), (3.0, 0.2)]},
        lost=0,
        load=1.0,
        parts={"parse": 0.25},
        yardstick=120.0,
    )


def test_on_a_full_core_a_tick_costs_what_it_costs_and_not_the_less_the_fewer_there_are() -> None:
    few, many = (measured(canaries=100, cpu=0.2, ticks=1.0), measured(canaries=1000, cpu=1.0, ticks=0.5))
    assert (few.cost, many.cost) == (2.0, 2.0)
    lines = {line[:26].strip(): line[26:].split() for line in table({}, [few, many])}
    assert lines["ms / canary and tick"] == ["2.00", "2.00"]
    assert lines["of the first"] == ["1.00", "1.00"]
    assert lines["ms parse"] == ["0.500", "0.500"]


def test_without_a_tick_nothing_is_said_of_its_cost() -> None:
    assert isnan(measured(canaries=1, cpu=0.2, ticks=0.0).cost)


def test_a_rollback_takes_from_the_fault_on_and_is_compared_with_those_among_few() -> None:
    single = {"slow": [(0.4, 0.1), (0.5, 0.1), (0.8, 0.1)]}
    lines = list(table(single, [measured(canaries=1000, cpu=1.0, ticks=0.5)]))
    of_slow = [line for line in lines if "rollback (slow)" in line]
    assert [line.partition("; ")[0] for line in of_slow] == [
        "rollback (slow), s from the fault",
        "rollback (slow), s from the first page with it",
    ]
    assert [line[26:].split() for line in lines if line.startswith("  of that among 10")] == [
        ["2.40"],
        ["2.00"],
    ]
    assert [line[26:].split() for line in lines if line.startswith("  worst")] == [["3.00"], ["0.30"]]


def test_nothing_is_said_of_rollbacks_where_nothing_was_to_fail() -> None:
    well = replace(measured(canaries=1000, cpu=1.0, ticks=0.5), rollbacks={"slow": [], "errors": []})
    assert not [line for line in table({"slow": [], "errors": []}, [well]) if "rollback" in line]


def test_how_much_longer_it_takes_has_an_interval() -> None:
    def intervals(few: list[tuple[float, float]]) -> list[list[str]]:
        lines = table({"slow": few}, [measured(canaries=1000, cpu=1.0, ticks=0.5)])
        return [line[26:].split() for line in lines if line.startswith("  95 % of resamples")]

    always = [(0.6, 0.1)] * 3
    assert intervals(always) == [["1.5-5.0"], ["1.0-3.0"]]  # 0.9 to 3.0 s, and 0.1 to 0.3 s, of many
    assert intervals([(0.3, 0.1), (0.6, 0.1), (1.2, 0.1)])[0] == ["0.8-10.0"]
    assert intervals([]) == [["nan-nan"], ["nan-nan"]]


def test_the_yardstick_is_the_same_work_each_time() -> None:
    assert yardstick.turn(yardstick.canaries()[:20]) == yardstick.turn(yardstick.canaries()[:20])
