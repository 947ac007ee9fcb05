"""When things go wrong in a history, until when, and how long a promise may take after that."""

from random import Random

CALM = 24.0  # seconds; by then all that goes wrong for a time is over, but for what follows on a write
BUSY = 19.0  # seconds; what begins has begun by then
DURATION = 60.0  # seconds until a history that has not ended is left where it is
# Once nothing hinders: 6 s of a Lease, a second and its jitter for each side, three seconds of looking.
BOUND = 15.0
NEWS = 5.0  # seconds until what a canary served is in the evidence: a reading, the slowest pod's, a pass
READ = 2.0  # seconds after which every pod's page was read once more, when nothing hinders
HEARD = 3.0  # seconds until a command is heeded, once nothing hinders
# ... and what the errors of the least canary traffic (3 a second) need to be proof; twice that where one or
# two stable pods cannot show how noisy pods are (seeds 2791, 2957, 3034).
FATAL_BOUND = 22.0


def ms(seconds: float) -> str:
    """As a story's file has it."""
    return f"{round(1000 * seconds)}ms"


def spell(chance: Random) -> tuple[float, float]:
    """When something begins, and how long it lasts; over before the calm."""
    at = chance.uniform(0.5, BUSY)
    return at, min(chance.choice([1.0, 4.0, 10.0]) * chance.uniform(0.5, 1.5), CALM - at)
