"""A run in the pretended world: the real step, ledger, journal lines and decisions over a disk in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from matterstack.core.board import Published
from matterstack.core.events import Amended, AttemptMade, Event, RunCreated, TasksAdded, Wished, attempt_made
from matterstack.core.model import (
    Campaign,
    Evidence,
    Instance,
    LoadedCampaign,
    Observation,
    OperatorSpec,
    OutputFile,
    Rejection,
    ResolvedOutput,
    Resources,
    Tasks,
    to_json,
)
from matterstack.core.plan import Ahead, Intent, Notice, Unlaunchable
from matterstack.core.readiness import initial_changes
from matterstack.core.reasons import Code, Reason, reason, said
from matterstack.core.recorded import TaskRow
from matterstack.core.states import FailureClass
from matterstack.core.values import dump_json
from matterstack.deferred import changed
from matterstack.errors import JournalError, RunRootError
from matterstack.operators.base import Operator
from matterstack.orchestration.comparison import compare, events_of
from matterstack.orchestration.files import FolderTaken, RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.report import StepReport
from matterstack.orchestration.step import Step
from matterstack.orchestration.workshop import RenderedIntent, RunWorkshop
from matterstack.simulation.operators import SimulatedOperator, SimulatedPerson
from matterstack.simulation.world import Folder, World
from matterstack.storage.apply import rows_of
from matterstack.storage.expanded import digest_of_text
from matterstack.storage.journal import Journal
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.template.attempt import Rendered
from matterstack.template.work import Works, members_of

Key = tuple[str, int]
ROOT = Path("simulated")


class SimulatedJournal(Journal):
    """A journal in memory; a kill may tear its last line."""

    def __init__(self, world: World) -> None:
        super().__init__(ROOT / "journal.jsonl")
        self.world = world
        self._position: int | None = None

    def append(self, lines: Sequence[str]) -> None:
        self.world.before("journal")
        # At its place, as on a real disk: a process that slept writes the same lines where they already are.
        start = len(self.world.journal) if self._position is None else self._position
        self.world.torn = ""
        for number, line in enumerate(lines):
            self.world.torn = line[: len(line) // 2]
            self.world.before("journal line")
            self.world.torn = ""
            self.world.journal[start + number : start + number + 1] = [line]
        self._position = start + len(lines)

    def complete(self, last_seq: int, line: Any, after: Any) -> int:
        known = len(self.world.journal)
        if known > last_seq:
            self._stop_if_adopted(last_seq)
            raise JournalError(f"the journal knows event {known}, the ledger only {last_seq}")
        if known and line(known) != self.world.journal[-1]:
            raise JournalError("journal and ledger have different histories")
        self.world.torn = ""
        self._position = known
        missing = after(known) if known < last_seq else []
        self.append(missing)
        return len(missing)

    def lines(self) -> list[str]:
        return list(self.world.journal)


class SimulatedStore(SQLiteStateStore):
    """A ledger whose reads and commits the world can break."""

    world: World

    def _read(self) -> None:
        with self.guard():
            self.world.before("read")

    def instance(self, task_id: str) -> Instance:
        self._read()
        return super().instance(task_id)

    def published(self, task_id: str) -> Published | None:
        self._read()
        return super().published(task_id)

    def write(self, timed: Iterable[tuple[float, int, Event]]) -> list[str]:
        lines = super().write(timed)
        self.world.before("commit")
        return lines


class SimulatedFiles(RunFiles):
    def __init__(self, world: World) -> None:
        self.root = ROOT
        self.world = world

    def folder(self, key: Key) -> str:
        return f"{key[0]}.{key[1]}"

    def has_folder(self, key: Key) -> bool:
        return key in self.world.folders

    def evidence(
        self, key: Key, seen: Observation, outputs: Mapping[str, ResolvedOutput], now: float, *, ours: bool
    ) -> Evidence | Reason:
        chance, moment = self.world.chance, int(self.world.now)
        if chance.happens(0.03, "cannot be read", key, moment):
            return reason(Code.CANNOT_RECORD, what="outputs", error="Input/output error")
        if chance.happens(0.05, "no outputs", key) and outputs:
            return Evidence(missing=tuple(item.file for item in outputs.values()))
        found = tuple(OutputFile(name, item.path, item.file, 1, "0" * 64) for name, item in outputs.items())
        metrics = {"n": chance.number(0, 3, "metric n", key), "done": chance.happens(0.4, "metric done", key)}
        return Evidence(outputs=found, metrics=metrics)

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
        self.world.before("folder")
        if key in self.world.folders:
            raise FolderTaken
        self.world.folders[key] = Folder(whole=False)
        try:
            self.world.before("task.json")
        except OSError as error:
            return Rejection(said(str(error)), retry_later=True)
        self.world.folders[key].whole = True
        return None

    def environment(self, path: str | None) -> str:
        return ""

    def leave(self, key: Key, files: Mapping[str, str]) -> bool:
        self.world.before("leave")
        return all(self.world.folders[key].files.setdefault(name, text) == text for name, text in files.items())

    def write_defect(self, key: Key, traceback: str) -> None:
        self.world.folders.setdefault(key, Folder(whole=False)).defect = traceback

    def publish(self, key: Key, outputs: Sequence[OutputFile], declared: Iterable[str]) -> Reason:
        failed = []
        for output in outputs:
            try:
                self.world.before("link")
                self.world.results[output.path] = key
            except OSError as error:
                failed.append({"path": output.path, "why": str(error)})
        return reason(Code.LINKS, links=failed) if failed else Reason()

    def keep(self, text: str) -> str:
        self.world.before("expanded")
        self.world.expanded[digest_of_text(text)] = text
        return digest_of_text(text)

    def withdraw(self, task_id: str, paths: Iterable[str]) -> None:
        for path in paths:
            self.world.before("unlink")
            if self.world.results.get(path, ("", 0))[0] == task_id:
                del self.world.results[path]

    def note_large(self, key: Key, most: int) -> None:
        pass

    def keep_from_git(self, at_work: Collection[Key]) -> str:
        return ""


class SimulatedWorkshop(RunWorkshop):
    """Renders nothing: in this world commands are only numbers."""

    def prepare(self, task: TaskRow) -> Intent | Unlaunchable | Notice:
        key = (task.task_id, task.attempts + 1)
        self.between()
        chance = self.pool_world.chance
        if chance.happens(0.01, "template", key):
            made = attempt_made(key, task.operator, "", Resources(), "", {})
            return Unlaunchable(made, FailureClass.TEMPLATE, reason(Code.TEMPLATE, text="no such answer"))
        if chance.happens(0.02, "input unreadable", key, int(self.now)):
            return Notice(task.task_id, reason(Code.INPUT_UNREADABLE, path="x", error="Input/output error"))
        resources = Resources(cpus=chance.number(1, 3, "cpus", task.task_id))
        made = self._made(key, task, resources)
        rendered = Rendered("true", "", ("sh", "command.sh"), {}, {}, resources, {}, {}, {})
        instance = self.store.instance(task.task_id)
        return RenderedIntent(made, task.campaign_version, instance, rendered, {}, {}, {})

    @property
    def pool_world(self) -> World:
        files = self.files
        assert isinstance(files, SimulatedFiles)
        return files.world

    def _made(self, key: Key, task: TaskRow, resources: Resources) -> AttemptMade:
        entries = self.store.entries([task.task_id])[task.task_id]
        read = {name for entry, name in entries if entry.startswith("inputs.")}
        found = {name: self.board.published(name) for name in read}
        inputs = {name: item[0] for name, item in found.items() if item is not None}
        return attempt_made(key, task.operator, "{}", resources, "", inputs)


@cache
def empty_ledger() -> bytes:
    """Return the pages of a ledger without rows: making its tables takes longer than a step."""
    store = SQLiteStateStore.in_memory(ROOT / "state.sqlite")
    pages: bytes = store.db.serialize()
    store.close()
    return pages


_NOTHING_LOADED = LoadedCampaign(
    Campaign("simulated", "", {}, (), {}, Tasks(), 0), (), ROOT, ROOT / "campaign.yaml", "", (), frozenset(), {}, None, {}, "",
    {}, None, {}, (), {},
)  # fmt: skip


class SimulatedRun:
    """A run and its home. The database is its disk: it survives the process that is killed."""

    def __init__(self, world: World, home: str = "home-1") -> None:
        self.world = world
        self.home = home
        self.campaigns: dict[int, Campaign] = {}
        self.entries: dict[str, list[tuple[str, str]]] = {}  # of all tasks: they never change unless results make some
        self.reruns = False  # somebody has run tasks again: what is below may be older than what it needs
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=512)
        self.db.deserialize(empty_ledger())

    def create(self, campaign: Campaign, instances: Sequence[Instance]) -> None:
        definition = dump_json(to_json(campaign), exact=True)
        conditional = {name for name, task in campaign.tasks.items() if task.when is not None}
        works = Works(campaign, {}, members_of(instances))
        rows = "".join(f"{row}\n" for row in rows_of(instances, initial_changes(instances, conditional), works.digest))
        self.world.expanded |= {digest_of_text(definition): definition, digest_of_text(rows): rows}
        created = RunCreated(
            run="simulated-0", name="simulated", digest="", version="", definition=digest_of_text(definition),
            created_at="2026-01-01T00:00:00.000000Z", campaign_path="", campaign_sha256="", operators_sha256="",
            source_digest="", new_home=self.home, host="host", path="/simulated", inode=1,
        )  # fmt: skip
        self.open().append([created, TasksAdded(1, digest_of_text(rows), len(instances))], self.world.now)

    def amend(self, campaign: Campaign, instances: Sequence[Instance], *, cancel_gone: bool) -> None:
        """Take a new version of the campaign, as `orchestration.amend` does but for the files."""
        step = self.process()
        store, files = step.store, step.files
        loaded = changed(_NOTHING_LOADED, campaign=campaign, instances=tuple(instances))
        found = compare(store, loaded, Works(campaign, {}, members_of(instances)), cancel_gone=cancel_gone)
        events = list(events_of(store, found))
        amended = Amended(
            version=store.newest_version() + 1, digest="", definition=files.keep(dump_json(to_json(campaign), exact=True)),
            rows=files.keep("".join(f"{line}\n" for line in found.lines)), campaign_path="", campaign_sha256="",
            operators_sha256="", source="", source_digest="",
        )  # fmt: skip
        store.append([amended, *events], step.now)
        if any(isinstance(event, Wished) for event in events):
            step.end_wished()

    def empty(self) -> SimulatedStore:
        """Return the ledger without its journal, for a clone to be filled; what a killed process left open is undone."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        read = self.world.expanded.__getitem__
        store = SimulatedStore.over(self.db, ROOT / "state.sqlite", read, known=True)
        store.world = self.world
        store.keep_campaigns(self.campaigns)
        return store

    def open(self) -> SimulatedStore:
        """Return the ledger as a process that begins finds it, its journal completed. Raises JournalError."""
        store = self.empty()
        store.journal = SimulatedJournal(self.world)
        try:
            store.complete_journal(compare=False)
        except OSError as error:
            raise RunRootError(f"{store.journal.path}: cannot be written: {error.strerror}") from None
        return store

    def process(self) -> Step:
        """Return a step as a new process takes it."""
        return self._step(self.open(), None)

    def hold(self, most_ahead: int) -> tuple[SimulatedStore, Callable[[], Step], Ahead]:
        """Return the ledger as a loop keeps it, its next step, and what it has on record ahead of its time."""
        store, ahead, told = self.open(), Ahead(most=most_ahead), set[Key]()

        def ended() -> Sequence[Key]:
            over = [(key, self.world.ended_at(key)) for key in self.world.work if key not in told]
            new = [key for key, at in over if at is not None and at <= self.world.now]
            told.update(new)
            return new

        return store, lambda: self._step(store, ahead, ended), ahead

    def _step(self, store: SimulatedStore, ahead: Ahead | None, ended: Callable[[], Sequence[Key]] = tuple) -> Step:
        files, pool = SimulatedFiles(self.world), Pool(store, self.make)
        return Step(
            ROOT,
            store,
            pool=pool,
            files=files,
            clock=lambda: self.world.now,
            workshop=SimulatedWorkshop,
            ahead=ahead,
            ended=ended,
            paced=False,
        )

    def step(self) -> StepReport:
        return self.process().take()

    def make(self, spec: OperatorSpec) -> Operator:
        kind = SimulatedPerson if spec.row.asks else SimulatedOperator
        return kind(spec, self.world)

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self.db.close()
