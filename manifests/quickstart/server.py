"""A model server that waits as a model would, or SLOWER times as long, and says so at /metrics."""

import os
import random
import time
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from controller.instrument import Instrumented

SLOWER = float(os.environ.get("SLOWER", "1"))
FAILING = float(os.environ.get("FAILING", "0"))  # the share of requests that end in a 500
EXAMPLE = {"amount": 12.5}
model = Instrumented("quickstart", version=os.environ.get("VERSION", "1"), features=EXAMPLE)


@model.request
def infer(row: dict[str, float]) -> float:
    """A score, after some milliseconds: half take less than 20, one in twenty more than 46."""
    model.features(row)
    time.sleep(0.02 * random.lognormvariate(0, 0.5) * SLOWER)
    if random.random() < FAILING:
        raise RuntimeError("as it was told to")
    score = random.betavariate(2, 5)
    model.predicted(score)
    return score


def app(environ: Any, start_response: Any) -> Any:
    """/predict is the model; /metrics and /ready are what it says of itself."""
    if environ["PATH_INFO"] in {"/metrics", "/ready"}:
        return model.wsgi(environ, start_response)
    try:
        body, status = b"%.4f\n" % infer(EXAMPLE), "200 OK"
    except RuntimeError as error:
        body, status = f"{error}\n".encode(), "500 Internal Server Error"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True
    request_queue_size = 128


class Quiet(WSGIRequestHandler):
    """No line for each request."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    model.warm_up(lambda: infer(EXAMPLE))
    with make_server("", int(os.environ.get("PORT", "8080")), app, Server, Quiet) as server:
        server.serve_forever()
