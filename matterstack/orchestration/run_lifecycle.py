"""The life of a run: `initialize_run`, `step_run`, `run_until_done`."""

from __future__ import annotations

from pathlib import Path

from matterstack.orchestration.init import initialize_run
from matterstack.orchestration.loop import run_until_done
from matterstack.orchestration.report import StepReport
from matterstack.orchestration.session import open_ledger, open_to_write
from matterstack.orchestration.step import Step, take_step
from matterstack.run_root.layout import require_run_root

__all__ = ["StepReport", "initialize_run", "run_until_done", "step_run"]


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
    with open_to_write(path) as store:
        return take_step(path, store)
