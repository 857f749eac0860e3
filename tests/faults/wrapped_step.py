"""Takes one step whose jobs run under strace, so that the wrapper of a job can be killed at one of its system calls.

    python wrapped_step.py ROOT TRACE [INJECT]

strace -D traces from behind: the wrapper stays the child and keeps its pid. Everything else is the real thing.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from matterstack.operators import local
from matterstack.orchestration.run_lifecycle import step_run
from tests.faults.harness import CHANGING

root, trace, *inject = sys.argv[1:]
real = subprocess.Popen


def traced(argv: list[str], **options: Any) -> Any:
    strace = ["strace", "-D", "-q", "-y", "-s", "0", "-o", trace, "-e", f"trace={','.join(CHANGING)},dup2"]
    return real([*strace, *(f"--inject={text}" for text in inject), "--", *argv], **options)


local.subprocess.Popen = traced  # type: ignore[misc, assignment]
step_run(root)
