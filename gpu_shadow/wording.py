"""What the commands of this package share: shares of requests as they are typed, exit codes, bad usage."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gpu_shadow.said import Said

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
            self.fail(
                f'"{value}": expected percent between 0 and 100, with the sign, such as "0.5%"', param, ctx
            )
        return share


@contextmanager
def installed(command: str) -> Iterator[None]:
    """The command's imports, some of which may not be there: then it is said which, and how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        what = f"{command} needs {error.name}, which is not installed"
        raise click.ClickException(f"{what}: pip install 'serin[gpu]'") from None


def plain(text: str) -> str:
    """Text in which somebody's ids or names may stand, for a terminal: nothing in it moves a cursor."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)


max_flips_option = click.option(
    "--max-flips",
    metavar="PERCENT",
    type=Percent(),
    default="0.5%",
    show_default=True,
    help="Share of answers that may differ, beyond the noise.",
)
require_pass_option = click.option("--require-pass", is_flag=True, help="Exit 3 if it is not decided either.")
json_option = click.option(
    "--json",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path, allow_dash=True),
    help='Write the finding there as JSON; "-" is standard output.',
)
report_option = click.option(
    "--report",
    "page",
    metavar="OUT",
    type=click.Path(path_type=Path),
    help="Write it there with pictures: one HTML file that needs nothing else.",
)


def writable(option: str, path: Path | None) -> None:
    """Raises `Misused` unless a file may be written there; None and "-" (standard output) always may."""
    if path is None or str(path) == "-":
        return
    if path.is_dir():
        raise Misused(f"{option} {path}: is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise Misused(f"{option} {path}: there is no folder {path.parent}; make it, or name another")


def tell(
    said: "Said",
    lines: Iterable[str],
    out: Path | None,
    page: Path | None,
    *,
    require_pass: bool,
    more: Mapping[str, Any] | None = None,
) -> bool:
    """Whether it passed; it is told to people, to programs (`out`, with `more`), and drawn (`page`)."""
    click.echo("\n".join(map(plain, lines)), err=str(out) == "-")
    found = said.to_json() | dict(more or {})
    if out is not None:
        with click.open_file(str(out), "w", encoding="utf-8") as file:
            file.write(json.dumps(found, indent=2, allow_nan=False) + "\n")
    if page is not None:
        from gpu_shadow.report import report

        page.write_text(report(said), encoding="utf-8")
    return found["verdict"] == "Pass" or (found["verdict"] != "Fail" and not require_pass)
