"""When things go wrong in a history, and until when."""

from random import Random

CALM = 24.0  # seconds; by then all that goes wrong for a time is over, but for what follows on a write
BUSY = 19.0  # seconds; what begins has begun by then
DURATION = 60.0  # seconds until a history that has not ended is left where it is


def ms(seconds: float) -> str:
    """As a story's file has it."""
    return f"{round(1000 * seconds)}ms"


def spell(chance: Random) -> tuple[float, float]:
    """When something begins, and how long it lasts; over before the calm."""
    at = chance.uniform(0.5, BUSY)
    return at, min(chance.choice([1.0, 4.0, 10.0]) * chance.uniform(0.5, 1.5), CALM - at)
