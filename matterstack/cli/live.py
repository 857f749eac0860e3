"""The display of `matterstack run`: live on a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matterstack.cli.options import tell
from matterstack.cli.render import coloured, counts_text, harmless, plural
from matterstack.core.plan import Ended
from matterstack.core.states import SETTLED, AttemptState, RunState, TaskState
from matterstack.core.values import format_duration
from matterstack.hints import Hint
from matterstack.orchestration.profile import COMMANDS, HAND_OVER, LOOK, PEOPLE, RECORD, SLOTS, Profile
from matterstack.orchestration.report import StepReport
from matterstack.run_root.attempts import read_tail
from matterstack.text.reasons import sentence
from matterstack.views.failures import SAID_BY_US, alike

if TYPE_CHECKING:
    from rich.live import Live

_MOST_TOLD = 5
_MOST_RUNNING = 8
_BAR = 60  # columns
_LINE_EVERY_S = 5.0


class Display:
    """Shows the reports of a loop on stderr."""

    def __init__(self, root: Path, *, quiet: bool = False) -> None:
        self.root = root
        self.report: StepReport | None = None
        self.began = time.monotonic()
        self.active = 0
        self._finished = 0
        self._last_line = 0.0
        self._told: set[tuple[str, ...]] = set()  # causes of failures
        self._live: Live | None = None
        self.quiet = quiet

    def __enter__(self) -> Display:
        if sys.stderr.isatty() and not self.quiet and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True, highlight=False), get_renderable=self._render, refresh_per_second=4,
                transient=True,
            )  # fmt: skip
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, report: StepReport) -> None:
        self.report = report
        self.active = report.active
        for ended in report.ended:
            failed = ended.state in (AttemptState.FAILED, AttemptState.LOST)
            if failed and not (self.quiet and (ended.soft or not ended.task_state.is_settled)):
                self._tell_failure(ended)
        self._finished += sum(ended.task_state in SETTLED for ended in report.ended)
        if self._live is None and not self.quiet and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._say(f"{time.strftime('%H:%M:%S')}  {self._line()}")

    def _tell_failure(self, ended: Ended) -> None:
        """Tell of a failure, unless one of the same cause was told: those are counted, and told in the end."""
        tail = read_tail(self.root / "tasks" / ended.task_id / f"attempt-{ended.attempt}" / "stderr.log")
        foreign = [line for line in tail if not line.startswith(SAID_BY_US)]
        cause = (ended.task_id.partition("/")[0], str(ended.task_state), alike(foreign[-1] if foreign else ""),
                 alike(sentence(ended.reason).replace(ended.task_id, "")))  # fmt: skip
        if cause not in self._told:
            self._told.add(cause)
            self._say(self._failure(ended))

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, soft_wrap=True)
        else:
            tell(text, "info")

    def _failure(self, ended: Ended) -> str:
        what = "will be retried" if not ended.task_state.is_settled else "failed (allowed)" if ended.soft else "failed"
        folder = self.root / "tasks" / ended.task_id / f"attempt-{ended.attempt}"
        log = folder / "stderr.log" if os.path.exists(folder / "stderr.log") else folder  # people have no logs
        return harmless(f"{ended.task_id} {what}: attempt {ended.attempt}, {sentence(ended.reason, self.root)}; {log}")

    def _totals(self) -> tuple[int, int, int]:
        assert self.report is not None
        counts = self.report.counts
        return sum(counts.get(state, 0) for state in SETTLED), sum(counts.values()), counts.get(TaskState.FAILED, 0)

    def _line(self) -> str:
        assert self.report is not None
        done, total, failed = self._totals()
        left = self._time_left()
        completed = self.report.counts.get(TaskState.COMPLETED, 0)
        waiting = self.report.counts.get(TaskState.WAITING, 0)  # for people and labs
        running = self.report.active - waiting
        parts = [f"{completed} of {total} tasks completed", f"{running} running", f"{failed} failed"]
        if waiting:
            parts.insert(2, f"{waiting} waiting for people")
        if done > completed + failed:
            parts.append(f"{done - completed - failed} blocked, skipped or cancelled")
        if self.report.state is RunState.PAUSED:
            parts.append("paused")
        return ", ".join(parts) + (f", about {format_duration(left)} left" if left is not None else "")

    def _time_left(self) -> float | None:
        """Estimate from the tasks that ended in this loop: how long it took for each, times what is left."""
        done, total, _ = self._totals()
        if self._finished < 3 or done == total:
            return None
        return (time.monotonic() - self.began) / self._finished * (total - done)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        if self.report is None:
            return Text("…")
        done, total, _ = self._totals()
        filled = _BAR * done // (total or 1)
        now = time.time()
        running = self.report.live
        lines: list[Any] = [
            Text(self._line()),
            Text("━" * filled, style="green") + Text("━" * (_BAR - filled), style="dim"),
        ]
        for row in running[:_MOST_RUNNING]:
            since = format_duration(now - (row.started_at or row.created_at))
            lines.append(Text(f"  {harmless(row.task_id)}  {since}", style="cyan"))
        if len(running) > _MOST_RUNNING:
            lines.append(Text(f"  … and {len(running) - _MOST_RUNNING} more", style="cyan"))
        lines.append(Text("Ctrl-C ends this display and the loop; the jobs go on", style="dim"))
        return Group(*lines)


def print_profile(profile: Profile) -> None:
    """Print where the time of a loop went, on stdout."""
    total, own = profile.total_s, profile.own_s
    at_once = f", {profile.commands_s / total:.1f} at a time" if total else ""
    click.echo(f"{format_duration(total)} of this loop; {plural(profile.ended, 'attempt')} ended")
    click.echo(f"  commands ran {format_duration(profile.commands_s)} in all{at_once}")
    waits = {
        SLOTS: "waiting for slots (tasks were ready, and all slots taken)",
        COMMANDS: "waiting for commands (nothing else was ready)",
        PEOPLE: "waiting for people, or for a retry's delay",
    }
    parts = ", ".join(f"{name} {format_duration(profile.parts.get(name, 0.0))}" for name in (LOOK, RECORD, HAND_OVER))
    rows = [(text, profile.parts.get(name, 0.0)) for name, text in waits.items()]
    for text, seconds in [*rows, (f"MatterStack ({parts})", own)]:
        click.echo(f"  {format_duration(seconds):>10} {100 * seconds / total if total else 0:3.0f} %  {text}")


def summary(root: Path, report: StepReport) -> None:
    """Print how a loop ended, on stdout."""
    from matterstack.cli.render import failure_lines
    from matterstack.cli.status import limit_lines
    from matterstack.views.explain import explain_first
    from matterstack.views.failures import failure_groups
    from matterstack.views.status import summarise

    view = summarise(root, 0)
    click.echo(f"{coloured(str(report.state))}: {counts_text(view.counts)}")
    failed = view.counts.get(TaskState.FAILED, 0)
    groups = failure_groups(root) if failed else []
    for group in groups[:_MOST_TOLD]:
        for line in failure_lines(root, group):
            click.echo(f"  {line}")
    if len(groups) > _MOST_TOLD:
        rest = groups[_MOST_TOLD:]
        click.echo(f"  … and {sum(len(group.tasks) for group in rest)} more, for {plural(len(rest), 'other cause')}")
    limit = limit_lines(view)
    for line in limit:
        click.echo(f"  {line}")
    if limit:
        pass  # that is what to do
    elif report.state is RunState.PAUSED and view.paused:
        names = " ".join(shlex.quote(task_id) for task_id in view.paused[:_MOST_TOLD])
        more = f" (and {len(view.paused) - _MOST_TOLD} more)" if len(view.paused) > _MOST_TOLD else ""
        click.echo(f"  {Hint('resume', root, rest=names)} starts the tasks that are paused{more}")
    elif report.state is RunState.PAUSED:
        click.echo(f"  {Hint('resume', root)} starts the rest, or {Hint('explain', root)} says what is paused")
    elif report.counts.get(TaskState.WAITING) and not report.state.is_over:
        if report.startable:
            click.echo(f"  {plural(report.startable, 'ready task')} of theirs will be asked as `max_active` allows")
        for item in explain_first(root, TaskState.WAITING, _MOST_TOLD):
            click.echo(harmless(f"  {item.task_id} {item.reason}" + (f"; {item.hint}" if item.hint else "")))
        click.echo(f"  {Hint('inbox', root)} lists what waits for people")
    elif report.state is not RunState.COMPLETED:
        click.echo(f"  {Hint('explain', root)} says what is missing and what to type")
    if view.stale:
        what = f"{plural(view.stale, 'result')} {'is' if view.stale == 1 else 'are'} stale"
        click.echo(f"  {what}; nothing is rerun automatically: {Hint('status', root)}")
    if report.counts.get(TaskState.COMPLETED):
        made = plural(report.counts[TaskState.COMPLETED], "task")
        click.echo(f"  results of {made}: {root}/results/, {Hint('results', root)}")
