"""logs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from matterstack.cli.options import common, echo_remark, json_option, run_argument, task_argument, tell
from matterstack.errors import ExitCode, UsageError
from matterstack.run_root.layout import EXIT


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
    from matterstack.run_root.layout import attempt_folder
    from matterstack.views.attempts import is_live, log_files

    root, task_id, number, live, version, newest = log_files(run, task, attempt)
    names = ["stdout", "stderr"] if stream == "both" else [stream]
    files = [root / attempt_folder(task_id, number) / f"{name}.log" for name in names]
    if as_json:
        if follow:
            raise UsageError("--json and --follow exclude each other")
        texts = {name: _read_tail(file, tail) for name, file in zip(names, files, strict=True)}
        print_json({"task": task_id, "attempt": number, "version": version, "live": live, **texts})
        return ExitCode.FINE
    if newest > 1:
        echo_remark(
            f"{task_id}, attempt {number}: version {version} of the campaign{'' if version == newest else f', of {newest}'}"
        )
    ends = {file: _show_log(file, tail, len(files) > 1) for file in files}
    while follow and live:
        live = is_live(root, task_id, number) and not (files[0].parent / "exit.json").exists()
        for file in files:
            ends[file] = _show_rest(file, ends[file])
        if live:
            time.sleep(0.2)
    return ExitCode.FINE


def _read_tail(file: Path, tail: int | None) -> str | None:
    """Return the text of a log, or its last lines; None if nothing was started. An empty log is removed at the end."""
    from matterstack.run_root.files import read_regular

    try:
        lines = read_regular(file).splitlines(keepends=True)
    except FileNotFoundError:
        return "" if _has_ended(file) else None
    wanted = lines if tail is None else lines[len(lines) - tail :] if tail else []
    return b"".join(wanted).decode("utf-8", errors="replace")


def _has_ended(log: Path) -> bool:
    return log.with_name(EXIT).exists()


def _show_log(file: Path, tail: int | None, with_header: bool) -> int:
    from matterstack.run_root.files import read_regular

    try:
        data = read_regular(file)
    except FileNotFoundError:
        tell(f"{file}: {'empty' if _has_ended(file) else 'not there (yet)'}", "info")
        return 0
    if with_header:
        tell(f"==> {file} <==", "info")
    lines = data.splitlines(keepends=True)
    _write(b"".join(lines if tail is None else lines[len(lines) - tail :] if tail else []))
    return len(data)


def _show_rest(file: Path, start: int) -> int:
    from matterstack.run_root.files import open_regular

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
