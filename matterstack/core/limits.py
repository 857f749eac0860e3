"""Limits of a whole run: what may run at once, and what it may use up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field

from matterstack.core.model import Resources
from matterstack.core.reasons import Code, Reason, reason
from matterstack.core.recorded import AttemptRow, RunRow
from matterstack.deferred import dataclass


@dataclass(frozen=True)
class Limits:
    """None means no limit. `max_active` and licences restrict what runs at the same time; the others pause the run."""

    max_active: int | None = None
    licences: Mapping[str, int] = field(default_factory=dict)
    cpu_hours: float | None = None
    attempts: int | None = None
    max_failures: int | None = None


@dataclass(frozen=True)
class Spent:
    """What the attempts of a run have used so far: those that were handed over, and of those that ended cpus x time."""

    attempts: int
    cpu_s: float


class Budget:
    """What a run may still start, as far as its limits go; attempts that are alive count with their full time limit."""

    def __init__(
        self, limits: Limits, run: RunRow, spent: Spent, alive: Iterable[AttemptRow], failures: int, now: float
    ) -> None:
        self.limits = limits
        self.over = run.over  # somebody has said to go on
        self.active = 0
        self.licences: dict[str, int] = {}
        self.attempts = spent.attempts
        self.used_s = spent.cpu_s  # up to now
        self.reserved_s = spent.cpu_s  # at most, when all that is alive has ended
        self.failures = failures - run.failures_before
        for row in alive:
            elapsed = max(0.0, now - (row.started_at or row.created_at)) * row.cpus
            self.used_s += elapsed
            self.reserved_s += max(elapsed, (row.time_s or 0.0) * row.cpus)
            self._take(row.licences)

    def _take(self, licences: Mapping[str, int]) -> None:
        self.active += 1
        for name, count in licences.items():
            self.licences[name] = self.licences.get(name, 0) + count

    def failed(self) -> Reason | None:
        """Return why the run must not go on at all, even if nothing is to start; None if it may."""
        most = self.limits.max_failures
        if most is not None and self.failures >= most and not self.over:
            return reason(Code.LIMIT_FAILURES, failures=self.failures, most=most)
        return None

    def refuses(self, resources: Resources) -> Reason | None:
        """Return why the run must not go on to this task, None if it may, or has to wait for what runs."""
        found, most_attempts = self.failed(), self.limits.attempts
        if found is None and most_attempts is not None and self.attempts >= most_attempts and not self.over:
            found = reason(Code.LIMIT_ATTEMPTS, attempts=self.attempts, most=most_attempts)
        if found is not None or self.over or self.limits.cpu_hours is None:
            return found
        need = (resources.time_s or 0.0) * resources.cores
        most = self.limits.cpu_hours * 3600.0
        if self.used_s + need <= most and self.used_s < most:
            return None
        return reason(
            Code.LIMIT_CPU_HOURS,
            used=round(self.used_s / 3600, 3),
            most=self.limits.cpu_hours,
            next=round(need / 3600, 3),
        )

    def is_full(self) -> bool:
        return self.limits.max_active is not None and self.active >= self.limits.max_active

    def fits(self, resources: Resources) -> bool:
        """Return whether a task may start beside what runs."""
        if self.is_full() or self.lacking(resources):
            return False
        if self.over or self.limits.cpu_hours is None:
            return True
        need = (resources.time_s or 0.0) * resources.cores
        return self.reserved_s + need <= self.limits.cpu_hours * 3600.0

    def lacking(self, resources: Resources) -> str:
        """Return the licence that a task has to wait for, "" for none."""
        for name, count in resources.licences.items():
            most = self.limits.licences.get(name)
            if most is not None and self.licences.get(name, 0) + count > most:
                return name
        return ""

    def take(self, resources: Resources) -> None:
        self.attempts += 1
        self.reserved_s += (resources.time_s or 0.0) * resources.cores
        self._take(resources.licences)
