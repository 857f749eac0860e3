"""source/: the run's copy of the campaign's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from matterstack.run_root.files import sha256_of
from matterstack.run_root.layout import STAGING


def copy_source(folder: Path, files: Iterable[str], source: Path) -> dict[str, tuple[str, int]]:
    """Copy files of the campaign folder; return {path: (sha256, size)}."""
    out = {}
    for path in files:
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, target)
        shutil.copymode(folder / path, target)
        out[path] = (sha256_of(target), target.stat().st_size)
    return out


def stage_source(root: Path, folder: Path, files: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Copy corrected files beside source/'s own; return {path: (sha256, size)}."""
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
