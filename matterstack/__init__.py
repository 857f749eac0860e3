"""MatterStack runs long scientific campaigns from a YAML file: no server, every decision on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matterstack.version import __version__

__all__ = ["__version__", "initialize_run", "load_campaign", "open_run", "run_until_done", "step_run"]

if TYPE_CHECKING:
    from matterstack.api import initialize_run, load_campaign, open_run, run_until_done, step_run


def __getattr__(name: str) -> Any:
    # On use: `matterstack --version` and an idle step need nothing of it.
    if name in __all__:
        from matterstack import api

        return getattr(api, name)
    raise AttributeError(f"module 'matterstack' has no attribute '{name}'")
