"""What the table of many canaries says."""

from math import isnan

from scenarios.bench_scale import Measured, table


def measured(*, canaries: int, cpu: float, ticks: float) -> Measured:
    return Measured(
        canaries=canaries,
        cpu=cpu,
        rss=200.0,
        p50=0.2,
        p99=0.3,
        ticks=ticks,
        rollbacks=[0.05],
        lost=0,
        load=1.0,
        parts={"parse": 0.25},
    )


def test_on_a_full_core_a_tick_costs_what_it_costs_and_not_the_less_the_fewer_there_are() -> None:
    few, many = (measured(canaries=100, cpu=0.2, ticks=1.0), measured(canaries=1000, cpu=1.0, ticks=0.5))
    assert (few.cost, many.cost) == (2.0, 2.0)
    lines = {line[:26].strip(): line[26:].split() for line in table([], [few, many])}
    assert lines["ms / canary and tick"] == ["2.00", "2.00"]
    assert lines["of the first"] == ["1.00", "1.00"]
    assert lines["ms parse"] == ["0.500", "0.500"]


def test_without_a_tick_nothing_is_said_of_its_cost() -> None:
    assert isnan(measured(canaries=1, cpu=0.2, ticks=0.0).cost)
