"""Users of the model: RATE requests a second to URL, each at its own moment, whatever became of others."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

URL = os.environ.get("URL", "http://model/predict")
RATE = float(os.environ.get("RATE", "100"))


def ask() -> None:
    """One request; its answer is nobody's."""
    with suppress(URLError, OSError), urlopen(URL, timeout=10) as answer:
        answer.read()


if __name__ == "__main__":
    due = time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        while True:
            due += random.expovariate(RATE)
            time.sleep(max(0.0, due - time.monotonic()))
            pool.submit(ask)
