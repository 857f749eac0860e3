"""What an operator may still take: `max_active`, cpus, memory and GPUs in sum."""

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
    gpus: int | None = None


class Use:
    """What live attempts use of cpus and memory: of one operator, or of all that work on the same machine."""

    def __init__(self, live: Iterable[AttemptRow]) -> None:
        self.active, self.cpus, self.memory, self.gpus = 0, 0, 0, 0
        for row in live:
            self.add(row.cpus, row.memory, row.gpus)

    def add(self, cpus: int, memory: int | None, gpus: int) -> None:
        self.active += 1
        self.cpus += cpus
        self.memory += memory or 0
        self.gpus += gpus


class Slots:
    """What an operator may still take, of its own and, with ``shared``, of what others of its machine use as well.

    The first task that does not fit ends the choice: nothing of lower priority overtakes it, so that a large task
    cannot starve. One that is larger than all cpus or memory runs alone; one that asks for more GPUs than there are never
    starts, and ends no choice.
    """

    def __init__(self, capacity: Capacity, live: Iterable[AttemptRow], shared: Use | None = None) -> None:
        self.capacity = capacity
        own = list(live)
        self.active = len(own)
        self.use = shared if shared is not None else Use(own)

    def full(self) -> bool:
        """Return whether not even the smallest task fits."""
        if self.capacity.most is not None and self.active >= self.capacity.most:
            return True
        return self.capacity.cpus is not None and self.use.active > 0 and self.use.cpus >= self.capacity.cpus

    def bound(self) -> int:
        """Return how many more tasks could possibly fit."""
        bounds = [MOST_AT_ONCE]
        if self.capacity.most is not None:
            bounds.append(self.capacity.most - self.active)
        if self.capacity.cpus is not None:
            bounds.append(max(1, self.capacity.cpus - self.use.cpus))
        return max(0, min(bounds))

    def fits(self, resources: Resources) -> bool:
        if self.full():
            return False
        if self.capacity.gpus is not None and resources.gpus and self.use.gpus + resources.gpus > self.capacity.gpus:
            return False
        if self.use.active == 0:
            return True
        if self.capacity.cpus is not None and self.use.cpus + resources.cores > self.capacity.cpus:
            return False
        return self.capacity.memory is None or self.use.memory + (resources.memory or 0) <= self.capacity.memory

    def never(self, resources: Resources) -> bool:
        """Return whether a task does not fit even when nothing else runs: what there is of GPUs cannot be exceeded."""
        return self.capacity.gpus is not None and resources.gpus > self.capacity.gpus

    def take(self, resources: Resources) -> None:
        self.active += 1
        self.use.add(resources.cores, resources.memory, resources.gpus)

    def describe(self) -> str:
        """Return what is in use, for `explain`."""
        most, cpus = self.capacity.most, self.capacity.cpus
        parts = [f"{self.active} of {most} active"] if most is not None else [f"{self.active} active"]
        if cpus is not None:
            parts.append(f"{self.use.cpus} of {cpus} cpus in use")
        return ", ".join(parts)
