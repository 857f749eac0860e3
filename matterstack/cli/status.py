"""status."""

from __future__ import annotations

from typing import Any

import click

from matterstack.cli.options import common, default_run, json_option
from matterstack.core.states import TaskState
from matterstack.errors import ExitCode
from matterstack.hints import Hint

_MOST_GROUPS = 40
_MOST_REASONS = 10


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN...")
@json_option
@common
def status(runs: tuple[str, ...], as_json: bool) -> int:
    """Show the state of runs."""
    from matterstack.cli.render import print_json
    from matterstack.views.status import open_run

    roots = runs or (default_run(),)
    views = [open_run(root) for root in roots]
    if as_json:
        data = [view.to_json() for view in views]
        print_json(data[0] if len(runs) <= 1 else data)
        return ExitCode.FINE
    for index, view in enumerate(views):
        if index:
            click.echo()
        _show_status(view)
    return ExitCode.FINE


def _show_status(view: Any) -> None:
    from matterstack.cli.render import coloured, counts_text, harmless, plural, table

    click.echo(f"{view.run_id}: {coloured(str(view.state))} ({view.root})")
    click.echo(f"{plural(len(view.tasks), 'task')}: {counts_text(view.counts)}")
    groups: dict[str, dict[TaskState, int]] = {}
    for task in view.tasks:
        counts = groups.setdefault(task.group, {})
        counts[task.state] = counts.get(task.state, 0) + 1
    states = [state for state in TaskState if any(state in counts for counts in groups.values())]
    rows = [
        [name, *[str(counts.get(state, "")) for state in states]]
        for name, counts in list(groups.items())[:_MOST_GROUPS]
    ]
    click.echo()
    click.echo(table(["task", *[str(state).lower() for state in states]], rows, right=range(1, len(states) + 1)))
    if len(groups) > _MOST_GROUPS:
        click.echo(f"… and {len(groups) - _MOST_GROUPS} more")
    told = [task for task in view.tasks if task.state is TaskState.FAILED or task.stale]
    if told:
        click.echo()
    for task in told[:_MOST_REASONS]:
        state = coloured("stale") if task.state is TaskState.COMPLETED else coloured(str(task.state))
        more = " (allowed)" if task.soft else ""
        if task.state is TaskState.COMPLETED:
            more = f"; {Hint('rerun', view.root, task.task_id)}"
        click.echo(f"{state}  {task.task_id}: {harmless(task.reason)}{more}")
    if len(told) > _MOST_REASONS:
        click.echo(f"… and {len(told) - _MOST_REASONS} more")
