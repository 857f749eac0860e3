"""Who did what to a run, when and why: its events in words, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matterstack.core import events as e
from matterstack.core.reasons import Code
from matterstack.core.selection import in_short, names_task
from matterstack.core.states import AttemptState, TaskState
from matterstack.core.times import to_text
from matterstack.deferred import dataclass
from matterstack.storage.journal import Entry, Journal
from matterstack.text.reasons import sentence
from matterstack.views.reading import reading


@dataclass(frozen=True)
class Line:
    """One thing that happened; ``tasks`` are those that it concerned, none if it was the run."""

    at: float
    who: str  # user@host of a command of a person; "" for a step
    what: str
    why: str
    tasks: tuple[str, ...]

    grows: bool = False  # results have made tasks

    @property
    def is_of_a_step(self) -> bool:
        return not self.who and ", attempt " not in self.what

    def to_json(self) -> dict[str, Any]:
        return {
            "at": to_text(self.at), "who": self.who or None, "what": self.what, "why": self.why or None,
            "tasks": list(self.tasks),
        }  # fmt: skip


def history(root: str | Path, pattern: str | None = None, since: float | None = None) -> list[Line]:
    """Return what happened to a run, the oldest first; of some tasks with ``pattern``, a glob over ids."""
    with reading(root) as (path, store):
        lines = store.lines_after(0)
        entries = list(Journal(path).check(lines))
        found = list(_lines(path, entries))
    if since is not None:
        found = [line for line in found if line.at >= since]
    if pattern is not None:
        found = [line for line in found if any(names_task(pattern, task) for task in line.tasks)]
    return found


def _lines(root: Path, entries: Sequence[Entry]) -> Iterator[Line]:
    amended = 0.0
    for position, entry in enumerate(entries):
        event = entry.event
        if isinstance(event, e.Amended):
            amended = entry.at
        elif entry.at == amended and entry.who and isinstance(event, e.TasksChanged | e.RetriesReset | e.Wished):
            continue  # that event says it all
        what, tasks = _what(root, event, entry, entries[position + 1] if position + 1 < len(entries) else None)
        if what:
            why = event.why if isinstance(event, e.Rebuilt) else entry.why
            yield Line(entry.at, entry.who, what, why, tasks, isinstance(event, e.Expanded))


def _what(root: Path, event: e.Event, entry: Entry, following: Entry | None) -> tuple[str, tuple[str, ...]]:
    """Return what an event is in words, and of which tasks; "" for what only a program needs."""
    if isinstance(event, e.RunCreated):
        count = following.event.count if following is not None and isinstance(following.event, e.TasksAdded) else 0
        return f"version 1 of {event.name} begun: {count} task{'s' if count != 1 else ''}", ()
    if isinstance(event, e.Reused):
        return f"{event.count} results taken over from {event.run}", ()
    if isinstance(event, e.Amended):
        counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in event.counts.items())
        return f"version {event.version} taken{': ' + counts if counts else ''}", ()
    if isinstance(event, e.Expanded):
        what = f"round {event.round} begun" if event.round else "instances are known"
        return f"{event.task}: {what}: {event.count} task{'s' if event.count != 1 else ''}", (event.task,)
    if isinstance(event, e.Paused | e.Resumed):
        verb = "paused" if isinstance(event, e.Paused) else "resumed"
        return f"{verb} {in_short(event.tasks) or 'the run'}", event.tasks
    if isinstance(event, e.Cancelled | e.Uncancelled):
        return "cancelled the run" if isinstance(event, e.Cancelled) else "took the cancelling of the run back", ()
    if isinstance(event, e.Wished):
        tasks = tuple(task for task, _ in event.attempts)
        return f"asked to end {in_short(tasks)} ({event.wish})", tasks
    if isinstance(event, e.RerunUndone):
        return f"took the rerun of {in_short(event.tasks)} back", event.tasks
    if isinstance(event, e.TasksChanged):
        return _tasks_changed(event, entry), event.tasks
    if isinstance(event, e.AttemptChanged) and event.state not in (AttemptState.SUBMITTED, AttemptState.RUNNING):
        return _attempt_changed(root, event), (event.task,)
    if isinstance(event, e.Adopted | e.Moved | e.Rebuilt):
        verb = {"adopted": "adopted", "moved": "moved", "rebuilt": "ledger rebuilt"}[event.kind]
        return f"{verb}: at home on {event.host} in {event.path}", ()
    if isinstance(event, e.ParcelPacked):
        tasks = tuple(task for task, _ in event.attempts)
        verb = "unpacked" if event.undone else "packed"
        return f"{verb} {in_short(tasks)} in a parcel by {event.parcel.get('by')}", tasks
    if isinstance(event, e.ParcelReturned):
        tasks = tuple(task for task, _ in event.attempts)
        return f"{in_short(tasks)} came back in a parcel", tasks
    return "", ()


def _tasks_changed(event: e.TasksChanged, entry: Entry) -> str:
    """Return what became of tasks, where that was a person's doing or an end."""
    if event.state in (TaskState.READY, TaskState.PENDING) and not entry.who:
        return ""
    if event.state is TaskState.RETIRED and event.reason.code is Code.KNOWN:
        return ""  # what made its instances says it
    if event.state is TaskState.PENDING:
        return f"{'rerun' if event.rerun else 'to be decided anew:'} {in_short(event.tasks)}"
    return f"{in_short(event.tasks)}: {event.state}" + (f" ({sentence(event.reason)})" if event.reason else "")


def _attempt_changed(root: Path, event: e.AttemptChanged) -> str:
    if event.state is AttemptState.WAITING:
        return f"{event.task}, attempt {event.attempt}: asked"
    by = event.response.get("by") if event.response else None
    answered = f", answered by {by}" if by else ""
    why = f" ({sentence(event.reason, root)})" if event.reason and not by else ""
    return f"{event.task}, attempt {event.attempt}: {event.state}{answered}{why}"


def in_sum(lines: Sequence[Line]) -> list[Line]:
    """Return lines in which ends of attempts of steps that follow each other are counted, not listed."""
    out: list[Line] = []
    counts: Counter[str] = Counter()
    last: Line | None = None

    def flush() -> None:
        nonlocal last
        if last is not None:
            text = ", ".join(f"{count} {state}" for state, count in counts.items())
            out.append(Line(last.at, "", f"attempts: {text}", "", ()))
        counts.clear()
        last = None

    for line in lines:
        state = (
            line.what.rpartition(": ")[2].split()[0].rstrip(",") if ", attempt " in line.what and not line.who else ""
        )
        if state in ("COMPLETED", "FAILED", "CANCELLED", "LOST") and ", answered by " not in line.what:
            counts[state] += 1
            last = line
            continue
        if line.is_of_a_step and line.tasks and state not in ("COMPLETED", "FAILED") and not line.grows:
            continue  # BLOCKED or SKIPPED for what an attempt before it came to
        flush()
        out.append(line)
    flush()
    return out
