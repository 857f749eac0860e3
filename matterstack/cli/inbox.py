"""inbox."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from matterstack.cli.options import common, default_run, echo_remark, json_option
from matterstack.errors import ExitCode, UsageError


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@json_option
@common
def inbox(runs: tuple[str, ...], as_json: bool) -> int:
    """List what waits for people and laboratories, the oldest first, with the command to type.

    Without RUN: of the run root one is in, else of all of `runs/`.
    """
    from matterstack.cli.render import harmless, plural, print_json
    from matterstack.people.inbox import inbox as list_waiting

    found = list_waiting(runs or _all_runs())
    if as_json:
        print_json([item.to_json() for item in found])
        return ExitCode.FINE
    if not found:
        click.echo("nothing waits for a person")
        return ExitCode.FINE
    for item in found:
        told = "cannot start here" if not item.fits else f"{_since(item.since)}{_until(item)}"
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


def _since(at: float) -> str:
    from matterstack.core.values import format_duration

    return f"has been waiting for {format_duration(time.time() - at)}"


def _until(item: Any) -> str:
    from matterstack.core.times import to_text
    from matterstack.core.values import format_duration

    if item.until is None:
        return ""
    when = to_text(item.until)[:16].replace("T", " ")
    if item.overdue:
        return click.style(f", overdue since {when} UTC", fg="red")
    return f", due {when} UTC (in {format_duration(item.until - time.time())})"


def _all_runs() -> list[str]:
    try:
        return [default_run()]
    except UsageError:
        found = sorted(str(path.parent) for path in Path("runs").glob("*/run.json"))
        if not found:
            raise UsageError("there is no run in runs/; name a run root (RUN)") from None
        return found
