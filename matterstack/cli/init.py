"""init."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from matterstack.cli import completing
from matterstack.cli.options import campaign_options, common, echo_remark, why_option
from matterstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from matterstack.core.model import LoadedCampaign
    from matterstack.orchestration.fork import Fork


def agreed_fork(loaded: LoadedCampaign, origin: str, root: Path | None, *, yes: bool) -> Fork | None:
    """Show what a new run takes over from another, and return it if that is agreed to. Raises UsageError."""
    from matterstack.orchestration.fork import in_words, plan_fork

    if root is None and os.path.realpath(origin) == os.path.realpath(Path("runs") / loaded.campaign.name):
        raise UsageError(f"{origin} is the run itself: --root DIR names a folder for the new one")
    fork = plan_fork(loaded, origin)
    click.echo(f"from {origin}: {len(fork.results)} of {len(loaded.instances)} tasks are reused")
    for line in in_words(fork):
        click.echo(line)
    if yes or (sys.stdin.isatty() and click.confirm("Make it?")):
        return fork
    click.echo("nothing was made; --yes does it", err=True)
    return None


@click.command()
@click.argument("file", shell_complete=completing.files)
@click.option(
    "--root", metavar="DIR", shell_complete=completing.folders, help="The run root to make (default: runs/NAME)."
)
@click.option(
    "--from", "origin", metavar="RUN", shell_complete=completing.runs,
    help="Begin with the results of this run, where work and inputs are the same.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="With --from: do not ask.")
@campaign_options
@why_option
@common
def init(
    file: str, root: str | None, origin: str | None, yes: bool, settings: tuple[str, ...], operators: str | None
) -> int:
    """Make the run root of a campaign; nothing is started."""
    from matterstack.api import load_campaign
    from matterstack.cli.render import plural
    from matterstack.orchestration.init import initialize_run
    from matterstack.spec.load import parse_overrides

    loaded = load_campaign(file, operators=operators, params=parse_overrides(settings))
    for warning in loaded.warnings:
        echo_remark(str(warning))
    fork = None
    if origin is not None:
        fork = agreed_fork(loaded, origin, Path(root) if root is not None else None, yes=yes)
        if fork is None:
            return ExitCode.FINE
    made = initialize_run(loaded, Path(root) if root is not None else None, fork)
    shown = shlex.quote(str(made))
    many = plural(len(loaded.instances), "task")
    many += f", {len(fork.results)} of them with results of {origin}" if fork is not None else ""
    click.echo(f"{made}: {many}; `matterstack run {shown}` runs all, `matterstack step {shown}` takes one step")
    return ExitCode.FINE
