"""Many processes, one run: exactly one works at a time, the others say who does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from matterstack import initialize_run, open_run, step_run
from matterstack.errors import RunLockedError
from matterstack.storage.run_lock import read_holder, run_lock, somebody_waits

SLEEPERS = "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'echo ${{ task.id }} >> WITNESS; sleep 0.3'}}\n"

HOLDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from matterstack.storage.run_lock import run_lock
    with run_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
    """
)


@pytest.fixture
def holder(bench):
    """A process that holds the lock of the bench's run."""
    bench.start(SLEEPERS)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(bench.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("command", [["step"], ["run"]])
def test_a_held_lock_ends_a_step_at_once_with_the_holder_and_exit_75(bench, holder, command):
    began = time.monotonic()
    done = bench.cli(*command, bench.root)

    assert done.returncode == 75
    assert f"another process is running: pid {holder.pid} on {os.uname().nodename} since " in done.stderr
    assert time.monotonic() - began < 5
    assert bench.witnessed() == []


def test_the_error_is_a_blocking_io_error(bench, holder):
    with pytest.raises(BlockingIOError):
        step_run(bench.root)
    with pytest.raises(RunLockedError):
        initialize_run(bench.folder / "campaign.yaml", bench.root)


def test_one_whose_lock_file_was_deleted_does_not_write_into_the_next_ones(bench):
    bench.start("tasks: {a: {command: 'true'}}\n")
    sleeper, following = run_lock(bench.root), run_lock(bench.root)
    sleeper.__enter__()
    (bench.root / "run.lock").unlink()
    with following:
        held = (bench.root / "run.lock").read_bytes()
        sleeper.__exit__(None, None, None)
        assert (bench.root / "run.lock").read_bytes() == held
    assert read_holder(bench.root)["released"]


def test_the_lock_is_free_as_soon_as_its_holder_is_killed(bench, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()

    assert bench.cli("step", bench.root).returncode == 0
    assert "released" in read_holder(bench.root)


def test_reading_commands_need_no_lock(bench, holder):
    assert bench.cli("status", bench.root).returncode == 0
    assert bench.cli("explain", bench.root).returncode == 0


def test_a_persons_command_waits_for_the_lock_and_a_loop_sees_that(bench, holder):
    assert not somebody_waits(bench.root)
    waiting = bench.popen("pause", bench.root)
    deadline = time.monotonic() + 10
    while not somebody_waits(bench.root):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    holder.send_signal(signal.SIGKILL)

    assert waiting.wait(10) == 0
    waiting.communicate()
    assert str(open_run(bench.root).state) == "PAUSED"


@pytest.mark.parametrize("count", [2, 16])
def test_of_many_steppers_exactly_one_works_at_a_time(bench, count):
    bench.start(SLEEPERS)

    with run_lock(bench.root):  # all of them start while it is held: not one may work
        processes = [bench.popen("step", bench.root) for _ in range(count)]
        outcomes = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert [code for _, code in outcomes] == [75] * count
    assert all("another process is running" in text for text, _ in outcomes)
    assert bench.witnessed() == []

    processes = [bench.popen("step", bench.root) for _ in range(count)]
    outcomes = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    worked = [text for text, code in outcomes if code == 0]
    assert worked
    assert all(code in (0, 75) for _, code in outcomes)
    assert sum("2 submitted" in text or "3 submitted" in text for text in worked) == 1

    bench.step_until_over()
    assert sorted(bench.witnessed()) == ["a/1", "a/2", "a/3"]


def test_two_inits_of_one_folder_give_one_run(bench):
    file = bench.write(SLEEPERS)

    processes = [bench.popen("init", file, "--root", bench.root) for _ in range(8)]
    codes = sorted((process.communicate(timeout=60), process.returncode)[1] for process in processes)

    assert codes[0] == 0
    assert set(codes[1:]) <= {2, 75}
    assert set(bench.states().values()) == {"READY"}
    assert [path.name for path in bench.root.parent.iterdir()] == ["t"]


def test_an_epoch_that_another_process_raised_stops_a_step_that_slept(bench):
    from matterstack.core.events import Paused
    from matterstack.errors import LedgerTakenOverError
    from matterstack.orchestration.session import open_ledger

    bench.start(SLEEPERS)
    with open_ledger(bench.root) as sleeper:
        bench.step()
        with pytest.raises(LedgerTakenOverError, match="another process has changed the ledger"):
            sleeper.append([Paused()], 0.0)
    assert str(open_run(bench.root).state) == "RUNNING"
