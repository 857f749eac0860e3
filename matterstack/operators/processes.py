"""Processes of this machine: who they are, whether they live, and how they are ended.

A process is known by machine, boot, pid namespace, pid and start time; anything less is somebody else's process
sooner or later. Linux reads /proc; elsewhere `ps` answers.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
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
    """The processes of one attempt: a session that its wrapper leads, with what tells them from strangers."""

    leader: int
    start: str
    folder: str  # of the attempt
    marks: frozenset[bytes]  # NAME=VALUE of the environment


def session_members(session: Session, *, marked: bool = False) -> set[int]:
    """Return the live processes of an attempt's session; with ``marked`` only those that are its own for certain.

    Raises OSError if that cannot be told.
    """
    return _members([session], marked=marked)


def _members(sessions: Iterable[Session], *, marked: bool) -> set[int]:
    """Return the live processes of sessions, by one look at all processes.

    While the leader is there, or only waits for its parent, the session is ours. If its pid belongs to another
    process now, it is not: the kernel gives no number away that a session still has. If the leader is gone, a member is
    ours for certain (``marked``) by its environment or its folder: the number may have been used again by a session
    whose leader is gone as well. Nobody is ended on less, and nothing is called gone on less.
    """
    led: dict[int, Session | None] = {}
    orphaned: dict[int, Session] = {}
    for session in sessions:
        if session.leader < 1:  # not known
            continue
        start = start_of(session.leader)
        if start is not None and start == session.start:
            led[session.leader] = None
        elif start is None:
            orphaned[session.leader] = session
    if not led and not orphaned:
        return set()
    if not _PROC:
        groups = set(led) if marked else {*led, *orphaned}
        rows = (line.split() for line in _run("ps", "-A", "-o", "pid=,pgid=").splitlines())
        return {int(row[0]) for row in rows if len(row) == 2 and int(row[1]) in groups}
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        fields = _stat(int(name))
        if fields is None or fields[0] in ("Z", "X"):
            continue
        number = int(fields[3])
        if number in led or (number in orphaned and (not marked or _is_marked(int(name), orphaned[number]))):
            found.add(int(name))
    return found


def _is_marked(pid: int, session: Session) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/cwd").startswith(session.folder):
            return True
        return session.marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except _ABSENT:
        return False


def find_by_arguments(script: str, argument: str) -> list[int]:
    """Return live processes that run a script of this name with ``argument`` as a whole word. Raises OSError."""
    if not _PROC:
        lines = _run("ps", "-A", "-o", "pid=,args=").splitlines()
        return [int(line.split()[0]) for line in lines if argument in line and f"/{script} " in line]
    word, ending = os.fsencode(argument), os.fsencode(f"/{script}")
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except _ABSENT:
                continue
            if word in words and any(item.endswith(ending) for item in words):
                found.append(int(name))
    return found


def end_sessions(sessions: Iterable[Session]) -> None:
    """End all processes of sessions: TERM, KILL 10 s later; a session's leader, which reports, last."""
    wanted = list(sessions)
    leaders = {session.leader for session in wanted}
    told: set[int] = set()
    deadline = time.monotonic() + KILL_AFTER_S
    pause = 0.005
    while (members := _members(wanted, marked=True)) and time.monotonic() < deadline:
        for pid in members - told:  # also those that were started meanwhile
            _signal(pid, signal.SIGTERM)
        told |= members
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    for without in (leaders, set[int]()):
        for pid in _members(wanted, marked=True) - without:
            _signal(pid, signal.SIGKILL)
        deadline = time.monotonic() + 2.0
        while _members(wanted, marked=True) and time.monotonic() < deadline:
            time.sleep(0.02)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def machine_slots() -> tuple[int, int]:
    """Return this machine's (cpus, bytes of memory) that may be used."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
