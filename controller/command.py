"""What the commands have in common: kubectl's flags, help texts that keep their examples, errors."""

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from controller.kubectl import Kubectl

Json = Any
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
PLUGIN = "kubectl serin"
_NAME = re.compile(r"([a-z.]+/)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
COLOURS = {
    **dict.fromkeys(("Succeeded", "Pass"), "green"),
    **dict.fromkeys(("Paused", "Held"), "yellow"),
    **dict.fromkeys(("Failed", "Fail"), "red"),
}


class Failed(click.ClickException):
    """A sentence on stderr; exit code 1."""


class Misused(Failed):
    """What was asked for cannot be; exit code 2."""

    exit_code = 2


class Taught(click.Command):
    """A command in whose help indented paragraphs stay as written, and name us as we were called."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The docstring, its examples line by line."""
        as_is, paragraphs = self.help, cleandoc(self.help or "").split("\n\n")
        kept = [f"\b\n{each}" if "\n  " in f"\n{each}" else each for each in paragraphs]
        try:
            self.help = re.sub(r"(?m)^  serin ", f"  {program(ctx)} ", "\n\n".join(kept))
            super().format_help_text(ctx, formatter)
        finally:
            self.help = as_is


class Group(Taught, click.Group):
    """A group of such commands."""

    command_class = Taught


def program(ctx: click.Context) -> str:
    """How people call us."""
    return PLUGIN if ctx.find_root().info_name == PLUGIN else "serin"


def as_called(text: str) -> str:
    """What the controller wrote, which cannot know how people call us, with the commands as they do."""
    return text.replace(f"{PLUGIN} ", f"{program(click.get_current_context())} ")


def _name(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(
            f'"{value}" cannot be the name of an object; give a CanaryRun or the canary\'s Deployment',
            param=parameter,
        )
    return value


def _completed(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def completed(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from controller.completion import candidates

        return [one for one in candidates(kind, context.params) if one.startswith(incomplete)]

    return completed


def pointed(command: Decorated) -> Decorated:
    """Adds kubectl's own flags."""
    for option in (
        click.option("--kubeconfig", metavar="FILE", help="As in kubectl."),
        click.option(
            "--context", metavar="NAME", help="As in kubectl.", shell_complete=_completed("context")
        ),
        click.option(
            "-n", "--namespace", metavar="NAME", help="As in kubectl.", shell_complete=_completed("namespace")
        ),
    ):
        command = option(command)
    return command


def output_as(*formats: str) -> Callable[[Decorated], Decorated]:
    """Adds `-o` with these formats."""
    return click.option("-o", "--output", type=click.Choice(formats), help="Form of what is printed.")


run_argument = click.argument("run", callback=_name, shell_complete=_completed("run"))
any_run = click.argument("run", callback=_name, required=False, shell_complete=_completed("run"))
deployment_argument = click.argument("deployment", callback=_name)
with_reason = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; kept with the run, in Events and alerts."
)
watched = click.option("-w", "--watch", is_flag=True, help="Go on with a line for each change.")
object_output = output_as("json", "yaml", "name")


def pointed_kubectl(flags: dict[str, str | None]) -> "Kubectl":
    """Kubectl, pointed where the flags say."""
    from controller.kubectl import Kubectl

    namespace, context, kubeconfig = (flags.get(name) for name in ("namespace", "context", "kubeconfig"))
    called = program(click.get_current_context())
    return Kubectl(namespace=namespace, context=context, kubeconfig=kubeconfig, program=called)


def told(command: Decorated) -> Decorated:
    """What kubectl cannot do is told as an error of ours, with its exit code."""

    @wraps(command)
    def wrapped(*arguments: Any, **flags: Any) -> Any:
        from controller.kubectl import Trouble, Wrong

        try:
            return command(*arguments, **flags)
        except Trouble as trouble:
            raise (Misused if isinstance(trouble, Wrong) else Failed)(as_called(str(trouble))) from None

    return wrapped  # type: ignore[return-value]


def show(text: str) -> None:
    """To stdout; colours only on a terminal that has them, and not with NO_COLOR."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None)


def columns() -> int | None:
    """How wide the terminal is; None where there is none, and lines stay as long as they are."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def coloured(text: str) -> str:
    """`text` with its telling words in colour."""
    return re.sub("|".join(COLOURS), lambda word: click.style(word[0], fg=COLOURS[word[0]]), text)


def changed(kubectl: "Kubectl", run: Json, *, output: str | None, done: str) -> None:
    """A changed run: a line as kubectl writes it, or the object."""
    if output is None:
        show(f"canaryrun.serin.dev/{run['metadata']['name']} {done}")
    else:
        show(kubectl.shown(run, output).rstrip("\n"))
