"""The loop of `run`: step, wait until something ends, step again; between steps the lock is free."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from matterstack.core.model import Campaign
from matterstack.core.states import RunState, TaskState
from matterstack.deferred import dataclass
from matterstack.errors import RunLockedError
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.report import StepReport
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import take_step
from matterstack.run_root.layout import require_run_root
from matterstack.storage.run_lock import somebody_waits

_LONGEST_WAIT_S = 2.0  # between looks at what other commands did
_PATIENCE_S = 1.0  # for which the loop stays away from the lock when somebody waits for it


@dataclass(frozen=True)
class _Tick:
    """One step with what wakes the loop after it; the descriptors are the loop's to close."""

    report: StepReport
    fds: Sequence[int]
    next_retry: float | None

    @property
    def is_last(self) -> bool:
        report = self.report
        waiting = report.counts.get(TaskState.WAITING, 0)  # nothing of these wakes the loop
        paused = report.state is RunState.PAUSED and report.active <= waiting
        return report.state.is_over or paused or (report.state is RunState.WAITING and not self.fds)

    def patience_s(self) -> float:
        if self.next_retry is None:
            return _LONGEST_WAIT_S
        return min(_LONGEST_WAIT_S, max(0.0, self.next_retry - time.time()) + 0.001)


def run_until_done(root: str | Path, on_tick: Callable[[StepReport], None] | None = None) -> StepReport:
    """Step a run until it is over, paused, or waits for people alone; return the last report.

    ``on_tick`` gets each report. Raises what `step_run` raises; a lock that is held later than at the start is waited
    for.
    """
    path = require_run_root(Path(root))
    campaigns: dict[int, Campaign] = {}
    last: StepReport | None = None
    in_vain = False  # the last tick was woken by something that a step cannot record, such as an unreadable file
    woken = False
    while True:
        try:
            tick = _tick(path, campaigns, last)
        except RunLockedError:
            if last is None:
                raise
            continue
        last = tick.report
        # What wakes the loop and lets a step change nothing would wake it again at once, for ever.
        in_vain = (woken or in_vain) and not tick.report.changed
        try:
            if on_tick is not None:
                on_tick(tick.report)
            if tick.is_last:
                return tick.report
            woken = _wait([] if in_vain else tick.fds, tick.patience_s())
        finally:
            for fd in tick.fds:
                os.close(fd)
        _give_way(path)


def _tick(root: Path, campaigns: dict[int, Campaign], last: StepReport | None) -> _Tick:
    with open_to_write(root, wait_s=0.0 if last is None else 3600.0) as store:
        store.keep_campaigns(campaigns)
        report = take_step(root, store, told=last.warnings if last is not None else ())
        files = RunFiles(root)
        live = store.live_attempts()
        fds = Pool(store).wake_fds(live, {row.key: files.folder(row.key) for row in live})
        return _Tick(report, fds, store.next_retry())


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
