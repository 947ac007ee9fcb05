"""Redaction: what must not be stored is changed before anything is, in memory or on disk.

A policy names tensors, and columns of them, and what becomes of each. It is applied to every request as soon
as it is decoded; of the original nothing is held any more. A request that a rule does not fit (a column that
it has not, a value that cannot be changed so) is not kept at all: nothing slips through by being odd.

The key of `hash` and `noise` is made anew by every process and never written: codes of one capture can be
compared with each other, and with no other capture's.
"""

import hmac
import re
import secrets
from collections.abc import Hashable, Mapping
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import yaml

from gpu_shadow.protocol import Tensor, Unreadable

LARGEST = 64 * 2**10  # bytes of a policy's file
MOST_HASHED = 256  # values a request: about a millisecond, in which nothing else is recorded
LONGEST_SLICE = 100  # characters
SECRETS = ("auth", "cookie", "token", "secret", "password", "session", "api-key", "apikey", "credential")
DONE = {
    "drop": "left out",
    "zero": "set to zero",
    "hash": "hashed",
    "bucket": "put into buckets",
    "noise": "blurred by noise",
}
SHOWN = 200  # characters of either end of what is said of a value
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110's token
EXAMPLE = "expected such as {rules: [{tensor: x, columns: [3], do: zero}]}"


class BadPolicy(ValueError):
    """A policy that cannot be used; the text says which file, which field, and what to do."""


class Rule(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """What becomes of a tensor, or of some columns: places in a row, from 0 on, through all its dimensions.

    - drop: the tensor is left out (whole tensors only);
    - zero: 0, or an empty text;
    - hash: a code by HMAC-SHA256, of at most 32 bits and as many as the type holds; text as hexadecimal;
    - bucket: the highest of `edges` that is not above the value, the lowest for what is below all;
    - noise: normal with the standard deviation `sd` is added; whole numbers stay whole.
    """

    tensor: str
    do: Literal["drop", "zero", "hash", "bucket", "noise"]
    columns: tuple[int, ...] | None = None
    edges: tuple[float, ...] = ()
    sd: float = 0.0

    def __str__(self) -> str:
        where = "" if self.columns is None else f"[{', '.join(map(str, self.columns))}]"
        return f"{self.tensor}{where} {DONE[self.do]}"


class Policy(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """`others` are tensors that no rule names; `slices` headers that requests are reported by."""

    rules: tuple[Rule, ...] = ()
    others: Literal["keep", "drop"] = "keep"
    slices: tuple[str, ...] = ()
    allow_text: bool = False


class _Yaml(yaml.SafeLoader):
    """YAML whose mappings have each key once: of two lists of rules the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 (PyYAML's signature)
        """The mapping; a key that stands twice raises."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(None, None, f"{name} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read(path: Path) -> "Redaction":
    """The policy in the file, YAML or JSON, ready to be applied; raises `BadPolicy`."""
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST + 1)
    except OSError as error:
        raise BadPolicy(
            f"{path}: cannot be read ({error.strerror}); mount it there, or correct the path"
        ) from None
    if len(body) > LARGEST:
        raise BadPolicy(f"{path}: is larger than {LARGEST} bytes; name whole tensors where you can")
    try:
        # A subclass of SafeLoader: nothing but plain values comes out of it.
        policy = msgspec.convert(yaml.load(body, Loader=_Yaml), Policy)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BadPolicy(f"{path}: {line}is not YAML: {error.problem}; {EXAMPLE}") from None
    except msgspec.ValidationError as error:
        raise BadPolicy(f"{path}: {_short(str(error))}; {EXAMPLE}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadPolicy(f"{path}: is not YAML: {error}; {EXAMPLE}") from None
    for wrong in (_wrong(policy), *(_wrong_rule(number, rule) for number, rule in enumerate(policy.rules))):
        if wrong:
            raise BadPolicy(f"{path}: {wrong}")
    return Redaction(policy, digest=f"sha256:{sha256(body).hexdigest()}")


def _wrong(policy: Policy) -> str:
    for name in policy.slices:
        if any(word in name.lower() for word in SECRETS):
            return f"slices: {name} may hold a secret and is never kept; name a header such as x-tenant"
        if not _HEADER.fullmatch(name):
            return f"slices: {_short(repr(name))} is no header's name; name one such as x-tenant"
    return ""


def _short(said: str) -> str:
    """The beginning and the end of it: what is wrong, and where."""
    return said if len(said) <= 2 * SHOWN else f"{said[:SHOWN]} … {said[-SHOWN:]}"


def _wrong_rule(number: int, rule: Rule) -> str:
    where, columns, edges = f"rules[{number}]", rule.columns, rule.edges
    if columns is not None and (not columns or min(columns) < 0 or max(columns) >= 2**31):
        return (
            f"{where}.columns: expected places from 0 on, such as [3]; leave it out for all of {rule.tensor}"
        )
    if rule.do == "drop" and columns is not None:
        return f"{where}.columns: drop takes a whole tensor; use zero for some of its columns"
    if (
        (rule.do == "bucket") != bool(edges)
        or list(edges) != sorted(set(edges))
        or not all(map(isfinite, edges))
    ):
        return (
            f"{where}.edges: expected increasing numbers, such as [0, 18, 65], with bucket and nothing else"
        )
    if (rule.do == "noise") != (rule.sd > 0) or not isfinite(rule.sd):
        return f"{where}.sd: expected a number above 0 with noise and nothing else"
    return ""


class Redaction:
    """A policy and the secret of this capture."""

    def __init__(self, policy: Policy, *, digest: str, key: bytes | None = None) -> None:
        self.policy = policy
        self.digest = digest
        self._key = secrets.token_bytes(32) if key is None else key

    def slice_of(self, headers: Mapping[str, str]) -> str:
        """What the request is reported under: of its headers, by names in lower case, those of the policy.

        One that it has not is empty; "" is of a policy that names none.
        """
        names = map(str.lower, self.policy.slices)
        return ", ".join(f"{name}={headers.get(name, '')}" for name in names)[:LONGEST_SLICE]

    def changes(self, feature: str) -> bool:
        """Whether it is another one than was sent; `x[3]` is column 3 of a tensor x, `x` its only one."""
        name, _, column = feature.rpartition("[")
        tensor, place = (name, int(column[:-1])) if re.fullmatch(r"[0-9]+\]", column) else (feature, 0)
        own = [rule for rule in self.policy.rules if rule.tensor == tensor]
        touched = any(rule.columns is None or place in rule.columns for rule in own)
        return touched or (not own and self.policy.others == "drop")

    def applied(self, tensors: Mapping[str, Tensor], *, order: int) -> tuple[dict[str, Tensor], list[str]]:
        """The tensors as they may be stored, all of them copies, and what was done, in words.

        Raises `Unreadable` with the reason "redaction" for a request that a rule does not fit. `order`
        is the request's number: noise is another one for each.
        """
        found = {name: np.array(one) for name, one in tensors.items()}  # no view: it would hold the body
        done = []
        for rule in self.policy.rules:
            if rule.tensor in found:
                done.append(str(rule))
                with np.errstate(all="ignore"):
                    self._apply(rule, found, order)
        if self.policy.others == "drop":
            named = {rule.tensor for rule in self.policy.rules}
            others = found.keys() - named
            found = {name: one for name, one in found.items() if name in named}
            done += ["tensors that no rule names left out"] if others else []
        if not found:
            raise Unreadable("redaction", "no tensor may be stored")
        return found, done

    def _apply(self, rule: Rule, found: dict[str, Tensor], order: int) -> None:
        if rule.do == "drop":
            del found[rule.tensor]
            return
        rows = found[rule.tensor].reshape(len(found[rule.tensor]) if found[rule.tensor].ndim else 1, -1)
        columns = np.arange(rows.shape[1]) if rule.columns is None else np.array(rule.columns)
        if columns.max(initial=-1) >= rows.shape[1]:
            raise Unreadable(
                "redaction", f"{rule.tensor} has {rows.shape[1]} columns and not {columns.max() + 1}"
            )
        rows[:, columns] = self._changed(rule, rows[:, columns], order)

    def _changed(self, rule: Rule, values: Tensor, order: int) -> Tensor:
        text = values.dtype == object
        if rule.do == "zero":
            return np.full_like(values, b"" if text else 0)
        if rule.do == "hash":
            return self._hashed(rule.tensor, values)
        if text or values.dtype.kind == "b":
            raise Unreadable("redaction", f"{rule.tensor} is of {values.dtype}: no {rule.do} of that")
        if rule.do == "bucket":
            return _bucketed(values, np.array(rule.edges))
        seed = hmac.digest(self._key, f"noise\0{rule.tensor}\0{order}".encode(), "sha256")
        noise = np.random.default_rng(int.from_bytes(seed[:16])).normal(0.0, rule.sd, values.shape)
        return _as(values.dtype, values.astype(float) + noise)

    def _hashed(self, name: str, values: Tensor) -> Tensor:
        if values.size > MOST_HASHED:
            raise Unreadable(
                "redaction", f"{values.size} values of {name} to hash, and at most {MOST_HASHED} are"
            )
        begun = hmac.new(self._key, f"hash\0{name}\0".encode(), sha256)
        if values.dtype == object:
            return np.array([_code(begun, each)[:8].hex().encode() for each in values.flat], object).reshape(
                values.shape
            )
        width, raw = values.dtype.itemsize, _canonical(values).tobytes()
        codes = [_code(begun, raw[at : at + width]) for at in range(0, len(raw), width)]
        whole = np.frombuffer(b"".join(code[:4] for code in codes), ">u4") >> (32 - _bits(values.dtype))
        return whole.astype(values.dtype).reshape(values.shape)


def _code(begun: hmac.HMAC, value: bytes) -> bytes:
    found = begun.copy()
    found.update(value)
    return found.digest()


def _bits(kind: np.dtype[Any]) -> int:
    """Of a code that the type holds exactly."""
    if kind.kind == "b":
        return 1
    exact = np.finfo(kind).nmant + 1 if kind.kind == "f" else int(np.iinfo(kind).max).bit_length()
    return min(32, exact)


def _canonical(values: Tensor) -> Tensor:
    """Equal numbers have equal bytes: one zero, one NaN."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), np.array(np.nan, values.dtype), values + np.array(0, values.dtype))


def _bucketed(values: Tensor, edges: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    lower = edges[np.maximum(np.searchsorted(edges, values, side="right") - 1, 0)]
    found = lower.astype(values.dtype)
    if values.dtype.kind != "f":
        if (found.astype(float) != lower).any():
            raise Unreadable("redaction", f"an edge is no {values.dtype}")
        return found
    return np.where(np.isnan(values), values, found)


def _as(kind: np.dtype[Any], values: Tensor) -> Tensor:
    """In this type; whole numbers are rounded, and none leaves the type's range."""
    if kind.kind == "f":
        return values.astype(kind)
    most = np.iinfo(kind)
    return np.clip(np.rint(values), float(most.min), np.nextafter(float(most.max) + 1, 0)).astype(kind)
