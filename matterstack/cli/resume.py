"""resume."""

from __future__ import annotations

import shlex

import click

from matterstack.cli.options import common, run_argument, tasks_argument, what_changed, why_option
from matterstack.errors import ExitCode, UsageError
from matterstack.hints import Hint


@click.command()
@run_argument
@tasks_argument
@click.option("--over", is_flag=True, help="Go on over the limits of the run, until its next amendment.")
@why_option
@common
def resume(run: str, tasks: tuple[str, ...], over: bool) -> int:
    """Undo pause."""
    from matterstack.orchestration.actions import pause as pause_run

    if over and tasks:
        raise UsageError("--over is about the limits of the run: it goes without TASK")
    changed = pause_run(run, tasks, resume=True, over=over)
    what = what_changed(tasks, changed)
    click.echo(
        f"{what} resumed; `matterstack run {shlex.quote(run)}` or `step` starts what is ready"
        if changed
        else f"nothing was paused; {Hint('status', run)} shows the state of the run"
    )
    return ExitCode.FINE
