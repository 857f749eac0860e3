"""explain."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from matterstack.cli import completing
from matterstack.cli.options import campaign_options, common, default_run, json_option
from matterstack.core.states import TaskState
from matterstack.errors import ExitCode, UsageError

_MOST_NAMES = 5
_MOST_LINES = 5  # of a log, where one task is explained
_LONGEST_LINE = 300


@click.command()
@click.argument("arguments", nargs=-1, metavar="[RUN|FILE] [TASK]...", shell_complete=completing.runs_then_tasks)
@campaign_options
@json_option
@common
def explain(arguments: tuple[str, ...], settings: tuple[str, ...], operators: str | None, as_json: bool) -> int:
    """Return of every task that is not done why, down to the last cause, and what to type next.

    With a campaign file instead of a run, show one task exactly as it would run.
    """
    if arguments and _is_campaign(arguments[0]):
        return _explain_in_file(arguments[0], arguments[1:], settings, operators, as_json)
    if settings or operators:
        raise UsageError("--set and --operators go with a campaign file; a run has its own")
    from matterstack.cli.render import coloured, harmless, print_json
    from matterstack.views.explain import explain as explain_tasks

    run, tasks = _run_and_tasks(arguments)
    found = explain_tasks(run, tasks)
    if as_json:
        print_json([item.to_json() for item in found])
        return ExitCode.FINE
    if not tasks and all(item.state is TaskState.COMPLETED for item in found):
        stale = sum(bool(item.stale) for item in found)
        click.echo("every task is COMPLETED" + (f", {stale} of them stale:" if stale else ""))
    told: set[str] = set()  # failures whose cause and advice are printed
    for item, more in _together(found) if not tasks else [(item, 0) for item in found]:
        which = f"{item.task_id} and {more} more" if more else item.task_id
        click.echo(f"{which}: {coloured(str(item.state))}: {harmless(item.reason)}")
        if more:
            shown = [task for task in item.like if task != item.task_id][:_MOST_NAMES]
            also = f"    also {', '.join(shown)}{', …' if more > len(shown) else ''}"
            click.echo(harmless(also) if shown else "", nl=bool(shown))
        if item.root_cause is not None and item.root_cause in told:
            continue  # what is blocked by it needs no more words
        told |= {item.root_cause or item.task_id, *item.like}
        for line in _details(Path(run), item, most=_MOST_LINES if tasks else 1):
            click.echo(f"    {harmless(line)}")
    return ExitCode.FINE


def _together(found: Iterable[Any]) -> list[tuple[Any, int]]:
    """Return explanations with how many more instances of the same task have the very same one."""
    first: dict[tuple[Any, ...], Any] = {}
    counts: dict[tuple[Any, ...], int] = {}
    for item in found:
        if item.like[1:]:
            key: tuple[Any, ...] = item.like
        else:
            key = (item.task_id.partition("/")[0], item.state, item.reason, item.path, item.hint)
        first.setdefault(key, item)
        counts[key] = counts.get(key, -1) + 1
    return [(item, counts[key]) for key, item in first.items()]


def _details(run: Path, item: Any, most: int) -> Iterable[str]:
    """Yield what an attempt left, where that is, and what to do; paths and commands on lines of their own."""
    if item.state is not TaskState.COMPLETED:
        for line in (*item.cause.shown(most), item.cause.where, *item.cause.remarks):
            if line:
                yield line[:_LONGEST_LINE]
    if item.path:
        yield str(run / item.path)
    if not item.advice and item.hint is not None:
        yield item.hint.command
    for advice in item.advice:
        yield f"{advice.text}:"
        for hint in advice.commands:
            yield f"    {hint.command}"


def _run_and_tasks(arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    if not arguments:
        return default_run(), ()
    run, tasks = arguments[0], arguments[1:]
    if not Path(run).exists() and Path("run.json").is_file():
        raise UsageError(f"RUN comes first: inside a run root write `. {' '.join(arguments)}`")
    return run, tasks


def _is_campaign(path: str) -> bool:
    """Return whether an argument names a campaign file; within a run root only one that looks like one."""
    file = Path(path)
    within_run = Path("run.json").is_file() and file.suffix not in (".yaml", ".yml", ".json")
    return file.is_file() and not within_run


def _explain_in_file(
    file: str, tasks: tuple[str, ...], settings: tuple[str, ...], operators: str | None, as_json: bool
) -> int:
    from matterstack.cli.campaign_file import load_and_warn, show_instance

    if len(tasks) != 1:
        raise UsageError(f"name one task after {file}; `matterstack validate {shlex.quote(file)}` lists them")
    return show_instance(load_and_warn(file, settings, operators), tasks[0], as_json=as_json)
