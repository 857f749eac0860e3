"""Arguments and options that commands share, and logging."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from matterstack.cli import completing
from matterstack.errors import TICK, UsageError
from matterstack.run_root.layout import require_run_root

logging.addLevelName(TICK, "TICK")

Command = Callable[..., Any]


def common(function: Command) -> Command:
    """Add -v, -q and --log-format to a command."""

    def setup(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        ctx.ensure_object(dict)[param.name] = value
        if {"verbose", "quiet", "log_format"} <= set(ctx.obj):
            _setup_logging(ctx.obj["verbose"], ctx.obj["quiet"], ctx.obj["log_format"])

    for option in (
        click.option("-v", "--verbose", count=True, expose_value=False, callback=setup, help="Say more (twice: everything)."),
        click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=setup, help="Say only what is wrong."),
        click.option(
            "--log-format", type=click.Choice(["text", "json"]), default="text", expose_value=False, callback=setup,
            help="Form of the remarks on stderr.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname.lower()}: {text}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        return _json_line(record.created, record.levelname.lower(), record.getMessage(), traceback)


def _json_line(at: float, level: str, message: str, traceback: str | None = None) -> str:
    from matterstack.core.times import to_text

    data = {"at": to_text(at), "level": level, "message": message}
    return json.dumps({**data, "traceback": traceback} if traceback else data, ensure_ascii=False)


def wants_json_lines() -> bool:
    """Return whether `--log-format json` was given; also of a command line that cannot be understood."""
    words = sys.argv[1:]
    return "--log-format=json" in words or " --log-format json " in f" {' '.join(words)} "


def tell(text: str, level: str = "error") -> None:
    """Print on stderr what is said whatever --quiet says, in the form that --log-format asks for."""
    print(_json_line(time.time(), level, text) if wants_json_lines() else text, file=sys.stderr, flush=True)


def is_quiet() -> bool:
    return not logging.getLogger("matterstack").isEnabledFor(TICK)


def _setup_logging(verbose: int, quiet: bool, log_format: str) -> None:
    logger = logging.getLogger("matterstack")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger.handlers = [handler]
    logger.propagate = False
    level = logging.DEBUG if verbose > 1 else logging.INFO if verbose else TICK
    logger.setLevel(logging.ERROR if quiet else level)


def run_argument(function: Command) -> Command:
    """Add the argument RUN, which may be left out inside a run root."""
    return click.argument(
        "run",
        required=False,
        callback=lambda ctx, param, value: value or (None if ctx.resilient_parsing else default_run()),
        metavar="RUN",
        shell_complete=completing.runs,
    )(function)


def default_run() -> str:
    """Return the run root one is in, or in a folder of. Raises UsageError outside of one."""
    here = Path.cwd()
    for number, folder in enumerate((here, *here.parents)):
        if (folder / "run.json").is_file() and (folder / "operators.yaml").is_file():
            return "/".join([".."] * number) or "."
    raise UsageError("name a run root (RUN), or go into one")


def here_or_below() -> list[str]:
    """Return the run root one is in, or those of `runs/`. Raises UsageError without any."""
    try:
        return [default_run()]
    except UsageError:
        if not Path("runs").is_dir():
            raise UsageError(
                "this is not a run root, and there is no runs/ folder here; name a run root (RUN)"
            ) from None
        return run_roots(["runs"])


_DEEPEST = 4  # folders below the one that is given, in which runs are looked for
_NO_RUNS_IN = ("tasks", "source", "results", "node_modules", "__pycache__")


def run_roots(paths: Sequence[str]) -> list[str]:
    """Return the run roots that are named, and those below folders that are not run roots themselves.

    What is neither is returned as it is, to be told. Raises UsageError for a folder without a run in it.
    """
    out: list[str] = []
    for path in paths:
        if not os.path.isdir(path) or _is_root(path):
            out.append(path)
            continue
        found = sorted(_below(path, _DEEPEST))
        if not found and not any(
            os.path.lexists(os.path.join(path, name)) for name in ("journal.jsonl", "state.sqlite")
        ):
            raise UsageError(f"{path} is not a run root, and there is none below it")
        out += found or [path]
    return list(dict.fromkeys(out))


def _is_root(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "run.json"))


def _below(folder: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name) if folder != "." else name
        if _is_root(path):
            yield path
        elif depth > 1 and name not in _NO_RUNS_IN:
            yield from _below(path, depth - 1)


def task_argument(function: Command) -> Command:
    """Add the argument TASK after RUN."""
    return click.argument(
        "task", required=False, callback=_require_task, metavar="TASK", shell_complete=completing.tasks
    )(function)


def _require_task(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    if value is not None or ctx.resilient_parsing:
        return value or ""
    require_run_root(Path(str(ctx.params.get("run", ""))))
    raise UsageError("name a task (TASK) after RUN; `matterstack explain RUN` lists those that are not done")


def json_option(function: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def campaign_options(function: Command) -> Command:
    """Add --set and --operators."""
    for option in (
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a parameter; VALUE is YAML."),
        click.option(
            "--operators",
            metavar="FILE",
            shell_complete=completing.files,
            help="Operators of this site, replacing the campaign's by name.",
        ),
    ):
        function = option(function)
    return function


def echo_remark(text: str) -> None:
    """Print a remark on stderr, unless --quiet."""
    logging.getLogger("matterstack").log(TICK, "%s", text)


def tasks_argument(function: Command) -> Command:
    """Add the argument TASK…, which may be left out."""
    return click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=completing.tasks)(function)


def why_option(function: Command) -> Command:
    """Add --why, which is recorded with what the command changes; `history` shows it."""

    def remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None:
            from matterstack.orchestration.session import WHY

            WHY.set(" ".join(value.split())[:500])

    return click.option(
        "--why", metavar="TEXT", expose_value=False, callback=remember, help="Why, for the record (`history`)."
    )(function)


def what_changed(tasks: tuple[str, ...], count: int) -> str:
    """Return `the run is` or `3 tasks are`, the beginning of a sentence."""
    return "the run is" if not tasks else "1 task is" if count == 1 else f"{count} tasks are"


def quoted_tasks(tasks: tuple[str, ...]) -> str:
    """Return tasks as they are typed behind RUN, each with a space before it."""
    return "".join(f" {shlex.quote(task)}" for task in tasks)
