"""Pods of ours against the Pod Security Standards' restricted profile, rule by rule as it is published.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted (which includes baseline)
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_manifests import BASE, MANIFESTS, SHADOWED, built, documents

Json = Any
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
VOLUMES |= {"persistentVolumeClaim"}
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
TCP = ("fin_timeout", "keepalive_intvl", "keepalive_probes", "keepalive_time", "rmem", "syncookies", "wmem")
SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ping_group_range", *(f"net.ipv4.tcp_{one}" for one in TCP)}
SYSCTLS |= {
    f"net.ipv4.ip_{one}" for one in ("local_port_range", "local_reserved_ports", "unprivileged_port_start")
}


class Looked:
    """A pod, as the profile's rules look at it."""

    def __init__(self, template: Json) -> None:
        self.pod = template["spec"]
        self.own = self.pod.get("securityContext", {})
        kinds = ("containers", "initContainers", "ephemeralContainers")
        self.containers = [container for kind in kinds for container in self.pod.get(kind, ())]
        self.contexts = [container.get("securityContext", {}) for container in self.containers]
        self.all = [self.own, *self.contexts]

    def inherited(self, field: str) -> list[Json]:
        """Each container's value, or else the pod's."""
        return [context.get(field, self.own.get(field)) for context in self.contexts]

    def capabilities(self, part: str) -> list[set[str]]:
        return [set(context.get("capabilities", {}).get(part, ())) for context in self.contexts]

    def asked(self) -> Iterator[Json]:
        """Whatever probes and hooks ask over the network."""
        for container in self.containers:
            probes = (container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup"))
            for one in (*probes, *container.get("lifecycle", {}).values()):
                yield from (one.get("httpGet", {}), one.get("tcpSocket", {}))


# Each control of the page, and when a pod breaks it.
CONTROLS: dict[str, Callable[[Looked], bool]] = {
    "HostProcess": lambda it: any(one.get("windowsOptions", {}).get("hostProcess") for one in it.all),
    "Host Namespaces": lambda it: any(it.pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
    "Privileged Containers": lambda it: any(one.get("privileged") for one in it.contexts),
    "Capabilities": lambda it: (
        not all("ALL" in dropped for dropped in it.capabilities("drop"))
        or any(added - {"NET_BIND_SERVICE"} for added in it.capabilities("add"))
    ),
    "Volume Types": lambda it: any(set(one) - {"name"} - VOLUMES for one in it.pod.get("volumes", ())),
    "Host Ports": lambda it: any(port.get("hostPort") for c in it.containers for port in c.get("ports", ())),
    "Host Probes / Lifecycle Hooks": lambda it: any("host" in one for one in it.asked()),
    "AppArmor": lambda it: any(
        one.get("appArmorProfile", {}).get("type") not in {None, "RuntimeDefault", "Localhost"}
        for one in it.all
    ),
    "SELinux": lambda it: any(
        one.get("type", "") not in SELINUX or {"user", "role"} & set(one)
        for one in (context.get("seLinuxOptions", {}) for context in it.all)
    ),
    "/proc Mount Type": lambda it: any(one.get("procMount", "Default") != "Default" for one in it.contexts),
    "Seccomp": lambda it: any(
        (one or {}).get("type") not in {"RuntimeDefault", "Localhost"}
        for one in it.inherited("seccompProfile")
    ),
    "Sysctls": lambda it: bool({one["name"] for one in it.own.get("sysctls", ())} - SYSCTLS),
    "Privilege Escalation": lambda it: any(
        one.get("allowPrivilegeEscalation") is not False for one in it.contexts
    ),
    "Running as Non-root": lambda it: any(one is not True for one in it.inherited("runAsNonRoot")),
    "Running as Non-root user": lambda it: any(one.get("runAsUser") == 0 for one in it.all),
}


def violations(template: Json) -> list[str]:
    """What an API server that enforces the profile would say against the pod, by the controls' names."""
    looked = Looked(template)
    return [name for name, broken in CONTROLS.items() if broken(looked)]


def templates(objects: list[Json]) -> dict[str, Json]:
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["spec"]["template"]
        for one in objects
        if "template" in one.get("spec", {})
    }


KEPT = ["base", "overlays/shadow", "overlays/shadow-replay", "quickstart", "samples"]
PODS = {
    f"{folder}/{name}": template for folder in KEPT for name, template in templates(built(folder)).items()
} | {
    f"adopt/{path.stem}/{name}": template
    for path in sorted((MANIFESTS / "adopt").glob("*.yaml"))  # applied one by one
    for name, template in templates(documents(path)).items()
}
CONTROLLER = templates(BASE)["Deployment/serin-controller"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_fits_the_restricted_profile(name: str) -> None:
    assert violations(PODS[name]) == []


def test_the_namespace_asks_for_what_its_pods_fit() -> None:
    for objects in (BASE, SHADOWED):
        (namespace,) = (one for one in objects if one["kind"] == "Namespace")
        labels = {
            k.partition("/")[2]: v for k, v in namespace["metadata"]["labels"].items() if "pod-sec" in k
        }
        assert labels == {"enforce": "restricted", "warn": "restricted", "audit": "restricted"}


@pytest.mark.parametrize(
    ("change", "control"),
    [
        (lambda pod: pod.update(hostNetwork=True), "Host Namespaces"),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80), "Host Ports"),
        (lambda pod: pod.update(volumes=[{"name": "a", "hostPath": {"path": "/"}}]), "Volume Types"),
        (lambda pod: _context(pod).update(privileged=True), "Privileged Containers"),
        (lambda pod: _context(pod).update(procMount="Unmasked"), "/proc Mount Type"),
        (lambda pod: _context(pod).pop("allowPrivilegeEscalation"), "Privilege Escalation"),
        (lambda pod: _context(pod).pop("capabilities"), "Capabilities"),
        (lambda pod: _context(pod)["capabilities"].update(add=["NET_RAW"]), "Capabilities"),
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "Running as Non-root"),
        (lambda pod: pod["securityContext"].update(runAsUser=0), "Running as Non-root user"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "Seccomp"),
        (lambda pod: _context(pod).update(seLinuxOptions={"user": "a"}), "SELinux"),
        (lambda pod: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]), "Sysctls"),
        (lambda pod: _context(pod).update(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
        (lambda pod: _context(pod).update(windowsOptions={"hostProcess": True}), "HostProcess"),
        (
            lambda pod: pod["containers"][0]["livenessProbe"]["httpGet"].update(host="10.0.0.1"),
            "Host Probes / Lifecycle Hooks",
        ),
    ],
)
def test_each_rule_of_the_profile_finds_who_breaks_it(change: Any, control: str) -> None:
    template = copy.deepcopy(CONTROLLER)
    change(template["spec"])
    assert violations(template) == [control]


def _context(pod: Json) -> Json:
    return pod["containers"][0]["securityContext"]


def test_an_init_container_is_held_to_it_as_well() -> None:
    template = copy.deepcopy(CONTROLLER)
    template["spec"]["initContainers"] = [{"name": "first", "image": "a"}]
    assert set(violations(template)) == {"Privilege Escalation", "Capabilities"}


def test_every_manifest_that_makes_pods_is_looked_at() -> None:
    made = [
        path.relative_to(MANIFESTS)
        for path in Path(MANIFESTS).rglob("*.yaml")
        if "\nkind: Deployment" in f"\n{path.read_text()}" or "\nkind: Job" in f"\n{path.read_text()}"
    ]
    assert {str(path.parent) for path in made} == {
        "adopt",
        "base",
        "components/shadow",
        "overlays/shadow-replay",
        "quickstart",
        "samples",
    }
