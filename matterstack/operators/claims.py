"""The claim: the file `claim` in an attempt's folder, one line saying who may act there.

Whoever cannot create it, exclusively, *and* write its line runs nothing and writes nothing else. A worker creates
the file and then writes; a step writes its line beside and links it in place. So an empty or torn claim is always a
worker's, and a claim by a step proves that the command never started and never will. A worker that cannot start its
command, for want of a process or of room on the disk, gives its claim up: `{"by": "nobody", "why": ...}`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.deferred import dataclass
from matterstack.run_root.files import read_regular
from matterstack.run_root.layout import CLAIM


@dataclass(frozen=True)
class Claim:
    by: str  # "worker", "step", "nobody", or "torn": of an instrument, or not written whole
    data: dict[str, Any]


def read_claim(folder: Path) -> Claim | None:
    """Return the claim of an attempt's folder, None if there is none. Raises OSError if that cannot be told."""
    try:
        text = read_regular(folder / CLAIM, 1 << 16)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO):  # a folder, a pipe, a loop of links: nobody's line
            return Claim("torn", {})
        raise
    try:
        data = json.loads(text) if text.endswith(b"\n") else None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("by") not in ("worker", "wrapper", "step", "nobody"):
        return Claim("torn", data if isinstance(data, dict) else {})  # an instrument says who it is in its own words
    # "wrapper" is a worker's of the time when each attempt had a shell of its own: it may still run.
    return Claim("worker" if data["by"] == "wrapper" else data["by"], data)


def take_claim(folder: Path, purpose: str) -> Claim | None:
    """Claim an attempt's folder for this step; return the claim of another if it came first.

    A folder that does not exist is made first, so that a hand-over which comes late finds it taken. Raises OSError
    if neither can be done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = {"by": "step", "pid": os.getpid(), "host": socket.gethostname(), "for": purpose}
    beside = folder / f".claim.{socket.gethostname()}.{os.getpid()}"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
        os.link(beside, folder / CLAIM)
        return None
    except FileExistsError:
        return read_claim(folder) or Claim("torn", {})  # a link to nowhere is somebody's as well
    finally:
        with suppress(OSError):
            beside.unlink()


def is_held(folder: Path) -> bool:
    """Return whether a process holds the lock of a claim: its worker, or one that the command started. Raises OSError.

    Where the file system has no locks, nobody does.
    """
    try:
        fd = os.open(folder / CLAIM, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False
