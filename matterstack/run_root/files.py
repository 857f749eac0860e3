"""Files: written whole or not at all, read without ever waiting for one, and their digests."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read. Raises OSError for anything else: opening a named pipe would block forever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)  # os.fdopen leaves a folder open
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def read_regular(path: Path, limit: int = -1) -> bytes:
    """Read at most ``limit`` bytes of a regular file, all by default. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read(limit)


def write_beside(path: Path, text: str, *, errors: str = "surrogateescape") -> None:
    """Write a file whole or not at all, replacing what is there. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors=errors)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def write_once(path: Path, text: str, *, synced: bool = True) -> bool:
    """Write a file, whole, where there is none; return whether it now exists with this text. Raises OSError."""
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        os.link(beside, path)
        return True
    except FileExistsError:
        return read_regular(path, len(text.encode()) + 1) == text.encode()
    finally:
        with suppress(OSError):
            beside.unlink()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file, in hex. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_listing(digests: Mapping[str, str]) -> str:
    """Return the digest of many files: of the sorted lines `<sha256>  <path>`."""
    lines = "".join(f"{digests[path]}  {path}\n" for path in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()


def place_of(root: Path) -> tuple[str, str]:
    """Return host and absolute path of a folder, as text that can be stored even where the path is not UTF-8."""
    return socket.gethostname(), str(root.resolve()).encode(errors="replace").decode()


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_files(folder: Path) -> None:
    """Bring all files and folders below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
