"""validate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from matterstack.cli import completing
from matterstack.cli.campaign_file import load_and_warn, show_instance
from matterstack.cli.options import campaign_options, common, json_option, tell
from matterstack.errors import CampaignError, ExitCode, Problem

_MOST_PATTERNS = 40


@click.command()
@click.argument("file", shell_complete=completing.files)
@click.option("--task", metavar="ID", help="Show one instance exactly as it would run.")
@click.option(
    "--root", metavar="DIR", shell_complete=completing.folders, help="Check also that a run can be made there."
)
@campaign_options
@json_option
@common
def validate(
    file: str, task: str | None, root: str | None, settings: tuple[str, ...], operators: str | None, as_json: bool
) -> int:
    """Check a campaign file; report all of its problems at once."""
    from matterstack.cli.render import harmless, plural, print_json
    from matterstack.orchestration.here import remarks_on_machine

    try:
        loaded = load_and_warn(file, settings, operators, quiet=as_json)
    except CampaignError as error:
        if as_json:
            print_json({"problems": [_problem_json(problem) for problem in error.problems], "summary": {}})
        else:
            for line in str(error).splitlines():
                tell(line)
        return ExitCode.MISTAKE
    from matterstack.orchestration.init import require_short_paths

    require_short_paths(loaded, Path(root) if root is not None else Path("runs") / loaded.campaign.name)
    if task is not None:
        return show_instance(loaded, task, as_json=as_json)
    if as_json:
        print_json({"problems": [_problem_json(problem) for problem in loaded.warnings], "summary": loaded.summary})
        return ExitCode.FINE
    summary = loaded.summary
    width = f"at most {summary['width']} at once" if summary["instances"] > 1 else "alone"
    click.echo(
        f"{file}: fine. {plural(summary['tasks'], 'task')} with {plural(summary['instances'], 'instance')} "
        f"in {plural(summary['depth'], 'level')}, "
        f"{width}; {plural(summary['edges'], 'edge')}, {plural(summary['files'], 'file')} to copy."
    )
    for name, count in summary["instances_of"].items():
        click.echo(f"  {name}: {count}" if count > 1 else f"  {name}")
    for name, item in summary["unknown"].items():
        click.echo(f"  {unknown_line(name, item)}")
    click.echo(f"  {_asked(summary)}")
    for remark in _beyond_limits(summary):
        click.echo(f"  {remark}")
    for remark in remarks_on_machine(loaded):
        click.echo(f"  {remark}")
    _list("matched", [f"{name}: {text}" for name, text in summary["patterns"].items()])
    _list("labels", [f"{harmless(value)!r} became {task_id}" for task_id, value in summary["labels"].items()])
    return ExitCode.FINE


def _asked(summary: Mapping[str, Any]) -> str:
    unlimited = summary["without_time_limit"]
    if not unlimited:
        return f"asks for at most {summary['cpu_hours']:.6g} cpu-hours, all retries included"
    names = ", ".join(unlimited[:4]) + (f" and {len(unlimited) - 4} more" if len(unlimited) > 4 else "")
    return f"no bound on cpu-hours: no time limit (resources.time) for {names}"


def _beyond_limits(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield which limits the run is expected to reach."""
    attempts, hours = summary["limits"].get("attempts"), summary["limits"].get("cpu_hours")
    if attempts is not None and summary["expected"] > attempts:
        yield f"about {summary['expected']:,} instances are expected: the run pauses at `limits.attempts: {attempts}`"
    if hours is not None and summary["cpu_hours"] is not None and summary["cpu_hours"] > hours:
        yield f"{summary['cpu_hours']:.6g} cpu-hours are more than `limits.cpu_hours: {hours}`, at which the run pauses"


def unknown_line(name: str, item: Mapping[str, Any]) -> str:
    """Return the line of what is not known before the run."""
    if "rounds" in item:
        return f"{name}: a loop of at most {item['rounds']} rounds of {', '.join(item['tasks'])}"
    expect = f"; expect {item['expect']}" if "expect" in item else ""
    return f"{name} (not known yet: waits for {', '.join(item['waits_for'])}{expect})"


def _list(title: str, lines: list[str]) -> None:
    for line in lines[:_MOST_PATTERNS]:
        click.echo(f"  {title}  {line}")
    if len(lines) > _MOST_PATTERNS:
        click.echo(f"  {title}  … and {len(lines) - _MOST_PATTERNS} more (--json lists all)")


def _problem_json(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file, "line": problem.line, "column": problem.column, "where": problem.where,
        "message": problem.message, "severity": problem.severity,
    }  # fmt: skip
