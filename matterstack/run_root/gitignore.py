""".gitignore of a run root: what is larger than `git_max_size`, and the folders in which commands are at work."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from matterstack.run_root.files import read_regular, write_beside
from matterstack.run_root.layout import CLAIM, COMMAND, EXIT, GITIGNORE, TASK, attempt_folder

_BEGIN = "# at work: what is large is known when these have ended"
_END = "# end of what is at work"
_SMALL = (CLAIM, EXIT)  # of an attempt, always
_KEPT = tuple(f"!/tasks/**/attempt-*/{name}" for name in (TASK, COMMAND, CLAIM))


def large_files(root: Path, folder: str, most: int) -> Iterator[str]:
    """Yield the files above ``most`` bytes in a folder of the run root, relative to that.

    What cannot be read is left out: git cannot add it either.
    """
    stack = [folder]
    while stack:
        inside = stack.pop()
        with suppress(OSError), os.scandir(f"{root}/{inside}") as entries:
            for entry in entries:
                if (inside == folder and entry.name in _SMALL) or entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    stack.append(f"{inside}/{entry.name}")
                elif entry.stat(follow_symlinks=False).st_size > most:
                    yield f"{inside}/{entry.name}"


def ignore(root: Path, files: Iterable[str] = (), at_work: Collection[tuple[str, int]] | None = None) -> None:
    """Add files of the run root to its .gitignore, and name the attempts that are at work, if they are given.

    Nothing is written where nothing changes. Lines of a person stay. Raises OSError.
    """
    file = root / ".gitignore"
    try:
        text = read_regular(file).decode(errors="surrogateescape")
    except FileNotFoundError:
        text = GITIGNORE
    lines, section = _parts(text.splitlines())
    known = set(lines)
    lines += [line for line in dict.fromkeys(map(gitignore_line, files)) if line not in known]
    if at_work is not None:
        section = [f"{gitignore_line(attempt_folder(*key))}/*" for key in sorted(at_work)]
    if section:
        lines += [_BEGIN, *section, *_KEPT, _END]
    new = "".join(f"{line}\n" for line in lines)
    if new != text:
        write_beside(file, new, synced=True)  # lines of a person are in it


def _parts(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines that stay, and those that name attempts at work."""
    with suppress(ValueError):
        begin = lines.index(_BEGIN)
        end = lines.index(_END, begin)
        return lines[:begin] + lines[end + 1 :], [line for line in lines[begin + 1 : end] if line not in _KEPT]
    return lines, []


def ignored(root: Path) -> set[str]:
    """Return the lines of .gitignore; none if it cannot be read."""
    try:
        return set(read_regular(root / ".gitignore").decode(errors="surrogateescape").splitlines())
    except OSError:
        return set()


def gitignore_line(path: str) -> str:
    """Return the line that ignores this one path. Source: gitignore(5)."""
    text = re.sub(r"([\\*?\[\]!#])", r"\\\1", path).replace("\n", "?").replace("\r", "?")
    return "/" + re.sub(r" +\Z", lambda match: "\\ " * len(match[0]), text)
