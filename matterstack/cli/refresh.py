"""refresh."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from matterstack.cli.options import common, echo_remark, json_option, run_argument
from matterstack.errors import ExitCode, UsageError


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
            f"copied: {plural(len(wanted), 'file')}; later attempts use them (`matterstack rerun {shown} TASK` starts one)"
        )
    elif wanted:
        click.echo(f"`matterstack refresh {shown} --yes` copies {plural(len(wanted), 'file')} from {found.folder}")
    elif not found.changes:
        click.echo(f"source/ is as in {found.folder}")
    return ExitCode.FINE
