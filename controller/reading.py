"""What a metrics page says for each check of a plan: which series it is read from, and the figures.

Latency is the model's own `model_inference_duration_seconds` where the pod has that family, else what
the sidecar measured (with queueing, in milliseconds). Errors and completed requests are the sidecar's,
as the receiving side counted them; a gRPC call fails by its own status, whatever HTTP says. A proportion's
two counters are named by its check.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

from analysis.evidence import CheckKind, CheckSpec
from analysis.samples import Counts, Histogram, Statistic
from controller.exposition import Series, Wanted, declares, histogram, total
from controller.ports import Reading

INFERENCE = "model_inference_duration_seconds"
DURATION = "istio_request_duration_milliseconds"
REQUESTS = "istio_requests_total"
PREDICTION = "model_prediction_value"

# UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: the
# server's doing. The others say that the request was wrong, or that nobody wanted the answer any more.
GRPC_FAILURES = frozenset({"2", "4", "8", "12", "13", "14", "15"})

Found = Mapping[str, list[Series]]

_ALWAYS = (*(f"{family}_bucket" for family in (INFERENCE, DURATION, PREDICTION)), REQUESTS)


@lru_cache(maxsize=256)  # plans that are under way; each is a compiled expression
def _wanted(counters: tuple[str, ...]) -> Wanted:
    """What is looked for on the page of a plan that names these counters."""
    return Wanted({*_ALWAYS, f"{INFERENCE}_count", *counters})


def read(page: bytes, checks: Sequence[CheckSpec], *, at: float) -> tuple[Reading, tuple[str, ...]]:
    """The page's reading, and a sentence for each thing that is wanted and is not in it.

    Raises `ValueError` if the page as a whole cannot be read.
    """
    counters = tuple(name for check in checks for name in check.counters)
    found = _wanted(counters).on(page)
    if declares(page, INFERENCE):
        found.setdefault(f"{INFERENCE}_bucket", [])
    for name in counters:  # one whose labels nobody has needed so far is zero
        if declares(page, name):
            found.setdefault(name, [])
    return understood(found, checks, at=at)


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
            continue
        except ValueError as error:
            wrong.append(f"{check.name}: {family}: {error}")
        sources[check.name] = family
    requests, complaint = _completed(found, where)
    return Reading(at=at, requests=requests, values=values, sources=sources), (*wrong, *complaint)


Source = tuple[str, Callable[[], Statistic]]


def _latency(found: Found, _: CheckSpec) -> Source:
    """The model's own, also where it is declared and empty so far; else the sidecar's."""
    if f"{INFERENCE}_bucket" in found:
        return INFERENCE, lambda: histogram(_some(found[f"{INFERENCE}_bucket"]))
    return DURATION, lambda: _seconds(found)


def _some(series: list[Series]) -> list[Series]:
    """The series; `KeyError` if there are none."""
    if not series:
        raise KeyError("series")
    return series


def _seconds(found: Found) -> Histogram:
    """The sidecar's durations, from milliseconds."""
    return histogram(_received(found[f"{DURATION}_bucket"]), unit=0.001)


def _errors(found: Found, _: CheckSpec) -> Source:
    return REQUESTS, lambda: _outcomes(found[REQUESTS])


def _predictions(found: Found, _: CheckSpec) -> Source:
    return PREDICTION, lambda: histogram(found[f"{PREDICTION}_bucket"])


def _proportion(found: Found, check: CheckSpec) -> Source:
    """The hits, or what is missing of the two."""
    hits, trials = check.counters
    missing = [name for name in (hits, trials) if name not in found]
    return (missing or [hits])[0], lambda: _share(found[trials], found[hits], trials)


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
    mine = _received(series)
    return Counts(total(mine), total(one for one in mine if _failed(one)))


def _received(series: Iterable[Series]) -> list[Series]:
    """What the pod's own sidecar counted as the receiving side; `KeyError` if that is nothing.

    A sidecar also counts the requests that its pod makes of others.
    """
    mine = [one for one in series if one.labels.get("reporter") == "destination"]
    if not mine:
        raise KeyError("reporter")
    return mine


def _failed(one: Series) -> bool:
    """Whether these requests failed by the server's doing; code 0 is a connection that broke."""
    code = one.labels.get("response_code", "")
    grpc = one.labels.get("grpc_response_status", "")
    return code == "0" or (len(code) == 3 and code.startswith("5")) or grpc in GRPC_FAILURES


def _completed(found: Found, where: str) -> tuple[Counts | None, tuple[str, ...]]:
    """Completed requests for breakers: the sidecar's count, else how many inferences there were."""
    try:
        return _outcomes(found[REQUESTS]), ()
    except KeyError:
        pass
    except ValueError as error:
        return None, (f"{REQUESTS}: {error}",)
    try:
        return Counts(total(found[f"{INFERENCE}_count"]), 0), ()
    except KeyError:
        return None, (f"neither {REQUESTS} nor {INFERENCE} is {where} (yet)",)
    except ValueError as error:
        return None, (f"{INFERENCE}: {error}",)
