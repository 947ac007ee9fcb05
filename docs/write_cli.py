"""Writes docs/cli.md: what `serin` and each of its verbs say of themselves.

`make reference`. The words are those of `serin VERB --help`.
"""
# ruff: noqa: INP001
# (a script, not a package)

from collections.abc import Iterator
from pathlib import Path

import click

from controller.cli import serin
from gpu_shadow.cli import baseline, shadow
from scenarios.cli import scenario, simulate

PAGE = Path(__file__).parent / "cli.md"
WIDTH = 100
# `serin` hands these over to other packages when they are typed, and loads those only then.
LENT: dict[str, click.Command] = {
    "baseline": baseline,
    "scenario": scenario,
    "shadow": shadow,
    "simulate": simulate,
}
INTRODUCTION = """\
<!-- written by `make reference` from the commands themselves; change those instead -->
# Every command

What `serin VERB --help` says. As a plugin of kubectl it is `kubectl serin VERB`. `serin completion bash`,
`zsh` or `fish` prints what completes all of it, the names of runs too.
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_sections(serin, _context(serin, "serin")))


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    context.terminal_width = WIDTH
    context.color = False
    yield f"\n## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            verb = LENT.get(name) or command.get_command(context, name)
            if verb is not None and not verb.hidden:
                yield from _sections(verb, _context(verb, name, parent=context))


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return command.make_context(name, [], parent=parent, resilient_parsing=True)


if __name__ == "__main__":
    PAGE.write_text(page())
