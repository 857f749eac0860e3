"""Real faults: the installed command under strace, killed or refused at one system call.

A *point* is one system call of the traced process that changes something: of this command, in this state of a run
root, the N-th of its name, with its path. Points are counted in a clean run of the same command in the same state;
then, for each, the state is restored at the same place and the command runs again with the fault injected there.
strace counts calls for each process by itself, and follows no children but in `tree`: the tasks run as ever.

Source: strace(1), "Tampering": `--inject=SET:signal=KILL:when=N`, `--inject=SET:error=ENOSPC:when=N`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matterstack import open_run, step_run
from matterstack.care.checks import examine
from matterstack.errors import MatterStackError
from matterstack.orchestration.actions import pause, rerun
from matterstack.parcels.pack import export_parcel
from matterstack.people.answer import find_question, respond
from matterstack.people.inbox import inbox
from matterstack.run_root.files import write_once
from matterstack.storage.integrity import integrity_problem
from matterstack.storage.migrations import SCHEMA_VERSION
from matterstack.storage.state_store import SQLiteStateStore
from tests.faults.next_version import next_version

CHANGING = (
    "write", "pwrite64", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink",
    "unlinkat", "mkdir", "mkdirat", "rmdir", "fsync", "fdatasync", "ftruncate", "truncate", "openat", "vfork", "clone",
    "clone3", "fork", "copy_file_range", "sendfile", "fchmod", "chmod", "execve",
)  # fmt: skip
_CALL = re.compile(r"^(\d+ +)?([a-z0-9_]+)\((.*)$")
TOP = Path(__file__).resolve().parent.parent.parent
TRACED_WORKER = Path(__file__).with_name("traced_worker.py")
NEXT_VERSION = Path(__file__).with_name("next_version.py")
_CREATES = re.compile(r"O_CREAT|O_TRUNC|O_WRONLY|O_RDWR|O_APPEND")

CAMPAIGN = """
matterstack: 1
name: t
files: [data.txt]
operators: {local: {kind: local, slots: {cpus: 8}}, board: {kind: human}, lab: {kind: experiment}, far: {kind: manual}}
tasks:
  a: {retries: 1, matrix: {i: [1, 2]}, command: "echo ${{ task.id }} ${{ task.attempt }} >> WITNESS; echo ${{ matrix.i }} > out", outputs: {o: {file: out, path: "a/${{ matrix.i }}"}}}
  soft: {command: "echo soft ${{ task.attempt }} >> WITNESS; exit 1", allow_failure: true, outputs: {o: {path: soft.txt, optional: true}}}
  again: {retries: 2, command: "echo again ${{ task.attempt }} >> WITNESS; test ${{ task.attempt }} -ge 2"}
  late: {command: "echo late ${{ task.attempt }} >> WITNESS; sleep 60", resources: {time: 0.3s}, allow_failure: true}
  sum: {retries: 1, inputs: {x: "a/*"}, command: "echo sum ${{ task.attempt }} >> WITNESS; cat ${{ inputs.x }} > out", outputs: {o: {file: out, path: sum}}}
  ask: {operator: board, instructions: "Shall it go on?", response_schema: {type: object, required: [go]}}
  go: {retries: 1, when: "${{ response.ask.go }}", command: "echo go ${{ task.attempt }} >> WITNESS"}
  film: {operator: lab, instructions: x}
  work: {operator: far, command: "echo far > out", outputs: {o: {file: out, path: work}}}
"""
# The clean run: what every broken one must come to as well.
STATES = {
    "a/1": "COMPLETED", "a/2": "COMPLETED", "soft": "FAILED", "again": "COMPLETED", "late": "FAILED", "sum": "COMPLETED",
    "ask": "COMPLETED", "go": "COMPLETED", "film": "COMPLETED", "work": "COMPLETED",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One system call of a command in a state; ``number`` is its count among calls of that name."""

    command: str
    call: str
    number: int
    path: str
    nth: int  # of this call on this path

    def __str__(self) -> str:
        return f"{self.command}: {self.call} {self.path}" + (f" ({self.nth})" if self.nth > 1 else "")


class Site:
    """A run root at one place, whose prepared states can be put back."""

    def __init__(self, folder: Path, text: str = CAMPAIGN) -> None:
        self.folder = folder
        self.text = text
        self.root = folder / "runs" / "t"
        self.witness = folder / "witness"
        self.states: dict[str, Path] = {}
        self.file = folder / "campaign.yaml"
        self.file.write_text(text.replace("WITNESS", str(self.witness)))
        self.data = folder / "data.txt"
        self.data.write_text("old\n")

    def keep(self, name: str) -> None:
        """Keep the run root and the witness as they are now, as a state."""
        kept = self.folder / "states" / name
        kept.mkdir(parents=True)
        if self.root.exists():
            shutil.copytree(self.root, kept / "root", symlinks=True)
        if self.witness.exists():
            shutil.copy2(self.witness, kept / "witness")
        self.states[name] = kept

    def put_back(self, name: str) -> None:
        edited = name.startswith("edited")
        self.data.write_text("new\n" if edited else "old\n")
        text = self.text.replace("{i: [1, 2]}", "{i: [1, 3]}") if edited else self.text
        self.file.write_text(text.replace("WITNESS", str(self.witness)))
        wait(self._is_removed)
        for left in self.folder.glob("*.parcel"):
            left.unlink()
        self.witness.unlink(missing_ok=True)
        kept = self.states[name]
        if (kept / "root").exists():
            self.root.parent.mkdir(parents=True)
            shutil.copytree(kept / "root", self.root, symlinks=True)
        if (kept / "witness").exists():
            shutil.copy2(kept / "witness", self.witness)

    def _is_removed(self) -> bool:
        """Remove the runs; a worker that is still alive may write into them meanwhile."""
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        return not (self.folder / "runs").exists()

    def run(self, words: Iterable[str], *strace: str) -> subprocess.CompletedProcess[str]:
        """Run the command (or the worker of one task of its step) under strace; its trace is in `trace` of the folder."""
        options = [
            "strace", "-q", "-y", "-s", "0", "-o", str(self.folder / "trace"), "-e", f"trace={','.join(CHANGING)}",
            *strace,
        ]  # fmt: skip
        first, *rest = words
        if first == "worker":
            argv = [sys.executable, str(TRACED_WORKER), "runs/t", *rest, *options]
        elif first == "tree":
            argv = [*options, "-f", sys.executable, "-m", "matterstack", *rest]
        elif first == "newer":
            argv = [*options, sys.executable, str(NEXT_VERSION), *rest]
        else:
            argv = [*options, sys.executable, "-m", "matterstack", first, *rest]
        path = os.pathsep.join(filter(None, (str(TOP), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path}
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=self.folder, timeout=120, stdin=subprocess.DEVNULL, env=env
        )
        if first == "worker":  # it outlives the step
            wait(lambda: re.search(r"^\+\+\+ (exited|killed)", self.trace(), re.MULTILINE) is not None)
        return done

    def trace(self) -> str:
        file = self.folder / "trace"
        return file.read_text(errors="replace") if file.exists() else ""

    def calls(self) -> list[tuple[str, int, str]]:
        """Give (call, number among those of its name, path) of the changing calls in the last trace."""
        counts: dict[tuple[str | None, str], int] = {}
        found = []
        for line in self.trace().splitlines():
            match = _CALL.match(line)
            if match is None:
                continue
            process, call, rest = match.groups()
            counts[process, call] = counts.get((process, call), 0) + 1
            path = self._path(call, rest)
            if process is not None and (path or call == "execve"):  # of a tree; which process does what may differ
                path = "of any process"
            if path is not None:
                found.append((call, counts[process, call], path))
        return found

    def _path(self, call: str, rest: str) -> str | None:
        """Give what a call changes, names that differ from run to run made equal; None for what changes nothing of ours."""
        if call in ("vfork", "clone", "clone3", "fork"):
            return "process"
        if call == "execve" or (call == "openat" and not _CREATES.search(rest)):
            return None
        rest = re.sub(r"AT_FDCWD<[^>]*>", "AT_FDCWD", rest)
        texts = re.findall(r'"([^"]*)"', rest) + re.findall(r"<([^>]*)>", rest)
        ours = [text for text in texts if str(self.folder) in text] or [
            f"{self.folder}/{text}" for text in texts if text and not text.startswith("/") and call != "write"
        ]
        if not ours:
            return None
        path = ours[-1].replace(str(self.folder) + "/", "")
        path = re.sub(r"\.parcel-[0-9a-f]{8}", ".parcel-X", path)
        return re.sub(r"init-[0-9a-f]{16}", "init-X", re.sub(r"\.\d{2,}\b", ".PID", path))

    def points(self, command: str, words: Iterable[object], state: str) -> list[Point]:
        """Give the points of a command in a state, from a clean run of it."""
        self.put_back(state)
        done = self.run(words)
        assert done.returncode in (0, 3, 4), done.stderr
        seen: dict[tuple[str, str], int] = {}
        out = []
        if command == "tree":
            return [Point(command, *item, item[1]) for item in sorted(set(self.calls()))]
        for call, number, path in self.calls():
            seen[call, path] = seen.get((call, path), 0) + 1
            out.append(Point(command, call, number, path, seen[call, path]))
        return out

    def kill_at(self, point: Point, words: Iterable[object], state: str) -> bool:
        """Run the command in a state, killed at the point; say whether the kill happened there."""
        self.put_back(state)
        self.run(words, f"--inject={point.call}:signal=KILL:when={point.number}")
        return "+++ killed by SIGKILL +++" in self.trace()

    def refuse_at(
        self, point: Point, words: Iterable[object], state: str, error: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in a state with the call at the point answered by an error."""
        self.put_back(state)
        return self.run(words, f"--inject={point.call}:error={error}:when={point.number}")

    def finish(self) -> None:
        """Step until the run is over, as somebody would."""
        if not (self.root / "run.json").exists():
            from matterstack import initialize_run

            initialize_run(self.file, self.root)
        pause(self.root, (), resume=True)
        deadline = time.monotonic() + 60
        while not step_run(self.root).state.is_over:
            assert time.monotonic() < deadline, {task.task_id: str(task.state) for task in open_run(self.root).tasks}
            time.sleep(0.02)
            self.answer()
            for task in open_run(self.root).tasks:  # postponed by half a minute: the cause is gone, so at once
                if task.reason.startswith("not accepted: "):
                    rerun(self.root, [task.task_id])

    def answer(self) -> None:
        """Answer what waits, as a person, an instrument and a colleague at a closed cluster do."""
        for item in inbox([self.root]):
            folder = self.root / item.folder
            if item.answered:
                continue
            if item.kind == "human":
                respond(find_question(self.root, item.task_id), data={"go": True}, by="ada")
            elif item.kind == "manual":
                (folder / "out").write_text("far\n")
                write_once(folder / "status.json", '{"status": "COMPLETED"}')
            else:
                token = json.loads((folder / "experiment_request.json").read_text())["token"]
                write_once(folder / "experiment_result.json", json.dumps({"status": "COMPLETED", "token": token}))

    def check(self, *, states: dict[str, str] = STATES, ignored: Iterable[str] = ()) -> None:
        """Compare with the clean run: states, results, one start an attempt, journal and ledger, nothing for doctor.

        ``ignored`` are the beginnings of paths of which doctor may find something all the same.
        """
        found = {task.task_id: f"{task.state} {task.reason}" for task in open_run(self.root).tasks}
        assert {name: text.split()[0] for name, text in found.items()} == states, found
        starts = self.witness.read_text().splitlines()
        assert len(starts) == len(set(starts)), starts
        if states == STATES:
            assert (self.root / "results" / "sum").read_text() == "1\n2\n"
            assert (self.root / "results" / "a" / "1").read_text() == "1\n"
            assert (self.root / "results" / "work").read_text() == "far\n"
            assert json.loads((self.root / "results" / "responses" / "ask.json").read_text())["by"] == "ada"
        numbers = [json.loads(line)["seq"] for line in (self.root / "journal.jsonl").read_text().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        findings = [item for item in examine(self.root, digests=True) if item.check != "lock"]
        findings = [item for item in findings if not item.path.startswith((".init-", ".parcel-", *ignored))]
        assert findings == [], findings


def prepare(site: Site) -> None:
    """Make the states from which commands are broken: nothing, initialized, first tasks ended, more ended, over."""
    from matterstack import initialize_run

    site.keep("nothing")
    site.root.mkdir(parents=True)
    site.keep("empty")
    site.root.rmdir()
    initialize_run(site.file, site.root)
    site.keep("fresh")
    step_run(site.root)
    wait(
        lambda: all(
            (site.root / "tasks" / t / "attempt-1" / "exit.json").exists()
            for t in ("a/1", "a/2", "soft", "again", "late")
        )
    )
    time.sleep(0.2)  # the shells behind them end as well
    site.keep("ended")
    step_run(site.root)
    wait(lambda: all((site.root / "tasks" / t / "exit.json").exists() for t in ("sum/attempt-1", "again/attempt-2")))
    time.sleep(0.2)
    site.keep("more")
    site.finish()
    site.keep("over")
    site.put_back("more")
    prepare_people(site)
    site.put_back("ended")
    site.keep("edited")
    site.put_back("over")
    site.keep("edited-over")
    site.put_back("ended")
    pause(site.root, ())
    site.keep("paused")


def prepare_people(site: Site) -> None:
    """Make the states in which people were asked, have answered, and have brought a parcel back."""
    site.keep("asked")
    export_parcel(site.root, ["work"], site.folder / "out.tar")
    subprocess.run(["tar", "xf", "out.tar"], cwd=site.folder, check=True)
    (parcel,) = site.folder.glob("t-parcel-*")
    subprocess.run(["sh", "run.sh"], cwd=parcel, check=True, capture_output=True)
    subprocess.run(["sh", "run.sh", "--pack", site.folder / "back.tar"], cwd=parcel, check=True, capture_output=True)
    site.keep("packed")
    site.put_back("asked")
    site.answer()
    site.keep("answered")


def wait(done: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# name -> (words of the command, states in which it is broken). "worker TASK" is the worker of a task that a step
# starts, "tree ..." the command and all that it starts, each at its N-th call, "newer ..." the command of a MatterStack whose ledger has one more version.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "init": (("init", "campaign.yaml"), ("nothing",)),
    "init-in": (("init", "campaign.yaml", "--root", "runs/t"), ("empty",)),
    "run-file": (("run", "campaign.yaml"), ("nothing",)),
    "step": (("step", "runs/t"), ("fresh", "ended", "more", "paused", "over")),
    "run": (("run", "runs/t"), ("more", "ended", "fresh")),
    "rerun": (("rerun", "runs/t", "a/1"), ("over", "more")),
    "rerun-down": (("rerun", "runs/t", "a/1", "--downstream"), ("over",)),
    "rerun-all": (("rerun", "runs/t", "*", "--downstream"), ("over",)),
    "cancel": (("cancel", "runs/t", "sum"), ("fresh", "ended")),
    "answered-step": (("step", "runs/t"), ("answered",)),
    "respond": (("respond", "runs/t", "ask", "--data", "go=true", "--by", "ada"), ("asked",)),
    "export": (("parcel", "export", "runs/t", "-o", "work.parcel"), ("asked",)),
    "import": (("parcel", "import", "runs/t", "back.tar"), ("packed",)),
    "withdraw": (("cancel", "runs/t", "ask", "film", "work"), ("asked",)),
    "pause": (("pause", "runs/t"), ("ended",)),
    "resume": (("resume", "runs/t"), ("paused",)),
    "amend": (("amend", "runs/t", "--yes"), ("edited", "edited-over")),
    "complete": (("complete", "runs/t", "soft", "--output", "o=data.txt", "--why", "by hand"), ("over",)),
    "doctor": (("doctor", "runs/t", "--fix"), ("lost",)),
    "worker": (("worker", "a/1"), ("fresh",)),
    "worker-limit": (("worker", "late"), ("fresh",)),
    "tree": (("tree", "step", "runs/t"), ("fresh", "ended")),
    "migration": (("newer", "step", "runs/t"), ("ended", "over")),
    "adopt": (("adopt", "runs/t", "--assume", "keep"), ("clone",)),
}


def prepare_damage(site: Site) -> None:
    """Make the states of a lost ledger and of a clone, both with ended attempts that nobody has looked at."""
    site.put_back("ended")
    (site.root / "state.sqlite").unlink()
    site.keep("lost")
    (site.root / "run.lock").unlink()
    site.keep("clone")


def after(command: str, site: Site) -> None:
    """Do what a person does after a killed command: the same again where it is a person's, then step until quiet."""
    words = COMMANDS[command][0]
    if command == "export":
        words = (*words, "--again")
        (site.folder / "work.parcel").unlink(missing_ok=True)
    if command == "migration":
        with next_version():
            site.finish()
            site.check()
            with SQLiteStateStore(site.root / "state.sqlite") as store:
                assert store.db.execute("SELECT note FROM run").fetchone() == ("new",)
        with SQLiteStateStore(site.root / f"state.sqlite.v{SCHEMA_VERSION}-backup") as backup:  # as it was
            assert integrity_problem(backup) == ""
        assert not list(site.root.glob("*.part*"))
        return
    if command == "amend":  # all of it or nothing
        taken = (site.root / "state.sqlite").exists() and _version(site) == 2
        ids = {task.task_id for task in open_run(site.root).tasks}
        assert ("a/3" in ids, "a/2" in ids) == (taken, not taken)
    if command not in (
        "init",
        "init-in",
        "run-file",
        "step",
        "answered-step",
        "run",
        "tree",
        "worker",
        "worker-limit",
    ):
        subprocess.run(
            [sys.executable, "-m", "matterstack", *words], cwd=site.folder, capture_output=True, check=False, timeout=60
        )
    site.finish()
    if command == "amend":
        assert (site.root / "source" / "data.txt").read_text() == "new\n"
        assert not (site.root / "results" / "a" / "2").is_symlink()
        states = {name: state for name, state in STATES.items() if name != "a/2"}
        site.check(states={**states, "a/3": "COMPLETED"})
    elif command == "complete":
        assert (site.root / "results" / "soft.txt").read_text() == "old\n"
        site.check(states={**STATES, "soft": "COMPLETED"})
    elif command == "cancel":
        site.check(states={**STATES, "sum": "CANCELLED"})
    elif command == "withdraw":
        site.check(states={**STATES, "ask": "CANCELLED", "film": "CANCELLED", "work": "CANCELLED", "go": "BLOCKED"})
    else:
        site.check()


def _version(site: Site) -> int:
    with SQLiteStateStore(site.root / "state.sqlite") as store:
        return store.newest_version()


def refused_well(done: subprocess.CompletedProcess[str]) -> str:
    """Say what is wrong with how a command took an error of the system, "" if nothing is."""
    if done.returncode not in (0, 1, 3, 4, 75):
        return f"exit code {done.returncode}: {done.stderr[-300:]}"
    if "Traceback" in done.stderr:
        return f"a traceback: {done.stderr[-600:]}"
    if done.returncode == 1 and "error: " not in done.stderr and not done.stdout:  # doctor prints its findings
        return f"no error in words: {done.stderr!r}"
    return ""


__all__ = ["COMMANDS", "MatterStackError", "Point", "Site", "after", "prepare", "prepare_damage", "refused_well"]
