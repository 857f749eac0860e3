"""Copies that share their blocks where the file system can: at once, and without room, until one of them is changed."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

_FICLONE = 0x40049409  # Source: ioctl_ficlone(2)


def copy_file(origin: Path, target: Path) -> Path:
    """Copy a file with its mode. Raises OSError."""
    with open(origin, "rb") as source, open(target, "wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
        except OSError:  # not on this file system
            shutil.copyfileobj(source, copy, 1 << 20)
    shutil.copymode(origin, target)
    return target
