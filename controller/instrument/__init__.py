"""What a model server says of itself, so that Serin can compare it; to be imported, or copied as a folder.

    model = Instrumented("churn", version="2")
    model.warm_up(lambda: net(EXAMPLE))          # ready from now on, and tried again by each probe
    with model.request():                        # or @model.request, on sync and async functions
        scores = net(rows)
        model.predicted(scores)

What belongs here: all that a model server needs to be compared, with the standard library alone.
`docs/instrumenting.md` shows a whole server. What does not: the rest of Serin, none of which is imported.
"""

from .histograms import SCORES, SECONDS, Histogram, steps
from .model import Instrumented

__all__ = ["SCORES", "SECONDS", "Histogram", "Instrumented", "steps"]
