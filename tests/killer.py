"""Runs one step and kills itself with SIGKILL at the N-th boundary between ledger, journal, disk and operator.

    python killer.py ROOT N          exit 0 if there is no N-th boundary
    python killer.py ROOT N STOP     stops itself there with SIGSTOP instead

A boundary is the moment before or after each of the calls below. The calls are the real ones.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from matterstack.operators.local import LocalOperator
from matterstack.orchestration import files, run_lifecycle
from matterstack.orchestration.files import RunFiles
from matterstack.storage.journal import Journal
from matterstack.storage.state_store import SQLiteStateStore

root, kill_at = sys.argv[1], int(sys.argv[2])
SIGNAL = signal.SIGSTOP if sys.argv[3:] == ["STOP"] else signal.SIGKILL
passed = 0


def boundary() -> None:
    global passed
    passed += 1
    if passed == kill_at:
        os.kill(os.getpid(), SIGNAL)


def watch(owner: Any, name: str) -> None:
    call: Callable[..., Any] = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        boundary()
        result = call(*args, **kwargs)
        boundary()
        return result

    setattr(owner, name, watched)


for owner, name in (
    (SQLiteStateStore, "append"),
    (SQLiteStateStore, "write"),  # within it: all statements are made, nothing is committed
    (Journal, "append"),
    (RunFiles, "make_folder"),
    (files, "create_attempt_folder"),
    (RunFiles, "publish"),
    (LocalOperator, "submit"),
    (LocalOperator, "_start"),  # a static call within submit: each single start
    (LocalOperator, "observe"),
    (LocalOperator, "recover"),
):
    watch(owner, name)

run_lifecycle.step_run(root)
print(passed)
