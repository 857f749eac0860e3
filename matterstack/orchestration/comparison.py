"""What becomes of instances that a run has when they are another: compared with what their attempts were asked to do.

An instance is compared with what the attempt that it stands on was asked to do (`template.work`), never with the version
before. Amendments use this, and groups that a result makes anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from matterstack.core.below import below
from matterstack.core.events import AttemptChanged, Event, RetriesReset, TasksChanged, Uncancelled, Wished
from matterstack.core.model import Campaign, Instance, LoadedCampaign, TaskChange, TaskSpec, inputs_from_json
from matterstack.core.reasons import NO_REASON, Code, Reason, reason_from_json
from matterstack.core.recorded import AsAsked, AttemptRow, TaskRow
from matterstack.core.resources import parse_resources, rule_for
from matterstack.core.states import ACTIVE, RETRIED, TASK_STATE_OF_ATTEMPT, AttemptState, FailureClass, TaskState
from matterstack.core.times import to_text
from matterstack.core.values import encode_json, load_json, parse_time
from matterstack.deferred import dataclass
from matterstack.errors import TemplateError
from matterstack.operators.answers import decode
from matterstack.storage.apply import WORK, row_of
from matterstack.storage.queries import Queries
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.template.attempt import asked_resources, early_scope, resolve_early, resolve_retries
from matterstack.template.language import references
from matterstack.template.work import Works, differences, digest_of_value, digests_of, with_modes

_MORE_HELPS = {FailureClass.TIMEOUT: "time limit", FailureClass.OUT_OF_MEMORY: "memory"}


_MORE_RESTARTS = "restart.max"


@dataclass(frozen=True)
class Fate:
    """What becomes of one instance. ``kind`` is one of FATES; ``detail`` says why, for people."""

    task_id: str
    group: str
    kind: str
    state: TaskState  # in which it is before
    detail: str = ""


FATES = {  # kind -> what `amend` says of so many instances
    "new": "new",
    "back": "come back",
    "retired": "retired",
    "restarts": "become PENDING",
    "below": "become PENDING",
    "asked_again": "asked again",
    "goes_on": "go on as they were started, and will be stale",
    "stale": "become stale",
    "fresh": "no longer stale",
    "next": "take the new form when they start",
    "softer": "count otherwise",
}


@dataclass()
class Comparison:
    fates: list[Fate] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    changes: dict[str, TaskChange] = field(default_factory=dict)
    rows: dict[str, TaskRow] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)
    reset: list[str] = field(default_factory=list)
    ask_again: list[tuple[str, int]] = field(default_factory=list)
    end: list[tuple[str, int]] = field(default_factory=list)
    live_gone: list[str] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)  # below these, readiness is decided anew
    restarted: set[str] = field(default_factory=set)  # below these, what had failed starts again too
    handles: list[AttemptChanged] = field(default_factory=list)
    stay: dict[str, dict[TaskState, int]] = field(default_factory=dict)

    def reopen(self, rows: Sequence[TaskRow], kind: str, detail: str = "") -> None:
        """Make tasks PENDING, whatever was to become of them before, their retries counted from zero."""
        names = {row.task_id for row in rows}
        told = names.intersection(fate.task_id for fate in self.fates)
        self.fates = [fate for fate in self.fates if fate.task_id not in told]
        for row in rows:
            self.rows[row.task_id], self.changes[row.task_id] = row, TaskChange(row.task_id, TaskState.PENDING)
            if row.tries or row.restarts:
                self.reset.append(row.task_id)
            # One that was compared counts among those that stay as they are.
            if row.task_id not in told and row.group in self.stay:
                self.stay[row.group][row.state] -= 1
            self.fates.append(Fate(row.task_id, row.group, kind, row.state, detail))


# --- comparing ------------------------------------------------------------------------------------------------------


def compare(store: SQLiteStateStore, loaded: LoadedCampaign, works: Works, *, cancel_gone: bool) -> Comparison:
    out = Comparison()
    olds = {row.task_id: (row, attempt, asked) for row, attempt, asked in store.tasks_as_asked()}
    older = Older(store, store.root, [row for row, _, _ in olds.values()])
    closed = _Closed(store)
    groups = {item.group for item in loaded.instances if not item.plan}
    for position, item in enumerate(loaded.instances):
        row = row_of(item, TaskState.PENDING)
        row[WORK] = works.digest(row, item)
        old = olds.pop(item.task_id, None)
        if closed.has(item.task_id) and (old is None or item.plan or old[0].state is not TaskState.COMPLETED):
            if old is not None and not item.plan:
                out.stay.setdefault(item.group, {}).setdefault(old[0].state, 0)
                out.stay[item.group][old[0].state] += 1
        elif old is not None and (old[0].plan or "") != item.plan:
            _begin_as_another(out, old[0], item, row, position)
        elif item.plan and old is not None:
            _judge_plan(out, old, item, row, position, loaded, older, is_known=item.group in groups)
        elif old is None:
            out.lines.append(encode_json(["put", position, row, None, None]))
            if not item.plan:
                out.fates.append(Fate(item.task_id, item.group, "new", TaskState.PENDING))
            out.touched.add(item.task_id)
        else:
            _Judge(out, old, item, row, position, loaded, works, older).judge()
    for number, (gone, attempt, asked) in enumerate(olds.values(), start=len(loaded.instances)):
        if closed.has(gone.task_id) and _is_loop(loaded.campaign, gone.group.partition("/")[0]):
            continue
        if gone.state is not TaskState.RETIRED:
            _retire(store, out, gone, attempt, number, cancel_gone=cancel_gone)
        elif gone.plan is not None and asked.edges:  # nothing makes its instances any longer
            out.lines.append(encode_json(["retire", gone.task_id, number]))
        elif gone.position != number:
            out.lines.append(encode_json(["move", gone.task_id, number]))
    edges = edges_of(loaded.instances)
    there = {item.task_id for item in loaded.instances}
    _look_below(out, edges, there, older)
    while _make_again(store, out, loaded, older):
        _look_below(out, edges, there, older)
    return out


def _is_loop(campaign: Campaign, name: str) -> bool:
    return name in campaign.tasks and campaign.tasks[name].repeat is not None


def _begin_as_another(out: Comparison, task: TaskRow, item: Instance, row: list[Any], position: int) -> None:
    """Let what was an ordinary task, a group or a loop begin as another of these: nothing of what it was counts."""
    out.lines.append(encode_json(["put", position, row, None, None]))
    out.rows[task.task_id], out.changes[task.task_id] = task, TaskChange(task.task_id, TaskState.PENDING)
    if task.tries or task.restarts:
        out.reset.append(task.task_id)
    if task.state in ACTIVE:
        out.end.append((task.task_id, task.attempts))
    out.touched.add(task.task_id)
    what = {"loop": "it is a loop now", "group": "results make its instances now"}.get(item.plan, "it is one task now")
    out.fates.append(Fate(task.task_id, item.group, "restarts", task.state, what))


class _Closed:
    """The rounds of loops that have settled: nothing is added to them, removed from them or started again in them."""

    def __init__(self, store: Queries) -> None:
        self._last: dict[str, int] = {}  # loop -> the first round that is open
        for row in store.plans():
            if row.plan == "loop" and row.state is not TaskState.RETIRED:
                number = int(store.made(row.task_id).get("round", 0))
                self._last[row.task_id] = number + (row.state in (TaskState.COMPLETED, TaskState.SKIPPED))

    def has(self, task_id: str) -> bool:
        for loop, first_open in self._last.items():
            if task_id.startswith(f"{loop}/"):
                number = task_id[len(loop) + 1 :].partition("/")[0]
                return number.isdigit() and int(number) < first_open
        return False


def _judge_plan(
    out: Comparison, old: tuple[TaskRow, AttemptRow | None, AsAsked], item: Instance, row: list[Any], position: int,
    loaded: LoadedCampaign, older: Older, *, is_known: bool,
) -> None:  # fmt: skip
    """Decide what becomes of what stands for instances that results make."""
    task, asked = old[0], old[2]
    texts = [task.group, task.label, asked.matrix, task.operator, task.priority, asked.inputs, asked.outputs]
    edges = {(upstream, entry) for upstream, entry in row[10]}
    if texts != row[1:8] or edges != asked.edges:
        out.lines.append(encode_json(["put", position, row, None, None]))
        out.touched.add(task.task_id)
    elif task.position != position:
        out.lines.append(encode_json(["move", task.task_id, position]))
    spec, before = loaded.campaign.tasks[item.group], older.spec(task)
    again = ""
    if item.plan == "loop" and task.state.is_settled and task.state not in (TaskState.CANCELLED, TaskState.RETIRED):
        changed = _other_rules(spec, loaded.campaign, before, older.store.campaign(task.campaign_version))
        again = ", ".join(changed) if task.state is not TaskState.BLOCKED else ""
    elif item.plan == "loop" and task.state is TaskState.RETIRED:
        again = "it is back"
    elif item.plan == "group" and task.state is TaskState.RETIRED and not is_known:
        again = "its rows come from elsewhere"
    elif item.plan == "group" and task.state in (TaskState.FAILED, TaskState.SKIPPED) and spec.matrix != before.matrix:
        again = "matrix"
    if again:
        out.rows[task.task_id], out.changes[task.task_id] = task, TaskChange(task.task_id, TaskState.PENDING)
        out.touched.add(task.task_id)
        if item.plan == "loop":  # of a group, its instances say it
            out.fates.append(Fate(task.task_id, task.group, "restarts", task.state, again))
    elif task.state is not TaskState.RETIRED:
        found = out.stay.setdefault(item.group, {})
        found[task.state] = found.get(task.state, 0) + 1


def _other_rules(spec: TaskSpec, campaign: Campaign, before: TaskSpec, older: Campaign) -> list[str]:
    """Return what is another in how long a loop goes on, and with what: keys of `repeat`, and params that these name."""
    assert spec.repeat is not None
    out = [
        name
        for name in ("max", "until", "on_max", "carry")
        if getattr(spec.repeat, name) != getattr(before.repeat, name, None)
    ]
    named = {
        name[1] for name in references([spec.repeat.until, spec.repeat.carry]) if name[0] == "params" and len(name) > 1
    }
    return out + [f"param {name}" for name in sorted(named) if campaign.params.get(name) != older.params.get(name)]


def edges_of(instances: Iterable[Instance]) -> list[tuple[str, str]]:
    """Return the edges between instances, and from them to their groups."""
    items = list(instances)
    edges = [(edge.upstream, item.task_id) for item in items for edge in item.edges]
    return edges + [(item.task_id, item.group) for item in items if item.group != item.task_id]


def compare_some(
    store: SQLiteStateStore, campaign: Campaign, items: Sequence[Instance], before: Mapping[str, TaskRow], works: Works
) -> tuple[str, list[Event]]:
    """Return the lines, and the events that follow, by which the instances of a group become others, as in an amendment.

    ``before`` are those that the run has.
    """
    out, part = Comparison(), Part(campaign)
    everything = store.tasks_as_asked()
    olds = {row.task_id: (row, attempt, asked) for row, attempt, asked in everything if row.task_id in before}
    older = Older(store, store.root, [row for row, _, _ in everything])
    for item in items:
        row = row_of(item, TaskState.PENDING)
        row[WORK] = works.digest(row, item)
        old = olds.pop(item.task_id, None)
        if old is None:
            out.lines.append(encode_json(["put", None, row, None, None]))
            out.touched.add(item.task_id)
        else:
            _Judge(out, old, item, row, old[0].position, part, works, older).judge()
    for gone, attempt, _ in olds.values():
        if gone.state is not TaskState.RETIRED:
            _retire(store, out, gone, attempt, gone.position, cancel_gone=False)
    edges = [*store.all_edges(), *edges_of(items)]
    there = {row.task_id for row, _, _ in everything} - set(olds)
    _look_below(out, edges, there, older)
    lines = [line for line in out.lines if not line.startswith('["move"')]
    return "".join(f"{line}\n" for line in lines), list(events_of(store, out))


@dataclass(frozen=True)
class Part:
    """What `_Judge` needs of a campaign."""

    campaign: Campaign


def _make_again(store: Queries, out: Comparison, loaded: LoadedCampaign, older: Older) -> bool:
    """Restart what made temporary outputs that were removed and that a task needs again; return whether there was any."""
    removed = store.removed_outputs()
    if not removed:
        return False
    were = {row.task_id: row.state for row in older.rows}
    instances = {item.task_id: item for item in loaded.instances}

    def state(task_id: str) -> TaskState:
        change = out.changes.get(task_id)
        return change.state if change is not None else were.get(task_id, TaskState.PENDING)

    def read(names: Iterable[str]) -> set[tuple[str, str]]:
        inputs = (item for name in names for item in instances[name].inputs.values())
        return {
            (s.task, s.output) for item in inputs for s in item.sources if s.task is not None and s.output is not None
        }

    to_run = [name for name in instances if state(name) in (TaskState.PENDING, TaskState.READY)]
    kept = {
        task_id
        for (task_id, name), _ in removed.items()
        if task_id in instances
        and name in instances[task_id].outputs
        and not instances[task_id].outputs[name].temporary
    }
    wanted = made_again(kept.union(to_run), read, removed) | kept
    again = [
        row
        for row in older.rows
        if row.task_id in wanted and state(row.task_id) is TaskState.COMPLETED and row.task_id in instances
    ]
    out.reopen(again, "restarts", "its temporary output is needed again")
    out.touched.update(row.task_id for row in again)
    return bool(again)


class Older:
    """What tasks were asked to do before this amendment, by their version."""

    def __init__(self, store: Queries, root: Path, rows: Sequence[TaskRow]) -> None:
        self.store = store
        self.root = root
        self.rows = rows
        self._files: dict[int, dict[str, str]] = {}
        self._works: dict[int, Works] = {}
        self._members: dict[str, list[str]] = {}
        for row in rows:
            if row.state is not TaskState.RETIRED:
                self._members.setdefault(row.group, []).append(row.task_id)

    def spec(self, row: TaskRow) -> TaskSpec:
        return self.store.campaign(row.campaign_version).tasks[row.group]

    def files(self, version: int) -> dict[str, str]:
        """Return the digests of the files of a version."""
        if version not in self._files:
            own = with_modes((self.root / self.store.source_of(version)).joinpath, self.store.sources(version))
            self._files[version] = {**own, **digests_of(self.store.externals(version))}
        return self._files[version]

    def as_if_named(self, before: Mapping[str, str], now: Mapping[str, str], version: int) -> dict[str, str]:
        """Return the parts of a work of a version, with those that are only named since and were the same then."""
        out, files, params = dict(before), self.files(version), self.store.campaign(version).params
        for name, digest in now.items():
            if name not in out and files.get(name) == digest:
                out[name] = digest
            if name not in out and name.startswith("param ") and name[6:] in params:
                out |= {name: digest} if digest_of_value(params[name[6:]]) == digest else {}
        return out

    def parts(self, row: TaskRow, asked: AsAsked) -> dict[str, str]:
        """Return the parts of a task's work as it is now."""
        version = row.campaign_version
        if version not in self._works:
            files = self.files(version)
            self._works[version] = Works(self.store.campaign(version), files, self._members)
        matrix, inputs = load_json(asked.matrix), inputs_from_json(json.loads(asked.inputs))
        return self._works[version].parts(
            Instance(
                row.task_id,
                row.group,
                row.label,
                matrix,
                row.operator,
                row.priority,
                inputs,
                {},
                (),
                given=self.store.instance(row.task_id).given,
            )
        )


class _Judge:
    """Decides what becomes of one instance that the run has already."""

    def __init__(
        self,
        out: Comparison,
        old: tuple[TaskRow, AttemptRow | None, AsAsked],
        item: Instance,
        row: list[Any],
        position: int,
        loaded: LoadedCampaign | Part,
        works: Works,
        older: Older,
    ) -> None:
        self.out = out
        self.task, self.attempt, self.asked = old
        self.item = item
        self.row = row
        self.position = position
        self.loaded = loaded
        self.works = works
        self.older = older

    def judge(self) -> None:
        task, asked, row = self.task, self.asked, self.row
        back = task.state is TaskState.RETIRED
        state = self._state_of_one_that_is_back() if back else task.state
        same_text = [task.group, task.label, asked.matrix, task.operator, task.priority, asked.inputs, asked.outputs]
        edges = {(upstream, entry) for upstream, entry in row[10]}
        same = same_text == row[1:8] and edges == asked.edges
        names: list[str] = []
        marks: tuple[Any, Any] = (None, None)
        moved_work = asked.work != row[WORK]
        kept = (
            asked.asked if self.attempt is not None and asked.asked and asked.asked[0] == self.attempt.attempt else None
        )
        was_stale = kept is not None and bool(asked.changed)
        if self.attempt is not None and (moved_work or kept is not None or back) and asked.attempt_work != row[WORK]:
            parts = self.works.parts(self.item)
            before = kept[1] if kept is not None else self.older.parts(task, asked)
            comparable = self.older.as_if_named(before, parts, self.attempt.campaign_version)
            names = differences(comparable, parts, self.works.named_columns(self.item.group))
            # Kept also where nothing counts as changed, such as a new column: the next comparison is with the attempt again.
            marks = ([self.attempt.attempt, dict(before)], names or None)
        elif self.attempt is None and moved_work and asked.work:
            names = differences(
                self.older.parts(task, asked), self.works.parts(self.item), self.works.named_columns(self.item.group)
            )
        were = (list(asked.asked) if asked.asked else None, asked.changed)
        if not same or moved_work or back or (marks != were and (kept is not None or marks[0] is not None)):
            self.out.lines.append(encode_json(["put", self.position, row, *marks]))
        elif task.position != self.position:
            self.out.lines.append(encode_json(["move", task.task_id, self.position]))
        if not same and edges != asked.edges:
            self.out.touched.add(task.task_id)
        new = names if moved_work or back else []  # what had changed before has been told
        self._decide(state, new, back=back, fresh=was_stale and not names)

    def _state_of_one_that_is_back(self) -> TaskState:
        """Return what a RETIRED task is again: what its attempt says, else what it was."""
        kept = self.asked.before
        was = TaskState(str(kept[0])) if kept else TaskState.PENDING
        attempt = self.attempt
        if attempt is not None and attempt.state.is_live:
            state = TASK_STATE_OF_ATTEMPT[attempt.state]
        elif (
            attempt is not None and attempt.state is AttemptState.COMPLETED and was in (*ACTIVE, TaskState.COMPLETED)
        ) or (was is TaskState.COMPLETED and self.task.result is not None):
            state = TaskState.COMPLETED
        elif was in (TaskState.FAILED, TaskState.CANCELLED):
            state = was
        elif attempt is not None and attempt.state is AttemptState.FAILED and was in ACTIVE:
            state = TaskState.FAILED
        else:
            state = TaskState.PENDING
        why = reason_from_json(json.loads(str(kept[1]))) if kept and kept[1] and state is was else NO_REASON
        if state is TaskState.FAILED and not why and attempt is not None:
            why = attempt.reason
        soft = state is TaskState.FAILED and self._spec.allow_failure
        self._change(state, why, soft=soft)
        self.out.touched.add(self.task.task_id)
        return state

    @property
    def _spec(self) -> TaskSpec:
        operator = self.loaded.campaign.operators[self.item.operator]
        return self.loaded.campaign.tasks[self.item.group].for_operator(operator)

    def _change(self, state: TaskState, why: Reason = NO_REASON, *, soft: bool = False) -> None:
        self.out.rows[self.task.task_id] = self.task
        self.out.changes[self.task.task_id] = TaskChange(self.task.task_id, state, why, soft=soft)

    def _fate(self, kind: str, state: TaskState, detail: str = "") -> None:
        self.out.fates.append(Fate(self.task.task_id, self.item.group, kind, state, detail))

    def _decide(self, state: TaskState, names: list[str], *, back: bool, fresh: bool) -> None:
        task, out = self.task, self.out
        detail = ", ".join(names)
        if state in ACTIVE and names:
            assert self.attempt is not None
            kind = self.loaded.campaign.operators.get(self.attempt.operator, self._old_operator).row
            if kind.asks and not kind.elsewhere:
                out.ask_again.append(self.attempt.key)
                out.touched.add(task.task_id)
                self._fate("asked_again", state, detail)
            else:
                self._fate("goes_on", state, detail)
        elif state in ACTIVE:
            self._new_deadline(state)
        elif state is TaskState.COMPLETED:
            if names:
                self._fate("stale", state, detail)
            elif fresh:
                self._fate("fresh", state)
            elif back:
                self._fate("back", state)
            else:
                self._stays(state)
        elif state is TaskState.CANCELLED:
            self._stays(state)
        elif state in (TaskState.PENDING, TaskState.READY):
            if back:
                self._fate("back", state, "to be computed")
            elif names:
                if task.retry_at is not None or task.tries or task.restarts:  # what it had tried was something else
                    self._change(TaskState.PENDING)
                    self.out.reset.append(task.task_id)
                self._fate("next", state, detail)
            else:
                self._stays(state)
        elif names:
            self._restart(state, detail, also_below=True)
        elif state is TaskState.FAILED and (why := self._helped_by()):
            self._restart(state, why, also_below=False)
        elif state is TaskState.FAILED and self._spec.allow_failure != task.soft and not back:
            self._change(TaskState.FAILED, task.reason, soft=self._spec.allow_failure)
            out.touched.add(task.task_id)
            self._fate("softer", state, "allow_failure")
        elif back:
            self._fate("back", state)
        elif state in (TaskState.BLOCKED, TaskState.SKIPPED) and self._rules() != self._rules_before():
            self._restart(state, "other rules", also_below=False)
        else:
            self._stays(state)

    @property
    def _old_operator(self) -> Any:
        assert self.attempt is not None
        return self.older.store.operators(self.attempt.campaign_version)[self.attempt.operator]

    def _stays(self, state: TaskState) -> None:
        found = self.out.stay.setdefault(self.item.group, {})
        found[state] = found.get(state, 0) + 1

    def _restart(self, state: TaskState, detail: str, *, also_below: bool) -> None:
        self._change(TaskState.PENDING)
        if (self.task.tries or self.task.restarts) and detail != _MORE_RESTARTS:
            self.out.reset.append(self.task.task_id)
        self.out.touched.add(self.task.task_id)
        if also_below:
            self.out.restarted.add(self.task.task_id)
        self._fate("restarts", state, detail)

    def _rules(self) -> tuple[Any, ...]:
        spec = self.loaded.campaign.tasks[self.item.group]
        return spec.allow_dependency_failure, spec.allow_skipped, spec.allow_failure

    def _rules_before(self) -> tuple[Any, ...]:
        spec = self.older.spec(self.task)
        return spec.allow_dependency_failure, spec.allow_skipped, spec.allow_failure

    # --- handling ---

    def _helped_by(self) -> str:
        """Return which change of how a task is carried out lets it try again after its failure, "" if none does."""
        attempt = self.attempt
        if attempt is None or attempt.failure is None:
            return ""
        if attempt.operator != self.item.operator:
            return f"operator {attempt.operator} -> {self.item.operator}"
        operator = self.loaded.campaign.operators[self.item.operator]
        spec, failure = self._spec, attempt.failure
        scope = early_scope(self.loaded.campaign, self.item, self.task.attempts + 1)
        try:
            if failure in _MORE_HELPS:
                now = parse_resources(asked_resources(spec, operator, scope))
                had, has = (
                    (attempt.time_s, now.time_s) if failure is FailureClass.TIMEOUT else (attempt.memory, now.memory)
                )
                if had is not None and (has is None or has > had):
                    return f"{_MORE_HELPS[failure]}"
            because = self.task.reason.code
            restart = spec.restart
            if because is Code.TOO_MANY_RESTARTS and restart is not None and restart.max > self.task.restarts:
                return _MORE_RESTARTS
            if failure is FailureClass.DEADLINE and self._deadline() != self._deadline_before():
                return "deadline"
            retries = resolve_retries(spec, scope)
        except (TemplateError, ValueError):  # of answers or metrics: not known before the attempt
            return ""
        never = rule_for(retries, failure, attempt.exit_code) == "never"
        return "retries" if failure in RETRIED and 0 < self.task.tries <= retries.max and not never else ""

    def _deadline(self) -> Any:
        return self._spec.asked.get("deadline"), self._spec.asked.get("on_deadline")

    def _deadline_before(self) -> Any:
        asked = self.older.spec(self.task).asked
        return asked.get("deadline"), asked.get("on_deadline")

    def _new_deadline(self, state: TaskState) -> None:
        """Let another deadline hold at once for a question that waits; withdraw it if others are to answer."""
        attempt = self.attempt
        assert attempt is not None
        kind = self._old_operator.row
        if not kind.asks or kind.elsewhere or state is not TaskState.WAITING:
            self._stays(state)
            return
        if self._spec.asked.get("responders") != self.older.spec(self.task).asked.get("responders"):
            self.out.ask_again.append(attempt.key)
            self.out.touched.add(self.task.task_id)
            self._fate("asked_again", state, "responders")
            return
        self._stays(state)
        if self._deadline() == self._deadline_before():
            return
        terms = decode(attempt.handle)
        scope = early_scope(self.loaded.campaign, self.item, attempt.attempt)
        try:
            written = resolve_early(self._spec.asked.get("deadline"), self._spec, scope)
            at = None if written is None else to_text(attempt.created_at + parse_time(written))
        except (TemplateError, ValueError):
            return
        terms = {key: value for key, value in terms.items() if key not in ("deadline_at", "on_deadline")}
        if at is not None:
            terms |= {"deadline_at": at, "on_deadline": self._spec.asked.get("on_deadline", "fail")}
        change = AttemptChanged(*attempt.key, attempt.state, reason=attempt.reason, handle=encode_json(terms))
        self.out.handles.append(change)


def _retire(
    store: Queries, out: Comparison, row: TaskRow, attempt: AttemptRow | None, position: int, *, cancel_gone: bool
) -> None:
    out.lines.append(encode_json(["retire", row.task_id, position]))
    out.retired.append(row.task_id)
    out.touched.add(row.task_id)
    detail = ""
    if row.state in ACTIVE and attempt is not None:
        kind = store.operators(attempt.campaign_version)[attempt.operator].row
        if cancel_gone or (kind.asks and not kind.elsewhere):
            out.end.append(attempt.key)
            detail = "ended"
        else:
            out.live_gone.append(row.task_id)
            detail = "goes on to its end"
    out.fates.append(Fate(row.task_id, row.group, "retired", row.state, detail))


def _look_below(out: Comparison, edges: Sequence[tuple[str, str]], there: Collection[str], older: Older) -> None:
    """Decide anew what waits, or is blocked, below all that changed."""
    if not out.touched:
        return
    groups = {row.task_id: row.group for row in older.rows}
    edges = [*edges, *((task_id, groups[task_id]) for task_id in out.retired if groups[task_id] != task_id)]
    concerned = below(edges, out.touched) | out.touched
    failed_too = below(edges, out.restarted) if out.restarted else set()
    again: list[TaskRow] = []
    for row in older.rows:
        if row.task_id not in there or row.task_id not in concerned or row.task_id in out.changes:
            continue
        if row.state in (TaskState.PENDING, TaskState.READY):
            if row.retry_at is None:
                out.rows[row.task_id], out.changes[row.task_id] = row, TaskChange(row.task_id, TaskState.PENDING)
            continue
        opened = row.state in (TaskState.BLOCKED, TaskState.SKIPPED)
        if opened or (row.state is TaskState.FAILED and row.task_id in failed_too):
            again.append(row)
    out.reopen(again, "below")


def events_of(store: SQLiteStateStore, found: Comparison) -> Iterator[Event]:
    """Yield what follows `Amended` in its commit."""
    if found.retired:
        yield TasksChanged(tuple(found.retired), TaskState.RETIRED, rerun=True)
    alike: dict[Any, list[TaskChange]] = {}
    for task_id, change in found.changes.items():
        row = found.rows[task_id]
        if (row.state, row.reason, row.soft, row.watch, row.cause) == (
            change.state,
            change.reason,
            change.soft,
            None,
            None,
        ):
            continue
        key = (
            change.state,
            encode_json(str(sorted(change.reason.values.items(), key=str))),
            change.reason.code,
            change.soft,
        )
        alike.setdefault(key, []).append(change)
    for changes in alike.values():
        first = changes[0]
        yield TasksChanged(tuple(c.task_id for c in changes), first.state, first.reason, first.soft)
    if found.reset:
        yield RetriesReset(tuple(found.reset))
    yield from found.handles
    if found.ask_again:
        yield Wished(tuple(found.ask_again), "rerun")
    if found.end:
        yield Wished(tuple(found.end), "cancel")
    if store.run().cancelled and any(fate.kind in ("new", "restarts", "back") for fate in found.fates):
        yield Uncancelled()


def made_again(
    tasks: Iterable[str],
    read: Callable[[Iterable[str]], set[tuple[str, str]]],
    removed: Mapping[tuple[str, str], set[str]],
) -> set[str]:
    """Return the tasks whose temporary outputs, which were removed, some tasks need again, and those that these need.

    ``read`` gives the outputs that tasks read, ``removed`` the tasks whose output was removed, both by (task or group, output).
    """
    found: set[str] = set()
    border = set(tasks)
    while border:
        needed = {name for output in read(border) for name in removed.get(output, ())}
        border = needed - found
        found |= border
    return found
