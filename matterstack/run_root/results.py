"""results/: links to the newest successful attempt's outputs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from matterstack.core.model import OutputFile
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.run_root.layout import attempt_folder


def publish(root: Path, task_id: str, attempt: int, outputs: Sequence[OutputFile], declared: Iterable[str]) -> Reason:
    """Point results/ to the outputs of a successful attempt; return which could not be linked and why.

    A link of an older attempt to what was ``declared``, a path below results/, and that this one did not write is removed.
    """
    absent = {path.rstrip("/") for path in declared} - {item.path.rstrip("/") for item in outputs}
    failed = [{"path": path, "why": why, "old": True} for path in absent if (why := _unlink(root, task_id, path))]
    failed += [
        {"path": output.path.rstrip("/"), "why": why}
        for output in outputs
        if (why := _link(root, attempt_folder(task_id, attempt), output))
    ]
    return reason(Code.LINKS, links=failed) if failed else NO_REASON


def withdraw(root: Path, task_id: str, paths: Iterable[str]) -> None:
    """Remove the links of results/ to the outputs of a task, as far as that is possible."""
    for path in paths:
        _unlink(root, task_id, path)


def _link(root: Path, folder: str, output: OutputFile) -> str:
    """Swap one link; return why that failed, "" if it did not."""
    path = output.path.rstrip("/")
    link = f"{root}/results/{path}"
    target = "../" * (path.count("/") + 1) + f"{folder}/{output.file.rstrip('/')}"
    try:
        in_the_way = what_is_in_the_way(root, path)
        if in_the_way:
            return f"{in_the_way}; move it away"
        with suppress(FileExistsError):
            try:
                os.symlink(target, link)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(target, link)
            return ""
        if not os.path.islink(link):
            return "something that is not a link is in its place; move it away"
        if os.readlink(link) == target:
            return ""
        name = os.path.basename(link)
        beside = f"{os.path.dirname(link)}/.{name[:200]}.{os.getpid()}"
        try:
            os.symlink(target, beside)
        except FileExistsError:  # of one that was killed
            os.unlink(beside)
            os.symlink(target, beside)
        os.replace(beside, link)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _unlink(root: Path, task_id: str, output_path: str) -> str:
    """Remove a link of an older attempt; return why that failed, "" if it did not."""
    link = root / "results" / output_path.rstrip("/")
    try:
        if os.path.islink(link) and f"tasks/{task_id}/attempt-" in os.readlink(link):
            link.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def what_is_in_the_way(root: Path, path: str) -> str:
    """Return what stands where a folder of results/ should be, "" if nothing does: a link there may lead anywhere.

    ``path`` is of a link, below results/.
    """
    folder = f"results/{path}"
    while folder := os.path.dirname(folder):
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = os.lstat(f"{root}/{folder}").st_mode
            if not stat.S_ISDIR(mode):
                return f"{folder} is {'a link' if stat.S_ISLNK(mode) else 'not a folder'}"
    return ""
