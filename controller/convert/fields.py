"""What is said of the fields that every Kubernetes object has."""

from controller.convert.account import Fate, Rules

IS, NONE = Fate.BUILT_IN, Fate.MISSING

# Of a number that nothing is compared with any more.
LIMIT = (
    "an absolute limit decides nothing: the canary is compared with stable; where the number is a "
    "promise to users, watch it with an alert of Prometheus on both arms"
)

# What every Kubernetes object has, and the server writes itself.
OBJECT: Rules = {
    "apiVersion": (IS, "said which objects these are"),
    "kind": (IS, "said which objects these are"),
    "metadata.name": (IS, "named the object"),
    "metadata.namespace": (IS, "named the object's namespace"),
    "metadata.uid": (IS, "the API server writes it"),
    "metadata.resourceVersion": (IS, "the API server writes it"),
    "metadata.generation": (IS, "the API server writes it"),
    "metadata.creationTimestamp": (IS, "the API server writes it"),
    "metadata.selfLink": (IS, "the API server writes it"),
    "metadata.managedFields[].**": (IS, "the API server writes it"),
    'metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]': (IS, "kubectl writes it"),
    'metadata.annotations["deployment.kubernetes.io/revision"]': (
        IS,
        "the Deployment's controller writes it",
    ),
    "metadata.labels.**": (
        NONE,
        "is not carried over; give it to the new objects where somebody selects by it",
    ),
    "metadata.annotations.**": (
        NONE,
        "is not carried over; give it to the new objects where somebody reads it",
    ),
    "metadata.ownerReferences[].**": (NONE, "the new objects have no owner; delete them yourself"),
    "metadata.finalizers[]": (IS, "its own controller's; the new objects have none but a run with traffic"),
    "status.**": (IS, "the peer's own notes; a run's stand in its CanaryRun"),
}
# An object that the others refer to, and that nothing needs any more.
TEMPLATE: Rules = OBJECT | {
    "metadata.labels.**": (IS, "the object is not needed any more"),
    "metadata.annotations.**": (IS, "the object is not needed any more"),
}
