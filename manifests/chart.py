"""The Helm chart, written from the kustomize base and components: python -m manifests.chart [FOLDER].

What is installed stands in `base` and `components` only. Here stands which of its fields are values
(`PLACES`), and which components a value switches (`COMPONENTS`): what a component adds to the base is found
by building both. The templates use little of Helm's language, so that tests can render them without it.
"""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from controller import settings
from controller.settings import MOST_SHARDS

Json = Any
HERE = Path(__file__).parent
ROOT = HERE.parent
NAMESPACE = "serin-system"  # of the manifests; a release has its own

COMPONENTS = ("shadow", "monitoring", "egress")  # each is there where its value `enabled` says so
BESIDE = {("shadow", "shadow-monitoring"): "shadow.monitoring"}  # what only adds objects to another one's
WITHIN = {("shadow", "shadow-keep"): "shadow.keep"}  # what only adds items to another one's objects

# Settings that the templates give themselves; all others are values.
GIVEN = {"kubeconfig", "context", "identity", "lease_name", "lease_namespace", "shards", "bind", "port"}

# What is written in place of a field: an expression, or a block of Helm's that stands for the whole line.
IMAGE = "{{{{ .Values.{0}.repository }}}}:{{{{ .Values.{0}.tag }}}}"
WITH = "{{{{- with .Values.{0} }}}}\n{1}{2}:\n{1}  {{{{- toYaml . | nindent {3} }}}}\n{{{{- end }}}}"
LEASES = """\
{0}- serin-controller
{{{{- range $i := untilStep 1 (int .Values.shards) 1 }}}}
{0}- serin-controller-{{{{ $i }}}}
{{{{- end }}}}"""
ENVIRONMENT = """\
{{{{- if gt (int .Values.shards) 1 }}}}
{0}- name: SERIN_SHARDS
{0}  value: {{{{ .Values.shards | quote }}}}
{{{{- end }}}}
{{{{- range $name, $value := .Values.settings }}}}
{0}- name: {{{{ $name }}}}
{0}  value: {{{{ $value | quote }}}}
{{{{- end }}}}"""
LABELS = "{{{{- with .Values.monitoring.labels }}}}\n{0}{{{{- toYaml . | nindent {1} }}}}\n{{{{- end }}}}"

POD = ("spec", "template", "spec")
MORE = "@@more"  # an item, or a key, after all others
# Kind and name of an object, where in it, and what stands there instead.
PLACES: Sequence[tuple[str, str, tuple[str | int, ...], str]] = (
    ("Deployment", "serin-controller", ("spec", "replicas"), "expression {{ .Values.replicas }}"),
    ("Deployment", "serin-controller", (*POD, "containers", 0, "image"), "image image"),
    ("Deployment", "serin-controller", (*POD, "containers", 0, "resources"), "with resources"),
    ("Deployment", "serin-controller", (*POD, "containers", 0, "env", MORE), "environment"),
    ("Deployment", "serin-controller", (*POD, "imagePullSecrets"), "with imagePullSecrets"),
    ("Deployment", "serin-controller", (*POD, "nodeSelector"), "with nodeSelector"),
    ("Deployment", "serin-controller", (*POD, "tolerations"), "with tolerations"),
    ("Role", "serin-controller-lease", ("rules", 1, "resourceNames"), "leases"),
    ("Deployment", "serin-shadow", (*POD, "containers", 0, "image"), "image shadow.image"),
    ("Deployment", "serin-shadow", (*POD, "containers", 0, "resources"), "with shadow.resources"),
    ("Deployment", "serin-shadow", (*POD, "imagePullSecrets"), "with imagePullSecrets"),
    ("Deployment", "serin-shadow", (*POD, "nodeSelector"), "with shadow.nodeSelector"),
    ("Deployment", "serin-shadow", (*POD, "tolerations"), "with shadow.tolerations"),
    (
        "Deployment",
        "serin-shadow",
        (*POD, "volumes", 0, "persistentVolumeClaim", "claimName"),
        "expression {{ .Values.shadow.modelsClaim }}",
    ),
    ("ServiceMonitor", "serin-controller", ("metadata", "labels", MORE), "labels"),
    ("PrometheusRule", "serin-controller", ("metadata", "labels", MORE), "labels"),
    ("PodMonitor", "serin-shadow", ("metadata", "labels", MORE), "labels"),
)


def built(*components: str) -> list[Json]:
    """The objects of the base with these components."""
    return list(yaml.load_all(_kustomized(*components), Loader=yaml.CSafeLoader))


@cache
def _kustomized(*components: str) -> str:
    with tempfile.TemporaryDirectory(dir=HERE) as folder:  # kustomize knows neighbours, not absolute paths
        wanted = {"resources": ["../base"], "components": [f"../components/{name}" for name in components]}
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        kubectl = Path(sys.executable).with_name("kubectl")
        return subprocess.run(
            [kubectl, "kustomize", folder], capture_output=True, text=True, check=True
        ).stdout


def name_of(obj: Json) -> tuple[str, str]:
    """Its kind and name."""
    return obj["kind"], obj["metadata"]["name"]


def switched(less: Json, more: Json, component: str) -> Json:
    """`less`, and within it, where the component is switched on, what `more` has beyond it."""
    if less == more:
        return less
    if isinstance(less, dict) and less.keys() == more.keys():
        return {key: switched(value, more[key], component) for key, value in less.items()}
    if isinstance(less, list) and len(less) == len(more):
        return [switched(one, other, component) for one, other in zip(less, more, strict=True)]
    if isinstance(less, list) and less == more[: len(less)]:
        return [*less, f"@@if {component}", *more[len(less) :], "@@end"]
    raise ValueError(f"component {component} changes {less!r} to {more!r}; a chart can only have added items")


def templates() -> Iterator[tuple[str, str]]:
    """Each template's file name and text."""
    base = {name_of(obj): obj for obj in built() if obj["kind"] != "Namespace"}
    done = dict(base)
    for component in COMPONENTS:
        more = {name_of(obj): obj for obj in built(component) if obj["kind"] != "Namespace"}
        done |= {
            name: switched(base[name], more[name], component) for name in base if base[name] != more[name]
        }
        added = written([_within(component, obj) for name, obj in more.items() if name not in base])
        yield f"{component}.yaml", f"{{{{- if .Values.{component}.enabled }}}}\n{added}{{{{- end }}}}\n"
    for (first, component), value in BESIDE.items():
        before, more = ({name_of(obj): obj for obj in built(*one)} for one in ((first,), (first, component)))
        if any(more[name] != obj for name, obj in before.items()):
            raise ValueError(
                f"component {component} changes objects of {first}; a chart can only have added ones"
            )
        added = written([obj for name, obj in more.items() if name not in before])
        switches = [f"{{{{- if .Values.{each}.enabled }}}}\n" for each in (first, value)]
        yield f"{component}.yaml", f"{''.join(switches)}{added}{{{{- end }}}}\n{{{{- end }}}}\n"
    definitions = [obj for (kind, _), obj in done.items() if kind == "CustomResourceDefinition"]
    for (
        obj
    ) in definitions:  # uninstalled with the release, they would take everybody's policies and runs along
        obj["metadata"]["annotations"] = {"helm.sh/resource-policy": "keep"}
    yield "crds.yaml", f"{{{{- if .Values.crds.enabled }}}}\n{written(definitions)}{{{{- end }}}}\n"
    yield "controller.yaml", written([obj for obj in done.values() if obj not in definitions])


def _within(component: str, obj: Json) -> Json:
    """An object of the component, and within it what others, where they are switched on, add to it."""
    for (first, second), value in WITHIN.items():
        if first == component:
            more = {name_of(one): one for one in built(first, second)}
            obj = switched(obj, more[name_of(obj)], value)
    return obj


def written(objects: Sequence[Json]) -> str:
    """The objects as a template."""
    for obj in objects:
        for kind, name, path, what in PLACES:
            if name_of(obj) == (kind, name):
                _put(obj, path, f"@@{what}")
    text = "".join(f"---\n{yaml.dump(obj, Dumper=_Plain, sort_keys=False, width=10**6)}" for obj in objects)
    text = text.replace("{{", '{{ "{{" }}').replace(NAMESPACE, "{{ .Release.Namespace }}")
    text = re.sub(r"@@expression \{\{ \"\{\{\" \}\}", "@@expression {{", text)
    return "".join(f"{_line(line)}\n" for line in text.splitlines())


class _Plain(yaml.CSafeDumper):
    """Without aliases: equal parts are written out."""

    def ignore_aliases(self, data: Json) -> bool:
        del data
        return True


def _put(obj: Json, path: Sequence[str | int], marker: str) -> None:
    *way, last = path
    for step in way:
        obj = obj[step]
    if last != MORE:
        obj[last] = marker
    elif isinstance(obj, list):
        obj.append(marker)
    else:
        obj[marker] = ""


_MARKED = re.compile(
    r"^(?P<indent> *)(?:(?P<key>[\w.]+): |- )?'?@@(?P<what>\w+) ?(?P<value>[^']*)'?(?:: '')?$"
)


def _line(line: str) -> str:
    """A line of YAML, or what Helm's language has in its place."""
    found = _MARKED.match(line)
    if not found:
        return line
    indent, key, what, value = found["indent"], found["key"], found["what"], found["value"]
    if what == "with":
        return WITH.format(value, indent, key, len(indent) + 2)
    expression = f'"{IMAGE.format(value)}"' if what == "image" else value
    blocks = {
        "if": f"{{{{- if .Values.{value}.enabled }}}}",
        "end": "{{- end }}",
        "leases": f"{indent}{key}:\n{LEASES.format(indent)}",
        "environment": ENVIRONMENT.format(indent),
        "labels": LABELS.format(indent, len(indent)),
    }
    return blocks.get(what, f"{indent}{key}: {expression}")


@cache
def values() -> Sequence[tuple[str, Json, Json, str]]:
    """Each value: its path, what it is if nobody says, its schema, and what it does."""
    return tuple(_values())


def _values() -> Iterator[tuple[str, Json, Json, str]]:
    objects = {name_of(obj): obj for obj in built("shadow")}
    controller, shadow = (objects["Deployment", f"serin-{name}"] for name in ("controller", "shadow"))
    count = {"type": "integer", "minimum": 1}
    yield (
        "replicas",
        controller["spec"]["replicas"],
        count,
        "One leads, the others stand by; with shards all work.",
    )
    yield from _image("image", controller, "docker build --target controller")
    secrets = {"type": "array", "items": {"type": "object", "required": ["name"]}}
    yield "imagePullSecrets", [], secrets, "For a registry that asks who you are: [{name: …}]."
    yield (
        "resources",
        _container(controller)["resources"],
        {"type": "object"},
        "No CPU limit: it would delay rollbacks.",
    )
    known = {one.variable: {"type": "string", "description": one.help} for one in settings.SETTINGS}
    known = {
        name: schema for name, schema in known.items() if name.removeprefix("SERIN_").lower() not in GIVEN
    }
    yield (
        "settings",
        {},
        {"properties": known, **CLOSED},
        "Variables of the controller, as `serin controller --help` says.",
    )
    shards = {**count, "maximum": MOST_SHARDS}
    yield (
        "shards",
        1,
        shards,
        "Parts that canaries are split into; twice as many as replicas where one is not enough.",
    )
    yield "nodeSelector", {}, {"type": "object"}, "Which nodes the controller may be on."
    yield "tolerations", [], {"type": "array"}, "Which taints of them it bears."
    flag = {"type": "boolean"}
    yield "crds.enabled", True, flag, "CanaryPolicy and CanaryRun; they stay when the release goes."
    yield (
        "monitoring.enabled",
        False,
        flag,
        "ServiceMonitor, alerts and dashboard, for the Prometheus Operator and Grafana.",
    )
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    yield (
        "monitoring.labels",
        {},
        labels,
        "By which your operator finds them, such as release: kube-prometheus-stack.",
    )
    yield "egress.enabled", False, flag, "A NetworkPolicy of what the controller may reach; read it first."
    yield "shadow.enabled", False, flag, "The worker of Shadow checks."
    yield from _image("shadow.image", shadow, "docker build --target gpu-shadow")
    claim = shadow["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    yield "shadow.modelsClaim", claim, {"type": "string"}, "A claim of yours with the models' files."
    limits = {"type": "object"}
    yield (
        "shadow.resources",
        _container(shadow)["resources"],
        limits,
        "On a GPU: limits with nvidia.com/gpu: 1 as well.",
    )
    yield "shadow.nodeSelector", {}, {"type": "object"}, "Which nodes the worker may be on."
    yield "shadow.tolerations", [], {"type": "array"}, "Which taints of them it bears."
    yield (
        "shadow.keep.enabled",
        False,
        flag,
        "It keeps what it replays, a day of at most 1 GiB, encrypted: Secret serin-shadow-key, entry key.",
    )
    yield (
        "shadow.monitoring.enabled",
        False,
        flag,
        "A PodMonitor of it, with monitoring.labels; lets in Prometheus' pods of the namespace monitoring.",
    )


CLOSED: Json = {"type": "object", "additionalProperties": False}


def _container(deployment: Json) -> Json:
    return deployment["spec"]["template"]["spec"]["containers"][0]


def _image(path: str, deployment: Json, made: str) -> Iterator[tuple[str, Json, Json, str]]:
    name, _, tag = _container(deployment)["image"].rpartition(":")
    yield (
        f"{path}.repository",
        name,
        {"type": "string", "minLength": 1},
        f"Where you pushed it; `{made}` makes it.",
    )
    yield f"{path}.tag", tag, {"type": "string", "minLength": 1}, "Which of them."


def values_yaml() -> str:
    """The values' file: each with what it does."""
    before: list[str] = []
    lines = ["# What the chart lets you say. All else is as in manifests/base and manifests/components."]
    for path, value, _, about in values():
        *folders, name = path.split(".")
        for depth, folder in enumerate(folders):
            if folders[: depth + 1] != before[: depth + 1]:
                lines += ["", f"{'  ' * depth}{folder}:"] if not depth else [f"{'  ' * depth}{folder}:"]
        before, indent = folders, "  " * len(folders)
        lines += [] if folders else [""]
        text = yaml.safe_dump({name: value}, sort_keys=False).splitlines()
        lines += [f"{indent}# {about}", *(f"{indent}{line}" for line in text)]
    return "\n".join(lines) + "\n"


def values_schema() -> Json:
    """The values' JSON schema; a name that it does not know is refused."""
    root: Json = {"$schema": "http://json-schema.org/draft-07/schema#", **CLOSED, "properties": {}}
    for path, _, schema, about in values():
        *folders, name = path.split(".")
        at = root
        for folder in folders:
            at = at["properties"].setdefault(folder, {**CLOSED, "properties": {}})
        at["properties"][name] = {**schema, "description": about}
    root["properties"]["global"] = {"type": "object"}  # Helm's own
    return root


NOTES = """\
Serin {{ .Chart.AppVersion }} is in the namespace {{ .Release.Namespace }}.

  kubectl rollout status deployment/serin-controller -n {{ .Release.Namespace }}
  kubectl get leases -n {{ .Release.Namespace }}

A canary is asked for by an annotation on its Deployment, serin.dev/canary-of: NAME-OF-STABLE.
Before you uninstall, end the runs that have traffic: kubectl get canaryruns -A
"""


@cache
def chart() -> Mapping[str, str]:
    """The chart's files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = {
        "apiVersion": "v2",
        "name": project["name"],
        "description": project["description"],
        "type": "application",
        "version": project["version"],
        "appVersion": project["version"],
        "kubeVersion": ">=1.29.0-0",  # rules in CRDs, and eviction of pods that do not work
        "home": project["urls"]["Documentation"],
        "keywords": ["canary", "machine-learning", "istio", "progressive-delivery"],
        "annotations": {"artifacthub.io/license": project["license"]},
    }
    files = {f"templates/{name}": text for name, text in templates()}
    files |= {"Chart.yaml": yaml.safe_dump(about, sort_keys=False), "values.yaml": values_yaml()}
    files["values.schema.json"] = json.dumps(values_schema(), indent=2) + "\n"
    return files | {"templates/NOTES.txt": NOTES, "LICENSE": (ROOT / "LICENSE").read_text()}


def write(folder: Path) -> Path:
    """The chart as `folder/serin`, and packed beside it; the archive, whose bytes are always the same."""
    files = chart()
    about = yaml.safe_load(files["Chart.yaml"])
    archive = folder / f"{about['name']}-{about['version']}.tgz"
    for name, text in files.items():
        path = folder / about["name"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with gzip.GzipFile(archive, "w", mtime=0) as squeezed, tarfile.open(fileobj=squeezed, mode="w") as packed:
        for name in sorted(files):
            content = files[name].encode()
            entry = tarfile.TarInfo(f"{about['name']}/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return archive


if __name__ == "__main__":
    print(write(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")))
