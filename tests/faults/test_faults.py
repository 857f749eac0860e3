"""Real kills and refused system calls, a sample of the full sweep (`python -m tests.faults.sweep`)."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from matterstack import open_run
from matterstack.errors import RunRootError
from matterstack.views.attempts import attempts
from tests.conftest import MATTERSTACK
from tests.faults.harness import COMMANDS, wait
from tests.faults.sweep import error_of, kill, make_site, refuse

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
EVERY = 14  # in CI each 14th point is killed, each 42nd refused; of a job's worker, which has few, all


def every(command: str, kind: str = "kill") -> int:
    return 1 if command.startswith("worker") else EVERY if kind == "kill" else 3 * EVERY


PARTS = [(command, state, part) for command, (_, states) in COMMANDS.items() for state in states for part in range(2)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(("command", "state", "part"), PARTS, ids=[f"{c}-{s}-{p}" for c, s, p in PARTS])
def test_a_command_killed_at_a_system_call_loses_nothing_and_starts_nothing_twice(site, command, state, part):
    points = list(enumerate(site.points(command, COMMANDS[command][0], state)))
    assert len({str(point) for _, point in points}) == len(points)
    chosen = points[part * every(command) :: 2 * every(command)] or points[-1:]
    done = [(str(point), kill(site, point, state)) for _, point in chosen]
    killed = [place for place, wrong in done if wrong is not None]
    print("\n".join(killed))
    assert [f"{place}: {wrong}" for place, wrong in done if wrong] == []
    assert killed


@pytest.mark.parametrize(("command", "state", "part"), PARTS, ids=[f"{c}-{s}-{p}" for c, s, p in PARTS])
def test_a_refused_system_call_is_told_in_words_and_the_run_goes_on_once_the_cause_is_gone(site, command, state, part):
    points = list(enumerate(site.points(command, COMMANDS[command][0], state)))
    chosen = points[part * every(command, "error") :: 2 * every(command, "error")]
    done = [(str(p), refuse(site, p, state, error_of(p, index))) for index, p in chosen]
    assert [f"{place}: {wrong}" for place, wrong in done if wrong] == []


# --- a takeover ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", range(1, 25, 2))
def test_a_step_that_slept_through_a_takeover_of_its_lock_commits_and_starts_nothing(bench, stop_at):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 4}}}\n"
        "tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'echo ${{ task.id }} >> WITNESS'}, b: {needs: [a], command: 'echo b >> WITNESS'}}\n"
    )
    killer = Path(__file__).parent.parent / "killer.py"
    sleeper = subprocess.Popen(
        [sys.executable, killer, bench.root, str(stop_at), "STOP"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(") ")[2][0] in "TZ")
    if sleeper.poll() is not None:
        pytest.skip("the step has fewer boundaries")
    (bench.root / "run.lock").unlink()
    try:
        assert bench.step_until_over().state == "COMPLETED"
    except RunRootError as error:  # it sleeps within a transaction: the other waits, and says so
        assert "is busy: database is locked" in str(error)
    done = bench.digest()

    sleeper.send_signal(signal.SIGCONT)
    _, said = sleeper.communicate(timeout=30)

    assert sleeper.returncode == 0 or "another process has changed the ledger" in said, said
    if open_run(bench.root).state != "COMPLETED":
        done = {}
        assert bench.step_until_over().state == "COMPLETED"
    starts = bench.witnessed()
    assert sorted(starts) == ["a/1", "a/2", "a/3", "b"], starts
    assert {name: digest for name, digest in bench.digest().items() if name in done} == done
    assert bench.cli("doctor", bench.root).returncode == 0


def test_an_init_into_a_folder_that_is_refused_half_way_takes_back_what_it_made(site):
    points = site.points("init-in", COMMANDS["init-in"][0], "empty")
    renames = [point for point in points if point.call == "rename" and "/.init-X/" not in point.path]
    for point in renames[1::3]:
        assert refuse(site, point, "empty", "ENOSPC") == "", point


def test_a_boot_that_cannot_be_told_is_no_reboot(bench):
    """The sweep of errors: without descriptors the boot's id could not be read, and what ran was taken to be lost."""
    bench.start("tasks: {a: {retries: 1, command: 'echo ${{ task.attempt }} >> WITNESS; sleep 30'}}\n")
    bench.step()
    bench.wait_for(bench.witness)
    trace = bench.folder / "trace"
    reads = subprocess.run(
        ["strace", "-qq", "-e", "trace=openat", "-o", trace, *MATTERSTACK, "step", bench.root], capture_output=True
    )
    assert reads.returncode == 0
    lines = [line for line in trace.read_text().splitlines() if line.startswith("openat(")]
    numbers = [n for n, line in enumerate(lines, start=1) if "boot_id" in line or "/proc/" in line]
    assert numbers
    for number in numbers:
        inject = f"--inject=openat:error=EMFILE:when={number}"
        done = subprocess.run(
            ["strace", "-qq", "-e", "trace=openat", inject, "-o", trace, *MATTERSTACK, "step", bench.root],
            capture_output=True, text=True,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert bench.states() == {"a": "RUNNING"}, done.stderr
    assert bench.witnessed() == ["1"]


def refused(path: Path, error: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command with every look at one path answered by an error."""
    looks = "stat,lstat,statx,newfstatat,openat,open"
    strace = ["strace", "-qq", "-o", "/dev/null", "-P", path, "-e", f"trace={looks}", f"--inject={looks}:error={error}"]
    return subprocess.run([*strace, *MATTERSTACK, *words], capture_output=True, text=True)


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_an_input_that_cannot_be_looked_at_is_looked_at_later(bench, error):
    bench.start(
        "tasks: {a: {command: 'echo 1 > o', outputs: {o: o}}, b: {inputs: {x: o}, command: 'cat ${{ inputs.x }} >> WITNESS'}}\n"
    )
    bench.step()
    bench.wait_for(bench.attempt("a") / "exit.json")
    bench.cli("pause", bench.root)
    bench.step()
    bench.cli("resume", bench.root)

    done = refused(bench.attempt("a") / "o", error, "step", bench.root)

    assert "Traceback" not in done.stderr
    assert "tasks/a/attempt-1/o cannot be read" in bench.reasons()["b"]
    bench.cli("rerun", bench.root, "b")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["1"]


def test_a_persons_word_does_not_end_what_could_not_be_looked_at_for_a_moment(bench):
    bench.start("tasks: {a: {retries: 1, command: 'echo ${{ task.attempt }} >> WITNESS; sleep 30'}}\n")
    bench.step()
    bench.wait_for(bench.witness)

    done = refused(bench.attempt("a") / "exit.json", "EIO", "adopt", bench.root, "--assume", "lost")

    assert "nothing was changed" in done.stdout, done.stderr
    bench.step()
    assert bench.states() == {"a": "RUNNING"}
    assert bench.witnessed() == ["1"]


def test_a_late_end_whose_output_cannot_be_read_leaves_what_is_recorded(bench):
    bench.start("tasks: {a: {command: 'kill -9 $PPID; sleep 0.2; echo 1 > o', outputs: {o: o}}}\n")
    bench.step_until_over()
    bench.wait_for(bench.attempt("a") / "o")
    before = attempts(bench.root, "a")
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    end = {"task": "a", "attempt": 1, "exit_code": 0, "started_at": now, "ended_at": now}
    (bench.attempt("a") / "exit.json").write_text(json.dumps(end) + "\n")

    done = refused(bench.attempt("a") / "o", "EIO", "step", bench.root)

    assert "a, attempt 1: has ended but cannot be recorded yet: tasks/a/attempt-1/o" in done.stderr
    assert attempts(bench.root, "a") == before
    bench.step()
    assert bench.states() == {"a": "COMPLETED"}


@pytest.mark.parametrize("kind", ["pid", "host name"])
def test_a_step_from_another_namespace_calls_nothing_gone(bench, kind):
    """As from a container, or after the machine was given another name: what runs is not seen there, and runs on."""
    words = {
        "pid": ["unshare", "--pid", "--fork", "--mount-proc"],
        "host name": ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"],
    }[kind]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make namespaces")
    bench.start("tasks: {a: {retries: 1, command: 'echo a >> WITNESS; while test ! -e go; do sleep 0.05; done'}}\n")
    bench.step()
    bench.wait_for(bench.witness)

    done = subprocess.run([*words, *MATTERSTACK, "step", bench.root], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert bench.states() == {"a": "RUNNING"}
    (bench.attempt("a") / "go").touch()
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.witnessed() == ["a"]


# --- many at once ----------------------------------------------------------------------------------------------------


def test_many_steppers_and_readers_for_a_while_never_disturb_each_other(bench):
    bench.start(
        "tasks: {a: {matrix: {i: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]}, "
        "command: 'echo ${{ task.id }} >> WITNESS; sleep 0.3'}}\n"
    )
    until = time.monotonic() + 30
    wrong: list[str] = []

    def loop(words: list[str], codes: tuple[int, ...]) -> None:
        while time.monotonic() < until:
            done = subprocess.run([*MATTERSTACK, *words, str(bench.root)], capture_output=True, text=True)
            if done.returncode not in codes or "Traceback" in done.stderr:
                wrong.append(f"{words}: {done.returncode}: {done.stderr[-300:]}")

    people = [(["pause"], (0, 2)), (["resume"], (0, 2))]
    threads = [threading.Thread(target=loop, args=(["step"], (0, 75))) for _ in range(16)]
    threads += [threading.Thread(target=loop, args=([command], (0,))) for command in ("status", "explain") * 4]
    threads += [threading.Thread(target=loop, args=item) for item in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    bench.cli("resume", bench.root)
    assert bench.cli("run", bench.root).returncode == 0
    assert sorted(bench.witnessed()) == sorted(f"a/{i}" for i in range(1, 21))
    assert bench.cli("doctor", bench.root).returncode == 0


@pytest.fixture
def small_disk(bench):
    """A real file system of 400 KiB, with the run root on it."""
    disk = bench.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    bench.root = disk / "t"
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=False)


def test_a_full_disk_is_told_in_words_and_the_run_goes_on_once_there_is_space(bench, small_disk):
    bench.start("tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'echo ${{ task.id }} >> WITNESS'}}\n")
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    done = bench.cli("step", bench.root)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") or "warning" in done.stderr
    assert "Traceback" not in done.stderr
    filler.unlink()
    deadline = time.monotonic() + 60
    while not bench.step().state.is_over and time.monotonic() < deadline:
        time.sleep(0.5)
    assert sorted(bench.witnessed()) == ["a/1", "a/2", "a/3"]
    assert bench.cli("doctor", bench.root).returncode == 0


def test_how_a_command_ended_is_written_down_on_a_full_disk_as_well(bench, small_disk):
    bench.start("tasks: {a: {command: 'cat /dev/zero > filler || echo full >> WITNESS; exit 3'}}\n")
    bench.step()
    assert bench.wait_for(bench.attempt("a") / "exit.json").read_text().endswith("}\n")
    assert bench.exit_of("a")["exit_code"] == 3
    (bench.attempt("a") / "filler").unlink()
    assert bench.step_until_over().state == "FAILED"
    assert "exit code 3" in bench.reasons()["a"]
    assert bench.witnessed() == ["full"]


def test_a_worker_that_cannot_make_room_for_its_record_never_started_and_uses_no_retry(site):
    command, state = "worker", "fresh"
    words = COMMANDS[command][0]
    for call in ("openat", "write"):
        points = site.points(command, words, state)
        point = next(point for point in points if point.call == call and point.path.endswith(".exit.json"))
        site.refuse_at(point, words, state, "ENOSPC")
        site.finish()
        assert [(a["state"], a["class"]) for a in attempts(site.root, "a/1")[1]] == [
            ("CANCELLED", "postponed"), ("COMPLETED", None),
        ], call  # fmt: skip
