"""Globs over the files of a campaign folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from matterstack.core.selection import WILDCARD, matches

Outside = Mapping[str, str]  # as in `core.model.Campaign`
Unreadable = dict[str, str]  # path below the folder -> why what it selects cannot be told


def place_of(folder: Path, outside: Outside, path: str) -> Path:
    """Return where a file of a campaign is: below its folder, or of `_N/` in the folder outside that this stands for.

    What a run keeps of a campaign, and a campaign folder made from that, has the files themselves in `_N/`.
    """
    first, _, rest = path.partition("/")
    if first in outside and not (folder / first).is_dir():
        return folder / outside[first] / rest
    return folder / path


def glob_files(
    folder: Path, pattern: str, unreadable: Unreadable | None = None, outside: Outside | None = None
) -> list[str]:
    """Return the files below ``folder`` that match, sorted, relative, with `/`; a folder stands for all below it.

    What the pattern selects and cannot be read is added to ``unreadable``: a loop of links, a folder that may not be
    entered. ``outside`` is that of the campaign.
    """
    first, _, rest = pattern.partition("/")
    if outside and rest and first in outside:
        place = place_of(folder, outside, first)
        return [f"{first}/{path}" for path in glob_files(place, rest, unreadable)]
    found: set[str] = set()
    _walk_files(folder, "", pattern.rstrip("/").split("/"), found, {} if unreadable is None else unreadable)
    return sorted(found)


def _walk_files(folder: Path, prefix: str, parts: list[str], found: set[str], unreadable: Unreadable) -> None:
    if not parts:
        return
    first, rest = parts[0], parts[1:]
    here = folder / prefix
    if not WILDCARD.search(first):
        _take(folder, f"{prefix}{first}", rest, found, unreadable)
        return
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        unreadable[prefix.rstrip("/") or "."] = str(error.strerror)
        return
    if first == "**" and rest:
        _walk_files(folder, prefix, rest, found, unreadable)
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if entry.name.startswith(".") if first == "**" else not matches(first, entry.name):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
            if entry.is_symlink() and not is_folder and not is_file:
                os.stat(entry.path)  # a loop, or nowhere
        except FileNotFoundError:
            continue  # a link to nowhere is no file
        except OSError as error:
            if first != "**" or not rest or matches(rest[-1], entry.name):
                unreadable[path] = str(error.strerror)
            continue
        if first != "**" and (rest or is_file):
            _take(folder, path, rest, found, unreadable)
        elif first == "**" and is_folder and not entry.is_symlink():
            if not is_run_root(Path(entry.path)):
                _walk_files(folder, f"{path}/", parts, found, unreadable)
        elif first == "**" and not rest and is_file:
            found.add(path)


def _take(folder: Path, path: str, rest: list[str], found: set[str], unreadable: Unreadable) -> None:
    try:
        mode = os.stat(folder / path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return
    except OSError as error:
        unreadable[path] = str(error.strerror)
        return
    if rest:
        if stat.S_ISDIR(mode):
            _walk_files(folder, f"{path}/", rest, found, unreadable)
    elif stat.S_ISDIR(mode):
        _walk_files(folder, f"{path}/", ["**"], found, unreadable)
    elif stat.S_ISREG(mode):
        found.add(path)


def is_run_root(folder: Path) -> bool:
    """Return whether a folder is a run root: its files are no source files of a campaign."""
    return (folder / "run.json").is_file() and (folder / "operators.yaml").is_file()
