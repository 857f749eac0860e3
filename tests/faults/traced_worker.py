"""Takes one step in which the worker of one task runs under strace, to be killed or refused at one of its calls.

    python traced_worker.py ROOT TASK STRACE...

strace -DDD traces from behind, from a session of its own: the worker stays the child and keeps its pid. Everything else is the real thing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from matterstack.operators.workers import Key, Worker, Workers
from matterstack.orchestration.run_lifecycle import step_run

root, task, strace, *options = sys.argv[1:]
run, spawn = Workers.run, os.posix_spawn
wanted: list[str] = []


def noted(self: Workers, key: Key, fields: Sequence[bytes]) -> Worker:
    wanted[:] = [key[0]]
    if wanted != [task]:
        return run(self, key, fields)
    idle, self._idle = self._idle, []  # one that has just answered is not traced: it gets a worker of its own
    self._collect = lambda: None  # type: ignore[method-assign]
    try:
        return run(self, key, fields)
    finally:
        del self._collect  # type: ignore[method-assign]
        self._idle += idle


def traced(path: str, argv: Sequence[str], env: Any, **keywords: Any) -> int:
    if wanted == [task]:
        path = str(shutil.which(strace))
        argv = [path, "-DDD", *options, "--", *argv]
    return spawn(path, argv, env, **keywords)


Workers.run = noted  # type: ignore[method-assign]
os.posix_spawn = traced  # type: ignore[assignment]
step_run(root)
