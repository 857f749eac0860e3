"""The loop of `run`: step, wait until something ends, step again; while nothing happens the lock is free."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from matterstack.core.below import below
from matterstack.core.model import Campaign
from matterstack.core.plan import Ahead
from matterstack.core.selection import select_tasks
from matterstack.core.states import AttemptState, RunState, TaskState
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, RunLockedError, UsageError
from matterstack.operators import workers
from matterstack.orchestration.beside import Beside
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.profile import Profile, part_of, waits_for
from matterstack.orchestration.report import StepReport
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step, take_and_tell
from matterstack.run_root.layout import LEDGER, attempt_folder, require_run_root
from matterstack.storage.run_lock import somebody_waits
from matterstack.storage.state_store import SQLiteStateStore

_LONGEST_WAIT_S = 2.0  # between looks at what other commands did
_MOST_AHEAD = 32  # intents on record before there is room for them
_HOLD_S = 0.1  # for which the lock is kept although nothing happens
_GROUP_S = 0.05  # after which what was seen is committed, also while more comes
_LONGEST_QUIET_S = 10.0  # without a step: deadlines pass, and clocks are wrong
_FRESH_S = 10.0  # for which a folder that changed may change again without showing it: a file is still being written
_PATIENCE_S = 1.0  # for which the loop stays away from the lock when somebody waits for it


@dataclass(frozen=True)
class _Tick:
    """One step with what wakes the loop after it; the descriptors are the loop's to close."""

    report: StepReport
    fds: Sequence[int]
    next_retry: float | None
    must_ask: bool  # something is alive of which neither a descriptor nor a file tells
    waits: bool = False  # for people and labs as well
    in_part: bool = False  # only some tasks may start

    @property
    def is_last(self) -> bool:
        report = self.report
        if self.waits:
            idle = report.state is RunState.PAUSED or (report.is_stuck and self.next_retry is None)
            return report.state.is_over or (idle and not report.active)
        waiting = report.counts.get(TaskState.WAITING, 0)  # nothing of these wakes the loop
        if self.in_part and not (report.startable or report.unlooked or self.next_retry):
            return report.state.is_over or report.active <= waiting
        paused = report.state is RunState.PAUSED and report.active <= waiting
        stuck = report.is_stuck and self.next_retry is None
        # What is ready beside people and labs alone is theirs as well, and waits for their `max_active`.
        capped = 0 < report.active <= waiting and not report.changed and self.next_retry is None and not self.fds
        asked = report.state is RunState.WAITING or (capped and report.startable > 0 and report.unlooked == 0)
        return report.state.is_over or paused or stuck or (asked and not self.fds)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def patience_s(self) -> float:
        if self.next_retry is None:
            return _LONGEST_WAIT_S
        return min(_LONGEST_WAIT_S, max(0.0, self.next_retry - time.time()) + 0.001)


class _Loop:
    """A loop over a run. While one end follows the other it keeps the lock and the ledger; when nothing happens for a
    moment, or somebody waits for the lock, it lets both go."""

    def __init__(
        self,
        root: Path,
        on_tick: Callable[[StepReport], None] | None,
        profile: Profile | None = None,
        *,
        wait: bool = False,
        only: Sequence[str] = (),
    ) -> None:
        self.only = only  # ids or globs of tasks; with what they need
        self.root = root
        self.waits = wait
        self.profile = profile
        self.on_tick = on_tick
        self.campaigns: dict[int, Campaign] = {}
        self.last: StepReport | None = None
        self.ahead = Ahead()  # whose running attempts are known from one hold of the ledger to the next
        self.seen: dict[str, int] = {}  # `_traces` when the ledger was let go
        self.woken = False
        self.beside = Beside()
        # Whether the last tick was woken by something that a step cannot record, such as an unreadable file.
        self.in_vain = False

    def run(self) -> StepReport:
        while True:
            try:
                with open_to_write(self.root, wait_s=0.0 if self.last is None else 3600.0) as store:
                    store.keep_campaigns(self.campaigns)
                    tick = self._hold(store)
            except RunLockedError:
                if self.last is None:
                    raise
                continue
            try:
                if self.beside.left:
                    self.beside.expand(self.root)
                    continue
                if tick.is_last:
                    return tick.report
                _give_way(self.root)
                self._until_woken(tick)
            finally:
                tick.close()

    def _until_woken(self, tick: _Tick) -> None:
        """Wait, without the lock, until there may be something to do."""
        began = time.monotonic()
        while True:
            fds = [*self._others(tick), *workers.here().wakers()]
            self.woken = self._wait(tick, fds, tick.patience_s())
            if self.woken or tick.must_ask or tick.patience_s() < _LONGEST_WAIT_S:
                return
            if time.monotonic() - began > _LONGEST_QUIET_S or _is_fresh(self.seen):
                return
            if _traces(self.root, tick.report) != self.seen:
                return

    def _hold(self, store: SQLiteStateStore) -> _Tick:
        """Tick as long as there is something to do; return the last tick. What was recorded is committed by then."""
        pool, files, ahead = Pool(store), RunFiles(self.root), self.ahead
        chosen = with_what_they_need(store, self.only) if self.only else frozenset()
        grows = bool(self.only) and store.newest_campaign().has_unknown

        def choose() -> frozenset[str]:
            return with_what_they_need(store, self.only) if grows else chosen

        def step() -> Step:
            return Step(
                self.root, store, pool=pool, files=files, ahead=ahead, ended=workers.here().ended, profile=self.profile,
                only=choose if self.only else None, outcome_of=self.beside.outcome,
            )  # fmt: skip

        step().withdraw()
        try:
            tick = self._ticks(store, step, ahead)
        except BaseException:  # also Ctrl-C: what did not start is taken back, and the first error is the one to report
            with suppress(MatterStackError):
                step().record_handed()
                step().withdraw(ahead.intents)
                store.flush()
            raise
        try:
            step().record_handed()
            step().withdraw(ahead.intents)
            ahead.intents.clear()
            store.flush()
            self.seen = _traces(self.root, tick.report)  # as long as nobody else can change the ledger
        except BaseException:  # also Ctrl-C: the descriptors are the loop's to close
            tick.close()
            raise
        return tick

    def _ticks(self, store: SQLiteStateStore, step: Callable[[], Step], ahead: Ahead) -> _Tick:
        ended: deque[float] = deque(maxlen=_MOST_AHEAD)
        while True:
            now = time.monotonic()
            # As many as ended in the last second: where tasks take long, nothing needs to be on record early.
            ahead.most = sum(now - at < 1.0 for at in ended)
            tick = self._tick(store, step())
            ended.extend([now] * len(tick.report.ended))
            try:
                if tick.is_last:
                    store.flush()
                if self.on_tick is not None:
                    self.on_tick(tick.report)
                if (
                    self.beside.left
                    or tick.is_last
                    or somebody_waits(self.root)
                    or not self._until_due(store, step, ahead, tick)
                ):
                    return tick
            except BaseException:  # as above
                tick.close()
                raise
            tick.close()

    def _until_due(self, store: SQLiteStateStore, step: Callable[[], Step], ahead: Ahead, tick: _Tick) -> bool:
        """Wait until a tick is due; return whether one is, before nothing has happened for a while.

        Until then what is on record starts in the place of what ended. What has happened is recorded after `_GROUP_S`, or
        before the queue is empty.
        """
        began = time.monotonic()
        others = self._others(tick)
        while True:
            step().refill()
            fds = [*others, *workers.here().wakers()]
            low = tick.report.startable > 0 and 2 * len(ahead.intents) < ahead.most
            if ahead.free or (ahead.replaced and low):
                return True
            spent = time.monotonic() - began
            self.woken = self._wait(tick, fds, max(0.0, _GROUP_S - spent) if ahead.handed else 0.0)
            if not self.woken and ahead.handed:
                return True
            if not self.woken:
                store.flush()
                self.woken = self._wait(tick, fds, min(_HOLD_S, tick.patience_s()))
            if not self.woken or (others and _wait(others, 0.0)):
                return self.woken
            if time.monotonic() - began > _GROUP_S:
                return True

    def _tick(self, store: SQLiteStateStore, step: Step) -> _Tick:
        workers.here().collect()  # also where no attempt of this machine is left to be asked about
        step.pool.notices.clear()
        report = take_and_tell(step, self.last.warnings if self.last is not None else ())
        ours = step.ahead.running if step.ahead is not None else {}  # their workers answer
        others = [row for row in report.live if row.key not in ours]
        fds = step.pool.wake_fds(others, {row.key: step.files.folder(row.key) for row in others})
        # What wakes the loop and lets a step change nothing would wake it again at once, for ever.
        self.in_vain = (self.woken or self.in_vain) and not report.changed
        self.last = report
        if self.profile is not None:
            self.profile.note(report)
        told = sum(row.state is not AttemptState.WAITING for row in others)
        must_ask = told > len(fds)
        return _Tick(report, fds, store.next_retry(), must_ask, self.waits, step.only is not None)

    def _wait(self, tick: _Tick, fds: Sequence[int], wait_s: float) -> bool:
        with part_of(self.profile, waits_for(tick.report)):
            return _wait(fds, wait_s)

    def _others(self, tick: _Tick) -> Sequence[int]:
        """Return what wakes the loop beside the answers of workers."""
        return [] if self.in_vain else tick.fds


def _traces(root: Path, report: StepReport) -> dict[str, int]:
    """Return when the ledger, and the folders in which people and labs answer, changed last, in ns; 0 where there is none."""
    asked = [attempt_folder(*row.key) for row in report.live if row.state is AttemptState.WAITING]
    return {name: _changed_at(f"{root}/{name}") for name in (LEDGER, *asked)}


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _is_fresh(seen: Mapping[str, int]) -> bool:
    """Return whether one of the folders changed so lately that a file in it may still be being written."""
    return max((at for name, at in seen.items() if name != LEDGER), default=0) > (time.time() - _FRESH_S) * 1e9


def run_until_done(
    root: str | Path,
    on_tick: Callable[[StepReport], None] | None = None,
    profile: Profile | None = None,
    *,
    wait: bool = False,
    only: Sequence[str] = (),
) -> StepReport:
    """Step a run until it is over, paused, or waits for people alone; return the last report.

    With ``only``, ids or globs, nothing but these tasks and what they need is started. With ``wait`` it waits for people and labs as well. ``on_tick`` gets each report; ``profile`` is told where the time goes. Raises what `step_run` raises; a lock that is
    held later than at the start is waited for.
    """
    with workers.kept():
        return _Loop(require_run_root(Path(root)), on_tick, profile, wait=wait, only=only).run()


def with_what_they_need(store: SQLiteStateStore, patterns: Sequence[str]) -> frozenset[str]:
    """Return the tasks that ids or globs name, and all above them. Raises UsageError for one that names nothing."""
    known = store.task_ids()
    open_ = {row.task_id for row in store.plans()} if store.newest_campaign().has_unknown else set()
    later = [pattern for pattern in patterns if pattern.partition("/")[0] in open_]  # what it names may be made yet
    chosen = (
        select_tasks(known, [pattern for pattern in patterns if pattern not in later])
        if len(later) < len(patterns)
        else []
    )
    for pattern in later:
        with suppress(UsageError):
            chosen += select_tasks(known, [pattern])
        chosen += [name for name in (pattern.partition("/")[0],) if name in known]
    above = below(((downstream, upstream) for upstream, downstream in store.all_edges()), chosen)
    return frozenset({*chosen, *(row.task_id for row in store.tasks(above))})


def _wait(fds: Sequence[int], wait_s: float) -> bool:
    """Wait until one of the descriptors becomes readable, at most ``wait_s``; return whether one did."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, round(wait_s * 1000))))


def _give_way(root: Path) -> None:
    """Stay away from the lock while somebody waits for it."""
    deadline = time.monotonic() + _PATIENCE_S
    while somebody_waits(root) and time.monotonic() < deadline:
        time.sleep(0.005)
