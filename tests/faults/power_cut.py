"""States that a power cut may leave, made from what a command did to the disk, each recovered with the ordinary commands.

    python -m tests.faults.power_cut [--workers N] [--variants N] [COMMAND...]

A command runs under strace, which records its writes, renames, links, unlinks, folders made, truncations and syncs. At
each of them the power may go. What was synced is there then; of the rest anything may be: of a file's writes since its
last sync any part, the last one torn; of the changes to names in a folder since its last sync any part. What POSIX allows
is wider than any one file system, and that is what is built here. Source: POSIX.1-2017, fsync(); Pillai et al., "All file
systems are not created equal", OSDI 2014, section 2.

What the commands of tasks wrote is not recorded: it is either all there, or not at all. Nothing that was running runs any
more, and the boot is another one.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

from matterstack import initialize_run, open_run, step_run
from matterstack.care.checks import examine
from matterstack.errors import MatterStackError, RunRootError
from matterstack.operators import processes
from matterstack.orchestration import session
from matterstack.orchestration.actions import pause, rerun
from matterstack.people.answer import find_question, respond
from matterstack.people.inbox import inbox
from matterstack.run_root.layout import attempt_folder
from tests.faults.harness import NEXT_VERSION, TOP, Site, wait
from tests.faults.next_version import next_version

CAMPAIGN = """
matterstack: 1
name: t
files: [data.txt]
operators: {local: {kind: local, slots: {cpus: 8}}, board: {kind: human}}
tasks:
  a: {retries: 1, matrix: {i: [1, 2, 3]}, shell: sh, command: "echo ${{ task.id }} ${{ task.attempt }} >> WITNESS; echo ${{ matrix.i }} > out", outputs: {o: {file: out, path: "a/${{ matrix.i }}"}}}
  sum: {retries: 1, inputs: {x: "a/*"}, shell: sh, command: "echo sum ${{ task.attempt }} >> WITNESS; cat ${{ inputs.x }} > out", outputs: {o: {file: out, path: sum}}}
  ask: {operator: board, instructions: "Shall it go on?", response_schema: {type: object, required: [go]}}
"""
STATES = {"a/1": "COMPLETED", "a/2": "COMPLETED", "a/3": "COMPLETED", "sum": "COMPLETED", "ask": "COMPLETED"}
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "init": (("init", "campaign.yaml"), ("nothing",)),
    "run-file": (("run", "campaign.yaml"), ("nothing",)),
    "step": (("step", "runs/t"), ("fresh", "ended", "answered", "over")),
    "run": (("run", "runs/t"), ("fresh", "ended")),
    "respond": (("respond", "runs/t", "ask", "--data", "go=true", "--by", "ada"), ("ended",)),
    "rerun": (("rerun", "runs/t", "a/1", "--downstream"), ("over",)),
    "pause": (("pause", "runs/t"), ("ended",)),
    "migration": (("newer", "step", "runs/t"), ("ended", "over")),
}
_RECORDED = (
    "openat", "write", "pwrite64", "ftruncate", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
    "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "fsync", "fdatasync", "close", "dup", "dup2", "dup3", "fcntl", "sendfile",
    "copy_file_range",
)  # fmt: skip
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
_AFTER_THE_CUT = "00000000-power-cut"  # the boot


# --- a disk ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Node:
    """A file, folder or link; of a file ``synced`` is what is certain, ``pending`` the writes since."""

    kind: str  # "file", "folder" or "link"
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (length, None)

    def content(self, chosen: Iterable[tuple[int, bytes | None]]) -> bytes:
        data = bytearray(self.synced)
        for offset, part in chosen:
            if part is None:
                del data[offset:]
                data.extend(b"\0" * (offset - len(data)))
            else:
                data.extend(b"\0" * (offset - len(data)))
                data[offset : offset + len(part)] = part
        return bytes(data)


@dataclass(frozen=True)
class Naming:
    """A change to names: ``node`` is at ``path`` from then on, and no longer at ``gone``."""

    path: str | None
    node: Node | None
    gone: str | None = None

    def folders(self) -> set[str]:
        return {os.path.dirname(path) for path in (self.path, self.gone) if path is not None}


class Disk:
    """What is below a folder: names and contents that are certain, and what has happened since."""

    def __init__(self, top: Path) -> None:
        self.names: dict[str, Node] = {}
        self.pending: list[Naming] = []
        for path in sorted(top.rglob("*")):
            name = path.relative_to(top).as_posix()
            if path.is_symlink():
                self.names[name] = Node("link", os.fsencode(os.readlink(path)))
            elif path.is_dir():
                self.names[name] = Node("folder")
            else:
                self.names[name] = Node("file", path.read_bytes())

    def now(self) -> dict[str, Node]:
        return named(self.names, self.pending)

    def change(self, change: Naming) -> None:
        self.pending.append(change)

    def sync(self, path: str, node: Node) -> None:
        """Make certain what is in a file, or which names are in a folder."""
        if node.kind == "file":
            node.synced, node.pending = node.content(node.pending), []
            return
        done = [change for change in self.pending if path in change.folders()]
        self.names = named(self.names, done)
        self.pending = [change for change in self.pending if change not in done]

    def copy(self) -> Disk:
        known: dict[int, Node] = {}

        def same(node: Node) -> Node:
            return known.setdefault(id(node), replace(node, pending=list(node.pending)))

        other = Disk.__new__(Disk)
        other.names = {path: same(node) for path, node in self.names.items()}
        other.pending = [replace(c, node=None if c.node is None else same(c.node)) for c in self.pending]
        return other

    def left(self, variant: int, chance: random.Random) -> dict[str, tuple[str, bytes]]:
        """Give what is there after a power cut: {path: (kind, content)}."""
        if variant == 0:  # nothing but what is certain
            changes, part = [], 0
        elif variant == 1:  # all of it: as if killed
            changes, part = self.pending, 2
        elif variant == 2:  # names, but nothing in files that was not synced
            changes, part = self.pending, 0
        elif variant == 3:  # what is in files, but no name that was not synced
            changes, part = [], 2
        else:
            most = chance.choice((0.2, 0.5, 0.9))
            changes, part = [change for change in self.pending if chance.random() < most], 1
        return {
            path: (node.kind, node.content(_some(node.pending, part, chance)))
            for path, node in reachable(named(self.names, changes)).items()
        }


def named(names: dict[str, Node], changes: Iterable[Naming]) -> dict[str, Node]:
    found = dict(names)
    for change in changes:
        if change.gone is not None:
            _move(found, change.gone, change.path)
        if change.path is not None and change.node is not None:
            found[change.path] = change.node
    return found


def _move(names: dict[str, Node], old: str, new: str | None) -> None:
    """Take a name away; what is in a folder goes with it."""
    names.pop(old, None)
    for path in [path for path in names if path.startswith(f"{old}/")]:
        node = names.pop(path)
        if new is not None:
            names[f"{new}{path.removeprefix(old)}"] = node


def reachable(names: dict[str, Node]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for path in sorted(names):
        above = os.path.dirname(path)
        if not above or (above in found and found[above].kind == "folder"):
            found[path] = names[path]
    return found


def _some(writes: list[tuple[int, bytes | None]], part: int, chance: random.Random) -> list[tuple[int, bytes | None]]:
    """Give none, some or all of the writes to a file; of some, the last may be torn at the end of a sector or anywhere."""
    if part != 1:
        return writes if part else []
    chosen = [item for item in writes if chance.random() < 0.7]
    if chosen and chosen[-1][1] and chance.random() < 0.6:
        offset, data = chosen[-1]
        assert data is not None
        cut = chance.randrange(len(data)) if chance.random() < 0.5 else len(data) // 512 * 512
        chosen[-1] = (offset, data[:cut])
    return chosen


# --- what a command did ---------------------------------------------------------------------------------------------


class Recording:
    """A command's calls, played on a disk one after the other."""

    def __init__(self, site: Site, words: tuple[str, ...], state: str) -> None:
        site.put_back(state)
        self.top = str(site.folder)
        self.disk = Disk(site.folder / "runs") if (site.folder / "runs").exists() else Disk(site.folder / "states")
        if not (site.folder / "runs").exists():
            self.disk.names = {}
        self.open: dict[int, tuple[str, Node, int]] = {}  # descriptor -> path, node, position
        trace = site.folder / "trace"
        program = [str(NEXT_VERSION), *words[1:]] if words[0] == "newer" else ["-m", "matterstack", *words]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(TOP)}
        done = subprocess.run(
            ["strace", "-q", "-xx", "-s", "100000000", "-o", trace, "-e", f"trace={','.join(_RECORDED)}", sys.executable, *program],
            cwd=site.folder, capture_output=True, text=True, timeout=300, env=env,
        )  # fmt: skip
        assert done.returncode in (0, 3, 4), done.stderr
        time.sleep(0.3)  # commands of tasks that go on end as well
        self.calls = [match.groups() for line in trace.open() if (match := _CALL.match(line)) is not None]
        self.files = Disk(site.folder / "runs")  # as they are in the end, with all that tasks wrote

    def points(self) -> Iterator[Disk]:
        """Give the disk after each call that changed something."""
        for name, arguments, result in self.calls:
            if int(result) >= 0 and self._play(name, arguments, int(result)):
                yield self.disk

    def _path(self, text: str) -> str | None:
        """Give a path below runs/ relative to it, None for any other."""
        path = os.path.normpath(os.path.join(self.top, text))
        base = f"{self.top}/runs"
        return path[len(base) + 1 :] if path.startswith(f"{base}/") else "" if path == base else None

    def _play(self, name: str, arguments: str, result: int) -> bool:
        texts = [bytes.fromhex(t.replace("\\x", "")) for t in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        numbers = [int(n) for n in re.findall(r"(?:^|, )(-?\d+)(?=,|$)", re.sub(r'"[^"]*"', "T", arguments))]
        if name == "openat":
            return self._opened(os.fsdecode(texts[0]), arguments, result)
        if name in ("dup", "dup2", "dup3") or (name == "fcntl" and "F_DUPFD" in arguments):
            if numbers[0] in self.open:
                self.open[result] = self.open[numbers[0]]
            return False
        if name == "close":
            self.open.pop(numbers[0], None)
            return False
        if name in ("write", "pwrite64", "ftruncate", "fsync", "fdatasync", "sendfile", "copy_file_range"):
            return self._written(name, texts, numbers, arguments, result)
        return self._renamed(name, [self._path(os.fsdecode(text)) for text in texts], texts)

    def _opened(self, text: str, arguments: str, fd: int) -> bool:
        self.open.pop(fd, None)
        path = self._path(text)
        if path is None:
            return False
        now = self.disk.now()
        made = path not in now and "O_CREAT" in arguments
        if made:
            self.disk.change(Naming(path, Node("file")))
            now = self.disk.now()
        node = now.get(path, Node("folder") if path == "" else None)
        if node is None:
            return False  # of a task
        self.open[fd] = (path, node, 0)
        if "O_TRUNC" in arguments and not made:
            node.pending.append((0, None))
            return True
        return made

    def _written(self, name: str, texts: list[bytes], numbers: list[int], arguments: str, result: int) -> bool:
        if numbers[0] not in self.open:
            return False
        path, node, position = self.open[numbers[0]]
        if name in ("fsync", "fdatasync"):
            self.disk.sync(path, node)
        elif name == "ftruncate":
            node.pending.append((numbers[1], None))
        elif name == "pwrite64":
            node.pending.append((numbers[-1], texts[0][:result]))
        elif name == "write":
            node.pending.append((position, texts[0][:result]))
            self.open[numbers[0]] = (path, node, position + result)
        else:  # a copy: its text is not in the trace
            name = os.path.basename(path)
            whole = next(
                n.synced for p, n in self.files.names.items() if os.path.basename(p) == name and n.kind == "file"
            )
            node.pending.append((position, whole[position : position + result]))
            self.open[numbers[0]] = (path, node, position + result)
        return True

    def _renamed(self, name: str, paths: list[str | None], texts: list[bytes]) -> bool:
        now = self.disk.now()
        if name.startswith("mkdir") and paths[0]:
            self.disk.change(Naming(paths[0], Node("folder")))
        elif name.startswith("symlink") and paths[1] is not None:
            self.disk.change(Naming(paths[1], Node("link", texts[0])))
        elif name.startswith("link") and paths[1] is not None and paths[0] in now:
            self.disk.change(Naming(paths[1], now[str(paths[0])]))
        elif name.startswith(("unlink", "rmdir")) and paths[0] is not None:
            self.disk.change(Naming(None, None, gone=paths[0]))
        elif name.startswith("rename") and paths[0] in now and paths[1] is not None:
            self.disk.change(Naming(paths[1], now[str(paths[0])], gone=paths[0]))
        else:
            return False
        return True


# --- recovery -------------------------------------------------------------------------------------------------------


def lay(left: dict[str, tuple[str, bytes]], runs: Path) -> None:
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    for path, (kind, content) in left.items():
        target = runs / path
        if kind == "folder":
            target.mkdir()
        elif kind == "link":
            target.symlink_to(os.fsdecode(content))
        else:
            target.write_bytes(content)


def with_tasks(left: dict[str, tuple[str, bytes]], files: Disk) -> dict[str, tuple[str, bytes]]:
    """Add what the commands of tasks wrote to the folders of attempts that are whole."""
    folders = {os.path.dirname(path) for path in left if path.endswith("/task.json")}
    found = dict(left)
    for path, node in files.names.items():
        for folder in folders:
            name = os.path.basename(path)
            ours = name == "response.json" or name.startswith(".")
            if path.startswith(f"{folder}/") and path not in found and not ours:
                found[path] = (node.kind, node.synced)
    return found


@contextmanager
def another_boot() -> Iterator[None]:
    place = replace(processes.this_place(), boot=_AFTER_THE_CUT)
    with (
        mock.patch.object(processes, "this_place", lambda: place),
        mock.patch.object(session, "boot_id", lambda: _AFTER_THE_CUT),
        mock.patch("matterstack.storage.run_lock.boot_id", lambda: _AFTER_THE_CUT),
    ):
        yield


class CutSite(Site):
    """A site whose run is recovered as somebody does who comes in the next morning."""

    def recover(self, told: str) -> str:
        """Carry the run on until it is over; give what is wrong, "" for nothing. ``told`` is a command that had ended."""
        self.witness.write_text("")
        broken = self._broken_promise(told)
        if broken:
            return broken
        if not (self.root / "run.json").exists():
            shutil.rmtree(self.root, ignore_errors=True)
            initialize_run(self.file, self.root)
        pause(self.root, (), resume=True)
        wrong = self._carry_on()
        if not wrong and (gone := self._outputs_gone()):  # of tasks, which sync nothing: told, with what to type
            rerun(self.root, gone, downstream=True)
            wrong = self._carry_on()
        if wrong:
            return wrong
        self.check(states=STATES, ignored=self._folders_gone())
        sums = (self.root / "results" / "sum").read_text()
        return "" if sums == "1\n2\n3\n" else f"sum is {sums!r}"

    def _broken_promise(self, told: str) -> str:
        """Give what a command had told its user and what is not so, "" for nothing."""
        if told in ("init", "run-file") and not (self.root / "run.json").exists():
            return "a run root that was made is gone"
        if told in ("", "init", "run-file", "step", "run", "migration"):
            return ""
        view = open_run(self.root)
        states = {task.task_id: str(task.state) for task in view.tasks}
        if told == "pause" and view.state != "PAUSED":
            return "the run is not paused"
        if told == "rerun" and states["a/1"] == "COMPLETED":
            return "a task that was to be run again is not"
        if told == "respond" and not any(item.answered for item in inbox([self.root]) if item.task_id == "ask"):
            return "an answer that was recorded is gone"
        return ""

    def _outputs_gone(self) -> list[str]:
        """Give the tasks whose outputs `doctor` misses."""
        found = [item.path for item in examine(self.root, digests=True) if item.check == "outputs"]
        return sorted({path.removeprefix("tasks/").partition("/attempt-")[0] for path in found})

    def _folders_gone(self) -> list[str]:
        """Give the folders of attempts of which something of ours is missing: it is not synced, and nothing needs it."""
        folders = [
            attempt_folder(task.task_id, number)
            for task in open_run(self.root).tasks
            for number in range(1, task.attempts + 1)
        ]
        return [folder for folder in folders if not (self.root / folder / "task.json").is_file()]

    def _carry_on(self) -> str:
        deadline = time.monotonic() + 60
        while not step_run(self.root).state.is_over:
            if time.monotonic() > deadline:
                return f"it does not end: { ({task.task_id: task.reason for task in open_run(self.root).tasks}) }"
            time.sleep(0.005)
            for item in inbox([self.root]):
                if not item.answered:
                    self.answer_or_ask_again(item.task_id)
        return ""

    def answer_or_ask_again(self, task: str) -> None:
        """Answer; where the question was lost, do what the message says."""
        try:
            respond(find_question(self.root, task), data={"go": True}, by="ada")
        except RunRootError as error:
            assert str(error).endswith("or rerun the task"), error
            rerun(self.root, [task])


def make_site(folder: Path) -> CutSite:
    site = CutSite(folder, CAMPAIGN)
    site.keep("nothing")
    initialize_run(site.file, site.root)
    site.keep("fresh")
    step_run(site.root)
    wait(lambda: all((site.root / "tasks" / t / "attempt-1" / "exit.json").exists() for t in ("a/1", "a/2", "a/3")))
    time.sleep(0.2)
    site.keep("ended")
    respond(find_question(site.root, "ask"), data={"go": True}, by="ada")
    site.keep("answered")
    while not step_run(site.root).state.is_over:
        time.sleep(0.02)
    site.keep("over")
    return site


def cut(command: str, state: str, part: int, parts: int, variants: int) -> tuple[int, int, list[str]]:
    """Cut the power at each point of a command; give how many points and different states there were, and what went wrong."""
    failures: list[str] = []
    logging.getLogger("matterstack").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        site = make_site(Path(name))
        recording = Recording(site, COMMANDS[command][0], state)
        seen, points = set[str](), 0
        disks = [disk.copy() for disk in recording.points()]
        for number, disk in enumerate(disks):
            points += 1
            for variant in range(variants):
                chance = random.Random(f"{command} {state} {number} {variant}")
                left = disk.left(variant, chance)
                if variant % 2 or command in ("rerun", "pause", "respond"):
                    left = with_tasks(left, recording.files)
                last = number == len(disks) - 1  # what the command has told its user must hold then
                digest = hashlib.sha256(repr((sorted(left.items()), last)).encode()).hexdigest()
                if digest in seen:
                    continue
                seen.add(digest)
                if len(seen) % parts != part:
                    continue
                lay(left, site.folder / "runs")
                wrong = _recovered(site, command, last=last)
                if wrong:
                    failures.append(
                        f"{command} ({state}), after call {number} of {len(disks)}, variant {variant}: {wrong}; "
                        f"run.lock was {left.get('t/run.lock')}"
                    )
        return points, len(seen), failures


def _recovered(site: CutSite, command: str, *, last: bool) -> str:
    told = command if last else ""
    try:
        with another_boot():
            if command == "migration":
                with next_version():
                    return site.recover(told)
            return site.recover(told)
    except (MatterStackError, AssertionError, OSError, ValueError, KeyError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--variants", type=int, default=10, help="states for each call; the first four are fixed")
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], metavar="COMMAND")
    options = parser.parse_args()
    began, total, wrong = time.monotonic(), 0, list[str]()
    with ProcessPoolExecutor(options.workers) as pool:
        parts = [
            (c, s, [pool.submit(cut, c, s, n, options.workers, options.variants) for n in range(options.workers)])
            for c in options.commands or COMMANDS
            for s in COMMANDS[c][1]
        ]
        for command, state, jobs in parts:
            found = [job.result() for job in jobs]
            failures = [text for _, _, texts in found for text in texts]
            states = found[0][1]
            total += states
            wrong += failures
            print(f"{command} ({state}): {found[0][0]} calls, {states} states, {len(failures)} failures", flush=True)
            for text in failures[:10]:
                print(f"    {text}", flush=True)
    print(f"{total} states in {time.monotonic() - began:.0f} s, {len(wrong)} failures")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
