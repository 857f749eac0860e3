"""source/: the run's copy of the campaign's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from matterstack.run_root.files import sha256_of
from matterstack.run_root.layout import STAGING
from matterstack.run_root.verify import digest_or_none, files_below, make_read_only, stamp_of

Sources = dict[str, tuple[str, int, str | None]]


def copy_source(folder: Path, files: Iterable[str], source: Path) -> Sources:
    """Copy files of the campaign folder; return {path: (sha256, size, stamp)}."""
    out: Sources = {}
    for path in files:
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, target)
        shutil.copymode(folder / path, target)
        make_read_only(target)
        out[path] = (sha256_of(target), target.stat().st_size, stamp_of(target))
    return out


def record_externals(paths: Mapping[str, bool]) -> Sources:
    """Return {path: (sha256, or "" where that is not asked for; size; stamp)} of files that are not copied.

    Raises OSError.
    """
    out: Sources = {}
    for path, with_digest in paths.items():
        found = os.stat(path)
        size = found.st_size if os.path.isfile(path) else sum(there.st_size for _, there in files_below(path))
        digest = (digest_or_none(Path(path), folder=os.path.isdir(path)) or "") if with_digest else ""
        out[path] = (digest, size, stamp_of(path, found))
    return out


def stage_source(root: Path, folder: Path, files: Iterable[str]) -> Sources:
    """Copy corrected files beside source/'s own; return {path: (sha256, size, stamp)}."""
    staging = root / "source" / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    return copy_source(folder, files, staging)


def finish_staged_source(root: Path, recorded: Mapping[str, str]) -> None:
    """Move staged files into place if the ledger has recorded them, and drop the others."""
    staging = root / "source" / STAGING
    for path, digest in recorded.items():
        staged = staging / path
        if staged.is_file() and sha256_of(staged) == digest:
            target = root / "source" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
    shutil.rmtree(staging, ignore_errors=True)
