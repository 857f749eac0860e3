"""Processes of this machine: who they are, whether they live, and how they are ended.

A process is known by machine, boot, pid namespace, pid and start time; anything less is somebody else's process
sooner or later. Linux reads /proc; elsewhere `ps` answers.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from matterstack.deferred import dataclass

KILL_AFTER_S = 10.0
_PROC = sys.platform.startswith("linux")


@dataclass(frozen=True)
class Place:
    """Where processes live: the same pid means the same process only within one place."""

    machine: str
    boot: str
    pid_namespace: str
    host: str

    def to_json(self) -> dict[str, str]:
        return {"machine": self.machine, "boot": self.boot, "pid_ns": self.pid_namespace, "host": self.host}


_ABSENT = (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError)  # and will be the next time


def _read(path: str) -> str:
    """Read a small file of the system, "" if there is none. Raises OSError if that cannot be told just now."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except _ABSENT:
        return ""


@cache
def this_place() -> Place:
    """Return where this process lives. Raises OSError if it cannot be told: a boot that is not known is no reboot."""
    host = socket.gethostname()
    machine = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id") or host
    boot = _read("/proc/sys/kernel/random/boot_id")
    if not boot and not _PROC:
        boot = _run("sysctl", "-n", "kern.boottime")
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return Place(machine, boot, namespace, host)


def _run(*argv: str) -> str:
    import subprocess  # of other systems than Linux

    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def start_of(pid: int) -> str | None:
    """Return the start time of a process, also of one that has ended and waits for its parent; None if there is none.

    Raises OSError if that cannot be told.
    """
    if not _PROC:
        return _run("ps", "-o", "lstart=", "-p", str(pid)) or None
    fields = _stat(pid)
    return None if fields is None else fields[19]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the name, None if there is no such process to be seen. Source: proc(5).

    Raises OSError if that cannot be told.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        if not os.path.exists("/proc/self/stat"):
            raise OSError(errno.ENOENT, "is not mounted, so no process can be seen", "/proc") from None
        return None
    return text.rpartition(") ")[2].split()


def hidden_owner(path: Path) -> str:
    """Return the owner of a file if processes of that user cannot be seen by us, "" if they can.

    Clusters mount /proc with `hidepid`. Raises OSError if the owner cannot be told.
    """
    owner = path.lstat().st_uid
    if not _PROC or os.geteuid() in (0, owner) or os.access("/proc/1/stat", os.R_OK):
        return ""
    import pwd

    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"


def is_alive(pid: int, start: str) -> bool:
    """Return whether the process with this pid and start time runs. Raises OSError if that cannot be told."""
    if not _PROC:
        return bool(start) and start_of(pid) == start
    fields = _stat(pid)
    return fields is not None and fields[0] not in ("Z", "X") and fields[19] == start


@dataclass(frozen=True)
class Session:
    """The processes of one attempt: what its worker started, with what tells them from strangers."""

    leader: int  # the worker, or the wrapper of an earlier version; 0 if it is not known, or is at work elsewhere
    start: str
    command: int  # leader of the session of the command, 0 if it is not known
    command_start: str
    folder: str  # of the attempt
    marks: frozenset[bytes]  # NAME=VALUE of the environment


def session_members(session: Session, *, marked: bool = False) -> set[int]:
    """Return the live processes of an attempt, without its worker; with ``marked`` only those that are its own for certain.

    Raises OSError if that cannot be told.
    """
    return _members([session], marked=marked)


def _members(sessions: Iterable[Session], *, marked: bool) -> set[int]:
    """Return the live processes of attempts, by one look at all processes.

    While the worker is there, they are its descendants: it is the child subreaper. If it is gone, a process is the
    attempt's own for certain (``marked``) by its environment, wherever it went, or in the session of the command: while
    that leads it, or in its folder. One that is only in a session of that number may be: the number may have been used
    again by a session whose leader is gone as well. Nobody is ended on less, and nothing is called gone on less.
    """
    wanted = list(sessions)
    if not _PROC:
        numbers = {number for session in wanted for number in (session.leader, session.command) if number > 0}
        rows = (line.split() for line in _run("ps", "-A", "-o", "pid=,pgid=").splitlines())
        found = {int(row[0]) for row in rows if len(row) == 2 and int(row[1]) in numbers}
        return found - {session.leader for session in wanted}
    table = _all_processes()
    children: dict[int, list[int]] = {}
    for pid, fields in table.items():
        children.setdefault(int(fields[1]), []).append(pid)
    members: set[int] = set()
    alive = {pid for pid, fields in table.items() if fields[0] not in ("Z", "X")}
    for session in wanted:
        leads = session.leader in alive and table[session.leader][19] == session.start
        if leads and works_in(session.leader, session.folder):
            members |= _descendants(session.leader, children)
            members |= {pid for pid in alive if int(table[pid][3]) == session.leader}
            members.discard(session.leader)
            continue
        members |= {pid for pid in alive if pid != session.leader and _has_marks(pid, session)}
        for number, start in ((session.leader, session.start), (session.command, session.command_start)):
            if number < 1 or (number in table and table[number][19] != start):
                continue  # not known, or another process's by now: none is given away that a session still has
            inside = {pid for pid in alive if int(table[pid][3]) == number and pid != session.leader}
            if number not in table and marked:
                inside = {pid for pid in inside if _is_within(pid, session.folder)}
            members |= inside
    return members & alive


def _descendants(pid: int, children: Mapping[int, Sequence[int]]) -> set[int]:
    found: set[int] = set()
    new = list(children.get(pid, ()))
    while new:
        found |= set(new)
        new = [child for parent in new for child in children.get(parent, ())]
    return found


def _all_processes() -> dict[int, list[str]]:
    """Return pid -> the fields of /proc/PID/stat behind the name. Raises OSError if that cannot be told."""
    rows = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return {pid: fields for pid, fields in rows if fields is not None and len(fields) > 19}


def works_in(worker: int, folder: str) -> bool:
    """Return whether a worker is in an attempt's folder: it goes there for each, and away when that has ended.

    One that cannot be looked at is taken to be.
    """
    try:
        return not _PROC or os.readlink(f"/proc/{worker}/cwd").removesuffix(" (deleted)") == folder
    except OSError:
        return True


def _has_marks(pid: int, session: Session) -> bool:
    try:
        return bool(session.marks) and session.marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except _ABSENT:
        return False


def _is_within(pid: int, folder: str) -> bool:
    """Return whether a process works in a folder. By itself that proves nothing: a user's shell may be there too."""
    try:
        return f"{os.readlink(f'/proc/{pid}/cwd')}/".startswith(f"{folder}/")
    except _ABSENT:
        return False


def find_in_folder(program: str, folder: str) -> list[int]:
    """Return live processes that run a program of this file name in a folder, or with it as an argument. Raises OSError."""
    if not _PROC:
        lines = _run("ps", "-A", "-o", "pid=,args=").splitlines()
        return [int(line.split()[0]) for line in lines if folder in line and f"/{program} " in line]
    word, ending = os.fsencode(folder), os.fsencode(f"/{program}")
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if any(item.endswith(ending) for item in words) and (
                    word in words or os.readlink(f"/proc/{name}/cwd") == folder
                ):
                    found.append(int(name))
            except _ABSENT:
                continue
    return found


def end_sessions(sessions: Iterable[Session]) -> None:
    """End all processes of attempts: TERM, KILL 10 s later. Their workers stay, and record the end."""
    wanted = list(sessions)
    told: set[int] = set()
    deadline = time.monotonic() + KILL_AFTER_S
    pause = 0.005
    while (members := _members(wanted, marked=True)) and time.monotonic() < deadline:
        for pid in members - told:  # also those that were started meanwhile
            _signal(pid, signal.SIGTERM)
        told |= members
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    deadline = time.monotonic() + 2.0
    while (members := _members(wanted, marked=True)) and time.monotonic() < deadline:
        for pid in members:
            _signal(pid, signal.SIGKILL)
        time.sleep(0.02)


def end_worker(handle: Mapping[str, Any]) -> None:
    """Ask the worker of an attempt to stop reading what its command made."""
    pid, start = handle.get("pid"), handle.get("start")
    if isinstance(pid, int) and isinstance(start, str) and is_alive(pid, start):
        _signal(pid, signal.SIGTERM)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


@cache
def machine_slots() -> tuple[int, int]:
    """Return this machine's (cpus, bytes of memory) that may be used: what affinity and the cgroup's limits leave."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, controllers in _cgroups():
        with suppress(OSError, ValueError, ZeroDivisionError):
            if "" in controllers:
                quota, period, *_ = (_read(f"{folder}/cpu.max") or "max 1").split()
                cpus = cpus if quota == "max" else min(cpus, max(1, int(quota) // int(period)))
                memory = min(memory, _limit(f"{folder}/memory.max"))
            if "cpu" in controllers:
                allowed = int(_read(f"{folder}/cpu.cfs_quota_us") or -1)
                whole = int(_read(f"{folder}/cpu.cfs_period_us") or 1)
                cpus = cpus if allowed <= 0 else min(cpus, max(1, allowed // whole))
            if "memory" in controllers:
                memory = min(memory, _limit(f"{folder}/memory.limit_in_bytes"))
    return cpus, memory


@cache
def machine_gpus() -> tuple[str, ...]:
    """Return the ids of this machine's GPUs: those that CUDA_VISIBLE_DEVICES names, else a number for each device of NVIDIA.

    Source: CUDA C++ Programming Guide, CUDA environment variables.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name for name in (item.strip() for item in named.split(",")) if name and name != "-1")
    found = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted((name for name in found if name.isdigit()), key=int))


def _limit(path: str) -> int:
    """Return the limit that a file of a cgroup holds, a very large number without one."""
    text = _read(path)
    return int(text) if text.isdigit() else 2**63


def _cgroups() -> Iterator[tuple[str, list[str]]]:
    """Yield the folders of this process's cgroups and of those around them, with their controllers; [""] is version 2.

    Source: kernel documentation, cgroup-v2 (cpu.max, memory.max), cgroup-v1 (cpu.cfs_quota_us, memory.limit_in_bytes).
    """
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        mount = "" if not controllers else f"/{controllers}"
        while True:
            yield f"/sys/fs/cgroup{mount}{path.rstrip('/')}", controllers.split(",")
            if path in ("", "/"):
                break
            path = os.path.dirname(path)


@cache
def oom_counter() -> str:
    """Return the file in which the kernel counts kills for memory in this process's cgroup, "" without one.

    Raises OSError if that cannot be told just now. Source: kernel documentation, cgroup-v2 (memory.events) and cgroup-v1/memory (memory.oom_control).
    """
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            file = f"/sys/fs/cgroup{path}/memory.events"
        elif "memory" in controllers.split(","):
            file = f"/sys/fs/cgroup/memory{path}/memory.oom_control"
        else:
            continue
        if "oom_kill " in _read(file):
            return file
    return ""


def end_of_leader(session: Session) -> int | None:
    """Return a descriptor that becomes readable when a session's leader ends.

    None if the leader is gone or the system has no pidfd: then the loop looks again after a while. Raises OSError.
    """
    if not hasattr(os, "pidfd_open") or not is_alive(session.leader, session.start):
        return None
    return _pidfd(session.leader)


def _pidfd(pid: int) -> int | None:
    opener: Any = os.pidfd_open  # Linux only
    try:
        fd: int = opener(pid)
    except ProcessLookupError:  # it has ended meanwhile
        return readable_now()
    except OSError:  # no more descriptors: the loop looks again after a while
        return None
    return fd


def readable_now() -> int:
    """Return a descriptor that is readable at once."""
    return os.open(os.devnull, os.O_RDONLY)
