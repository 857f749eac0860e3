"""Whether files of a run root are still what was recorded of them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from matterstack.core.model import OutputFile
from matterstack.run_root.files import digest_of_listing, sha256_of, sha256_of_text

MOST_FILES = 1_000_000  # in one folder that is an output
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def files_below(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the regular files below a folder as (relative path, stat), those of one folder sorted.

    A link to a file counts if that lies in the folder; other links are left out. Raises OSError for what cannot be read,
    and for more than MOST_FILES.
    """
    count, home = 0, ""  # the last is only needed for links
    stack = [""]
    while stack:
        inside = stack.pop()
        with os.scandir(f"{folder}/{inside}") as entries:
            found = sorted(entries, key=lambda entry: entry.name, reverse=True)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                stack.append(f"{inside}{entry.name}/")
        for entry in reversed(found):
            if entry.is_symlink():
                home = home or f"{os.path.realpath(folder)}/"
                if not entry.is_file() or not os.path.realpath(entry.path).startswith(home):
                    continue
            if entry.is_file():
                count += 1
                if count > MOST_FILES:
                    raise OSError(errno.EFBIG, f"holds more than {MOST_FILES} files", str(folder))
                yield f"{inside}{entry.name}", entry.stat()


def stamp_of(path: str | Path, found: os.stat_result | None = None) -> str:
    """Return what tells, without reading them, whether a file or the files of a folder were changed. Raises OSError."""
    found = found or os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        lines = (f"{name} {inside.st_size}:{inside.st_mtime_ns}\n" for name, inside in files_below(path))
        return sha256_of_text("".join(sorted(lines)))[:32]
    return _stamp(found)


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}"


def make_read_only(path: str | Path) -> None:
    """Take the right to write from a file, or from the files of a folder, as far as that is possible; links are left."""
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            for name, inside in files_below(path):
                if not os.path.islink(f"{path}/{name}"):
                    _take_write(f"{path}/{name}", inside)
        elif stat.S_ISREG(found.st_mode):
            _take_write(path, found)
    except OSError:  # of somebody else: nothing depends on it
        pass


def _take_write(path: str | Path, found: os.stat_result) -> None:
    if found.st_mode & _WRITABLE and found.st_nlink == 1:  # of several names, another may be somebody's own file
        os.chmod(path, stat.S_IMODE(found.st_mode) & ~_WRITABLE)


def digest_or_none(path: Path, *, folder: bool = False) -> str | None:
    """Return the digest of a file, or of the files of a folder; None for what cannot be read."""
    try:
        if not folder:
            return sha256_of(path)
        return digest_of_listing({name: sha256_of(path / name) for name, _ in files_below(path)})
    except OSError:
        return None


def changed_digest(path: str | Path, recorded: str, stamp: str | None) -> str | None:
    """Return the digest that a recorded file or folder has now; None if it is what was recorded. Raises OSError.

    Files are read only where the stamp is another, as it is in a copy, or where none is known.
    """
    if stamp is None:
        now = _digest(path)
    elif (seen := stamp_of(path)) == stamp:
        return None
    else:
        now = _digest_at(str(path), seen)
    return None if now == recorded else now


@lru_cache(maxsize=4096)
def _digest_at(path: str, stamp: str) -> str:
    """Return the digest of what has this stamp: in a copy none is the recorded one, and many tasks may read the same file."""
    return _digest(path)


def _digest(path: str | Path) -> str:
    if os.path.isdir(path):
        return digest_of_listing({name: sha256_of(f"{path}/{name}") for name, _ in files_below(path)})
    return sha256_of(path)


def output_problem(root: Path, folder: str, output: OutputFile, *, digests: bool) -> str:
    """Return what is wrong with a recorded output, as a predicate; "" for nothing.

    Without ``digests`` only what was changed in size, time or inode is read.
    """
    path = root / folder / output.file
    is_folder = output.file.endswith("/")
    try:
        if not os.path.exists(path):
            return "is missing"
        if not (os.path.isdir(path) if is_folder else os.path.isfile(path)):
            return f"is no longer a {'folder' if is_folder else 'file'}"
        if output.sha256 is None or (output.stamp is None and not digests):
            return ""
        now = changed_digest(path, output.sha256, None if digests else output.stamp)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if now is not None:
        return f"is not what the task made: sha256 {now[:12]}…, recorded {output.sha256[:12]}…"
    return ""
