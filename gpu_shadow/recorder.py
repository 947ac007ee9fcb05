"""Mirrored requests, kept in memory until they are replayed. It stands behind production, never in it.

Every request is answered 202 whatever becomes of it; what is not kept is counted by reason. Nothing is
written to disk, no header is kept but the request's id, text is not recorded at all, and a request for
which nobody has asked is dropped. Memory is bounded by one budget of bytes, whoever is slow behind it.

**What is kept.** A request is kept if the hash of its id, with a salt, falls below the sampling rate: the
same requests whoever computes it. Of these each stratum (path, tensors' names and shapes) keeps the
`CAPACITY` with the smallest hashes, a sample without replacement that needs no chance and no order; rare
kinds of requests are not crowded out by common ones. The probability of having been kept goes with each.

Which come when decides nothing, and no clock of a sender's is read. The same request under the same id, as
retries and loggers send it, counts once; ids alone do not tell, for callers pass theirs on to all they ask.

**From whom.** Envoy mirrors a request under its host; KServe's logger sends an event (CloudEvents in HTTP's
binary mode) which names the InferenceService and holds the body. Its events of responses are not needed.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from heapq import heappush, heappushpop

from gpu_shadow.protocol import LENGTH, Tensor, Unreadable, length, request, weight
from gpu_shadow.redact import Redaction

BUDGET = 64 * 2**20  # bytes of bodies and tensors at once
MOST = 2**20  # bytes of a request; Envoy does not mirror more than its buffer of 1 MiB
CAPACITY = 5_000  # requests a stratum: so many certify a margin of 1 % (docs/shadow.md)
BESIDE = 1024  # bytes that Python takes for a request of one tensor, whatever is in it
EACH = 512  # and for each tensor more
MOST_STRATA = 64  # a run; callers choose paths and shapes, and may choose them in bad faith
TURN = 32 * 1024  # bytes, as they are counted, that are decoded before others have a turn: half a millisecond
ID = "x-request-id"  # Istio gives each request one
LONGEST_ID = 200
MOST_IDS = 10_000  # a run's last ones are known, at least so many and at most twice
WHOLE = 2**64  # of hashes
EPOCH = datetime.fromtimestamp(0, UTC)
EVENT = "org.kubeflow.serving.inference."  # a `request` or a `response`, says KServe's logger
PREDICTOR = "predictor"  # who of an InferenceService asks the model; a transformer is asked something else
_JSON_BYTES = LENGTH.lower()
HEADERS = frozenset(
    {ID, _JSON_BYTES, "content-encoding", "content-type"}
    | {f"ce-{name}" for name in ("type", "id", "inferenceservicename", "namespace", "component")}
)  # in lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request that is to be replayed; `inclusion` is the probability with which it was kept."""

    id: str
    tensors: Mapping[str, Tensor]
    size: int  # bytes that it holds of the budget
    order: int  # of arrival
    inclusion: float = 1.0
    path: str = ""
    at: datetime = EPOCH  # when it arrived
    slice: str = ""  # what it is reported under, beside all


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A body that has arrived and has not been looked at."""

    stream: "Stream"
    path: str
    id: str  # "" if none was given
    hash: int
    body: bytes
    json_bytes: int | None
    order: int
    at: datetime
    slice: str


@dataclass(slots=True)
class Known:
    """The last requests: which of them come again."""

    new: set[int] = field(default_factory=set)
    old: set[int] = field(default_factory=set)

    def again(self, one: int) -> bool:
        """Whether it is among them; it is from now on."""
        if one in self.new or one in self.old:
            return True
        self.new.add(one)
        if len(self.new) >= MOST_IDS:
            self.old, self.new = self.new, set()
        return False


@dataclass(slots=True)
class Stratum:
    """Of all requests of one kind the `CAPACITY` with the smallest hashes."""

    seen: int = 0
    kept: list[tuple[int, int, Recorded]] = field(default_factory=list)  # a heap of (-hash, order, …)

    def put(self, hashed: int, one: Recorded) -> Recorded | None:
        """The request is kept, or another one or itself falls out and is returned."""
        self.seen += 1
        entry = (-hashed, one.order, one)
        if len(self.kept) < CAPACITY:
            heappush(self.kept, entry)
            return None
        return heappushpop(self.kept, entry)[2]


@dataclass(slots=True, eq=False)
class Stream:
    """What is recorded for one run: the requests to its hosts since it asked."""

    hosts: frozenset[str]
    namespace: str = ""  # of the run; "" if it is of none
    strata: dict[object, Stratum] = field(default_factory=dict)
    seen: int = 0
    taken: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    redacted: set[str] = field(default_factory=set)  # what was changed in any of them, in words
    known: Known = field(default_factory=Known)
    open: bool = True

    def matches(self, host: str) -> int:
        """How closely one of them is this host: 3 itself, 2 by `*.example.com`, 1 by `*`, 0 not at all."""
        if host in self.hosts:
            return 3
        return 2 if f"*.{host.partition('.')[2]}" in self.hosts else int("*" in self.hosts)

    def serves(self, name: str, namespace: str) -> bool:
        """Whether one of them is the InferenceService's, `name.namespace`, whatever domain comes behind."""
        return self.namespace in {"", namespace} and any(_inferred(host) == name for host in self.hosts)


class Recorder:
    """All streams, under one budget. One event loop; nothing here waits."""

    def __init__(
        self,
        *,
        budget: int = BUDGET,
        most: int = MOST,
        sample: float = 1.0,
        salt: str = "",
        redaction: Redaction | None = None,
    ) -> None:
        self.budget = budget
        self.most = most
        self.held = 0  # bytes
        self.seen = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.sink: Callable[[], None] = lambda: None  # is told that something waits
        slices = () if redaction is None else redaction.policy.slices
        self.headers = HEADERS | {name.lower() for name in slices}  # all that is looked at
        self.redaction = redaction
        self._below = round(sample * WHOLE)
        self._sample = sample
        self._key = salt.encode()[:64]
        self._streams: dict[str, Stream] = {}
        self._waiting: deque[_Waiting] = deque()
        self._order = 0

    # -- who asks

    def open(self, name: str, hosts: Collection[str]) -> Stream:
        """Requests to these hosts are recorded under this name from now on; asking again changes nothing."""
        stream = self._streams.get(name)
        if stream is None or stream.hosts != frozenset(hosts):
            self.close(name)
            stream = self._streams[name] = Stream(frozenset(hosts), name.rpartition("/")[0])
        return stream

    def close(self, name: str) -> None:
        """Nothing is recorded under this name any more, and what was is gone."""
        stream = self._streams.pop(name, None)
        if stream is not None:
            stream.open = False
            self.release(*(one for _, _, one in _entries(stream)))
            stream.strata.clear()

    # -- what arrives

    def admit(self, host: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """The request waits to be looked at, or is dropped and counted; `headers` in lower case.

        Of two runs on one host each has it, and it counts for each; their bodies are one, budgeted as two.
        Of two namespaces' neither has it, since nobody can tell whose it is, and both are told.
        """
        event = not _mirrored(host) and _of_events(headers)
        if event:
            reason, streams = _unfit(headers), self._serving(headers)
            given = headers.get("ce-id", "")[:LONGEST_ID]
        else:
            reason, streams = None, self._asking(addressed(host))
            given = headers.get(ID, "")[:LONGEST_ID]
        if not streams or reason is not None:
            self.missed(reason or "unasked")
            return
        ambiguous = len({one.namespace for one in streams}) > 1
        for stream in streams:
            self._put(stream, path, headers, body, given, reason="ambiguous" if ambiguous else None)

    def _asking(self, host: str) -> list[Stream]:
        """The runs that a copy of a request to this host may be of: all of one namespace, or nobody knows.

        Whoever names a Service of another namespace, or many hosts, is not given what is sent there: a name
        may say the namespace, and who names the host goes before who names many.
        """
        _, *labels = host.split(".")
        said = labels[0] if labels[1:2] == ["svc"] else None
        able = (one for one in self._streams.values() if said is None or one.namespace in {"", said})
        found = {one: how for one in able if (how := one.matches(host))}
        closest = max(found.values(), default=0)
        namespaces = {one.namespace for one, how in found.items() if how == closest}
        if len(labels) == 1 and labels[0] in namespaces:  # "model.lab"
            namespaces = {labels[0]}
        return [one for one in found if one.namespace in namespaces]

    def _put(
        self,
        stream: Stream,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        given: str,
        *,
        reason: str | None = None,
    ) -> None:
        self.seen += 1
        stream.seen += 1
        reason = reason or self._refused(headers, body)
        hashed = 0
        if reason is None:
            hashed = int.from_bytes(blake2b(given.encode() or body, digest_size=8, key=self._key).digest())
            reason = "sampled" if hashed >= self._below else None
        if reason is not None:
            self.drop(reason, stream)
            return
        self._order += 1
        self.held += len(body) + BESIDE
        self._waiting.append(
            _Waiting(
                stream,
                path,
                given,
                hashed,
                body,
                length(headers.get(_JSON_BYTES)),
                self._order,
                datetime.now(UTC),
                "" if self.redaction is None else self.redaction.slice_of(headers),
            )
        )
        self.sink()

    def _serving(self, headers: Mapping[str, str]) -> list[Stream]:
        namespace = headers.get("ce-namespace", "")
        name = f"{headers.get('ce-inferenceservicename')}.{namespace}"
        return [one for one in self._streams.values() if one.serves(name, namespace)]

    def _refused(self, headers: Mapping[str, str], body: bytes) -> str | None:
        if headers.get("content-encoding", "identity") != "identity":
            return "compressed"  # what it grows to is its sender's choice
        if len(body) > self.most:
            return "too-large"
        if not body:
            return "empty"
        return "budget" if self.held + len(body) + BESIDE > self.budget else None

    def missed(self, reason: str) -> None:
        """A request was there and nobody has read it, for this reason."""
        self.seen += 1
        self.drop(reason)

    def drop(self, reason: str, stream: Stream | None = None) -> None:
        """One request more was not kept, for this reason."""
        self.dropped[reason] += 1
        if stream is not None:
            stream.dropped[reason] += 1

    # -- what is kept

    def sift(self) -> bool:
        """Some of what waits has been decoded and kept or dropped; whether more waits."""
        done = 0
        while self._waiting and done < TURN:
            one = self._waiting.popleft()
            self.held -= len(one.body) + BESIDE
            done += len(one.body) + BESIDE
            self._sifted(one)
        return bool(self._waiting)

    def _sifted(self, one: _Waiting) -> None:
        if not one.stream.open:
            self.drop("unasked")
            return
        if one.id and one.stream.known.again(hash((one.id, one.body))):
            self.drop("duplicate", one.stream)
            return
        try:
            tensors = self._tensors(one)
        except Exception as trouble:  # noqa: BLE001 - whatever it was, the next one is looked at
            self.drop(trouble.reason if isinstance(trouble, Unreadable) else "error", one.stream)
            return
        kind = one.path, tuple((name, each.shape[1:]) for name, each in sorted(tensors.items()))
        strata = one.stream.strata
        if kind not in strata and len(strata) >= MOST_STRATA:
            self.drop("strata", one.stream)
            return
        # a binary tensor is a view of the body; names and numbers in JSON are as long as they please
        size = max(len(one.body), sum(weight(each) for each in tensors.values()))
        size += BESIDE + EACH * max(0, len(tensors) - 1)
        if self.held + size > self.budget:
            self.drop("budget", one.stream)
            return
        self.held += size
        self.kept += 1
        unnamed = f"{one.hash:016x}" if self.redaction is None else f"#{one.order}"
        kept = Recorded(
            id=one.id or unnamed,
            tensors=tensors,
            size=size,
            order=one.order,
            path=one.path,
            at=one.at,
            slice=one.slice,
        )
        fallen = strata.setdefault(kind, Stratum()).put(one.hash, kept)
        if fallen is not None:
            self.release(fallen)
            self.drop("reservoir", one.stream)

    def _tensors(self, one: _Waiting) -> Mapping[str, Tensor]:
        """The tensors as they may be held; raises `Unreadable` for a request that may not be at all."""
        redaction = self.redaction
        text = redaction is not None and redaction.policy.allow_text
        found = request(one.body, json_bytes=one.json_bytes, text=text).tensors
        if redaction is None:
            return found
        allowed, done = redaction.applied(found, order=one.order)
        one.stream.redacted.update(done)
        return allowed

    def take(self, name: str) -> list[Recorded]:
        """What is kept under this name, in order of arrival; it is the caller's to `release`."""
        stream = self._streams.get(name)
        if stream is None:
            return []
        found = []
        for stratum in stream.strata.values():
            share = self._sample * min(1.0, len(stratum.kept) / max(stratum.seen, 1))
            found += [replace(one, inclusion=share) for _, _, one in stratum.kept]
        stream.strata.clear()  # what came once must not keep others out for ever
        stream.taken += len(found)
        return sorted(found, key=lambda one: one.order)

    def release(self, *done: Recorded) -> None:
        """What these held of the budget is free again."""
        self.held -= sum(one.size for one in done)

    def page(self) -> str:
        """Counters for a metrics page."""
        lines = [
            "# TYPE shadow_capture_seen_total counter",
            f"shadow_capture_seen_total {self.seen}",
            "# TYPE shadow_capture_kept_total counter",
            f"shadow_capture_kept_total {self.kept}",
            "# TYPE shadow_capture_dropped_total counter",
            *(
                f'shadow_capture_dropped_total{{reason="{why}"}} {n}'
                for why, n in sorted(self.dropped.items())
            ),
            "# TYPE shadow_capture_held_bytes gauge",
            f"shadow_capture_held_bytes {self.held}",
        ]
        return "\n".join(lines) + "\n"


def addressed(host: str) -> str:
    """The host that the caller named: without a port, and without the `-shadow` that Envoy appends."""
    name, _, _ = host.lower().partition(":")
    return name.removesuffix("-shadow")


def _mirrored(host: str) -> bool:
    """Whether Envoy says so: then all other headers are the caller's own, and name no other run."""
    return host.lower().partition(":")[0].endswith("-shadow")


def _of_events(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "")
    return headers.get("ce-type", "").startswith(EVENT) or kind.startswith("application/cloudevents")


def _unfit(headers: Mapping[str, str]) -> str | None:
    """Why an event holds no request to the model."""
    kind = headers.get("ce-type", "")
    if not kind.startswith(EVENT):
        return "structured"  # a body within a body
    if kind != f"{EVENT}request":
        return "response"
    return None if headers.get("ce-component", PREDICTOR) == PREDICTOR else "component"


def _inferred(host: str) -> str:
    """The InferenceService that a host in the cluster, or outside of it, belongs to: `name.namespace`."""
    name, _, rest = host.partition(".")
    name = name.removesuffix("-default").removesuffix(f"-{PREDICTOR}")
    return f"{name}.{rest.partition('.')[0]}"


def _entries(stream: Stream) -> Iterator[tuple[int, int, Recorded]]:
    for stratum in stream.strata.values():
        yield from stratum.kept
