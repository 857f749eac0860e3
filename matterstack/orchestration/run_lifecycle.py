"""The life of a run: `initialize_run`, `step_run`, `run_until_done`.

One step: lock, open the ledger, finish what a killed step left, observe, reconcile, decide what is ready, record
intents, hand over, record outcomes. Data goes one way; a kill between any two of these leaves what the next step
can carry on from (docs/architecture.md).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import select
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterstack.core.model import (
    PEOPLE_KINDS,
    AttemptChange,
    AttemptFacts,
    Campaign,
    Evidence,
    Launch,
    LiveAttempt,
    LoadedCampaign,
    Observation,
    OutputFile,
    Retries,
    Sighting,
    Submission,
    TaskChange,
    TaskSpec,
)
from matterstack.core.states import TASK_STATE_OF_ATTEMPT, AttemptState, FailureClass, RunState, TaskState, run_state
from matterstack.core.times import from_text, to_text
from matterstack.core.values import dump_json, dump_json_lines
from matterstack.errors import (
    MatterStackError,
    OperatorUnavailable,
    RunIsCopyError,
    RunLockedError,
    RunRootError,
    SubmissionRejected,
    TemplateError,
    UsageError,
)
from matterstack.operators.base import Key, Operator
from matterstack.operators.registry import make_operator
from matterstack.orchestration.frontier import settle_frontier
from matterstack.run_root import layout
from matterstack.run_root.attempts import gather_evidence
from matterstack.run_root.files import (
    digest_of_listing,
    place_of,
    sha256_of,
    sync,
    sync_files,
    write_beside,
    write_once,
)
from matterstack.run_root.layout import attempt_folder, require_run_root
from matterstack.run_root.results import ignore_large, publish
from matterstack.run_root.source import copy_source, finish_staged_source
from matterstack.storage.journal import Journal
from matterstack.storage.run_lock import LOCK_FILE, boot_id, run_lock, somebody_waits, write_released
from matterstack.storage.state_store import AttemptRow, RunRow, SQLiteStateStore
from matterstack.version import __version__

if TYPE_CHECKING:
    from matterstack.orchestration.handover import HandOver, Intent

log = logging.getLogger("matterstack")

Change = tuple[AttemptChange | None, TaskChange | None]

_BAD_ANSWERS = (FailureClass.BAD_RESPONSE, FailureClass.MISSING_OUTPUT)
_LONGEST_WAIT_S = 2.0  # of the loop, between looks at what other commands did
_BEFORE_A_REBOOT_S = 900.0  # whose results may not have reached the disk
_PATIENCE_S = 1.0  # for which a loop stays away from the lock when somebody waits for it


# --- init -----------------------------------------------------------------------------------------------------------


def initialize_run(campaign: LoadedCampaign, root: Path | None = None) -> Path:
    """Make the run root of a campaign, whole or not at all; give its path.

    It is built beside and moved in place. Raises UsageError if the folder exists and is not empty, RunLockedError
    if a process works in it, RunRootError if it cannot be written.
    """
    root = root if root is not None else Path("runs") / campaign.campaign.name
    _require_free(root)
    try:
        if root.exists():
            _make_in(campaign, root)
        else:
            _make_beside(campaign, root)
    except OSError as error:
        if isinstance(error, MatterStackError):
            raise
        raise RunRootError(f"{root}: cannot be written: {error.strerror or error}") from None
    log.info("run root made: %s", root)
    return root


def _make_beside(campaign: LoadedCampaign, root: Path) -> None:
    beside = root.parent / f".{root.name}.init-{secrets.token_hex(8)}"
    root.parent.mkdir(parents=True, exist_ok=True)
    beside.mkdir()
    try:
        _build(campaign, beside, root)
        try:
            os.rename(beside, root)
        except OSError:
            _require_free(root)
            raise
        sync(root.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _make_in(campaign: LoadedCampaign, root: Path) -> None:
    """Make a run root in an empty folder, which may be somebody's current one; run.json, by which it is one, last."""
    inside = root / f".init-{secrets.token_hex(8)}"
    with run_lock(root):
        try:
            _require_free(root, locked=True)
            _clear_killed_init(root)
            inside.mkdir()
            _build(campaign, inside, root)
            for path in sorted(inside.iterdir(), key=lambda path: path.name == layout.RUN):
                if path.name != LOCK_FILE:
                    os.rename(path, root / path.name)
            shutil.rmtree(inside, ignore_errors=True)
            sync(root)
        except BaseException:  # also Ctrl-C: without run.json at its place all goes back
            if not (root / layout.RUN).exists():
                with suppress(OSError):  # what stays is cleared by the next init
                    _clear_killed_init(root)
            raise
        finally:
            if not (root / layout.RUN).exists():
                (root / LOCK_FILE).unlink(missing_ok=True)


_OF_INIT = (
    layout.CAMPAIGN, layout.OPERATORS, layout.LEDGER, layout.JOURNAL, "source", "tasks", "results", ".gitignore",
    ".gitattributes",
)  # fmt: skip


def _left_by_init(root: Path) -> tuple[list[Path], list[Path]] | None:
    """Give what an `init` that was killed in this folder left: (its hidden folders, what it had moved out of them).

    None if there is anything else. run.json is moved last, so without it there never was a run.
    """
    hidden = list(root.glob(".init-*"))
    moved = [path for path in root.iterdir() if path not in hidden and path.name != LOCK_FILE]
    known = all(path.name in _OF_INIT and not os.path.lexists(hidden[0] / path.name) for path in moved if hidden)
    if moved and (len(hidden) != 1 or not known or not (hidden[0] / layout.RUN).exists()):
        return None
    return hidden, moved


def _clear_killed_init(root: Path) -> None:
    hidden, moved = _left_by_init(root) or ([], [])
    for path in moved:
        os.rename(path, hidden[0] / path.name)
    for path in hidden:
        shutil.rmtree(path)


def _require_free(root: Path, *, locked: bool = False) -> None:
    """Raise UsageError unless a run root can be made here, RunLockedError if a process is at it (``locked``: we are)."""
    try:
        if not root.exists() or (root.is_dir() and _left_by_init(root) is not None):
            return
    except OSError as error:
        raise RunRootError(f"{root}: cannot be read: {error.strerror}") from None
    if not locked and (root / LOCK_FILE).exists():
        with run_lock(root):
            pass
    if (root / layout.RUN).exists():
        raise UsageError(
            f"{root} is a run already; `matterstack run {root}` continues it, --root DIR takes another folder"
        )
    raise UsageError(f"{root} exists and is not empty; --root DIR takes another folder")


def _build(loaded: LoadedCampaign, folder: Path, root: Path) -> None:
    now = time.time()
    run_id = f"{loaded.campaign.name}-{secrets.token_hex(4)}"
    for name in ("source", "tasks", "results"):
        (folder / name).mkdir()
    write_beside(folder / layout.CAMPAIGN, loaded.text)
    operators = "".join(f"{name}: {text}\n" for name, text in loaded.operators_json.items())
    write_beside(folder / layout.OPERATORS, operators)
    write_beside(folder / ".gitignore", layout.GITIGNORE)
    write_beside(folder / ".gitattributes", layout.GITATTRIBUTES)
    sources = copy_source(loaded.folder, loaded.files, folder / "source")
    source_digest = digest_of_listing({path: digest for path, (digest, _) in sources.items()})
    record = {
        "id": run_id, "name": loaded.campaign.name, "digest": loaded.digest, "created_at": to_text(now),
        "version": __version__, "set": loaded.overrides,
    }  # fmt: skip
    write_beside(folder / layout.RUN, dump_json_lines(record, exact=True))
    write_released(folder, root)  # so that a ledger lost before the first step is known to have been here
    run = RunRow(
        run_id, loaded.campaign.name, loaded.digest, to_text(now), False, False, 1,
        _relative_path(loaded, root), source_digest, place_of(root)[1],
    )  # fmt: skip
    details = {
        "version": __version__, "set": json.loads(dump_json(loaded.overrides)) or None,
        "campaign_sha256": sha256_of(folder / layout.CAMPAIGN),
        "operators_sha256": sha256_of(folder / layout.OPERATORS),
        "tasks": len(loaded.instances), "source_digest": source_digest, "campaign_path": run.campaign_path,
    }  # fmt: skip
    sync_files(folder)  # what the ledger will speak of must be there after a power cut
    with SQLiteStateStore(folder / layout.LEDGER, create=True, journal=Journal(folder / layout.JOURNAL)) as store:
        store.create_run(run, loaded.campaign, loaded.instances, sources, os.uname().nodename, now, details)
    sync(folder)


def _relative_path(loaded: LoadedCampaign, root: Path) -> str:
    path = os.path.relpath(loaded.folder.resolve() / loaded.file.name, root.resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path!r}: the path of the campaign is not UTF-8; rename the folder") from None
    return path


# --- one step -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """An attempt that ended in a step; ``task_state`` is what became of its task."""

    task_id: str
    attempt: int
    state: AttemptState
    task_state: TaskState
    reason: str
    seconds: float | None
    soft: bool = False  # a failure that is allowed


@dataclass(slots=True)
class StepReport:
    """What one step did. Counts are those of the tick line."""

    run_id: str
    state: RunState
    ready: int = 0
    startable: int = 0  # READY tasks left that are not paused
    active: int = 0
    counts: dict[TaskState, int] = field(default_factory=dict)
    submitted: list[tuple[str, int]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    wished: list[tuple[str, int]] = field(default_factory=list)  # of a dry run: what a step would end
    warnings: list[str] = field(default_factory=list)
    next_retry: float | None = None
    running: list[tuple[str, float]] = field(default_factory=list)  # live attempts: task, since when

    @property
    def completed(self) -> int:
        return sum(item.state is AttemptState.COMPLETED for item in self.ended)

    @property
    def failed(self) -> int:
        return sum(item.state in (AttemptState.FAILED, AttemptState.LOST) for item in self.ended)

    @property
    def pending(self) -> int:
        """Tasks that wait, also READY ones that are paused."""
        left = self.counts.get(TaskState.READY, 0) - max(0, self.startable)
        return self.counts.get(TaskState.PENDING, 0) + left

    def to_json(self) -> dict[str, Any]:
        """Give the form of `step --json` (docs/architecture.md)."""
        return {
            "run": {"id": self.run_id, "state": str(self.state)},
            "counts": {str(state): count for state, count in self.counts.items()},
            "submitted": [{"task": task_id, "attempt": attempt} for task_id, attempt in self.submitted],
            "retried": self.retried,
            "ended": [
                {"task": item.task_id, "attempt": item.attempt, "state": str(item.state), "reason": item.reason}
                for item in self.ended
            ],
            "warnings": self.warnings,
        }

    def line(self) -> str:
        """Give the tick line."""
        return (
            f"Tick: {self.ready} ready, {len(self.submitted)} submitted, {self.completed} completed, "
            f"{self.failed} failed, {self.active} active, {self.pending} pending"
        )


def step_run(root: str | Path, *, dry_run: bool = False) -> StepReport:
    """Carry a run one step further.

    With ``dry_run`` nothing is written, handed over or locked: the report says what a step would do.
    Raises RunLockedError at once if another process works on the run, LedgerError for a ledger that is refused,
    UsageError if ``root`` is no run root, RunRootError if it cannot be written.
    """
    path = require_run_root(Path(root))
    if dry_run:
        with open_ledger(path, read_only=True) as store, store.copy_to_memory() as copy:
            return Step(path, copy, dry_run=True).take()
    with open_to_write(path) as store:
        return _take_step(path, store)


@contextmanager
def open_to_write(root: Path, *, wait_s: float = 0.0) -> Iterator[SQLiteStateStore]:
    """Hold the run's lock and give its ledger.

    Raises RunLockedError if the lock is not free within ``wait_s``, RunIsCopyError for a copy or clone of a run
    (DESIGN: the files of a copy may be read, only `adopt` makes it one that writes), LedgerError, RunRootError.
    """
    lock = run_lock(root, wait_s=wait_s, check=partial(refuse_clone, root))
    with lock as before, open_ledger(root) as store:
        if before.get("boot") not in (None, "", boot_id()) and before.get("host") == socket.gethostname():
            _check_what_a_reboot_may_have_lost(root, store, before)
        yield store


def _check_what_a_reboot_may_have_lost(root: Path, store: SQLiteStateStore, before: Mapping[str, Any]) -> None:
    """Warn of outputs of the last minutes before a reboot that are not what was recorded: jobs do not sync theirs."""
    from matterstack.care.checks import damaged_outputs

    last = from_text(before.get("released") or before.get("since")) or 0.0
    for finding in damaged_outputs(root, store, since=last - _BEFORE_A_REBOOT_S):
        log.warning("the machine was rebooted: %s: %s (%s)", finding.path, finding.message, finding.remedy)


def refuse_clone(root: Path, holder: Mapping[str, Any]) -> None:
    """Raise RunIsCopyError if the ledger is missing and `run.lock` does not say that it was here."""
    if os.path.lexists(root / layout.LEDGER):
        return
    if (holder.get("host"), holder.get("path")) != place_of(root):
        raise RunIsCopyError(_COPY.format(root=root, home=""))


_COPY = (
    "{root} is a copy of a run{home}: it can be read, and not be stepped; `matterstack adopt {root}` makes it the run's "
    "home, once the other has stopped"
)


def open_ledger(root: Path, *, read_only: bool = False) -> SQLiteStateStore:
    """Open the ledger of a run root; the writer's is brought up to date with its journal first."""
    path = root / layout.LEDGER
    if read_only:
        return SQLiteStateStore(path, read_only=True)
    store = SQLiteStateStore(path, journal=Journal(root / layout.JOURNAL))
    try:
        if not store.is_at_home(*place_of(root)):
            _, host, home = store.home()
            raise RunIsCopyError(_COPY.format(root=root, home=f" at home on {host} in {home}"))
        here = place_of(root)
        if store.home()[1:] != here or store.home()[0] != (root / layout.LEDGER).stat().st_ino:
            store.moved_to = here  # else a copy put at the old place would be at home there as well
        mended = store.mend_journal()
        if (root / "source" / layout.STAGING).is_dir():
            finish_staged_source(root, store.sources(), store.tables())
        if mended:
            log.warning("%s: %d lines that a killed step left out were added", root / layout.JOURNAL, mended)
    except OSError as error:
        store.close()
        raise RunRootError(f"{root / layout.JOURNAL}: cannot be written: {error.strerror}") from None
    except BaseException:  # also Ctrl-C: the ledger must not stay open
        store.close()
        raise
    return store


def _take_step(root: Path, store: SQLiteStateStore, told: Collection[str] = ()) -> StepReport:
    """Take a step; ``told`` are warnings of the step before, which a loop does not repeat."""
    report = Step(root, store).take()
    for warning in report.warnings:
        if warning not in told:
            log.warning("%s", warning)
    return report


class Operators(dict[str, Operator]):
    """The operators of a campaign, made when they are asked for."""

    def __init__(self, store: SQLiteStateStore, run: RunRow) -> None:
        super().__init__()
        self._store = store
        self._version = run.campaign_version

    def __missing__(self, name: str) -> Operator:
        self[name] = made = make_operator(self._store.campaign(self._version).operators[name])
        return made


class Step:
    def __init__(self, root: Path, store: SQLiteStateStore, *, dry_run: bool = False) -> None:
        self.root = root
        self.store = store
        self.dry_run = dry_run
        self.now = time.time()
        self.run = store.run()
        self.operators = Operators(store, self.run)
        self.report = StepReport(self.run.run_id, RunState.PENDING)

    def take(self) -> StepReport:
        rows = self.store.live_attempts()
        unlinked = self.store.unlinked()
        seen = self._look(rows)
        late = self.store.lost_attempts()
        seen.update(self._look_for_late_ends(late))
        changes = self._reconcile_all([*rows, *late], seen)
        with self.store.transaction():
            made = self.store.apply(changes, self.now)
            made += self._reopen_below(changes, late)
            made += self.store.apply(self._due_retries(), self.now)
            settle_frontier(self.store, made, self.now)
            self._publish(changes)
            self._link_again(unlinked)
            self.report.ready = 0 if self.run.paused else self.store.ready_count()
            hand_over, intents = self._intend()
        if intents and self.dry_run:
            self.report.submitted = [intent.key for intent in intents]
        elif hand_over is not None and intents:
            self._hand_over(hand_over, intents)
        return self._finish()

    def _intend(self) -> tuple[HandOver | None, list[Intent]]:
        if self.run.paused or not self.report.ready:
            return None, []
        from matterstack.orchestration.handover import HandOver

        hand_over = HandOver(self.root, self.store, self.run, self._operator, self.now)
        intents, failed = hand_over.intend()
        for task in failed:
            self.report.ended.append(
                Ended(
                    task.task_id,
                    self.store.tasks([task.task_id])[0].attempts,
                    AttemptState.FAILED,
                    task.state,
                    task.reason.partition(": ")[2],
                    None,
                    task.soft,
                )
            )
        settle_frontier(self.store, failed, self.now)
        return hand_over, intents

    def end_wished(self) -> None:
        """End the attempts that somebody wants ended, and record what is seen of them; nothing else happens."""
        self.record_all(self._look([row for row in self.store.live_attempts() if row.wish]))

    def look(self) -> dict[Key, Observation]:
        """Give what is seen of the live attempts; nothing is recorded."""
        return self._look(self.store.live_attempts())

    def record_all(self, seen: Mapping[Key, Observation]) -> None:
        """Record what is seen of live attempts; nothing is handed over."""
        rows = [row for row in self.store.live_attempts() if (row.task_id, row.attempt) in seen]
        changes = self._reconcile_all(rows, seen)
        with self.store.transaction():
            made = self.store.apply(changes, self.now)
            settle_frontier(self.store, made, self.now, unresolved=False)
            self._publish(changes)

    # --- observe and reconcile ---

    def _look(self, rows: Sequence[AttemptRow]) -> dict[Key, Observation]:
        """Ask each operator once about its live attempts. No transaction is open meanwhile."""
        out: dict[Key, Observation] = {}
        by_operator: dict[str, list[AttemptRow]] = {}
        for row in rows:
            by_operator.setdefault(row.operator, []).append(row)
        for name, its_rows in by_operator.items():
            operator = self._operator(name)
            if operator is None:
                continue
            submitting = [self._live(r) for r in its_rows if r.state is AttemptState.SUBMITTING and not r.wish]
            others = [self._live(r) for r in its_rows if r.state is not AttemptState.SUBMITTING and not r.wish]
            wished = [self._live(r) for r in its_rows if r.wish]
            if self.dry_run:
                seen = self._ask(name, operator.observe, [*others, *wished])
                out.update({k: found for k, found in seen.items() if found.sighting is not Sighting.UNCLAIMED})
                self.report.wished += [live.key for live in wished if _sighting(seen, live) is Sighting.RUNNING]
                continue
            seen = self._ask(name, operator.observe, others)
            unclaimed = [live for live in others if _sighting(seen, live) is Sighting.UNCLAIMED]
            seen = {key: found for key, found in seen.items() if found.sighting is not Sighting.UNCLAIMED}
            out.update(seen)
            out.update(self._ask(name, operator.recover, [*submitting, *unclaimed]))
            out.update(self._ask(name, operator.cancel, wished))
        return out

    def _look_for_late_ends(self, lost: Sequence[AttemptRow]) -> dict[Key, Observation]:
        """Give the ends of attempts that were taken to be lost and have turned up since."""
        seen: dict[Key, Observation] = {}
        for name in dict.fromkeys(row.operator for row in lost):
            operator = self._operator(name)
            if operator is not None:
                found = self._ask(name, operator.observe, [self._live(row) for row in lost if row.operator == name])
                seen.update({key: item for key, item in found.items() if item.sighting is Sighting.ENDED})
        return seen

    def _reopen_below(self, changes: Iterable[Change], lost: Sequence[AttemptRow]) -> list[TaskChange]:
        """Open again what stands below a task that was FAILED for a lost attempt and has COMPLETED after all."""
        keys = {(row.task_id, row.attempt) for row in lost}
        ids = [
            a.task_id for a, _ in changes if a and (a.task_id, a.attempt) in keys and a.state is AttemptState.COMPLETED
        ]
        if not ids:
            return []
        from matterstack.core.graph import build, descendants

        below = self.store.tasks(descendants(build(self.store.all_edges()), ids))
        ended = (TaskState.BLOCKED, TaskState.SKIPPED)
        again = [(None, TaskChange(row.task_id, TaskState.PENDING)) for row in below if row.state in ended]
        return self.store.apply(again, self.now)

    def _operator(self, name: str) -> Operator | None:
        """Give an operator, None with a warning if it cannot be made: that must not stop the others."""
        try:
            return self.operators[name]
        except Exception as error:  # of a plug-in that is missing or does not load: the other operators go on
            log.debug("operator '%s'", name, exc_info=True)
            self.report.warnings.append(f"operator '{name}' cannot be used: {type(error).__name__}: {error}")
            return None

    def _ask(
        self, name: str, question: Callable[[Sequence[LiveAttempt]], Mapping[Key, Observation]], live: list[LiveAttempt]
    ) -> dict[Key, Observation]:
        if not live:
            return {}
        try:
            return dict(question(live))
        except OperatorUnavailable as error:
            self.report.warnings.append(
                f"operator '{name}' is away: {error}; its {len(live)} attempts stay as they are"
            )
        except Exception as error:  # a defect of one operator never stops the others: nothing was seen or changes
            log.debug("operator '%s'", name, exc_info=True)
            self.report.warnings.append(
                f"operator '{name}' could not be asked: {type(error).__name__}: {error}; its {len(live)} attempts stay as they are"
            )
        return {}

    def _live(self, row: AttemptRow) -> LiveAttempt:
        return as_live(self.root, row)

    def _reconcile_all(self, rows: Sequence[AttemptRow], seen: Mapping[Key, Observation]) -> list[Change]:
        changes: list[Change] = []
        for row in rows:
            found = seen.get((row.task_id, row.attempt))
            if found is None:
                continue
            try:
                change = self._reconcile(row, found)
            except OSError as error:  # of one attempt: nothing is decided on it, and the others go on
                what = f"{error.filename or 'the system'}: {error.strerror}"
                what = f"has ended, and cannot be recorded: {what.removeprefix(f'{self.root.resolve()}/')}; the next steps try again"
                self.report.warnings.append(f"{row.task_id}, attempt {row.attempt}: {what}")
                if not row.state.is_live:  # a late end: what is recorded of it stays
                    continue
                change = self._reconcile(row, Observation(Sighting.UNKNOWN, reason=what))
            except Exception as error:  # a defect met at one attempt: as above
                log.debug("%s, attempt %s", row.task_id, row.attempt, exc_info=True)
                what = f"{type(error).__name__}: {error}"
                self.report.warnings.append(f"{row.task_id}, attempt {row.attempt}: cannot be looked at: {what}")
                continue
            if change != (None, None):
                changes.append(change)
        return changes

    def _reconcile(self, row: AttemptRow, seen: Observation) -> tuple[AttemptChange | None, TaskChange | None]:
        from matterstack.core.reconcile import reconcile

        task = self.store.tasks([row.task_id])[0]
        campaign = self.store.campaign(task.campaign_version)
        spec = campaign.tasks[task.group].for_kind(campaign.operators[task.operator].kind)
        live = self._live(row)
        asks = campaign.operators[task.operator].kind in PEOPLE_KINDS
        evidence = Evidence()
        if seen.failure is FailureClass.DEADLINE and not self.dry_run:
            seen = self._take_back(row, live, seen)
        if seen.leave and not self._leave(Path(live.folder), seen.leave):
            names = ", ".join(seen.leave)  # perhaps somebody was faster, and the next step reads what he wrote
            seen = Observation(Sighting.UNKNOWN, reason=f"{names} is there already, and says something else")
        if seen.sighting in (Sighting.ENDED, Sighting.GONE):
            good = seen.sighting is Sighting.ENDED and seen.is_good and not (seen.leave and self.dry_run)
            outputs = self.store.outputs_of(row.task_id) if good else {}
            evidence = gather_evidence(Path(live.folder), outputs, seen.files, ours=not asks)
            evidence = replace(evidence, response=seen.response)
            if evidence.remark:
                self.report.warnings.append(f"{row.task_id}, attempt {row.attempt}: {evidence.remark}")
        facts = AttemptFacts(
            live=live,
            wish=row.wish,
            wished_at=row.wished_at,
            reason=row.reason,
            retries=self._retries(campaign, spec, row)
            if seen.sighting in (Sighting.ENDED, Sighting.GONE)
            else Retries(),
            tries=task.tries - (row.state is AttemptState.LOST),  # one that was lost has counted already
            not_started=self.store.consecutive(row.task_id, row.attempt, FailureClass.NOT_STARTED),
            allow_failure=spec.allow_failure,
            asks=asks,
            bad_answers=self.store.consecutive(row.task_id, row.attempt, *_BAD_ANSWERS) if asks else 0,
        )
        attempt, change = reconcile(facts, seen, evidence, self.now)
        if attempt is not None and not attempt.state.is_live:
            seconds = seen.elapsed_s
            if seconds is None and seen.started_at is not None and seen.ended_at is not None:
                seconds = seen.ended_at - seen.started_at
            task_state = change.state if change is not None else task.state
            self.report.ended.append(
                Ended(row.task_id, row.attempt, attempt.state, task_state, attempt.reason, seconds, spec.allow_failure)
            )
        return attempt, change

    def _retries(self, campaign: Campaign, spec: TaskSpec, row: AttemptRow) -> Retries:
        if not spec.retries_written:
            return spec.retries
        from matterstack.template.attempt import early_scope, resolve_retries

        try:
            late, _ = self.store.late_values(row.task_id)
            return resolve_retries(spec, early_scope(campaign, self.store.instance(row.task_id), row.attempt, late))
        except (TemplateError, ValueError) as error:
            self.report.warnings.append(f"{row.task_id}: {error}; if it failed, it is not tried again")
            return Retries()

    def _take_back(self, row: AttemptRow, live: LiveAttempt, seen: Observation) -> Observation:
        """Take a request back whose deadline has passed, so that nobody begins with it; an answer of now still counts."""
        now = self._ask(row.operator, self.operators[row.operator].cancel, [live]).get(live.key)
        if now is None:  # an answer is being written this moment, or it could not be told: the next step decides
            return Observation(Sighting.UNKNOWN, reason=row.reason)
        return now if now.sighting is Sighting.ENDED and now.is_good else seen

    def _leave(self, folder: Path, files: Mapping[str, str]) -> bool:
        """Write files that an operator wants there; False if one of them is there already, and says something else."""
        return self.dry_run or all(write_once(folder / name, text, synced=False) for name, text in files.items())

    def _due_retries(self) -> list[tuple[None, TaskChange]]:
        due = self.store.retries_due(self.now)
        self.report.retried = due
        return [(None, TaskChange(task_id, TaskState.PENDING)) for task_id in due]

    def _publish(self, changes: Iterable[tuple[AttemptChange | None, TaskChange | None]]) -> None:
        # Within the transaction, just before its commit: a link that is swapped too early is swapped again by the
        # next step, one that is swapped too late would be forgotten.
        if self.dry_run:
            return
        for attempt, _ in changes:
            if attempt is not None and not attempt.state.is_live and attempt.state is not AttemptState.COMPLETED:
                declared_files = [item.file for item in self.store.outputs_of(attempt.task_id).values()]
                self._keep_from_git(attempt.task_id, attempt.attempt, declared_files)
            if attempt is not None and attempt.state is AttemptState.COMPLETED and attempt.evidence is not None:
                outputs, declared = attempt.evidence.outputs, self.store.outputs_of(attempt.task_id).values()
                remarks = publish(self.root, attempt.task_id, attempt.attempt, outputs, declared)
                if remarks:
                    self.store.set_reason(attempt.task_id, attempt.attempt, "; ".join(remarks), self.now)
                for remark in remarks:
                    self.report.warnings.append(f"{attempt.task_id}: {remark}; the next steps try again")
                self._keep_from_git(attempt.task_id, attempt.attempt, [item.file for item in outputs])

    def _link_again(self, unlinked: Iterable[AttemptRow]) -> None:
        """Set the links that an earlier step could not; a reason that stays the same is not told again."""
        for row in () if self.dry_run else unlinked:
            published = self.store.published(row.task_id)
            declared = self.store.outputs_of(row.task_id)
            files = published[1] if published is not None and published[0] == row.attempt else {}
            outputs = [OutputFile(name, declared[name].path, file, None, sha) for name, (file, sha) in files.items()]
            reason = "; ".join(publish(self.root, row.task_id, row.attempt, outputs, []))
            if reason != row.reason:
                self.store.set_reason(row.task_id, row.attempt, reason, self.now)

    def _keep_from_git(self, task_id: str, attempt: int, files: Iterable[str]) -> None:
        most = self.store.campaign(self.run.campaign_version).git_max_size
        folder = attempt_folder(task_id, attempt)
        try:
            ignore_large(self.root, [f"{folder}/{file}" for file in files], most)
        except OSError as error:
            self.report.warnings.append(f"{task_id}: .gitignore could not be written: {error.strerror}")

    # --- hand over ---

    def _hand_over(self, hand_over: HandOver, intents: list[Intent]) -> None:
        outcomes: dict[Key, Submission | SubmissionRejected] = {}
        batches: dict[str, list[Launch]] = {}
        for intent in intents:
            try:
                batches.setdefault(intent.instance.operator, []).append(hand_over.prepare(intent))
            except SubmissionRejected as error:
                outcomes[intent.key] = error
        defects: dict[Key, str] = {}
        for name, launches in batches.items():
            try:
                outcomes.update(self.operators[name].submit(launches))
            except OperatorUnavailable as error:
                self.report.warnings.append(f"operator '{name}' is away: {error}; the next step finds out what it took")
            except Exception as error:  # a defect of one operator: its attempts are fenced below, the others go on
                log.debug("operator '%s'", name, exc_info=True)
                self.report.warnings.append(f"operator '{name}' failed: {type(error).__name__}: {error}")
                text = traceback.format_exc()
                defects.update({(launch.task_id, launch.attempt): text for launch in launches})
        changes = [self._outcome(intent, outcomes.get(intent.key)) for intent in intents]
        fenced = self._fence([i for i in intents if i.key in defects and i.key not in outcomes], defects)
        with self.store.transaction():
            made = self.store.apply([c for c in changes if c != (None, None)] + fenced, self.now)
            settle_frontier(self.store, made, self.now)
        self._raise_if_the_disk_refuses(outcomes)

    def _outcome(
        self, intent: Intent, outcome: Submission | SubmissionRejected | None
    ) -> tuple[AttemptChange | None, TaskChange | None]:
        task_id, attempt = intent.key
        if outcome is None:
            return None, None  # unknown: it stays SUBMITTING, and the next step recovers it
        if isinstance(outcome, Submission):
            self.report.submitted.append(intent.key)
            started = time.time() if outcome.state is AttemptState.RUNNING else None
            return (
                AttemptChange(task_id, attempt, outcome.state, handle=outcome.handle, started_at=started),
                TaskChange(task_id, TASK_STATE_OF_ATTEMPT[outcome.state]),
            )
        reason = str(outcome)
        if outcome.retry_later:
            from matterstack.core.reconcile import postponed

            return (
                AttemptChange(
                    task_id, attempt, AttemptState.CANCELLED, FailureClass.POSTPONED, reason, ended_at=self.now
                ),
                postponed(task_id, reason, self.now),
            )
        return self._failed(intent, FailureClass.REJECTED, reason)

    def _failed(self, intent: Intent, failure: FailureClass, reason: str) -> tuple[AttemptChange, TaskChange]:
        task_id, attempt = intent.key
        soft = self.store.campaign(self.run.campaign_version).tasks[intent.instance.group].allow_failure
        self.report.ended.append(Ended(task_id, attempt, AttemptState.FAILED, TaskState.FAILED, reason, None, soft))
        return (
            AttemptChange(task_id, attempt, AttemptState.FAILED, failure, reason, ended_at=self.now),
            TaskChange(task_id, TaskState.FAILED, f"attempt {attempt}: {reason}", soft=soft),
        )

    def _fence(
        self, intents: list[Intent], defects: Mapping[Key, str]
    ) -> list[tuple[AttemptChange | None, TaskChange | None]]:
        """Fail attempts whose operator raised a defect, once it is certain that they never start."""
        changes: list[tuple[AttemptChange | None, TaskChange | None]] = []
        for intent in intents:
            row = self.store.attempt(*intent.key)
            assert row is not None
            live = self._live(row)
            seen = self._ask(row.operator, self.operators[row.operator].recover, [live])
            if _sighting(seen, live) is Sighting.NOT_STARTED:
                with suppress(OSError):
                    (Path(live.folder) / "defect.txt").write_text(defects[intent.key], encoding="utf-8")
                reason = (
                    f"the operator failed: {defects[intent.key].strip().splitlines()[-1]}; defect.txt has the traceback"
                )
                changes.append(self._failed(intent, FailureClass.DEFECT, reason))
        return changes

    @staticmethod
    def _raise_if_the_disk_refuses(outcomes: Mapping[Key, Submission | SubmissionRejected]) -> None:
        refused = [o for o in outcomes.values() if isinstance(o, SubmissionRejected) and o.retry_later]
        if refused and len(refused) == len(outcomes):
            raise RunRootError(f"nothing could be handed over: {refused[0]}; the next step tries again")

    # --- report ---

    def _finish(self) -> StepReport:
        report = self.report
        report.counts = self.store.counts()
        report.startable = 0 if self.run.paused else self.store.ready_count()
        report.active = self.store.active() - (0 if not self.dry_run else len(report.submitted))
        report.state = state_of_run(self.store, report.counts)
        report.next_retry = self.store.next_retry()
        live = self.store.live_attempts() if not self.dry_run else []
        report.running = [(row.task_id, row.started_at or row.created_at) for row in live]
        return report


def as_live(root: Path, row: AttemptRow) -> LiveAttempt:
    folder = root.resolve() / attempt_folder(row.task_id, row.attempt)
    return LiveAttempt(row.task_id, row.attempt, str(folder), row.state, row.handle, row.time_s, row.started_at)


def _sighting(seen: Mapping[Key, Observation], live: LiveAttempt) -> Sighting | None:
    return seen[live.key].sighting if live.key in seen else None


def state_of_run(store: SQLiteStateStore, counts: Mapping[TaskState, int]) -> RunState:
    run = store.run()
    return run_state(
        counts,
        hard_ends=store.hard_ends(),
        can_move=store.can_move(),
        paused=run.paused,
        cancelled=run.cancelled,
    )


# --- the loop -------------------------------------------------------------------------------------------------------


def run_until_done(root: str | Path, on_tick: Callable[[StepReport], None] | None = None) -> StepReport:
    """Step a run until it is over, paused, or waits for people alone; give the last report.

    ``on_tick`` gets each report. Between steps the lock is free for other commands. Raises what `step_run` raises;
    a lock that is held later than at the start is waited for.
    """
    path = require_run_root(Path(root))
    campaigns: dict[int, Any] = {}
    first, woken, deaf, told = True, False, False, list[str]()
    while True:
        try:
            with open_to_write(path, wait_s=0.0 if first else 3600.0) as store:
                store.keep_campaigns(campaigns)
                report = _take_step(path, store, told)
                fds = _wake_fds(path, store)
        except RunLockedError:
            if first:
                raise
            continue
        first, told = False, report.warnings
        # What wakes the loop and changes nothing, a file that cannot be read, would else wake it again at once.
        deaf = (woken or deaf) and not (report.submitted or report.ended or report.retried)
        try:
            if on_tick is not None:
                on_tick(report)
            waiting = report.counts.get(TaskState.WAITING, 0)  # nothing of these wakes the loop
            paused = report.state is RunState.PAUSED and report.active <= waiting
            if report.state.is_over or paused or (report.state is RunState.WAITING and not fds):
                return report
            woken = _wait([] if deaf else fds, _patience(report))
        finally:
            for fd in fds:
                os.close(fd)
        _give_way(path)


def _wake_fds(root: Path, store: SQLiteStateStore) -> list[int]:
    operators = Operators(store, store.run())
    by_operator: dict[str, list[LiveAttempt]] = {}
    for row in store.live_attempts():
        by_operator.setdefault(row.operator, []).append(as_live(root, row))
    fds: list[int] = []
    for name, attempts in by_operator.items():
        try:
            fds += operators[name].wake_fds(attempts)
        except Exception:  # of a plug-in, or one that is not installed: the loop looks again after a while
            log.debug("operator '%s'", name, exc_info=True)
    return fds


def _patience(report: StepReport) -> float:
    wait = _LONGEST_WAIT_S
    if report.next_retry is not None:
        wait = min(wait, max(0.0, report.next_retry - time.time()) + 0.001)
    return wait


def _wait(fds: Sequence[int], wait_s: float) -> bool:
    """Wait until one of the descriptors becomes readable, at most ``wait_s``; say whether one did."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, round(wait_s * 1000))))


def _give_way(root: Path) -> None:
    """Stay away from the lock while somebody waits for it."""
    deadline = time.monotonic() + _PATIENCE_S
    while somebody_waits(root) and time.monotonic() < deadline:
        time.sleep(0.005)
