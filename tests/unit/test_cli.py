"""The command line: arguments, exit codes, and what is asked of kubectl.

A small program stands in for kubectl: it keeps runs in a file and complains in kubectl's words. The
real one is met in tests/adapters/test_cli_against_world.py.
"""

import ast
import contextlib
import fcntl
import json
import os
import pty
import re
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from controller import reading, record, steering
from controller.cli import PAGE_LIMIT, main, serin

ROOT = Path(__file__).parents[2]
KUBECTL = f"""#!{sys.executable} -I
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
runs = json.load(open(here + "/runs.json"))
args = [a for a in sys.argv[1:] if not a.startswith("--request-timeout")]
with open(here + "/calls.txt", "a") as calls:
    calls.write(json.dumps(args) + "\\n")
if os.path.exists(here + "/complaint"):
    sys.exit(open(here + "/complaint").read())
words = [a for a in args if not a.startswith("-")]
if words[0] == "create":
    made = json.load(sys.stdin)
    runs.append(made)
    json.dump(runs, open(here + "/runs.json", "w"))
    print(json.dumps(made))
elif words[1] in ("events", "deployments.apps") or "-f" in args:
    if os.path.exists(here + "/forbidden"):
        sys.exit("Error from server (Forbidden): no")
    items = json.load(open(here + "/" + ("deployments.apps" if "-f" in args else words[1]) + ".json"))
    for which in [a for a in args if a.startswith("--field-selector=")]:
        for key, _, value in (one.partition("=") for one in which.partition("=")[2].split(",")):
            name = key.removeprefix("involvedObject.")
            items = [one for one in items if (one if name == key else one["involvedObject"])[name] == value]
    if "-f" in args:
        asked = [one["metadata"]["name"] for one in json.load(sys.stdin)["items"]]
        items = [item for item in items if item["metadata"]["name"] in asked]
    print(json.dumps(items[0] if "-f" in args and len(items) == 1 else dict(items=items)))
elif words[0] == "patch" and os.path.exists(here + "/meanwhile.json"):
    others = json.load(open(here + "/meanwhile.json"))
    json.dump(others.pop(0), open(here + "/runs.json", "w"))
    json.dump(others, open(here + "/meanwhile.json", "w")) if others else os.remove(here + "/meanwhile.json")
    sys.exit("Error from server (Conflict): the object has been modified")
elif words[0] == "patch":
    (found,) = [r for r in runs if r["metadata"]["name"] == words[2]]
    found["spec"].update(json.loads(args[args.index("-p") + 1])["spec"])
    json.dump(runs, open(here + "/runs.json", "w"))
    print(json.dumps(found))
elif "--ignore-not-found" in args:
    print("".join(json.dumps(r) for r in runs if r["metadata"]["name"] == words[2]))
elif len(words) > 2 and words[2] not in ("json", "yaml", "name"):
    print("canaryrun.serin.dev/" + words[2])
else:
    label = [a[3:].split("=")[1] for a in args if a.startswith("-l=")]
    kept = [r for r in runs if not label or r["metadata"]["labels"]["serin.dev/workload"] == label[0]]
    print(json.dumps(dict(items=kept)))
"""


def run(attempt: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serin.dev/v1alpha1",
        "kind": "CanaryRun",
        "metadata": {
            "name": f"model-canary-6f9c-{attempt}",
            "namespace": "lab",
            "resourceVersion": "41",
            "creationTimestamp": f"2026-11-01T12:0{attempt}:00Z",
            "labels": {"serin.dev/workload": "model-canary"},
        },
        "spec": {"plan": {"canary": "model-canary", "stable": "model", "policy": {}}},
        "status": {"phase": "Progressing", "step": "1/4", "weight": 5} | status,
    }


class Cluster:
    """The stand-in's folder, and the command line in front of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "kubectl"
        program.write_text(KUBECTL)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.holds()
        self.has()

    def holds(self, *runs: dict[str, Any]) -> None:
        (self.folder / "runs.json").write_text(json.dumps(runs))

    def has(self, *deployments: dict[str, Any], events: Sequence[dict[str, Any]] = ()) -> None:
        (self.folder / "deployments.apps.json").write_text(json.dumps(deployments))
        (self.folder / "events.json").write_text(json.dumps(events))

    def meanwhile(self, *runs: dict[str, Any]) -> None:
        """Before each patch somebody else writes one of these."""
        (self.folder / "meanwhile.json").write_text(json.dumps([[one] for one in runs]))

    def complains(self, words: str) -> None:
        (self.folder / "complaint").write_text(words)

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.folder / "runs.json").read_text())
        return found

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.txt"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Cluster(tmp_path)


def typed(*arguments: str, program: str = "serin") -> Result:
    return CliRunner().invoke(serin, arguments, prog_name=program)


# -- starting --------------------------------------------------------------------------------------


def test_reading_arguments_imports_nothing_heavy() -> None:
    heavy = ["numpy", "scipy", "aiohttp", "kubernetes_asyncio", "structlog", "yaml", "msgspec", "asyncio"]
    code = f"import sys, controller.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_explaining_a_run_does_not_import_numpy() -> None:
    code = "import sys, controller.report, controller.kubectl; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_as_a_plugin_it_calls_itself_kubectl_serin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-serin", "abort", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: kubectl serin abort [OPTIONS] RUN")
    assert "\n    kubectl serin abort model-canary --reason" in out


def test_the_help_of_every_command_says_what_it_does_and_shows_an_example() -> None:
    for name in serin.commands:
        if name == "scenario":  # its help is its own, in scenarios
            continue
        result = typed(name, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output or "kubectl annotate" in result.output


def test_an_unknown_command_is_bad_usage() -> None:
    assert typed("abrot").exit_code == 2


# -- reading ---------------------------------------------------------------------------------------


def test_runs_are_listed_oldest_first(cluster: Cluster) -> None:
    cluster.holds(run(2), run(1, phase="Failed", reason="CheckFailed"))
    result = typed("list", "-n", "lab", "-o", "wide")
    assert result.exit_code == 0
    head, first, second = result.stdout.splitlines()
    assert head.split()[:7] == ["NAME", "PHASE", "WEIGHT", "STEP", "VERDICT", "WORKLOAD", "AGE"]
    assert head.split()[7:] == ["REASON", "POLICY"]
    assert first.startswith("model-canary-6f9c-1   Failed")
    assert second.startswith("model-canary-6f9c-2   Progressing")
    assert "--namespace=lab" in cluster.calls()[0]


@pytest.mark.parametrize(
    ("reason", "shown"), [("Paused", "Paused"), ("NoData", "Held"), ("AwaitingApproval", "Held")]
)
def test_a_run_that_nobody_paused_is_listed_as_held_and_by_what(
    cluster: Cluster, reason: str, shown: str
) -> None:
    """After `serin resume` it still read Paused, as if that had not worked."""
    cluster.holds(run(phase="Paused", reason=reason, verdict="NoData"))
    for output in ("wide", None):
        head, line = typed("list", *(() if output is None else ("-o", output))).stdout.splitlines()
        cells = dict(zip(re.split(r" {2,}", head), re.split(r" {2,}", line), strict=False))
        assert (cells["PHASE"], cells["REASON"]) == (shown, reason)


def test_runs_of_all_namespaces_say_theirs(cluster: Cluster) -> None:
    cluster.holds(run())
    assert typed("list", "-A").stdout.startswith("NAMESPACE")
    assert "--all-namespaces" in cluster.calls()[0]


@pytest.mark.usefixtures("cluster")
def test_no_runs_is_said_beside_the_output() -> None:
    result = typed("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "No canary runs found in the current namespace; in all of them: serin list -A\n"
    named = typed("list", "-n", "lab", "--context", "prod", program="kubectl serin").stderr
    assert named == (
        "No canary runs found in namespace lab; in all of them: kubectl serin list -A --context prod\n"
    )
    assert typed("list", "-A").stderr == "No canary runs found in any namespace.\n"


def test_kubectls_own_flags_are_passed_on(cluster: Cluster) -> None:
    typed("list", "-n", "shop", "--context", "prod", "--kubeconfig", "/k")
    assert {"--namespace=shop", "--context=prod", "--kubeconfig=/k"} <= set(cluster.calls()[0])


def test_a_run_is_found_by_its_name_and_by_its_deployment(cluster: Cluster) -> None:
    cluster.holds(run(1, phase="Succeeded"), run(2))
    assert "model-canary-6f9c-1 in lab: promoted" in typed("status", "model-canary-6f9c-1").stdout
    assert "model-canary-6f9c-1 in lab" in typed("status", "crun/model-canary-6f9c-1").stdout
    assert "model-canary-6f9c-2 in lab: in progress" in typed("status", "model-canary").stdout
    assert "model-canary-6f9c-2 in lab" in typed("status", "deployment/model-canary").stdout


def begun_at_once(name: str, **status: Any) -> dict[str, Any]:
    """A run of its own template that begins in the same second as all of these."""
    found = run(1, **status)
    found["metadata"]["name"] = name
    return found


@pytest.mark.parametrize(
    ("older", "newest"),
    [
        (("model-canary-f4h6-1", {"phase": "Failed", "reason": "Superseded"}), ("model-canary-6ch4-1", {})),
        (
            ("model-canary-f4h6-1", {"phase": "Failed", "reason": "Superseded"}),
            ("model-canary-6ch4-1", {"phase": "Failed", "reason": "Aborted"}),
        ),
        (("model-canary-f4h6-9", {"phase": "Failed", "reason": "Aborted"}), ("model-canary-f4h6-10", {})),
        (
            ("model-canary-f4h6-9", {"phase": "Failed", "reason": "Aborted"}),
            ("model-canary-f4h6-10", {"phase": "Failed", "reason": "Aborted"}),
        ),
    ],
)
def test_of_two_runs_that_begin_in_one_second_the_newest_is_the_one_that_follows(
    cluster: Cluster, older: tuple[str, dict[str, Any]], newest: tuple[str, dict[str, Any]]
) -> None:
    """`kubectl apply`, and `kubectl set env` within a second: explain showed the first template."""
    (before, was), (after, is_) = older, newest
    cluster.holds(begun_at_once(after, **is_), begun_at_once(before, **was))
    assert typed("status", "model-canary").stdout.startswith(f"{after} in lab")
    listed = [line.split()[0] for line in typed("list").stdout.splitlines()]
    assert listed == ["NAME", before, after]


def test_the_status_of_a_rolled_back_run_is_exit_code_3(cluster: Cluster) -> None:
    cluster.holds(run(phase="Failed", reason="CheckFailed"))
    assert typed("status", "model-canary").exit_code == 3
    assert typed("explain", "model-canary").exit_code == 0


def test_an_unknown_run_is_bad_input_and_the_answer_says_what_to_type(cluster: Cluster) -> None:
    cluster.holds(run())
    result = typed("explain", "other", "-n", "lab", program="kubectl serin")
    assert result.exit_code == 2
    assert 'called "other" in namespace lab; see: kubectl serin list -n lab' in result.stderr
    assert cluster.runs() == [run()]


def test_a_misspelt_run_is_answered_with_those_that_may_be_meant(cluster: Cluster) -> None:
    cluster.holds(run())
    said = typed("status", "model-canry", "-n", "lab").stderr
    assert "Did you mean model-canary or model-canary-6f9c-1? See: serin list -n lab" in said


def test_the_name_of_stable_is_answered_with_its_canary(cluster: Cluster) -> None:
    cluster.holds(run())
    for verb in ("status", "explain"):
        result = typed(verb, "model")
        assert result.exit_code == 2
        assert "It is stable; its canary is model-canary" in result.stderr


def test_where_there_is_no_run_at_all_other_namespaces_are_named(cluster: Cluster) -> None:
    cluster.holds()
    result = typed("status", "model-canary", "-n", "modles", "--context", "prod")
    assert result.exit_code == 2
    assert "in namespace modles, which has no run at all; see: serin list -A --context prod" in result.stderr


def test_a_policy_without_its_flag_is_named_with_it() -> None:
    result = typed("plan", "policy.yaml", "--rps", "10")
    assert result.exit_code == 2
    assert "policy.yaml is one argument too many; did you mean --policy policy.yaml?" in result.stderr


def test_a_page_that_holds_no_metric_is_bad_input(tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("# nothing here\n")
    result = typed("plan", "--rps", "10", "--page", str(page))
    assert result.exit_code == 2
    assert "holds no metric that these checks read; give a metrics page" in result.stderr


def test_a_url_without_its_scheme_is_told_that() -> None:
    result = typed("plan", "--rps", "10", "--page", "localhost:9/metrics")
    assert result.exit_code == 2
    assert "a URL begins with http://" in result.stderr


@pytest.mark.parametrize("name", ["--all", "a b", "UPPER", "a/b/c", ""])
def test_what_cannot_be_a_name_never_reaches_kubectl(cluster: Cluster, name: str) -> None:
    assert typed("explain", "--", name).exit_code == 2
    assert cluster.calls() == []


def test_an_object_can_be_had_as_it_is(cluster: Cluster) -> None:
    cluster.holds(run())
    assert typed("status", "model-canary", "-o", "name").stdout == "canaryrun.serin.dev/model-canary-6f9c-1\n"


def test_text_has_no_colours_where_there_is_no_terminal(cluster: Cluster) -> None:
    cluster.holds(run(phase="Failed"))
    assert "\x1b[" not in typed("list").stdout


def test_no_color_is_obeyed_on_a_terminal(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.holds(run(phase="Failed"))
    assert "\x1b[31mFailed" in CliRunner().invoke(serin, ["list"], color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in CliRunner().invoke(serin, ["list"], color=True).stdout


@pytest.mark.parametrize("where", ["/dev/full", "/proc/there-is-none"])
def test_what_cannot_be_written_is_told_in_a_sentence(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, or a folder that is somebody else's, ended in a traceback of thirty lines."""
    ticks = tmp_path / "ticks.jsonl"
    ticks.write_text('{"t": 1, "weight": 0, "stable": {"requests": 1}}')
    with pytest.raises(SystemExit) as ended:
        main(["backtest", str(ticks), "--json", where])
    assert ended.value.code == 1
    assert re.search(
        "Error: .* cannot be (opened|written): No s.*; make room there, or name", capsys.readouterr().err
    )


def test_a_terminal_of_another_encoding_shows_what_it_can() -> None:
    """In a Latin-1 locale `serin shadow merge --help` ended in a UnicodeEncodeError at its "PART…"."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "shadow", "merge", "--help"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"[OPTIONS] PART\\u2026" in done.stdout


def test_a_standard_output_without_room_is_told_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the output cannot be written: No space left on device; make room")
    assert done.stderr.count("\n") == 1


def test_without_a_standard_output_a_command_does_its_work() -> None:
    """`serin list >&-`, as some schedulers start it, ended in an AttributeError."""
    asks = (
        "import sys; from controller import cli, command; sys.argv[0] = 'serin'; cli.serin.callback = None;"
    )
    look = "cli.serin.main = lambda *_, **__: sys.exit(7 if command.columns() is None else 8); cli.main([])"
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "{asks} {look}" >&-'], stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (7, b"")


PROGRAM = "import sys; sys.argv[0] = 'serin'; from controller.cli import main; main()"


def on_a_terminal(columns: int, *arguments: str) -> list[str]:
    """What is printed on a terminal that is so wide, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=theirs, env=environ | {"NO_COLOR": "1"}
    ) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # the terminal is closed
            while some := os.read(ours, 4096):
                said += some
        assert process.wait() == 0
    os.close(ours)
    return said.decode().split("\r\n")


NARROW = 60
LONG = "no page of model-canary can be read, so it gets no traffic: a-b-c: http://198.18.0.3:8080/metrics"


def test_on_a_terminal_lines_are_as_long_as_it_has_room_for(cluster: Cluster) -> None:
    """`list`, `status` and `explain` had lines of 105 characters on a terminal of 60."""
    cluster.holds(run(phase="Paused", reason="NoData", verdict="NoData", message=LONG))
    for verb in (("list",), ("status", "model-canary"), ("explain", "model-canary")):
        lines = on_a_terminal(NARROW, *verb)
        assert [line for line in lines if len(line) > NARROW and "serin " not in line] == []
        assert len(typed(*verb).stdout.splitlines()) <= len(lines)
    head, line, _ = on_a_terminal(NARROW, "list")
    assert head.split() == ["NAME", "PHASE", "WEIGHT", "STEP", "REASON"]
    assert line.split()[1:] == ["Held", "5", "1/4", "NoData"]
    assert "WORKLOAD" in on_a_terminal(NARROW, "list", "-o", "wide")[0]


def test_what_goes_into_a_pipe_or_can_be_typed_is_not_folded(cluster: Cluster) -> None:
    cluster.holds(run(phase="Paused", reason="NoData", message=LONG))
    assert f"\n  {LONG}.\n" in typed("status", "model-canary").stdout
    assert typed("list").stdout.split()[:8] == [*record.COLUMNS]
    typed_next = [line for line in on_a_terminal(NARROW, "explain", "model-canary") if "serin abort" in line]
    assert typed_next == [
        "  serin abort model-canary-6f9c-1 -n lab --reason '...'   # sends all requests to stable"
    ]


# -- requests without a run ------------------------------------------------------------------------


def deployment(name: str = "model-canary", **notes: str) -> dict[str, Any]:
    annotations = {f"serin.dev/{key.replace('_', '-')}": value for key, value in notes.items()}
    return {"metadata": {"name": name, "namespace": "lab", "annotations": annotations}}


def moment(ago: float) -> str:
    """So many minutes ago: a test may take seconds."""
    return (datetime.now(UTC) - timedelta(minutes=ago)).isoformat()


def event(message: str, *, ago: int = 40, reason: str = "Refused", **more: Any) -> dict[str, Any]:
    """As the controller writes one about the canary's Deployment, so many minutes ago."""
    return {
        "metadata": {"namespace": "lab", "creationTimestamp": "2026-11-01T12:00:00Z"},
        "eventTime": moment(ago),
        "involvedObject": {"kind": "Deployment", "name": "model-canary", "namespace": "lab"},
        "reason": reason,
        "reportingComponent": "serin.dev/controller",
        "message": message,
        **more,
    }


ASKING = deployment(canary_of="model")
NO_SERVICE = 'there is no VirtualService "model" in namespace lab; create it'


@pytest.mark.parametrize("verb", ["status", "explain", "pause", "watch"])
def test_a_request_that_was_refused_is_said_to_be_with_its_remedy(cluster: Cluster, verb: str) -> None:
    """`serin status` said: no canary Deployment, and no run at all. The Event had the exact remedy."""
    cluster.has(ASKING, events=[event("older", ago=90), event(NO_SERVICE)])
    result = typed(verb, "model-canary", "-n", "lab")
    assert result.exit_code == 2
    wanted = f"Error: Deployment model-canary has no canary run; it was refused 40m ago: {NO_SERVICE}"
    assert result.stderr == f"{wanted}\n"


def test_requests_that_were_refused_are_listed_beside_the_runs(cluster: Cluster) -> None:
    cluster.has(ASKING, events=[event(NO_SERVICE)])
    line = f"Deployment model-canary was refused 40m ago: {NO_SERVICE}\n"
    assert typed("list").stderr.endswith(line)
    cluster.holds(run(phase="Failed", reason="Superseded"))
    result = typed("list")
    assert (result.stderr, len(result.stdout.splitlines())) == (line, 2)
    assert typed("list", "-A").stderr == line.replace("model-canary", "lab/model-canary")
    cluster.has(deployment(), events=[event(NO_SERVICE)])  # nobody asks any more
    assert typed("list").stderr == ""


def test_commands_in_a_refusal_are_as_people_call_us(cluster: Cluster) -> None:
    cluster.has(ASKING, events=[event("type kubectl serin abort x -n lab")])
    cluster.holds(run(phase="Failed", reason="CheckFailed"))
    for said in (typed("list").stderr, typed("status", "model-canary").stdout):
        assert said.endswith("ago: type serin abort x -n lab\n")
    assert "kubectl serin abort x" in typed("list", program="kubectl serin").stderr


def test_what_a_newer_request_was_refused_for_is_said_of_a_run_that_has_ended(cluster: Cluster) -> None:
    """With an older run status showed that one, and no word of the refusal."""
    cluster.has(ASKING, events=[event(NO_SERVICE)])
    said = f"What its Deployment asks for now was refused 40m ago: {NO_SERVICE}"
    cluster.holds(run(phase="Failed", reason="CheckFailed"))
    for verb in ("status", "explain"):
        assert typed(verb, "model-canary").stdout.endswith(f"\n{said}\n")
    made = run(phase="Failed", reason="CheckFailed")
    made["metadata"]["creationTimestamp"] = moment(ago=20)
    cluster.holds(made)  # that came after it: it was mended
    assert "refused" not in typed("status", "model-canary").stdout


@pytest.mark.parametrize("phase", ["Pending", "Progressing", "Paused", "Promoting"])
def test_what_is_refused_while_a_run_goes_on_is_said_beside_it(cluster: Cluster, phase: str) -> None:
    """Only the controller's log and an Event knew; list, status and explain were silent."""
    cluster.has(ASKING, events=[event(NO_SERVICE)])
    cluster.holds(run(phase=phase))
    said = f"refused 40m ago: {NO_SERVICE}; model-canary-6f9c-1 keeps the plan it has\n"
    assert typed("list").stderr == f"Deployment model-canary was {said}"
    for verb in ("status", "explain"):
        assert typed(verb, "model-canary").stdout.endswith(f"\nWhat its Deployment asks for now was {said}")


def test_of_several_refusals_the_newest_is_told_in_whatever_order_they_come(cluster: Cluster) -> None:
    """Of the Events, which come by their names, list took the last, and status the newest."""
    older, newer = event("older", ago=90), event("newer")
    again = event("again", ago=100, series={"count": 3, "lastObservedTime": moment(ago=10)})
    for events, told in (((newer, older), "40m ago: newer"), ((again, newer, older), "10m ago: again")):
        cluster.has(ASKING, events=events)
        assert typed("list").stderr.endswith(f"Deployment model-canary was refused {told}\n")
        assert typed("status", "model-canary").stderr.endswith(f"it was refused {told}\n")


@pytest.mark.parametrize("everywhere", [(), ("-A",)])
def test_what_is_refused_no_more_is_not_told(cluster: Cluster, everywhere: tuple[str, ...]) -> None:
    """Of a Deployment that asks for nothing any more list said for an hour that it was refused."""
    left = deployment(steps="5,10")
    cluster.has(left, events=[event("Deployment asks for none", ago=5, reason="Mended"), event(NO_SERVICE)])
    assert "refused" not in typed("list", *everywhere).stderr
    cluster.has(left, events=[event("older", ago=90, reason="Mended"), event(NO_SERVICE)])
    assert "was refused 40m ago" in typed("list", *everywhere).stderr
    cluster.has(deployment("another"), events=[event(NO_SERVICE)])  # it was deleted
    assert "refused" not in typed("list", *everywhere).stderr
    labelled = deployment()
    labelled["metadata"]["labels"] = {"serin.dev/canary-of": "model"}
    cluster.has(labelled, events=[event("it stands as a label")])
    assert "was refused 40m ago: it stands as a label" in typed("list", *everywhere).stderr
    assert "was refused 40m ago: it stands as a label" in typed("status", "model-canary").stderr


def test_what_holds_instead_of_a_refusal_is_said_of_a_run_that_has_ended(cluster: Cluster) -> None:
    """A corrected annotation makes no run of a template that has had one, and nobody said so."""
    retry = "this template has had its run: kubectl serin retry model-canary-6f9c-1 -n lab"
    cluster.has(ASKING, events=[event(NO_SERVICE, ago=50), event(retry, reason="Mended")])
    cluster.holds(run(phase="Failed", reason="Aborted", state={"ended": moment(ago=60)}))
    typed_next = f"\nMended 40m ago: {retry.replace('kubectl serin', 'serin')}\n"
    assert typed("status", "model-canary").stdout.endswith(typed_next)
    cluster.holds(run(phase="Failed", reason="Aborted", state={"ended": moment(ago=30)}))
    assert "Mended" not in typed("status", "model-canary").stdout
    cluster.holds(run())
    assert "Mended" not in typed("status", "model-canary").stdout


def test_a_hold_of_a_run_is_no_refusal_of_a_request(cluster: Cluster) -> None:
    held = event("spec.http[0] has a third destination", related={"kind": "CanaryRun", "name": "x"})
    cluster.has(ASKING, events=[held])
    cluster.holds(run(phase="Failed", reason="Aborted"))
    assert "refused" not in typed("status", "model-canary").stdout
    assert typed("list").stderr == ""


def test_a_request_that_nobody_answers_is_named_with_who_can_tell(cluster: Cluster) -> None:
    """Without a controller `serin` knew nothing of a Deployment that was annotated."""
    cluster.has(ASKING)
    typed_next = "kubectl describe deployment model-canary -n lab --context prod"
    assert typed_next in typed("list", "--context", "prod").stderr
    assert typed_next in typed("status", "model-canary", "--context", "prod").stderr


def test_a_deployment_that_asks_for_nothing_is_told_how_to(cluster: Cluster) -> None:
    cluster.has(deployment("other"), ASKING, deployment("model"))
    how = "kubectl annotate deployment other -n lab serin.dev/canary-of=STABLE"
    assert how in typed("status", "other").stderr


@pytest.mark.parametrize("runs", [(), (run(),)])
def test_of_stable_s_name_its_canary_is_told_and_where_to_look(
    cluster: Cluster, runs: tuple[dict[str, Any], ...]
) -> None:
    """It had a run, and explain said that it had none."""
    cluster.has(ASKING, deployment("model"))
    cluster.holds(*runs)
    said = "Deployment model is stable; its canary is model-canary; see: serin status model-canary -n lab\n"
    assert typed("explain", "model").stderr == f"Error: {said}"


def test_of_a_deployment_that_is_gone_with_its_runs_the_last_word_is_known(cluster: Cluster) -> None:
    """Its runs are deleted with it, so that explain found nothing, while docs promised a message."""
    last = event("model-canary was deleted", reason="Aborted", related={"kind": "CanaryRun"})
    cluster.has(deployment("model"), events=[event("step 1 of 4: 5 %", ago=90, reason="WeightRaised"), last])
    result = typed("explain", "model-canary")
    assert result.exit_code == 2
    assert "no Deployment model-canary any more, and its runs are gone with it" in result.stderr
    assert result.stderr.endswith("40m ago: Aborted: model-canary was deleted\n")


def test_whoever_may_not_read_events_reads_what_there_is(cluster: Cluster) -> None:
    cluster.holds(run(phase="Failed", reason="Aborted"))
    (cluster.folder / "forbidden").touch()
    for verb in (("list",), ("explain", "model-canary")):
        result = typed(*verb)
        assert (result.exit_code, result.stderr) == (0, "")


# -- steering --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "spec", "done"),
    [
        (("pause",), {"paused": True}, "paused"),
        (("resume",), {"paused": False}, "resumed"),
        (("abort", "--reason", " wrong \n prices "), {"abort": {"reason": "wrong prices"}}, "aborted"),
        (("promote", "--reason", "urgent"), {"promote": {"reason": "urgent"}}, "will be promoted"),
    ],
)
def test_steering_is_a_merge_patch_of_the_spec_fenced_by_the_version_that_was_read(
    cluster: Cluster, arguments: tuple[str, ...], spec: dict[str, Any], done: str
) -> None:
    begun = run()
    begun["spec"]["paused"] = arguments == ("resume",)
    cluster.holds(begun)
    result = typed(*arguments, "model-canary")
    assert result.stdout == f"canaryrun.serin.dev/model-canary-6f9c-1 {done}\n"
    patch = cluster.calls()[-1]
    assert "--type=merge" in patch
    assert json.loads(patch[patch.index("-p") + 1]) == {"metadata": {"resourceVersion": "41"}, "spec": spec}


def changed_to(**meta: Any) -> dict[str, Any]:
    """The run as the controller wrote it while somebody typed."""
    found = run(phase="Paused", reason="Inconclusive")
    found["metadata"] |= meta
    return found


@pytest.mark.parametrize(
    "arguments",
    [("pause",), ("resume",), ("abort", "--reason", "x"), ("promote", "--reason", "x"), ("approve",)],
)
def test_what_the_controller_writes_at_the_same_time_does_not_stop_a_verb(
    cluster: Cluster, arguments: tuple[str, ...]
) -> None:
    """`serin pause` right after `serin promote` said: somebody changed it in between, type it again."""
    runs = [changed_to(resourceVersion=version) for version in ("41", "42", "43")]
    for one in runs:
        one["spec"]["paused"] = arguments == ("resume",)
    cluster.holds(runs[0])
    cluster.meanwhile(*runs[1:])
    result = typed(*arguments, "model-canary")
    assert (result.exit_code, result.stderr) == (0, "")
    patches = [json.loads(call[call.index("-p") + 1]) for call in cluster.calls() if call[0] == "patch"]
    assert [one["metadata"]["resourceVersion"] for one in patches] == ["41", "42", "43"]


def test_whether_a_verb_makes_sense_is_looked_at_anew_each_time(cluster: Cluster) -> None:
    cluster.holds(run())
    cluster.meanwhile(run(phase="Failed", reason="CheckFailed"))
    result = typed("pause", "model-canary")
    assert result.exit_code == 2
    assert "It has ended: nothing is left to steer" in result.stderr


def test_who_is_always_overtaken_is_told_so_in_the_end(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "SOON", 0.0)
    cluster.holds(run())
    cluster.meanwhile(*(run() for _ in range(steering.TRIES)))
    result = typed("pause", "model-canary")
    assert result.exit_code == 1
    assert "somebody changed or made it in between; type the command again" in result.stderr


@pytest.mark.parametrize("verb", ["abort", "promote"])
@pytest.mark.parametrize("reason", [[], ["--reason", "  "], ["--reason", "x" * 1025]])
def test_abort_and_promote_want_a_reason(cluster: Cluster, verb: str, reason: list[str]) -> None:
    cluster.holds(run())
    assert typed(verb, "model-canary", *reason).exit_code == 2
    assert cluster.runs() == [run()]


@pytest.mark.parametrize("verb", [["pause"], ["abort", "--reason", "x"], ["approve"]])
def test_a_run_that_has_ended_cannot_be_steered(cluster: Cluster, verb: list[str]) -> None:
    cluster.holds(run(phase="Failed", reason="CheckFailed"))
    result = typed(*verb, "model-canary")
    assert result.exit_code == 2
    assert "It has ended" in result.stderr
    assert "serin retry model-canary-6f9c-1 -n lab" in result.stderr
    assert all(call[0] != "patch" for call in cluster.calls())


def test_an_approval_is_added_to_those_before_it(cluster: Cluster) -> None:
    conditions = [{"type": "Progressing", "status": "False", "reason": "Inconclusive"}]
    waiting = run(phase="Paused", conditions=conditions)
    waiting["spec"]["approved"] = ["ann at noon"]
    cluster.holds(waiting)
    assert typed("approve", "model-canary").exit_code == 0
    (first, second) = cluster.runs()[0]["spec"]["approved"]
    assert first == "ann at noon"
    assert " at 20" in second


def test_nothing_is_approved_where_nothing_waits_for_it(cluster: Cluster) -> None:
    cluster.holds(run())
    result = typed("approve", "model-canary")
    assert result.exit_code == 2
    assert "Nothing waits for an approval" in result.stderr


UNREAD = {
    "phase": "Paused",
    "message": "no metrics page of model-canary can be read, so it gets no traffic: answered 404",
    "conditions": [{"type": "Progressing", "status": "False", "reason": "NoData"}],
    "state": {"stage": "Waiting"},
}


def test_what_an_approval_cannot_help_is_not_said_to_be_approved(cluster: Cluster) -> None:
    cluster.holds(run(**UNREAD))
    result = typed("approve", "model-canary")
    assert result.exit_code == 2
    assert "An approval does not help while no page can be read: mend" in result.stderr
    assert "approved" not in cluster.runs()[0]["spec"]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (UNREAD, "will be promoted, but not before a page of its pods can be read"),
        ({"phase": "Pending"}, "will be promoted, once its first step has begun"),
    ],
)
def test_a_promotion_that_has_to_wait_is_said_to_wait(
    cluster: Cluster, status: dict[str, Any], said: str
) -> None:
    cluster.holds(run(**status))
    result = typed("promote", "model-canary", "--reason", "test")
    assert (result.exit_code, said in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("status", "why"),
    [(UNREAD, "it is held as NoData"), ({}, "in progress at step 1/4, 5 % of requests")],
)
def test_what_nobody_paused_is_not_said_to_be_resumed(
    cluster: Cluster, status: dict[str, Any], why: str
) -> None:
    cluster.holds(run(**status))
    result = typed("resume", "model-canary")
    assert result.exit_code == 2
    assert f"was not paused; {why}: serin explain model-canary-6f9c-1 -n lab" in result.stderr
    assert all(call[0] != "patch" for call in cluster.calls())


def test_what_is_paused_is_not_paused_again_as_what_is_not_is_not_resumed(cluster: Cluster) -> None:
    cluster.holds(run())
    assert typed("pause", "model-canary").exit_code == 0
    again = typed("pause", "model-canary")
    assert again.exit_code == 2
    assert "is paused already; to go on: serin resume model-canary-6f9c-1 -n lab" in again.stderr


def test_a_pause_says_that_it_stops_no_promotion_that_has_begun(cluster: Cluster) -> None:
    cluster.holds(run(phase="Promoting"))
    result = typed("pause", "model-canary")
    assert result.exit_code == 0
    assert "to take that back: serin abort model-canary-6f9c-1 -n lab" in result.stdout
    assert cluster.runs()[0]["spec"]["paused"] is True  # and it may be that it has not begun


def test_a_pause_by_annotation_is_answered_with_how_to_take_it_away(cluster: Cluster) -> None:
    conditions = [{"type": "Progressing", "status": "False", "reason": "Paused"}]
    cluster.holds(run(phase="Paused", conditions=conditions))
    result = typed("resume", "model-canary", "--context", "prod")
    assert result.exit_code == 2
    typed_next = "kubectl annotate deployment model-canary -n lab --context prod serin.dev/pause-"
    assert f"was paused by an annotation of its Deployment; take it away: {typed_next}" in result.stderr
    assert all(call[0] != "patch" for call in cluster.calls())


@pytest.mark.parametrize("phase", ["Pending", "Progressing", "Paused", "Promoting", "Failed"])
def test_what_can_be_typed_next_finds_the_run_wherever_kubectl_points_by_itself(
    cluster: Cluster, phase: str
) -> None:
    cluster.holds(run(phase=phase, weight=5))
    said = typed("explain", "model-canary", "-n", "lab", "--context", "prod", "--kubeconfig", "k").stdout
    commands = said.partition("What you can type\n")[2].splitlines()
    assert commands
    assert all("model-canary-6f9c-1 -n lab --context prod --kubeconfig k" in line for line in commands)


def strings(module: Path) -> list[str]:
    """Every text of the module with what it fills in, in braces."""
    nodes = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.JoinedStr)]
    return [
        "".join(
            f"{{{ast.unparse(part.value)}}}"
            if isinstance(part, ast.FormattedValue)
            else ast.literal_eval(part)
            for part in node.values
        )
        for node in nodes
    ]


STEERED = (
    r"(?:serin|program\}) (?:status|explain|watch|pause|resume|approve|promote|abort|retry|drill|preflight)"
)
ADVICE = re.compile(rf"(?:{STEERED}|kubectl (?:get|annotate|patch|describe) [a-z]+) \{{.*")
WITHIN = re.compile(r" -n |namespace|within|where|flag")


def test_whatever_we_tell_people_to_type_about_an_object_names_its_namespace() -> None:
    modules = [*(ROOT / "controller").rglob("*.py"), *(ROOT / "gpu_shadow").glob("*.py")]
    advice = {found[0] for one in modules for text in strings(one) if (found := ADVICE.search(text))}
    assert len(advice) >= 10
    assert not [one for one in advice if not WITHIN.search(one)]


def test_a_retry_is_a_new_run_with_the_same_plan(cluster: Cluster) -> None:
    cluster.holds(run(1, phase="Failed"), run(2, phase="Failed"))
    result = typed("retry", "model-canary-6f9c-1")
    assert result.stdout == "canaryrun.serin.dev/model-canary-6f9c-3 created, after model-canary-6f9c-1\n"
    made = cluster.runs()[-1]
    assert made["metadata"]["name"] == "model-canary-6f9c-3"
    assert made["spec"] == run()["spec"]
    assert "resourceVersion" not in made["metadata"]


def test_only_what_was_rolled_back_is_tried_again(cluster: Cluster) -> None:
    cluster.holds(run(phase="Succeeded"))
    assert typed("retry", "model-canary").exit_code == 2
    cluster.holds(run(1, phase="Failed"), run(2))
    result = typed("retry", "model-canary-6f9c-1")
    assert result.exit_code == 2
    assert "serin abort model-canary-6f9c-2 -n lab --reason" in result.stderr
    assert len(cluster.runs()) == 2


# -- trouble ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("complaint", "code", "remedy"),
    [
        ('error: the server doesn\'t have a resource type "canaryruns"', 1, "kubectl apply --server-side"),
        ("Error from server (Forbidden): no", 1, "kubectl auth can-i --list -n lab"),
        ("Unable to connect to the server: EOF", 1, "kubectl cluster-info -n lab"),
        ("The connection to the server x was refused", 1, "kubectl cluster-info"),
        ("error: context was not found for specified context: x", 2, "kubectl config get-contexts"),
        ("error: stat /nope: no such file or directory", 2, "--kubeconfig the path of a file that exists"),
        ('error: error loading config file "x": yaml: line 1', 2, "Give another with --kubeconfig"),
        ("error: You must be logged in to the server (Unauthorized)", 1, "kubectl auth whoami"),
        ("Error from server (Conflict): changed", 1, "type the command again"),
        ("Error from server (AlreadyExists): there", 1, "type the command again"),
        ("Error from server (Invalid): spec.abort.reason", 2, "spec.abort.reason"),
        ("error: something new", 1, "something new"),
    ],
)
def test_what_kubectl_complains_of_is_passed_on_with_the_next_step(
    cluster: Cluster, complaint: str, code: int, remedy: str
) -> None:
    cluster.complains(complaint)
    result = typed("pause", "model-canary", "-n", "lab")
    assert result.exit_code == code
    assert remedy in result.stderr
    assert "Traceback" not in result.stderr


def test_what_kubectls_libraries_log_is_not_passed_on(cluster: Cluster) -> None:
    logged = 'E1124 03:14:09.545518    8830 memcache.go:381] "Unhandled Error" err="refused"\n'
    cluster.complains(2 * logged + "The connection to the server x was refused")
    result = typed("list")
    assert result.stderr == (
        "Error: canaryruns.serin.dev: The connection to the server x was refused\n"
        "Is this the right cluster? kubectl cluster-info\n"
    )


def test_without_kubectl_the_answer_says_where_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    result = typed("list")
    assert result.exit_code == 1
    assert "https://kubernetes.io/docs/tasks/tools/" in result.stderr


# -- before a canary, and processes ----------------------------------------------------------------


def test_the_builtin_policy_can_be_printed() -> None:
    result = typed("plan", "--print-policy")
    assert result.exit_code == 0
    assert "kind: CanaryPolicy" in result.stdout
    assert "minRequests: 300" in result.stdout


def test_a_plan_is_worked_out_for_a_rate() -> None:
    result = typed("plan", "--rps", "100", "--stable-pods", "4", "--canary-pods", "1")
    assert result.exit_code == 0
    assert "5 canary requests/s" in result.stdout
    assert "for 4 stable and 1 canary pod (--stable-pods, --canary-pods)" in " ".join(result.stdout.split())
    assert "WARNING: one canary pod" in result.stdout
    assert "1.2x is allowed" in result.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["--rps", "0"], ["--rps", "-1"], ["--rps", "many"], ["--rps", "nan"], ["--rps", "inf"]]
)
def test_a_plan_without_a_rate_is_bad_usage(arguments: list[str]) -> None:
    assert typed("plan", *arguments).exit_code == 2


MODELS_PAGE = (
    'model_inference_duration_seconds_bucket{le="0.1"} 900\n'
    'model_inference_duration_seconds_bucket{le="0.25"} 990\n'
    'model_inference_duration_seconds_bucket{le="0.5"} 1000\n'
    'model_inference_duration_seconds_bucket{le="+Inf"} 1000\n'
)


@pytest.mark.parametrize("arm", ["--stable-pods", "--canary-pods"])
def test_more_pods_than_fit_in_memory_are_bad_usage(arm: str) -> None:
    """A billion canary pods took all of the machine's memory."""
    said = CliRunner().invoke(serin, ["plan", "--rps", "200", arm, "1000000000"])
    assert said.exit_code == 2
    assert f"'{arm}': 1000000000 is not in the range 1<=x<=10000" in said.stderr


def test_a_plan_says_what_the_buckets_of_a_saved_page_can_prove(tmp_path: Path) -> None:
    file = tmp_path / "page.txt"
    file.write_text(MODELS_PAGE)
    result = typed("plan", "--rps", "100", "--page", str(file))
    assert result.exit_code == 0
    assert (
        "What the page says\nlatency-p95: model_inference_duration_seconds, p95 of 1000 requests"
        in result.stdout
    )
    assert "Warning: " in result.stdout


def test_a_plan_asks_for_a_page_as_the_controller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that glues protobuf to text is asked for text."""
    asked = []

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Accept"])
            glued = b"\x07\x0a\x05other" if "protobuf" in asked[-1] else b""
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(MODELS_PAGE.encode() + glued)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        result = typed("plan", "--rps", "9", "--page", f"http://127.0.0.1:{server.server_port}/metrics")
        server.shutdown()
        serving.join()
    assert asked == [reading.ACCEPT, reading.PLAIN]
    assert "p95 of 1000 requests" in result.stdout


@pytest.mark.parametrize("where", ["/no/such/page", "http://127.0.0.1:1/metrics"])
def test_a_page_that_cannot_be_read_is_bad_input(where: str) -> None:
    result = typed("plan", "--rps", "100", "--page", where)
    assert result.exit_code == 2
    assert f"--page {where}: " in result.stderr
    assert "give a metrics page, as a file or by its URL" in result.stderr


def test_no_more_of_a_saved_page_is_read_than_the_controller_would(tmp_path: Path) -> None:
    file = tmp_path / "page.txt"
    file.write_bytes(MODELS_PAGE.encode() + b"\n" * PAGE_LIMIT)
    result = typed("plan", "--rps", "100", "--page", str(file))
    assert result.exit_code == 2
    assert f"--page {file}: the page is larger than {PAGE_LIMIT} bytes; filter it" in result.stderr


def test_a_bad_policy_file_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("stepz: [5]")
    result = typed("plan", "--rps", "10", "--policy", str(file))
    assert result.exit_code == 2
    assert f"{file}: spec.stepz: unknown field; did you mean steps?" in result.stderr


def test_a_bad_setting_is_bad_input() -> None:
    result = typed("controller", "--tick", "9")
    assert result.exit_code == 2
    assert '--tick is "9": expected a duration' in result.stderr


def test_what_a_command_lacks_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scenarios.cli", None)
    result = typed("scenario", "run", "x.yaml")
    assert result.exit_code == 1
    assert "pip install 'serin[lab]'" in result.stderr
