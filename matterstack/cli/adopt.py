"""adopt."""

from __future__ import annotations

import click

from matterstack.cli.options import common, run_argument, why_option
from matterstack.errors import ExitCode


@click.command()
@run_argument
@click.option(
    "--assume",
    type=click.Choice(["lost", "keep"]),
    help="What became of attempts alive at the old home; at home, `lost` gives up what cannot be seen from here.",
)
@click.option(
    "--journal",
    type=click.Choice(["here", "there"]),
    help="Of two histories keep that of the ledger (here) or that of journal.jsonl (there).",
)
@why_option
@common
def adopt(run: str, assume: str | None, journal: str | None) -> int:
    """Make a copy or clone of a run root its home, once the old home has stopped; or give up attempts that are gone."""
    from matterstack.care.adopt import adopt as adopt_run

    click.echo(adopt_run(run, assume=assume, journal=journal))
    return ExitCode.FINE
