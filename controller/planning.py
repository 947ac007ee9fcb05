"""A policy before it is used: read from a file, completed with the schema's defaults, and worked out.

The defaults stand in the CRD and nowhere else; here they are read from it.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

Json = Any
API_VERSION = "serin.dev/v1alpha1"
WHOLE = ("apiVersion", "kind", "metadata", "spec", "status")
LARGEST = {"int32": 2**31 - 1, "int64": 2**63 - 1}
HERE = Path(__file__).resolve().parents[1]
# In the repository, and in an installed wheel.
CRDS = (HERE / "manifests" / "base" / "crds.yaml", HERE / "scenarios" / "manifests" / "crds.yaml")
TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"} | {
    "array": "a list",
    "object": "a mapping",
}
UNITS, SPOKEN = "(ms|s|m|h)", "(ms, s, m, h)"  # of a duration, in its pattern and in words
SHOWN = 100  # characters of a wrong value that are repeated back
COUNTERS = "model_clicks_total and model_impressions_total"
# Which fields a kind of check has to say, and whose fields they are.
NEEDS: Mapping[str, Mapping[str, Json]] = {
    "Latency": {"maxIncrease": "20%"},
    "Predictions": {"tolerance": 0.05},
    "Proportion": {"direction": "decrease"},
    "Shadow": {"maxFlips": "0.5%"},
}
BELONGS: Mapping[str, tuple[str, ...]] = {
    "quantile": ("Latency",),
    "quantiles": ("Latency",),
    "maxIncrease": ("Latency", "ErrorRate", "Proportion"),
    "plus": ("ErrorRate", "Proportion"),
    "tolerance": ("Predictions",),
    "direction": ("Proportion",),
    "maxDecrease": ("Proportion",),
    "counters": ("Proportion",),
    "maxFlips": ("Shadow",),
    "source": ("Latency", "ErrorRate", "Predictions", "Proportion"),
}
# Which margins a proportion has, by what its harm is: the first of them is needed.
MARGINS: Mapping[str, tuple[str, ...]] = {
    "decrease": ("maxDecrease",),
    "increase": ("maxIncrease", "plus"),
}
MOST = 10  # mistakes that are named at once
# What other tools call a series in a check; ours has none, and a list of the fields says nothing of that.
NAMED = frozenset({"metric", "metrics", "metricname", "series", "histogram", "query"})
FIXED = (
    "leave it out: which series a type of check reads is fixed (docs/metrics.md#names-of-your-own);"
    " a Proportion names its two counters"
)


class BadPolicy(ValueError):
    """A policy file cannot be used; the text names file, field and remedy."""


@cache
def _schema() -> Json:
    """The schema of CanaryPolicy.spec."""
    import yaml

    file = next((each for each in CRDS if each.is_file()), None)
    if file is None:
        raise BadPolicy(f"the CRDs are missing from this installation ({CRDS[0]}); install serin again")
    documents = yaml.safe_load_all(file.read_text())
    policy = next(each for each in documents if each and each["spec"]["names"]["kind"] == "CanaryPolicy")
    root = policy["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root["properties"]["spec"]


def builtin() -> Json:
    """The spec that holds where nobody wrote a policy."""
    return _completed(_schema(), {})


def read(file: Path) -> Json:
    """The spec of the CanaryPolicy in `file`, completed; a bare spec will do. Raises `BadPolicy`."""
    import yaml

    from controller import documents

    try:
        document = documents.loaded(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadPolicy(
            f"{file}: cannot be read: {error.strerror}; give the path of a policy file"
        ) from error
    except UnicodeDecodeError as error:
        raise BadPolicy(f"{file}: is not UTF-8 text; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        raise BadPolicy(f"{file}: {_unreadable(error)}") from error
    except ValueError as error:
        raise BadPolicy(f"{file}: {error}") from error
    return checked(_spec(document, file=file), file=file)


def checked(spec: Json, *, file: Path) -> Json:
    """A policy's spec, completed; raises `BadPolicy` that names `file`, with a line for all that is wrong."""
    wrong = list(_wrong(_schema(), spec, where="spec"))
    if not wrong or isinstance(spec, dict):
        wrong += _at_odds(_completed(_schema(), _sound(spec) if wrong else spec))
    if wrong:
        named = [f"{file}: {each}" for each in dict.fromkeys(wrong)]
        more = [f"{file}: and {len(named) - MOST} more; mend these first"] if len(named) > MOST else []
        raise BadPolicy("\n".join(named[:MOST] + more))
    return _completed(_schema(), spec)


TOGETHER = ("minStep", "stepTimeout")  # what is wrong with one says nothing of the other


def _sound(spec: Mapping[str, Json]) -> Json:
    """What the schema has nothing against, field by field, so that the rest is looked at all the same."""
    fields = _schema()["properties"]
    bad = {
        name for name, each in spec.items() if name not in fields or any(_wrong(fields[name], each, where=""))
    }
    bad |= set(TOGETHER) if bad & set(TOGETHER) else set()
    return {name: each for name, each in spec.items() if name not in bad}


def _at_odds(completed: Json) -> list[str]:
    """What the controller itself would refuse, else where fields do not fit to each other."""
    from controller import policies

    unusable = policies.unusable(completed)
    return list(_inconsistent(completed)) if unusable is None else [unusable]


def _unreadable(error: Any) -> str:
    """What a YAML parser stumbled over, and where."""
    if "single document" in str(error.context):
        return "holds several documents; give a file with the CanaryPolicy alone"
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}is not YAML: {error.problem or error.context}; correct that place"


def _spec(document: Json, *, file: Path) -> Json:
    if not isinstance(document, dict):
        raise BadPolicy(f'{file}: expected a CanaryPolicy; begin with "kind: CanaryPolicy"')
    if "kind" not in document and "spec" not in document:
        return document
    kind, version = document.get("kind"), document.get("apiVersion", API_VERSION)
    if kind != "CanaryPolicy":
        said = "is missing" if kind is None else f'is "{kind}"'
        story = "; a story's spec.policy in a file of its own will do" if kind == "Scenario" else ""
        raise BadPolicy(f"{file}: kind {said}; expected CanaryPolicy{story}")
    if version != API_VERSION:
        raise BadPolicy(f'{file}: apiVersion is "{version}"; expected {API_VERSION}')
    unknown = next((name for name in document if name not in WHOLE), None)
    if unknown is not None:
        raise BadPolicy(f"{file}: {unknown}: unknown field; {_meant(str(unknown), WHOLE)}")
    spec = document.get("spec")
    return {} if spec is None else spec


def _completed(schema: Json, value: Json) -> Json:
    """`value` with the schema's defaults, as the API server would store it."""
    if isinstance(value, list):
        return [_completed(schema.get("items", {}), each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    given = {name: each["default"] for name, each in fields.items() if "default" in each} | value
    ordered = [name for name in fields if name in given] + [name for name in given if name not in fields]
    return {name: _completed(fields.get(name, {}), given[name]) for name in ordered}


def _wrong(schema: Json, value: Json, *, where: str) -> Iterator[str]:
    """What the schema does not allow in `value`; the API server's CEL rules come on top."""
    kinds = TYPES[schema["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        yield f"{where}: expected {_expected(schema, value)}, got {_shown(value)}"
    elif isinstance(value, dict):
        yield from _wrong_fields(schema, value, where=where)
    elif isinstance(value, list):
        yield from _wrong_items(schema, value, where=where)
    else:
        yield from _wrong_scalar(schema, value, where=where)


def _expected(schema: Json, value: Json) -> str:
    """What belongs there, as one writes it: a duration and a percentage are text with a unit."""
    pattern = schema.get("pattern", "")
    if UNITS in pattern:
        return f'a duration like "{_form(schema)}" {SPOKEN}'
    if pattern.endswith("%$"):
        return f'a percentage like "{_form(schema)}"'
    share = (
        re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*", value) if isinstance(value, str) else None
    )
    if schema["type"] == "number" and share:
        return f"a number such as {float(share[1]) / 100:g} ({share[1]} %)"
    return WORDS[schema["type"]]


def _wrong_fields(schema: Json, value: Mapping[str, Json], *, where: str) -> Iterator[str]:
    fields = schema.get("properties", {})
    for name, each in value.items():
        if name in fields:
            yield from _wrong(fields[name], each, where=f"{where}.{name}")
            continue
        if str(name) == "True":
            yield f'{where}.on: write "on" in quotes, YAML reads a bare on as true'
        yield f"{where}.{name}: unknown field; {_meant(str(name), fields)}"
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where}.{name}: is missing; {_example(fields[name])}"
    if len(value) < schema.get("minProperties", 0):
        yield f"{where}: says nothing; there are {', '.join(fields)}"


def _meant(name: str, fields: Collection[str]) -> str:
    """The field that was meant, or all there are."""
    if not fields:
        return "there are none; leave it out"
    if "counters" in fields and name.lower() in NAMED:
        return FIXED
    close = difflib.get_close_matches(name, fields, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(fields)}"


def _example(schema: Json) -> str:
    if "enum" in schema:
        return f"say one of {', '.join(schema['enum'])}"
    return str(schema.get("description", "add it"))


def _wrong_items(schema: Json, value: Sequence[Json], *, where: str) -> Iterator[str]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        yield f"{where}: has {len(value)} entries; expected {least} to {most}"
    for index, each in enumerate(value):
        yield from _wrong(schema["items"], each, where=f"{where}[{index}]")
    for key in schema.get("x-kubernetes-list-map-keys", ()):
        keys = [each[key] for each in value if isinstance(each, Mapping) and key in each]
        twice = next((each for each in keys if keys.count(each) > 1), None)
        if twice is not None:
            yield f'{where}: "{twice}" is there twice; give each entry a {key} of its own'
    if schema.get("x-kubernetes-list-type") == "set" and any(value.count(each) > 1 for each in value):
        yield f"{where}: {value} has an entry twice; say each once"


def _wrong_scalar(schema: Json, value: Json, *, where: str) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {_shown(value)} is not one of {', '.join(schema['enum'])}"
    elif "pattern" in schema and not re.search(schema["pattern"], value):
        units = f" {SPOKEN}" if UNITS in schema["pattern"] else ""
        yield f'{where}: {_shown(value)} does not have the form of "{_form(schema)}"{units}'
    elif isinstance(value, str):
        low, high = schema.get("minLength", 0), schema.get("maxLength", len(value))
        if not low <= len(value) <= high:
            yield f"{where}: has {len(value)} characters; expected {low} to {high}"
    elif not _within(schema, value):
        low, high = schema.get("minimum"), schema.get("maximum", LARGEST[schema.get("format", "int64")])
        yield f"{where}: {_shown(value)} is not between {low:g} and {high:g}"


def _shown(value: Json) -> str:
    """The value as its author would recognise it, cut short."""
    said = repr(value)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}…"


def _form(schema: Json) -> str:
    """A value that the pattern allows."""
    if "default" in schema:
        return str(schema["default"])
    forms = {"%": "20%", "http": "https://deploys.example/serin", "^/": "/metrics"}
    forms |= {"A-Z": "model_clicks_total", "a-z": "latency-p95"}
    return next((form for sign, form in forms.items() if sign in schema["pattern"]), "30s")


def _within(schema: Json, value: float) -> bool:
    low = schema.get("minimum", value)
    high = schema.get("maximum", LARGEST[schema.get("format", "int64")])
    outside = (schema.get("exclusiveMinimum") and value == low) or (
        schema.get("exclusiveMaximum") and value == high
    )
    return low <= value <= high and not outside


def _inconsistent(spec: Mapping[str, Json]) -> Iterator[str]:
    """What the CRD says in CEL; a test holds the two together."""
    from controller.wire import duration

    steps = spec["steps"]
    if max(steps) > 99 or sorted(set(steps)) != steps:
        yield (
            f"spec.steps: {steps} must increase and end below 100; promotion is what follows the last step,"
            " such as [5, 10, 25, 50]"
        )
    if duration(spec["minStep"]) > duration(spec["stepTimeout"]):
        longer = f"{spec['minStep']} is longer than stepTimeout ({spec['stepTimeout']})"
        yield f"spec.minStep: {longer}; make it shorter"
    yield from _neither_or_both(spec, "alerts", "an alert goes to", "slack", "webhook")
    yield from _neither_or_both(spec, "gates", "a gate is", "manual", "webhook")
    for index, alert in enumerate(spec.get("alerts", ())):
        yield from _misdirected(alert.get("webhook"), where=f"spec.alerts[{index}].webhook")
    if not any(check["required"] for check in spec["checks"]):
        yield "spec.checks: none is required, so that nothing could ever pass; require one"
    replayed = sum(check["type"] == "Shadow" for check in spec["checks"])
    if replayed > 1 or replayed == len(spec["checks"]):
        yield "spec.checks: give one Shadow check, beside at least one check of another type"
    for index, check in enumerate(spec["checks"]):
        yield from _odd(check, where=f"spec.checks[{index}]")


def _neither_or_both(spec: Mapping[str, Json], field: str, what: str, one: str, other: str) -> Iterator[str]:
    for index, entry in enumerate(spec.get(field, ())):
        if (one in entry) == (other in entry):
            yield f"spec.{field}[{index}]: {what} exactly one of {one} and {other}"


def _misdirected(webhook: Mapping[str, Json] | None, *, where: str) -> Iterator[str]:
    """A receiver whose form and address do not fit."""
    if webhook is None:
        return
    from controller.policies import SECRET_URLS, URLS

    form = webhook.get("format", "CloudEvent")
    secret = form in SECRET_URLS
    if secret == ("url" in webhook) or (secret and "secretRef" not in webhook):
        yield f"{where}: {URLS}"
    if form == "Alertmanager" and "secretRef" in webhook:
        yield f"{where}: Alertmanager checks no signature: name no secret"


def _odd(check: Mapping[str, Json], *, where: str) -> Iterator[str]:
    """What a check of its type lacks, or what is not for it."""
    kind = check["type"]
    for name, example in NEEDS.get(kind, {}).items():
        if name not in check:
            yield f"{where}.{name}: is missing; a {kind} check needs it, such as {example}"
    for name, kinds in BELONGS.items():
        if name in check and kind not in kinds:
            yield f"{where}.{name}: belongs to {' and '.join(kinds)} checks, not to {kind}; leave it out"
    if "source" in check and ("scrape" in check["source"]) == ("prometheus" in check["source"]):
        yield f"{where}.source: is exactly one of scrape and prometheus"
    if kind == "Latency" and "quantiles" not in check and "quantile" not in check:
        yield f"{where}.quantile: is missing; a Latency check needs it, such as 0.95, or quantiles"
    elif kind == "Latency" and "quantiles" in check and "quantile" in check:
        yield f"{where}.quantiles: stands beside quantile; say one of the two"
    yield from _proportion(check, where=where) if kind == "Proportion" else ()
    margins = [name for name in ("maxDecrease", "maxFlips", "maxIncrease", "plus") if name in check]
    if kind == "ErrorRate" and not margins:
        yield f'{where}: an ErrorRate check needs maxIncrease or plus, such as "50%" and "0.1%"'
    elif margins and not any(float(check[name][:-1]) for name in margins):
        yield f"{where}.{margins[0]}: must be above 0%; no amount of traffic shows that nothing got worse"


def _proportion(check: Mapping[str, Json], *, where: str) -> Iterator[str]:
    """What does not fit to the direction of a Proportion check, or to each other."""
    for direction, (needed, *others) in MARGINS.items():
        fits = check.get("direction", direction) == direction
        if fits and "direction" in check and needed not in check:
            yield f'{where}.{needed}: is missing; direction: {direction} needs it, such as "15%"'
        for name in (needed, *others):
            if not fits and name in check:
                yield f"{where}.{name}: belongs to direction: {direction}; leave it out, or say that"
    if "counters" in check and check["counters"]["hits"] == check["counters"]["trials"]:
        yield f"{where}.counters: hits and trials are one counter; name two, such as {COUNTERS}"


def as_yaml(spec: Json) -> str:
    """A CanaryPolicy called default, ready to be applied."""
    import yaml

    policy = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": {"name": "default"},
        "spec": spec,
    }
    text: str = yaml.safe_dump(policy, sort_keys=False, width=100)
    return text


# -- what a policy takes at a rate of requests -----------------------------------------------------


def least(spec: Json, requests_per_second: float) -> list[timedelta]:
    """How long each step lasts at least: until it has its time and its requests."""
    from controller.wire import LONGEST, duration

    shortest, longest = duration(spec["minStep"]), LONGEST.total_seconds()
    rates = [requests_per_second * weight / 100 for weight in spec["steps"]]
    waits = [spec["minRequests"] / rate if rate else longest for rate in rates]
    return [max(shortest, timedelta(seconds=ceil(min(wait, longest)))) for wait in waits]


def schedule(spec: Json, requests_per_second: float) -> list[str]:
    """How long each step lasts at least, and what each check permits. No estimate of power."""
    from controller.explain import duration
    from controller.wire import duration as written

    timeout, lines, times = written(spec["stepTimeout"]), [], least(spec, requests_per_second)
    patience = min(timeout, written(spec["noDataTimeout"])).total_seconds()
    for weight, needed in zip(spec["steps"], times, strict=True):
        rate = requests_per_second * weight / 100
        late = (
            ""
            if needed <= timeout
            else f"; longer than stepTimeout ({spec['stepTimeout']}): {spec['onInconclusive']}"
        )
        if rate * patience < 1:
            late += f"; not one request in noDataTimeout ({spec['noDataTimeout']}): {spec['onNoData']}"
        lines.append(
            f"{weight:3d} %  {rate:8.4g} canary requests/s  at least {duration(needed)}"
            f" ({max(spec['minRequests'], int(rate * needed.total_seconds()))} requests){late}"
        )
    waits = " and stepTimeout allows it" if any("longer" in line for line in lines) else ""
    total = duration(sum(times, timedelta(0)))
    return [*lines, f"Promotion after at least {total}, if every required check passes at once{waits}."]


def permitted(spec: Json) -> list[str]:
    """What each check lets pass, in words."""
    from controller import record
    from controller.explain import allowed, proved_less, subject

    lines = []
    for each in record.findings({"spec": {"plan": {"policy": spec}}}):
        less = proved_less(each)
        takes = f"; a step is passed once {less} is proved" if less else ""
        lines.append(f"{each.name}: {subject(each)}, {allowed(each)}{takes}")
    return lines
