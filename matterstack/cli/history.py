"""history."""

from __future__ import annotations

import click

from matterstack.cli import completing
from matterstack.cli.options import common, json_option, run_argument
from matterstack.errors import ExitCode, UsageError


@click.command()
@run_argument
@click.option("--task", metavar="GLOB", shell_complete=completing.tasks, help="Only what concerned these tasks.")
@click.option("--since", metavar="DATE", help="Only from then on: 2026-11-30, or 2026-11-30T14:00 (UTC).")
@json_option
@common
def history(run: str, task: str | None, since: str | None, as_json: bool) -> int:
    """Show who did what to a run, when and why."""
    from matterstack.cli.render import harmless, print_json
    from matterstack.core.times import to_text
    from matterstack.views.history import history as events_of
    from matterstack.views.history import in_sum

    found = events_of(run, task, _since(since))
    if as_json:
        print_json([line.to_json() for line in found])
        return ExitCode.FINE
    for line in found if task is not None else in_sum(found):
        who = f"{line.who}: " if line.who else ""
        why = f' - "{line.why}"' if line.why else ""
        click.echo(harmless(f"{to_text(line.at)[:19].replace('T', ' ')}  {who}{line.what}{why}"))
    return ExitCode.FINE


def _since(text: str | None) -> float | None:
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text}: expected a date like 2026-11-30 or 2026-11-30T14:00") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
