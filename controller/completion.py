"""Completion for shells: of commands and flags, and of the names that a cluster has.

A cluster that does not answer at once completes nothing: nobody waits for a tab, and nothing is said.
"""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import ShellComplete, get_completion_class

from controller.command import Taught, show

PATIENCE = 2.0  # seconds for kubectl; then there is nothing to complete
VARIABLE = "_SERIN_COMPLETE"
NO_FILES = ":4"  # kubectl's (cobra's) directive: what was said is all there is


@click.command(cls=Taught)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, flags and the names of runs.

    `kubectl serin` is completed by kubectl's own completion, through kubectl_complete-serin on the PATH.

    Examples:
      source <(serin completion bash)             in ~/.bashrc
      source <(serin completion zsh)              in ~/.zshrc
      serin completion fish > ~/.config/fish/completions/serin.fish
    """
    found = get_completion_class(shell)
    if found is None:  # never: click has these three
        raise click.UsageError(f"no completion for {shell}")
    show(found(click.get_current_context().find_root().command, {}, "serin", VARIABLE).source())


def candidates(kind: str, flags: Mapping[str, Any]) -> list[str]:
    """Names of runs and their Deployments, of namespaces or of contexts; none without a quick answer."""
    from controller.kubectl import Kubectl, Trouble

    namespace, context, kubeconfig = (flags.get(name) for name in ("namespace", "context", "kubeconfig"))
    kubectl = Kubectl(namespace=namespace, context=context, kubeconfig=kubeconfig, within=PATIENCE)
    try:
        return kubectl.candidates(kind)
    except (Trouble, OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return []


def main() -> None:
    """`kubectl_complete-serin WORD... UNFINISHED`: as kubectl asks its plugins."""
    from controller.cli import serin

    *words, unfinished = sys.argv[1:] or [""]
    found = ShellComplete(serin, {}, "kubectl serin", VARIABLE).get_completions(words, unfinished)
    for one in found:
        show(one.value if one.help is None else f"{one.value}\t{one.help}")
    show(NO_FILES)
