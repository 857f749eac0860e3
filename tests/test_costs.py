"""What a task costs, in counts that no machine changes: process starts and what is left on the disk."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from matterstack import run_until_done
from matterstack.core.plan import Ahead
from matterstack.operators import workers
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.session import open_to_write
from matterstack.orchestration.step import Step, take_and_tell
from matterstack.storage import state_store
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


def campaign(count: int) -> str:
    return (
        "operators: {local: {kind: local, max_active: 2}}\n"
        f"tasks: {{a: {{matrix: {{i: {list(range(count))}}}, shell: sh, command: 'echo ${{{{ matrix.i }}}} > out', "
        "outputs: {o: {path: 'o/${{ matrix.i }}', file: out}}}}\n"
    )


def test_a_task_of_a_loop_costs_some_statements_and_few_commits(bench, monkeypatch):
    count, seen = 200, list[str]()

    class Counting(sqlite3.Connection):
        def execute(self, statement, *values):
            seen.append(statement.split()[0].upper())
            return super().execute(statement, *values)

        def executemany(self, statement, rows):
            seen.append(statement.split()[0].upper())
            return super().executemany(statement, rows)

    connect = sqlite3.connect
    bench.start(campaign(count))
    monkeypatch.setattr(state_store.sqlite3, "connect", lambda *a, **k: connect(*a, factory=Counting, **k))

    assert run_until_done(bench.root).state == "COMPLETED"

    assert len(seen) / count < 22  # about 13 for a longer run, whose loop has more on record ahead
    assert seen.count("COMMIT") / count < 0.35


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_task_of_a_loop_costs_few_system_calls_and_syncs(bench):
    calls = {}
    for count in (50, 250):
        shutil.rmtree(bench.root, ignore_errors=True)
        bench.start(campaign(count))
        trace = bench.folder / "trace"
        subprocess.run(
            ["strace", "-qq", "-c", "-U", "name,calls", "-o", trace, *MATTERSTACK, "run", bench.root],
            check=True, capture_output=True,
        )  # fmt: skip
        rows = (line.split() for line in trace.read_text().splitlines())
        calls[count] = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != "total"}
    each = {name: (calls[250].get(name, 0) - calls[50].get(name, 0)) / 200 for name in calls[250]}
    assert sum(each.values()) < 160, each
    assert each.get("fsync", 0) + each.get("fdatasync", 0) < 2, each
    assert each.get("execve", 0) == 0, each


def idle_step(bench, count: int) -> tuple[int, int]:
    """Give how many statements and system calls a step takes of a run in which nothing happens."""
    shutil.rmtree(bench.root, ignore_errors=True)
    bench.start(
        "operators: {board: {kind: human}}\n"
        f"params: {{n: {list(range(count))}}}\n"
        "tasks: {g: {operator: board, instructions: x}, "
        "a: {needs: [g], matrix: {i: '${{ params.n }}'}, command: 'true'}}\n"
    )
    bench.step()
    bench.step()
    seen: list[str] = []
    with open_to_write(bench.root) as store:
        store.db.set_trace_callback(seen.append)
        assert not take_and_tell(Step(bench.root, store)).changed
        store.db.set_trace_callback(None)
    trace = bench.folder / "trace"
    subprocess.run(
        ["strace", "-qq", "-c", "-U", "name,calls", "-o", trace, *MATTERSTACK, "step", bench.root],
        check=True, capture_output=True,
    )  # fmt: skip
    return len(seen), int(trace.read_text().split()[-1])


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_count_of_an_idle_step_grows_with_the_campaign(bench):
    small, large = idle_step(bench, 1_000), idle_step(bench, 10_000)

    assert small[0] == large[0]
    assert abs(small[1] - large[1]) < 40  # of some two thousand, most of them imports; the trees of SQLite get deeper


LOOP = """
tasks:
  learn:
    repeat: {max: 40, carry: {m: {first: start.txt, next: model.txt}}}
    tasks:
      propose: {shell: sh, inputs: {m: "${{ carry.m }}"}, command: "(echo id; seq 4) > p.csv", outputs: {p: p.csv}}
      label: {shell: sh, matrix: {table: p.csv}, command: 'echo 1 > ${{ outputs.e }}', outputs: {e: "e/${{ matrix.id }}"}}
      train: {shell: sh, inputs: {e: "e/*"}, command: 'cat ${{ inputs.e }} > model.txt', outputs: {m: model.txt}}
"""


def test_a_round_costs_the_same_however_many_there_were(bench):
    (bench.folder / "start.txt").write_text("start\n")
    bench.start(LOOP)
    spent: dict[int, list[int]] = {}
    with open_to_write(bench.root) as store, workers.kept():
        pool, files, work = Pool(store), RunFiles(bench.root), [0]

        def count() -> None:
            work[0] += 1

        store.db.set_progress_handler(count, 100)  # instructions of SQLite's machine
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline
            workers.here().collect()
            before = work[0]
            report = Step(bench.root, store, pool=pool, files=files).take()
            if report.state.is_over:
                break
            if report.changed:
                spent.setdefault(store.made("learn").get("round", 0), []).append(work[0] - before)
            time.sleep(0.01)
    early, late = (statistics.median(max(spent[n]) for n in some) for some in (range(4, 10), range(34, 40)))
    assert late < 1.1 * early, spent


def test_ten_thousand_ticks_leave_memory_and_open_files_as_they_were(bench):
    bench.start(
        "operators: {board: {kind: human}}\ntasks: {g: {operator: board, instructions: x}, long: {command: 'sleep 60'}}\n"
    )
    with open_to_write(bench.root) as store, workers.kept():
        pool, files, ahead = Pool(store), RunFiles(bench.root), Ahead()

        def tick() -> None:
            workers.here().collect()
            pool.notices.clear()
            Step(bench.root, store, pool=pool, files=files, ahead=ahead).take()

        def size() -> tuple[int, int]:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))

        for _ in range(500):
            tick()
        before = size()
        for _ in range(9_500):
            tick()
        after = size()
    bench.cli("cancel", bench.root)
    assert after[0] - before[0] < 4 << 20
    assert after[1] == before[1]
