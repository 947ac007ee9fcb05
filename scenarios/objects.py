"""The Kubernetes objects of a story: two Deployments behind one Service, and Istio's routes to them.

The canary's Deployment is annotated from the start: creating it is what asks for the run.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from scenarios.cluster.patches import merged
from scenarios.fields import BadStory
from scenarios.plot import Arm, Behaviour, Patch, Story

Json = Any

NAMESPACE = "lab"
SYSTEM = "serin-system"  # where the controllers are, and their Lease
ACCOUNT = "serin-controller"
CONTROLLER = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"  # who they are to the API server
STABLE = "model"
CANARY = "model-canary"
PORT = 8080
SECRET = "alerts"  # noqa: S105 (the name of a Secret)
DEPLOYMENTS: Mapping[Arm, str] = {Arm.STABLE: STABLE, Arm.CANARY: CANARY}
VERSIONS: Mapping[Arm, str] = {Arm.STABLE: "v1", Arm.CANARY: "v2"}
# Ready when the model answers; 2 s x 3 tell a dead process from a slow one as a usual probe would.
PROBE: Json = {
    "httpGet": {"path": "/v2/models/model/ready", "port": PORT},
    "periodSeconds": 2,
    "timeoutSeconds": 1,
    "failureThreshold": 3,
}


def objects(
    story: Story, *, alerts_url: str = "http://alerts.lab/slack", artifacts: Mapping[str, str] | None = None
) -> list[Json]:
    """All objects in the order to create them, the canary's Deployment last.

    `artifacts` are the references of models by name, for a story with a Shadow check. An edit at 0s of
    what is not among them raises `BadStory`.
    """
    found = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *_secrets(story, alerts_url),
        _policy(story),
        _service(),
        _destination_rule(),
        _virtual_service(),
        _deployment(Arm.STABLE, story.stable, artifacts or {}),
        _deployment(Arm.CANARY, story.canary, artifacts or {}),
    ]
    for edit in story.edits:
        if isinstance(edit, Patch) and edit.at == timedelta(0):
            place = _place(found, edit, story)
            found[place] = merged(found[place], edit.merge)
    return found


def _place(found: Sequence[Json], edit: Patch, story: Story) -> int:
    names = [(obj["kind"], obj["metadata"]["name"]) for obj in found]
    if (edit.kind, edit.name) not in names:
        known = ", ".join(f"{kind} {name}" for kind, name in names)
        raise BadStory(
            f"{story.file}: spec.edits: there is no {edit.kind} {edit.name} at the start; there are {known}"
        )
    return names.index((edit.kind, edit.name))


def _named(name: str, **more: Json) -> Json:
    return {"name": name, "namespace": NAMESPACE, **more}


def _secrets(story: Story, url: str) -> Sequence[Json]:
    """What the policy's alerts refer to, if there are any."""
    if not story.policy.get("alerts"):
        return ()
    return (
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": _named(SECRET),
            # a Standard Webhooks secret: "whsec_" and 24 bytes or more in base64
            "stringData": {"url": url, "secret": "whsec_c2VyaW4ncyBsYWIsIG5vdCBhIHJlYWwgc2VjcmV0"},
        },
        *_readable(SECRET),
    )


def _readable(secret: str) -> Sequence[Json]:
    """The controller may read this Secret, as manifests/samples/alerts.yaml lets it."""
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get"]}
    metadata = _named("serin-alerts")
    return (
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "serin-alerts"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
        },
    )


# No story has what production's checklist asks (a drill on record, what the model was trained on, who trains
# it), and in none could its remedies be typed; a story that says `preflight` has it gone through.
UNPREPARED: Json = {"preflight": "Off"}


def _policy(story: Story) -> Json:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryPolicy",
        "metadata": _named("default"),
        "spec": {**UNPREPARED, **story.policy},
    }


def _service() -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(STABLE),
        "spec": {"selector": {"app": "model"}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]},
    }


def _destination_rule() -> Json:
    subsets = [{"name": str(arm), "labels": {"version": str(arm)}} for arm in Arm]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": _named(STABLE),
        "spec": {"host": STABLE, "subsets": subsets},
    }


def _virtual_service() -> Json:
    route = [
        {"destination": {"host": STABLE, "subset": str(arm)}, "weight": weight}
        for arm, weight in ((Arm.STABLE, 100), (Arm.CANARY, 0))
    ]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": _named(STABLE),
        "spec": {"hosts": [STABLE], "http": [{"name": "primary", "route": route}]},
    }


def _deployment(arm: Arm, behaviour: Behaviour, artifacts: Mapping[str, str]) -> Json:
    labels = {"app": "model", "version": str(arm)}
    reference = artifacts.get(behaviour.model)
    artifact = {} if reference is None else {"serin.dev/artifact": reference}
    asking = {"annotations": {"serin.dev/canary-of": STABLE}} if arm is Arm.CANARY else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _named(DEPLOYMENTS[arm], labels=labels, **asking),
        "spec": {
            "replicas": behaviour.replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {**_scraped(), **artifact}},
                "spec": {"containers": [container(VERSIONS[arm])]},
            },
        },
    }


def _scraped() -> Mapping[str, str]:
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }


def container(version: str) -> Json:
    """A model server of this version, as its Deployment has it."""
    return {
        "name": "model",
        "image": f"serin.dev/lab-model:{version}",
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": [{"name": "MODEL_VERSION", "value": version}],
        "readinessProbe": PROBE,
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "256Mi"},
        },
    }
