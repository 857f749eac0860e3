"""The Python API: what `from matterstack import …` gives, and what the command line is built on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.model import LoadedCampaign
from matterstack.errors import UsageError
from matterstack.orchestration import run_lifecycle
from matterstack.orchestration.run_lifecycle import StepReport
from matterstack.views.status import RunView, open_run

__all__ = ["StepReport", "initialize_run", "load_campaign", "open_run", "run_until_done", "step_run"]


def load_campaign(
    file: str | Path, *, operators: str | Path | None = None, params: Mapping[str, Any] | None = None
) -> LoadedCampaign:
    """Read, check and expand a campaign file; ``params`` replace those of the file.

    Raises CampaignError with all problems of the file.
    """
    from matterstack.operators.registry import runnable_kinds
    from matterstack.spec.load import load_campaign as load

    return load(file, operators=operators, overrides=params, installed_kinds=runnable_kinds(), to_run=True)


def initialize_run(
    campaign: LoadedCampaign | str | Path,
    root: str | Path | None = None,
    *,
    operators: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
) -> RunView:
    """Make a run root (default: `runs/<name>` in the current folder) of a campaign or its file.

    Raises CampaignError for a file with problems, UsageError if the folder is not empty, RunLockedError if a process
    works in it.
    """
    if isinstance(campaign, LoadedCampaign) and (operators is not None or params is not None):
        raise UsageError("operators and params go with load_campaign, where a loaded campaign is given")
    loaded = (
        campaign
        if isinstance(campaign, LoadedCampaign)
        else load_campaign(campaign, operators=operators, params=params)
    )
    return open_run(run_lifecycle.initialize_run(loaded, Path(root) if root is not None else None))


def step_run(run: RunView | str | Path, *, dry_run: bool = False) -> StepReport:
    """Carry a run one step further; see `run_lifecycle.step_run` for what it raises."""
    return run_lifecycle.step_run(run.root if isinstance(run, RunView) else run, dry_run=dry_run)


def run_until_done(run: RunView | str | Path, on_tick: Callable[[StepReport], None] | None = None) -> StepReport:
    """Step a run until it is over, paused, or waits for people alone; return the last report."""
    return run_lifecycle.run_until_done(run.root if isinstance(run, RunView) else run, on_tick)
