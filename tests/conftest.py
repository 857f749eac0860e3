"""A bench for tests: real campaigns in a folder of their own, real processes, no mocks of our own code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from matterstack import initialize_run, open_run, step_run
from matterstack.errors import MatterStackError
from matterstack.orchestration.run_lifecycle import StepReport
from matterstack.run_root.layout import attempt_folder
from matterstack.views.explain import explain

# The same examples on every machine; HYPOTHESIS_PROFILE=fuzz looks for new ones, and for longer.
settings.register_profile("default", derandomize=True, deadline=None)
settings.register_profile(
    "fuzz", derandomize=False, deadline=None, max_examples=int(os.environ.get("EXAMPLES", "3000"))
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in the background of a shell, and so in all that is started here
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests start thousands of interpreters: none of them should compile the package again, whatever the caller's shell says.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None) is not None:
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / f"matterstack-tests-{os.getuid()}"))

# Commands of campaigns find the `python` that runs the tests, as in an environment that was activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
    os.environ.pop(name, None)

MATTERSTACK = (sys.executable, "-m", "matterstack")
HEAD = "matterstack: 1\nname: t\n"


class Bench:
    """One campaign and its run root; ``witness`` is a file outside of it, to which commands may append lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "runs" / "t"
        self.witness = folder / "witness"

    def write(self, text: str, name: str = "campaign.yaml") -> Path:
        """Write a campaign file; `WITNESS` in it is the path of the witness."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            (text if re.search('matterstack"?:', text) else HEAD + text).replace("WITNESS", str(self.witness))
        )
        return path

    def start(self, text: str) -> None:
        initialize_run(self.write(text), self.root)

    def step(self) -> StepReport:
        return step_run(self.root)

    def step_until(self, done: Callable[[], bool], limit_s: float = 30.0) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < deadline, f"not done after {limit_s} s: {self.states()}"
            self.step()
            time.sleep(0.01)

    def step_until_over(self, limit_s: float = 30.0) -> StepReport:
        deadline = time.monotonic() + limit_s
        while not (report := self.step()).state.is_over:
            assert time.monotonic() < deadline, f"not over after {limit_s} s: {self.states()}"
            time.sleep(0.01)
        return report

    def states(self) -> dict[str, str]:
        return {task.task_id: str(task.state) for task in open_run(self.root).tasks}

    def reasons(self) -> dict[str, str]:
        return {item.task_id: item.reason for item in explain(self.root)}

    def attempt(self, task_id: str, number: int = 1) -> Path:
        return self.root / attempt_folder(task_id, number)

    def wait_for(self, path: Path, limit_s: float = 10.0) -> Path:
        deadline = time.monotonic() + limit_s
        while not path.exists():
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.005)
        return path

    def wait_for_text(self, path: Path, text: str, limit_s: float = 10.0) -> str:
        deadline = time.monotonic() + limit_s
        while text not in (found := path.read_text() if path.exists() else ""):
            assert time.monotonic() < deadline, f"{path} does not hold {text!r}: {found!r}"
            time.sleep(0.005)
        return found

    def exit_of(self, task_id: str, number: int = 1) -> dict[str, Any]:
        data = json.loads(self.wait_for(self.attempt(task_id, number) / "exit.json").read_text())
        assert isinstance(data, dict)
        return data

    def witnessed(self) -> list[str]:
        return self.witness.read_text().split() if self.witness.exists() else []

    def cli(self, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"cwd": self.folder, "timeout": 120, **options}
        return subprocess.run(
            [*MATTERSTACK, *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
        )

    def popen(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        options = {"cwd": self.folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*MATTERSTACK, *map(str, words)], text=True, stdin=subprocess.DEVNULL, **options)

    def digest(self) -> dict[str, str]:
        """Give a digest of every file of the run root but run.lock, with the targets of links."""
        out = {}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_symlink():
                out[name] = f"-> {os.readlink(path)}"
            elif path.is_file() and name != "run.lock":
                out[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return out

    def settled_digest(self) -> dict[str, str]:
        """Give the digest once the jobs that were started have written what they write at their start."""
        last = self.digest()
        while True:
            time.sleep(0.3)
            if (now := self.digest()) == last:
                return now
            last = now

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "journal.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    bench = Bench(tmp_path)
    yield bench
    try:
        alive = set(bench.states().values()) & {"SUBMITTED", "RUNNING"} if bench.root.exists() else ()
    except MatterStackError:
        return  # a test that damages its run root leaves nothing alive
    if alive:
        bench.cli("cancel", bench.root)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def run_as(number: int, words: list[object], folder: Path, group: int = 65534) -> subprocess.CompletedProcess[str]:
    """Run MatterStack as another user, with umask 002, by a Python that this user may run; skip where there is none."""

    def become() -> None:
        os.umask(0o002)
        os.setgroups([group])
        os.setgid(group)
        os.setuid(number)

    def start(python: str, *argv: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HOME": "/tmp", "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [python, "-B", *argv], cwd=folder, preexec_fn=become, capture_output=True, text=True, env=env
        )

    for python in (sys.executable, "/usr/bin/python3"):
        try:
            usable = start(python, "-c", "import matterstack.cli.main, sqlite3").returncode == 0
        except OSError:
            usable = False
        if usable:
            return start(python, "-m", "matterstack", *map(str, words))
    pytest.skip("no Python that another user may run")


def open_to_others(folder: Path) -> None:
    """Let other users come to a folder: those of pytest above it are closed to them. They stay open: other tests may use them."""
    for path in (folder, *folder.parents):
        if path != path.parent and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o055)
