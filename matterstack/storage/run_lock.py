"""`run.lock`: one process at a time works on a run. A kernel lock (flock), which dies with its holder.

The file also says who holds it, for people: pid, host, path, since when, and when it was released.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from matterstack.core.times import to_text
from matterstack.deferred import dataclass
from matterstack.errors import RunLockedError, RunRootError
from matterstack.run_root.files import place_of, read_regular
from matterstack.run_root.layout import LOCK, RUN

log = logging.getLogger("matterstack")

LOCK_FILE = LOCK
_WAITING_ROOM = RUN  # those who wait for the lock hold a shared flock on it; a loop gives way to them


def boot_id() -> str:
    """Return what is another after each start of this machine, "" where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def read_holder(root: Path) -> dict[str, Any]:
    """Return what the lock file says of its last holder; an empty dict if it says nothing."""
    try:
        # One line: behind it may stand the rest of a longer one, of a writer that was killed before it cut it off.
        data = json.loads(read_regular(root / LOCK_FILE).partition(b"\n")[0])
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _holder_text(root: Path) -> str:
    holder = read_holder(root)
    if not holder:
        return "its lock is held"
    since = str(holder.get("since", "?"))
    return f"pid {holder.get('pid', '?')} on {holder.get('host', '?')} since {since[:19].replace('T', ' ')} UTC"


def _acquire(root: Path, wait_s: float) -> FileLock:
    """Take the kernel lock, waiting at most ``wait_s``. Raises RunLockedError with the holder, RunRootError."""
    lock = FileLock(
        str(root / LOCK_FILE), mode=0o666, fallback_to_soft=False
    )  # less the umask: a group may share a run
    waiting_room: int | None = None
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait_s <= 0:
                raise
            log.info("waiting up to %.0f s for the lock: %s", wait_s, _holder_text(root))
            waiting_room = _enter_waiting_room(root)
            lock.acquire(timeout=wait_s, poll_interval=0.01)
    except Timeout:
        log.info("lock refused: %s", root / LOCK_FILE)
        raise RunLockedError(f"{root}: another process is running: {_holder_text(root)}; wait for it to end") from None
    except (OSError, NotImplementedError) as error:
        raise RunRootError(f"{root / LOCK_FILE}: cannot be locked: {error}") from None
    finally:
        if waiting_room is not None:
            os.close(waiting_room)
    return lock


@dataclass()
class Held:
    """A lock that is held: ``before`` is what its file said of the last holder, ``note`` is added when it is released."""

    before: Mapping[str, Any]
    note: dict[str, Any] = field(default_factory=dict)


@contextmanager
def run_lock(
    root: Path, *, wait_s: float = 0.0, check: Callable[[Mapping[str, Any]], None] | None = None
) -> Iterator[Held]:
    """Hold the lock of a run root, waiting at most ``wait_s``.

    ``check`` gets what the file said of its last holder, before this one is written, and may raise. Raises
    RunLockedError with the holder if it is not free by then.
    """
    if not root.is_dir():
        raise RunRootError(f"{root}: no such folder")
    if (root / LOCK_FILE).exists() and not (root / LOCK_FILE).is_file():
        raise RunRootError(f"{root / LOCK_FILE} is not a regular file; move it away")
    lock = _acquire(root, wait_s)
    try:
        # Once: if the file is deleted while this process sleeps, the next one at its place is another's.
        fd = os.open(root / LOCK_FILE, os.O_WRONLY)
    except OSError as error:
        lock.release()
        raise RunRootError(f"{root / LOCK_FILE}: cannot be written: {error.strerror}") from None
    before = read_holder(root)
    try:
        if check is not None:
            check(before)
    except BaseException:
        os.close(fd)
        lock.release()
        raise
    if before and not before.get("released") and before.get("host") not in (None, socket.gethostname()):
        log.warning(
            "%s was last held by pid %s on %s and never released; if a step still runs there, stop it",
            root / LOCK_FILE, before.get("pid"), before.get("host"),
        )  # fmt: skip
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "path": place_of(root)[1],
        "since": to_text(time.time()),
        "boot": boot_id(),
    }
    held = Held(before)
    try:
        try:
            _write_holder(fd, holder)
        except OSError as error:
            raise RunRootError(f"{root / LOCK_FILE}: cannot be written: {error.strerror}") from None
        log.info("lock taken: %s", root / LOCK_FILE)
        yield held
    finally:
        try:
            _write_holder(fd, {**holder, **held.note, "released": to_text(time.time())})
        except OSError as error:
            log.warning("%s: %s", root / LOCK_FILE, error.strerror)
        os.close(fd)
        lock.release()
        log.info("lock released: %s", root / LOCK_FILE)


def write_released(folder: Path, root: Path) -> None:
    """Write the lock file of a new run root that is built in ``folder`` to become ``root``."""
    now = to_text(time.time())
    holder = {
        "pid": os.getpid(), "host": socket.gethostname(), "path": place_of(root)[1], "since": now, "boot": boot_id(),
    }  # fmt: skip
    with open(folder / LOCK_FILE, "wb", buffering=0) as file:
        _write_holder(file.fileno(), {**holder, "released": now})


def _write_holder(fd: int, holder: dict[str, Any]) -> None:
    # In place, never by a rename: the lock is on this inode.
    data = (json.dumps(holder, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, len(data))


def _enter_waiting_room(root: Path) -> int | None:
    try:
        fd = os.open(root / _WAITING_ROOM, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def somebody_waits(root: Path) -> bool:
    """Return whether a command waits for the lock; a loop then stays away from it for a moment."""
    try:
        fd = os.open(root / _WAITING_ROOM, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(fd)
