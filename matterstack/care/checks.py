"""`doctor`: a list of checks of a run root. Nothing here changes anything."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matterstack.care import rebuild
from matterstack.core.model import OutputFile
from matterstack.core.states import AttemptState, FailureClass
from matterstack.errors import (
    JournalError,
    LedgerDamagedError,
    LedgerError,
    LedgerMissingError,
    LedgerUnfinishedError,
    MatterStackError,
    RunRootError,
)
from matterstack.operators.answers import read_task
from matterstack.run_root import layout
from matterstack.run_root.files import digest_of_listing, place_of, read_regular, sha256_of
from matterstack.run_root.layout import attempt_folder, require_run_root
from matterstack.run_root.results import what_is_in_the_way
from matterstack.storage.journal import PUT_BACK, Journal
from matterstack.storage.run_lock import LOCK_FILE, read_holder, run_lock
from matterstack.storage.state_store import SQLiteStateStore, TaskRow

_NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "fuse.sshfs", "beegfs", "ceph", "glusterfs", "afs", "9p")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be; ``fixable`` says that `doctor --fix` does it."""

    check: str
    path: str  # below the run root
    message: str
    remedy: str
    fixable: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check, "path": self.path, "message": self.message, "remedy": self.remedy,
            "fixable": self.fixable,
        }  # fmt: skip


_GIT_FILES = {".gitignore": layout.GITIGNORE, ".gitattributes": layout.GITATTRIBUTES}
_FIX = "`matterstack doctor --fix` {0}"
_LOST_OUTPUT = "restore it from git or a backup, or `matterstack rerun` the task"


def examine(root: str | Path, *, digests: bool = False) -> list[Finding]:
    """Check ledger, journal, folders, links, lock and file system; with ``digests`` also what is in the files.

    Nothing of the run is changed; whether locks and hard links work is tried in a folder that is removed again.
    Raises UsageError for what is no run root at all.
    """
    path = Path(root)
    _require_traces(path)
    findings = [*_files(path), *_file_system(path), *_lock(path)]
    store, found = _readable_ledger(path)
    findings += found
    if store is None:
        return findings
    with store:
        findings += _ledger_and_journal(path, store)
        findings += _attempts(path, store)
        findings += _results(path, store, digests=digests)
        findings += _sources(path, store, digests=digests)
        findings += _answers(path, store)
    return findings


def _require_traces(root: Path) -> None:
    """Raise UsageError for what was never a run root."""
    names = (layout.RUN, layout.JOURNAL, layout.LEDGER)
    if not root.is_dir() or not any(os.path.lexists(root / name) for name in names):
        require_run_root(root)


def _files(root: Path) -> Iterator[Finding]:
    if not (root / layout.RUN).is_file():
        yield Finding("run.json", layout.RUN, "is missing", _FIX.format("writes it from the ledger"), fixable=True)
    for name in (layout.CAMPAIGN, layout.OPERATORS):
        if not (root / name).is_file():
            yield Finding("files", name, "is missing", "restore it from git or a backup; the run goes on without it")
    for name, lines in _GIT_FILES.items():
        try:
            have = read_regular(root / name).decode(errors="replace").splitlines()
        except OSError:
            yield Finding("files", name, "is missing or no file", _FIX.format("writes it"), fixable=True)
            continue
        if not set(lines.splitlines()) <= set(have):
            yield Finding("files", name, "lacks lines that git needs", _FIX.format("adds them"), fixable=True)
    for left in [*root.glob(".init-*"), *root.glob(".parcel-*"), *root.glob(f".{layout.LEDGER}.rebuilt*")]:
        yield Finding("files", left.name, "was left by a killed command", f"remove it: rm -r {left.name}")


def _file_system(root: Path) -> Iterator[Finding]:
    kind = file_system_of(root)
    if kind in _NETWORK:
        message = f"lies on a network file system ({kind}), where locks and synced writes depend on its settings"
        yield Finding("file system", ".", message, "step the run from one machine alone, if you can")
    probe = root / f".doctor-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        (probe / "a").touch()
        os.link(probe / "a", probe / "b")
        try:
            os.link(probe / "a", probe / "b")
            yield Finding("file system", ".", "lets two claim one name by hard links", "move the run root elsewhere")
        except FileExistsError:
            pass
        yield from _lock_probe(probe / "lock")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            yield Finding("file system", ".", f"has no hard links ({error.strerror})", "move the run root elsewhere")
        else:
            yield Finding("file system", ".", f"cannot be written: {error.strerror}", "check its permissions and space")
    finally:
        with suppress(OSError):
            for name in ("a", "b", "lock"):
                (probe / name).unlink(missing_ok=True)
            probe.rmdir()


def _lock_probe(file: Path) -> Iterator[Finding]:
    import fcntl

    first, second = (os.open(file, os.O_RDWR | os.O_CREAT, 0o666) for _ in range(2))
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Finding("file system", ".", "gives one lock to two", "move the run root elsewhere")
        except BlockingIOError:
            pass
    except OSError as error:
        yield Finding("file system", ".", f"has no locks ({error.strerror})", "move the run root elsewhere")
    finally:
        os.close(first)
        os.close(second)


def file_system_of(path: Path) -> str:
    """Give the type of the file system that holds a path, "" where that cannot be told. Source: proc(5), mountinfo."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real, best, kind = str(path.resolve()), "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape", errors="replace")
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def _lock(root: Path) -> Iterator[Finding]:
    if os.path.lexists(root / LOCK_FILE) and ((root / LOCK_FILE).is_symlink() or not (root / LOCK_FILE).is_file()):
        yield Finding("lock", LOCK_FILE, "is no regular file", _FIX.format("moves it away"), fixable=True)
        return
    holder = read_holder(root)
    if holder and not holder.get("released"):
        from matterstack.errors import RunLockedError

        try:
            with run_lock(root, check=_do_not_write):
                pass
        except RunLockedError:
            return  # somebody works on it: as it should be
        except _Looked:
            pass
        if holder.get("host") not in (None, socket.gethostname()):
            message = f"was never released by pid {holder.get('pid')} on {holder.get('host')}"
            yield Finding(
                "lock", LOCK_FILE, message, "make sure that no step runs there; the next step takes the lock over"
            )


class _Looked(Exception):
    pass


def _do_not_write(_: Any) -> None:
    raise _Looked


def _readable_ledger(root: Path) -> tuple[SQLiteStateStore | None, list[Finding]]:
    ledger = layout.LEDGER
    if os.path.lexists(root / ledger) or read_holder(root).get("path") == place_of(root)[1]:
        try:
            store = SQLiteStateStore(root / ledger, read_only=True)
            problem = store.integrity_problem()
            if problem:
                store.close()
                raise LedgerDamagedError(f"{root / ledger} is damaged: {problem}")
        except (LedgerMissingError, LedgerDamagedError) as error:
            what = str(error).partition(" is ")[2].partition(";")[0] or str(error)
            rebuilds = _FIX.format("rebuilds it from journal.jsonl and tasks/")
            return None, [Finding("ledger", ledger, f"is {what}", rebuilds, fixable=True)]
        except LedgerUnfinishedError:
            message = "holds a commit that a killed step left to roll back"
            return None, [Finding("ledger", ledger, message, "`matterstack step` does it by itself", fixable=True)]
        except LedgerError as error:
            return None, [Finding("ledger", ledger, str(error), "see the message")]
        return store, []
    found = Finding(
        "home", ".", "is a copy of a run: there is no ledger", "`matterstack adopt` makes it the run's home"
    )
    try:
        return rebuild.memory_ledger(root), [found]
    except MatterStackError as error:
        return None, [found, Finding("journal", layout.JOURNAL, str(error), "restore it from git or a backup")]


def _ledger_and_journal(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    name = layout.JOURNAL
    if store.is_on_disk() and not store.is_at_home(*place_of(root)):
        _, host, path = store.home()
        message = f"is a copy of the run at home on {host} in {path}"
        yield Finding("home", ".", message, "`matterstack adopt` makes it the run's home, once the other has stopped")
    try:
        record = rebuild.read_record(root)
        if record["id"] != store.run().run_id:
            message = f"is of run {record['id']}, the ledger of {store.run().run_id}"
            yield Finding("run.json", layout.RUN, message, "put back the two that belong together")
    except RunRootError as error:
        if (root / layout.RUN).is_file():
            message = str(error).partition(": ")[2] or "is damaged"
            yield Finding("run.json", layout.RUN, message, _FIX.format("writes it from the ledger"), fixable=True)
    if not os.path.exists(root / name):
        yield Finding("journal", name, "is missing", _FIX.format("writes it from the ledger"), fixable=True)
        return
    try:
        events = Journal(root / name).read()
    except JournalError as error:
        yield Finding(
            "journal", name, str(error), _FIX.format("writes it from the ledger; the old one is kept"), fixable=True
        )
        return
    ours = store.events_after(0)
    torn = not read_regular(root / name).endswith(b"\n")
    if events[: len(ours)] != ours[: len(events)]:
        number = next(n for n, (a, b) in enumerate(zip(events, ours, strict=False), 1) if a != b)
        message = f"and state.sqlite are of different histories (event {number})"
        yield Finding("journal", name, message, PUT_BACK)
    elif any(event.kind == "adopted" for event in events[len(ours) :]):
        data = json.loads(next(event for event in reversed(events) if event.kind == "adopted").data)
        message = f"knows that the run was adopted by {data.get('host')}:{data.get('path')}; it goes on there"
        remedy = "work there; `matterstack adopt` takes it back, once that home has stopped and the ledger here is moved away"
        yield Finding("home", name, message, remedy)
    elif len(events) > len(ours):
        message = f"knows {len(events)} events, the ledger {len(ours)}: state.sqlite is an old one"
        remedy = "put the newer ledger back, or move this one away and run `matterstack doctor --fix`"
        yield Finding("journal", name, message, remedy)
    elif len(events) < len(ours) or torn:
        message = f"lacks {len(ours) - len(events)} events of the ledger" + (
            ", and its last line is torn" if torn else ""
        )
        yield Finding("journal", name, message, "the next step completes it", fixable=True)


def _attempts(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    first = store.event(1)
    for name in rebuild.changed_files(root, json.loads(first.data) if first is not None else {}):
        if (root / name).is_file():
            message = (
                "is not what the run began with; the run goes on with what it was, a lost ledger could not be rebuilt"
            )
            yield Finding("files", name, message, "restore it from git; another campaign is another run")
    for row in store.tasks():
        for attempt in store.attempts(row.task_id) if row.attempts else ():
            folder = attempt_folder(row.task_id, attempt.attempt)
            started = attempt.failure not in (FailureClass.NOT_STARTED, FailureClass.TEMPLATE, FailureClass.POSTPONED)
            # `rejected` by an operator never started; by a person, it has an answer that should be there.
            started = started and (attempt.failure is not FailureClass.REJECTED or attempt.response is not None)
            if not (root / folder).is_dir():
                if started and attempt.state is not AttemptState.SUBMITTING:
                    remedy = "nothing needs it; restore it from git if you want it"
                    if attempt.state.is_live:
                        remedy = "what it computes is lost; `matterstack rerun` the task"
                    elif row.result == attempt.attempt:
                        remedy = _LOST_OUTPUT
                    yield Finding("attempts", folder, "is missing", remedy)
                continue
            if started and attempt.state is AttemptState.COMPLETED and not (root / folder / "task.json").is_file():
                yield Finding("attempts", f"{folder}/task.json", "is missing", "restore it from git or a backup")
        late = row.attempts + 1
        if (root / attempt_folder(row.task_id, late)).is_dir():
            folder = attempt_folder(row.task_id, late)
            message = "is an attempt that the ledger does not know"
            remedy = "if it is of this run, the ledger is an old one: put the newer back; else move the folder away"
            yield Finding("attempts", folder, message, remedy)


def _results(root: Path, store: SQLiteStateStore, *, digests: bool, only: set[str] | None = None) -> Iterator[Finding]:
    for row in store.tasks(only):
        for output in _published(store, row):
            folder = attempt_folder(row.task_id, row.result or 0)
            file, link = root / folder / output.file, root / "results" / output.path.rstrip("/")
            is_folder = output.file.endswith("/")
            if not file.exists():
                yield Finding("outputs", f"{folder}/{output.file}", "is missing", _LOST_OUTPUT)
                continue
            if not (file.is_dir() if is_folder else file.is_file()):
                what = f"is no {'folder' if is_folder else 'file'} any more"
                yield Finding("outputs", f"{folder}/{output.file}", what, _LOST_OUTPUT)
                continue
            if not file.resolve().is_relative_to(root.resolve()):
                remedy = "copy it into the folder, if it shall stay with the run"
                yield Finding(
                    "outputs", f"{folder}/{output.file}", f"lies outside of the run, in {file.resolve()}", remedy
                )
            target = os.path.relpath(root / folder / output.file.rstrip("/"), link.parent)
            above = what_is_in_the_way(root, link)
            if above or not link.is_symlink() or os.readlink(link) != target:
                what = "is missing" if not os.path.lexists(link) else "is not the link to its newest result"
                in_the_way = os.path.lexists(link) and not link.is_symlink()
                remedy = "move what stands there away" if in_the_way else _FIX.format("sets it")
                if above:
                    in_the_way, what, remedy = True, f"cannot be linked: {above}", "move that away"
                yield Finding("results", f"results/{output.path}", what, remedy, fixable=not in_the_way)
            now = _digest(file, folder=is_folder) if digests else None
            if digests and now is None:
                yield Finding("outputs", f"{folder}/{output.file}", "cannot be read", "check its permissions")
            if now is not None and output.sha256 is not None and now != output.sha256:
                message = f"is not what the task made: sha256 {now[:12]}…, recorded {output.sha256[:12]}…"
                yield Finding("outputs", f"{folder}/{output.file}", message, _LOST_OUTPUT)


def damaged_outputs(root: Path, store: SQLiteStateStore, *, since: float) -> list[Finding]:
    """Find results of attempts that ended since then and are not there or not what was recorded."""
    recent = {row.task_id for row in store.tasks() if row.result is not None and _ended_since(store, row, since)}
    found = _results(root, store, digests=True, only=recent)
    return [finding for finding in found if finding.check == "outputs"]


def _ended_since(store: SQLiteStateStore, row: TaskRow, since: float) -> bool:
    attempt = store.attempt(row.task_id, row.result or 0)
    return attempt is not None and (attempt.ended_at or 0.0) >= since


def _published(store: SQLiteStateStore, row: TaskRow) -> list[OutputFile]:
    found = store.published(row.task_id)
    if found is None:
        return []
    declared = store.outputs_of(row.task_id)
    return [OutputFile(name, declared[name].path, file, None, digest) for name, (file, digest) in found[1].items()]


def _digest(path: Path, *, folder: bool) -> str | None:
    try:
        if not folder:
            return sha256_of(path)
        return digest_of_listing(
            {file.relative_to(path).as_posix(): sha256_of(file) for file in path.rglob("*") if file.is_file()}
        )
    except OSError:
        return None


def _sources(root: Path, store: SQLiteStateStore, *, digests: bool) -> Iterator[Finding]:
    for path, digest in store.sources().items():
        file = root / "source" / path
        if not file.is_file():
            remedy = (
                "`matterstack refresh --yes` brings it from the campaign folder, if it is there; or restore it from git"
            )
            yield Finding("source", f"source/{path}", "is missing", remedy)
        elif digests and _digest(file, folder=False) != digest:
            remedy = "copy it to the campaign folder and `matterstack refresh`, or restore it from git"
            yield Finding("source", f"source/{path}", "was edited: attempts do not know of it", remedy)
    if (root / "source" / layout.STAGING).is_dir():
        yield Finding(
            "source",
            f"source/{layout.STAGING}",
            "was left by a killed refresh",
            "the next step finishes it",
            fixable=True,
        )


def _answers(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    """Find answers of people whose inputs are others by now."""
    campaign = store.campaign(store.run().campaign_version)
    for row in store.tasks():
        if row.result is None or campaign.operators[row.operator].kind != "human":
            continue
        folder = attempt_folder(row.task_id, row.result)
        attempt, task = store.attempt(row.task_id, row.result), read_task(root / folder)
        if attempt is None or task is None:
            continue
        who = json.loads(attempt.response or "{}").get("by", "somebody")
        for what in _changed_inputs(root, store, folder, task):
            remedy = f"`matterstack rerun` {row.task_id} asks again, if that matters"
            yield Finding("answers", f"{folder}/response.json", f"{who} answered on {what}", remedy)


def _changed_inputs(root: Path, store: SQLiteStateStore, folder: str, task: Mapping[str, Any]) -> Iterator[str]:
    newer: set[str] = set()
    for file in (file for item in task["inputs"].values() for file in item["files"]):
        upstream, used = file.get("task"), file.get("attempt")
        published = store.published(upstream) if upstream is not None else None
        if published is not None and published[0] > used:
            if upstream not in newer:
                yield f"attempt {used} of {upstream}, which has a newer one ({published[0]})"
            newer.add(upstream)
            continue
        path = os.path.normpath(f"{folder}/{file['path']}")
        now = _digest(root / path, folder=(root / path).is_dir())
        if file.get("sha256") is not None and now != file["sha256"]:
            yield f"{path}, which {'has changed since' if now is not None else 'is not there any more'}"
