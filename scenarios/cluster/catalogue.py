"""The built-in resources: schemas with the real server's defaults, and kubectl's columns.

The schemas are compact: they name the fields that canaries, kubectl and tests touch, give them the
types and defaults that Kubernetes 1.36 gives them, and let other fields through.
"""

from typing import Any

from scenarios.cluster.kinds import Column, Kind

Json = Any

ANY: Json = {"x-kubernetes-preserve-unknown-fields": True}
TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer", "format": "int32"}
FLAG: Json = {"type": "boolean"}
TIME: Json = {"type": "string", "format": "date-time"}
TEXTS: Json = {"type": "object", "additionalProperties": TEXT}
EITHER: Json = {"x-kubernetes-int-or-string": True}


def _object(*required: str, **fields: Json) -> Json:
    """An object with these fields and whatever else comes."""
    schema = {"type": "object", "properties": fields, **ANY}
    return {**schema, "required": list(required)} if required else schema


def _closed(*required: str, **fields: Json) -> Json:
    """An object with these fields only."""
    return {"type": "object", "properties": fields, "required": list(required)}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _default(schema: Json, value: Json) -> Json:
    return {**schema, "default": value}


_PROBE = _object(
    timeoutSeconds=_default(WHOLE, 1),
    periodSeconds=_default(WHOLE, 10),
    successThreshold=_default(WHOLE, 1),
    failureThreshold=_default(WHOLE, 3),
    httpGet=_object("port", scheme=_default(TEXT, "HTTP"), port=EITHER),
)
_CONTAINER = _object(
    "name",
    name=TEXT,
    image=TEXT,
    env=_list(_object("name", name=TEXT, value=TEXT)),
    ports=_list(_object("containerPort", containerPort=WHOLE, protocol=_default(TEXT, "TCP"))),
    resources=_default(_object(), {}),
    terminationMessagePath=_default(TEXT, "/dev/termination-log"),
    terminationMessagePolicy=_default(TEXT, "File"),
    imagePullPolicy=TEXT,
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
)
_POD_SPEC = _object(
    "containers",
    containers=_list(_CONTAINER),
    initContainers=_list(_CONTAINER),
    restartPolicy=_default(TEXT, "Always"),
    terminationGracePeriodSeconds=_default(WHOLE, 30),
    dnsPolicy=_default(TEXT, "ClusterFirst"),
    schedulerName=_default(TEXT, "default-scheduler"),
    securityContext=_default(_object(), {}),
)
_TEMPLATE = _closed("spec", metadata=_object(labels=TEXTS, annotations=TEXTS), spec=_POD_SPEC)
_SELECTOR = _closed(matchLabels=TEXTS, matchExpressions=_list(_object("key", "operator")))
_ROLLING = _closed(maxSurge=_default(EITHER, "25%"), maxUnavailable=_default(EITHER, "25%"))
_DEPLOYMENT = _closed(
    "selector",
    "template",
    replicas=_default(WHOLE, 1),
    selector=_SELECTOR,
    template=_TEMPLATE,
    strategy=_default(_closed(type=_default(TEXT, "RollingUpdate"), rollingUpdate=_ROLLING), {}),
    minReadySeconds=WHOLE,
    revisionHistoryLimit=_default(WHOLE, 10),
    progressDeadlineSeconds=_default(WHOLE, 600),
    paused=FLAG,
)
_REPLICA_SET = _closed(
    "selector",
    replicas=_default(WHOLE, 1),
    selector=_SELECTOR,
    template=_TEMPLATE,
    minReadySeconds=WHOLE,
)
_PORT = _object("port", port=WHOLE, targetPort=EITHER, protocol=_default(TEXT, "TCP"), name=TEXT)
_SERVICE = _object(
    type=_default(TEXT, "ClusterIP"),
    sessionAffinity=_default(TEXT, "None"),
    internalTrafficPolicy=_default(TEXT, "Cluster"),
    selector=TEXTS,
    ports=_list(_PORT),
)
_LEASE = _closed(
    holderIdentity=TEXT,
    leaseDurationSeconds=WHOLE,
    leaseTransitions=WHOLE,
    acquireTime=TIME,
    renewTime=TIME,
    strategy=TEXT,
    preferredHolder=TEXT,
)
_AUTOSCALER = _object(
    "scaleTargetRef",
    "maxReplicas",
    scaleTargetRef=_object("kind", "name", kind=TEXT, name=TEXT, apiVersion=TEXT),
    minReplicas=_default(WHOLE, 1),
    maxReplicas=WHOLE,
)
_REFERENCE = _object(kind=TEXT, namespace=TEXT, name=TEXT, uid=TEXT, apiVersion=TEXT, fieldPath=TEXT)


_STATUS = _object(conditions=_list(_object("type", "status", type=TEXT, status=TEXT)))


def _schema(**fields: Json) -> Json:
    return {"type": "object", "properties": {"status": _STATUS, **fields}, **ANY}


_EVENT = _schema(
    involvedObject=_REFERENCE, reason=TEXT, message=TEXT, type=TEXT, count=WHOLE, related=_REFERENCE
)

# --- Istio: the types of what canaries touch; all else is kept as it is

_DESTINATION = _object("host", host=TEXT, subset=TEXT, port=_object(number=WHOLE))
_SHARE = _object("destination", destination=_DESTINATION, weight=WHOLE)
_ROUTE = _object(name=TEXT, match=_list(_object()), route=_list(_SHARE), timeout=TEXT, mirror=_DESTINATION)
_VIRTUAL_SERVICE = _object(
    hosts=_list(TEXT),
    gateways=_list(TEXT),
    exportTo=_list(TEXT),
    http=_list(_ROUTE),
    tls=_list(_object(route=_list(_SHARE))),
    tcp=_list(_object(route=_list(_SHARE))),
)
_SUBSET = _object("name", name=TEXT, labels=TEXTS)
_DESTINATION_RULE = _object("host", host=TEXT, subsets=_list(_SUBSET), trafficPolicy=_object())


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
        schema=_schema(),
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
        schema=_schema(),
        columns=(_AGE,),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="pods",
        kind="Pod",
        short=("po",),
        categories=("all",),
        status=True,
        schema={**_schema(spec=_POD_SPEC), "required": ["spec"]},
        columns=(
            _column("Ready", "=pod-ready"),
            _column("Status", "=pod-status"),
            _column("Restarts", "=pod-restarts"),
            _AGE,
            _column("IP", ".status.podIP", priority=1),
            _column("Node", ".spec.nodeName", priority=1),
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
        schema={**_schema(spec=_SERVICE), "required": ["spec"]},
        columns=(
            _column("Type", ".spec.type"),
            _column("Cluster-IP", ".spec.clusterIP"),
            _column("External-IP", "=none"),
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
        schema=_schema(data=TEXTS, stringData=TEXTS, type=_default(TEXT, "Opaque")),
        columns=(_column("Type", ".type"), _column("Data", "=data", "integer"), _AGE),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="configmaps",
        kind="ConfigMap",
        short=("cm",),
        schema=_schema(data=TEXTS),
        columns=(_column("Data", "=data", "integer"), _AGE),
    ),
    Kind(
        group="",
        versions=("v1",),
        plural="events",
        kind="Event",
        short=("ev",),
        schema={**_EVENT, "required": ["involvedObject"]},
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
        schema=_EVENT,
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
        schema={**_schema(spec=_DEPLOYMENT), "required": ["spec"]},
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
        schema={**_schema(spec=_REPLICA_SET), "required": ["spec"]},
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
        schema=_schema(spec=_LEASE),
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
        schema={**_schema(spec=_AUTOSCALER), "required": ["spec"]},
        columns=(
            _column("Reference", "=reference"),
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
        schema=_schema(),
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
        schema=_closed(spec=_VIRTUAL_SERVICE, status=_object()),
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
        schema=_closed(spec=_DESTINATION_RULE, status=_object()),
        columns=(_column("Host", ".spec.host"), _AGE),
    ),
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
        schema=first["schema"]["openAPIV3Schema"],
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
