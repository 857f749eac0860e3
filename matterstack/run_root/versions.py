"""versions/N/: all that a version of a campaign is made of, written before the ledger speaks of it and never changed.

`campaign.yaml`, `operators.yaml` and `source` in the run root are links to the newest one's. Attempts name the folder of
their own version, so that a job that still waits in a queue never meets a newer script.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.core.values import dump_json_lines
from matterstack.run_root import layout
from matterstack.run_root.files import sha256_of, sync, sync_files, write_beside
from matterstack.run_root.layout import version_folder
from matterstack.run_root.source import Sources
from matterstack.run_root.verify import changed_digest, make_read_only, stamp_of

_HALF = ".making-"  # begins the name of a version that is being written


class ChangedMeanwhile(OSError):
    """A file of the campaign folder is not what it was a moment ago."""


def write_version(
    root: Path,
    version: int,
    *,
    campaign: str,
    operators: str,
    site: str | None,
    settings: Mapping[str, Any],
    place: Callable[[str], Path],
    files: Mapping[str, str] | tuple[str, ...],
    before: Mapping[str, tuple[Path, str, str | None]] | None = None,
    synced: bool = True,
) -> Sources:
    """Write the folder of a version whole, or not at all; return {path: (sha256, size, stamp)} of its source files.

    ``files`` are those of the campaign, which are at their ``place``, with their digests where they are known; ``before`` gives path,
    digest and stamp of files that the run has already, which are linked if they are the same, and were not edited there. Raises OSError, and ChangedMeanwhile
    for a file that has another digest by now. Without ``synced`` the run root is only being made: its maker syncs all of it.
    """
    home = root / layout.VERSIONS
    home.mkdir(exist_ok=True)
    clear_half_made(root)
    final = root / version_folder(version)
    half = home / f"{_HALF}{version}" if synced else final
    half.mkdir()
    write_beside(half / layout.CAMPAIGN, campaign)
    write_beside(half / layout.OPERATORS, operators)
    write_beside(half / layout.SETTINGS, dump_json_lines(settings, exact=True))
    if site is not None:
        write_beside(half / layout.SITE, site)
    (half / layout.SOURCE).mkdir()
    out: Sources = {}
    known = files if isinstance(files, Mapping) else {}
    for path in files:
        target = half / layout.SOURCE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        older, digest, stamp = (before or {}).get(path, (None, "", None))
        if older is None or digest != known.get(path) or not _linked(older, target, place(path), digest, stamp):
            shutil.copyfile(place(path), target)
            shutil.copymode(place(path), target)
            digest = sha256_of(target)
            if path in known and digest != known[path]:
                raise ChangedMeanwhile(errno.EBUSY, "was changed this moment; try again", str(place(path)))
        make_read_only(target)
        out[path] = (digest, target.stat().st_size, stamp_of(target))
    if not synced:
        return out
    sync_files(half)
    if final.exists():  # of one that was killed before the ledger knew it
        shutil.rmtree(final)
    os.rename(half, final)
    sync(home)
    return out


def _linked(older: Path, target: Path, ours: Path, digest: str, stamp: str | None) -> bool:
    """Link a file that the run has already; return whether that is possible, and the file is what it was."""
    try:
        if changed_digest(older, digest, stamp) is not None or os.access(older, os.X_OK) != os.access(ours, os.X_OK):
            return False
        os.link(older, target)
    except OSError:
        return False
    return True


def clear_half_made(root: Path) -> None:
    """Remove what a killed command left of a version; nobody is writing one while the lock is held."""
    for half in half_made(root):
        shutil.rmtree(half)


def half_made(root: Path) -> list[Path]:
    return list((root / layout.VERSIONS).glob(f"{_HALF}*"))


def is_linked_to(root: Path, version: int) -> bool:
    """Return whether the links in the run root are those of a version."""
    try:
        return os.readlink(root / layout.SOURCE) == f"{version_folder(version)}/{layout.SOURCE}"
    except OSError:
        return False


def link_version(root: Path, version: int) -> None:
    """Point the links in the run root to a version, `source` last. Raises OSError.

    In a run of before versions a folder stands in the place of `source`: it is exchanged for the link at once, and removed.
    """
    for name in layout.OF_VERSION:
        link, beside = root / name, root / f".{name}.link"
        with suppress(FileNotFoundError):
            beside.unlink()
        os.symlink(f"{version_folder(version)}/{name}", beside)
        if link.is_dir() and not link.is_symlink():
            _exchange(beside, link)
            shutil.rmtree(beside)
        else:
            os.replace(beside, link)
    sync(root)


_RENAME_EXCHANGE = 2  # Source: renameat2(2)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two names in one moment; where the system cannot, one after the other."""
    import ctypes  # for a run of before versions alone

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        at = -100  # AT_FDCWD: the paths are taken from the current folder
        if rename(at, os.fsencode(one), at, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
    except AttributeError:  # an old C library, or another system
        pass
    aside = one.with_name(f"{one.name}.old")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


def keep_first(root: Path, settings: Mapping[str, Any]) -> None:
    """Make versions/1 of a run of before versions from what is in its run root."""
    final = root / version_folder(1)
    if final.exists():
        return
    half = root / layout.VERSIONS / f"{_HALF}1"
    half.parent.mkdir(exist_ok=True)
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    for name in (layout.CAMPAIGN, layout.OPERATORS):
        shutil.copyfile(root / name, half / name)
    write_beside(half / layout.SETTINGS, dump_json_lines(settings, exact=True))
    shutil.copytree(root / layout.SOURCE, half / layout.SOURCE, copy_function=_link_or_copy, symlinks=True)
    sync_files(half)
    os.rename(half, final)
    sync(final.parent)


def _link_or_copy(origin: str, target: str) -> str:
    try:
        os.link(origin, target)
    except OSError:
        shutil.copy2(origin, target)
    return target
