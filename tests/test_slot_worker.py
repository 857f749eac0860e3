"""The slot worker by itself: what it does with a request, and what it leaves in the folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from matterstack.operators import workers
from tests.conftest import MATTERSTACK, is_alive

PROGRAM = Path(workers.__file__).with_name("slot_worker.py")


class Slot:
    """A worker that is spoken to directly."""

    def __init__(self, *before: str) -> None:
        reader, self.requests = os.pipe()
        self.answers, writer = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", 'exec "$@" 3>&"$0"', str(writer), *before, sys.executable, "-I", "-S", str(PROGRAM)],
            stdin=reader, pass_fds=[writer], start_new_session=True,
        )  # fmt: skip
        os.close(reader)
        os.close(writer)
        self.number = 0

    def data(self, folder: Path, command: str, *, limit=None, background="", outputs=(), env=None) -> bytes:
        folder.mkdir(exist_ok=True)
        (folder / "command.sh").write_text(command)
        self.number += 1
        fields = workers.request(
            str(folder), '{"by": "worker", ', '{"task": "a", "attempt": 1', (limit, None), background,
            ("/bin/bash", "-eo", "pipefail", "command.sh"), outputs,
            [os.fsencode(f"{name}={value}") for name, value in {"PATH": os.environ["PATH"], **(env or {})}.items()],
        )  # fmt: skip
        return b"".join(b"%s\0" % field for field in (b"%d" % self.number, *fields))

    def run(self, folder: Path, command: str, **more) -> str:
        data = self.data(folder, command, **more)
        os.write(self.requests, b"%d\n" % len(data) + data)
        return self.answer()

    def answer(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            byte = os.read(self.answers, 1)
            assert byte, "the worker ended"
            text += byte
        return text.decode().strip()


@pytest.fixture
def slot():
    made = Slot()
    yield made
    os.close(made.requests)
    made.process.wait(timeout=20)


def record(folder: Path) -> dict:
    return json.loads((folder / "exit.json").read_text())


def test_it_runs_one_command_after_the_other_and_removes_empty_logs(slot, tmp_path):
    assert slot.run(tmp_path / "a", "echo out; echo 1 > o", outputs=("o",)) == "1 ended"
    assert slot.run(tmp_path / "b", "echo err >&2; exit 3", outputs=("o",)) == "2 ended"

    assert record(tmp_path / "a")["exit_code"] == 0
    assert record(tmp_path / "b")["exit_code"] == 3
    digest = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865"
    assert (tmp_path / "a" / "outputs.sha256").read_text() == f"{digest}  o\n"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "claim", "command.sh", "exit.json", "o", "outputs.sha256", "stdout.log",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "claim",
        "command.sh",
        "exit.json",
        "stderr.log",
    ]


def test_the_usage_of_a_command_and_of_all_that_it_started_is_recorded(slot, tmp_path):
    slot.run(tmp_path / "a", f'{sys.executable} -c "x = bytearray(60_000_000); sum(range(3_000_000))" & wait')

    usage = record(tmp_path / "a")["usage"]
    assert usage["cpu_s"] > 0.02
    assert usage["max_rss"] > 60_000_000
    assert usage["by"] == "wait4"


def test_a_folder_that_is_claimed_or_gone_is_left_alone(slot, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "claim").write_text("mine")
    assert slot.run(tmp_path / "a", "touch ran") == "1 not started"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["claim", "command.sh"]

    data = slot.data(tmp_path / "b", "touch ran")
    shutil.rmtree(tmp_path / "b")
    os.write(slot.requests, b"%d\n" % len(data) + data)
    assert slot.answer() == "2 not started"
    assert not (tmp_path / "b").exists()


def test_a_request_that_is_not_whole_is_not_carried_out(tmp_path):
    slot = Slot()
    data = slot.data(tmp_path / "a", "touch ran")
    os.write(slot.requests, b"%d\n" % len(data) + data[:-1])
    os.close(slot.requests)

    assert slot.process.wait(timeout=20) == 0
    assert not (tmp_path / "a" / "claim").exists()


def test_what_is_left_running_gets_ten_seconds_and_is_named(slot, tmp_path):
    began = time.monotonic()
    slot.run(tmp_path / "a", "setsid sleep 300 & echo $! > pid")

    assert 9 < time.monotonic() - began < 14
    assert record(tmp_path / "a")["left_running"] == ["sleep"]
    assert record(tmp_path / "a")["exit_code"] == 0
    assert not is_alive(int((tmp_path / "a" / "pid").read_text()))


def test_what_ends_soon_by_itself_is_waited_for(slot, tmp_path):
    slot.run(tmp_path / "a", "(sleep 0.5; echo late > late) &")

    assert (tmp_path / "a" / "late").read_text() == "late\n"
    assert "left_running" not in record(tmp_path / "a")


def test_background_wait_waits_until_the_limit(slot, tmp_path):
    slot.run(tmp_path / "a", "(sleep 300) &", background="wait", limit=1.0)

    assert record(tmp_path / "a")["timed_out"] is True
    assert record(tmp_path / "a")["exit_code"] == 124


def test_background_leave_leaves_what_is_in_a_session_of_its_own(tmp_path):
    slot = Slot()
    assert (
        slot.run(tmp_path / "a", "setsid sleep 300 > /dev/null & echo $! > pid", background="leave") == "1 ended last"
    )
    slot.process.wait(timeout=20)

    pid = int((tmp_path / "a" / "pid").read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_limit_is_exact_and_reaches_whatever_called_setsid(slot, tmp_path):
    slot.run(tmp_path / "a", "setsid sleep 300 & echo $! > pid; sleep 300", limit=1.0)

    began, ended = map(float, record(tmp_path / "a")["uptime"])
    assert 1.0 <= ended - began < 1.5
    assert not is_alive(int((tmp_path / "a" / "pid").read_text()))


def test_term_from_outside_is_recorded_as_an_interruption(slot, tmp_path):
    data = slot.data(tmp_path / "a", "touch ready; sleep 300")
    os.write(slot.requests, b"%d\n" % len(data) + data)
    while not (tmp_path / "a" / "ready").exists():
        time.sleep(0.01)
    os.kill(slot.process.pid, signal.SIGTERM)

    assert slot.answer() == "1 ended"
    assert record(tmp_path / "a")["interrupted"] == "TERM"
    assert slot.run(tmp_path / "b", "true") == "2 ended"  # and it goes on
    assert "interrupted" not in record(tmp_path / "b")


def test_the_command_gets_default_signals_functions_and_variables_of_any_name(slot, tmp_path):
    env = {"my.var": "1", "BASH_FUNC_greet%%": "() { echo hello $1; }", "LINES": "a\nb"}
    slot.run(tmp_path / "a", 'greet you; env | grep -c my.var=1; grep SigIgn /proc/self/status; echo "$LINES"', env=env)

    words = (tmp_path / "a" / "stdout.log").read_text().split()
    ignored = int(words.pop(4), 16) & ~(3 << 31)  # 32 and 33 are the C library's
    assert words == ["hello", "you", "1", "SigIgn:", "a", "b"]
    assert ignored == 0


def test_a_worker_that_is_refused_a_process_gives_its_claim_up(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    calls = "clone,fork,vfork,clone3"
    slot = Slot("strace", "-qq", "-o", str(tmp_path / "trace"), "-e", f"inject={calls}:error=EAGAIN:when=1")

    assert slot.run(tmp_path / "a", "touch ran") == "1 not started"
    claim = json.loads((tmp_path / "a" / "claim").read_text())
    assert claim == {"by": "nobody", "why": "its worker could not start it: Resource temporarily unavailable"}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["claim", "command.sh"]
    assert slot.run(tmp_path / "b", "touch ran") == "2 ended"
    os.close(slot.requests)


def test_a_disk_that_is_full_at_the_end_does_not_lose_the_record(tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    strace = ["strace", "-qq", "-o", str(tmp_path / "trace"), "-P", "outputs.sha256", "-e", "trace=openat,write"]
    slot = Slot(*strace, "-e", "inject=openat,write:error=ENOSPC")

    slot.run(tmp_path / "a", "echo 1 > o", outputs=("o",))

    assert record(tmp_path / "a")["exit_code"] == 0
    assert not (tmp_path / "a" / "outputs.sha256").exists()
    os.close(slot.requests)


def test_a_program_that_cannot_be_run_ends_as_in_a_shell(slot, tmp_path):
    data = slot.data(tmp_path / "a", "").replace(b"/bin/bash", b"/etc/host")
    os.write(slot.requests, b"%d\n" % len(data) + data)

    assert slot.answer() == "1 ended"
    assert record(tmp_path / "a")["exit_code"] == 127
    assert (tmp_path / "a" / "stderr.log").read_text() == "/etc/host: No such file or directory\n"


def test_a_log_that_cannot_be_opened_gives_the_claim_up(slot, tmp_path):
    (tmp_path / "a" / "stderr.log").mkdir(parents=True)

    assert slot.run(tmp_path / "a", "touch ran") == "1 not started"

    claim = json.loads((tmp_path / "a" / "claim").read_text())
    assert claim == {"by": "nobody", "why": "its worker could not start it: Is a directory"}
    assert not (tmp_path / "a" / "ran").exists()


def in_a_container(bench, *words):
    """Run the command as process 1 of a pid namespace of its own."""
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs pid namespaces")
    return subprocess.Popen(
        [*namespace, *MATTERSTACK, *words], cwd=bench.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_step_that_is_process_1_warns_of_what_ends_with_it(bench):
    bench.start("tasks: {a: {command: 'sleep 30'}}\n")

    _, told = in_a_container(bench, "step", bench.root).communicate()

    assert "warning: this is process 1 of a container, which ends now, and with it the 1 running here" in told


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_loop_that_is_process_1_waits_for_what_runs_when_it_is_interrupted(bench):
    bench.start("tasks: {a: {command: 'sleep 2; echo 1 > o', outputs: {o: o}}}\n")
    loop = in_a_container(bench, "run", bench.root)
    bench.wait_for(bench.attempt("a") / "stderr.log")
    time.sleep(0.3)
    (inside,) = (path.name for path in Path("/proc").iterdir() if path.name.isdigit() and _parent_of(path) == loop.pid)
    os.kill(int(inside), signal.SIGINT)

    _, told = loop.communicate(timeout=20)

    assert "waiting for 1 running, since they end with process 1 of a container" in told
    assert bench.exit_of("a")["exit_code"] == 0


def _parent_of(path):
    try:
        return int((path / "stat").read_text().rpartition(") ")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
