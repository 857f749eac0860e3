"""inbox."""

from __future__ import annotations

import time
from typing import Any

import click

from matterstack.cli import completing
from matterstack.cli.options import common, echo_remark, here_or_below, json_option, run_roots
from matterstack.errors import ExitCode


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=completing.runs)
@json_option
@common
def inbox(runs: tuple[str, ...], as_json: bool) -> int:
    """List what waits for people and laboratories, the oldest first, with the command to type.

    Without RUN: of the run root one is in, else of all of `runs/`.
    """
    from matterstack.cli.render import harmless, plural, print_json
    from matterstack.people.inbox import inbox as list_waiting

    found = list_waiting(run_roots(runs) if runs else here_or_below())
    if as_json:
        print_json([item.to_json() for item in found])
        return ExitCode.FINE
    if not found:
        click.echo("nothing waits for a person")
        return ExitCode.FINE
    for item in found:
        told = "cannot start here" if not item.fits else f"{_since(item)}{_until(item)}"
        click.echo(f"{harmless(f'{item.task_id} ({item.run_id})')}: {told}")
        if item.summary:
            click.echo(f"    {harmless(item.summary)[:160]}")
        if item.answered:
            click.echo(f"    {harmless(item.reason)}; the next step reads it")
        elif item.reason and not item.only_overdue:
            click.echo(f"    {harmless(item.reason)}")
        click.echo(f"    {harmless(item.command)}")
    echo_remark(f"{plural(len(found), 'task')} waiting")
    return ExitCode.FINE


def _since(item: Any) -> str:
    from matterstack.core.values import format_duration

    now = time.time()
    text = f"has been waiting for {format_duration(now - item.since)}"
    if item.times > 1:
        text += f", asked {item.times} times, for {format_duration(now - item.first)} in all"
    return text


def _until(item: Any) -> str:
    from matterstack.cli.render import wants_colour
    from matterstack.core.times import to_text
    from matterstack.core.values import format_duration

    if item.until is None:
        return ""
    when = to_text(item.until)[:16].replace("T", " ")
    if item.overdue:
        text = f", overdue since {when} UTC"
        return click.style(text, fg="red") if wants_colour() else text
    return f", due {when} UTC (in {format_duration(item.until - time.time())})"
