"""What both arms' pod templates say, as items of the checklist: resources, probes, warm-up, versions.

Pure. A template says what its author wanted, not what the server does behind a path: where only the latter
would tell, the item is unknown. What is looked at for probes is the model server's container: the one that
`kubectl.kubernetes.io/default-container` names, else the first that has a port, else the first.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from controller.items import Finding, Grounds, Item, Patch, Result, worst

Json = Any

# A model of a few GB comes from a disk or a registry at 100 MB/s: killed sooner, its server never starts.
LOADING = 60.0  # s
WHO = "\0"  # stands for the Deployment in a rule's sentence
# To begin with, where nothing is said at all.
CPU, MEMORY = "1", "2Gi"
MEASURE = "figures to begin with; measure yours: kubectl top pod"
GPU = re.compile(r"(nvidia|amd)\.com/(gpu|mig-.+)|gpu\.intel\.com/.+")
# Names of servers, images and variables that are about GPUs only. Triton, PyTorch and others run on CPUs too.
ON_GPU = re.compile(r"(^|[/_.-])(vllm|vllm-openai|tensorrt-llm|trtllm|sglang)([/:@_.-]|$)|[:-]cu(da)?-?1\d")
GPU_VARIABLES = frozenset({"NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"})
# A path's last word: what says that the process lives, and what says that the model is asked.
ALIVE = re.compile(r"(?i)(^|[/_-])(live|livez|alive|liveness)/?$")
READY = re.compile(r"(?i)(^|[/_-])(ready|readyz|readiness|infer|predict|generate)([/?]|$)")
VERSIONS = ("service.istio.io/canonical-revision", "version", "app.kubernetes.io/version")
WARMING = (
    "let the server answer a request of its own before it is ready, in a readinessProbe that runs the model"
    " or in a postStart hook; or let new pods get their share slowly, by trafficPolicy.loadBalancer.warmup in"
    " the DestinationRule"
)
READY_PATH = "/v2/health/ready"  # of the Open Inference Protocol: every model is loaded


def looked_at(grounds: Grounds) -> list[Item]:
    """The items that templates answer."""
    return [
        worst(name, _named(grounds, [list(rule(grounds, arm)) for arm in grounds.arms]), mend=mend)
        for name, (rule, mend) in _RULES.items()
    ]


def _named(grounds: Grounds, found: Sequence[Sequence[Finding]]) -> Iterator[Finding]:
    """The findings of each arm, with its name in the sentence; of both, if both say the same."""
    common = {one.why for one in found[0]} & {one.why for one in found[1]}
    for deployment, findings in zip(grounds.arms, found, strict=True):
        for one in findings:
            who = "each Deployment" if one.why in common else deployment["metadata"]["name"]
            yield replace(one, why=one.why.replace(WHO, who))


def server(deployment: Json) -> Json:
    """The model server's container."""
    template = deployment["spec"]["template"]
    containers = template["spec"]["containers"]
    named = (template["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    chosen = [one for one in containers if one["name"] == named]
    chosen = chosen or [one for one in containers if one.get("ports")]
    return (chosen or containers)[0]


def in_template(grounds: Grounds, deployment: Json, body: Json, note: str = "") -> Patch:
    """A patch of the Deployment's pod template."""
    return grounds.patch("Deployment", deployment["metadata"]["name"], {"spec": {"template": body}}, note)


def _in_container(
    grounds: Grounds,
    deployment: Json,
    container: str,
    body: Mapping[str, Json],
    note: str = "",
    *,
    kind: str = "containers",
) -> Patch:
    return in_template(grounds, deployment, {"spec": {kind: [{"name": container, **body}]}}, note=note)


# -- resources -------------------------------------------------------------------------------------


def _sizes(grounds: Grounds, deployment: Json) -> Iterator[Finding]:
    """CPU and memory of every container that runs beside the model: asked for, and bounded."""
    spec = deployment["spec"]["template"]["spec"]
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for kind, container in (
        *(("containers", one) for one in spec["containers"]),
        *(("initContainers", one) for one in sidecars),
    ):
        given = container.get("resources") or {}
        limits = dict(given.get("limits") or {})
        requests = {**limits, **(given.get("requests") or {})}  # the API server's own default
        missing = [
            *(f"requests.{what}" for what in ("cpu", "memory") if what not in requests),
            *(f"limits.{what}" for what in ("cpu", "memory") if what not in limits),
        ]
        where = f"container {container['name']} of {WHO}"
        if not missing:
            yield Finding(
                Result.PASS, f"{where} has {limits['cpu']} CPU and {limits['memory']} of memory at most"
            )
            continue
        wanted = {"cpu": requests.get("cpu", CPU), "memory": requests.get("memory", MEMORY)}
        body = {"requests": wanted, "limits": {**wanted, **limits}}
        note = MEASURE if requests.keys() & wanted.keys() != wanted.keys() else ""
        patch = _in_container(
            grounds, deployment, container["name"], {"resources": body}, note=note, kind=kind
        )
        yield Finding(Result.FAIL, f"{where} lacks {', '.join(missing)}", patch)


def _gpus(grounds: Grounds, deployment: Json) -> Iterator[Finding]:
    """A GPU where the server needs one; most templates do not tell."""
    spec = deployment["spec"]["template"]["spec"]
    asked = _asked(deployment)
    if asked:
        said = ", ".join(f"{count} {what}" for what, count in sorted(asked.items()))
        yield Finding(Result.PASS, f"{WHO} asks for {said}")
        return
    other = next(one for one in grounds.arms if one is not deployment)
    container = server(deployment)
    signs = ((one, _gpu_sign(one, spec)) for one in spec["containers"])
    found = [(one, f"is a GPU server ({sign})") for one, sign in signs if sign is not None]
    if _asked(other):
        found.append((container, f"takes over from one that has {', '.join(_asked(other))}"))
    if not found:
        yield Finding(
            Result.UNKNOWN,
            f"nothing in the template of {WHO} says whether its model wants a GPU; it asks for none",
        )
        return
    container, sign = found[0]
    body = {"resources": {"limits": _asked(other) or {"nvidia.com/gpu": 1}}}
    note = "" if _asked(other) else "one GPU of NVIDIA's; name yours"
    patch = _in_container(grounds, deployment, container["name"], body, note)
    yield Finding(Result.FAIL, f"container {container['name']} of {WHO} {sign} and asks for no GPU", patch)


def _asked(deployment: Json) -> Mapping[str, Json]:
    """The GPUs that a Deployment's pods ask for; what is limited is asked for."""
    given = (one.get("resources") or {} for one in deployment["spec"]["template"]["spec"]["containers"])
    limits = (each.get("limits") or {} for each in given)
    return {what: count for each in limits for what, count in each.items() if GPU.fullmatch(what)}


def _gpu_sign(container: Json, spec: Json) -> str | None:
    """What in the template says that the server is one for GPUs."""
    image = container.get("image", "")
    if ON_GPU.search(image) and "cpu" not in image:
        return f"image {image}"
    hidden = {"", "none", "void", "-1"}
    for one in container.get("env") or ():
        if one["name"] in GPU_VARIABLES and one.get("value", "all") not in hidden:
            return f"variable {one['name']}"
    runtime = spec.get("runtimeClassName", "")
    return f"runtimeClassName {runtime}" if runtime.startswith("nvidia") else None


# -- probes ----------------------------------------------------------------------------------------


def _what(probe: Json) -> str:
    """What a probe does, in words."""
    if "httpGet" in probe:
        return f"GET {probe['httpGet'].get('path', '/')}"
    if "tcpSocket" in probe:
        return f"a connection to port {probe['tcpSocket'].get('port')}"
    if "grpc" in probe:
        asked = probe["grpc"].get("service")
        return f"gRPC health of {asked}" if asked else "gRPC health of the process"
    return " ".join((probe.get("exec") or {}).get("command") or ["nothing"])


def _tries(probe: Json) -> tuple[Result, str]:
    """Whether the probe asks the model, as far as it says, and why not."""
    if "tcpSocket" in probe:
        return Result.FAIL, "which the process accepts before it has loaded anything"
    path = (probe.get("httpGet") or {}).get("path", "/")
    if "httpGet" in probe and (path.strip("/") == "" or ALIVE.search(path)):
        return Result.FAIL, "which says that the process is there, not that the model answers"
    if ("httpGet" in probe and READY.search(path)) or (probe.get("grpc") or {}).get("service"):
        return Result.PASS, "which the server answers for its model"
    return Result.UNKNOWN, "which may or may not try the model: its name does not tell"


def _readiness(grounds: Grounds, deployment: Json) -> Iterator[Finding]:
    """Pods get requests when the model answers."""
    container = server(deployment)
    probe = container.get("readinessProbe")
    result, why = (Result.FAIL, "") if probe is None else _tries(probe)
    said = (
        f"{WHO} has no readinessProbe: pods get requests before the model is loaded"
        if probe is None
        else f"{WHO} is ready after {_what(probe)}, {why}"
    )
    yield Finding(result, said, _asking(grounds, deployment, container) if result is Result.FAIL else None)


def _asking(grounds: Grounds, deployment: Json, container: Json) -> Patch:
    """A readiness probe of the Open Inference Protocol; kinds of probes exclude each other."""
    body = {"httpGet": {"path": READY_PATH, "port": _port(container)}, "periodSeconds": 5}
    others = dict.fromkeys({"tcpSocket", "exec", "grpc"} & (container.get("readinessProbe") or {}).keys())
    note = "path: where your server runs the model; this one is the Open Inference Protocol's"
    return _in_container(grounds, deployment, container["name"], {"readinessProbe": {**body, **others}}, note)


def _port(container: Json) -> int | str:
    """Where the server listens."""
    probe = container.get("readinessProbe") or {}
    asked = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
    ports = container.get("ports") or [{"containerPort": 8080}]
    found: int | str = asked if asked is not None else ports[0]["containerPort"]
    return found


def _patience(probe: Json) -> float:
    """Seconds until a probe that never succeeds has failed for good; Kubernetes' own defaults."""
    tries = probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)
    return float(probe.get("initialDelaySeconds", 0) + tries)


def _startup(grounds: Grounds, deployment: Json) -> Iterator[Finding]:
    """Nothing kills a server that is still loading its model."""
    container = server(deployment)
    startup, liveness = container.get("startupProbe"), container.get("livenessProbe")
    if startup is not None:
        yield Finding(Result.PASS, f"{WHO} may take {_patience(startup):g} s to load, by its startupProbe")
        return
    if liveness is None:
        yield Finding(Result.PASS, f"{WHO} has no livenessProbe, so nothing kills it while it loads")
        return
    allowed = _patience(liveness)
    if allowed >= LOADING:
        yield Finding(Result.PASS, f"{WHO} may take {allowed:g} s to load before its livenessProbe fails")
        return
    asked = container.get("readinessProbe") or liveness
    body = {key: value for key, value in asked.items() if key in {"httpGet", "tcpSocket", "exec", "grpc"}}
    body |= {"periodSeconds": 5, "failureThreshold": 60}
    patch = _in_container(
        grounds, deployment, container["name"], {"startupProbe": body}, note="300 s; or what yours takes"
    )
    why = f"{WHO} has no startupProbe, and its livenessProbe kills what has not loaded within {allowed:g} s"
    yield Finding(Result.FAIL, why, patch)


def _liveness(grounds: Grounds, deployment: Json) -> Iterator[Finding]:
    """A model that is slow under load is not restarted for it."""
    container = server(deployment)
    probe, readiness = container.get("livenessProbe"), container.get("readinessProbe")
    if probe is None:
        kept = ": what hangs gets no requests, by readiness" if readiness else ", so nothing restarts it"
        yield Finding(Result.PASS, f"{WHO} has no livenessProbe{kept}")
        return
    same = readiness is not None and _what(probe) == _what(readiness)
    if same and "exec" in probe:
        why = (
            f"whether {_what(probe)}, which is {WHO}'s readinessProbe too, asks for the model cannot be told"
        )
        yield Finding(Result.UNKNOWN, why)
        return
    kind = next((each for each in ("httpGet", "grpc") if each in probe), "")
    asks = (
        READY.search(probe[kind].get("path", "/"))
        if kind == "httpGet"
        else kind and probe[kind].get("service")
    )
    if not (same and asks):
        yield Finding(Result.PASS, f"{WHO} lives as long as {_what(probe)} succeeds")
        return
    port = probe[kind].get("port", _port(container))
    body = {kind: None, "tcpSocket": {"port": port}}
    why = f"{WHO}'s livenessProbe is its readinessProbe ({_what(probe)}): slow under load, it is restarted"
    yield Finding(
        Result.FAIL, why, _in_container(grounds, deployment, container["name"], {"livenessProbe": body})
    )


def _warm(grounds: Grounds, deployment: Json) -> Iterator[Finding]:
    """The first requests of people are not what warms a pod up."""
    container = server(deployment)
    hook = (container.get("lifecycle") or {}).get("postStart")
    if hook is not None:
        yield Finding(Result.PASS, f"{WHO} runs a postStart hook before it is ready")
        return
    slow = _slow_start(grounds)
    if slow is not None:
        yield Finding(Result.PASS, f"new pods get their share little by little, by DestinationRule {slow}")
        return
    for kind in ("startupProbe", "readinessProbe"):
        probe = container.get(kind) or {}
        if re.search(r"(?i)infer|predict|generate|warm", _what(probe)):
            yield Finding(Result.PASS, f"{WHO}'s {kind} runs the model ({_what(probe)}) before it is ready")
            return
    if container.get("readinessProbe") is None:
        yield Finding(Result.FAIL, f"{WHO} has no readinessProbe: requests come as soon as the process runs")
        return
    why = f"whether {WHO} runs its model before it says that it is ready cannot be told from here"
    yield Finding(Result.UNKNOWN, why)


def _slow_start(grounds: Grounds) -> str | None:
    """The DestinationRule by which Istio gives new pods their share slowly, if there is one."""
    for rule in grounds.cluster.all("destinationrules", grounds.namespace):
        policies = [rule["spec"], *(rule["spec"].get("subsets") or ())]
        balancers = [((one.get("trafficPolicy") or {}).get("loadBalancer") or {}) for one in policies]
        mine = str(rule["spec"].get("host", "")).split(".")[0] in _hosts(grounds)
        if mine and any("warmup" in one or "warmupDurationSecs" in one for one in balancers):
            name: str = rule["metadata"]["name"]
            return name
    return None


def _hosts(grounds: Grounds) -> set[str]:
    """The short names of the hosts that the VirtualService sends requests to."""
    found = grounds.cluster.get("virtualservices", grounds.namespace, grounds.plan["virtualService"]) or {}
    return {
        str(target.get("destination", {}).get("host", "")).split(".")[0]
        for http in found.get("spec", {}).get("http") or ()
        for target in http.get("route") or ()
    }


_RULES = {
    "resources": (_sizes, "say how much CPU and memory each container gets, and at most"),
    "gpu": (_gpus, "if the model wants a GPU, ask for it: limits: {nvidia.com/gpu: 1}"),
    "readiness": (_readiness, "let the readinessProbe ask for the model, not for the process"),
    "startup": (_startup, "give the model time to load, by a startupProbe"),
    "liveness": (_liveness, "let the livenessProbe ask for the process, not for the model"),
    "warm-up": (
        _warm,
        WARMING,
    ),
}


# -- versions --------------------------------------------------------------------------------------


def versions(grounds: Grounds) -> Item:
    """Which version served which share can be read off the pods' labels, as Istio's metrics carry them."""
    stable, canary = (one["spec"]["template"]["metadata"].get("labels") or {} for one in grounds.arms)
    names = [one["metadata"]["name"] for one in grounds.arms]
    for label in VERSIONS:
        said = stable.get(label), canary.get(label)
        if None not in said and said[0] != said[1]:
            why = f'label {label} is "{said[0]}" at {names[0]} and "{said[1]}" at {names[1]}'
            return Item(name="versions", result=Result.PASS, why=why)
    same = next((label for label in VERSIONS if stable.get(label) and label in canary), None)
    why = (
        f"neither {' nor '.join(VERSIONS[:2])} is a label of both {names[0]} and {names[1]}"
        if same is None
        else f'label {same} is "{stable[same]}" at both {names[0]} and {names[1]}'
    )
    # a promotion gives stable the canary's other labels, so the value is the arm's and not the model's
    patches = [
        in_template(grounds, one, {"metadata": {"labels": {VERSIONS[0]: arm}}})
        for one, arm in zip(grounds.arms, ("stable", "canary"), strict=True)
    ]
    return Item(
        name="versions",
        result=Result.FAIL,
        why=f"{why}, so that nobody sees which version served which share",
        mend="give the two pod templates different version labels",
        patches=tuple(patches),
    )
