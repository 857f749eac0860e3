"""doctor."""

from __future__ import annotations

import click

from matterstack.cli.options import common, json_option, run_argument, why_option
from matterstack.errors import ExitCode


@click.command()
@run_argument
@click.option("--fix", is_flag=True, help="Repair what can be repaired without a person.")
@click.option("--digests", is_flag=True, help="Also read all results and sources and compare their digests.")
@why_option
@json_option
@common
def doctor(run: str, fix: bool, digests: bool, as_json: bool) -> int:
    """Check a run root: ledger, journal, attempts, results, lock, file system. Exit code 1 if something is left."""
    from matterstack.care.checks import examine
    from matterstack.care.repair import repair
    from matterstack.cli.render import harmless, print_json

    fixed = repair(run) if fix else []
    findings = examine(run, digests=digests)
    if as_json:
        print_json({"findings": [item.to_json() for item in findings], "fixed": fixed})
    else:
        for text in fixed:
            click.echo(f"fixed  {harmless(text)}")
        for item in findings:
            click.echo(f"{item.check}  {harmless(item.path)}: {harmless(item.message)} ({harmless(item.remedy)})")
        if not findings:
            click.echo("nothing is wrong" if not fixed else "nothing else is wrong")
    return ExitCode.COULD_NOT_WORK if findings else ExitCode.FINE
