"""Worker processes behind one port, as gunicorn forks them: what docs/instrumenting.md says of them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

# The master makes the model and the socket and forks; each worker accepts from the socket that all share, and
# counts a request before each page, as happens between two scrapes.
PREFORK = """
import os, signal, socket, sys
from wsgiref.simple_server import WSGIServer, WSGIRequestHandler
sys.path.insert(0, {room!r})
from controller.instrument import Instrumented

class Quiet(WSGIRequestHandler):
    def log_message(self, *_): pass

model = Instrumented("churn", version="2")
def app(environ, start):
    with model.request():
        model.predicted(0.3)
    return model.wsgi(environ, start)
server = WSGIServer(("127.0.0.1", 0), Quiet)
server.set_app(app)
children = []
for _ in range({workers}):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        server.serve_forever()
    children.append(pid)
print(server.server_port, *children, flush=True)
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
"""


@contextmanager
def serving(workers: int) -> Iterator[tuple[str, list[int]]]:
    """The page, and who may answer."""
    code = PREFORK.format(room=".", workers=workers)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as master:
        assert master.stdin
        assert master.stdout
        try:
            port, *pids = map(int, master.stdout.readline().split())
            yield f"http://127.0.0.1:{port}/metrics", pids
        finally:
            master.stdin.close()
            master.wait(10)


def counts(url: str, scrapes: int) -> list[int]:
    """The count of requests on each page."""
    found = []
    for _ in range(scrapes):
        with urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
        name = "model_inference_duration_seconds_count"
        (line,) = [each for each in page.splitlines() if each.startswith(name)]
        found.append(int(float(line.rsplit(maxsplit=1)[1])))
    return found


def test_one_worker_that_was_forked_counts_every_request() -> None:
    with serving(1) as (url, _):
        assert counts(url, 30) == list(range(1, 31))


def test_of_several_workers_behind_one_port_none_knows_all_and_their_counters_jump_back() -> None:
    found = []
    with serving(3) as (url, pids):
        try:
            for turn in pids:  # whoever is not busy answers: here one after the other
                for pid in pids:
                    os.kill(pid, signal.SIGCONT if pid == turn else signal.SIGSTOP)
                found += counts(url, 5)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
    assert found == [1, 2, 3, 4, 5] * 3  # 15 requests, and twice what looks like a restart
