"""Whether the model computes: tried, not assumed from a process that runs."""

import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

FRESH = 1.0  # seconds for which an answer is said again: many probe, one pays
PATIENCE = 0.5  # seconds that a probe waits for another's try; kubelet's own patience is 1 s
QUIET: ContextVar[bool] = ContextVar("serin_quiet", default=False)  # warming up or trying: nothing counts


class Trial:
    """Tries the model: one try at a time, remembered for a moment."""

    def __init__(self) -> None:
        self._call: Callable[[], Any] | None = None
        self._lock = threading.Lock()
        self._tried = -math.inf
        self._trouble = "the model was not warmed up: call warm_up(lambda: net(EXAMPLE)) before traffic comes"

    def warm_up(self, call: Callable[[], Any], times: int) -> None:
        """The model has run so often and will be tried by `call`; raises what that raises."""
        with self._lock:
            for _ in range(times):
                _sound(call)
            self._call, self._trouble, self._tried = call, "", time.monotonic()

    def trouble(self) -> str:
        """What is wrong; the last answer if that is fresh."""
        if self._call is None or time.monotonic() - self._tried < FRESH:
            return self._trouble
        if not self._lock.acquire(timeout=PATIENCE):
            return "the model has not answered the last try yet"
        try:
            _sound(self._call)
            self._trouble = ""
        except Exception as fault:  # noqa: BLE001 - whatever it is, the model does not compute
            self._trouble = f"the model was tried: {type(fault).__name__}: {fault}"
        finally:
            self._tried = time.monotonic()
            self._lock.release()
        return self._trouble


def _sound(call: Callable[[], Any]) -> None:
    """The call gives an answer; raises if that is False or has a NaN in it."""
    token = QUIET.set(True)
    try:
        answer = call()
    finally:
        QUIET.reset(token)
    if answer is False:
        raise ValueError("it answered False")
    unequal = answer != answer  # noqa: PLR0124 - only NaN is not itself
    if bool(unequal.any() if hasattr(unequal, "any") else unequal):
        raise ValueError("its answer has a NaN")
