"""`make bench-pages`: what reading one metrics page costs, beside prometheus_client's own parser, in one run.

And a page of 3 kB as most are: parsed, beside taken from where the figures of one laid out alike stood.

The page is that of an Istio sidecar (`:15090/stats/prometheus`, unfiltered): the standard metrics with their
labels for a few callers and one server behind it, and what Envoy says of its clusters. Processor time of this
process; medians, the two parsers in turns, so that a busy machine slows both.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from statistics import median

from prometheus_client.parser import text_string_to_metric_families

from analysis.evidence import CheckKind, CheckSpec
from controller import layouts, reading
from controller.exposition import Series, Wanted
from controller.reading import DURATION, INFERENCE, REQUESTS
from scenarios.page import MILLISECONDS
from scenarios.scale.objects import address
from scenarios.scale.pages import Pods

NAMES = (
    REQUESTS,
    f"{DURATION}_bucket",
    f"{INFERENCE}_bucket",
    f"{INFERENCE}_count",
)  # as a plan's checks want
CHECKS = tuple(
    CheckSpec(name=kind.value, kind=kind)
    for kind in (CheckKind.LATENCY, CheckKind.ERROR_RATE, CheckKind.PREDICTIONS)
)
CALLERS = ("istio-ingressgateway", "checkout", "search")
CODES = ("200", "404", "503")
SIZES = (*(10.0**power for power in range(11)),)  # bytes: Istio's request and response sizes
CLUSTERS = 40  # that Envoy knows of: those of the namespace and the platform's
# Counters that Envoy has of every cluster in Istio's default set of statistics.
OF_A_CLUSTER = (
    *("upstream_cx_total", "upstream_cx_connect_fail", "upstream_cx_http1_total", "upstream_cx_http2_total"),
    *("upstream_cx_tx_bytes_total", "upstream_cx_rx_bytes_total", "upstream_rq_total", "upstream_rq_timeout"),
    *("upstream_rq_pending_overflow", "upstream_rq_retry", "upstream_rq_retry_success", "lb_healthy_panic"),
)


def sidecar() -> bytes:
    """The whole page of a sidecar in the text format."""
    return "\n".join([*_istio(), *_envoy(), ""]).encode()


def _istio() -> Iterator[str]:
    """The standard metrics: the server's own sidecar counts as destination, and as source what it calls."""
    sets = [_labels(caller, code) for caller in CALLERS for code in CODES]
    yield f"# TYPE {REQUESTS} counter"
    yield from (f"{REQUESTS}{{{labels}}} {1000 * at + 17}" for at, labels in enumerate(sets))
    for name, bounds in (
        (DURATION, MILLISECONDS),
        ("istio_request_bytes", SIZES),
        ("istio_response_bytes", SIZES),
    ):
        yield f"# TYPE {name} histogram"
        for at, labels in enumerate(sets):
            *counts, n = accumulate((at + 1) * (step % 5) for step in range(len(bounds) + 1))
            for bound, count in zip(bounds, counts, strict=True):
                yield f'{name}_bucket{{{labels},le="{bound:g}"}} {count}'
            yield f'{name}_bucket{{{labels},le="+Inf"}} {n}'
            yield f"{name}_sum{{{labels}}} {17.5 * n}"
            yield f"{name}_count{{{labels}}} {n}"


def _labels(caller: str, code: str) -> str:
    """The labels of Istio's standard metrics, in its order."""
    spiffe = "spiffe://cluster.local/ns/{}/sa/{}"
    host = "fraud-model.shop.svc.cluster.local"
    given = {
        "reporter": "destination",
        "source_workload": caller,
        "source_canonical_service": caller,
        "source_canonical_revision": "latest",
        "source_workload_namespace": "shop",
        "source_principal": spiffe.format("shop", caller),
        "source_app": caller,
        "source_version": "v1",
        "source_cluster": "Kubernetes",
        "destination_workload": "fraud-model",
        "destination_workload_namespace": "shop",
        "destination_principal": spiffe.format("shop", "fraud-model"),
        "destination_app": "fraud-model",
        "destination_version": "v7",
        "destination_service": host,
        "destination_canonical_service": "fraud-model",
        "destination_canonical_revision": "v7",
        "destination_service_name": "fraud-model",
        "destination_service_namespace": "shop",
        "destination_cluster": "Kubernetes",
        "request_protocol": "http",
        "response_code": code,
        "grpc_response_status": "",
        "response_flags": "UF,URX" if code == "503" else "-",
        "connection_security_policy": "mutual_tls",
    }
    return ",".join(f'{name}="{value}"' for name, value in given.items())


def _envoy() -> Iterator[str]:
    """What Envoy says of itself."""
    for name in OF_A_CLUSTER:
        yield f"# TYPE envoy_cluster_{name} counter"
        for at in range(CLUSTERS):
            cluster = f"outbound|80{at:02}||service-{at}.shop.svc.cluster.local"
            yield f'envoy_cluster_{name}{{cluster_name="{cluster}"}} {at * 3}'


def ours(page: bytes) -> Mapping[str, Sequence[Series]]:
    """The wanted series as the controller reads them."""
    return WANTED.on(page)


def theirs(page: bytes) -> Mapping[str, Sequence[Series]]:
    """The same, by prometheus_client's parser."""
    found: dict[str, list[Series]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            if sample.name in NAMES:
                found.setdefault(sample.name, []).append(Series(sample.labels, sample.value))
    return found


WANTED = Wanted(NAMES)


def milliseconds(read: Callable[[bytes], object], page: bytes) -> float:
    """Processor time of one reading."""
    began = time.process_time()
    read(page)
    return 1e3 * (time.process_time() - began)


def lines(*, times: int) -> Iterator[str]:
    """The table."""
    page = sidecar()
    yield f"{len(page) / 1024:.0f} KiB, {len(page.splitlines())} lines; ms of a core, medians of {times}"
    first = milliseconds(ours, page)
    took = [(milliseconds(ours, page), milliseconds(theirs, page)) for _ in range(times)]
    mine, other = (median(each) for each in zip(*took, strict=True))
    yield f"{'controller.exposition':24} {mine:8.2f}   (the first page, whose labels are new: {first:.2f})"
    yield f"{'prometheus_client':24} {other:8.2f}"
    yield f"{'ratio':24} {other / mine:8.1f}"
    yield from small(times=10 * times)


def small(*, times: int) -> Iterator[str]:
    """The same of one model server's filtered page, second by second: all that a plan wants of it."""
    now, checks = 0.0, CHECKS
    pods = Pods(io.StringIO(), clock=lambda: now)
    took = []
    for second in range(times):
        now = float(second)
        page = pods.page(address(0, "stable", 0))
        took.append(
            (
                milliseconds(lambda page: reading.read(page, checks, at=0.0), page),
                milliseconds(lambda page: layouts.read(page, checks, at=0.0), page),
            )
        )
    parsed, taken = (1e3 * median(each) for each in zip(*took, strict=True))
    yield f"{len(page) / 1024:.1f} KiB, all that a plan wants; µs of a core, medians of {times}"
    yield f"{'controller.reading':24} {parsed:8.1f}"
    yield f"{'controller.layouts':24} {taken:8.1f}"
    yield f"{'ratio':24} {parsed / taken:8.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints it."""
    parser = argparse.ArgumentParser(prog="python -m scenarios.bench_pages", description=__doc__)
    parser.add_argument("--times", type=int, default=30, help="medians of so many (default: 30)")
    for line in lines(times=parser.parse_args(arguments).times):
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
