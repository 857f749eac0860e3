"""status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from matterstack.cli import completing
from matterstack.cli.options import common, here_or_below, json_option, run_roots
from matterstack.core.states import TaskState
from matterstack.errors import ExitCode
from matterstack.hints import Hint

_MOST_GROUPS = 40
_MOST_REASONS = 1000  # failures and stale results that are looked at
_LONGEST_LINE = 200


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN...", shell_complete=completing.runs)
@click.option("--usage", is_flag=True, help="Show what tasks used of cpus and memory, beside what they asked for.")
@json_option
@common
def status(runs: tuple[str, ...], usage: bool, as_json: bool) -> int:
    """Show the state of runs."""
    from matterstack.cli.attention import tell_edited
    from matterstack.cli.render import print_json
    from matterstack.views.status import open_run, summarise

    roots = run_roots(runs) if runs else here_or_below()
    if usage:
        _show_usage(roots, as_json)
        return ExitCode.FINE
    if as_json:
        data = [open_run(root).to_json() for root in roots]
        print_json(data[0] if len(roots) == 1 and len(runs) <= 1 else data)
        return ExitCode.FINE
    for index, view in enumerate([summarise(root, _MOST_REASONS) for root in roots]):
        if index:
            click.echo()
        _show_status(view)
    for root in roots:
        tell_edited(root)
    return ExitCode.FINE


def _show_usage(roots: Sequence[str], as_json: bool) -> None:
    from matterstack.cli.render import memory_text, peak_text, print_json, table
    from matterstack.views.usage import usage_by_group

    found = [usage_by_group(root) for root in roots]
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
        return
    for root, groups in zip(roots, found, strict=True):
        if len(roots) > 1:
            click.echo(f"{root}:")
        rows = [
            [
                item["group"], str(item["attempts"]), f"{item['cpu_s']:.1f} s", str(item["cpus"]),
                memory_text(item["memory"]), peak_text(item["max_rss_median"]), peak_text(item["max_rss"]),
                memory_text(item["read"]), memory_text(item["written"]),
            ]
            for item in groups
        ]  # fmt: skip
        header = ["task", "attempts", "cpu", "cpus", "asked", "median", "largest", "read", "written"]
        click.echo(table(header, rows, right=range(1, len(header))) if rows else "no attempt has ended yet")
        for item in groups:
            if item["asks_much"]:
                asked, most = memory_text(item["memory"]), peak_text(item["max_rss"])
                click.echo(f"{item['group']} asks for {asked} of memory, and has used {most} at most")


def _show_status(view: Any) -> None:
    from matterstack.cli.render import coloured, counts_text, failure_lines, harmless, plural, table

    click.echo(f"{view.run_id}: {coloured(str(view.state))} ({view.root})")
    if view.description:
        click.echo(harmless(" ".join(view.description.split()))[:_LONGEST_LINE])
    click.echo(_dates(view))
    groups = view.groups
    for line in limit_lines(view):
        click.echo(line)
    click.echo(f"{plural(sum(view.counts.values()), 'task')}: {counts_text(view.counts)}")
    states = list(view.counts)
    rows = [
        [
            f"{name} ({view.plans[name]})" if name in view.plans else name,
            *[str(counts.get(state, "")) for state in states],
        ]
        for name, counts in list(groups.items())[:_MOST_GROUPS]
    ]
    click.echo()
    click.echo(table(["task", *[str(state).lower() for state in states]], rows, right=range(1, len(states) + 1)))
    if len(groups) > _MOST_GROUPS:
        click.echo(f"… and {len(groups) - _MOST_GROUPS} more")
    if view.counts.get(TaskState.WAITING) and not view.state.is_over:
        click.echo(f"{plural(view.counts[TaskState.WAITING], 'task')} waiting for people: {Hint('inbox', view.root)}")
    if view.told:
        click.echo()
    for group in view.failures:
        first, *more = failure_lines(view.root, group)
        click.echo(f"{coloured('FAILED')}  {first}")
        for line in more:
            click.echo(line)
    for task in view.told:
        if task.stale:
            click.echo(f"{coloured('stale')}  {task.task_id}: {harmless(task.stale)}")
            click.echo(f"    {Hint('rerun', view.root, task.task_id).command}")
    if view.more:
        click.echo(f"… and {view.more} more")


def limit_lines(view: Any) -> list[str]:
    """Return why a limit of the run has paused it, and what to do; nothing if none has."""
    from matterstack.core.reasons import Code
    from matterstack.text.reasons import sentence

    if not view.limit:
        return []
    over = "" if view.limit.code is Code.LIMIT_FAILURES else "--over"
    raised = f"{Hint('amend', view.root)} after a higher limit goes on, or {Hint('resume', view.root, rest=over)}"
    return [f"paused: {sentence(view.limit)}", f"    {raised}"]


def _dates(view: Any) -> str:
    """Return when a run was made, when something happened in it last, and how long it has been at work."""
    from matterstack.core.times import from_text, to_text
    from matterstack.core.values import format_duration

    made = from_text(view.created_at) or view.last_at

    def shown(at: float) -> str:
        return f"{to_text(at)[:16].replace('T', ' ')} UTC"

    if view.as_of is not None:
        return f"a copy, as of {shown(view.as_of)}; made {shown(made)}"
    if view.state.is_over:
        return f"made {shown(made)}, ended {shown(view.last_at)}, after {format_duration(view.last_at - made)}"
    now = time.time()
    quiet = f", last change {format_duration(now - view.last_at)} ago" if now > view.last_at else ""
    return f"made {shown(made)}, {format_duration(now - made)} ago{quiet}"
