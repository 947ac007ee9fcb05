"""What built-in objects look like: fields, defaults, and by which key the items of lists are told apart.

Compact: every field of a workload has its name here, as on Kubernetes 1.36, so that a mistyped one is found;
what canaries, kubectl and tests touch has its type and default as well. The rest of a field is left open.
"""

from typing import Any

Json = Any

ANY: Json = {"x-kubernetes-preserve-unknown-fields": True}
TEXT: Json = {"type": "string"}
WHOLE: Json = {"type": "integer", "format": "int32"}
FLAG: Json = {"type": "boolean"}
TIME: Json = {"type": "string", "format": "date-time"}
TEXTS: Json = {"type": "object", "additionalProperties": TEXT}
EITHER: Json = {"x-kubernetes-int-or-string": True}


def opened(*required: str, **fields: Json) -> Json:
    """An object with these fields and whatever else comes."""
    schema = {"type": "object", "properties": fields, **ANY}
    return {**schema, "required": list(required)} if required else schema


def closed(*required: str, **fields: Json) -> Json:
    """An object with these fields only."""
    return {"type": "object", "properties": fields, "required": list(required)}


def rooted(*required: str, **fields: Json) -> Json:
    """A whole object, with a status whose conditions have types."""
    return closed(*required, **{"status": STATUS, **fields})


def listed(items: Json) -> Json:
    """A list that has one owner and is replaced whole."""
    return {"type": "array", "items": items}


def keyed(items: Json, *keys: str) -> Json:
    """A list whose items are told apart by these fields."""
    return {**listed(items), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def atomic(schema: Json) -> Json:
    """An object that has one owner and is replaced whole."""
    return {**schema, "x-kubernetes-map-type": "atomic"}


def default(schema: Json, value: Json) -> Json:
    """The schema of a field that has this value if nobody gives it one."""
    return {**schema, "default": value}


def _also(names: str) -> dict[str, Json]:
    """Fields of which only the name is known here."""
    return dict.fromkeys(names.split(), ANY)


STATUS = opened(conditions=keyed(opened("type", "status", type=TEXT, status=TEXT), "type"))
SELECTOR = atomic(closed(matchLabels=TEXTS, matchExpressions=listed(opened("key", "operator"))))
META: Json = opened(
    labels=TEXTS,
    annotations=TEXTS,
    finalizers={**listed(TEXT), "x-kubernetes-list-type": "set"},
    ownerReferences=keyed(opened(uid=TEXT), "uid"),
)

# --- pods and what makes them

_PROBE = opened(
    timeoutSeconds=default(WHOLE, 1),
    periodSeconds=default(WHOLE, 10),
    successThreshold=default(WHOLE, 1),
    failureThreshold=default(WHOLE, 3),
    httpGet=opened("port", scheme=default(TEXT, "HTTP"), port=EITHER),
)
_CONTAINER_PORT = closed(
    "containerPort",
    containerPort=WHOLE,
    protocol=default(TEXT, "TCP"),
    name=TEXT,
    hostPort=WHOLE,
    hostIP=TEXT,
)
_CONTAINER = closed(
    "name",
    name=TEXT,
    image=TEXT,
    command=listed(TEXT),
    args=listed(TEXT),
    env=keyed(closed("name", name=TEXT, value=TEXT, valueFrom=opened()), "name"),
    ports=keyed(_CONTAINER_PORT, "containerPort", "protocol"),
    resources=default(opened(), {}),
    volumeMounts=keyed(opened("mountPath", mountPath=TEXT), "mountPath"),
    volumeDevices=keyed(opened("devicePath", devicePath=TEXT), "devicePath"),
    terminationMessagePath=default(TEXT, "/dev/termination-log"),
    terminationMessagePolicy=default(TEXT, "File"),
    imagePullPolicy=TEXT,
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
    stdin=FLAG,
    stdinOnce=FLAG,
    tty=FLAG,
    **_also("workingDir envFrom resizePolicy restartPolicy restartPolicyRules lifecycle securityContext"),
)
_NAMED = opened("name", name=TEXT)
POD_SPEC = closed(
    "containers",
    containers=keyed(_CONTAINER, "name"),
    initContainers=keyed(_CONTAINER, "name"),
    ephemeralContainers=keyed(_NAMED, "name"),
    volumes=keyed(_NAMED, "name"),
    imagePullSecrets=keyed(_NAMED, "name"),
    resourceClaims=keyed(_NAMED, "name"),
    schedulingGates=keyed(_NAMED, "name"),
    hostAliases=keyed(opened(ip=TEXT), "ip"),
    topologySpreadConstraints=keyed(opened(), "topologyKey", "whenUnsatisfiable"),
    nodeSelector=atomic(TEXTS),
    restartPolicy=default(TEXT, "Always"),
    terminationGracePeriodSeconds=default(WHOLE, 30),
    dnsPolicy=default(TEXT, "ClusterFirst"),
    schedulerName=default(TEXT, "default-scheduler"),
    securityContext=default(opened(), {}),
    nodeName=TEXT,
    serviceAccountName=TEXT,
    **_also(
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig enableServiceLinks hostIPC"
    ),
    **_also("hostNetwork hostPID hostUsers hostname hostnameOverride os overhead preemptionPolicy priority"),
    **_also("priorityClassName readinessGates resources runtimeClassName serviceAccount setHostnameAsFQDN"),
    **_also("shareProcessNamespace subdomain tolerations workloadRef"),
)
_TEMPLATE = closed("spec", metadata=META, spec=POD_SPEC)
_ROLLING = closed(maxSurge=default(EITHER, "25%"), maxUnavailable=default(EITHER, "25%"))
DEPLOYMENT = closed(
    "selector",
    "template",
    replicas=default(WHOLE, 1),
    selector=SELECTOR,
    template=_TEMPLATE,
    strategy=default(closed(type=default(TEXT, "RollingUpdate"), rollingUpdate=_ROLLING), {}),
    minReadySeconds=WHOLE,
    revisionHistoryLimit=default(WHOLE, 10),
    progressDeadlineSeconds=default(WHOLE, 600),
    paused=FLAG,
)
REPLICA_SET = closed(
    "selector",
    replicas=default(WHOLE, 1),
    selector=SELECTOR,
    template=_TEMPLATE,
    minReadySeconds=WHOLE,
)

# --- the others

_PORT = closed(
    "port",
    port=WHOLE,
    targetPort=EITHER,
    protocol=default(TEXT, "TCP"),
    name=TEXT,
    **_also("nodePort appProtocol"),
)
SERVICE = closed(
    type=default(TEXT, "ClusterIP"),
    sessionAffinity=default(TEXT, "None"),
    internalTrafficPolicy=default(TEXT, "Cluster"),
    selector=atomic(TEXTS),
    ports=keyed(_PORT, "port", "protocol"),
    **_also("allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName ipFamilies"),
    **_also("externalTrafficPolicy healthCheckNodePort ipFamilyPolicy loadBalancerClass loadBalancerIP"),
    **_also("loadBalancerSourceRanges publishNotReadyAddresses sessionAffinityConfig trafficDistribution"),
)
LEASE = closed(
    holderIdentity=TEXT,
    leaseDurationSeconds=WHOLE,
    leaseTransitions=WHOLE,
    acquireTime=TIME,
    renewTime=TIME,
    strategy=TEXT,
    preferredHolder=TEXT,
)
AUTOSCALER = closed(
    "scaleTargetRef",
    "maxReplicas",
    scaleTargetRef=opened("kind", "name", kind=TEXT, name=TEXT, apiVersion=TEXT),
    minReplicas=default(WHOLE, 1),
    maxReplicas=WHOLE,
    **_also("metrics behavior"),
)
_REFERENCE = opened(kind=TEXT, namespace=TEXT, name=TEXT, uid=TEXT, apiVersion=TEXT, fieldPath=TEXT)
EVENT = opened(
    involvedObject=atomic(_REFERENCE), reason=TEXT, message=TEXT, type=TEXT, count=WHOLE, related=_REFERENCE
)

# --- Istio: the types of what canaries touch; all else is kept as it is

_DESTINATION = opened("host", host=TEXT, subset=TEXT, port=opened(number=WHOLE))
_SHARE = opened("destination", destination=_DESTINATION, weight=WHOLE)
_ROUTE = opened(name=TEXT, match=listed(opened()), route=listed(_SHARE), timeout=TEXT, mirror=_DESTINATION)
VIRTUAL_SERVICE = opened(
    hosts=listed(TEXT),
    gateways=listed(TEXT),
    exportTo=listed(TEXT),
    http=listed(_ROUTE),
    tls=listed(opened(route=listed(_SHARE))),
    tcp=listed(opened(route=listed(_SHARE))),
)
_SUBSET = opened("name", name=TEXT, labels=TEXTS)
DESTINATION_RULE = opened("host", host=TEXT, subsets=listed(_SUBSET), trafficPolicy=opened())
