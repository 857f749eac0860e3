"""Every change to the ledger, as a value. Events are the only way to change it.

A step, a person's command, a migration and the replay of the journal all hand these to the one function in
`storage.apply`. A line of the journal is an event with its envelope (`storage.journal`). A change to many tasks that has
one cause is one event.

A further kind of event is a class here with its entry in `KINDS`, and a function in `storage.apply`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any, ClassVar, Self

from matterstack.core.model import AttemptChange, Evidence, OutputFile, Resources, TaskChange
from matterstack.core.reasons import NO_REASON, Reason, reason_from_json, reason_to_json
from matterstack.core.recorded import CARRY_ALWAYS, CARRY_NOTHING
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.core.times import from_text, rounded, to_text
from matterstack.deferred import dataclass

Key = tuple[str, int]  # task id, attempt


@dataclass(frozen=True)
class Event:
    """Fields become keys of the journal line; a field that has its default value is left out."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        out = {}
        for item in fields(self):
            value = getattr(self, item.name)
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if value != default:
                out[item.name] = _plain(value)
        return out

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of its fields."""
        return tuple(item.name for item in fields(cls))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Undo `to_json`. Raises KeyError, TypeError or ValueError for what no event of this kind writes."""
        return cls(**{name: _value(name, value) for name, value in data.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Reason):
        return reason_to_json(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, OutputFile):
        return {name: found for name in OUTPUT_FIELDS if (found := getattr(value, name)) is not None}
    return value


OUTPUT_FIELDS = ("name", "path", "file", "size", "sha256", "stamp")
_KEYS = ("attempts",)  # fields that hold tuples of (task, attempt)


def _value(name: str, value: Any) -> Any:
    if name == "reason":
        return reason_from_json(value)
    if name in ("state", "failure"):
        raise KeyError(name)  # of an event that decodes it itself
    if name in _KEYS:
        return tuple((str(task), int(attempt)) for task, attempt in value)
    return tuple(value) if isinstance(value, list) else value


# --- the run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunCreated(Event):
    kind = "run_created"
    run: str  # its id
    name: str
    digest: str  # of campaign, operators and settings
    version: str  # of MatterStack
    definition: str  # sha256 of the file in expanded/ that holds the campaign
    created_at: str
    campaign_path: str  # relative to the run root
    campaign_sha256: str
    operators_sha256: str
    source_digest: str
    new_home: str  # id of the home
    host: str
    path: str
    inode: int
    set: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)  # path -> [sha256, bytes, stamp]
    source: str = "source"  # where these files are, below the run root
    site: str = ""  # path of the file given with --operators, relative to the run root


@dataclass(frozen=True)
class TasksAdded(Event):
    """Instances of a version of the campaign; their rows are in the file of expanded/ that has this sha256."""

    kind = "tasks_added"
    campaign_version: int
    rows: str
    count: int


@dataclass(frozen=True)
class Reused(Event):
    """Instances begin with results of another run; the file of expanded/ that ``rows`` names has a JSON list for each:
    task, what its attempt was, and its outputs."""

    kind = "reused"
    run: str  # id of the other
    rows: str
    count: int


@dataclass(frozen=True)
class Amended(Event):
    """A new version of the campaign. What becomes of tasks follows in events of its commit.

    ``rows`` names the file of expanded/ that says how instances differ from those before, a JSON list each line:
    ["put", position, row] of one that is new or another, ["move", task, position], and ["retire", task, position].
    """

    kind = "amended"
    version: int
    digest: str  # of campaign, operators and settings
    definition: str  # as in `RunCreated`
    rows: str
    campaign_path: str
    campaign_sha256: str
    operators_sha256: str
    source: str
    source_digest: str
    set: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)
    site: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)  # what became of how many instances, for people


@dataclass(frozen=True)
class Expanded(Event):
    """A result made instances: those of a group, or the next round of a loop, for which ``task`` stands.

    ``rows`` names a file of expanded/ as that of `Amended` does. Of a group, ``values`` names one with what the axes were
    given, and ``reads`` says by which attempts. Of a loop, ``given`` is what the round gets, and ``edges`` are the pairs
    (upstream, entry) that the loop waits for from now on.
    """

    kind = "expanded"
    task: str
    campaign_version: int
    rows: str
    count: int
    values: str = ""
    reads: Mapping[str, int] = field(default_factory=dict)
    round: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    edges: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Expanded:
        rest = {name: value for name, value in data.items() if name != "edges"}
        return cls(**rest, edges=tuple((str(up), str(entry)) for up, entry in data.get("edges", ())))


@dataclass(frozen=True)
class Paused(Event):
    kind = "paused"
    tasks: tuple[str, ...] = ()  # none: the run
    reason: Reason = NO_REASON  # the limit that the run has reached


@dataclass(frozen=True)
class Resumed(Event):
    kind = "resumed"
    tasks: tuple[str, ...] = ()
    over: bool = False  # go on over the limits of the run


@dataclass(frozen=True)
class Cancelled(Event):
    kind = "cancelled"


@dataclass(frozen=True)
class Uncancelled(Event):
    kind = "uncancelled"


@dataclass(frozen=True)
class SourceChanged(Event):
    """Files of source/ were replaced: those named here, the others stay."""

    kind = "source_changed"
    source_digest: str
    sources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved(Event):
    """The run root was moved, or its host renamed: still the same home."""

    kind = "moved"
    host: str
    path: str
    inode: int
    campaign_path: str


@dataclass(frozen=True)
class Adopted(Event):
    """A copy became the run's home."""

    kind = "adopted"
    new_home: str
    host: str
    path: str
    inode: int
    campaign_path: str
    assume: str | None = None


@dataclass(frozen=True)
class Rebuilt(Event):
    """The ledger was made from the journal."""

    kind = "rebuilt"
    host: str
    path: str
    inode: int
    campaign_path: str
    why: str = ""


@dataclass(frozen=True)
class Translated(Event):
    """Journal and ledger were translated from an older version; what is before is in the file named here."""

    kind = "translated"
    schema: int
    kept: str


# --- tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TasksChanged(Event):
    """Tasks that all became the same for the same reason."""

    kind = "tasks_changed"
    tasks: tuple[str, ...]
    state: TaskState
    reason: Reason = NO_REASON
    soft: bool = False
    cause: str | None = None
    watch: str | None = None
    retry_at: str | None = None
    rerun: bool = False  # somebody wants them to run again: what they were can be restored until one of them has
    continues: bool = False  # from the files of the attempt before, whatever has changed

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TasksChanged:
        rest = {name: _value(name, value) for name, value in data.items() if name != "state"}
        return cls(**rest, state=TaskState(data["state"]))

    def carry_of(self) -> int | None:
        """Return whether the next attempt of a rerun starts from files of an earlier one; None if this is not a rerun."""
        if self.state is not TaskState.PENDING:
            return None
        return CARRY_ALWAYS if self.continues else CARRY_NOTHING

    @property
    def change(self) -> TaskChange:
        """What each of the tasks became; ``task_id`` is the first one's."""
        return TaskChange(
            self.tasks[0], self.state, self.reason, self.soft, self.cause, self.watch, from_text(self.retry_at)
        )


@dataclass(frozen=True)
class RetriesReset(Event):
    """The retries of these tasks count from zero again."""

    kind = "retries_reset"
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class RerunUndone(Event):
    """These tasks are what they were before a rerun of which nothing has started."""

    kind = "rerun_undone"
    tasks: tuple[str, ...]


# --- attempts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttemptMade(Event):
    """The intent to hand a task over: it is SUBMITTED, its attempt SUBMITTING."""

    kind = "attempt_made"
    task: str
    attempt: int
    operator: str
    handle: str = ""
    cpus: int = 1
    memory: int | None = None
    time_s: float | None = None
    source_digest: str = ""
    inputs: Mapping[str, int] = field(default_factory=dict)  # task upstream -> the attempt that is read
    gpus: int = 0
    licences: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.task, self.attempt


@dataclass(frozen=True)
class Withdrawn(Event):
    """Intents of which nothing was made: the attempts never were, and their numbers are used again."""

    kind = "withdrawn"
    attempts: tuple[Key, ...]


@dataclass(frozen=True)
class AttemptChanged(Event):
    """An attempt changed, and with it perhaps its task."""

    kind = "attempt_changed"
    task: str
    attempt: int
    state: AttemptState
    failure: FailureClass | None = None
    reason: Reason = NO_REASON
    handle: str | None = None
    exit_code: int | None = None
    started_at: str | None = None
    ended_at: str | None = None
    counts: bool = False
    unclaimed: bool = False
    restarts: bool = False
    stalled: bool = False
    outputs: tuple[OutputFile, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    response: Mapping[str, Any] = field(default_factory=dict)
    unlinked: Reason = NO_REASON  # which links of results/ could not be set
    becomes: TaskChange | None = None  # of the task

    def to_json(self) -> dict[str, Any]:
        # Spelled out: most events of a run are of this kind, and 0 is an exit code like any other.
        data: dict[str, Any] = {"task": self.task, "attempt": self.attempt, "state": str(self.state)}
        if self.failure is not None:
            data["failure"] = str(self.failure)
        if self.reason:
            data["reason"] = reason_to_json(self.reason)
        for name in ("handle", "exit_code", "started_at", "ended_at"):
            if (value := getattr(self, name)) is not None:
                data[name] = value
        for name in ("counts", "unclaimed", "restarts", "stalled", "metrics", "usage", "response"):
            if value := getattr(self, name):
                data[name] = value
        if self.outputs:
            data["outputs"] = [_plain(item) for item in self.outputs]
        if self.unlinked:
            data["unlinked"] = reason_to_json(self.unlinked)
        if self.becomes is not None:
            data["becomes"] = change_to_json(self.becomes)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AttemptChanged:
        found = dict(data)
        found["state"] = AttemptState(found["state"])
        if "failure" in found:
            found["failure"] = FailureClass(found["failure"])
        for name in ("reason", "unlinked"):
            if name in found:
                found[name] = reason_from_json(found[name])
        outputs = ({"size": None, "sha256": None, **item} for item in found.get("outputs", ()))
        found["outputs"] = tuple(OutputFile(**item) for item in outputs)
        if "becomes" in found:
            found["becomes"] = change_from_json(found["task"], found["becomes"])
        return cls(**found)

    @property
    def key(self) -> Key:
        return self.task, self.attempt


@dataclass(frozen=True)
class LinksChanged(Event):
    """Of an attempt that had COMPLETED: which links of results/ cannot be set; no reason says that all are."""

    kind = "links_changed"
    task: str
    attempt: int
    reason: Reason = NO_REASON


@dataclass(frozen=True)
class OutputsRemoved(Event):
    """Temporary outputs, as (task, attempt, name), that no task needs any longer; their sizes and digests stay on record."""

    kind = "outputs_removed"
    outputs: tuple[tuple[str, int, str], ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OutputsRemoved:
        return cls(tuple((str(task), int(attempt), str(name)) for task, attempt, name in data["outputs"]))


@dataclass(frozen=True)
class Wished(Event):
    """Somebody wants these live attempts ended: ``cancel`` or ``rerun``."""

    kind = "wished"
    attempts: tuple[Key, ...]
    wish: str


@dataclass(frozen=True)
class ParcelPacked(Event):
    """Attempts went out in a parcel; ``undone`` takes that back, since nobody got it."""

    kind = "parcel_packed"
    parcel: Mapping[str, str]  # id, by, at, file
    attempts: tuple[Key, ...]
    undone: bool = False


@dataclass(frozen=True)
class ParcelReturned(Event):
    """What came back of a parcel."""

    kind = "parcel_returned"
    parcel: str
    attempts: tuple[Key, ...]


KINDS: dict[str, type[Event]] = {
    item.kind: item
    for item in (
        RunCreated, TasksAdded, Reused, Amended, Expanded, Paused, Resumed, Cancelled, Uncancelled, SourceChanged, Moved, Adopted, Rebuilt,
        Translated, TasksChanged, RetriesReset, RerunUndone, AttemptMade, Withdrawn, AttemptChanged, LinksChanged, OutputsRemoved, Wished, ParcelPacked,
        ParcelReturned,
    )
}  # fmt: skip


# --- from decisions to events ---------------------------------------------------------------------------------------


def attempt_made(
    key: Key, operator: str, handle: str, resources: Resources, source_digest: str, inputs: Mapping[str, int]
) -> AttemptMade:
    return AttemptMade(
        *key, operator, handle, resources.cores, resources.memory, resources.time_s, source_digest, dict(inputs),
        resources.gpus, dict(resources.licences),
    )  # fmt: skip


def attempt_changed(change: AttemptChange, becomes: TaskChange | None, unlinked: Reason = NO_REASON) -> AttemptChanged:
    evidence = change.evidence or Evidence()
    return AttemptChanged(
        task=change.task_id,
        attempt=change.attempt,
        state=change.state,
        failure=change.failure,
        reason=change.reason,
        handle=change.handle,
        exit_code=change.exit_code,
        started_at=_time(change.started_at),
        ended_at=_time(change.ended_at),
        counts=change.counts,
        unclaimed=change.unclaimed,
        restarts=change.restarts,
        stalled=evidence.stalled,
        outputs=evidence.outputs if change.state is AttemptState.COMPLETED else (),
        metrics=evidence.metrics or {},
        usage=change.usage,
        response=evidence.response or {},
        unlinked=unlinked,
        becomes=becomes,
    )


def tasks_changed(changes: Iterable[TaskChange]) -> list[TasksChanged]:
    """Return one event for all tasks that became the same, in the order in which the first of each was decided."""
    alike: dict[Any, list[str]] = {}
    first: dict[Any, TaskChange] = {}
    for change in changes:
        why = (change.reason.code, repr(sorted(change.reason.values.items())))
        key = (change.state, why, change.soft, change.cause, change.watch, change.retry_at)
        alike.setdefault(key, []).append(change.task_id)
        first.setdefault(key, change)
    return [
        TasksChanged(
            tuple(tasks), one.state, one.reason, one.soft, one.cause, one.watch, _time(one.retry_at)
        )
        for key, tasks in alike.items()
        for one in (first[key],)
    ]  # fmt: skip


def change_to_json(change: TaskChange) -> dict[str, Any]:
    data: dict[str, Any] = {"state": str(change.state)}
    if change.reason:
        data["reason"] = reason_to_json(change.reason)
    for name in ("soft", "cause", "watch"):
        if value := getattr(change, name):
            data[name] = value
    if change.retry_at is not None:
        data["retry_at"] = to_text(change.retry_at)
    return data


def change_from_json(task_id: str, data: Mapping[str, Any]) -> TaskChange:
    why = reason_from_json(data["reason"]) if "reason" in data else NO_REASON
    return TaskChange(
        task_id, TaskState(data["state"]), why, data.get("soft", False), data.get("cause"), data.get("watch"),
        from_text(data.get("retry_at")),
    )  # fmt: skip


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else to_text(rounded(seconds))
