"""Takes one step in which the wrapper of one task runs under strace, to be killed or refused at one of its calls.

    python traced_wrapper.py ROOT TASK STRACE...

strace -DDD traces from behind, from a session of its own: the wrapper stays the child and keeps its pid. Everything else is the real thing.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from matterstack.operators import local
from matterstack.orchestration.run_lifecycle import step_run

root, task, strace, *options = sys.argv[1:]
real = subprocess.Popen


def traced(argv: list[str], **keywords: Any) -> Any:
    ours = any(f"/tasks/{task}/attempt-" in word for word in argv)
    return real([strace, "-DDD", *options, "--", *argv] if ours else argv, **keywords)


local.subprocess.Popen = traced  # type: ignore[misc, assignment]
step_run(root)
