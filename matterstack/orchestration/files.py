"""The files of a run root as a step uses them: every look at the disk and every write of a step is a method here.

The simulator puts a pretended disk in its place.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from matterstack.core.model import Evidence, Observation, OutputFile, Rejection, ResolvedOutput, outputs_from_json
from matterstack.core.reasons import Code, Reason, reason, said
from matterstack.core.states import FailureClass
from matterstack.errors import STAYS, TRANSIENT
from matterstack.operators.environment import describe
from matterstack.run_root.attempts import create_attempt_folder, digest_within, gather_evidence
from matterstack.run_root.environments import write_environment
from matterstack.run_root.files import read_regular, write_once
from matterstack.run_root.gitignore import ignore, large_files
from matterstack.run_root.layout import CLAIM, COMMAND, DEFECT, DIGESTS, TASK, attempt_folder
from matterstack.run_root.results import publish, withdraw
from matterstack.run_root.verify import changed_digest, make_read_only, stamp_of
from matterstack.storage.expanded import write_expanded

log = logging.getLogger("matterstack")

_PASSES_S = 60.0  # within which an error of the file system may pass
_CHECKED_S = 0.1  # for which a folder above attempts is taken for what it was

Key = tuple[str, int]


class FolderTaken(Exception):
    """An attempt's folder was made by another step."""


def _are_equal(one: Path, other: Path) -> bool:
    """Return whether two files hold the same; large ones are not read, and taken to differ."""
    import filecmp  # few campaigns restart

    return other.is_file() and one.stat().st_size <= _LARGEST_COMPARED and filecmp.cmp(one, other, shallow=False)


class RunFiles:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.absolute = str(root.resolve())
        self._environments: dict[str | None, str] = {}
        self._large: list[str] = []  # files to be listed in .gitignore
        self._at_work: frozenset[Key] | None = None  # attempts that it names, None if that is not known
        self._checked: dict[str, float] = {}  # folder -> when it was last seen not to be a link

    def folder(self, key: Key) -> str:
        """Return the absolute path of an attempt's folder."""
        return f"{self.absolute}/{attempt_folder(*key)}"

    # --- looking ---

    def evidence(
        self, key: Key, seen: Observation, outputs: Mapping[str, ResolvedOutput], now: float, *, ours: bool
    ) -> Evidence | Reason:
        """Return what the files of an ended attempt show, or why that cannot be told just now."""
        try:
            return gather_evidence(self.folder(key), outputs, seen.files, ours=ours)
        except OSError as error:  # of one attempt: nothing is decided on it, and the others go on
            what = str(error.filename or "the system").removeprefix(f"{self.absolute}/")
            late = seen.ended_at is not None and now - seen.ended_at > _PASSES_S
            if error.errno in STAYS or late:
                return Evidence(
                    unreadable=reason(Code.UNREADABLE, path=what[-300:], error=error.strerror or str(error))
                )
            return reason(Code.CANNOT_RECORD, what=what, error=error.strerror or str(error))

    def devices(self, key: Key) -> Sequence[str]:
        """Return the GPUs that an attempt was given. Raises OSError; none of one whose folder was not made."""
        try:
            data = json.loads(read_regular(Path(self.folder(key)) / TASK))
        except FileNotFoundError:
            if self.has_folder(key):  # its GPUs are no longer known
                raise
            return ()
        except ValueError:
            raise OSError(errno.EIO, "is not JSON", TASK) from None
        found = data.get("devices") if isinstance(data, dict) else None
        return [str(item) for item in found] if isinstance(found, list) else ()

    def has_folder(self, key: Key) -> bool:
        """Return whether anything is where an attempt's folder would be. Raises OSError if that cannot be told."""
        try:
            os.lstat(self.folder(key))
        except FileNotFoundError:
            return False
        return True

    def files_within(self, folder: str, pattern: str) -> list[str]:
        """Return the files below a folder of the run root that a glob matches, sorted, relative to the run root."""
        base = self.root / folder
        wanted = f"{pattern}/*" if pattern.endswith("**") else pattern
        found = (path for path in base.glob(wanted) if not _is_hidden(path.relative_to(base)))
        return [path.relative_to(self.root).as_posix() for path in sorted(found) if path.is_file()]

    def is_newer(self, path: str, folder: str) -> bool:
        """Return whether a file in an attempt's folder was changed after its job had recorded the digests."""
        try:
            return os.stat(self.root / path).st_mtime_ns > os.stat(self.root / folder / DIGESTS).st_mtime_ns
        except OSError:
            return False

    def is_file(self, path: str) -> bool:
        return (self.root / path).is_file()

    def digest(self, folder: str, path: str) -> str:
        """Return the sha256 of a file in an attempt's folder. Raises OSError."""
        return digest_within(self.root / folder, self.root / path)

    def restart_files(self, key: Key, patterns: Sequence[str]) -> dict[str, Path]:
        """Return {name: file} of what an attempt left from which another can go on."""
        folder = Path(self.folder(key))
        found: dict[str, Path] = {}
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                name = path.relative_to(folder).as_posix()
                if path.is_file() and name.partition("/")[0] not in _OF_ATTEMPTS:
                    found[name] = path
        return found

    def has_stalled(self, key: Key, patterns: Sequence[str]) -> bool:
        """Return whether an attempt left these files as it was given them, also if it wrote them once more."""
        try:
            began = os.stat(f"{self.folder(key)}/{TASK}").st_mtime_ns
            new = [item for item in self.restart_files(key, patterns).items() if item[1].stat().st_mtime_ns > began]
            if not new:
                return True
            given = json.loads(read_regular(f"{self.folder(key)}/{TASK}")).get("restart", {})
            before = Path(self.folder((key[0], given["from"]))) if given else None
            return before is not None and all(_are_equal(path, before / name) for name, path in new)
        except (OSError, ValueError, KeyError):
            return False

    def reads_the_same(self, key: Key, files: Mapping[str, Any]) -> bool:
        """Return whether an attempt was given just these inputs, by their digests; ``files`` as in task.json, by input."""
        try:
            inputs = json.loads(read_regular(f"{self.folder(key)}/{TASK}"))["inputs"]
            before = {name: [_content_of(file) for file in item["files"]] for name, item in inputs.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False
        return before == {name: [_content_of(file) for file in items] for name, items in files.items()}

    # --- writing ---

    def environment(self, path: str | None) -> str:
        """Keep the record of what commands are given, ``path`` being their PATH if it is a special one; return its name.

        "" if it cannot be written: no work is refused for that.
        """
        if path not in self._environments:
            try:
                self._environments[path] = write_environment(self.root, describe(os.environ, path))
            except OSError as error:
                log.debug("environment: %s", error)
                return ""
        return self._environments[path]

    def make_folder(
        self,
        key: Key,
        task: Mapping[str, Any],
        script: str,
        outputs: Iterable[ResolvedOutput],
        copies: Mapping[str, Path],
        lists: Mapping[str, str],
        stamps: Mapping[str, str | None],
    ) -> Rejection | None:
        """Make the folder of an attempt; return why it cannot be handed over, None if it can. Raises FolderTaken.

        ``stamps`` tells of inputs, by their paths, what they were when they were recorded.
        """
        folder = self.folder(key)
        own = where = os.path.dirname(attempt_folder(*key))
        while where:  # from behind a link no relative path would lead where it should
            path, now = f"{self.absolute}/{where}", time.monotonic()
            if now - self._checked.get(path, -1.0) < _CHECKED_S:
                break
            if where != own:  # that of one task is not kept: there may be a hundred thousand
                self._checked[path] = now
            if os.path.islink(path):
                self._checked.clear()
                real = os.path.realpath(path)
                return Rejection(said(f"{where} is a symlink to {real}; replace it by the folder itself"))
            where = os.path.dirname(where)
        wrong = self._wrong_input(key, folder, task, stamps)
        if wrong is not None:
            return wrong
        try:
            create_attempt_folder(folder, task, script, outputs, copies, lists)
        except OSError as error:
            if isinstance(error, FileExistsError) and _is_of_a_step(folder):
                raise FolderTaken from None
            path = os.path.relpath(error.filename or folder, self.root)
            later = error.errno in (*TRANSIENT, errno.EACCES, errno.EPERM)
            return Rejection(said(f"{path} cannot be written: {error.strerror or error}"), retry_later=later)
        return None

    def _wrong_input(
        self, key: Key, folder: str, task: Mapping[str, Any], stamps: Mapping[str, str | None]
    ) -> Rejection | None:
        """Return why an input is not what was recorded: it may be deleted or changed in place since."""
        for name, item in task["inputs"].items():
            for file in item["files"]:
                path = os.path.normpath(os.path.join(folder, file["path"]))
                try:
                    found = os.stat(path)
                    how = "" if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) else "is no longer a file"
                    stamp = stamps.get(file["path"])
                    if not how and stamp is not None and stamp_of(path, found) != stamp:
                        wrong = self._changed_input(key, name, file, path, found, stamp)
                        if wrong is not None:
                            return wrong
                except OSError as error:
                    how = "is gone"
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        shown = os.path.relpath(path, self.absolute)
                        return Rejection(said(f"{shown} cannot be read: {error.strerror}"), retry_later=True)
                if how:
                    shown = os.path.relpath(path, self.absolute)
                    return Rejection(
                        reason(Code.INPUT_GONE, input=name, path=shown, how=how, task=key[0], upstream=file.get("task"))
                    )
        return None

    def _changed_input(
        self, key: Key, name: str, file: Mapping[str, Any], path: str, found: os.stat_result, stamp: str
    ) -> Rejection | None:
        """Return how an input differs from what was recorded, None if only its stamp does, as in a copy of the run."""
        recorded, now = str(file.get("sha256") or ""), None
        if recorded:
            now = changed_digest(path, recorded, stamp)
            if now is None:
                return None
        else:  # of an external file without a digest, size and time are all that is known
            before, after = (text.split(":") for text in (stamp, stamp_of(path, found)))
            if before[:2] == after[:2]:
                return None
            if stat.S_ISDIR(found.st_mode):
                recorded = "a file in it has another size or time"
            else:
                recorded = (
                    f"{after[0]} bytes, recorded {before[0]} bytes" if before[0] != after[0] else "at another time"
                )
        shown = file["path"] if file.get("external") else os.path.relpath(path, self.absolute)
        why = reason(
            Code.INPUT_CHANGED,
            input=name,
            path=shown,
            recorded=recorded,
            now=now,
            task=key[0],
            upstream=file.get("task"),
        )
        return Rejection(why, failure=FailureClass.INPUT_CHANGED)

    def is_input(self, key: Key, path: str) -> bool:
        """Return whether a file of the run root is among the inputs of an attempt, by its task.json."""
        try:
            inputs = json.loads(read_regular(f"{self.folder(key)}/{TASK}"))["inputs"].values()
            folder = attempt_folder(*key)
            return any(
                os.path.normpath(f"{folder}/{file['path']}") == path for item in inputs for file in item["files"]
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False

    def leave(self, key: Key, files: Mapping[str, str]) -> bool:
        """Write files that an operator wants in an attempt's folder; return whether all are there with this content.

        Raises OSError.
        """
        folder = Path(self.folder(key))
        return all(write_once(folder / name, text, synced=False) for name, text in files.items())

    def write_defect(self, key: Key, traceback: str) -> None:
        """Keep the traceback of a defect where somebody will look for it, as far as that can be done."""
        path = Path(self.folder(key)) / DEFECT
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(traceback, encoding="utf-8", errors="backslashreplace")

    def declared(self, key: Key) -> Mapping[str, ResolvedOutput] | None:
        """Return the outputs that an attempt was asked for, None if its task.json does not say."""
        try:
            return outputs_from_json(json.loads(read_regular(f"{self.folder(key)}/{TASK}"))["outputs"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def publish(self, key: Key, outputs: Sequence[OutputFile], declared: Iterable[str]) -> Reason:
        """Point results/ to the outputs of an attempt; return which could not be linked and why.

        ``declared`` are the paths below results/ that it could have had.
        """
        for output in outputs:
            make_read_only(f"{self.folder(key)}/{output.file.rstrip('/')}")
        return publish(self.root, *key, outputs, declared)

    def keep(self, text: str) -> str:
        """Write a file of expanded/, synced; return its name."""
        return write_expanded(self.root, text)

    def withdraw(self, task_id: str, paths: Iterable[str]) -> None:
        """Remove links of results/ to outputs of a task."""
        withdraw(self.root, task_id, paths)

    def remove_output(self, key: Key, file: str, path: str) -> None:
        """Remove a temporary output, as far as that is possible, and its link in results/."""
        withdraw(self.root, key[0], [path])
        import shutil  # few campaigns have any

        there = f"{self.folder(key)}/{file.rstrip('/')}"
        with suppress(OSError):
            if os.path.isdir(there) and not os.path.islink(there):
                shutil.rmtree(there)
            else:
                os.unlink(there)

    def note_large(self, key: Key, most: int) -> None:
        """Look for files of an ended attempt above ``most`` bytes; `keep_from_git` lists them."""
        self._large += large_files(self.root, attempt_folder(*key), most)

    def keep_from_git(self, at_work: Collection[Key]) -> str:
        """List large files, and the folders of attempts that are at work, in .gitignore.

        Return why that failed, "" if it did not. Of an attempt at work nobody knows yet what will be large.
        """
        now = frozenset(at_work)
        if not self._large and now == self._at_work:
            return ""
        try:
            ignore(self.root, self._large, now)
        except OSError as error:
            return error.strerror or str(error)
        self._large, self._at_work = [], now
        return ""


_LARGEST_COMPARED = 256 << 20  # bytes
_OF_ATTEMPTS = frozenset(
    [TASK, COMMAND, CLAIM, DEFECT, DIGESTS, "stdout.log", "stderr.log", "exit.json", ".exit.json", ".environment"]
)


def _content_of(file: Mapping[str, Any]) -> Any:
    return file.get("sha256") or [file.get("task"), file.get("attempt"), file["path"]]


def _is_of_a_step(folder: str) -> bool:
    """Return whether what lies in an attempt's folder is a step's, and not a person's."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return False
    return not names or bool(names & {TASK, COMMAND, CLAIM})


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
