"""What is said of Flagger's fields that no code converts: v1beta1, as of Flagger 1.44."""

from controller.convert.account import Rules
from controller.convert.fields import IS, LIMIT, NONE, OBJECT, TEMPLATE

ISTIO = (
    "Serin steers Istio's VirtualServices and nothing else; bring the service into the mesh, or "
    "keep Flagger for it"
)
_GATEWAY = "belongs to the Gateway API, which Serin does not steer; name Istio gateways in the VirtualService"
_COOKIES = (
    "users are not pinned to an arm: each request is drawn, which is what makes the arms alike; "
    "a trafficPolicy with consistentHash pins a user to a pod of the arm that was drawn"
)
_WINDOW = "no windows: every request since the step began is evidence, read from the pods every second"
_ALPHA = (
    "no failed looks are counted: a check fails when its evidence reaches 1/alpha, and alpha (1 %) is "
    "the probability that a "
    "healthy version is rolled back, however often one looks"
)
_HPA = (
    "the HPA or ScaledObject goes on scaling Deployment stable, which is no copy; Serin scales the "
    "canary up to carry its share"
)

OFF = ("spec.skipAnalysis", "spec.service.delegation", "spec.service.portDiscovery", "spec.analysis.mirror")
_MADE = "nothing was made of it; write it into the new objects if you need it"

CANARY: Rules = OBJECT | {
    # what code converts, where it finds something
    **dict.fromkeys(
        (
            "spec.targetRef.name",
            "spec.service.hosts[]",
            "spec.service.gateways[]",
            "spec.service.apex.**",
            "spec.analysis.stepWeights[]",
            "spec.analysis.metrics[].name",
            "spec.analysis.metrics[].query",
            "spec.analysis.metrics[].templateRef.name",
            "spec.analysis.alerts[].providerRef.name",
            "spec.analysis.webhooks[].url",
            *(
                f"spec.service.{each}"
                for each in ("name", "port", "portName", "targetPort", "appProtocol", "timeout")
            ),
            *(
                f"spec.service.{each}.**"
                for each in ("match[]", "retries", "headers", "corsPolicy", "trafficPolicy")
            ),
            *(f"spec.service.{each}" for each in ("rewrite.uri", "rewrite.authority", "trafficDistribution")),
        ),
        (NONE, _MADE),
    ),
    "spec.provider": (IS, "Istio, and no other"),
    "spec.metricsServer": (
        IS,
        "pods are read directly; where they cannot be, SERIN_PROMETHEUS_URL and source: {prometheus: {}}",
    ),
    "spec.progressDeadlineSeconds": (IS, "15m, if nothing is said"),
    "spec.targetRef.apiVersion": (IS, "apps/v1"),
    "spec.targetRef.kind": (IS, "a Deployment"),
    "spec.autoscalerRef.apiVersion": (IS, _HPA),
    "spec.autoscalerRef.kind": (IS, _HPA),
    "spec.autoscalerRef.name": (IS, _HPA),
    "spec.autoscalerRef.primaryScalerQueries.**": (
        NONE,
        "no second scaler is made; write the query into the ScaledObject of stable",
    ),
    "spec.autoscalerRef.primaryScalerReplicas.minReplicas": (
        NONE,
        "no second scaler is made; write it into the HPA of stable",
    ),
    "spec.autoscalerRef.primaryScalerReplicas.maxReplicas": (
        NONE,
        "no second scaler is made; write it into the HPA of stable",
    ),
    "spec.ingressRef.**": (NONE, ISTIO),
    "spec.routeRef.**": (NONE, ISTIO),
    "spec.upstreamRef.**": (NONE, ISTIO),
    "spec.service.portDiscovery": (NONE, "ports are not looked for; list them in the Service"),
    "spec.service.headless": (IS, "the Service has an address of its own"),
    "spec.service.backendTimeout": (NONE, _GATEWAY),
    "spec.service.meshName": (NONE, ISTIO),
    "spec.service.backends[]": (NONE, ISTIO),
    "spec.service.delegation": (
        NONE,
        (
            "a delegate cannot be steered, and one with hosts is no delegate any more: give this "
            "VirtualService the hosts and gateways of the one that delegates to it, and take that route out "
            "there in the same moment, or its callers get 404"
        ),
    ),
    "spec.service.rewrite.type": (NONE, _GATEWAY),
    "spec.service.mirror[].**": (NONE, f"{_GATEWAY}, where mirrors is the field"),
    "spec.service.gatewayRefs[].**": (NONE, _GATEWAY),
    "spec.service.primary.**": (
        NONE,
        "there is one Service for both arms; what has to be on it belongs to apex",
    ),
    "spec.service.canary.**": (
        NONE,
        "there is one Service for both arms; testers reach the canary by a route with a match",
    ),
    "spec.service.unmanagedMetadata.**": (IS, "Serin changes weights, and no labels or annotations of yours"),
    "spec.skipAnalysis": (
        NONE,
        "nothing goes unjudged; serin promote RUN --reason ... does not wait for the remaining steps",
    ),
    "spec.revertOnDeletion": (
        IS,
        "stable is your own Deployment; ending a canary takes its traffic away first",
    ),
    "spec.suspend": (IS, "not paused"),
    "spec.analysis.interval": (IS, _WINDOW),
    "spec.analysis.threshold": (IS, _ALPHA),
    "spec.analysis.maxWeight": (IS, "the last of the steps"),
    "spec.analysis.stepWeight": (IS, "the steps are listed"),
    "spec.analysis.stepWeightPromotion": (
        IS,
        (
            "promotion gives stable the template, and its own rolling update moves the traffic; the canary "
            "keeps its weight until then"
        ),
    ),
    "spec.analysis.mirror": (
        NONE,
        (
            "a mirror's answers would be thrown away; a Shadow check replays copies of requests on both "
            "models and compares the "
            "answers (docs/shadow.md)"
        ),
    ),
    "spec.analysis.mirrorWeight": (
        NONE,
        "serin controller --shadow-percent, with a Shadow check (docs/shadow.md)",
    ),
    "spec.analysis.primaryReadyThreshold": (
        NONE,
        "stable is not waited for: with less than 90 % of its pods a run warns",
    ),
    "spec.analysis.canaryReadyThreshold": (NONE, "a run begins when all of the canary's pods are ready"),
    "spec.analysis.match[].**": (
        NONE,
        (
            "people with a header are no sample of all, so arms by header cannot be compared; a route of "
            "yours before the others, "
            "with that match and the canary's subset alone, lets testers in, and Serin leaves it to you"
        ),
    ),
    "spec.analysis.sessionAffinity.**": (NONE, _COOKIES),
    "spec.analysis.metrics[].interval": (IS, _WINDOW),
    "spec.analysis.metrics[].threshold": (NONE, LIMIT),
    "spec.analysis.metrics[].thresholdRange.min": (NONE, LIMIT),
    "spec.analysis.metrics[].thresholdRange.max": (NONE, LIMIT),
    "spec.analysis.metrics[].templateRef.namespace": (IS, "which template"),
    "spec.analysis.metrics[].templateVariables.**": (IS, "which pods are meant Serin knows by itself"),
    "spec.analysis.alerts[].name": (IS, "an alert is known by its receiver"),
    "spec.analysis.alerts[].severity": (NONE, "says when the provider is told: as providerRef.name says"),
    "spec.analysis.alerts[].providerRef.namespace": (
        IS,
        "Secrets are read in the run's own namespace: copy it there",
    ),
    "spec.analysis.webhooks[].name": (IS, "a gate is known by its place, an alert by its receiver"),
    "spec.analysis.webhooks[].type": (NONE, "rollout, if nothing is said: as its url says"),
    "spec.analysis.webhooks[].muteAlert": (IS, "a gate that is shut raises no alert of its own but Held"),
    "spec.analysis.webhooks[].timeout": (IS, "ten seconds an attempt; checks go on meanwhile"),
    "spec.analysis.webhooks[].retries": (
        IS,
        "a shut gate is asked again every ten seconds, an alert sent for 24 hours",
    ),
    "spec.analysis.webhooks[].disableTLS": (
        NONE,
        "certificates are verified; give the receiver one that the controller trusts",
    ),
    "spec.analysis.webhooks[].metadata.**": (
        NONE,
        "what is sent names run, canary, stable and weights; put what is yours into the URL",
    ),
}
METRIC_TEMPLATE: Rules = TEMPLATE | {
    "spec.provider.type": (IS, "pods are read, or the controller's Prometheus"),
    "spec.provider.address": (IS, "pods are read; the Prometheus, if one is needed, is SERIN_PROMETHEUS_URL"),
    "spec.provider.headers.**": (
        NONE,
        "a Prometheus is asked without headers of yours; credentials stand in ~/.netrc",
    ),
    "spec.provider.secretRef.name": (
        NONE,
        "credentials for the Prometheus stand in the controller's ~/.netrc",
    ),
    "spec.provider.region": (NONE, "Serin reads pods, or a Prometheus"),
    "spec.provider.insecureSkipVerify": (
        NONE,
        "certificates are verified; REQUESTS_CA_BUNDLE names your own authority",
    ),
    "spec.query": (NONE, "no Canary here uses the template; give the Canary with it"),
}
ALERT_PROVIDER: Rules = TEMPLATE | {
    "spec.type": (NONE, "no Canary here uses the receiver; give the Canary with it"),
    "spec.channel": (NONE, "Slack's incoming webhook has a channel of its own; make one for each channel"),
    "spec.username": (NONE, "Slack's incoming webhook has a name of its own; set it there"),
    "spec.address": (NONE, "keep the URL in a Secret and name it in alerts[].slack.secretRef"),
    "spec.proxy": (NONE, "HTTPS_PROXY in the controller's environment is for all receivers"),
    "spec.secretRef.name": (NONE, "name the Secret in alerts[].slack.secretRef"),
}
