"""What an operator may still take: `max_active`, cpus and memory in sum."""

from __future__ import annotations

from collections.abc import Iterable

from matterstack.core.model import Resources
from matterstack.core.recorded import AttemptRow
from matterstack.deferred import dataclass

MOST_AT_ONCE = 10_000  # tasks looked at in one step


@dataclass(frozen=True)
class Capacity:
    """The most that all live attempts of an operator may use; None means no limit. Memory in bytes."""

    most: int | None = None
    cpus: int | None = None
    memory: int | None = None


class Slots:
    """The first task that does not fit ends the choice: nothing of lower priority overtakes it, so that a large task
    cannot starve. One that is larger than everything runs alone.
    """

    def __init__(self, capacity: Capacity, live: Iterable[AttemptRow]) -> None:
        self.capacity = capacity
        self.active, self.cpus, self.memory = 0, 0, 0
        for row in live:
            self.active += 1
            self.cpus += row.cpus
            self.memory += row.memory or 0

    def full(self) -> bool:
        """Return whether not even the smallest task fits."""
        if self.capacity.most is not None and self.active >= self.capacity.most:
            return True
        return self.capacity.cpus is not None and self.active > 0 and self.cpus >= self.capacity.cpus

    def bound(self) -> int:
        """Return how many more tasks could possibly fit."""
        bounds = [MOST_AT_ONCE]
        if self.capacity.most is not None:
            bounds.append(self.capacity.most - self.active)
        if self.capacity.cpus is not None:
            bounds.append(max(1, self.capacity.cpus - self.cpus))
        return max(0, min(bounds))

    def fits(self, resources: Resources) -> bool:
        if self.full():
            return False
        if self.active == 0:
            return True
        if self.capacity.cpus is not None and self.cpus + resources.cpus > self.capacity.cpus:
            return False
        return self.capacity.memory is None or self.memory + (resources.memory or 0) <= self.capacity.memory

    def take(self, resources: Resources) -> None:
        self.active += 1
        self.cpus += resources.cpus
        self.memory += resources.memory or 0

    def describe(self) -> str:
        """Return what is in use, for `explain`."""
        most, cpus = self.capacity.most, self.capacity.cpus
        parts = [f"{self.active} of {most} active"] if most is not None else [f"{self.active} active"]
        if cpus is not None:
            parts.append(f"{self.cpus} of {cpus} cpus in use")
        return ", ".join(parts)
