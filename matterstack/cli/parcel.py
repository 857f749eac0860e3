"""parcel export, import, list: work for a closed cluster, carried by a person."""

from __future__ import annotations

import shlex

import click

from matterstack.cli import completing
from matterstack.cli.options import common, echo_remark, json_option, run_argument, tell, why_option
from matterstack.errors import ExitCode, UsageError
from matterstack.hints import Hint


@click.group()
def parcel() -> None:
    """Carry work to a closed cluster and back."""


@parcel.command("export")
@run_argument
@click.argument("tasks", nargs=-1, metavar="[TASK]...", shell_complete=completing.tasks)
@click.option("-o", "--output", required=True, metavar="FILE", help="The parcel: .tar.gz, .tar.xz or .tar.")
@click.option("--array", is_flag=True, help="Make its run.sh a Slurm array script.")
@click.option("--again", is_flag=True, help="Also what was handed over before, if that parcel is lost.")
@click.option("--by", default="", metavar="NAME", help="Who takes it (default: the user).")
@why_option
@common
def export(run: str, tasks: tuple[str, ...], output: str, array: bool, again: bool, by: str) -> int:
    """Seal waiting tasks of kind manual into one file that runs where MatterStack is not."""
    from matterstack.cli.render import plural
    from matterstack.core.values import format_memory
    from matterstack.parcels.pack import export_parcel

    made = export_parcel(run, tasks, output, again=again, array=array, by=by)
    click.echo(f"{made.file}: {plural(len(made.tasks), 'task')}, {format_memory(made.size)}")
    echo_remark("its README.txt says how to run it; "
                f"what comes back: `matterstack parcel import {shlex.quote(run)} FILE`")  # fmt: skip
    return ExitCode.FINE


def _bytes_of(text: str | None) -> int | None:
    from matterstack.core.values import parse_memory

    try:
        return None if text is None else parse_memory(text)
    except ValueError as error:
        raise UsageError(f"--max-size: {error}") from None


@parcel.command("import")
@run_argument
@click.argument("file", metavar="FILE", shell_complete=completing.files)
@click.option("--max-size", metavar="SIZE", help="How much it may unpack to, such as 60G.")
@why_option
@json_option
@common
def import_(run: str, file: str, max_size: str | None, as_json: bool) -> int:
    """Take what came back in a parcel into the run, checked."""
    from matterstack.cli.render import harmless, plural, print_json
    from matterstack.parcels.unpack import import_parcel

    found = import_parcel(run, file, most=_bytes_of(max_size))
    code = ExitCode.MISTAKE if found.refused or not (found.taken or found.missing) else ExitCode.FINE
    if as_json:
        print_json(found.to_json())
        return code
    click.echo(f"{plural(len(found.taken), 'task')} of parcel {harmless(found.parcel)} came back")
    for what, names in (("not done yet", found.missing), ("in the run before", found.before)):
        if names:
            more = ", …" if len(names) > 10 else ""
            click.echo(f"{plural(len(names), 'task')} {what}: {harmless(', '.join(names[:10]))}{more}")
    for remark in found.remarks:
        tell(f"warning: {harmless(remark)}", "warning")
    for text in found.refused:
        tell(f"error: {harmless(text)}")
    if code is ExitCode.MISTAKE and not found.refused:
        tell("error: nothing in it is new to the run")
    if found.taken:
        echo_remark(f"continue with {Hint('step', run)} (or `run`)")
    return code


@parcel.command("list")
@run_argument
@json_option
@common
def list_(run: str, as_json: bool) -> int:
    """List the parcels of a run: who took them, when, and what is back."""
    from matterstack.cli.render import harmless, print_json, table
    from matterstack.parcels.listing import list_parcels

    found = list_parcels(run)
    if as_json:
        print_json(found)
        return ExitCode.FINE
    if not found:
        click.echo("no parcel was packed")
        return ExitCode.FINE
    rows = []
    for item in found:
        out = [task["task"] for task in item["tasks"] if task["state"] == "waiting"]
        rows.append([
            item["id"], harmless(str(item["at"]))[:16].replace("T", " "), harmless(str(item["by"])),
            harmless(str(item["file"])), str(len(item["tasks"])), str(len(item["tasks"]) - len(out)), ", ".join(out[:3]) + (", …" if len(out) > 3 else ""),
        ])  # fmt: skip
    click.echo(table(["parcel", "at (UTC)", "by", "file", "tasks", "back", "still out"], rows, right=(4, 5)))
    return ExitCode.FINE
