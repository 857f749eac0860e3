"""What a task costs, in counts that no machine changes: process starts and what is left on the disk."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import MATTERSTACK

TASKS = 40


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_task_costs_one_exec_and_a_slot_one_worker(bench):
    bench.start(
        "operators: {local: {kind: local, max_active: 2}}\n"
        f"tasks: {{a: {{matrix: {{i: {list(range(TASKS))}}}, shell: sh, command: 'echo ${{{{ matrix.i }}}} > out', "
        "outputs: {o: {path: 'o/${{ matrix.i }}', file: out}}}}\n"
    )
    trace = bench.folder / "trace"

    subprocess.run(
        ["strace", "-f", "-qq", "-o", trace, "-e", "trace=execve", *MATTERSTACK, "run", bench.root],
        check=True, capture_output=True,
    )  # fmt: skip

    begun = [line for line in trace.read_text().splitlines() if " = -1 " not in line]
    programs = [match[1] for line in begun if (match := re.search(r'execve\("([^"]+)"', line))]
    shells = [path for path in programs if path.endswith("/sh")]
    assert len(shells) == TASKS
    assert len(programs) - len(shells) <= 5  # matterstack itself, and two workers, or a third while one still answers


def test_what_a_settled_task_leaves_on_the_disk(bench):
    bench.start(
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'echo 1 > out', "
        "outputs: {o: {path: 'o/${{ matrix.i }}', file: out}}}}\n"
    )
    bench.step_until_over()

    left = sorted(
        path.relative_to(bench.root / "tasks/a/1").as_posix() for path in (bench.root / "tasks/a/1").rglob("*")
    )
    assert left == [
        "attempt-1", "attempt-1/claim", "attempt-1/command.sh", "attempt-1/exit.json", "attempt-1/out",
        "attempt-1/outputs.sha256", "attempt-1/task.json",
    ]  # with the folder of the task and its link in results/, nine inodes  # fmt: skip
