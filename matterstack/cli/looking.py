"""status, explain, graph, logs, attempts, results: commands that only read."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from matterstack.cli.options import campaign_options, common, default_run, json_option, run_argument, task_argument
from matterstack.core.states import TaskState
from matterstack.errors import ExitCode, UsageError

_MOST_GROUPS = 40
_MOST_REASONS = 10


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN...")
@json_option
@common
def status(runs: tuple[str, ...], as_json: bool) -> int:
    """Show the state of runs."""
    from matterstack.cli.render import print_json
    from matterstack.orchestration.report import open_run

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
    told = [task for task in view.tasks if task.state is TaskState.FAILED or task.reason.startswith("stale")]
    if told:
        click.echo()
    for task in told[:_MOST_REASONS]:
        state = coloured("stale") if task.state is TaskState.COMPLETED else coloured(str(task.state))
        more = " (allowed)" if task.soft else ""
        if task.state is TaskState.COMPLETED:
            more = f"; `matterstack rerun {shlex.quote(str(view.root))} {shlex.quote(task.task_id)}`"
        click.echo(f"{state}  {task.task_id}: {harmless(task.reason.removeprefix('stale: '))}{more}")
    if len(told) > _MOST_REASONS:
        click.echo(f"… and {len(told) - _MOST_REASONS} more")


@click.command()
@click.argument("arguments", nargs=-1, metavar="[RUN|FILE] [TASK]...")
@campaign_options
@json_option
@common
def explain(arguments: tuple[str, ...], settings: tuple[str, ...], operators: str | None, as_json: bool) -> int:
    """Say of every task that is not done why, down to the last cause, and what to type next.

    With a campaign file instead of a run, show one task exactly as it would run.
    """
    if arguments and _is_campaign(arguments[0]):
        return _explain_in_file(arguments[0], arguments[1:], settings, operators, as_json)
    if settings or operators:
        raise UsageError("--set and --operators go with a campaign file; a run has its own")
    from matterstack.cli.render import coloured, harmless, print_json
    from matterstack.orchestration.report import explain as explain_tasks

    run, tasks = _run_and_tasks(arguments)
    found = explain_tasks(run, tasks)
    if as_json:
        print_json([item.to_json() for item in found])
        return ExitCode.FINE
    if not found:
        stale = [item for item in explain_tasks(run, ["*"]) if item.reason.startswith("stale")]
        click.echo("every task is COMPLETED" + (f", {len(stale)} of them stale:" if stale else ""))
        found = stale
    for item, more in _together(found) if not tasks else [(item, 0) for item in found]:
        parts = [item.reason]
        if item.path:
            parts.append(item.path)
        if item.to_correct:
            parts.append(f"correct, `matterstack refresh {shlex.quote(run)} --yes`, `{item.command}`")
        elif item.command:
            parts.append(f"`{item.command}`")
        which = f"{item.task_id} and {more} more" if more else item.task_id
        click.echo(f"{which}: {coloured(str(item.state))}: {harmless('; '.join(parts))}")
        last = _last_words(Path(run), item.path) if item.state is TaskState.FAILED else ""
        if last:
            click.echo(f"    {harmless(last)[:160]}")
    return ExitCode.FINE


def _together(found: Iterable[Any]) -> list[tuple[Any, int]]:
    """Give explanations with how many more instances of the same task have the very same one."""
    first: dict[tuple[Any, ...], Any] = {}
    counts: dict[tuple[Any, ...], int] = {}
    for item in found:
        key = (item.task_id.partition("/")[0], item.state, item.reason, item.path, item.command)
        first.setdefault(key, item)
        counts[key] = counts.get(key, -1) + 1
    return [(item, counts[key]) for key, item in first.items()]


def _last_words(run: Path, path: str | None) -> str:
    from matterstack.storage.run_root import find_last_line

    return find_last_line(run / path) if path and path.endswith((".log", ".txt")) else ""


def _run_and_tasks(arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    if not arguments:
        return default_run(), ()
    run, tasks = arguments[0], arguments[1:]
    if not Path(run).exists() and Path("run.json").is_file():
        raise UsageError(f"RUN comes first: inside a run root write `. {' '.join(arguments)}`")
    return run, tasks


def _is_campaign(path: str) -> bool:
    """Say whether an argument names a campaign file; within a run root only one that looks like one."""
    file = Path(path)
    within_run = Path("run.json").is_file() and file.suffix not in (".yaml", ".yml", ".json")
    return file.is_file() and not within_run


def _explain_in_file(
    file: str, tasks: tuple[str, ...], settings: tuple[str, ...], operators: str | None, as_json: bool
) -> int:
    from matterstack.cli.campaign import load_and_warn, show_instance

    if len(tasks) != 1:
        raise UsageError(f"name one task behind {file}; `matterstack validate {shlex.quote(file)}` lists them")
    return show_instance(load_and_warn(file, settings, operators), tasks[0], as_json=as_json)


@click.command()
@click.argument("path", required=False, metavar="RUN|FILE")
@campaign_options
@json_option
@common
def graph(path: str | None, settings: tuple[str, ...], operators: str | None, as_json: bool) -> int:
    """Print the graph of instances of a run or a campaign file, as DOT or JSON."""
    from matterstack.cli.render import dot, stream_graph
    from matterstack.core.graph import instance_edges

    where = path or default_run()
    if Path(where).is_file():
        from matterstack.cli.campaign import load_and_warn

        loaded = load_and_warn(where, settings, operators)
        name = loaded.campaign.name
        nodes = {item.task_id: (item.group, "") for item in loaded.instances}
        entries = {item.task_id: [edge.upstream for edge in item.edges] for item in loaded.instances}
    else:
        from matterstack.orchestration.report import graph_of_run

        view, entries = graph_of_run(where)
        name = view.name
        nodes = {task.task_id: (task.group, str(task.state)) for task in view.tasks}
    members: dict[str, list[str]] = {}
    for task_id, (group, _) in nodes.items():
        members.setdefault(group, []).append(task_id)
    edges = instance_edges(entries, members)
    if as_json:
        stream_graph(nodes, edges)
    else:
        dot(name, nodes, members, edges)
    return ExitCode.FINE


@click.command()
@run_argument
@task_argument
@click.option("--attempt", type=click.IntRange(1), help="Number of the attempt (default: the newest).")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines of each file.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the task prints, until it ends.")
@click.option("--stream", type=click.Choice(["both", "stdout", "stderr"]), default="both", help="Which output to show.")
@json_option
@common
def logs(run: str, task: str, attempt: int | None, tail: int | None, follow: bool, stream: str, as_json: bool) -> int:
    """Show what a task printed."""
    from matterstack.cli.render import print_json
    from matterstack.orchestration.report import is_live, log_files
    from matterstack.storage.run_root import attempt_folder

    root, task_id, number, live = log_files(run, task, attempt)
    names = ["stdout", "stderr"] if stream == "both" else [stream]
    files = [root / attempt_folder(task_id, number) / f"{name}.log" for name in names]
    if as_json:
        if follow:
            raise UsageError("--json and --follow exclude each other")
        texts = {name: _read_tail(file, tail) for name, file in zip(names, files, strict=True)}
        print_json({"task": task_id, "attempt": number, "live": live, **texts})
        return ExitCode.FINE
    ends = {file: _show_log(file, tail, len(files) > 1) for file in files}
    while follow and live:
        live = is_live(root, task_id, number) and not (files[0].parent / "exit.json").exists()
        for file in files:
            ends[file] = _show_rest(file, ends[file])
        if live:
            time.sleep(0.2)
    return ExitCode.FINE


def _read_tail(file: Path, tail: int | None) -> str | None:
    """Give the text of a log, or its last lines; None if it is not there."""
    from matterstack.storage.files import read_regular

    try:
        lines = read_regular(file).splitlines(keepends=True)
    except FileNotFoundError:
        return None
    wanted = lines if tail is None else lines[len(lines) - tail :] if tail else []
    return b"".join(wanted).decode("utf-8", errors="replace")


def _show_log(file: Path, tail: int | None, with_header: bool) -> int:
    from matterstack.storage.files import read_regular

    try:
        data = read_regular(file)
    except FileNotFoundError:
        print(f"{file}: not there (yet)", file=sys.stderr)
        return 0
    if with_header:
        print(f"==> {file} <==", file=sys.stderr, flush=True)
    lines = data.splitlines(keepends=True)
    _write(b"".join(lines if tail is None else lines[len(lines) - tail :] if tail else []))
    return len(data)


def _show_rest(file: Path, start: int) -> int:
    from matterstack.storage.files import open_regular

    try:
        with open_regular(file) as opened:
            opened.seek(start)
            data = opened.read()
    except FileNotFoundError:
        return start
    _write(data)
    return start + len(data)


def _write(data: bytes) -> None:
    """Write a log as it is to a file or pipe; on a terminal without what could harm it."""
    from matterstack.cli.render import harmless

    if sys.stdout.isatty():
        sys.stdout.write(harmless(data.decode("utf-8", errors="replace")))
    else:
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


@click.command()
@run_argument
@task_argument
@json_option
@common
def attempts(run: str, task: str, as_json: bool) -> int:
    """List the attempts of a task, oldest first."""
    from matterstack.cli.render import cell, coloured, print_json, table
    from matterstack.core.times import from_text
    from matterstack.core.values import format_duration
    from matterstack.orchestration.report import attempts as list_attempts

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
        took = format_duration(ended - began) if began is not None and ended is not None else ""
        rows.append(
            [
                str(item["attempt"]), coloured(item["state"]), cell(item["class"]), cell(item["exit_code"]),
                (item["started_at"] or item["created_at"])[:19].replace("T", " "), took,
                item["source_digest"][:8], cell(item["reason"]),
            ]
        )  # fmt: skip
    header = ["attempt", "state", "class", "exit", "started (UTC)", "took", "source", "reason"]
    click.echo(table(header, rows, right=(0, 3)))
    return ExitCode.FINE


@click.command()
@run_argument
@click.option("--task", "patterns", multiple=True, metavar="GLOB", help="Only these tasks (may be repeated).")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@common
def results(run: str, patterns: tuple[str, ...], as_csv: bool, as_json: bool) -> int:
    """Print one table of all tasks: matrix values, state, attempt, metrics."""
    from matterstack.cli.render import cell, coloured, print_json, table
    from matterstack.orchestration.report import results as read_results

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other")
    rows = read_results(run, patterns)
    if as_json:
        print_json(rows)
        return ExitCode.FINE
    for row in rows:
        if not isinstance(row["response"], Mapping):  # an answer may be any JSON; a table has columns
            row["response"] = {"data": row["response"]}
    columns = {kind: _columns(row[kind] for row in rows) for kind in ("matrix", "metrics", "response")}
    if as_csv:
        _write_csv(rows, columns)
        return ExitCode.FINE
    header = ["task", "state", "attempt", *(cell(name) for kind in columns for name in columns[kind])]
    lines = [
        [
            row["task"], coloured(row["state"]), cell(row["attempt"]),
            *(cell(row[kind].get(name)) for kind in columns for name in columns[kind]),
        ]
        for row in rows
    ]  # fmt: skip
    numeric = [i for i in range(2, len(header)) if all(_is_number(line[i]) for line in lines)]
    click.echo(table(header, lines, right=numeric))
    return ExitCode.FINE


def _columns(mappings: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _write_csv(rows: list[dict[str, Any]], columns: Mapping[str, list[str]]) -> None:
    import csv

    from matterstack.core.values import as_text, dump_json

    def plain(value: Any) -> str:
        if value is None:
            return ""
        try:
            return as_text(value)
        except ValueError:
            return dump_json(value)

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["task", "state", "attempt", *(f"{kind}.{name}" for kind in columns for name in columns[kind])])
    for row in rows:
        values = [row[kind].get(name) for kind in columns for name in columns[kind]]
        writer.writerow([row["task"], row["state"], plain(row["attempt"]), *map(plain, values)])
