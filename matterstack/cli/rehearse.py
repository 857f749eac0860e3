"""`matterstack rehearse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from matterstack.cli import completing
from matterstack.cli.options import campaign_options, common, json_option, tell
from matterstack.errors import ExitCode, UsageError

_WIDTH = 40  # of the timeline


@click.command()
@click.argument("file", shell_complete=completing.files)
@click.option(
    "--rates",
    metavar="FILE",
    help="How long tasks take and how often they fail: {people: 1d, relax: {time: 2h, fails: 0.1}}.",
)
@click.option(
    "--samples",
    metavar="FILE",
    help="What tasks give, where the plan depends on it: {train: {metrics: {rmse: [1, 0.1]}}}.",
)
@campaign_options
@json_option
@common
def rehearse(
    file: str, rates: str | None, samples: str | None, settings: tuple[str, ...], operators: str | None, as_json: bool
) -> int:
    """Play a whole campaign through with pretended work and a clock that jumps: how long, how much, who is waited for.

    Nothing is computed, and nothing is written outside of a temporary folder.
    """
    import tempfile
    import time

    from matterstack.cli.campaign_file import load_and_warn
    from matterstack.cli.render import print_json
    from matterstack.simulation.rehearsal import rates_from, rehearse

    loaded = load_and_warn(file, settings, operators, quiet=as_json)
    given = rates_from(_read(rates, "--rates"), loaded.campaign.tasks)
    taken = _read(samples, "--samples") or {}
    if not isinstance(taken, dict):
        raise UsageError(f"--samples {samples}: expected a mapping of tasks")
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        found = rehearse(loaded, Path(folder), given, taken, time.time())
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    return ExitCode.FINE


def _read(path: str | None, option: str) -> Any:
    if path is None:
        return None
    from matterstack.spec.loader import load_document, plain

    if not Path(path).is_file():
        raise UsageError(f"{option} {path}: no such file")
    return plain(load_document(Path(path)).root)


def _show(found: Any) -> None:
    from matterstack.cli.render import harmless, table
    from matterstack.core.values import format_duration

    end = max(found.ends_s, 1.0)
    rows = []
    for line in found.lines:
        first = min(int(line.begins_s / end * _WIDTH), _WIDTH - 1)
        last = min(max(first + 1, round(line.ends_s / end * _WIDTH)), _WIDTH)
        bar = " " * first + ("~" if line.waits_for_people else "#") * (last - first)
        failed = f", {line.failures} failed" if line.failures else ""
        rows.append([
            harmless(line.task), str(line.instances), f"{line.attempts}{failed}", format_duration(line.begins_s), format_duration(line.ends_s),
            f"{line.cpu_hours:.4g}", f"|{bar.ljust(_WIDTH)}|",
        ])  # fmt: skip
    click.echo(f"{found.state} after {format_duration(found.ends_s)}, {found.cpu_hours:.4g} cpu-hours")
    if rows:
        click.echo(
            table(
                ["task", "instances", "attempts", "begins", "ends", "cpu-hours", "# work, ~ people"],
                rows,
                right=(1, 3, 4, 5),
            )
        )
    if found.people_alone_s > 0:
        share = found.people_alone_s / end
        click.echo(f"people alone are waited for {format_duration(found.people_alone_s)}, {share:.0%} of the time")
    for remark in found.remarks:
        click.echo(harmless(remark))
    for task, why in found.never:
        tell(f"never: {harmless(task)}: {harmless(why)}", "warning")
