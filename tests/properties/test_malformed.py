"""A thousand ways to write something wrong: each is answered by a clear error, and changes nothing.

Clear is what names the object or the file, the field, and what to do. `malformed` works the ways out.
"""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from controller import planning, settings
from controller.cli import serin
from controller.events import NOTE
from controller.istio import located, seen_weight
from controller.trigger import PREFIX
from gpu_shadow import __main__ as worker
from scenarios.cli import scenario
from scenarios.cluster.messages import Request
from scenarios.fields import Field
from scenarios.objects import CANARY, NAMESPACE, STABLE
from scenarios.people import NotDone
from scenarios.play import Theatre, silent
from scenarios.story import BadStory, loads
from scenarios.story import _story as story_of
from scenarios.virtual.loop import run_virtual, virtual_loop
from scenarios.world import World
from tests.properties.malformed import Kind, of_example, of_schema, of_text, put

Json = Any
# How we, msgspec and an API server say what is to be done.
REMEDY = re.compile(
    r"; \w|[Ee]xpected |did you mean|must |should |supported values|may not be more than|unknown field"
    r"|Required value|Duplicate value|is not one of|is not between|does not have the form|known are|there are"
    r"|give |needs |belongs? to|exactly one of|go from|there can be one|stands beside"
)


def clear(said: str, kind: Kind, *, about: str) -> None:
    """The complaint names what it is about, the field, and the remedy."""
    leaf = re.sub(r"\[\d+\]", "", kind.field).rpartition(".")[2]
    parent = re.sub(r"\[\d+\]", "", kind.field).rpartition(".")[0].rpartition(".")[2]
    assert about in said, f"{kind}: {said}"
    assert leaf in said or (parent and parent in said), f"{kind}: {said}"
    assert REMEDY.search(said), f"{kind}: {said}"
    assert len(said) < 2000, f"{kind}: {len(said)} characters"


# -- policies --------------------------------------------------------------------------------------

POLICY: Json = {
    "steps": [5, 10, 25],
    "warmUp": "30s",
    "minStep": "60s",
    "minRequests": 300,
    "stepTimeout": "10m",
    "progressDeadline": "15m",
    "alpha": 0.01,
    "beta": 0.05,
    "canaryReplicas": "Match",
    "onInconclusive": "Hold",
    "onNoData": "Hold",
    "noDataTimeout": "5m",
    "burstTolerance": "6s",
    "scaleDownDelay": {"promoted": "30s", "rolledBack": "10m"},
    "promotion": {"mode": "Copy"},
    "historyLimit": 10,
    "preflight": "Warn",
    "checks": [
        {
            "name": "p95",
            "type": "Latency",
            "quantile": 0.95,
            "maxIncrease": "20%",
            "share": 0.4,
            "required": True,
            "source": {"scrape": {"port": 8080, "path": "/metrics"}},
        },
        {"name": "tails", "type": "Latency", "quantiles": [0.5, 0.99], "maxIncrease": "20%"},
        {"name": "errors", "type": "ErrorRate", "maxIncrease": "50%", "plus": "0.1%"},
        {"name": "predictions", "type": "Predictions", "tolerance": 0.05},
        {
            "name": "clicks",
            "type": "Proportion",
            "direction": "decrease",
            "maxDecrease": "15%",
            "counters": {"hits": "hits_total", "trials": "shown_total"},
        },
        {"name": "shadow", "type": "Shadow", "maxFlips": "0.5%"},
    ],
    "alerts": [
        {"slack": {"secretRef": {"name": "s", "key": "url"}}, "on": ["RolledBack"]},
        {"webhook": {"url": "https://deploys.example/serin", "secretRef": {"name": "s", "key": "k"}}},
    ],
}
# What no single field breaks: the rules between them.
AT_ODDS = {
    "spec.steps: falling": {"steps": [10, 5]},
    "spec.steps: twice the same": {"steps": [10, 10]},
    "spec.steps: a hundred": {"steps": [10, 100]},
    "spec.minStep: longer than stepTimeout": {"minStep": "20m"},
    "spec.checks: none required": {"checks": [{**POLICY["checks"][2], "required": False}]},
    "spec.checks: Shadow alone": {"checks": [POLICY["checks"][5]]},
    "spec.checks: two Shadow": {"checks": [*POLICY["checks"], {**POLICY["checks"][5], "name": "other"}]},
    **{
        f"spec.checks.{name}: of another type's": {"checks": [{**POLICY["checks"][at], name: value}]}
        for at, kind in ((0, "Latency"), (2, "ErrorRate"), (3, "Predictions"), (4, "Proportion"))
        for name, value in (
            ("quantile", 0.9),
            ("maxIncrease", "5%"),
            ("plus", "1%"),
            ("tolerance", 0.1),
            ("direction", "decrease"),
            ("maxDecrease", "5%"),
            ("maxFlips", "1%"),
        )
        if kind not in planning.BELONGS[name] and (at, name) != (4, "plus")
    },
    **{
        f"spec.checks.{name}: nothing allowed": {"checks": [{**POLICY["checks"][at], name: "0%"}]}
        for at, name in ((0, "maxIncrease"), (4, "maxDecrease"))
    },
}


def broken_policies(*, nulls: bool) -> Iterator[Kind]:
    for kind in of_schema(planning._schema(), POLICY, nulls=nulls):
        yield Kind(f"spec.{kind.field}", kind.way, kind.given)
    for said, changed in AT_ODDS.items():
        field, _, way = said.partition(": ")
        yield Kind(field, way, POLICY | changed)
    for at, name in (
        (0, "maxIncrease"),
        (1, "maxIncrease"),
        (3, "tolerance"),
        (4, "direction"),
        (5, "maxFlips"),
    ):
        check = {key: value for key, value in POLICY["checks"][at].items() if key != name}
        yield Kind(
            f"spec.checks[0].{name}",
            f"needed by {check['type']} ({at})",
            POLICY | {"checks": [check, POLICY["checks"][2]]},
        )


def refused_policies() -> list[Kind]:
    """For an API server: a null there is a field that is not."""
    return list(broken_policies(nulls=False))


def policy_files() -> list[Kind]:
    whole = {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": {"name": "x"},
        "spec": POLICY,
    }
    numbers = [
        Kind("spec.alpha", way, put(whole, ("spec", "alpha"), value))
        for way, value in (("NaN", float("nan")), ("infinite", float("inf")))
    ]
    heads = [
        Kind(name, way, put(whole, (name,), value))
        for name in ("apiVersion", "kind")
        for way, value in (("another", "Deployment"), ("a number", 1), ("a list", []), ("null", None))
    ]
    specs = [Kind(kind.field, kind.way, whole | {"spec": kind.given}) for kind in broken_policies(nulls=True)]
    return [
        *specs,
        *heads,
        *numbers,
        Kind("speck", "misspelt", {"kind": "CanaryPolicy", "speck": {}}),
        *of_text(whole),
    ]


def test_an_api_server_refuses_every_broken_policy_and_keeps_the_good_one() -> None:
    async def story() -> None:
        world = World(clock=virtual_loop().now)
        about = {"apiVersion": "serin.dev/v1alpha1", "kind": "CanaryPolicy"}
        there = world.create(
            about | {"metadata": {"name": "default", "namespace": "default"}, "spec": POLICY}
        )
        changes: list[str] = []
        world.on_change(lambda *change: changes.append(str(change)))
        path = "/apis/serin.dev/v1alpha1/namespaces/default/canarypolicies/default"
        for kind in refused_policies():
            body = json.dumps(there | {"spec": kind.given}).encode()
            query = {"fieldValidation": "Strict"}
            reply = await world.answer(Request(method="PUT", path=path, query=query, body=body))
            assert reply.code in (400, 422), f"{kind}: {reply.code}"
            clear(json.loads(reply.body)["message"], kind, about="CanaryPolicy")
        assert changes == []
        assert world.get("canarypolicies", "default", "default") == there
        await world.close()

    run_virtual(story())


# -- files -----------------------------------------------------------------------------------------


def written(file: Path, given: Json, *, lines: bool = False) -> Path:
    if isinstance(given, bytes):
        file.write_bytes(given)
    elif lines:
        file.write_text("".join(f"{json.dumps(one)}\n" for one in given))
    else:
        file.write_text(yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
    return file


def refused(command: click.Command, arguments: Sequence[str], kind: Kind, *, file: Path) -> None:
    """Exit code 2, a clear sentence, nothing on stdout, and no file beside this one."""
    before = sorted(file.parent.iterdir())
    typed = CliRunner().invoke(command, arguments)
    assert typed.exit_code == 2, f"{kind}: {typed.exit_code} {typed.output} {typed.exception!r}"
    assert typed.stdout == "", f"{kind}: {typed.stdout}"
    clear(" ".join(typed.stderr.split()), kind, about=str(file))
    assert sorted(file.parent.iterdir()) == before


def typed(kinds: Sequence[Kind]) -> list[Kind]:
    """Those that go through the whole command: files that are none, and of the others some."""
    texts = [kind for kind in kinds if isinstance(kind.given, bytes)]
    return [*texts, *[kind for kind in kinds if not isinstance(kind.given, bytes)][::25]]


def test_every_broken_policy_in_a_file_is_refused() -> None:
    file = Path("shop/policy.yaml")
    for kind in policy_files():
        if not isinstance(kind.given, bytes):
            with pytest.raises(planning.BadPolicy) as raised:
                planning.checked(planning._spec(kind.given, file=file), file=file)
            clear(str(raised.value), kind, about=str(file))


def test_a_broken_policy_file_ends_the_command(tmp_path: Path) -> None:
    for kind in typed(policy_files()):
        file = written(tmp_path / "policy.yaml", kind.given)
        refused(serin, ["plan", "--policy", str(file), "--print-policy"], kind, file=file)


STORY: Json = {
    "apiVersion": "serin.dev/v1alpha1",
    "kind": "Scenario",
    "metadata": {"name": "all-words"},
    "spec": {
        "seed": 7,
        "duration": "2m",
        "traffic": {"requestsPerSecond": 100},
        "propagation": "250ms",
        "history": "60s",
        "controllers": 2,
        "stable": {
            "replicas": 3,
            "latency": {"distribution": "lognormal", "median": "20ms", "p95": "60ms"},
            "errorRate": "0.1%",
            "predictions": {"distribution": "beta", "a": 2, "b": 5},
            "clickRate": "40%",
            "model": "digits",
        },
        "canary": {"replicas": 2, "latency": {"distribution": "pareto", "shape": 2.2, "p95": "60ms"}},
        "faults": [
            {"at": "20s", "arm": "canary", "latencyFactor": 2.0, "for": "5s", "pods": "one"},
            {"at": "20s", "arm": "stable", "coldStart": {"factor": 2, "decay": "10s"}, "latencyAdd": "5ms"},
            {"at": "30s", "arm": "canary", "crash": True, "errorRate": "5%"},
            {"at": "40s", "target": "metrics", "kind": "outage", "for": "30s"},
        ],
        "edits": [
            {"at": "30s", "patch": {"kind": "Deployment", "name": "model", "merge": {"metadata": {}}}},
            {"at": "31s", "evict": {"arm": "canary", "pods": 1}},
            {"at": "32s", "delete": {"kind": "Deployment", "name": "model-canary"}},
        ],
        "noise": {
            "common": {"sd": 0.15, "tau": "60s", "diurnal": 0.3},
            "pod": {"sd": 0.08, "tau": "10s", "static": 0.03},
            "bursts": {"perSecond": 0.005, "factor": 2, "lasting": "3s"},
        },
        "policy": {"steps": [10, 50]},
        "expect": {"outcome": "RolledBack", "within": "6s", "check": "latency-p95", "reason": "CheckFailed"},
    },
}
FRACTIONS = (
    "traffic.requestsPerSecond",
    "stable.predictions.a",
    "stable.predictions.b",
    "noise.bursts.factor",
    "faults[1].coldStart.factor",
)


def stories() -> list[Kind]:
    merge = ("spec", "edits", 0, "patch", "merge")
    given = of_example(STORY, free=(merge, ("spec", "policy")))
    fine = {("spec.edits[0].patch.name", "not a word"), ("spec.edits[0].patch.name", "too long")}
    fine |= {("spec.edits[0].patch.name", "a zero byte")}
    fine |= {(field.replace("[0].patch", "[2].delete"), way) for field, way in fine}
    fine |= {(f"spec.{field}", "a fraction") for field in FRACTIONS}
    return [kind for kind in (*given, *of_text(STORY)) if (kind.field, kind.way) not in fine]


def test_every_broken_story_is_refused() -> None:
    for kind in stories():
        if not isinstance(kind.given, bytes):
            with pytest.raises(BadStory) as raised:
                story_of(Field(file="shop/story.yaml", path="", value=kind.given))
            clear(str(raised.value), kind, about="shop/story.yaml")


def test_a_broken_story_ends_the_command(tmp_path: Path) -> None:
    for kind in typed(stories()):
        file = written(tmp_path / "story.yaml", kind.given)
        out = tmp_path / "out.json"
        refused(scenario, ["run", str(file), "--virtual", "--json", str(out)], kind, file=file)


BUCKETS = {"le": [0.005, 0.01, 0.025], "count": [3, 20, 60, 8]}
TICKS: Json = [
    {
        "t": 1.0,
        "weight": 10,
        "stable": {
            "requests": 91,
            "errors": 0,
            "latency": BUCKETS,
            "predictions": {"le": [0.1, 0.2], "count": [10, 40, 41]},
            "proportions": {"clicks": {"trials": 9, "hits": 3}},
            "pods": [{"name": "a", "requests": 30, "errors": 0, "latency": BUCKETS}],
        },
        "canary": {"requests": 9, "errors": 0, "latency": BUCKETS},
    },
    {"t": 2.0, "weight": 10, "stable": {"requests": 91}, "canary": {"requests": 9}},
]


def tick_files() -> list[Kind]:
    free = {"empty", "blanks", "not a word", "too long", "a zero byte"}  # a pod's name is anybody's
    fine = {("[0].t", "negative"), ("[0].stable.proportions.cicks", "misspelt")}
    fine |= {(f"[0].{field}", "null") for field in ("stable.latency", "stable.predictions", "canary.latency")}
    fine |= {("[0].stable.pods[0].latency", "null"), ("[0].stable.predictions.le[0]", "negative")}
    found = [
        Kind(kind.field.replace("[0].", "", 1), kind.way, kind.given)
        for kind in of_example(TICKS)
        if (kind.field, kind.way) not in fine
        if kind.field not in ("", "[0]", "[1]") and not kind.field.startswith("[1]")
        if not (kind.field.endswith("name") and kind.way in free)
        and not (kind.field.endswith("pods") and kind.way == "a list")
    ]
    (first, second), good = TICKS, json.dumps(TICKS[0])
    more = {
        ("t", "no later"): [first, second | {"t": 1.0}],
        ("t", "earlier"): [second, first],
        ("weight", "beyond 100"): [first | {"weight": 101}],
        ("stable.errors", "more than requests"): [first | {"stable": {"requests": 1, "errors": 2}}],
    }
    texts = {
        "empty": "",
        "blank lines": "\n\n",
        "not JSON": "{",
        "YAML": "t: 1\n",
        "a list": "[]",
        "a number": "7",
        "a torn line": good[:-9],
        "two on a line": good + good,
        "NaN": good.replace("1.0", "NaN", 1),
        "out of range": good.replace("1.0", "1e999", 1),
        "nested too deep": "[" * 100_000,
        "a comma last": good[:-1] + ",}",
        "single quotes": good.replace('"', "'"),
        "a comment": "# " + good,
    }
    bodies = {way: text.encode() for way, text in texts.items()}
    bodies |= {
        "Latin 1": b'{"t": "caf\xe9"}',
        "UTF-16": good.encode("utf-16"),
        "no text at all": bytes(range(256)),
    }
    found += [Kind(field, way, given) for (field, way), given in more.items()]
    return found + [Kind("", way, body) for way, body in bodies.items()]


def test_every_broken_tick_file_is_refused(tmp_path: Path) -> None:
    for kind in tick_files():
        file = written(tmp_path / "ticks.jsonl", kind.given, lines=True)
        out = tmp_path / "out.json"
        refused(serin, ["backtest", str(file), "--json", str(out)], kind, file=file)


REDACTION: Json = {
    "rules": [
        {"tensor": "x", "columns": [3, 4], "do": "bucket", "edges": [0, 18, 65]},
        {"tensor": "y", "do": "noise", "sd": 0.5},
        {"tensor": "z", "do": "hash"},
    ],
    "others": "keep",
    "slices": ["x-tenant"],
    "allowText": False,
}


def redactions() -> list[Kind]:
    named = {"empty", "blanks", "not a word", "too long", "a zero byte"}
    numbers = {"a fraction", "negative", "huge", "hugely negative"}
    found = [
        kind
        for kind in (*of_example(REDACTION), *of_text(REDACTION))
        if not (kind.field.endswith("tensor") and kind.way in named)
        if not (re.search(r"edges\[|sd$", kind.field) and kind.way in numbers)
        if (kind.field, kind.way) not in {("rules[0].columns", "null"), ("", "UTF-16")}
    ]
    more = {
        ("rules[0].do", "another word"): put(REDACTION, ("rules", 0, "do"), "scramble"),
        ("rules[2].columns", "of a whole tensor"): put(
            REDACTION, ("rules", 2), {"tensor": "z", "do": "drop", "columns": [1]}
        ),
        ("rules[0].edges", "falling"): put(REDACTION, ("rules", 0, "edges"), [3, 1]),
        ("rules[0].edges", "NaN"): put(REDACTION, ("rules", 0, "edges"), [float("nan")]),
        ("rules[1].sd", "infinite"): put(REDACTION, ("rules", 1, "sd"), float("inf")),
        ("slices", "a secret"): put(REDACTION, ("slices",), ["Authorization"]),
    }
    return found + [Kind(field, way, given) for (field, way), given in more.items()]


def test_every_broken_redaction_policy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for kind in redactions():
        file = written(tmp_path / "redact.yaml", kind.given)
        with pytest.raises(click.UsageError) as raised:
            worker.main.make_context("worker", ["--models", str(tmp_path / "models"), "--redact", str(file)])
        assert raised.value.exit_code == 2
        clear(raised.value.format_message(), kind, about=str(file))


# -- settings --------------------------------------------------------------------------------------

WRONG = {
    "prometheus_url": (
        "prometheus",
        "ftp://p:9090",
        "http://",
        "http://a:b@p",
        "http://p?x=1",
        "http://p#x",
        "http://p:0",
        "http://p:99999",
        "http://p:x",
        " ",
        "http://[::1",
        "//p:9090",
    ),
    "prometheus_interval": (
        "15",
        "0s",
        "500ms",
        "6m",
        "-15s",
        "1.5s",
        "NaN",
        "15 s",
        "15S",
        "1d",
        "\u0663\u0660s",
        "s",
        "9" * 400 + "s",
    ),
    "scrape_interval": ("1", "0s", "2m", "1s1", "NaNs"),
    "scrape_timeout": ("0.5", "0s", "31s", "2s"),
    "tick": ("1", "0s", "2m", "20s"),
    "checkpoint": ("10", "500ms", "10m"),
    "shadow_url": ("worker", "http://a:b@w", "ftp://w", "http://w:0"),
    "shadow_recorder": ("w", "w:0", "w:99999", "w:x", ":8080", "W:1"),
    "shadow_percent": ("0", "101", "-5", "NaN", "inf", "half", "10%%"),
    "freeze": ("perhaps", "2", "tru"),
    "port": ("-1", "65536", "http", "8080.0"),
    "log_format": ("xml", "JSON"),
    "log_level": ("loud", "INFO"),
    "namespace": ("Shop", "-shop", "a/b", "x" * 300),
    "lease_name": ("Lease", "a b"),
    "lease_namespace": ("", "A"),
    "kubeconfig": ("/nowhere/config",),
    "context": (" ",),
    "bind": (" ",),
    "identity": (" ",),
}


def wrong_settings() -> list[Kind]:
    flags = [
        Kind(f"--{name.replace('_', '-')}", text, {name: text})
        for name, texts in WRONG.items()
        for text in texts
    ]
    known = {setting.field: setting.variable for setting in settings.SETTINGS}
    variables = [
        Kind(known[name], text, {known[name]: text})
        for name, texts in WRONG.items()
        for text in texts
        if text
    ]
    unknown = [Kind(f"{name[:-1]}", "misspelt", {name[:-1]: "x"}) for name in known.values()]
    return [*flags, *variables, *unknown]


def test_every_wrong_setting_is_refused() -> None:
    for kind in wrong_settings():
        flags, environ = (kind.given, {}) if kind.field.startswith("--") else ({}, kind.given)
        with pytest.raises(settings.BadSetting) as raised:
            settings.read(flags, environ)
        said = str(raised.value)
        assert (
            kind.field.removeprefix("--") in said
            or kind.field.removeprefix("SERIN_").lower().replace("_", "-") in said
        )
        assert re.search(r"expected |correct it|make |set --", said), said


# -- annotations -----------------------------------------------------------------------------------

STEPS = (
    "",
    " ",
    "5;10",
    "5 10",
    "10,5",
    "5,5",
    "0,5",
    "5,100",
    "5,110",
    "-5,10",
    "5.5,10",
    "5%,10%",
    "five",
    "5,,10",
    "5,",
    ",5",
    "NaN",
    "1e1",
    "[5,10]",
    "5,10\n",
    "\u0665",
    "5\0",
    ",".join(map(str, range(1, 22))),
    "9" * 5000,
    "null",
    "5,inf",
)
MARGINS = (
    "",
    " ",
    "20",
    "0%",
    "-20%",
    "20 %",
    "%",
    "NaN%",
    "inf%",
    "1e2%",
    "20%%",
    ".5%",
    "2.%",
    "20percent",
    "0,5%",
    "10001%",
    "\u0662\u0660%",
    "20%\n",
    "x" * 5000,
    "9" * 5000 + "%",
    "null",
)
WORDS = ("True", "yes", "1", "", "on", "TRUE", "true ", "null", "maybe", "x" * 5000)
NAMED = (
    "",
    " ",
    "Model",
    "a/b",
    "a b",
    "-a",
    "a-",
    "other.namespace/x",
    "a\nb",
    "a\0b",
    "ä",
    "y" * 300,
    "x" * 5000,
    "../x",
)
BELLS = ("", "true", "yes", "Run-1-1", "model canary", "run", "x" * 5000, "1", "now", "model-canary")


def wrong_annotations() -> list[Kind]:
    """What one annotation holds, beside a good `canary-of`; or one that nobody knows."""
    values = {
        "steps": STEPS,
        "max-latency-increase": MARGINS,
        "pause": WORDS,
        **dict.fromkeys(("abort", "approve", "promote"), BELLS),
        **dict.fromkeys(("policy", "virtual-service", "stable-subset", "canary-subset"), NAMED),
        "canary-of": (*NAMED, CANARY),
    }
    found = [
        Kind(PREFIX + name, repr(text[:20]) + str(len(text)), text)
        for name, texts in values.items()
        for text in texts
    ]
    misspelt = (
        [f"{name}s" for name in values]
        + [name.capitalize() for name in values]
        + [name.replace("-", "") for name in values if "-" in name]
    )
    unknown = ("canary", "stable", "weight", "enabled", "x" * 60, "freeze")
    return found + [Kind(PREFIX + name, "unknown", "x") for name in (*misspelt, *unknown)]


ABSENT = {"canary-of": "nobody", "policy": "nobody", "virtual-service": "nobody"}


def absent() -> list[Kind]:
    """Good names of what is not there: seen when a run would be made."""
    return [Kind(PREFIX + name, "of nothing that is there", value) for name, value in ABSENT.items()]


QUIET = """
apiVersion: serin.dev/v1alpha1
kind: Scenario
metadata: {name: quiet}
spec:
  duration: 1h
  traffic: {requestsPerSecond: 20}
  history: 10s
  stable: {replicas: 1, latency: {distribution: lognormal, median: 20ms, p95: 60ms}}
  edits:
  - at: 0s
    patch:
      kind: Deployment
      name: model-canary
      merge: {metadata: {annotations: {serin.dev/canary-of: null}}}
  policy:
    steps: [10, 50]
    minStep: 3h
    stepTimeout: 4h
    checks: [{name: errors, type: ErrorRate, maxIncrease: 50%, plus: 10%}]
  expect: {outcome: Held}
"""


class Room:
    """A world with its controller, and what an annotation on the canary brings about."""

    def __init__(self, theatre: Theatre) -> None:
        self.theatre, self.world = theatre, theatre.world

    async def annotate(self, **notes: str | None) -> None:
        await self.theatre.people.patch("Deployment", CANARY, {"metadata": {"annotations": notes}})
        await asyncio.sleep(1.5)

    def refusals(self) -> list[str]:
        events = self.world.objects("events", NAMESPACE)
        return [
            event.get("note") or event.get("message", "")
            for event in events
            if event.get("reason") == "Refused"
        ]

    def state(self) -> Json:
        """All that an annotation could change."""
        runs = {run["metadata"]["name"]: run["spec"] for run in self.world.objects("canaryruns", NAMESPACE)}
        service = self.world.get("virtualservices", NAMESPACE, STABLE)
        found = located(service, stable_subset="stable", canary_subset="canary")
        deployments = [one["spec"] for one in self.world.objects("deployments", NAMESPACE)]
        return runs, seen_weight(found), service["metadata"]["resourceVersion"], deployments

    async def tried(self, kind: Kind, *, heard: bool) -> None:
        """The annotation is refused, by the API server or in an Event, and changes nothing."""
        before, known = self.state(), self.refusals()
        try:
            await self.annotate(**{f"{PREFIX}canary-of": STABLE, kind.field: kind.given})
        except NotDone as no:
            clear(str(no)[:1999], kind, about="Deployment")
        else:
            new = [note for note in self.refusals() if note not in known]
            assert not heard or len(new) == 1, f"{kind}: {new}"
            for note in new:
                assert len(note.encode()) <= NOTE
                assert not note.endswith("…"), f"{kind}: {note}"
                clear(note, kind, about="")
        assert self.state() == before, str(kind)
        back = None if heard == "asked" else STABLE
        await self.annotate(**{kind.field: None} | ({f"{PREFIX}canary-of": back}))
        assert self.state() == before, str(kind)


def test_every_wrong_annotation_is_refused_and_moves_nothing() -> None:
    async def story() -> None:
        theatre = Theatre(loads(QUIET, file="quiet.yaml"), report=silent)
        try:
            await theatre._set_up()
            await asyncio.sleep(theatre.begins + 1)
            room = Room(theatre)
            for kind in (*wrong_annotations(), *absent()):
                await room.tried(kind, heard="asked")  # nothing is asked for before, and no run is made
            assert theatre.world.objects("canaryruns", NAMESPACE) == []
        finally:
            await theatre.controllers.stop()
            await theatre.pods.stop()
            await theatre.world.close()

    run_virtual(story())


# -- how many --------------------------------------------------------------------------------------


def test_there_are_a_thousand_kinds() -> None:
    kinds = {
        "policies at the API server": refused_policies(),
        "policy files": policy_files(),
        "scenario files": stories(),
        "tick files": tick_files(),
        "redaction policies": redactions(),
        "settings": wrong_settings(),
        "annotations": [*wrong_annotations(), *absent()],
    }
    distinct = {name: {(kind.field, kind.way) for kind in found} for name, found in kinds.items()}
    assert {name: len(found) - len(distinct[name]) for name, found in kinds.items()} == dict.fromkeys(
        kinds, 0
    )
    # a policy's mistake is one kind, wherever the policy stands
    total = len(set().union(*({(name.split()[0], *kind) for kind in distinct[name]} for name in distinct)))
    assert total >= 1_000, {name: len(found) for name, found in distinct.items()}
