"""The built-in resources, with kubectl's columns, and how a CustomResourceDefinition makes another."""

import json
from functools import cache
from typing import Any

from scenarios.cluster import inert
from scenarios.cluster.kinds import Column, Kind
from scenarios.cluster.schemas import (
    AUTOSCALER,
    DEPLOYMENT,
    DESTINATION_RULE,
    EVENT,
    FLAG,
    LEASE,
    POD_SPEC,
    REPLICA_SET,
    SERVICE,
    TEXT,
    TEXTS,
    VIRTUAL_SERVICE,
    closed,
    default,
    opened,
    rooted,
)

Json = Any


def _column(name: str, path: str, type_: str = "string", priority: int = 0) -> Column:
    return Column(name=name, type=type_, path=path, priority=priority)


_AGE = _column("Age", ".metadata.creationTimestamp", "date")
_WORKLOAD = (
    _column("Containers", ".spec.template.spec.containers[*].name", priority=1),
    _column("Images", ".spec.template.spec.containers[*].image", priority=1),
)

# Columns without a path in the object are computed by `tables`, under the name that follows the "="
BUILT_IN: tuple[Kind, ...] = (
    Kind(
        group="",
        versions=("v1",),
        plural="namespaces",
        kind="Namespace",
        short=("ns",),
        namespaced=False,
        status=True,
        schema=rooted(spec=opened()),
        columns=(_column("Status", ".status.phase"), _AGE),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="nodes",
        kind="Node",
        short=("no",),
        namespaced=False,
        status=True,
        schema=rooted(spec=opened()),
        columns=(
            _column("Status", "=node-status"),
            _column("Roles", "=none"),
            _AGE,
            _column("Version", "=node-version"),
            _column("Internal-IP", "=node-address", priority=1),
            _column("External-IP", "=none", priority=1),
            _column("OS-Image", "=node-os", priority=1),
            _column("Kernel-Version", "=node-kernel", priority=1),
            _column("Container-Runtime", "=node-runtime", priority=1),
        ),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="pods",
        kind="Pod",
        short=("po",),
        categories=("all",),
        status=True,
        schema=rooted("spec", spec=POD_SPEC),
        columns=(
            _column("Ready", "=pod-ready"),
            _column("Status", "=pod-status"),
            _column("Restarts", "=pod-restarts"),
            _AGE,
            _column("IP", ".status.podIP", priority=1),
            _column("Node", ".spec.nodeName", priority=1),
            _column("Nominated Node", "=none", priority=1),
            _column("Readiness Gates", "=none", priority=1),
        ),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="services",
        kind="Service",
        short=("svc",),
        categories=("all",),
        status=True,
        schema=rooted("spec", spec=SERVICE),
        columns=(
            _column("Type", ".spec.type"),
            _column("Cluster-IP", "=service-ip"),
            _column("External-IP", "=external-ip"),
            _column("Port(s)", "=service-ports"),
            _AGE,
            _column("Selector", "=selector", priority=1),
        ),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="secrets",
        kind="Secret",
        schema=rooted(data=TEXTS, stringData=TEXTS, type=default(TEXT, "Opaque"), immutable=FLAG),
        columns=(_column("Type", ".type"), _column("Data", "=data", "integer"), _AGE),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="configmaps",
        kind="ConfigMap",
        short=("cm",),
        schema=rooted(data=TEXTS, binaryData=TEXTS, immutable=FLAG),
        columns=(_column("Data", "=data", "integer"), _AGE),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="events",
        kind="Event",
        short=("ev",),
        schema={**EVENT, "required": ["involvedObject"]},
        columns=(
            _column("Last Seen", "=last-seen"),
            _column("Type", ".type"),
            _column("Reason", ".reason"),
            _column("Object", "=event-object"),
            _column("Source", "=event-source", priority=1),
            _column("Message", ".message"),
        ),
    ),
    Kind(
        group="events.k8s.io",
        versions=("v1",),
        plural="events",
        kind="Event",
        short=("ev",),
        schema=EVENT,
        columns=(
            _column("Last Seen", "=last-seen"),
            _column("Type", ".type"),
            _column("Reason", ".reason"),
            _column("Object", "=event-object"),
            _column("Message", ".note"),
        ),
        stored_as="events",
    ),
    Kind(
        group="apps",
        versions=("v1",),
        plural="deployments",
        kind="Deployment",
        short=("deploy",),
        categories=("all",),
        status=True,
        scale=True,
        schema=rooted("spec", spec=DEPLOYMENT),
        columns=(
            _column("Ready", "=deployment-ready"),
            _column("Up-to-date", "=updated", "integer"),
            _column("Available", "=available", "integer"),
            _AGE,
            *_WORKLOAD,
            _column("Selector", "=selector", priority=1),
        ),
    ),
    Kind(
        group="apps",
        versions=("v1",),
        plural="replicasets",
        kind="ReplicaSet",
        short=("rs",),
        categories=("all",),
        status=True,
        scale=True,
        schema=rooted("spec", spec=REPLICA_SET),
        columns=(
            _column("Desired", ".spec.replicas", "integer"),
            _column("Current", ".status.replicas", "integer"),
            _column("Ready", "=ready", "integer"),
            _AGE,
            *_WORKLOAD,
            _column("Selector", "=selector", priority=1),
        ),
    ),
    Kind(
        group="coordination.k8s.io",
        versions=("v1",),
        plural="leases",
        kind="Lease",
        schema=rooted(spec=LEASE),
        columns=(_column("Holder", ".spec.holderIdentity"), _AGE),
    ),
    Kind(
        group="autoscaling",
        versions=("v2",),
        plural="horizontalpodautoscalers",
        kind="HorizontalPodAutoscaler",
        short=("hpa",),
        categories=("all",),
        status=True,
        schema=rooted("spec", spec=AUTOSCALER),
        columns=(
            _column("Reference", "=reference"),
            _column("Targets", "=targets"),
            _column("MinPods", ".spec.minReplicas", "integer"),
            _column("MaxPods", ".spec.maxReplicas", "integer"),
            _column("Replicas", ".status.currentReplicas", "integer"),
            _AGE,
        ),
    ),
    Kind(
        group="apiextensions.k8s.io",
        versions=("v1",),
        plural="customresourcedefinitions",
        kind="CustomResourceDefinition",
        short=("crd", "crds"),
        namespaced=False,
        status=True,
        schema=rooted(spec=opened()),
        columns=(_column("Created At", ".metadata.creationTimestamp"),),
    ),
    Kind(
        group="networking.istio.io",
        versions=("v1", "v1beta1"),
        plural="virtualservices",
        kind="VirtualService",
        short=("vs",),
        categories=("istio-io", "networking-istio-io"),
        status=True,
        custom=True,
        schema=closed(spec=VIRTUAL_SERVICE, status=opened()),
        columns=(_column("Gateways", ".spec.gateways"), _column("Hosts", ".spec.hosts"), _AGE),
    ),
    Kind(
        group="networking.istio.io",
        versions=("v1", "v1beta1"),
        plural="destinationrules",
        kind="DestinationRule",
        short=("dr",),
        categories=("istio-io", "networking-istio-io"),
        status=True,
        custom=True,
        schema=closed(spec=DESTINATION_RULE, status=opened()),
        columns=(_column("Host", ".spec.host"), _AGE),
    ),
    *inert.KINDS,
)


def from_definition(definition: Json) -> Kind:
    """The resource that a CustomResourceDefinition defines."""
    spec, names = definition["spec"], definition["spec"]["names"]
    versions = [version for version in spec["versions"] if version.get("served")]
    versions.sort(key=lambda version: not version.get("storage"))
    first = versions[0]
    columns = first.get("additionalPrinterColumns") or [
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    ]
    return Kind(
        group=spec["group"],
        versions=tuple(version["name"] for version in versions),
        plural=names["plural"],
        kind=names["kind"],
        namespaced=spec["scope"] == "Namespaced",
        short=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        status="status" in first.get("subresources", {}),
        custom=True,
        schema=_parsed(json.dumps(first["schema"]["openAPIV3Schema"])),
        columns=tuple(
            Column(
                name=column["name"],
                type=column["type"],
                path=column["jsonPath"],
                priority=column.get("priority", 0),
                description=column.get("description", ""),
            )
            for column in columns
        ),
    )


@cache
def _parsed(text: str) -> Json:
    """A schema; equal ones are one, so that what was worked out about it is not worked out again."""
    return json.loads(text)
