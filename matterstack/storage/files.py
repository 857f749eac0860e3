"""Files that somebody else may have put there: read without ever waiting for one."""

from __future__ import annotations

import errno
import os
import socket
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read. Raises OSError for anything else: opening a named pipe would wait for ever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def read_regular(path: Path) -> bytes:
    """Read a regular file. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def place_of(root: Path) -> tuple[str, str]:
    """Give host and absolute path of a folder, as texts that can be stored, also where the path is no UTF-8."""
    return socket.gethostname(), str(root.resolve()).encode(errors="replace").decode()


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
