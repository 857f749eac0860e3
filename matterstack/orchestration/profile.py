"""Where the time of a loop went: its parts, what it waited for, and how long commands ran."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from matterstack.core.states import TaskState
from matterstack.orchestration.report import StepReport

SLOTS, COMMANDS, PEOPLE = "for slots", "for commands", "for people"
LOOK, RECORD, HAND_OVER = "looking and deciding", "recording", "handing over"


class Profile:
    """Seconds of wall clock by part; a part within another counts for itself alone."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.parts: dict[str, float] = {}
        self.ended = 0
        self.commands_s = 0.0  # of all attempts that ended, in sum
        self._within: list[tuple[str, float]] = []  # part, since when

    @property
    def total_s(self) -> float:
        return time.monotonic() - self.began

    @property
    def own_s(self) -> float:
        """What is left if all waiting is taken away."""
        return self.total_s - sum(self.parts.get(name, 0.0) for name in (SLOTS, COMMANDS, PEOPLE))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        now = time.monotonic()
        if self._within:
            self._count(now)
        self._within.append((name, now))
        try:
            yield
        finally:
            now = time.monotonic()
            self._count(now)
            self._within.pop()
            if self._within:
                self._within[-1] = (self._within[-1][0], now)

    def _count(self, now: float) -> None:
        name, since = self._within[-1]
        self.parts[name] = self.parts.get(name, 0.0) + now - since

    def note(self, report: StepReport) -> None:
        self.ended += len(report.ended)
        self.commands_s += sum(item.seconds or 0.0 for item in report.ended)


def part_of(profile: Profile | None, name: str) -> AbstractContextManager[None]:
    """Return what counts the time of its body, nothing without a profile."""
    return profile.part(name) if profile is not None else nullcontext()


def waits_for(report: StepReport) -> str:
    """Return what a loop waits for after a step."""
    if report.startable > 0:
        return SLOTS
    return COMMANDS if report.active > report.counts.get(TaskState.WAITING, 0) else PEOPLE
