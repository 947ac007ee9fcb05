"""The leader's real process is frozen, or cut off from the API server, just when the canary got traffic."""

import pytest

from scenarios import failover
from scenarios.failover import Blow, Failover, Moment

pytestmark = pytest.mark.live

WITHIN = 12.0  # seconds; nine for the Lease


@pytest.mark.parametrize("how", ["freeze", "lose"])
async def test_the_other_replica_takes_the_traffic_away_and_the_first_gives_none_back(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "AFTERWARDS", 2.0)
    blow = Blow(moment=Moment.RAISE, how=how, wait=0.0, lasting=None)
    said = await Failover(blow, seed=1).play()
    assert said["seconds"] is not None, said
    assert said["seconds"] < WITHIN
    assert (said["reason"], said["requests"]["failed"]) == ("CheckFailed", 0)
