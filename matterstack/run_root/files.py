"""Files: written whole or not at all, read without ever waiting for one, and their digests."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

_AT_ONCE = 1 << 16  # bytes


def open_regular(path: Path | str) -> BufferedReader:
    """Open a regular file to read. Raises OSError for anything else: opening a named pipe would block forever."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)  # os.fdopen leaves a folder open
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(fd, "rb")


def read_regular(path: Path | str, limit: int = -1) -> bytes:
    """Read at most ``limit`` bytes of a regular file, all by default. Raises OSError as `open_regular` does."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        parts: list[bytes] = []
        while limit != 0 and (part := os.read(fd, limit if 0 <= limit < _AT_ONCE else _AT_ONCE)):
            parts.append(part)
            limit -= len(part) if limit > 0 else 0
    finally:
        os.close(fd)
    return b"".join(parts)


def _beside(name: str) -> str:
    """Return a name for a file that becomes another at once; nobody can know it before and put a link there."""
    return f".{name[:200]}.{os.urandom(6).hex()}"


def write_new(path: str, data: bytes, *, exclusively: bool = False) -> None:
    """Write a file, emptying what is there, or ``exclusively`` where nothing is. Raises OSError."""
    how = os.O_EXCL if exclusively else os.O_TRUNC
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def write_beside(path: Path | str, text: str, *, errors: str = "surrogateescape", synced: bool = False) -> None:
    """Write a file whole or not at all, replacing what is there. Raises OSError.

    With ``synced``, a power cut leaves the old text or the new one.
    """
    folder, name = os.path.split(path)
    beside = os.path.join(folder, _beside(name))
    try:
        write_new(beside, text.encode("utf-8", errors=errors), exclusively=True)
        if synced:
            sync(beside)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise


def write_once(path: Path, text: str, *, synced: bool = True) -> bool:
    """Write a file, whole, where there is none; return whether it now exists with this text. Raises OSError."""
    beside = path.with_name(_beside(path.name))
    try:
        write_new(str(beside), text.encode(), exclusively=True)
        if synced:
            sync(beside)
        os.link(beside, path)
        if synced:
            sync(path.parent)
        return True
    except FileExistsError:
        return read_regular(path, len(text.encode()) + 1) == text.encode()
    finally:
        with suppress(OSError):
            beside.unlink()


def sha256_of(path: Path | str) -> str:
    """Return the sha256 of a regular file, in hex. Raises OSError."""
    import hashlib  # as below

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_listing(digests: Mapping[str, str]) -> str:
    """Return the digest of many files: of the sorted lines `<sha256>  <path>`."""
    return sha256_of_text("".join(f"{digests[path]}  {path}\n" for path in sorted(digests)))


def sha256_of_text(text: str) -> str:
    """Return the sha256 of a text in UTF-8, in hex; of names that are not UTF-8 the bytes are kept."""
    import hashlib  # an idle step digests nothing, and OpenSSL takes its time to begin

    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()


def place_of(root: Path) -> tuple[str, str]:
    """Return host and absolute path of a folder, as text that can be stored even where the path is not UTF-8."""
    return socket.gethostname(), str(root.resolve()).encode(errors="replace").decode()


def sync(path: Path | str) -> None:
    """Bring a file, or the entries of a folder, to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_files(folder: Path) -> None:
    """Bring all files and folders below ``folder`` to the disk."""
    paths = [f"{place}/{name}" for place, folders, files in os.walk(folder) for name in (*folders, *files)] + [
        str(folder)
    ]
    if len(paths) > _MANY and _sync_file_system(folder):
        return
    for path in paths:
        sync(path)


_MANY = 1000  # files, from which on one call for the whole file system costs less than one for each


def _sync_file_system(folder: Path) -> bool:
    """Bring all of a file system to the disk; return whether that is possible. Source: syncfs(2)."""
    import ctypes

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return bool(ctypes.CDLL(None, use_errno=True).syncfs(fd) == 0)
    except AttributeError:  # not Linux
        return False
    finally:
        os.close(fd)
