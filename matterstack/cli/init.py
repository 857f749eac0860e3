"""init."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from matterstack.cli import completing
from matterstack.cli.options import campaign_options, common, echo_remark
from matterstack.errors import ExitCode


@click.command()
@click.argument("file", shell_complete=completing.files)
@click.option(
    "--root", metavar="DIR", shell_complete=completing.folders, help="The run root to make (default: runs/NAME)."
)
@campaign_options
@common
def init(file: str, root: str | None, settings: tuple[str, ...], operators: str | None) -> int:
    """Make the run root of a campaign; nothing is started."""
    from matterstack.api import load_campaign
    from matterstack.cli.render import plural
    from matterstack.orchestration.init import initialize_run
    from matterstack.spec.load import parse_overrides

    loaded = load_campaign(file, operators=operators, params=parse_overrides(settings))
    for warning in loaded.warnings:
        echo_remark(str(warning))
    made = initialize_run(loaded, Path(root) if root is not None else None)
    shown = shlex.quote(str(made))
    many = plural(len(loaded.instances), "task")
    click.echo(f"{made}: {many}; `matterstack run {shown}` runs all, `matterstack step {shown}` takes one step")
    return ExitCode.FINE
