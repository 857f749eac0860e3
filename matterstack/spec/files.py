"""Globs over the files of a campaign folder."""

from __future__ import annotations

import os
from pathlib import Path

from matterstack.core.selection import WILDCARD, matches


def glob_files(folder: Path, pattern: str) -> list[str]:
    """Return the files below ``folder`` that match, sorted, relative, with `/`; a folder stands for all below it."""
    found: set[str] = set()
    _walk_files(folder, "", pattern.rstrip("/").split("/"), found)
    return sorted(found)


def _walk_files(folder: Path, prefix: str, parts: list[str], found: set[str]) -> None:
    if not parts:
        return
    first, rest = parts[0], parts[1:]
    here = folder / prefix
    if not WILDCARD.search(first):
        path = f"{prefix}{first}"
        _take(folder, path, rest, found)
        return
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError:
        return
    if first == "**" and rest:
        _walk_files(folder, prefix, rest, found)
    for entry in entries:
        if first == "**":
            if entry.name.startswith("."):
                continue
            if entry.is_dir() and not entry.is_symlink():
                if not is_run_root(Path(entry.path)):
                    _walk_files(folder, f"{prefix}{entry.name}/", parts, found)
            elif not rest and entry.is_file():
                found.add(f"{prefix}{entry.name}")
        elif matches(first, entry.name) and (rest or entry.is_file()):
            _take(folder, f"{prefix}{entry.name}", rest, found)


def _take(folder: Path, path: str, rest: list[str], found: set[str]) -> None:
    try:
        if rest:
            if (folder / path).is_dir():
                _walk_files(folder, f"{path}/", rest, found)
        elif (folder / path).is_dir():
            _walk_files(folder, f"{path}/", ["**"], found)
        elif (folder / path).is_file():
            found.add(path)
    except (OSError, ValueError):
        return


def is_run_root(folder: Path) -> bool:
    """Return whether a folder is a run root: its files are no source files of a campaign."""
    return (folder / "run.json").is_file() and (folder / "operators.yaml").is_file()
