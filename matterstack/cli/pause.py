"""pause."""

from __future__ import annotations

import shlex

import click

from matterstack.cli.options import common, quoted_tasks, run_argument, tasks_argument, what_changed, why_option
from matterstack.errors import ExitCode


@click.command()
@run_argument
@tasks_argument
@why_option
@common
def pause(run: str, tasks: tuple[str, ...]) -> int:
    """Start nothing more of a run, or of some tasks; what runs goes on."""
    from matterstack.orchestration.actions import pause as pause_run

    changed = pause_run(run, tasks)
    what = what_changed(tasks, changed)
    click.echo(
        f"{what} paused; `matterstack resume {shlex.quote(run)}{quoted_tasks(tasks)}` goes on"
        if changed
        else "was paused already"
    )
    return ExitCode.FINE
