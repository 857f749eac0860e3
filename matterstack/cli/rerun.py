"""rerun."""

from __future__ import annotations

import click

from matterstack.cli.options import common, echo_remark, run_argument, tasks_argument
from matterstack.errors import ExitCode


@click.command()
@run_argument
@tasks_argument
@click.option("--downstream", is_flag=True, help="Also all tasks below that ended.")
@common
def rerun(run: str, tasks: tuple[str, ...], downstream: bool) -> int:
    """Run tasks again, as new attempts; old attempts and their files stay."""
    from matterstack.cli.render import plural
    from matterstack.hints import Hint
    from matterstack.orchestration.actions import rerun as rerun_tasks

    done = rerun_tasks(run, tasks, downstream=downstream)
    below = f" and {len(done.reopened)} below" if done.reopened else ""
    them = "it" if len(done.tasks) == 1 and not done.reopened else "them"
    click.echo(
        f"{plural(len(done.tasks), 'task')}{below} reset to PENDING; {Hint('run', run)} or {Hint('step', run)} starts {them}"
    )
    if done.ended:
        echo_remark(f"ended first: {', '.join(done.ended[:5])}{', …' if len(done.ended) > 5 else ''}")
    if done.still_alive:
        echo_remark(
            f"warning: {', '.join(done.still_alive[:5])} could not be ended from here; the next step will retry"
        )
    return ExitCode.FINE
