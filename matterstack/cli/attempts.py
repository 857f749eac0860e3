"""attempts."""

from __future__ import annotations

import click

from matterstack.cli.options import common, json_option, run_argument, task_argument
from matterstack.errors import ExitCode


@click.command()
@run_argument
@task_argument
@json_option
@common
def attempts(run: str, task: str, as_json: bool) -> int:
    """List the attempts of a task, oldest first."""
    from matterstack.cli.render import cell, coloured, peak_text, print_json, table
    from matterstack.core.times import from_text
    from matterstack.core.values import format_duration
    from matterstack.views.attempts import attempts as list_attempts

    task_id, found = list_attempts(run, task)
    if as_json:
        print_json(found)
        return ExitCode.FINE
    if not found:
        click.echo(f"{task_id} has no attempt yet")
        return ExitCode.FINE
    rows = []
    for item in found:
        began, ended = from_text(item["started_at"]), from_text(item["ended_at"])
        usage = item["usage"] or {}
        took = format_duration(ended - began) if began is not None and ended is not None else ""
        rows.append(
            [
                str(item["attempt"]), coloured(item["state"]), cell(item["class"]), cell(item["exit_code"]),
                (item["started_at"] or item["created_at"])[:19].replace("T", " "), took,
                f"{usage['cpu_s']:.1f} s" if "cpu_s" in usage else "", peak_text(usage.get("max_rss")),
                item["source_digest"][:8], cell(item["reason"]),
            ]
        )  # fmt: skip
    header = ["attempt", "state", "class", "exit", "started (UTC)", "took", "cpu", "memory", "source", "reason"]
    click.echo(table(header, rows, right=(0, 3, 6, 7)))
    return ExitCode.FINE
