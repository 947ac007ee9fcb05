"""The `serin` command, which is also the kubectl plugin `kubectl serin`.

Reading arguments imports nothing heavy: every command imports what it needs when it runs.
Exit codes: 0 yes, 1 the tool failed, 2 bad usage or input, 3 no: the canary failed, say.
"""

import errno
import importlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from controller import completion, converting, drill, preflight, steering, watching
from controller.command import PLUGIN, Decorated, Failed, Group, Misused, program, show
from controller.settings import SETTINGS, Settings

if TYPE_CHECKING:
    from analysis.evidence import CheckSpec
    from controller.backtest import Moment
    from controller.model import Policy
    from controller.protobuf import Found
    from controller.recorded import Span


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
UNWRITABLE = FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
PAGE_WITHIN = 10.0  # seconds
PAGE_LIMIT = 2 * 1024 * 1024  # bytes, as `scrape` reads
PATIENCE = 5.0  # seconds after which people want to know how far it is
MOST_PODS = 10_000  # of an arm in `plan`: far more than there are, no more than fit in memory


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that was typed and ends the process with its exit code."""
    plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal's encoding has not is no end
            stream.reconfigure(errors="backslashreplace")
    try:
        serin.main(arguments, prog_name=PLUGIN if plugin else "serin")
    except BrokenPipeError:  # `serin explain ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in (UNWRITABLE if error.filename else FULL):
            raise
        what = f"{error.filename}: cannot be opened" if error.filename else "the output cannot be written"
        what += f": {error.strerror}"
        click.echo(f"Error: {what}; make room there, or name another place", err=True)
        sys.exit(1)
    sys.exit(0)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="serin", prog_name="serin")
def serin() -> None:
    """Canaries for ML models that roll themselves back.

    A canary is asked for by annotating its Deployment, which puts it beside the stable one:

      kubectl annotate deployment model-canary serin.dev/canary-of=model
      serin list                        every run, newest last
      serin watch model-canary          live, until it is promoted or rolled back
      serin explain model-canary        what was seen, how sure, what was not seen
      serin abort model-canary --reason "wrong weights"

    RUN is the name of a CanaryRun, or of the canary's Deployment for its newest run.

    Exit codes: 0 done, or yes; 1 the tool failed; 2 bad usage or input; 3 the tool did its work, and the
    answer is no: the canary failed, an item of preflight failed, convert left something to you.
    """


for _command in (
    steering.list_,
    steering.status,
    steering.explain,
    steering.pause,
    steering.resume,
    steering.abort,
    steering.approve,
    steering.promote,
    steering.retry,
    converting.convert,
    watching.watch,
    completion.completion,
    preflight.preflight,
    drill.drill,
):
    serin.add_command(_command)


# -- before a canary -------------------------------------------------------------------------------


@serin.command(context_settings={"allow_extra_args": True})
@click.pass_context
@click.option(
    "--policy",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A CanaryPolicy as YAML, or its spec.",
)
@click.option(
    "--rps", type=click.FloatRange(min=0.001, max=1e9), metavar="R", help="Requests per second, both arms."
)
@click.option(
    "--page", metavar="FILE|URL", help="A metrics page of one of stable's pods: what can its buckets prove?"
)
@click.option("--print-policy", is_flag=True, help="Print the policy with all its defaults and stop.")
@click.option(
    "--stable-pods",
    type=click.IntRange(1, MOST_PODS),
    metavar="N",
    default=10,
    help="Pods of stable.",
    show_default=True,
)
@click.option(
    "--canary-pods",
    type=click.IntRange(1, MOST_PODS),
    metavar="N",
    default=2,
    help="Pods of the canary.",
    show_default=True,
)
def plan(
    context: click.Context,
    *,
    file: Path | None,
    rps: float | None,
    page: str | None,
    print_policy: bool,
    stable_pods: int,
    canary_pods: int,
) -> None:
    """Work out how long a policy takes, what it lets pass, what it sees when, and what it cannot see.

    Without --policy it is the built-in one, which holds where nobody wrote another. Of each fault it says
    whether it would be rolled back, held, or promoted unseen. The times are those by which about half of
    such faults are found, worked out by the evidence that judges real canaries from the counts to be
    expected; the output says for what traffic, and within what factor. --page names
    a page that was saved, or where one is: then it is asked for as the controller asks, so native
    histograms are seen; it says what stable's own buckets can prove.

    Exit code 0 whatever comes out, 2 if the policy is malformed: it foretells, and says neither yes nor no.

    Examples:
      serin plan --print-policy > policy.yaml
      serin plan --policy policy.yaml --rps 200
      kubectl port-forward deploy/model 8080 & serin plan --rps 200 --page http://localhost:8080/metrics
    """
    from controller import planning

    if context.args:
        meant = "" if file else f"; did you mean --policy {context.args[0]}?"
        raise click.UsageError(f"{context.args[0]} is one argument too many{meant}")
    if rps is not None and math.isnan(rps):
        raise click.UsageError("--rps is not a number; give requests per second, such as 200")
    if rps is None and not print_policy:
        raise click.UsageError("give --rps (requests per second to both arms together), or --print-policy")
    try:
        spec = planning.builtin() if file is None else planning.read(file)
    except planning.BadPolicy as error:
        raise Misused(str(error)) from None
    if print_policy or rps is None:
        show(planning.as_yaml(spec).rstrip("\n"))
        return
    lines = ["Steps", *planning.schedule(spec, rps), "", "Let pass", *planning.permitted(spec)]
    show("\n".join([*lines, *([] if page is None else ["", "What the page says", *_proved(spec, page)]), ""]))
    show("\n".join(_foreseen(spec, rps=rps, stable_pods=stable_pods, canary_pods=canary_pods)))


def _foreseen(spec: Any, *, rps: float, stable_pods: int, canary_pods: int) -> list[str]:
    """After how long the policy sees what, and what it cannot see."""
    from controller import foresight, foretold, policies

    policy = policies.policy(spec)
    found = foresight.foreseen(policy, rps=rps, stable_pods=stable_pods, canary_pods=canary_pods)
    longer = foresight.patient(policy, found, rps=rps, stable_pods=stable_pods, canary_pods=canary_pods)
    return foretold.told(policy, found, stable_pods=stable_pods, canary_pods=canary_pods, longer=longer)


def _proved(spec: Any, where: str) -> list[str]:
    """What the buckets of the page can prove, for each latency check."""
    from controller import policies, resolution

    checks = policies.policy(spec).checks
    try:
        if not where.startswith(("http://", "https://")):
            with Path(where).open("rb") as file:
                found = resolution.of_file(_whole(file), checks)
        else:
            found = _negotiated(where, checks)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        url = "" if "://" in where or Path(where).exists() else "; a URL begins with http://"
        raise Misused(f"--page {where}: {why}; give a metrics page, as a file or by its URL{url}") from None
    if not found.series and not found.native:
        raise Misused(
            f"--page {where}: holds no metric that these checks read; give a metrics page: docs/metrics.md"
        )
    return resolution.proved(found, checks)


def _negotiated(url: str, checks: "Sequence[CheckSpec]") -> "Found":
    """What the page says, in protobuf if it can be read so: as `scrape` reads it."""
    from controller import reading

    kind, page = _got(url, accept=reading.ACCEPT)
    try:
        return reading.negotiated(page, checks, kind=kind)
    except ValueError:
        if not reading.is_binary(page, kind=kind):
            raise
    kind, page = _got(url, accept=reading.PLAIN)
    return reading.found(page, checks, kind=kind)


def _got(url: str, *, accept: str) -> tuple[str, bytes]:
    """Content type and body; raises `OSError` or `ValueError`."""
    from urllib.request import Request, urlopen

    request = Request(url, headers={"Accept": accept})  # noqa: S310 - http or https
    with urlopen(request, timeout=PAGE_WITHIN) as answer:  # noqa: S310
        return answer.headers.get("Content-Type", ""), _whole(answer)


def _whole(page: IO[bytes]) -> bytes:
    """All of the page; `ValueError` if the controller would not read as much."""
    said = page.read(PAGE_LIMIT + 1)
    if len(said) > PAGE_LIMIT:
        raise ValueError(f"the page is larger than {PAGE_LIMIT} bytes; filter it")
    return said


OF_PROMETHEUS = ("start", "end", "step", "namespace", "stable_pods", "canary_pods")
RESULT = 'Write the result here as JSON; "-" is standard output, and the report goes to stderr.'


@serin.command()
@click.argument("ticks", type=click.Path(path_type=Path), required=False)
@click.option(
    "--policy",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A CanaryPolicy as YAML, or its spec.",
)
@click.option("--json", "out", type=click.Path(path_type=Path), metavar="OUT", help=RESULT)
@click.option("--prometheus", metavar="URL", help="Read what this Prometheus recorded instead of TICKS.")
@click.option("--start", metavar="T", help="From when on: 2026-11-27T14:00:00Z, or seconds since 1970.")
@click.option("--end", metavar="T", help="Until when. Default: now.")
@click.option("--step", metavar="D", help="Time between instants. Default: as it scraped, at most 15s.")
@click.option("-n", "--namespace", metavar="N", help="The pods' namespace. Default: default.")
@click.option("--stable-pods", metavar="PODS", help="Stable's pods: a regular expression, or a,b,c.")
@click.option("--canary-pods", metavar="PODS", help="The canary's pods, likewise.")
def backtest(*, ticks: Path | None, file: Path | None, out: Path | None, **recorded: str | None) -> None:
    """Put recorded ticks through a policy: what would its checks have said, and the peers' rules?

    They stand in the file TICKS, or a Prometheus is asked for the counters it recorded, by the controller's
    own queries; all that is then one step, from the canary's first request on, and times are seconds since
    --start. Exit code 3 if the canary would have been rolled back. Without --policy it is the built-in one.

    Examples:
      serin backtest last-week.jsonl --policy policy.yaml --json result.json
      serin backtest --prometheus http://prom:9090 --start 1795788000 --stable-pods a,b --canary-pods c
    """
    from controller import backtest as tried
    from controller import planning, policies

    if ticks is not None and recorded["prometheus"] is not None:
        raise click.UsageError(f"{ticks} and --prometheus are both recordings; give one of the two")
    if ticks is not None and (told := [name for name in OF_PROMETHEUS if recorded[name] is not None]):
        flag = f"--{told[0].replace('_', '-')}"
        raise click.UsageError(
            f"{flag} says what to ask a Prometheus for; of {ticks} all is read: leave it out"
        )
    if ticks is None and recorded["prometheus"] is None:
        raise click.UsageError("give a file of ticks, or --prometheus, --start, --stable-pods, --canary-pods")
    if out is not None and str(out) != "-" and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise Misused(f"--json {out}: is a folder, or in none that there is; name a file")
    if out is not None and ticks is not None and out.exists() and out.samefile(ticks):
        raise Misused(f"--json {out}: is the recording itself; name another file")
    try:
        policy = policies.policy(planning.builtin() if file is None else planning.read(file))
        if ticks is None:
            policy, found = _recorded(policy, recorded)
        else:
            lines = tried.read(ticks)
            for doubt in tried.doubtful(lines):
                click.echo(f"{ticks}: {doubt}", err=True)
            found = tried.moments(lines, policy)
    except (planning.BadPolicy, tried.BadTicks) as error:
        raise Misused(str(error)) from None
    result = tried.result(tried.replay(found, policy), policy, tried.compared(found, policy))
    said = "\n".join(tried.told(result))
    click.echo(said, err=True) if str(out) == "-" else show(said)
    if out is not None:
        with click.open_file(str(out), "w", encoding="utf-8") as written:
            written.write(json.dumps(result, indent=2) + "\n")
    sys.exit(3 if result["verdict"] == "Fail" else 0)


def _recorded(policy: "Policy", said: Mapping[str, str | None]) -> "tuple[Policy, Sequence[Moment]]":
    """The policy as a Prometheus is asked for it, and what that has recorded; tells how far it is."""
    from controller import recorded
    from controller.prometheus import Past
    from controller.queries import Unanswered

    policy = recorded.asked(policy)
    try:
        span = recorded.span(said)
        with closing(Past(said["prometheus"] or "")) as past:
            return policy, recorded.moments(past, span, policy, told=_timeline(span))
    except recorded.BadSpan as error:
        raise Misused(str(error)) from None
    except Unanswered as error:
        raise Failed(str(error)) from None


def _timeline(span: "Span") -> Callable[[int, int], None]:
    """Tells on stderr how far it is, every five seconds."""
    told = monotonic()

    def tell(done: int, of: int) -> None:
        nonlocal told
        if monotonic() - told > PATIENCE:
            told = monotonic()
            at = datetime.fromtimestamp(span.start + (span.end - span.start) * done / of, UTC)
            click.echo(f"{done} of {of} instants read, up to {at:%Y-%m-%d %H:%M:%S}Z", err=True)

    return tell


# -- processes -------------------------------------------------------------------------------------


def _settings(command: Decorated) -> Decorated:
    for setting in reversed(SETTINGS):
        help_ = f"{setting.help} [{setting.variable}]"
        command = click.option(setting.flag, setting.field, metavar="VALUE", help=help_)(command)
    return command


@serin.command()
@_settings
def controller(**flags: str | None) -> None:
    """Run the controller: in a cluster, or against one.

    Every flag is also a variable, shown in brackets; a flag wins.

    Example:
      serin controller --kubeconfig ~/.kube/config --namespace shop --log-format console
    """
    from controller import settings

    try:
        read = settings.read(flags)
    except settings.BadSetting as error:
        raise Misused(str(error)) from None
    _operate(read)


def _operate(settings: Settings) -> None:
    """The controller until it is told to stop; what it cannot start without is said in a sentence."""
    import asyncio

    from controller.kube import NoCluster
    from controller.web import CannotServe

    try:
        asyncio.run(importlib.import_module("controller.__main__").run(settings))
    except (NoCluster, CannotServe) as error:
        raise Failed(str(error)) from None


def _lent(package: str, extra: str) -> Callable[[Callable[[], None]], click.Command]:
    """A command that another package has, here with its line of help; the controller does without that."""

    def command(named: Callable[[], None]) -> click.Command:
        name = named.__name__

        @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
        @click.pass_context
        def borrowed(context: click.Context, arguments: tuple[str, ...]) -> NoReturn:
            try:
                found = getattr(importlib.import_module(f"{package}.cli"), name)
            except ModuleNotFoundError as error:
                raise Failed(
                    f"serin {name} needs {error.name}, which is not installed: pip install 'serin[{extra}]'"
                ) from None
            sys.exit(found.main(list(arguments), prog_name=f"{program(context)} {name}"))

        unread = {"ignore_unknown_options": True, "help_option_names": []}
        options = {"context_settings": unread, "add_help_option": False, "help": named.__doc__}
        return serin.command(name, **options)(borrowed)

    return command


@_lent("scenarios", extra="lab")
def scenario() -> None:
    """Play stories in which canaries fail (run FILE...)."""


@_lent("scenarios", extra="lab")
def simulate() -> None:
    """Run a story many times: how often is a canary rolled back, and how fast?"""


@_lent("gpu_shadow", extra="gpu")
def shadow() -> None:
    """Compare a canary's recorded answers with stable's (compare STABLE CANARY)."""


@_lent("gpu_shadow", extra="gpu")
def baseline() -> None:
    """Keep what a model was trained on, and see whether inputs still look so (capture DATA)."""
