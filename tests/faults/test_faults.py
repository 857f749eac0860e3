"""Real kills and refused system calls, a sample of the full sweep (`python -m tests.faults.sweep`)."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from matterstack import initialize_run, open_run, step_run
from matterstack.errors import RunRootError
from matterstack.storage.migrations import MIGRATIONS
from matterstack.storage.state_store import SQLiteStateStore
from tests.conftest import MATTERSTACK
from tests.faults.harness import COMMANDS, wait
from tests.faults.sweep import error_of, kill, make_site, refuse

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
EVERY = 14  # in CI each 14th point is killed, each 42nd refused
PARTS = [(command, state, part) for command, (_, states) in COMMANDS.items() for state in states for part in range(2)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize(("command", "state", "part"), PARTS, ids=[f"{c}-{s}-{p}" for c, s, p in PARTS])
def test_a_command_killed_at_a_system_call_loses_nothing_and_starts_nothing_twice(site, command, state, part):
    points = list(enumerate(site.points(command, COMMANDS[command][0], state)))
    assert len({str(point) for _, point in points}) == len(points)
    chosen = points[part * EVERY :: 2 * EVERY] or points[-1:]
    done = [(str(point), kill(site, point, state)) for _, point in chosen]
    killed = [place for place, wrong in done if wrong is not None]
    print("\n".join(killed))
    assert [f"{place}: {wrong}" for place, wrong in done if wrong] == []
    assert killed


@pytest.mark.parametrize(("command", "state", "part"), PARTS, ids=[f"{c}-{s}-{p}" for c, s, p in PARTS])
def test_a_refused_system_call_is_told_in_words_and_the_run_goes_on_once_the_cause_is_gone(site, command, state, part):
    points = list(enumerate(site.points(command, COMMANDS[command][0], state)))
    chosen = points[part * 3 * EVERY :: 6 * EVERY]
    done = [(str(p), refuse(site, p, state, error_of(p, index))) for index, p in chosen]
    assert [f"{place}: {wrong}" for place, wrong in done if wrong] == []


# --- the wrapper -----------------------------------------------------------------------------------------------------

JOB = """
matterstack: 1
name: t
tasks:
  a: {retries: 2, command: "echo a ${{ task.attempt }} >> WITNESS; sleep 0.1; echo 1 > out", outputs: {o: {file: out, path: a}}, resources: {time: 20s}}
  b: {inputs: {x: a}, command: "echo b ${{ task.attempt }} >> WITNESS; cp ${{ inputs.x }} out", outputs: {o: {file: out, path: b}}}
"""
WRAPPED = Path(__file__).with_name("wrapped_step.py")
CALLS = ["openat", "write", "dup2", "clone", "vfork", "fork"]
MOST = 12  # of one name; the wrapper has fewer


def take_wrapped_step(root: Path, trace: Path, *inject: str) -> None:
    top = Path(__file__).resolve().parent.parent.parent
    subprocess.run([sys.executable, WRAPPED, root, trace, *inject], cwd=top, check=True, timeout=60)


@pytest.mark.parametrize("call", CALLS)
def test_a_wrapper_killed_at_a_system_call_starts_no_command_twice(tmp_path, call):
    killed = 0
    for number in range(1, MOST + 1):
        folder = tmp_path / str(number)
        witness = folder / "witness"
        folder.mkdir()
        (folder / "c.yaml").write_text(JOB.replace("WITNESS", str(witness)))
        root = initialize_run(folder / "c.yaml", folder / "run").root
        take_wrapped_step(root, folder / "trace", f"{call}:signal=KILL:when={number}")
        wait(lambda folder=folder: not still_traced(folder / "trace"))
        killed += "+++ killed by SIGKILL +++" in (folder / "trace").read_text(errors="replace")
        deadline = time.monotonic() + 30
        while not step_run(root).state.is_over:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert open_run(root).state == "COMPLETED"
        starts = witness.read_text().splitlines()
        assert len(starts) == len(set(starts)), (call, number, starts)
        assert (root / "results" / "b").read_text() == "1\n"
    assert killed or call in ("clone", "vfork", "fork")  # which of these a shell uses differs


def still_traced(trace: Path) -> bool:
    text = trace.read_text(errors="replace") if trace.exists() else ""
    return not re.search(r"\+\+\+ (exited|killed)", text)


# --- migration -------------------------------------------------------------------------------------------------------

NEXT = (*MIGRATIONS, ("ALTER TABLE run ADD COLUMN note TEXT", "CREATE TABLE extra (x)", "UPDATE run SET note = 'new'"))
MIGRATE = f"""
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.storage.migrations import MIGRATIONS
import sys
SQLiteStateStore(sys.argv[1], migrations=(*MIGRATIONS, {NEXT[-1]!r})).close()
"""


def test_a_migration_killed_at_a_system_call_leaves_the_old_version_or_the_new_one_whole(tmp_path):
    (tmp_path / "c.yaml").write_text(JOB.replace("WITNESS", str(tmp_path / "witness")))
    root = initialize_run(tmp_path / "c.yaml", tmp_path / "run").root
    whole = (root / "state.sqlite").read_bytes()
    killed = 0
    for call in ("pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "openat"):
        for number in range(1, 200):
            for path in root.glob("*state.sqlite*"):
                path.unlink()
            (root / "state.sqlite").write_bytes(whole)
            trace = tmp_path / "trace"
            inject = ["-qq", "-o", trace, f"--inject={call}:signal=KILL:when={number}"]
            subprocess.run(["strace", *inject, sys.executable, "-c", MIGRATE, root / "state.sqlite"], check=False)
            if not trace.read_text(errors="replace").rstrip().endswith("+++ killed by SIGKILL +++"):
                break
            if (
                not any(root.name in line for line in trace.read_text(errors="replace").splitlines()[-3:])
                and call == "openat"
            ):
                continue  # of the interpreter, long before
            killed += 1
            with SQLiteStateStore(root / "state.sqlite", migrations=NEXT) as store:
                assert store.run().name == "t"
                assert store.db.execute("SELECT note FROM run").fetchone() == ("new",)
                assert store.integrity_problem() == ""
            backup = root / "state.sqlite.v1-backup"
            assert not backup.exists() or SQLiteStateStore(backup).run().name == "t"
    assert killed > 20


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

    assert sleeper.returncode == 0 or "another process has changed the ledger meanwhile" in said, said
    if open_run(bench.root).state != "COMPLETED":
        done = {}
        assert bench.step_until_over().state == "COMPLETED"
    starts = bench.witnessed()
    assert sorted(starts) == ["a/1", "a/2", "a/3", "b"], starts
    assert {name: digest for name, digest in bench.digest().items() if name in done} == done
    assert bench.cli("doctor", bench.root).returncode == 0


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


def test_a_full_disk_is_told_in_words_and_the_run_goes_on_once_there_is_space(bench):
    disk = bench.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        bench.root = disk / "t"
        bench.start("tasks: {a: {matrix: {i: [1, 2, 3]}, command: 'echo ${{ task.id }} >> WITNESS'}}\n")
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
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
    finally:
        subprocess.run(["umount", disk], check=False)
