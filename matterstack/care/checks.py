"""`doctor`: a list of checks of a run root. Nothing here changes anything."""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from matterstack.care import rebuild
from matterstack.care.record import changed_files, read_record
from matterstack.core.events import Adopted, Amended, Reused, RunCreated, TasksAdded
from matterstack.core.kinds import HUMAN
from matterstack.core.model import OutputFile
from matterstack.core.states import AttemptState, FailureClass
from matterstack.deferred import dataclass
from matterstack.errors import (
    JournalError,
    LedgerDamagedError,
    LedgerError,
    LedgerMissingError,
    LedgerUnfinishedError,
    MatterStackError,
    RunLockedError,
    RunRootError,
)
from matterstack.hints import Hint
from matterstack.operators.answers import read_task
from matterstack.orchestration.session import refuse_clone
from matterstack.run_root import layout
from matterstack.run_root.files import place_of, read_regular, sync, write_new
from matterstack.run_root.gitignore import gitignore_line, ignored
from matterstack.run_root.layout import attempt_folder, require_run_root
from matterstack.run_root.results import what_is_in_the_way
from matterstack.run_root.verify import changed_digest, digest_or_none, output_problem, stamp_of
from matterstack.run_root.versions import half_made, is_linked_to
from matterstack.storage.expanded import read_expanded
from matterstack.storage.integrity import integrity_problem
from matterstack.storage.journal import Journal, branch_of, parse_or_none
from matterstack.storage.run_lock import LOCK_FILE, read_holder, run_lock
from matterstack.storage.state_store import SQLiteStateStore

_NETWORK = ("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "fuse.sshfs", "beegfs", "ceph", "glusterfs", "afs", "9p")


_PROBE = 1 << 16  # bytes that a step may need to write
_PATIENCE_S = 30.0  # for a lock that a loop gives up between its steps
_CHANGING = ("journal", "attempts", "outputs", "results", "home", "answers", "questions")  # what a step changes
_NEVER_STARTED = (
    FailureClass.NOT_STARTED, FailureClass.TEMPLATE, FailureClass.POSTPONED, FailureClass.INPUT_CHANGED,
)  # fmt: skip


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


GIT_FILES = {".gitignore": layout.GITIGNORE, ".gitattributes": layout.GITATTRIBUTES}


def _fix(root: Path, what: str) -> str:
    return f"{Hint('doctor', root, rest='--fix')} {what}"


def _lost_output(root: Path, task_id: str) -> str:
    return f"restore it from git or a backup, or {Hint('rerun', root, task_id)}"


def examine(root: str | Path, *, digests: bool = False) -> list[Finding]:
    """Check ledger, journal, folders, links, lock and file system; with ``digests`` also what is in the files.

    Nothing of the run is changed; whether locks and hard links work is tried in a folder that is removed again.
    Raises UsageError for what is not a run root at all.
    """
    path = Path(root)
    require_traces(path)
    before = read_holder(path)
    findings = _examine(path, digests=digests)
    if findings and (_is_held(path) or read_holder(path) != before):
        # Somebody worked on it meanwhile: what is said must be so while nobody does.
        try:
            with run_lock(path, wait_s=_PATIENCE_S, check=partial(refuse_clone, path)):
                findings = _examine(path, digests=digests, locked=True)
        except (RunLockedError, RunRootError):  # the last of one who may only read it
            findings = [finding for finding in findings if finding.check not in _CHANGING]
    return findings


def _examine(path: Path, *, digests: bool, locked: bool = False) -> list[Finding]:
    checks = [_files, _file_system, *([] if locked else [_lock])]
    findings = [found for check in checks for found in _as_far_as_possible(path, check(path))]
    store, found = _readable_ledger(path)
    findings += found
    if store is None:
        return findings
    with store, store.snapshot():
        looks = [
            look(path, store) for look in (_home_and_record, _journal, _descriptions, _attempts, _questions, _answers)
        ]
        looks += [_results(path, store, digests=digests), _sources(path, store, digests=digests)]
        for look in looks:
            findings += _as_far_as_possible(path, look)
    return findings


def _is_held(root: Path) -> bool:
    """Return whether another process holds the run's lock."""
    try:
        with run_lock(root, check=_do_not_write):
            return False
    except RunLockedError:
        return True
    except (_Looked, MatterStackError):
        return False


def _as_far_as_possible(root: Path, look: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; what cannot be read is one as well, and the other checks go on."""
    try:
        yield from look
    except OSError as error:
        path = str(error.filename or ".").removeprefix(f"{root}/")
        yield Finding("files", path, f"cannot be read: {error.strerror or error}", "make it readable, then look again")


def require_traces(root: Path) -> None:
    """Raise UsageError for what was never a run root."""
    names = (layout.RUN, layout.JOURNAL, layout.LEDGER)
    if not root.is_dir() or not any(os.path.lexists(root / name) for name in names):
        require_run_root(root)


def _files(root: Path) -> Iterator[Finding]:
    if not os.path.isfile(root / layout.RUN):
        yield Finding("run.json", layout.RUN, "is missing", _fix(root, "writes it from the ledger"), fixable=True)
    for name in (layout.CAMPAIGN, layout.OPERATORS):
        if not os.path.isfile(root / name):
            yield Finding("files", name, "is missing", "restore it from git or a backup; the run goes on without it")
    for name, lines in GIT_FILES.items():
        try:
            have = read_regular(root / name).decode(errors="replace").splitlines()
        except OSError:
            yield Finding("files", name, "is missing or not a file", _fix(root, "writes it"), fixable=True)
            continue
        if not set(lines.splitlines()) <= set(have):
            yield Finding("files", name, "lacks lines that git needs", _fix(root, "adds them"), fixable=True)
    for left in left_over(root):
        yield Finding(
            "files",
            left.relative_to(root).as_posix(),
            "was left by a killed command",
            _fix(root, "removes it"),
            fixable=True,
        )


def left_over(root: Path) -> list[Path]:
    """Return what killed commands left; nothing is in the midst of writing it while the lock is held."""
    return [*half_made(root), *root.glob(".init-*"), *root.glob(".parcel-*"), *root.glob(f".{layout.LEDGER}.rebuilt*")]


def _file_system(root: Path) -> Iterator[Finding]:
    kind = file_system_of(root)
    if kind in _NETWORK:
        message = f"lies on a network file system ({kind}), where locks and synced writes depend on its settings"
        yield Finding("file system", ".", message, "step the run from one machine only, if you can")
    if os.path.lexists(root / LOCK_FILE) and not os.access(root / LOCK_FILE, os.W_OK):
        yield Finding(
            "lock", LOCK_FILE, "cannot be written, so no step can be taken", "change its owner or permissions"
        )
    journal = f"{layout.LEDGER}-journal"
    if os.path.isdir(root / journal):
        yield Finding("ledger", journal, "is a folder where SQLite writes its rollback journal", "move it away")
    probe = root / f".doctor-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        write_new(str(probe / "a"), b"x" * _PROBE)  # as a step writes and syncs
        sync(probe / "a")
        os.link(probe / "a", probe / "b")
        try:
            os.link(probe / "a", probe / "b")
            yield Finding("file system", ".", "allows two hard links of one name", "move the run root elsewhere")
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
            yield Finding("file system", ".", "grants one lock to two processes", "move the run root elsewhere")
        except BlockingIOError:
            pass
    except OSError as error:
        yield Finding("file system", ".", f"has no locks ({error.strerror})", "move the run root elsewhere")
    finally:
        os.close(first)
        os.close(second)


def file_system_of(path: Path) -> str:
    """Return the type of the file system that holds a path, "" where that cannot be told. Source: proc(5), mountinfo."""
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
    if os.path.lexists(root / LOCK_FILE) and ((root / LOCK_FILE).is_symlink() or not os.path.isfile(root / LOCK_FILE)):
        yield Finding("lock", LOCK_FILE, "is not a regular file", _fix(root, "moves it away"), fixable=True)
        return
    holder = read_holder(root)
    if holder and not holder.get("released"):
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
            try:
                problem = integrity_problem(store)
            except LedgerError:
                store.close()
                raise
            if problem:
                store.close()
                return None, [_unusable_ledger(root, f"damaged: {problem}")]
        except LedgerMissingError as error:
            return None, [_unusable_ledger(root, error.what)]
        except LedgerDamagedError as error:
            return None, [_unusable_ledger(root, f"damaged: {error.what}")]
        except LedgerUnfinishedError:
            message = "holds an unfinished commit of a killed step"
            return None, [Finding("ledger", ledger, message, f"{Hint('step', root)} rolls it back", fixable=True)]
        except LedgerError as error:
            return None, [Finding("ledger", ledger, str(error), "see the message")]
        except MatterStackError as error:  # the disk failed, or something else has the name of the ledger
            return _from_journal(root), [Finding("ledger", ledger, f"cannot be read: {error}", "see the message")]
        return store, []
    remedy = f"{Hint('adopt', root)} makes it the run's home"
    found = Finding("home", ".", "is a copy of a run: there is no ledger", remedy)
    try:
        return rebuild.memory_ledger(root), [found]
    except MatterStackError as error:
        return None, [found, Finding("journal", layout.JOURNAL, str(error), "restore it from git or a backup")]


def _from_journal(root: Path) -> SQLiteStateStore | None:
    """Return the run as its journal says, so that the other checks go on; None if that cannot be read either."""
    try:
        return rebuild.memory_ledger(root)
    except MatterStackError:
        return None


def _unusable_ledger(root: Path, what: str) -> Finding:
    remedy = _fix(root, "rebuilds it from journal.jsonl and tasks/")
    return Finding("ledger", layout.LEDGER, f"is {what}", remedy, fixable=True)


def _home_and_record(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    if store.is_on_disk() and not store.is_at_home(*place_of(root)):
        _, host, path = store.home()
        message = f"is a copy of the run at home on {host} in {path}"
        remedy = f"once the original has stopped, {Hint('adopt', root)} makes this copy the one that runs"
        yield Finding("home", ".", message, remedy)
    try:
        record = read_record(root)
        if record["id"] != store.run().run_id:
            message = f"is of run {record['id']}, the ledger of {store.run().run_id}"
            yield Finding("run.json", layout.RUN, message, "put back the two that belong together")
    except RunRootError:
        if os.path.isfile(root / layout.RUN):
            remedy = _fix(root, "writes it from the ledger")
            yield Finding("run.json", layout.RUN, "is damaged", remedy, fixable=True)


def _journal(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    name, journal = layout.JOURNAL, Journal(root / layout.JOURNAL)
    if not journal.exists():
        yield Finding("journal", name, "is missing", _fix(root, "writes it from the ledger"), fixable=True)
        return
    ours = store.lines_after(0)
    try:
        lines = journal.lines()
        entries = list(journal.check(lines))
    except JournalError as error:
        remedy = _fix(root, "writes it from the ledger; the old one is kept")
        yield Finding("journal", name, str(error), remedy, fixable=True)
        return
    newest = read_regular(journal.path) if os.path.exists(journal.path) else b""
    torn = bool(newest) and not newest.endswith(b"\n")  # empty: the events before it have just become a segment
    adopted = next((entry.event for entry in reversed(entries[len(ours) :]) if isinstance(entry.event, Adopted)), None)
    if lines[: len(ours)] != ours[: len(lines)]:
        branch = branch_of(ours, lines)
        if branch is not None:
            what, _, remedy = branch.in_words(root).rpartition("; ")
            yield Finding("journal", name, what, remedy)
            return
        number = next(n for n, (a, b) in enumerate(zip(lines, ours, strict=False), 1) if a != b)
        yield Finding(
            "journal", name, f"and state.sqlite have different histories (event {number})", journal.put_back()
        )
    elif adopted is not None:
        message = f"knows that the run was adopted by {adopted.host}:{adopted.path}; it goes on there"
        remedy = f"work there; {Hint('adopt', root)} takes it back, once that home has stopped and the ledger here is moved away"
        yield Finding("home", name, message, remedy)
    elif len(lines) > len(ours):
        message = f"knows {len(lines)} events, the ledger {len(ours)}: state.sqlite is an old one"
        remedy = f"put the newer ledger back, or move this one away and run {Hint('doctor', root, rest='--fix')}"
        yield Finding("journal", name, message, remedy)
    elif len(lines) < len(ours) or torn:
        cut = ", and its last line is torn" if torn else ""
        message = f"lacks {len(ours) - len(lines)} events of the ledger{cut}"
        yield Finding("journal", name, message, "the next step completes it", fixable=True)


def _descriptions(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    """Find what describes the run and is not what it was: its campaign's files, and the instances as expanded."""
    described = [
        entry.event
        for line in store.lines_of("run_created", "tasks_added", "reused", "amended")
        if (entry := parse_or_none(line)) is not None
    ]
    newest = next((event for event in reversed(described) if isinstance(event, RunCreated | Amended)), None)
    if newest is not None:
        digests = {layout.CAMPAIGN: newest.campaign_sha256, layout.OPERATORS: newest.operators_sha256}
        for name in changed_files(root, digests):
            if os.path.isfile(root / name):
                message = "differs from the file that the run took; the run is unaffected"
                remedy = f"restore it from git; a correction goes into the campaign folder, and {Hint('amend', root)} takes it"
                yield Finding("files", name, message, remedy)
    for event in described:
        names = [event.definition] if isinstance(event, RunCreated | Amended) else []
        names += [event.rows] if isinstance(event, TasksAdded | Reused | Amended) else []
        for digest in names:
            try:
                read_expanded(root, digest)
            except RunRootError:
                path = f"{layout.EXPANDED}/{digest}.json"
                message = "is missing or was edited: without it a lost ledger could not be rebuilt"
                yield Finding("files", path, message, "restore it from git or a backup")


def _attempts(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    for row in store.tasks(retired=True):
        for attempt in store.attempts(row.task_id) if row.attempts else ():
            folder = attempt_folder(row.task_id, attempt.attempt)
            started = attempt.failure not in _NEVER_STARTED
            # `rejected` by an operator never started; by a person, it has an answer that should be there.
            started = started and (attempt.failure is not FailureClass.REJECTED or attempt.response is not None)
            if not os.path.isdir(root / folder):
                if started and attempt.state is not AttemptState.SUBMITTING:
                    remedy = "nothing needs it; restore it from git if you want it"
                    if attempt.state.is_live:
                        remedy = f"what it computes is lost; {Hint('rerun', root, row.task_id)}"
                    elif row.result == attempt.attempt:
                        remedy = _lost_output(root, row.task_id)
                    yield Finding("attempts", folder, "is missing", remedy)
                continue
            if started and attempt.state is AttemptState.COMPLETED and not os.path.isfile(root / folder / layout.TASK):
                yield Finding("attempts", f"{folder}/task.json", "is missing", "restore it from git or a backup")
        late = row.attempts + 1
        if (root / attempt_folder(row.task_id, late)).is_dir():
            folder = attempt_folder(row.task_id, late)
            message = "is an attempt that the ledger does not know"
            remedy = "if it is of this run, the ledger is an old one: put the newer back; else move the folder away"
            yield Finding("attempts", folder, message, remedy)


def _results(root: Path, store: SQLiteStateStore, *, digests: bool) -> Iterator[Finding]:
    owners = owners_of_paths(store)
    for path in left_temporary(root, store):
        yield Finding("outputs", path, "is temporary and was to be removed", _fix(root, "removes it"), fixable=True)
    left_out = ignored(root) if _is_copy(root, store) else set()  # what git was told to leave out is not missing there
    for row in store.tasks():
        if row.plan is not None:  # what it was before an amendment made it that is shown no longer
            continue
        folder = attempt_folder(row.task_id, row.result or 0)
        for output in store.published_files(row.task_id):
            if owners.get(output.path.rstrip("/"), row.task_id) != row.task_id:
                continue  # of before an amendment, since which it is another task's
            path = f"{folder}/{output.file}"
            if not os.path.lexists(root / path) and gitignore_line(path) in left_out:
                continue
            if (
                left_out
                and output.file.endswith("/")
                and any(line.startswith(gitignore_line(path)) for line in left_out)
            ):
                continue
            problem = output_problem(root, folder, output, digests=digests)
            if problem:
                yield Finding("outputs", path, problem, _lost_output(root, row.task_id))
            if not os.path.exists(root / path):
                continue
            if not (root / path).resolve().is_relative_to(root.resolve()):
                message = f"lies outside of the run, in {(root / path).resolve()}"
                yield Finding("outputs", path, message, "copy it into the folder, if it should stay with the run")
            yield from _link(root, path.rstrip("/"), output)


def owners_of_paths(store: SQLiteStateStore) -> dict[str, str]:
    """Return {path below results/: task that declares it}; nothing of a run that was never amended, where it says no more."""
    if store.newest_version() < 2:
        return {}
    return {
        output.path.rstrip("/"): row.task_id
        for row in store.tasks()
        for output in store.outputs_of(row.task_id).values()
    }


def left_temporary(root: Path, store: SQLiteStateStore) -> list[str]:
    """Return the files of temporary outputs that are on record as removed and still there, below the run root."""
    found = []
    for task_id, attempt, file in store.removed_files():
        path = f"{attempt_folder(task_id, attempt)}/{file}"
        if os.path.lexists(root / path.rstrip("/")):
            found.append(path)
    return found


def _is_copy(root: Path, store: SQLiteStateStore) -> bool:
    """Return whether this is a copy or clone, or was one before it was adopted."""
    if not store.path.exists() or not store.is_at_home(*place_of(root)):
        return True
    return any('"kind": "adopted"' in line for line in store.lines_after(0))


def _link(root: Path, path: str, output: OutputFile) -> Iterator[Finding]:
    link = root / "results" / output.path.rstrip("/")
    target = os.path.relpath(root / path, link.parent)
    above = what_is_in_the_way(root, link.relative_to(root / "results").as_posix())
    if not above and link.is_symlink() and os.readlink(link) == target:
        return
    exists = os.path.lexists(link)
    if above:
        message, remedy = f"cannot be linked: {above}", "move that away"
    elif exists and not link.is_symlink():
        message, remedy = "is not the link to its newest result", "move what is in its place away"
    else:
        message = "is not the link to its newest result" if exists else "is missing"
        remedy = _fix(root, "sets it")
    fixable = not above and not (exists and not link.is_symlink())
    yield Finding("results", f"results/{output.path}", message, remedy, fixable=fixable)


def _sources(root: Path, store: SQLiteStateStore, *, digests: bool) -> Iterator[Finding]:
    left_out = ignored(root) if _is_copy(root, store) else set()
    newest = store.newest_version()
    for version in store.versions():
        source, known = store.source_of(version), store.source_files(version)
        for path, (digest, _, stamp) in known.items():
            file = root / source / path
            shown = f"{source}/{path}"
            if not os.path.isfile(file):
                if gitignore_line(shown) not in left_out:
                    remedy = "restore it from git or a backup"
                    remedy += f"; {Hint('amend', root)} takes the campaign folder's" if version == newest else ""
                    yield Finding("source", shown, "is missing", remedy)
            elif _is_changed(file, digest, None if digests else stamp, digests=digests):
                remedy = f"correct it in the campaign folder and {Hint('amend', root)}; restore this one from git"
                yield Finding("source", shown, "was edited within the run: it is not what is on record", remedy)
    for path, (digest, size, stamp) in store.externals().items():
        yield from _external(path, digest, size, stamp)
    if newest > 1 and not is_linked_to(root, newest):
        remedy = "the next step links it"
        yield Finding("source", layout.SOURCE, f"is not the link to version {newest}", remedy, fixable=True)


def _is_changed(file: Path, digest: str, stamp: str | None, *, digests: bool) -> bool:
    try:
        return (stamp is not None or digests) and changed_digest(file, digest, stamp) is not None
    except OSError:
        return True


def _external(path: str, digest: str, size: int, stamp: str | None) -> Iterator[Finding]:
    remedy = "restore it; tasks that read it would fail as input_changed"
    try:
        now = os.stat(path)
        if digest and changed_digest(path, digest, stamp) is not None:
            yield Finding("external", path, "is not what it was at init", remedy)
        elif not digest and stamp is not None and stamp_of(path, now).split(":")[:2] != stamp.split(":")[:2]:
            yield Finding("external", path, f"was changed since init, when it had {size} bytes", remedy)
    except OSError as error:
        yield Finding("external", path, f"cannot be read: {error.strerror}", remedy)


def _questions(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    """Find questions to people, labs and closed clusters that nobody can answer, since what is asked cannot be read."""
    for row in store.live_attempts():
        folder = attempt_folder(*row.key)
        if row.state is AttemptState.WAITING and read_task(root / folder) is None:
            remedy = f"restore it from git or a backup, or {Hint('rerun', root, row.task_id)} asks anew"
            yield Finding("questions", f"{folder}/{layout.TASK}", "cannot be read, so nobody can answer", remedy)


def _answers(root: Path, store: SQLiteStateStore) -> Iterator[Finding]:
    """Find answers of people whose inputs are others by now."""
    for row in store.tasks():
        if (
            row.result is None
            or row.plan is not None
            or store.operators(row.campaign_version)[row.operator].row is not HUMAN
        ):
            continue
        folder = attempt_folder(row.task_id, row.result)
        attempt, task = store.attempt(row.task_id, row.result), read_task(root / folder)
        if attempt is None or task is None:
            continue
        who = json.loads(attempt.response or "{}").get("by", "somebody")
        for what in _changed_inputs(root, store, folder, task):
            remedy = f"{Hint('rerun', root, row.task_id)} asks again, if that matters"
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
        now = digest_or_none(root / path, folder=os.path.isdir(root / path))
        if file.get("sha256") is not None and now != file["sha256"]:
            yield f"{path}, which {'has changed since' if now is not None else 'no longer exists'}"
