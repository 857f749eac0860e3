"""The values that the parts of MatterStack hand to each other. All frozen; no bare dicts with known keys.

What a file or the ledger stores of them goes through `to_json` and the `…_from_json` functions at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from matterstack.core.kinds import Kind, kind_of
from matterstack.core.reasons import NO_REASON, Reason, as_reason
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.deferred import dataclass
from matterstack.errors import Problem

# --- the campaign, as written ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputSpec:
    pattern: str
    as_name: str | None = None
    external: bool = False  # a path outside of the campaign, which is not copied
    digest: bool = False  # of it is recorded
    results: str | None = None  # a task, of whose instances it is a table
    base: str = ""  # folder of the campaign folder to which a path of a file of it is relative


@dataclass(frozen=True)
class OutputSpec:
    path: str  # below results/
    file: str | None = None  # in the working folder; None: the same as path
    optional: bool = False
    not_empty: bool = False
    min_size: int = 0  # bytes, of a folder in sum
    temporary: bool = False  # removed when all that read it are done


@dataclass(frozen=True)
class DependencyRule:
    """``allow_dependency_failure``: how many upstream tasks must have COMPLETED (neither: any number)."""

    min_count: int | None = None
    min_percent: float | None = None


@dataclass(frozen=True)
class Retries:
    max: int = 0
    delay_s: float = 0.0
    rules: Mapping[str, Any] = field(default_factory=dict)  # failure class or exit_code_N -> "never" or resource rules


@dataclass(frozen=True)
class Restart:
    """Going on from the files of the attempt before, after some kinds of ends; it uses no retry."""

    files: tuple[str, ...]  # globs in the attempt's folder
    after: tuple[str, ...] = ("timeout", "node_fail", "preempted", "interrupted", "lost")  # also exit_code_N
    max: int = 20
    warn_s: float | None = None  # TERM that long before the time limit

    def is_after(self, failure: FailureClass, exit_code: int | None) -> bool:
        """Return whether an attempt that ended so is gone on from."""
        code = f"exit_code_{exit_code}" if failure is FailureClass.EXIT_CODE else ""
        return str(failure) in self.after or code in self.after


@dataclass(frozen=True)
class Repeat:
    """A loop: rounds of the same tasks, each of which begins when the one before has settled, until a condition holds."""

    max: int  # rounds
    until: str | None = None  # a template, of metrics and answers of a round
    carry: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> first and next, as written
    on_max: str = "complete"  # or "fail"


@dataclass(frozen=True)
class OperatorSpec:
    name: str
    kind: str
    max_active: int | None = None
    slot_cpus: int | None = None
    slot_memory: int | None = None  # bytes
    slot_gpus: tuple[str, ...] | None = None  # their ids
    setup: tuple[str, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # keys of its kind (partition, account, …)

    @property
    def row(self) -> Kind:
        """What is known of its kind."""
        return kind_of(self.kind)


@dataclass(frozen=True)
class TaskSpec:
    """One entry of ``tasks``, defaults merged in, templates unresolved."""

    name: str
    description: str = ""
    command: str | tuple[str, ...] | None = None
    shell: str = "bash"
    operator: str = "local"
    setup: tuple[str, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    retries: Retries = field(default_factory=Retries)
    retries_written: tuple[Any, ...] = ()  # with templates: of defaults and task, resolved at each attempt
    priority: int | str = 0
    allow_failure: bool = False
    allow_dependency_failure: DependencyRule | None = None
    allow_skipped: bool = False
    background: str = ""  # what becomes of processes that the command leaves: "" ends them, "wait", "leave"
    restart: Restart | None = None
    uses: tuple[str, ...] = ()  # files of the campaign that its command does not name and that determine its result
    needs: tuple[str, ...] = ()
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    outputs: Mapping[str, OutputSpec] = field(default_factory=dict)
    matrix: Mapping[str, Any] | None = None
    label: str | None = None
    when: str | None = None
    bundle: Any = None
    expect: int | None = None  # a guess of how many instances results will make
    late: tuple[str, ...] = ()  # axes (or `table`) whose values results give
    repeat: Repeat | None = None  # of a loop, which runs nothing itself; its tasks are `NAME/TASK`
    asked: Mapping[str, Any] = field(default_factory=dict)  # instructions, response_schema, deadline, …
    # People, labs and parcels inherit neither resources nor retries: where a templated `operator` may choose them,
    # this is the task as they carry it out.
    for_people: TaskSpec | None = None

    @cached_property
    def may_name_answers(self) -> bool:
        """Whether a template may name an answer or metrics; where none can, none has to be looked up."""
        texts = repr((self.command, self.setup, self.env, self.params, self.resources, self.retries_written, self.when))
        return bool(self.asked) or "response" in texts or "metrics" in texts

    @property
    def loop(self) -> str:
        """The loop whose rounds it is part of; "" if it is part of none."""
        return self.name.rpartition("/")[0]

    @property
    def is_unknown(self) -> bool:
        """Whether what it stands for is not known when a run begins."""
        return bool(self.late) or self.repeat is not None

    def for_operator(self, operator: OperatorSpec) -> TaskSpec:
        """Return the task as an operator of this kind carries it out."""
        return self.for_people if self.for_people is not None and operator.row.asks else self


_OF_A_ROUND = re.compile(r"(?P<loop>[^/]+)(?:/[^/]+)?/[1-9][0-9]*/(?P<task>[^/]+)\Z")


class Tasks(dict[str, TaskSpec]):
    """The tasks of a campaign by name. A group of a round, such as `learn/3/label`, finds the task of its loop."""

    def __missing__(self, group: str) -> TaskSpec:
        found = _OF_A_ROUND.match(group)
        name = f"{found['loop']}/{found['task']}" if found is not None else ""
        if name not in self:
            raise KeyError(group)
        return self[name]

    def has(self, group: str) -> bool:
        """Return whether a group is one of a task, or of a round."""
        try:
            return self[group] is not None
        except KeyError:
            return False


@dataclass(frozen=True, eq=False)  # one is kept for each version, and what is computed of it once is found by it
class Campaign:
    name: str
    description: str
    params: Mapping[str, Any]
    files: tuple[str, ...]
    operators: Mapping[str, OperatorSpec]
    tasks: Tasks
    git_max_size: int
    limits: Mapping[str, Any] = field(default_factory=dict)  # of the run, as in `core.limits.Limits`
    outside: Mapping[str, str] = field(
        default_factory=dict
    )  # `_N` -> folder of included files outside of the campaign's

    @cached_property
    def has_unknown(self) -> bool:
        """Whether results decide of a task what its instances are, or how often it is repeated."""
        return any(spec.is_unknown for spec in self.tasks.values())

    @cached_property
    def has_temporary(self) -> bool:
        """Whether a task has a temporary output."""
        return any(output.temporary for task in self.tasks.values() for output in task.outputs.values())


# --- its instances --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a file of an input comes from: an output of a task, or a file of ``source/``.

    With ``whole`` it stands for as many files: the output of each instance of the group that ``task`` names, in the order
    of the campaign. A list that many tasks share takes no room in each of them then. With ``match``, and `*` as output, it
    stands for all outputs of a group or loop whose paths match that: which these are is not known before.
    """

    task: str | None
    output: str | None
    path: str  # of a task: what to take inside a folder output ("" for all); else the path below source/
    whole: bool = False
    match: str = ""

    @property
    def is_table(self) -> bool:
        """Whether it is the table of results of the group that ``task`` names."""
        return self.task is not None and self.output is None

    @property
    def is_external(self) -> bool:
        """Whether it is a file outside of the campaign, which is not copied: its path is absolute."""
        return self.task is None and self.path.startswith("/")


@dataclass(frozen=True)
class ResolvedInput:
    is_list: bool
    as_name: str | None
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class ResolvedOutput:
    path: str
    file: str
    optional: bool = False
    not_empty: bool = False
    min_size: int = 0
    temporary: bool = False

    @property
    def is_folder(self) -> bool:
        return self.file.endswith("/")


@dataclass(frozen=True)
class Edge:
    """``upstream`` (a task, or the name of a group) must settle first; ``entry`` says which key asks for it."""

    upstream: str
    entry: str


@dataclass(frozen=True)
class Instance:
    task_id: str
    group: str
    label: str
    matrix: Mapping[str, Any]
    operator: str
    priority: int
    inputs: Mapping[str, ResolvedInput]
    outputs: Mapping[str, ResolvedOutput]
    edges: tuple[Edge, ...]
    plan: str = ""  # "group" or "loop" of what stands for instances that are not known yet
    given: Mapping[str, Any] = field(default_factory=dict)  # of one in a round: the template roots carry and repeat
    work: str = ""  # digest of what determines its result (`template.work`), of one that the ledger has


@dataclass(frozen=True)
class Resources:
    cpus: int = 1  # of each of its tasks
    memory: int | None = None  # bytes
    gpus: int = 0
    time_s: float | None = None
    as_written: Mapping[str, Any] = field(default_factory=dict)
    tasks: int = 1  # MPI ranks; the command starts them
    nodes: int = 1
    licences: Mapping[str, int] = field(default_factory=dict)

    @property
    def cores(self) -> int:
        """What it takes of an operator's cpus."""
        return self.cpus * self.tasks


@dataclass(frozen=True)
class LoadedCampaign:
    """A campaign file without errors, with everything that `init` needs."""

    campaign: Campaign
    instances: tuple[Instance, ...]
    folder: Path  # of the campaign file
    file: Path
    text: str  # of the file, as given
    files: tuple[str, ...]  # below folder, to be copied to source/
    read: frozenset[str]  # of these, the files that it was read from next to its own: tables and included files
    origins: Mapping[str, str]  # `tasks.NAME`, `params.NAME`, … of an included file -> that file, below folder
    operators_file: Path | None
    overrides: Mapping[str, Any]  # of --set
    digest: str  # of file, operators and overrides
    operators_json: Mapping[str, str]  # name -> JSON text, as written
    site_text: str | None  # of operators_file
    externals: Mapping[str, bool]  # absolute path of a file that is not copied -> whether its digest is recorded
    warnings: tuple[Problem, ...]
    summary: Mapping[str, Any]
    outside: Mapping[str, Path] = field(default_factory=dict)  # `_N` of included files -> where that folder is
    samples: tuple[Instance, ...] = ()  # the first round of each loop, which is made when the run gets there
    regrown: Callable[..., LoadedCampaign] | None = (
        None  # loads it again, with ``grown``: what results have made of a run
    )

    def place(self, path: str) -> Path:
        """Return where one of its files is."""
        first, _, rest = path.partition("/")
        return self.outside[first] / rest if first in self.outside else self.folder / path


# --- what operators are handed and give back ------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """One attempt to hand over; its folder is prepared and holds task.json and command.sh."""

    task_id: str
    attempt: int
    folder: str  # absolute
    argv: tuple[str, ...]  # what to run in the folder
    env: Mapping[str, str]
    resources: Resources
    outputs: tuple[str, ...]  # declared files in the folder
    background: str = ""  # as in `TaskSpec`
    warn_s: float | None = None  # before the time limit: TERM to all but shells that wait for a child


@dataclass(frozen=True)
class LiveAttempt:
    """A recorded attempt without an end, as an operator gets it to observe, recover or cancel."""

    task_id: str
    attempt: int
    folder: str  # absolute
    state: AttemptState
    handle: str  # what submit gave, or of a SUBMITTING one what origin() gave
    time_s: float | None
    started_at: float | None  # POSIX seconds

    @property
    def key(self) -> tuple[str, int]:
        return self.task_id, self.attempt


@dataclass(frozen=True)
class Submission:
    """The outcome of one hand-over; ``handle`` finds the work again."""

    handle: str
    state: AttemptState = AttemptState.SUBMITTED


@dataclass(frozen=True)
class Rejection:
    """The work was not accepted, for certain; ``retry_later`` says that the cause is temporary."""

    reason: Reason
    retry_later: bool = False
    is_defect: bool = False  # the operator raised what it should not
    failure: FailureClass | None = None  # if it is neither of these, and not that the operator rejected it


class Sighting(StrEnum):
    NOT_STARTED = "not_started"  # fenced: it can never start
    SUBMITTED = "submitted"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"
    GONE = "gone"  # proven: it ended and left no result
    UNCLAIMED = "unclaimed"  # gone, and nobody claimed its folder: recover decides
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Observation:
    """What an operator saw of one attempt. Times are POSIX seconds."""

    sighting: Sighting
    handle: str | None = None  # if it is other than the recorded one
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    elapsed_s: float | None = None
    failure: FailureClass | None = None
    reason: Reason | str = NO_REASON  # a plug-in may give a sentence
    response: Mapping[str, Any] | None = None  # what a person or lab answered: status, data, by, at, comment, …
    unclaimed: bool = False  # NOT_STARTED: a process was there and ended without claiming the folder
    warned: bool = False  # its time limit was near, and it was told so
    unreachable: bool = False  # nothing can be known or done from here; a person may say that it is gone
    usage: Mapping[str, Any] = field(default_factory=dict)  # cpu_s, max_rss, read, written, …, as in exit.json
    # output -> (file, sha256), where the lab says it
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # files to be written first; where another is there already, nothing is decided
    leave: Mapping[str, str] = field(default_factory=dict)

    @property
    def why(self) -> Reason:
        return as_reason(self.reason)

    @property
    def is_good(self) -> bool:
        """Whether what ended did so without a failure, as far as the operator saw."""
        return self.failure is None and (self.exit_code == 0 or self.response is not None)


@dataclass(frozen=True)
class OutputFile:
    name: str
    path: str  # below results/
    file: str  # below the attempt's folder
    size: int | None
    sha256: str | None  # of a folder: of the sorted lines "<sha256>  <relative path>"
    stamp: str | None = None  # size, mtime and inode when that was computed, as `run_root.verify.stamp_of` gives them


@dataclass(frozen=True)
class Evidence:
    """What the files of an ended attempt show."""

    missing: tuple[str, ...] = ()  # names of outputs
    outputs: tuple[OutputFile, ...] = ()
    metrics: Mapping[str, Any] | None = None
    remark: Reason = NO_REASON  # e.g. a metrics.json that cannot be read
    response: Mapping[str, Any] | None = None  # of a person or lab
    unreadable: Reason = NO_REASON  # why what it left cannot be read, for good
    wrong: tuple[str, ...] = ()  # outputs that are there and are not what was asked for, each as a sentence
    stalled: bool = False  # of one that can be gone on from: it wrote none of the files that this takes


class _Absent(Mapping[str, Any]):
    """What is not there: each of its fields is null, so that a condition can ask for it."""

    def __getitem__(self, key: str) -> None:
        return None

    def __contains__(self, key: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


ABSENT = _Absent()


# --- recorded facts that decisions read -----------------------------------------------------------------------------


@dataclass(frozen=True)
class AttemptFacts:
    """A live attempt with what reconciling it needs from its task."""

    live: LiveAttempt
    wish: str | None  # "cancel" or "rerun"
    wished_at: float | None
    reason: Reason
    retries: Retries
    tries: int  # failed attempts so far that count against the retries
    unclaimed: int  # attempts in a row, just before this one, whose process ended without claiming
    allow_failure: bool
    asks: bool = False  # of a person, a lab or a closed cluster: a bad answer is asked for again
    bad_answers: int = 0  # in a row, just before this one
    interruptions: int = 0  # the same
    restart: Restart | None = None
    restarts: int = 0  # so far
    stalled: bool = False  # the attempt before ended at its time limit or with an exit code, and had stalled


@dataclass(frozen=True)
class AttemptChange:
    task_id: str
    attempt: int
    state: AttemptState
    failure: FailureClass | None = None
    reason: Reason = NO_REASON
    handle: str | None = None
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    evidence: Evidence | None = None
    counts: bool = False  # against the retries
    usage: Mapping[str, Any] = field(default_factory=dict)  # as in `Observation`
    unclaimed: bool = False  # a process that ended without claiming: the third in a row is one too many
    restarts: bool = False  # the next attempt goes on from its files


@dataclass(frozen=True)
class TaskChange:
    task_id: str
    state: TaskState
    reason: Reason = NO_REASON
    soft: bool = False
    cause: str | None = None  # the task at the root of a BLOCKED or SKIPPED one
    watch: str | None = None  # PENDING: an unsettled upstream task; None asks for a new look
    retry_at: float | None = None


# --- JSON -----------------------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """Return mappings, lists and scalars for a dataclass; empty and default fields are left out."""
    if hasattr(value, "__dataclass_fields__"):
        out = {}
        for item in fields(value):
            content = getattr(value, item.name)
            if (
                content is None
                or content == ()
                or content == {}
                or content == ""
                or content is False
                or (item.name == "min_size" and not content)
            ):
                continue
            out[item.name] = to_json(content)
        return out
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def campaign_from_json(data: Mapping[str, Any]) -> Campaign:
    """Undo `to_json` of a Campaign."""
    return Campaign(
        name=data["name"],
        description=data.get("description", ""),
        params=data.get("params", {}),
        files=tuple(data.get("files", ())),
        operators=operators_from_json(data["operators"]),
        tasks=Tasks({name: _task_from_json(item) for name, item in data["tasks"].items()}),
        git_max_size=data["git_max_size"],
        limits=data.get("limits", {}),
        outside=data.get("outside", {}),
    )


def operators_from_json(data: Mapping[str, Any]) -> dict[str, OperatorSpec]:
    """Undo `to_json` of the operators of a Campaign."""
    return {name: _operator_from_json(item) for name, item in data.items()}


def _operator_from_json(data: Mapping[str, Any]) -> OperatorSpec:
    gpus = data.get("slot_gpus")
    return OperatorSpec(
        **{**data, "setup": tuple(data.get("setup", ())), "slot_gpus": None if gpus is None else tuple(gpus)}
    )


def _task_from_json(data: Mapping[str, Any]) -> TaskSpec:
    values = dict(data)
    if isinstance(values.get("command"), list):
        values["command"] = tuple(values["command"])
    for key in ("setup", "needs", "uses", "retries_written", "late"):
        values[key] = tuple(values.get(key, ()))
    values["inputs"] = {name: InputSpec(**item) for name, item in values.get("inputs", {}).items()}
    values["outputs"] = {name: OutputSpec(**item) for name, item in values.get("outputs", {}).items()}
    values["retries"] = Retries(**values.get("retries", {}))
    if "allow_dependency_failure" in values:
        values["allow_dependency_failure"] = DependencyRule(**values["allow_dependency_failure"])
    if "restart" in values:
        given = values["restart"]
        values["restart"] = Restart(**{**given, "files": tuple(given["files"]), "after": tuple(given["after"])})
    if "repeat" in values:
        values["repeat"] = Repeat(**values["repeat"])
    if "for_people" in values:
        values["for_people"] = _task_from_json(values["for_people"])
    return TaskSpec(**values)


def inputs_from_json(data: Mapping[str, Any]) -> dict[str, ResolvedInput]:
    """Undo `inputs_to_json`."""
    return {
        name: ResolvedInput(is_list, as_name, tuple(Source(*source) for source in sources))
        for name, (is_list, as_name, sources) in data.items()
    }


def inputs_to_json(inputs: Mapping[str, ResolvedInput]) -> dict[str, Any]:
    """Return a compact form: a fan-in over thousands of files fits in one row of the ledger."""
    return {
        name: [
            item.is_list,
            item.as_name,
            [
                [s.task, s.output, s.path, *([True] if s.whole else []), *([s.match] if s.match else [])]
                for s in item.sources
            ],
        ]
        for name, item in inputs.items()
    }


def outputs_to_json(outputs: Mapping[str, ResolvedOutput]) -> dict[str, Any]:
    """Return the same as `to_json`: a campaign has thousands of them."""
    out = {}
    for name, item in outputs.items():
        row: dict[str, Any] = {"path": item.path, "file": item.file}
        row |= {key: True for key in ("optional", "not_empty") if getattr(item, key)}
        row |= {"min_size": item.min_size} if item.min_size else {}
        row |= {"temporary": True} if item.temporary else {}
        out[name] = row
    return out


def outputs_from_json(data: Mapping[str, Any]) -> dict[str, ResolvedOutput]:
    """Undo `outputs_to_json`."""
    return {name: ResolvedOutput(**item) for name, item in data.items()}
