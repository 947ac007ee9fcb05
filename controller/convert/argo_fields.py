"""What is said of Argo Rollouts' fields that no code converts: v1alpha1, as of Argo Rollouts 1.10."""

from controller.convert import fields
from controller.convert.account import Rules
from controller.convert.fields import IS, LIMIT, NONE, OBJECT

_ISTIO = (
    "Serin steers Istio's VirtualServices and nothing else; bring the service into the mesh, or "
    "keep the Rollout"
)
_HTTP = "only http routes are steered; a route of another kind keeps the weights that it has"
_BLUE = (
    "nothing is switched at once: a share of the traffic is compared before the rest follows; this "
    "canary gets the steps 5, 10, 25, 50"
)
_TESTERS = (
    "no routes are made; a route of yours before the others, with that match and the canary's subset "
    "alone, lets testers in, "
    "and Serin leaves it to you"
)
_SHADOW = (
    "a mirror's answers would be thrown away; a Shadow check replays copies and compares the "
    "answers (docs/shadow.md)"
)
_EXPERIMENT = (
    "no third arm is started: the canary is compared with stable over the same seconds, and placebos "
    "among stable's own pods "
    "say how far noise carries the evidence"
)
_ALL_READY = "a run begins, and its weight rises, when all of the canary's pods are ready"
_ROLES = (
    "pods are not relabelled when their part changes; the arms are told apart by a label of their templates"
)
_ALPHA = (
    "no failed measurements are counted: a check fails when its evidence reaches 1/alpha, and alpha (1 "
    "%) is the probability "
    "that a healthy version is rolled back, however often one looks"
)
_ARGS = "queries are not asked: which pods are meant Serin knows by itself"
_LOOKS = "requests are read every second from the first on, in every step"
_RUNS = "no AnalysisRuns: what was measured stands in the CanaryRun, and serin explain reads it"
_PROMETHEUS = "pods are read; the Prometheus, if one is needed, is SERIN_PROMETHEUS_URL"
_LOGIN = "credentials for the Prometheus stand in the controller's ~/.netrc"


def _elsewhere(what: str) -> str:
    return (
        f"its numbers come from {what}: Serin reads the pods, or a Prometheus; count it in the pods, "
        f"and add a check"
    )


def _analysis(at: str) -> Rules:
    """What is said of an analysis wherever it stands."""
    return {
        f"{at}.analysisRunMetadata.**": (IS, _RUNS),
        f"{at}.args[].**": (IS, _ARGS),
        f"{at}.dryRun[].metricName": (
            NONE,
            "every check can roll back; the metric is left out, watch it with an alert",
        ),
        f"{at}.measurementRetention[].**": (IS, _RUNS),
        f"{at}.templates[].clusterScope": (IS, "which template"),
        f"{at}.templates[].templateName": (NONE, "give the template too"),
        f"{at}.startingStep": (IS, _LOOKS),
    }


CANARY = "spec.strategy.canary"
STEP = f"{CANARY}.steps[]"
ROUTING = f"{CANARY}.trafficRouting"
ISTIOS = f"{ROUTING}.istio"

ROLLOUT: Rules = (
    OBJECT
    | {
        'metadata.annotations["rollout.argoproj.io/revision"]': (IS, "its controller writes it"),
        'metadata.annotations["rollout.argoproj.io/workload-generation"]': (IS, "its controller writes it"),
        "spec.replicas": (IS, "as Deployment stable has it"),
        "spec.paused": (IS, "not paused"),
        "spec.progressDeadlineSeconds": (IS, "15m, if nothing is said"),
        "spec.progressDeadlineAbort": (IS, "a canary that is not ready in time is always given up"),
        "spec.restartAt": (NONE, "kubectl rollout restart deployment; it makes no new run"),
        "spec.rollbackWindow.revisions": (
            NONE,
            "an old version is judged like a new one; without a canary: kubectl rollout undo on stable",
        ),
        "spec.analysis.successfulRunHistoryLimit": (IS, "10 runs, good and bad, if nothing is said"),
        "spec.analysis.unsuccessfulRunHistoryLimit": (IS, "10 runs, good and bad, if nothing is said"),
        "spec.workloadRef.apiVersion": (IS, "apps/v1"),
        "spec.workloadRef.kind": (IS, "a Deployment"),
        "spec.workloadRef.scaleDown": (IS, "stable is that Deployment itself, and is not scaled down"),
        "spec.minReadySeconds": (NONE, "say it in the Deployment"),
        "spec.revisionHistoryLimit": (NONE, "say it in the Deployment"),
        "spec.selector.**": (NONE, "say it in the Deployment"),
        "spec.strategy.blueGreen.**": (NONE, _BLUE),
        "spec.strategy.blueGreen.autoPromotionEnabled": (IS, "on: what has passed is promoted"),
        "spec.strategy.blueGreen.antiAffinity.**": (NONE, "write podAntiAffinity into the pod template"),
        f"{CANARY}.antiAffinity.**": (
            NONE,
            "write podAntiAffinity into the pod template, by the label that tells the arms apart",
        ),
        f"{CANARY}.canaryMetadata.**": (NONE, _ROLES),
        f"{CANARY}.stableMetadata.**": (NONE, _ROLES),
        f"{CANARY}.canaryService": (
            IS,
            "one Service for both arms; the DestinationRule's subsets tell them apart",
        ),
        f"{CANARY}.stableService": (NONE, "name the host in the VirtualService and in the DestinationRule"),
        f"{CANARY}.dynamicStableScale": (
            NONE,
            "stable keeps all its pods, so that a rollback never waits for one",
        ),
        f"{CANARY}.maxSurge": (NONE, "say it in the Deployment"),
        f"{CANARY}.maxUnavailable": (NONE, "say it in the Deployment"),
        f"{CANARY}.minPodsPerReplicaSet": (
            NONE,
            "say it as the canary Deployment's replicas: it is scaled up, never down",
        ),
        f"{CANARY}.pingPong.**": (
            NONE,
            "one Service for both arms; the DestinationRule's subsets tell them apart",
        ),
        f"{CANARY}.replicaProgressThreshold.**": (NONE, _ALL_READY),
        f"{CANARY}.scaleDownDelayRevisionLimit": (IS, "a canary Deployment has one version at a time"),
        f"{CANARY}.scaleDownDelaySeconds": (IS, "30s, if nothing is said"),
        f"{STEP}.setWeight": (NONE, "steps rise"),
        f"{STEP}.pause.duration": (NONE, "minStep is how long a step lasts at least"),
        f"{STEP}.experiment.**": (NONE, _EXPERIMENT),
        f"{STEP}.plugin.**": (
            NONE,
            "no plugins; a gate asks a webhook: {before: Raise, webhook: {url: ...}}",
        ),
        f"{STEP}.replicaProgressThreshold.**": (NONE, _ALL_READY),
        f"{STEP}.setCanaryScale.matchTrafficWeight": (IS, "canaryReplicas: Match"),
        f"{STEP}.setCanaryScale.replicas": (
            NONE,
            "say it as the canary Deployment's replicas; canaryReplicas: Keep leaves them alone",
        ),
        f"{STEP}.setCanaryScale.weight": (
            NONE,
            "the canary is scaled to carry its share, not more (canaryReplicas: Match)",
        ),
        f"{STEP}.setHeaderRoute.**": (NONE, _TESTERS),
        f"{STEP}.setMirrorRoute.**": (NONE, _SHADOW),
        f"{ROUTING}.managedRoutes[].name": (NONE, _TESTERS),
        f"{ROUTING}.maxTrafficWeight": (IS, "weights are percent; the steps are converted to it"),
        f"{ROUTING}.plugins.**": (NONE, _ISTIO),
        f"{ISTIOS}.virtualService.routes[]": (IS, "all routes that name both subsets move together"),
        f"{ISTIOS}.virtualService.tcpRoutes[].**": (NONE, _HTTP),
        f"{ISTIOS}.virtualService.tlsRoutes[].**": (NONE, _HTTP),
        f"{ISTIOS}.virtualServices[].name": (
            NONE,
            "a run steers one VirtualService, here the first; put the routes into one",
        ),
        f"{ISTIOS}.virtualServices[].routes[]": (IS, "all routes that name both subsets move together"),
        f"{ISTIOS}.virtualServices[].tcpRoutes[].**": (NONE, _HTTP),
        f"{ISTIOS}.virtualServices[].tlsRoutes[].**": (NONE, _HTTP),
        f"{ISTIOS}.virtualService.name": (NONE, "name it in serin.dev/virtual-service"),
        f"{ISTIOS}.destinationRule.name": (NONE, "give the DestinationRule too"),
        f"{ISTIOS}.destinationRule.canarySubsetName": (NONE, "name it in serin.dev/canary-subset"),
        f"{ISTIOS}.destinationRule.stableSubsetName": (NONE, "name it in serin.dev/stable-subset"),
        f"{ISTIOS}.destinationRule.additionalSubsetNames[]": (IS, "other subsets are left alone"),
    }
    | {
        f"{ROUTING}.{other}.**": (NONE, _ISTIO)
        for other in ("alb", "ambassador", "apisix", "appMesh", "nginx", "smi", "traefik")
    }
    | _analysis(f"{CANARY}.analysis")
    | _analysis(f"{STEP}.analysis")
    | _analysis("spec.strategy.blueGreen.prePromotionAnalysis")
    | _analysis("spec.strategy.blueGreen.postPromotionAnalysis")
)

METRIC = "spec.metrics[]"
PROVIDER = f"{METRIC}.provider"
TEMPLATE: Rules = (
    fields.TEMPLATE
    | {
        "spec.args[].**": (IS, _ARGS),
        "spec.dryRun[].metricName": (
            NONE,
            "every check can roll back; the metric is left out, watch it with an alert",
        ),
        "spec.measurementRetention[].**": (IS, _RUNS),
        "spec.templates[].clusterScope": (IS, "which template"),
        "spec.templates[].templateName": (NONE, "give the template too"),
        f"{METRIC}.name": (NONE, "no Rollout here uses the template; give the Rollout with it"),
        f"{METRIC}.count": (IS, _LOOKS),
        f"{METRIC}.interval": (IS, _LOOKS),
        f"{METRIC}.initialDelay": (
            IS,
            "latencies, predictions and proportions count after warmUp, errors from the first request on",
        ),
        f"{METRIC}.failureLimit": (IS, _ALPHA),
        f"{METRIC}.consecutiveErrorLimit": (
            IS,
            "what cannot be read is NoData: it holds the weight, it neither passes nor fails",
        ),
        f"{METRIC}.consecutiveSuccessLimit": (
            IS,
            "a step is passed when the evidence for it is strong enough (beta)",
        ),
        f"{METRIC}.inconclusiveLimit": (
            IS,
            "undecided after stepTimeout: onInconclusive, which holds if nothing is said",
        ),
        f"{METRIC}.successCondition": (NONE, LIMIT),
        f"{METRIC}.failureCondition": (NONE, LIMIT),
        f"{PROVIDER}.prometheus.query": (NONE, "no Rollout here uses the template; give the Rollout with it"),
        f"{PROVIDER}.prometheus.address": (IS, _PROMETHEUS),
        f"{PROVIDER}.prometheus.timeout": (IS, "five seconds; nothing waits for it"),
        f"{PROVIDER}.prometheus.insecure": (
            NONE,
            "certificates are verified; REQUESTS_CA_BUNDLE names your own authority",
        ),
        f"{PROVIDER}.prometheus.authentication.**": (NONE, _LOGIN),
        f"{PROVIDER}.prometheus.headers[].**": (NONE, _LOGIN),
        f"{PROVIDER}.prometheus.rangeQuery.**": (IS, "counters are read at two instants and differenced"),
        f"{PROVIDER}.job.**": (
            NONE,
            "no Jobs are run; let whoever runs them answer a gate: {before: Start, webhook: {url: ...}}",
        ),
        f"{PROVIDER}.web.**": (
            NONE,
            (
                "no answers are looked into; let that system answer a gate with a 2xx: {before: Raise, "
                "webhook: {url: ...}}"
            ),
        ),
        f"{PROVIDER}.kayenta.**": (
            NONE,
            (
                "the canary is compared with stable here too, request by request: a check for each metric "
                "replaces it; serin "
                "backtest says what Kayenta would have done"
            ),
        ),
        f"{PROVIDER}.plugin.**": (NONE, "no plugins; count it in the pods, and add a check"),
    }
    | {
        f"{PROVIDER}.{other}.**": (NONE, _elsewhere(other))
        for other in ("cloudWatch", "datadog", "graphite", "influxdb", "newRelic", "skywalking", "wavefront")
    }
)
ISTIO: Rules = OBJECT
