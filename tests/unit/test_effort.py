"""A pod whose pages are dear to read is read more rarely."""

import pytest

from controller import effort
from controller.effort import OF_A_POD, OF_A_RUN, POD_AT_ONCE, RUN_AT_ONCE, WATCHED, Effort


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
