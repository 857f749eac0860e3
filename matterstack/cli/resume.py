"""resume."""

from __future__ import annotations

import shlex

import click

from matterstack.cli.options import common, run_argument, tasks_argument, what_changed, why_option
from matterstack.errors import ExitCode
from matterstack.hints import Hint


@click.command()
@run_argument
@tasks_argument
@why_option
@common
def resume(run: str, tasks: tuple[str, ...]) -> int:
    """Undo pause."""
    from matterstack.orchestration.actions import pause as pause_run

    changed = pause_run(run, tasks, resume=True)
    what = what_changed(tasks, changed)
    click.echo(
        f"{what} resumed; `matterstack run {shlex.quote(run)}` or `step` starts what is ready"
        if changed
        else f"nothing was paused; {Hint('status', run)} shows the state of the run"
    )
    return ExitCode.FINE
