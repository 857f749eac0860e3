"""rerun."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from matterstack.cli.options import common, echo_remark, json_option, run_argument, tasks_argument, why_option
from matterstack.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from matterstack.orchestration.actions import RerunReport

_ASKED_ABOVE = 20  # tasks
_MOST_NAMES = 10


@click.command()
@run_argument
@tasks_argument
@click.option("--failed", is_flag=True, help="Those that failed.")
@click.option("--class", "failure", metavar="CLASS", help="Those that failed as timeout, exit_code_3, …")
@click.option("--like", metavar="TASK", help="Those that failed for the same cause as this one.")
@click.option("--stale", is_flag=True, help="Those that used older results than there are.")
@click.option("--downstream", is_flag=True, help="Also all tasks below that ended.")
@click.option("--upstream", is_flag=True, help="Also all that they were made from.")
@click.option(
    "--continue", "continues", is_flag=True, help="Go on from the files that `restart` names, whatever has changed."
)
@click.option("--dry-run", is_flag=True, help="Show what would be reset; nothing is changed.")
@click.option("--undo", is_flag=True, help="Take the last rerun back, as long as nothing of it has started.")
@click.option("--yes", is_flag=True, help=f"Do not ask, also for more than {_ASKED_ABOVE} tasks.")
@why_option
@json_option
@common
def rerun(
    run: str,
    tasks: tuple[str, ...],
    failed: bool,
    failure: str | None,
    like: str | None,
    stale: bool,
    downstream: bool,
    upstream: bool,
    continues: bool,
    dry_run: bool,
    undo: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Run tasks again, as new attempts; old attempts and their files stay.

    Of several conditions all must hold: `rerun RUN relax --failed`.
    """
    from matterstack.cli.render import print_json
    from matterstack.orchestration.actions import TooManyTasks
    from matterstack.orchestration.actions import rerun as rerun_tasks
    from matterstack.views.reruns import Selection, preview_rerun

    select = Selection(tasks, failed, stale, failure, like)
    if undo:
        if not select.is_empty or downstream or upstream or dry_run or continues:
            raise UsageError("--undo takes the whole last rerun back; `cancel RUN TASK` takes back one task of it")
        return _undo(run)
    if select.is_empty:
        raise UsageError(
            "rerun: name the tasks to run again (an id or a glob), or --failed, --class, --stale or --like"
        )
    if dry_run:
        found = preview_rerun(run, select, downstream=downstream, upstream=upstream)
        if as_json:
            print_json(_to_json(found))
        else:
            _show(found)
        return ExitCode.FINE
    try:
        done = rerun_tasks(
            run,
            select,
            downstream=downstream,
            upstream=upstream,
            most=None if yes else _ASKED_ABOVE,
            continues=continues,
        )
    except TooManyTasks as error:
        if not sys.stdin.isatty():
            raise
        _show(error.report)
        if not click.confirm("reset them?"):
            click.echo("nothing was reset", err=True)
            return ExitCode.MISTAKE
        done = rerun_tasks(run, select, downstream=downstream, upstream=upstream, continues=continues)
    if as_json:
        print_json(_to_json(done))
    else:
        _tell(run, done)
    return ExitCode.FINE


def _undo(run: str) -> int:
    from matterstack.cli.render import plural
    from matterstack.orchestration.actions import undo_rerun

    restored = undo_rerun(run)
    click.echo(f"{plural(len(restored), 'task')} {'is' if len(restored) == 1 else 'are'} again as before the rerun")
    return ExitCode.FINE


def _to_json(found: RerunReport) -> dict[str, Any]:
    remarks = {"remarks": list(found.remarks)} if found.remarks else {}
    return {"tasks": found.tasks, "below": found.reopened, "completed": found.completed, **remarks}


def _tell(run: str, done: RerunReport) -> None:
    """Print what was reset, and what to do next."""
    from matterstack.cli.attention import tell_sources
    from matterstack.cli.render import plural
    from matterstack.hints import Hint

    tell_sources(run)
    below = f" and {len(done.reopened)} below" if done.reopened else ""
    them = "it" if len(done.tasks) == 1 and not done.reopened else "them"
    click.echo(
        f"{plural(len(done.tasks), 'task')}{below} reset to PENDING; {Hint('run', run)} or {Hint('step', run)} starts {them}"
        + (f", {Hint('rerun', run, rest='--undo')} takes it back until then" if done.can_be_undone else "")
    )
    for remark in done.remarks:
        echo_remark(remark)
    if done.ended:
        echo_remark(f"ended first: {', '.join(done.ended[:5])}{', …' if len(done.ended) > 5 else ''}")
    if done.still_alive:
        echo_remark(
            f"warning: {', '.join(done.still_alive[:5])} could not be ended from here; the next step will retry"
        )


def _show(found: RerunReport) -> None:
    """Print what a rerun would reset."""
    from matterstack.cli.render import plural

    for names, what in ((found.tasks, "would reset"), (found.reopened, "and below")):
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            click.echo(f"{what}: {', '.join(names[:_MOST_NAMES])}{more}")
    for remark in found.remarks:
        click.echo(remark)
    done = f"; {found.completed} of them COMPLETED" if found.completed else ""
    click.echo(f"{plural(found.count, 'task')}{done}")
