"""attempts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from matterstack.cli.options import common, json_option, run_argument, task_argument
from matterstack.errors import ExitCode, UsageError


@click.command()
@run_argument
@task_argument
@click.option(
    "--show", type=int, metavar="ATTEMPT", help="Show one attempt: its command, inputs, and what it ran with."
)
@json_option
@common
def attempts(run: str, task: str, show: int | None, as_json: bool) -> int:
    """List the attempts of a task, oldest first."""
    from matterstack.cli.render import cell, coloured, peak_text, print_json, table
    from matterstack.core.times import from_text
    from matterstack.core.values import format_duration
    from matterstack.views.attempts import attempts as list_attempts

    task_id, found = list_attempts(run, task)
    if show is not None:
        chosen = next((item for item in found if item["attempt"] == show), None)
        if chosen is None:
            numbers = ", ".join(str(item["attempt"]) for item in found) or "none"
            raise UsageError(f"{task_id} has no attempt {show}; it has {numbers}")
        return _show(run, task_id, chosen, as_json=as_json)
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
                str(item["version"]), cell(item["reason"]),
            ]
        )  # fmt: skip
    header = ["attempt", "state", "class", "exit", "started (UTC)", "took", "cpu", "memory", "version", "reason"]
    click.echo(table(header, rows, right=(0, 3, 6, 7)))
    return ExitCode.FINE


def _show(run: str, task_id: str, found: dict[str, Any], *, as_json: bool) -> int:
    """Print one attempt: what it was, what it read, and the environment that it ran in."""
    from matterstack.cli.render import coloured, harmless, print_json
    from matterstack.core.values import dump_json
    from matterstack.operators.answers import read_json_object
    from matterstack.run_root.layout import TASK

    task = read_json_object(Path(run) / found["folder"] / TASK) or {}
    if as_json:
        print_json({**found, "task": task})
        return ExitCode.FINE

    def line(name: str, value: object) -> None:
        if value not in (None, "", [], {}):
            shown = (" " * 20).join(harmless(text) + "\n" for text in str(value).splitlines())
            click.echo(f"{name + ':':<20}{shown}", nl=False)

    click.echo(f"{task_id}, attempt {found['attempt']}: {coloured(found['state'])}")
    line("reason", found["reason"])
    line("folder", Path(run) / found["folder"])
    for name, item in (task.get("inputs") or {}).items():
        for file in item.get("files", ()):
            digest = f" (sha256 {str(file['sha256'])[:12]}…)" if file.get("sha256") else ""
            line(f"input {name}", f"{file.get('path')}{digest}")
    line("version", f"{found['version']} of the campaign, its files in {Path(run) / found['source']}")
    line("work", task.get("work"))
    answer = found["response"] or {}
    line("answered by", answer and f"{answer.get('by')} at {answer.get('at')}")
    line("comment", answer.get("comment"))
    line("answer", answer and dump_json(answer.get("data")))
    command = task.get("command")
    if command:
        text = command if isinstance(command, str) else shlex.join(map(str, command))
        line("command", text)
    for name, value in (found["environment"] or {}).items():
        line(name.replace("_", " "), ":".join(map(str, value)) if isinstance(value, list) else value)
    return ExitCode.FINE
