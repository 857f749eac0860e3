"""schema."""

from __future__ import annotations

import click

from matterstack.cli import completing
from matterstack.cli.options import common
from matterstack.errors import ExitCode


@click.command()
@click.argument("name", required=False, shell_complete=completing.schemas)
@common
def schema(name: str | None) -> int:
    """Print the JSON Schema of a file, by default of a campaign."""
    from matterstack.spec.schema import read_schema

    click.echo(read_schema(name or "campaign"), nl=False)
    return ExitCode.FINE
