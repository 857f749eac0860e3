"""The life of a run: `initialize_run`, `step_run`, `run_until_done`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matterstack.core.plan import Plan
from matterstack.errors import TICK
from matterstack.orchestration.beside import Beside
from matterstack.orchestration.edited import MOST_AT_A_STEP, in_words
from matterstack.orchestration.report import StepReport
from matterstack.orchestration.session import open_ledger, open_to_write
from matterstack.orchestration.step import Step, take_and_tell
from matterstack.run_root.layout import require_run_root

if TYPE_CHECKING:
    from matterstack.core.model import LoadedCampaign
    from matterstack.orchestration.fork import Fork
    from matterstack.orchestration.profile import Profile

log = logging.getLogger("matterstack")

__all__ = ["StepReport", "initialize_run", "run_until_done", "step_run"]


def initialize_run(campaign: LoadedCampaign, root: Path | None = None, fork: Fork | None = None) -> Path:
    """Make the run root of a campaign; see `orchestration.init` for what it raises."""
    from matterstack.orchestration import init  # an idle step needs neither this nor the loop

    return init.initialize_run(campaign, root, fork)


def run_until_done(
    root: str | Path,
    on_tick: Callable[[StepReport], None] | None = None,
    profile: Profile | None = None,
    *,
    wait: bool = False,
    only: Sequence[str] = (),
) -> StepReport:
    """Step a run until nothing more can be done here; see `orchestration.loop`."""
    from matterstack.orchestration import loop

    return loop.run_until_done(root, on_tick, profile, wait=wait, only=only)


def step_run(root: str | Path, *, dry_run: bool = False) -> StepReport:
    """Take one step of a run.

    With ``dry_run`` nothing is written, handed over or locked: the report says what a step would do.
    Raises RunLockedError at once if another process works on the run, LedgerError for a ledger that is refused,
    UsageError if ``root`` is not a run root, RunRootError if it cannot be written.
    """
    path = require_run_root(Path(root))
    if dry_run:
        with open_ledger(path, read_only=True) as store, store.snapshot():
            return Step(path, store).preview()
    report = _take(path)
    log.log(TICK, "%s", report.line())
    return report


def _take(root: Path) -> StepReport:
    beside, plans, told = Beside(), list[Plan](), list[str]()
    while True:
        with open_to_write(root, wait_s=3600.0 if plans else 0.0) as store:
            report = take_and_tell(Step(root, store, outcome_of=beside.outcome), told, plans)
            told = report.warnings
            if not beside.left:
                if edited := in_words(root, store, MOST_AT_A_STEP):
                    log.warning("%s", edited)
                return report
        beside.expand(root)
