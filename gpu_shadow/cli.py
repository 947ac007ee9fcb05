"""`serin shadow compare STABLE CANARY`: recorded answers of two models, compared at a desk."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

UNPASSED = 3
PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")


class Misused(click.ClickException):
    """What was asked for cannot be."""

    exit_code = 2


class Percent(click.ParamType[float]):
    """A share, written as on the wire: "0.5%"."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The share, above 0 and below 1."""
        if isinstance(value, float):
            return value
        found = PERCENT.fullmatch(value)
        share = float(found[1]) / 100 if found else 0.0
        if not 0 < share < 1:
            self.fail(f'"{value}" is not between 0 and 100 percent; give a part such as "0.5%"', param, ctx)
        return share


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def shadow() -> None:
    """Compare a canary's answers with stable's, without a user who sees them."""


@shadow.command(short_help="Two files of answers to the same requests: do more differ than may?")
@click.argument("stable", metavar="STABLE", type=click.Path(path_type=Path))
@click.argument("canary", metavar="CANARY", type=click.Path(path_type=Path))
@click.option(
    "--again",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Stable's answers once more: what differs between them is noise.",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression", "embedding", "ranking"]),
    default="classification",
    show_default=True,
    help="What a row is: scores of classes, numbers, a vector, or scores of items.",
)
@click.option(
    "--max-flips",
    metavar="PERCENT",
    type=Percent(),
    default="0.5%",
    show_default=True,
    help="Share of answers that may differ, beyond the noise.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1e9),
    default=0.01,
    show_default=True,
    help="Regression: part of stable's value. Embedding: of 1 - cosine. Answers further off differ.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Ranking: these have to be the same in the same order. Classification: counted if missed.",
)
@click.option("--probabilities", is_flag=True, help="Scores are probabilities, not logits.")
@click.option("--require-pass", is_flag=True, help="Exit 3 if it is not decided either.")
@click.option(
    "--json",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path, allow_dash=True),
    help='Write the finding there as JSON; "-" is standard output.',
)
def compare(
    stable: Path,
    canary: Path,
    again: Path | None,
    out: Path | None,
    *,
    require_pass: bool,
    task: str,
    max_flips: float,
    **how: Any,
) -> None:
    """Compare two models' answers to the same requests: do more differ than may?

    STABLE and CANARY are safetensors files with a tensor "output", row i of both the answer to the same
    request: scores [n, classes], numbers [n] or [n, outputs], vectors [n, d], scores of items [n, items].
    STABLE may have a tensor "slice" of n whole numbers, such as tenants: then one slice that is worse
    suffices for a Fail.

    Pass: at most --max-flips of the answers differ, with probability 95 %. Fail: more do, with 99 %.
    Otherwise Inconclusive: compare more requests. You may look as often as you like, that is accounted for;
    rows should come in no order that has to do with the answers.

    Exit codes: 0 not failed, 1 the tool failed, 2 files that cannot be read or do not match, 3 Fail.

    \b
    Examples:
      serin shadow compare stable.safetensors canary.safetensors
      serin shadow compare stable.safetensors canary.safetensors --again again.safetensors --json -
    """  # noqa: D301 - click's mark for lines that stay as written
    try:
        from gpu_shadow import desk
        from gpu_shadow.compare import Margins
    except ModuleNotFoundError as error:
        needed = f"serin shadow compare needs {error.name}, which is not installed"
        raise click.ClickException(f"{needed}: pip install 'serin[gpu]'") from None
    if out is not None and str(out) != "-" and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise Misused(f"--json {out}: is a folder, or in none that there is; name a file")
    margins = Margins(max_flips=max_flips, task=task)
    try:
        said = desk.compared(stable, canary, again, margins=margins, **how)
    except desk.BadFile as error:
        raise Misused(str(error)) from None
    click.echo("\n".join(desk.told(said)), err=out is not None and str(out) == "-")
    found = said.to_json()
    if out is not None:
        with click.open_file(str(out), "w", encoding="utf-8") as written:
            written.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    passed = found["verdict"] == "Pass" or (found["verdict"] != "Fail" and not require_pass)
    sys.exit(0 if passed else UNPASSED)
