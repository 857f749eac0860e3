"""run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from matterstack.cli import completing
from matterstack.cli.options import campaign_options, common, default_run, echo_remark, is_quiet, tell, why_option
from matterstack.core.states import RunState
from matterstack.errors import ExitCode, UsageError


@click.command(name="run")
@click.argument("target", required=False, metavar="FILE|RUN", shell_complete=completing.files)
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=completing.folders,
    help="The run root (default: runs/NAME); only with FILE.",
)
@click.option("--wait", is_flag=True, help="Wait for people and laboratories as well.")
@click.option("--from", "origin", metavar="RUN", shell_complete=completing.runs, help="As of `init`; only with FILE.")
@click.option("--yes", is_flag=True, help="With --from: do not ask.")
@click.option(
    "--only", multiple=True, metavar="TASK", shell_complete=completing.tasks,
    help="Start only these tasks (an id or a glob), and what they need.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help="Print in the end where the time went.")
@campaign_options
@why_option
@common
def run(
    target: str | None,
    root: str | None,
    wait: bool,
    only: tuple[str, ...],
    origin: str | None,
    yes: bool,
    profile: bool,
    settings: tuple[str, ...],
    operators: str | None,
) -> int:
    """Run a campaign until it is done: FILE starts or continues it, RUN continues a run root.

    Ctrl-C ends the loop, not the jobs.
    """
    from matterstack.cli.attention import tell_stale
    from matterstack.cli.live import Display, print_profile, summary
    from matterstack.operators.workers import wait_for_all
    from matterstack.orchestration.profile import Profile
    from matterstack.orchestration.run_lifecycle import run_until_done

    path = _root_of(Path(target or default_run()), root, settings, operators, origin, yes=yes)
    if path is None:
        return ExitCode.FINE
    quiet = is_quiet()
    display = Display(path, quiet=quiet)
    spent = Profile() if profile else None
    try:
        with display:
            report = run_until_done(path, display.update, spent, wait=wait, only=only)
    except KeyboardInterrupt:
        jobs = display.active
        goes_on = f"{jobs} {'job goes' if jobs == 1 else 'jobs go'} on without this loop" if jobs else "nothing runs"
        if os.getpid() == 1 and jobs:
            tell(f"interrupted: waiting for {jobs} running, since they end with process 1 of a container", "warning")
            wait_for_all()
            goes_on = "what ran has ended"
        tell(f"interrupted: {goes_on}; `matterstack run {shlex.quote(str(path))}` continues", "warning")
        return 130
    if not quiet or report.state is not RunState.COMPLETED:
        summary(path, report)
    else:
        tell_stale(path)
    if spent is not None:
        print_profile(spent)
    if only and not report.state.is_over:
        return _code_of(path, only)
    if report.state in (RunState.FAILED, RunState.CANCELLED):
        return ExitCode.RUN_FAILED
    return ExitCode.FINE if report.state is RunState.COMPLETED else ExitCode.NEEDS_PEOPLE


def _code_of(path: Path, only: tuple[str, ...]) -> ExitCode:
    """Return the exit code of a run of which only some tasks were wanted: what became of these."""
    from matterstack.core.selection import select_tasks
    from matterstack.core.states import TaskState
    from matterstack.views.reading import reading

    with reading(path) as (_, store):
        rows = store.tasks(select_tasks(store.task_ids(), only))
    bad = (TaskState.BLOCKED, TaskState.CANCELLED)
    if any(row.state in bad or (row.state is TaskState.FAILED and not row.soft) for row in rows):
        return ExitCode.RUN_FAILED
    return ExitCode.FINE if all(row.state.is_settled for row in rows) else ExitCode.NEEDS_PEOPLE


def _root_of(
    target: Path, root: str | None, settings: tuple[str, ...], operators: str | None, origin: str | None, *, yes: bool
) -> Path | None:
    """Return the run root to step: the target, or of a campaign file an old or a new one; None if none was agreed to."""
    if target.is_dir():
        if root or settings or operators or origin:
            raise UsageError(f"{target} is a run root: --root, --set, --operators and --from go with a campaign file")
        return target
    if not target.exists() and target.suffix not in (".yaml", ".yml", ".json"):
        raise UsageError(f"{target}: no such campaign file or run root")
    from matterstack.api import load_campaign
    from matterstack.cli.attention import tell_sources
    from matterstack.cli.init import agreed_fork
    from matterstack.cli.render import plural
    from matterstack.orchestration.init import initialize_run
    from matterstack.spec.load import differences, parse_overrides
    from matterstack.views.reading import reading

    loaded = load_campaign(target, operators=operators, params=parse_overrides(settings))
    for warning in loaded.warnings:
        echo_remark(str(warning))
    path = Path(root) if root else Path("runs") / loaded.campaign.name
    if not (path / "run.json").is_file():
        fork = None
        if origin is not None:
            fork = agreed_fork(loaded, origin, Path(root) if root else None, yes=yes)
            if fork is None:
                return None
        made = initialize_run(loaded, path, fork)
        echo_remark(f"{made}: {plural(len(loaded.instances), 'task')}")
        return made
    if origin is not None:
        raise UsageError(f"{path} is a run already: --from is for a new one; --root DIR names another folder")
    with reading(path) as (_, store):
        different = differences(loaded, path, store.run().digest, store.sources())
    if different:
        given = "".join(f" --set {shlex.quote(setting)}" for setting in settings)
        given += f" --operators {shlex.quote(operators)}" if operators else ""
        raise UsageError(
            f"{path} is a run of another version: {different}; `matterstack amend {shlex.quote(str(path))} "
            f"{shlex.quote(str(target))}{given}` shows what that means, `matterstack run {shlex.quote(str(path))}` continues "
            "it as it is, --root DIR starts a new one"
        )
    tell_sources(path)
    return path
