"""What a metrics page says for each check of a plan: which series it is read from, and the figures.

Latency is the model's own `model_inference_duration_seconds` where the pod has that family, else what
the sidecar measured (with queueing, in milliseconds). Errors and completed requests are the sidecar's,
as the receiving side counted them; a gRPC call fails by its own status, whatever HTTP says. A proportion's
two counters are named by its check.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from analysis.buckets import SCHEMAS, Exponential, on_grid, together
from analysis.evidence import CheckKind, CheckSpec
from analysis.grids import MILLISECONDS, SECONDS
from analysis.samples import Counts, Histogram, Statistic
from controller import protobuf
from controller.exposition import MOST_NEW, Series, Wanted, declares, histogram, is_text, of_sidecar, total
from controller.ports import UNREAD, Reading
from controller.protobuf import Found
from controller.remembered import MIB, Remembered

INFERENCE = "model_inference_duration_seconds"
DURATION = "istio_request_duration_milliseconds"
REQUESTS = "istio_requests_total"
PREDICTION = "model_prediction_value"

# UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the
# server's doing. The others say that the request was wrong, or that nobody wanted the answer any more.
GRPC_FAILURES = frozenset({"2", "4", "8", "12", "13", "14", "15"})

GRIDS = {INFERENCE: SECONDS, DURATION: MILLISECONDS}
# What a page is asked for in: protobuf, in which alone there are native histograms, or else text.
PLAIN = "text/plain;version=0.0.4"
ACCEPT = f"{protobuf.ACCEPT},{PLAIN};q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.1"
# Native histograms that are remembered, and what one weighs on its grid: those of 1 000 pods.
DECODED = Remembered(16 * MIB)
ON_A_GRID = 14_000  # bytes, in the finest schema, beside its message

# What a check reads, and what is read whatever the checks are: how many requests there were.
_FAMILIES: Mapping[CheckKind, tuple[str, ...]] = {
    CheckKind.LATENCY: (INFERENCE, DURATION),
    CheckKind.PREDICTIONS: (PREDICTION,),
}
_ALWAYS = (REQUESTS, f"{INFERENCE}_count")


@lru_cache(maxsize=256)  # plans that are under way; each is a compiled expression
def _wanted(families: frozenset[str], counters: tuple[str, ...]) -> Wanted:
    """What is looked for on the page of a plan that needs these histograms and counters."""
    return Wanted({*(f"{family}_bucket" for family in families), *_ALWAYS, *counters})


def wanted(checks: Sequence[CheckSpec]) -> Wanted:
    """What is looked for on a page in text for these checks."""
    return _wanted(_families(checks), _counters(checks))


def _counters(checks: Sequence[CheckSpec]) -> tuple[str, ...]:
    return tuple(name for check in checks for name in check.counters)


def _families(checks: Sequence[CheckSpec]) -> frozenset[str]:
    """The histograms that the checks need; of no check all that any may need."""
    kinds = {check.kind for check in checks} or _FAMILIES.keys()
    return frozenset(family for kind in kinds for family in _FAMILIES.get(kind, ()))


def read(
    page: bytes, checks: Sequence[CheckSpec], *, at: float, kind: str = "text/plain"
) -> tuple[Reading, tuple[str, ...]]:
    """The page's reading, and a sentence for each thing that is wanted and is not in it.

    `kind` is its content type. Raises `ValueError` if the page as a whole cannot be read.
    """
    return understood(found(page, checks, kind=kind), checks, at=at)


def found(
    page: bytes, checks: Sequence[CheckSpec] = (), *, kind: str = "text/plain", most_new: int = MOST_NEW
) -> Found:
    """All on the page that these checks may want; `ValueError` if the page as a whole cannot be read.

    Without checks: all that any check may want, but counters that a check names.
    """
    counters = _counters(checks)
    if is_protobuf(kind):
        return protobuf.families(page, {INFERENCE, DURATION, PREDICTION, REQUESTS, *counters})
    series = wanted(checks).on(page, most_new=most_new)
    if declares(page, INFERENCE):
        series.setdefault(f"{INFERENCE}_bucket", [])
    for name in counters:  # one whose labels nobody has needed so far is zero
        if declares(page, name):
            series.setdefault(name, [])
    return Found(series, sidecar=of_sidecar(page))


def negotiated(page: bytes, checks: Sequence[CheckSpec] = (), *, kind: str) -> Found:
    """The same for what `ACCEPT` brought; `ValueError` also if it is protobuf and text in one."""
    if is_binary(page, kind=kind) and not is_protobuf(kind):
        raise ValueError("the page is neither text nor protobuf, but both")
    return found(page, checks, kind=kind)


def is_binary(page: bytes, *, kind: str) -> bool:
    """Whether something of the page is protobuf, so that asking for text may help."""
    return is_protobuf(kind) or not is_text(page)


def is_protobuf(kind: str) -> bool:
    """Whether this content type is Prometheus's protobuf format."""
    return kind.partition(";")[0].strip().lower() == protobuf.TYPE


def understood(
    found: Found, checks: Sequence[CheckSpec], *, at: float, where: str = "on the page"
) -> tuple[Reading, tuple[str, ...]]:
    """The reading that these series make, and a sentence for each thing that is wanted and is not there.

    A check whose series is there but makes no sense has a source and no value.
    """
    values: dict[str, Statistic] = {}
    sources: dict[str, str] = {}
    wrong = []
    for check in checks:
        family, value = _SOURCES[check.kind](found, check)
        try:
            values[check.name] = value()
        except KeyError:
            wrong.append(f"{check.name}: {family} is not {where} (yet)")
            if not any(name in found.series for name in check.counters):
                continue  # else its trials are counted already: it does not begin at zero when hits appear
        except ValueError as error:
            wrong.append(f"{check.name}: {family}: {error}")
        sources[check.name] = family
    requests, counter, complaint = _completed(found, where)
    took = _took(found) if INFERENCE in sources.values() else None
    of = workloads(found.series.get(REQUESTS, ()))
    known: Mapping[str, Any] = {"took": took, "of": of, "counter": counter, "sidecar": found.sidecar}
    return Reading(at=at, requests=requests, values=values, sources=sources, **known), (*wrong, *complaint)


def whole(
    readings: Mapping[str, Reading], checks: Iterable[str], *, stable: Iterable[str], canary: Iterable[str]
) -> Mapping[str, Reading]:
    """The readings; what a canary's page may lack with its sidecar's part was not read, and is no zero.

    The agent that makes one page of a pod's leaves that part out while it cannot have it, as at a start. Else
    all that the pod ever served would be news once it comes. Stable's pods tell whether there has to be one.
    """
    if not any(readings[pod].sidecar for pod in stable if pod in readings):
        return readings
    here = ((pod, readings[pod]) for pod in canary if pod in readings)
    lacking = {pod: one for pod, one in here if not one.sidecar and one.counter != REQUESTS}
    unread = dict.fromkeys(checks if lacking else (), UNREAD)
    told = {
        pod: replace(one, sources={**unread, **one.sources}, paged=one.paged and one.requests is not None)
        for pod, one in lacking.items()
    }
    return {**readings, **told}


Labelled = TypeVar("Labelled", Series, protobuf.Native)
Source = tuple[str, Callable[[], Statistic]]


def _latency(found: Found, _: CheckSpec) -> Source:
    """The model's own, also where it is declared and empty so far; else the sidecar's."""
    if INFERENCE in found.native:
        return INFERENCE, lambda: _native(found.native[INFERENCE], INFERENCE)
    if f"{INFERENCE}_bucket" in found.series:
        return INFERENCE, lambda: _bounded(histogram(_some(found.series[f"{INFERENCE}_bucket"])))
    return DURATION, lambda: _seconds(found)


def _bounded(counted: Histogram) -> Histogram:
    """The same; `ValueError` where no bound but infinity is left, as of a native histogram in text."""
    if not counted.le:
        raise ValueError('its only bucket is le="+Inf"; give it buckets, or serve it in protobuf')
    return counted


def _some(series: list[Series]) -> list[Series]:
    """The series; `KeyError` if there are none."""
    if not series:
        raise KeyError("series")
    return series


def _seconds(found: Found) -> Histogram:
    """The sidecar's durations, from milliseconds."""
    if DURATION in found.native:
        return _native(received(found.native[DURATION]), DURATION)
    return histogram(received(found.series[f"{DURATION}_bucket"]), unit=0.001)


def _took(found: Found) -> Histogram | None:
    """The sidecar's durations, where it shows them: the model's leave out how long requests wait for it."""
    try:
        return _seconds(found)
    except (KeyError, ValueError):
        return None


def _native(label_sets: Iterable[protobuf.Native], family: str) -> Histogram:
    """Native histograms, added up, in the family's grid and in seconds."""
    messages = tuple(one.message for one in label_sets)
    found = _decoded.get((messages, family))
    if found is None:
        found = _on_grid(messages, family)
        if DECODED.make_room(ON_A_GRID + sum(map(len, messages))):
            _decoded[messages, family] = found
    return found


# What stood still since it was last decoded: a proxy flushes less often than it is read.
_decoded: dict[tuple[tuple[bytes, ...], str], Histogram] = DECODED.shelf()


def _on_grid(messages: Iterable[bytes], family: str) -> Histogram:
    """The same; an exporter writes what is empty with a schema of its own, which says nothing."""
    counted = [one for one in map(protobuf.exponential, messages) if one.n]
    return on_grid(together([Exponential(SCHEMAS[-1], zero_threshold=0.0), *counted]), GRIDS[family])


def _errors(found: Found, _: CheckSpec) -> Source:
    return REQUESTS, lambda: _failures(found.series[REQUESTS])


def _failures(series: Sequence[Series]) -> Counts:
    counts = _outcomes(series)
    telling(series)
    return counts


def _predictions(found: Found, _: CheckSpec) -> Source:
    return PREDICTION, lambda: _classic(found)


def _classic(found: Found) -> Histogram:
    """Predictions; their distance is measured in buckets of the model's own choice."""
    if PREDICTION in found.native and not found.series[f"{PREDICTION}_bucket"]:
        raise ValueError("is a native histogram only; give it classic buckets as well")
    return histogram(found.series[f"{PREDICTION}_bucket"])


def _proportion(found: Found, check: CheckSpec) -> Source:
    """The hits, or what is missing of the two."""
    hits, trials = check.counters
    missing = [name for name in (hits, trials) if name not in found.series]
    return (missing or [hits])[0], lambda: _share(found.series[trials], found.series[hits], trials)


def _share(trials: Iterable[Series], hits: Iterable[Series], of: str) -> Counts:
    """Trials and those with a hit."""
    counts = Counts(total(trials), total(hits))
    if counts.k > counts.n:
        raise ValueError(
            f"{counts.k} hits of {counts.n} trials ({of}); count a trial when its outcome is known"
        )
    return counts


_SOURCES: Mapping[CheckKind, Callable[[Found, CheckSpec], Source]] = {
    CheckKind.LATENCY: _latency,
    CheckKind.ERROR_RATE: _errors,
    CheckKind.PREDICTIONS: _predictions,
    CheckKind.PROPORTION: _proportion,
}


def _outcomes(series: Iterable[Series]) -> Counts:
    """Completed requests and failed ones."""
    return Counts(*map(total, outcomes(series)))


def outcomes(series: Iterable[Series]) -> tuple[list[Series], list[Series]]:
    """The series of completed requests, and of these the failed ones'; `KeyError` if there is none."""
    mine = received(series)
    return mine, [one for one in mine if _failed(one)]


def telling(series: Sequence[Series]) -> Sequence[Series]:
    """The series; `ValueError` where they do not tell which requests failed, so that none would have.

    A mesh may be told to leave labels out (Telemetry's tagOverrides).
    """
    mine = [one for one in series if one.labels.get("reporter") == "destination"]
    calls = [one for one in mine if one.labels.get("request_protocol") == "grpc"]
    if any(not one.labels.get("response_code") for one in mine):
        raise _untold("response_code")
    if calls and not any(one.labels.get("grpc_response_status") for one in calls):
        raise _untold("grpc_response_status")
    return series


def _untold(label: str) -> ValueError:
    return ValueError(
        f"it has no label {label}, so nobody can tell what failed; see to Telemetry's tagOverrides"
    )


def received(series: Iterable[Labelled]) -> list[Labelled]:
    """What the pod's own sidecar counted as the receiving side; `KeyError` if that is nothing.

    A sidecar also counts the requests that its pod makes of others.
    """
    mine = [one for one in series if one.labels.get("reporter") == "destination"]
    if not mine:
        raise KeyError("reporter")
    return mine


def workloads(series: Iterable[Series]) -> frozenset[str]:
    """Whose requests the sidecar counted as the receiving side; nobody's where it does not say."""
    mine = (one.labels for one in series if one.labels.get("reporter") == "destination")
    return frozenset(filter(None, (labels.get("destination_workload") for labels in mine)))


def _failed(one: Series) -> bool:
    """Whether these requests failed by the server's doing; code 0 is a connection that broke."""
    code = one.labels.get("response_code", "")
    grpc = one.labels.get("grpc_response_status", "")
    return code == "0" or (len(code) == 3 and code.startswith("5")) or grpc in GRPC_FAILURES


def _completed(found: Found, where: str) -> tuple[Counts | None, str, tuple[str, ...]]:
    """Completed requests for breakers, and by which series: the sidecar's, or else the inferences."""
    try:
        return _outcomes(found.series[REQUESTS]), REQUESTS, ()
    except KeyError:
        pass
    except ValueError as error:
        return None, "", (f"{REQUESTS}: {error}",)
    try:
        return Counts(total(found.series[f"{INFERENCE}_count"]), 0), INFERENCE, ()
    except KeyError:
        return None, "", (f"neither {REQUESTS} nor {INFERENCE} is {where} (yet)",)
    except ValueError as error:
        return None, "", (f"{INFERENCE}: {error}",)
