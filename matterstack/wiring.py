"""Where the campaign file's format and the parts that know nothing of it meet: a ledger made anew needs the tasks again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.care import rebuild
from matterstack.core.model import LoadedCampaign


def _expand_run(root: Path, settings: Mapping[str, Any], files: frozenset[str]) -> LoadedCampaign:
    """Expand the campaign of a run root as `init` did: with the files that source/ had at first."""
    from matterstack.operators.registry import runnable_kinds
    from matterstack.spec.load import load_campaign

    return load_campaign(
        root / "campaign.yaml", operators=root / "operators.yaml", overrides=settings,
        installed_kinds=runnable_kinds(), folder=root / "source", only_files=files,
    )  # fmt: skip


rebuild.expand = _expand_run
