"""Copies that share their blocks where the file system can: at once, and without room, until one of them is changed."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from pathlib import Path

from matterstack.run_root.files import sha256_of

_FICLONE = 0x40049409  # Source: ioctl_ficlone(2)
_SMALL = 1 << 16  # bytes, up to which sharing blocks costs more than it saves


def copy_file(origin: Path | str, target: Path | str) -> bytes | None:
    """Copy a file with its mode; return what it holds if it is small. Raises OSError."""
    with open(origin, "rb", buffering=0) as source, open(target, "wb", buffering=0) as copy:
        found = os.fstat(source.fileno())
        data = source.read(_SMALL + 1) if found.st_size <= _SMALL else b""
        if found.st_size > _SMALL or len(data) > _SMALL:
            _share(source.fileno(), copy.fileno())
            data = None
        else:
            left = data
            while left:
                left = left[copy.write(left) :]
        os.fchmod(copy.fileno(), stat.S_IMODE(found.st_mode))
    return data


def _share(source: int, copy: int) -> None:
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:  # not on this file system
        os.lseek(source, 0, os.SEEK_SET)
        with open(source, "rb", closefd=False) as file, open(copy, "wb", closefd=False) as other:
            shutil.copyfileobj(file, other, 1 << 20)


def copy_with_digest(origin: str, target: str) -> str:
    """Copy a file with its mode; return the sha256 of the copy. Raises OSError."""
    data = copy_file(origin, target)
    return sha256_of(target) if data is None else hashlib.sha256(data).hexdigest()
