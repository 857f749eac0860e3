"""pause, resume, cancel, rerun, refresh: what people do to a run."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from matterstack.cli.options import common, echo_remark, json_option, run_argument
from matterstack.errors import ExitCode, UsageError

_tasks = click.argument("tasks", nargs=-1, metavar="[TASK]...")


@click.command()
@run_argument
@_tasks
@common
def pause(run: str, tasks: tuple[str, ...]) -> int:
    """Start nothing more of a run, or of some tasks; what runs goes on."""
    from matterstack.orchestration.actions import pause as pause_run

    changed = pause_run(run, tasks)
    what = _what(tasks, changed)
    click.echo(
        f"{what} paused; `matterstack resume {shlex.quote(run)}{_words(tasks)}` goes on"
        if changed
        else "was paused already"
    )
    return ExitCode.FINE


@click.command()
@run_argument
@_tasks
@common
def resume(run: str, tasks: tuple[str, ...]) -> int:
    """Undo pause."""
    from matterstack.orchestration.actions import pause as pause_run

    changed = pause_run(run, tasks, resume=True)
    what = _what(tasks, changed)
    click.echo(
        f"{what} resumed; `matterstack run {shlex.quote(run)}` or `step` starts what is ready"
        if changed
        else "was not paused (the whole run may be: `matterstack status` says)"
    )
    return ExitCode.FINE


def _what(tasks: tuple[str, ...], count: int) -> str:
    return "the run is" if not tasks else "1 task is" if count == 1 else f"{count} tasks are"


def _words(tasks: tuple[str, ...]) -> str:
    return "".join(f" {shlex.quote(task)}" for task in tasks)


@click.command()
@run_argument
@_tasks
@common
def cancel(run: str, tasks: tuple[str, ...]) -> int:
    """End a run, or tasks of it: what waits never starts, what runs is ended (TERM, KILL 10 s later)."""
    from matterstack.orchestration.actions import cancel as cancel_run

    done = cancel_run(run, tasks)
    parts = []
    if done.ended:
        parts.append(f"{len(done.ended)} ended")
    if done.not_started:
        parts.append(f"{len(done.not_started)} will not start")
    if done.settled:
        parts.append(f"{done.settled} had ended before")
    if done.still_alive:
        parts.append(f"{len(done.still_alive)} as soon as they can be")
    click.echo("cancelled: " + (", ".join(parts) if parts else "nothing was left to cancel"))
    if done.still_alive:
        echo_remark(
            f"warning: {', '.join(done.still_alive[:5])} could not be ended from here; `matterstack explain` says why, "
            "the next step tries again"
        )
    return ExitCode.FINE


@click.command()
@run_argument
@_tasks
@click.option("--downstream", is_flag=True, help="Also all tasks below that ended.")
@common
def rerun(run: str, tasks: tuple[str, ...], downstream: bool) -> int:
    """Run tasks again, as new attempts; old attempts and their files stay."""
    from matterstack.orchestration.actions import rerun as rerun_tasks

    done = rerun_tasks(run, tasks, downstream=downstream)
    below = f", and {len(done.reopened)} below" if done.reopened else ""
    shown = shlex.quote(run)
    many = "1 task runs" if len(done.tasks) == 1 else f"{len(done.tasks)} tasks run"
    click.echo(f"{many} again{below}; `matterstack run {shown}` or `matterstack step {shown}` starts")
    if done.ended:
        echo_remark(f"ended first: {', '.join(done.ended[:5])}{', …' if len(done.ended) > 5 else ''}")
    if done.still_alive:
        echo_remark(
            f"warning: {', '.join(done.still_alive[:5])} could not be ended from here; the next step tries again"
        )
    return ExitCode.FINE


@click.command()
@run_argument
@click.option("--yes", is_flag=True, help="Take the changed files.")
@click.option("--from", "folder", metavar="DIR", help="Where the campaign folder is now.")
@json_option
@common
def refresh(run: str, yes: bool, folder: str | None, as_json: bool) -> int:
    """Show which files of the campaign have changed since the run took them; with --yes take them."""
    from matterstack.cli.render import plural, print_json
    from matterstack.orchestration.actions import refresh as refresh_run
    from matterstack.spec.files import glob_files

    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"--from {folder}: no such folder")
    found = refresh_run(run, glob_files, take=yes, folder=Path(folder) if folder else None)
    if as_json:
        changes = [
            {"path": item.path, "kind": item.kind, "before": item.before, "after": item.after} for item in found.changes
        ]
        print_json(
            {"changes": changes, "taken": found.taken, "source_digest": found.digest, "folder": str(found.folder)}
        )
        return ExitCode.FINE
    shown = shlex.quote(run)
    for change in found.changes:
        digests = f"{(change.before or '-')[:8]} -> {(change.after or '-')[:8]}"
        click.echo(f"{change.kind:8} {change.path}  {digests}")
    edited = [change.path for change in found.changes if change.kind == "edited"]
    if edited:
        echo_remark(
            f"warning: {', '.join(edited[:3])} was edited within the run's source/; it is left alone, and attempts do not "
            f"know of it: copy it to {found.folder} and refresh"
        )
    if found.campaign_changed:
        echo_remark(
            "warning: the campaign file itself has changed; a run keeps its campaign "
            "(`matterstack run FILE --root DIR` makes a new one)"
        )
    if any(change.kind == "gone" for change in found.changes):
        echo_remark("files that are gone from the campaign folder stay in the run's source/")
    wanted = [change for change in found.changes if change.kind in ("changed", "new")]
    if found.taken:
        click.echo(
            f"taken: {plural(len(wanted), 'file')}; later attempts use them (`matterstack rerun {shown} TASK` makes one)"
        )
    elif wanted:
        click.echo(f"`matterstack refresh {shown} --yes` takes {plural(len(wanted), 'file')} from {found.folder}")
    elif not found.changes:
        click.echo(f"source/ is as in {found.folder}")
    return ExitCode.FINE
