"""`serin convert`: what people have for Flagger or Argo Rollouts, as what Serin needs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.command import Failed, Misused, Taught, show

if TYPE_CHECKING:
    from controller.convert.report import Converted

Json = Any
STDIN = "-"


@click.command(cls=Taught)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Write a file for each object here."
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Write the report here too, as JSON; "-" is standard output, with --out.',
)
@click.option("--force", is_flag=True, help="Also where DIR has such files already.")
def convert(*, files: tuple[str, ...], out: Path | None, report: Path | None, force: bool) -> None:
    """Turn objects of Flagger or Argo Rollouts into what Serin needs, and account for every field.

    FILEs hold a Canary, MetricTemplates and AlertProviders, or a Rollout and AnalysisTemplates; - is stdin.
    Give what they name as well: the Deployment, and for a Rollout its VirtualService and DestinationRule.
    Other objects are named in the report and stay as they are. Nothing in a cluster is touched. Objects go to
    stdout, the report to stderr, a line for each field:

      ->  became this field, with this value
      =   needs nothing: Serin works so
      !   has no equivalent, and what to do instead
      ?   is not known to this converter

    Exit code 0 if every field has an equivalent, 3 if it was written and something is left to you, 2 if a
    file cannot be converted: then nothing is written.

    Examples:
      serin convert canary.yaml deployment.yaml > serin.yaml
      kubectl get rollout,analysistemplate,virtualservice,destinationrule -o yaml | serin convert - -o serin/
    """
    from controller.convert import report as told
    from controller.convert import whole
    from controller.convert.account import BadObject

    if str(report) == STDIN and out is None:
        raise Misused("--report -: objects go to standard output as well; give them a folder: --out DIR")
    try:
        done = whole.converted({_named(file): _text(file) for file in files})
    except BadObject as error:
        raise Misused(f"{error}. Nothing was written") from None
    _write(done, out, force=force)
    if report is not None:
        text = json.dumps(told.as_json(done), indent=2, default=str)
        show(text) if str(report) == STDIN else _save(report, text + "\n")
    click.echo("\n".join(told.lines(done)), err=True)
    sys.exit(0 if done.complete else 3)


def _named(file: str) -> str:
    return "stdin" if file == STDIN else file


def _text(file: str) -> str:
    """What the file says; raises `Misused`."""
    try:
        found = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        return found.decode("utf-8")
    except OSError as error:
        raise Misused(
            f"{file}: cannot be read: {error.strerror}; give the path of a file, or - for stdin"
        ) from None
    except UnicodeDecodeError:
        raise Misused(f"{_named(file)}: is not UTF-8 text; save it as UTF-8") from None


def _write(done: "Converted", out: Path | None, *, force: bool) -> None:
    """The objects: to stdout, or a file for each."""
    import yaml

    def dumped(obj: Json) -> str:
        text: str = yaml.safe_dump(obj, sort_keys=False, width=110, allow_unicode=True)
        return text

    notes = "".join(f"# {command}\n" for command in done.commands())
    objects = sorted(done.objects, key=_asks)
    if out is None:
        show(notes + "---\n".join(map(dumped, objects)).rstrip("\n"))
        return
    digits = max(2, len(str(len(objects))))  # by name "100-" comes before "11-"
    named = {out / _file(f"{number:0{digits}}", obj): obj for number, obj in enumerate(objects, 1)}
    if not force and (there := next((path for path in named if path.exists()), None)):
        raise Misused(
            f"{there}: is there already, and nothing was written; name another folder, or say --force"
        )
    for path, obj in named.items():
        _save(path, notes + dumped(obj))
        notes = ""


def _asks(obj: Json) -> bool:
    """Whether the object asks for a canary: it comes last, when all that it needs is there."""
    return "serin.dev/canary-of" in (obj["metadata"].get("annotations") or {})


def _file(number: str, obj: Json) -> str:
    """The object's file; `kubectl apply -f DIR` sends a folder's files by their names."""
    return f"{number}-{obj['kind'].lower()}-{obj['metadata']['name']}.yaml"


def _save(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failed(f"{path}: cannot be written: {error.strerror}; name a folder of yours") from None
