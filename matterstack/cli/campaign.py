"""validate, init, import, schema, completion: what works on a campaign file or on none."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matterstack.cli.options import campaign_options, common, echo_remark, json_option
from matterstack.errors import CampaignError, ExitCode, Problem, UsageError

if TYPE_CHECKING:
    from matterstack.core.model import LoadedCampaign

_MOST_PATTERNS = 40


def load_and_warn(
    file: str, settings: tuple[str, ...] = (), operators: str | None = None, *, quiet: bool = False
) -> LoadedCampaign:
    """Load a campaign file to look at it, its warnings on stderr. Raises CampaignError."""
    from matterstack.operators.registry import runnable_kinds
    from matterstack.spec.load import load_campaign, parse_overrides

    overrides = parse_overrides(settings)
    loaded = load_campaign(file, operators=operators, overrides=overrides, installed_kinds=runnable_kinds())
    for warning in () if quiet else loaded.warnings:
        print(warning, file=sys.stderr)
    return loaded


@click.command()
@click.argument("file")
@click.option("--task", metavar="ID", help="Show one instance exactly as it would run.")
@campaign_options
@json_option
@common
def validate(file: str, task: str | None, settings: tuple[str, ...], operators: str | None, as_json: bool) -> int:
    """Check a campaign file; report all of its problems at once."""
    from matterstack.cli.render import harmless, plural, print_json

    try:
        loaded = load_and_warn(file, settings, operators, quiet=as_json)
    except CampaignError as error:
        if as_json:
            print_json({"problems": [_problem_json(problem) for problem in error.problems], "summary": {}})
        else:
            print(error, file=sys.stderr)
        return ExitCode.MISTAKE
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
    click.echo(f"  {_asked(summary)}")
    _list("matched", [f"{name}: {text}" for name, text in summary["patterns"].items()])
    _list("labels", [f"{harmless(value)!r} became {task_id}" for task_id, value in summary["labels"].items()])
    return ExitCode.FINE


def _asked(summary: Mapping[str, Any]) -> str:
    unlimited = summary["without_time_limit"]
    if not unlimited:
        return f"asks for at most {summary['cpu_hours']:.6g} cpu-hours, all retries included"
    names = ", ".join(unlimited[:4]) + (f" and {len(unlimited) - 4} more" if len(unlimited) > 4 else "")
    return f"no bound on cpu-hours: no time limit (resources.time) for {names}"


def show_instance(loaded: LoadedCampaign, task: str, *, as_json: bool) -> int:
    """Print one instance of a campaign as its first attempt would run."""
    from matterstack.cli.render import harmless, print_json
    from matterstack.core.values import dump_json
    from matterstack.spec.preview import find_instance, preview

    found = preview(loaded, find_instance(loaded, task))
    if as_json:
        print_json(found)
        return ExitCode.FINE

    def line(name: str, value: object) -> None:
        click.echo(f"{name + ':':<13}{harmless(str(value))}")

    def block(name: str, items: Mapping[str, object]) -> None:
        for index, (key, value) in enumerate(items.items()):
            shown = value if isinstance(value, str) else dump_json(value)
            click.echo(f"{name + ':' if index == 0 else '':<13}{key} = {harmless(shown)}")

    line("task", f"{found['task']} (operator '{found['operator']}', kind {found['kind']})")
    for key in ("needs", "unresolved"):
        if found[key]:
            line(key, ", ".join(found[key]))
    if "when" in found:
        line("when", found["when"])
    block("matrix", found["matrix"])
    for key in ("inputs", "outputs", "resources", "retries", "env"):
        block(key, _shown_values(key, found.get(key) or {}))
    for key in ("instructions", "script"):
        if found.get(key):
            click.echo(f"{key}:")
            click.echo("".join(f"    {text}\n" for text in harmless(found[key]).splitlines()), nl=False)
    if found["unresolved"] and found["command"]:
        line("command", found["command"] if isinstance(found["command"], str) else shlex.join(found["command"]))
    return ExitCode.FINE


def _shown_values(key: str, values: Mapping[str, Any]) -> Mapping[str, object]:
    """Give what stands for a block of `show_instance`: short where the JSON is made for programs."""
    if key == "inputs":
        return {name: " ".join(value) if isinstance(value, list) else value for name, value in values.items()}
    if key == "outputs":
        return {
            name: f"{item['file']} -> results/{item['path']}{' (optional)' if item['optional'] else ''}"
            for name, item in values.items()
        }
    if key == "retries":
        return {name: value for name, value in values.items() if value}
    return values


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


@click.group("import")
def import_() -> None:
    """Make a campaign file of another format's."""


@import_.command()
@click.argument("file")
@click.option("-o", "--output", metavar="FILE", help="The campaign file to write (.yaml or .json; default: stdout).")
@common
def wfformat(file: str, output: str | None) -> int:
    """Make a campaign of a WfFormat file (WfCommons, versions 1.3 to 1.5; also .xz and .gz)."""
    from matterstack.cli.render import plural
    from matterstack.spec.loader import dump_document
    from matterstack.spec.wfformat import read_wfformat

    target = Path(output) if output is not None else None
    if target is not None and target.exists():
        raise UsageError(f"{target} exists; -o takes a new file")
    imported = read_wfformat(Path(file), target.parent if target is not None else Path())
    text = dump_document(imported.document, as_json=target is not None and target.suffix == ".json")
    if target is None:
        click.echo(text, nl=False)
    else:
        data = text.encode()
        with open(target, "xb") as opened:
            opened.write(data)
    echo_remark(f"{plural(len(imported.document['tasks']), 'task')}; {plural(imported.edges, 'edge')}")
    for remark in imported.remarks:
        echo_remark(remark)
    return ExitCode.FINE
