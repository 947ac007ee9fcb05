"""A pod whose pages are dear to read is read more rarely."""

import pytest

from controller import effort
from controller.effort import (
    NAMESPACE_AT_ONCE,
    OF_A_NAMESPACE,
    OF_A_POD,
    OF_A_RUN,
    POD_AT_ONCE,
    RUN_AT_ONCE,
    WATCHED,
    Effort,
    Together,
)


class Clocks:
    """The loop's clock and the processor's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = self.processor = 0.0
        monkeypatch.setattr(effort, "thread_time", lambda: self.processor)

    def worked(self, account: Effort, loop: float, processor: float) -> None:
        begun = account.begun()
        self.loop += loop
        self.processor += processor
        account.done(begun)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_usual_pages_never_wait(clocks: Clocks) -> None:
    account = Effort(lambda: clocks.loop)
    for _ in range(1000):
        clocks.worked(account, 0.001, 0.001)
        assert account.wait() == 0
        clocks.loop += 1


def test_what_is_owed_is_waited_for_and_no_longer(clocks: Clocks) -> None:
    account = Effort(lambda: clocks.loop)
    clocks.worked(account, 0.9, POD_AT_ONCE + 0.2)
    assert account.wait() == pytest.approx(0.2 / OF_A_POD - 0.9)
    clocks.loop += 0.2 / OF_A_POD - 0.8
    assert account.wait() == 0


def test_the_processor_is_asked_for_its_time_only_after_pages_that_took_long(
    clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, asked = Effort(lambda: clocks.loop), list[float]()
    monkeypatch.setattr(effort, "thread_time", lambda: asked.append(clocks.processor) or clocks.processor)
    for _ in range(WATCHED):
        clocks.worked(account, 0.0001, 0.0001)
    asked.clear()
    clocks.worked(account, 0.0001, 0.0001)
    clocks.worked(account, 9.0, 0.0)  # the machine stood still: that costs next to nothing
    assert account.wait() == 0
    assert asked == []
    clocks.worked(account, POD_AT_ONCE + 0.2, POD_AT_ONCE + 0.2)
    assert account.wait() == pytest.approx(0.2 / OF_A_POD, rel=0.05)
    assert len(asked) == 2


def test_pods_of_a_run_share_what_it_has(clocks: Clocks) -> None:
    account = Effort(lambda: clocks.loop)
    account.shared(40)
    clocks.worked(account, 1.0, RUN_AT_ONCE / 40 + 0.1)
    assert account.wait() == pytest.approx(0.1 * 40 / OF_A_RUN - 1.0)


@pytest.mark.parametrize(("loop", "processor"), [(9.0, 0.0), (0.0, 9.0)])
def test_neither_a_machine_that_is_busy_nor_a_clock_that_jumps_costs_anything(
    loop: float, processor: float, clocks: Clocks
) -> None:
    account = Effort(lambda: clocks.loop)
    clocks.worked(account, loop, processor)
    assert account.wait() == 0


def test_pods_of_a_namespace_share_half_a_core_and_usual_pages_cost_nothing_there(clocks: Clocks) -> None:
    together = Together(lambda: clocks.loop)
    many = [Effort(lambda: clocks.loop, together) for _ in range(100)]
    for account in many:
        clocks.worked(account, 0.4, 0.4)  # each has enough for itself
    spent = 100 * 0.4
    assert together.wait() == pytest.approx(
        (spent - 0.5 * spent - NAMESPACE_AT_ONCE) / OF_A_NAMESPACE, rel=0.1
    )
    clocks.loop += 100
    assert together.settled
    for _ in range(10_000):
        clocks.worked(many[0], 0.0001, 0.0001)
    assert together.settled


def test_a_large_page_is_on_the_account_also_after_many_that_were_cheap(clocks: Clocks) -> None:
    """Twenty cheap ones, and then one that took half a second and counted as a thousandth."""
    account = Effort(lambda: clocks.loop)
    for _ in range(WATCHED):
        clocks.worked(account, 0.0001, 0.0001)
    begun = account.begun(effort.SMALL + 1)
    clocks.loop += POD_AT_ONCE + 0.2
    clocks.processor += POD_AT_ONCE + 0.2
    account.done(begun)
    assert account.wait() > 0
