"""cancel."""

from __future__ import annotations

import click

from matterstack.cli.options import common, echo_remark, run_argument, tasks_argument, why_option
from matterstack.errors import ExitCode


@click.command()
@run_argument
@tasks_argument
@why_option
@common
def cancel(run: str, tasks: tuple[str, ...]) -> int:
    """End a run, or tasks of it: what waits never starts, what runs is ended (TERM, KILL 10 s later)."""
    from matterstack.hints import Hint
    from matterstack.orchestration.actions import cancel as cancel_run

    done = cancel_run(run, tasks)
    parts = []
    if done.ended:
        parts.append(f"{len(done.ended)} ended")
    if done.not_started:
        parts.append(f"{len(done.not_started)} will not start")
    if done.restored:
        parts.append(f"{len(done.restored)} as before {'its' if len(done.restored) == 1 else 'their'} rerun")
    if done.settled:
        parts.append(f"{done.settled} had ended before")
    if done.still_alive:
        parts.append(f"{len(done.still_alive)} still running, to be cancelled as soon as they can be reached")
    click.echo("cancelled: " + (", ".join(parts) if parts else "nothing was left to cancel"))
    if done.still_alive:
        echo_remark(
            f"warning: {', '.join(done.still_alive[:5])} could not be ended from here; {Hint('explain', run)} says why, "
            "the next step will retry"
        )
    return ExitCode.FINE
