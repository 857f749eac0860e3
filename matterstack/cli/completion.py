"""completion."""

from __future__ import annotations

import click

from matterstack.cli.options import common
from matterstack.errors import ExitCode, UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common
def completion(shell: str) -> int:
    """Print the completion script of a shell; e.g. `eval "$(matterstack completion bash)"`."""
    from click.shell_completion import get_completion_class

    from matterstack.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "matterstack", "_MATTERSTACK_COMPLETE").source())
    return ExitCode.FINE
