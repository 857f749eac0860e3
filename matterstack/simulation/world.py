"""What is outside of MatterStack: the clock, the disk of a run root, the work that operators do, and people.

The truth is here (what ran, how often, how it ended); MatterStack only learns what its operators tell it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from matterstack.deferred import dataclass
from matterstack.simulation.chance import Chance

Key = tuple[str, int]


class Killed(BaseException):
    """The process died here: nothing after it happens."""


@dataclass()
class Work:
    """What an attempt was handed over as, and what became of it."""

    handed_at: float
    claims_at: float | None  # when its worker claims the folder; None if it dies before
    runs_s: float
    exit_code: int
    started: int = 0  # how often the command ran
    began_at: float | None = None
    stopped_at: float | None = None  # from outside
    answer: str = ""  # of a person: "good", "bad" or "no"


@dataclass()
class Folder:
    """An attempt's folder."""

    claim: str = ""  # "", "worker" or "step"
    whole: bool = True  # task.json is there
    files: dict[str, str] = field(default_factory=dict)
    defect: str = ""


@dataclass()
class World:
    """``before`` is called with the name of each effect and may raise: a kill, or an error of the disk."""

    chance: Chance
    now: float = 1_800_000_000.0
    folders: dict[Key, Folder] = field(default_factory=dict)
    work: dict[Key, Work] = field(default_factory=dict)
    results: dict[str, Key] = field(default_factory=dict)  # path below results/ -> attempt
    journal: list[str] = field(default_factory=list)
    torn: str = ""  # an incomplete last line of the journal
    expanded: dict[str, str] = field(default_factory=dict)
    given_up: set[Key] = field(default_factory=set)  # attempts that an operator called gone
    raised_at: list[float] = field(default_factory=list)  # when an operator had a defect
    before: Callable[[str], None] = lambda effect: None

    # --- work ---

    def hand_over(self, key: Key, runs_s: float, exit_code: int) -> None:
        """Start the worker of an attempt; it claims the folder a little later, or dies before."""
        delay = self.chance.roll("claim delay", key) * 2
        dies = self.chance.happens(0.03, "worker dies", key)
        self.work[key] = Work(self.now, None if dies else self.now + delay, runs_s, exit_code)
        self.catch_up(key)

    def catch_up(self, key: Key) -> None:
        """Let happen what is due: a worker that comes to its claim runs its command, or finds it taken."""
        work = self.work.get(key)
        if work is None or work.began_at is not None or work.claims_at is None or self.now < work.claims_at:
            return
        folder = self.folders.get(key)
        if folder is None or folder.claim:
            work.claims_at = None  # it leaves without a trace
            return
        folder.claim = "worker"
        work.started += 1
        work.began_at = work.claims_at

    def ended_at(self, key: Key) -> float | None:
        """Return when the work of an attempt ended, None while it has not."""
        self.catch_up(key)
        work = self.work.get(key)
        if work is None or work.began_at is None:
            return None
        end = work.began_at + work.runs_s
        if work.stopped_at is not None:
            end = min(end, work.stopped_at)
        return end if end <= self.now else None

    def is_alive(self, key: Key) -> bool:
        """Return whether a process of an attempt is there: its worker, or its command."""
        self.catch_up(key)
        work = self.work.get(key)
        if work is None:
            return False
        if work.began_at is None:
            return work.claims_at is not None
        return self.ended_at(key) is None

    def stop(self, key: Key) -> None:
        work = self.work.get(key)
        if work is not None and work.stopped_at is None:
            work.stopped_at = self.now

    def exit_code(self, key: Key) -> int:
        work = self.work[key]
        assert work.began_at is not None
        cut = work.stopped_at is not None and work.stopped_at < work.began_at + work.runs_s
        return 143 if cut else work.exit_code
