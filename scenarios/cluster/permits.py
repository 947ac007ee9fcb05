"""Resources that say who may do what and how pods are treated.

`rbac` decides by roles and their bindings; the others are kept and shown, and enforced by nobody here.
"""

from scenarios.cluster.kinds import Column, Kind
from scenarios.cluster.schemas import (
    EITHER,
    FLAG,
    SELECTOR,
    TEXT,
    WHOLE,
    atomic,
    closed,
    keyed,
    listed,
    opened,
    rooted,
)

RBAC = "rbac.authorization.k8s.io"

_AGE = Column(name="Age", type="date", path=".metadata.creationTimestamp")
_CREATED = Column(name="Created At", type="string", path=".metadata.creationTimestamp")
_RULE = closed(
    "verbs",
    verbs=listed(TEXT),
    apiGroups=listed(TEXT),
    resources=listed(TEXT),
    resourceNames=listed(TEXT),
    nonResourceURLs=listed(TEXT),
)
_SUBJECT = closed("kind", "name", kind=TEXT, name=TEXT, namespace=TEXT, apiGroup=TEXT)
_ROLE = atomic(
    closed("kind", "name", apiGroup=TEXT, kind={**TEXT, "enum": ["ClusterRole", "Role"]}, name=TEXT)
)
_NAMED = closed(name=TEXT)


def _role(kind: str, plural: str, *, namespaced: bool) -> Kind:
    aggregated = {} if namespaced else {"aggregationRule": opened()}
    return Kind(
        group=RBAC,
        versions=("v1",),
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        schema=rooted(rules=listed(_RULE), **aggregated),
        columns=(_CREATED,),
    )


def _binding(kind: str, plural: str, *, namespaced: bool) -> Kind:
    return Kind(
        group=RBAC,
        versions=("v1",),
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        schema=rooted("roleRef", subjects=listed(_SUBJECT), roleRef=_ROLE),
        columns=(
            Column(name="Role", type="string", path="=role"),
            _AGE,
            *(
                Column(name=kind, type="string", path=f"={kind}", priority=1)
                for kind in ("Users", "Groups", "ServiceAccounts")
            ),
        ),
    )


KINDS: tuple[Kind, ...] = (
    Kind(
        group="",
        versions=("v1",),
        plural="serviceaccounts",
        kind="ServiceAccount",
        short=("sa",),
        schema=rooted(
            automountServiceAccountToken=FLAG,
            imagePullSecrets=listed(_NAMED),
            secrets=keyed(opened(name=TEXT), "name"),
        ),
        columns=(Column(name="Secrets", type="string", path="=secrets"), _AGE),
    ),
    _role("Role", "roles", namespaced=True),
    _binding("RoleBinding", "rolebindings", namespaced=True),
    _role("ClusterRole", "clusterroles", namespaced=False),
    _binding("ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Kind(
        group="policy",
        versions=("v1",),
        plural="poddisruptionbudgets",
        kind="PodDisruptionBudget",
        short=("pdb",),
        status=True,
        schema=rooted(
            spec=closed(
                minAvailable=EITHER, maxUnavailable=EITHER, selector=SELECTOR, unhealthyPodEvictionPolicy=TEXT
            )
        ),
        columns=(
            Column(name="Min Available", type="string", path="=min-available"),
            Column(name="Max Unavailable", type="string", path="=max-unavailable"),
            Column(name="Allowed Disruptions", type="integer", path="=allowed-disruptions"),
            _AGE,
        ),
    ),
    Kind(
        group="networking.k8s.io",
        versions=("v1",),
        plural="networkpolicies",
        kind="NetworkPolicy",
        short=("netpol",),
        schema=rooted(
            spec=closed(
                podSelector=SELECTOR,
                policyTypes=listed(TEXT),
                ingress=listed(opened()),
                egress=listed(opened()),
            )
        ),
        columns=(Column(name="Pod-Selector", type="string", path="=pod-selector"), _AGE),
    ),
    Kind(
        group="scheduling.k8s.io",
        versions=("v1",),
        plural="priorityclasses",
        kind="PriorityClass",
        short=("pc",),
        namespaced=False,
        schema=rooted("value", value=WHOLE, globalDefault=FLAG, description=TEXT, preemptionPolicy=TEXT),
        columns=(
            Column(name="Value", type="integer", path=".value"),
            Column(name="Global-Default", type="boolean", path="=global-default"),
            _AGE,
        ),
    ),
)
