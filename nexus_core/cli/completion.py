"""`nexus completion SHELL`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Examples:
      eval "$(nexus completion bash)"
      nexus completion fish > ~/.config/fish/completions/nexus.fish
    """
    from nexus_core.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None  # the three names above are click's own
    click.echo(completion(cli, {}, "nexus", "_NEXUS_COMPLETE").source())
