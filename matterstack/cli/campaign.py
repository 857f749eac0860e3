"""validate, init, schema, completion: what works on a campaign file or on none."""

from __future__ import annotations

import shlex
import sys

import click

from matterstack.cli.options import campaign_options, common, echo_remark, json_option
from matterstack.errors import CampaignError, ExitCode, Problem, UsageError

_MOST_PATTERNS = 40


@click.command()
@click.argument("file")
@campaign_options
@json_option
@common
def validate(file: str, settings: tuple[str, ...], operators: str | None, as_json: bool) -> int:
    """Check a campaign file; report all of its problems at once."""
    from matterstack.cli.render import plural, print_json
    from matterstack.operators.registry import runnable_kinds
    from matterstack.spec.load import load_campaign, parse_overrides

    try:
        loaded = load_campaign(
            file, operators=operators, overrides=parse_overrides(settings), installed_kinds=runnable_kinds()
        )
    except CampaignError as error:
        if as_json:
            print_json({"problems": [_problem_json(problem) for problem in error.problems], "summary": {}})
        else:
            print(error, file=sys.stderr)
        return ExitCode.MISTAKE
    if as_json:
        print_json({"problems": [_problem_json(problem) for problem in loaded.warnings], "summary": loaded.summary})
        return ExitCode.FINE
    for warning in loaded.warnings:
        print(warning, file=sys.stderr)
    summary = loaded.summary
    width = f"at most {summary['width']} at once" if summary["instances"] > 1 else "alone"
    click.echo(
        f"{file}: fine. {plural(summary['tasks'], 'task')} with {plural(summary['instances'], 'instance')} "
        f"in {plural(summary['depth'], 'level')}, "
        f"{width}; {plural(summary['edges'], 'edge')}, {plural(summary['files'], 'file')} to copy."
    )
    for name, count in summary["instances_of"].items():
        click.echo(f"  {name}: {count}" if count > 1 else f"  {name}")
    _list("matched", [f"{name}: {text}" for name, text in summary["patterns"].items()])
    _list("labels", [f"{value} became {task_id}" for task_id, value in summary["labels"].items()])
    return ExitCode.FINE


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


@click.command()
@click.argument("file")
@click.option("--root", metavar="DIR", help="The run root to make (default: runs/NAME).")
@campaign_options
@common
def init(file: str, root: str | None, settings: tuple[str, ...], operators: str | None) -> int:
    """Make the run root of a campaign; nothing is started."""
    from matterstack.api import initialize_run, load_campaign
    from matterstack.cli.render import plural
    from matterstack.spec.load import parse_overrides

    loaded = load_campaign(file, operators=operators, params=parse_overrides(settings))
    for warning in loaded.warnings:
        echo_remark(str(warning))
    run = initialize_run(loaded, root)
    shown = shlex.quote(str(run.root))
    many = plural(len(run.tasks), "task")
    click.echo(f"{run.root}: {many}; `matterstack run {shown}` runs all, `matterstack step {shown}` takes one step")
    return ExitCode.FINE


@click.command()
@click.argument("name", required=False)
@common
def schema(name: str | None) -> int:
    """Print the JSON Schema of a file, by default of a campaign."""
    from matterstack.spec.schema import read_schema

    click.echo(read_schema(name or "campaign"), nl=False)
    return ExitCode.FINE


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common
def completion(shell: str) -> int:
    """Print the completion script of a shell; e.g. `eval "$(matterstack completion bash)"`."""
    from click.shell_completion import get_completion_class

    from matterstack.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "matterstack", "_MATTERSTACK_COMPLETE").source())
    return ExitCode.FINE
