"""What results make of a campaign: the instances of a group that an output or an answer decides, the rounds of a loop.

A plan is a row of the ledger that stands for them. When it is READY, all that it depends on is there: here it becomes
events, with what they name written first. Nothing is handed over; the step takes its path once more for that.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterstack.core.board import Board
from matterstack.core.events import Event, Expanded, RetriesReset, TasksChanged
from matterstack.core.model import Campaign, Instance, OutputFile, TaskChange, TaskSpec
from matterstack.core.plan import Decider
from matterstack.core.readiness import ROUND, only_its_end
from matterstack.core.reasons import Code, Reason, reason
from matterstack.core.recorded import TaskRow
from matterstack.core.states import TaskState
from matterstack.core.values import dump_json, encode_json, load_json
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, TemplateError
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.workshop import InputFinder
from matterstack.run_root.verify import changed_digest
from matterstack.storage.apply import WORK, row_of
from matterstack.storage.expanded import read_expanded
from matterstack.storage.state_store import SQLiteStateStore

if TYPE_CHECKING:
    from matterstack.spec.frames import Frame, Grown, Known
    from matterstack.spec.grow import Grower
    from matterstack.template.work import Works


_LARGE = 5000  # instances, from which on a group is expanded beside the lock
_BYTES_OF_A_ROW = 8  # at least, in a table


@contextmanager
def uncollected() -> Iterator[None]:
    """Let no cycles be looked for: an expansion makes millions of objects that all stay, and that takes a fifth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@uncollected()
def grow(
    store: SQLiteStateStore,
    files: RunFiles,
    now: float,
    decider: Callable[[], Decider],
    outcome_of: Callable[[Growing], Outcome | None],
) -> bool:
    """Make what READY plans stand for; return whether there was any. Raises RunRootError if the disk refuses.

    ``outcome_of`` gives what becomes of one, `Growing.outcome`, or None for one that is left.
    """
    grown = False
    while True:
        more = False
        for row in store.plans(TaskState.READY):
            growing = Growing(store, files, row)
            found = None if row.paused else outcome_of(growing)
            if found is None:
                continue
            more = True
            store.append(found.before, now, sync=False)
            after = decider()
            after.settle(after.change_tasks(store.tasks([row.task_id]), [found.becomes]), unlooked=False)
            store.append(after.plan.events, now, sync=False)
        grown |= more
        if not more:
            break
    if grown:
        store.flush()
    return grown


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say of an error of a template where that stands."""
    try:
        yield
    except (TemplateError, ValueError) as error:
        raise TemplateError(f"{place}: {error}") from None


class _StillAlive(Exception):
    """Something of a round that was dropped has not ended yet; the round is made again when it has."""


@dataclass(frozen=True)
class Outcome:
    """What became of a plan, with the events before that."""

    becomes: TaskChange
    before: Sequence[Event] = ()


class Growing:
    """Makes one plan the events that follow from what is on record."""

    def __init__(self, store: SQLiteStateStore, files: RunFiles, row: TaskRow) -> None:
        self.store = store
        self.disk = files
        self.root = files.root
        self.row = row
        self.board = Board(store)
        self.campaign: Campaign = store.campaign(row.campaign_version)
        self.item = store.instance(row.task_id)
        self.spec: TaskSpec = self.campaign.tasks[row.group]
        self.waits_for: frozenset[str] = frozenset()  # what the instances wait for, once they are made
        self.stood: tuple[set[str], set[str]] = set(), set()  # how that stood when their states were decided

    def outcome(self) -> Outcome | None:
        """Return what becomes of the plan; None as long as another one comes first."""
        from matterstack.spec.grow import Refused

        try:
            return self._round() if self.row.plan == "loop" else self._group()
        except _StillAlive:
            return None
        except Refused as error:
            return self._becomes(TaskState.FAILED, reason(Code.BAD_ROWS, text=str(error)))
        except (TemplateError, ValueError) as error:
            return self._becomes(TaskState.FAILED, reason(Code.TEMPLATE, text=str(error)))

    def is_large(self) -> bool:
        """Return whether it would take long to expand a group, from the sizes of what decides it."""
        from matterstack.spec.grow import Refused

        if self.row.plan != "group" or self.store.made(self.row.task_id) or self._must_wait() or self._is_still_alive():
            return False
        finder = InputFinder(self.store, self.board, self.disk, self.item, self.row.campaign_version)
        try:
            return math.prod(self._size(axis, finder) for axis in self.spec.matrix or {}) > _LARGE
        except (Refused, TemplateError, ValueError, TypeError, OverflowError, OSError, MatterStackError):
            return False  # it is refused, and that takes no time

    def _size(self, axis: str, finder: InputFinder) -> int:
        """Return about how many values an axis has."""
        from matterstack.spec.axes import OF_MATRIX

        if axis not in self.spec.late:
            written = (self.spec.matrix or {})[axis]
            return max(1, len(written)) if isinstance(written, list | tuple) and axis not in OF_MATRIX else 1
        if axis not in self.item.inputs:
            found = self._from_value(axis, self.board.given_values(self.row.task_id)[0])
            return len(found) if isinstance(found, list) else int(found)
        finder.resolve(self.item.inputs[axis])
        paths = [self.root / str(file["path"]).removeprefix(finder.up) for file in finder.files[axis]]
        return sum(path.stat().st_size for path in paths) // _BYTES_OF_A_ROW if axis == "table" else len(paths)

    def basis(self) -> Any:
        """Return what decides the outcome of a group, to be compared: versions, and what it reads is of which attempts."""
        groups = [row for row in self.store.plans() if row.plan == "group"]
        known = [(row.task_id, row.state, self.store.made(row.task_id)) for row in groups]
        return self.row, known, self.store.limits(), self.store.results_above(self.row.task_id)

    def standing(self, names: Collection[str]) -> tuple[set[str], set[str]]:
        """Return which of these tasks and groups have all completed, and which have all settled."""
        upstreams = self.board.upstreams(names) if names else {}
        fine = {name for name, up in upstreams.items() if up.total and up.completed == up.total}
        return fine, {name for name, up in upstreams.items() if not up.unsettled}

    def _becomes(self, state: TaskState, why: Reason, before: Sequence[Event] = ()) -> Outcome:
        soft = state is TaskState.FAILED and self.spec.allow_failure
        return Outcome(TaskChange(self.row.task_id, state, why, soft=soft), before)

    # --- groups ---

    def _group(self) -> Outcome | None:
        from matterstack.spec.frames import Known
        from matterstack.spec.grow import Refused, frame_of

        if self._must_wait() or self._is_still_alive():
            return None
        finder = InputFinder(self.store, self.board, self.disk, self.item, self.row.campaign_version)
        axes: dict[str, list[Any]] = {}
        of_files: dict[str, Any] = {}
        values, origins = self.board.given_values(self.row.task_id)
        for axis in self.spec.late:
            if axis in self.item.inputs:
                axes[axis], of_files[axis] = self._from_files(axis, finder)
            else:
                axes[axis] = self._from_value(axis, values)
        of_files = {axis: found for axis, found in of_files.items() if axis != "table"}
        known = Known(axes, of_files, self._written_axes(self.spec))
        frame = frame_of(self.campaign, self.item)
        grower = self._grower(frame, {self.row.task_id: known})
        try:
            made = grower.group(self.spec, frame)
        except Refused as error:
            raise Refused(f"{self._shown_table(finder)}{error}") from None
        if made:
            self._check_columns(made[0].matrix, finder)
        most = self.store.limits().attempts
        if most is not None and len(made) > most:
            raise Refused(f"{len(made):,} instances; limits.attempts allows {most:,}")
        reads = {**finder.read, **dict(origins.values())}
        values_text = dump_json(known.to_json(), exact=True)
        text, follow = self._rows(made)
        event = Expanded(
            task=self.row.task_id, campaign_version=self.row.campaign_version, rows=self._written(text), count=len(made),
            values=self.disk.keep(values_text), reads=reads,
        )  # fmt: skip
        state, why = TaskState.RETIRED, reason(Code.KNOWN, count=len(made))
        if not made:
            state, why = TaskState.SKIPPED, reason(Code.NO_ROWS)
        return self._becomes(state, why, [event, *follow])

    def _shown_table(self, finder: InputFinder) -> str:
        """Return the table of a group, as the beginning of a message; "" without one."""
        if "table" not in self.spec.late:
            return ""
        return f"{str(finder.files['table'][0]['path']).removeprefix(finder.up)}: "

    def _check_columns(self, matrix: Mapping[str, Any], finder: InputFinder) -> None:
        """Raise Refused if the group names a column or axis that no row has: else each of its instances would fail."""
        from matterstack.spec.grow import Refused
        from matterstack.template.language import references

        spec = self.spec
        texts = (spec.command, spec.setup, spec.env, spec.params, spec.resources, spec.when, spec.asked)
        for name in (
            reference[1] for reference in references(texts) if reference[0] == "matrix" and len(reference) > 1
        ):
            if name not in matrix:
                raise Refused(f"{self._shown_table(finder)}'{name}' is not in matrix; it has {', '.join(matrix)}")

    def _is_still_alive(self) -> bool:
        """Return whether something of the group runs that is left of a round that was dropped."""
        prefix = f"{self.row.task_id}/"
        return not self.store.made(self.row.task_id) and any(row.task_id.startswith(prefix) for row in self.board.live)

    def _must_wait(self) -> bool:
        """Return whether single files are read of a group that is not known yet, but will be."""
        from matterstack.spec.expand import is_pattern
        from matterstack.spec.grow import may_read

        open_ = [row for row in self.store.plans(TaskState.PENDING, TaskState.READY) if row.plan == "group"]
        open_ = [
            row for row in open_ if row.group != self.row.group and row.group.rpartition("/")[0] in ("", self._prefix)
        ]
        singles = [item.pattern for item in self.spec.inputs.values() if not is_pattern(item.pattern)]
        return any(may_read(singles, self.campaign.tasks[row.group]) for row in open_)

    @property
    def _prefix(self) -> str:
        return self.row.group.rpartition("/")[0]

    def _from_files(self, axis: str, finder: InputFinder) -> tuple[list[Any], dict[str, Any]]:
        """Return the values of an axis, or the rows of the table, and for files what they are."""
        from matterstack.core.model import Source
        from matterstack.spec.grow import Refused, rows_of_table

        item = self.item.inputs[axis]
        finder.resolve(item)
        found = finder.files[axis]
        for file in found:
            self._require_unchanged(file, finder)
        if axis == "table":
            if not found:
                raise Refused(
                    f"{self._producers()} did not write {self.spec.matrix['table'] if self.spec.matrix else ''}"
                )
            path = str(found[0]["path"]).removeprefix(finder.up)
            return rows_of_table(self.root / path, path), {}
        out: dict[str, Any] = {}
        for file in found:
            path = str(file["path"]).removeprefix(finder.up)
            stem = Path(path).stem
            if stem in out:
                raise Refused(f"two files of {axis} are '{stem}': {path} is one of them")
            declared = self.store.instance(file["task"]).outputs[file["output"]]
            base = f"tasks/{file['task']}/attempt-{file['attempt']}/{declared.file.rstrip('/')}"
            out[stem] = Source(file["task"], file["output"], path[len(base) + 1 :])
        return list(out), out

    def _require_unchanged(self, file: Mapping[str, Any], finder: InputFinder) -> None:
        from matterstack.spec.grow import Refused

        path = self.root / str(file["path"]).removeprefix(finder.up)
        digest = file["sha256"]
        if (
            digest
            and not path.is_dir()
            and changed_digest(path, digest, finder.stamps.get(str(file["path"]))) is not None
        ):
            raise Refused(
                f"{path.relative_to(self.root)} was changed since {file['task']} wrote it; restore it, or rerun {file['task']}"
            )

    def _producers(self) -> str:
        return ", ".join(up for _, up in self.store.entries([self.row.task_id])[self.row.task_id])

    def _from_value(self, axis: str, values: Mapping[str, Any]) -> Any:
        from matterstack.spec.grow import Refused
        from matterstack.template.forms import render

        assert self.spec.matrix is not None
        written = self.spec.matrix[axis]
        template = written["range"] if isinstance(written, Mapping) else written
        found = render(
            template, {"params": self.campaign.params, "matrix": self.item.matrix, **self.item.given, **values}
        )
        if isinstance(written, Mapping) and found == 0 and not isinstance(found, bool):
            return []
        if not isinstance(found, list) and not isinstance(written, Mapping):
            raise Refused(f"{template} is {dump_json(found)[:80]}, no list")
        return found

    # --- loops ---

    def _round(self) -> Outcome:
        from matterstack.spec.frames import round_frame

        assert self.spec.repeat is not None
        repeat, made = self.spec.repeat, self.store.made(self.row.task_id)
        number = int(made.get("round", 0))
        before = f"{self.row.task_id}/{number}" if number else ""
        scope: dict[str, Any] = {"params": self.campaign.params, "matrix": self.item.matrix,
                                 "task": {"id": self.row.task_id, "name": self.spec.name, "label": self.item.label}}  # fmt: skip
        if number:
            scope |= {**made["given"], **self._values_for(before)}
            ended = self._ended(number, scope)
            if ended is not None:
                return ended
        else:
            scope |= self.board.given_values(self.row.task_id)[0]
        key, carry = "next" if number else "first", {}
        for name, item in repeat.carry.items():
            with _named(f"carry.{name}.{key}{f', after round {number}' if number else ''}"):
                carry[name] = self._carried(item[key], before, scope)
        given = {"carry": carry, "repeat": {"round": number + 1}}
        frame = round_frame(self.spec, self.row.task_id, self.item.matrix, given)
        grower = self._grower(None, {})
        if before:
            from matterstack.spec.frames import ROOT

            grower.preload(self.store.instances_of(before), ROOT, {})
        items = grower.round(frame)
        text, follow = self._rows(items)
        groups = dict.fromkeys(item.group for item in items)
        event = Expanded(
            task=self.row.task_id, campaign_version=self.row.campaign_version, rows=self._written(text), count=len(items),
            round=number + 1, given=given, edges=tuple((group, ROUND) for group in groups),
        )  # fmt: skip
        why = reason(Code.ROUND, round=number + 1, of=repeat.max, values=measures(self.spec, scope) if number else {})
        return self._becomes(TaskState.PENDING, why, [event, *follow])

    def _values_for(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return the answers and metrics that templates of a loop see after a round: its own over those outside."""
        outside, _ = self.board.given_values(self.row.task_id)
        own = self.store.round_values(prefix)
        return {root: {**outside.get(root, {}), **own[root]} for root in ("metrics", "response")}

    def _ended(self, number: int, scope: Mapping[str, Any]) -> Outcome | None:
        """Return what becomes of a loop after a round, None if it goes on."""
        from matterstack.template.language import evaluate, whole

        repeat = self.spec.repeat
        assert repeat is not None
        done = False
        if repeat.until is not None:
            hole = whole(repeat.until)
            assert hole is not None
            with _named(f"until, after round {number}"):
                found = evaluate(hole.expression, dict(scope))
            if not isinstance(found, bool):
                raise TemplateError(
                    f"until, after round {number}: {hole.source} is {dump_json(found)}; a condition gives true or false"
                )
            done = found
        values = measures(self.spec, scope)
        self._show_last(number)
        condition = repeat.until or ""
        if done:
            why = reason(Code.LOOP_DONE, round=number, of=repeat.max, condition=condition, values=values)
            return self._becomes(TaskState.COMPLETED, why)
        if number >= repeat.max:
            why = reason(Code.ROUNDS_DONE, rounds=number, condition=condition, values=values)
            failed = repeat.on_max == "fail" and repeat.until is not None
            return self._becomes(TaskState.FAILED if failed else TaskState.COMPLETED, why)
        return None

    def _carried(self, written: Any, before: str, scope: Mapping[str, Any]) -> Any:
        """Return what a round is given under a name: a path as results/ has it, or a value."""
        from matterstack.spec.frames import is_path
        from matterstack.template.forms import render, render_pattern

        if not is_path(written):
            return render(written, dict(scope)) if isinstance(written, str) else written
        path = render_pattern(written, dict(scope), escape=False)
        if not before:
            return path
        own = {shown for _, _, shown, _ in self.store.paths_of(self.row.task_id, before)}
        inside = f"{before}/{path}"
        is_own = any(
            inside.rstrip("/") == item.rstrip("/") or inside.startswith(item.rstrip("/") + "/") for item in own
        )
        return inside if is_own else path

    def _show_last(self, number: int) -> None:
        """Let results/LOOP/ show the outputs of a round under their own paths."""
        prefix = f"{self.row.task_id}/{number}/"
        shown: set[str] = set()
        for item in self.store.instances_of(prefix.rstrip("/")):
            outputs = [
                OutputFile(
                    o.name, f"{self.row.task_id}/{o.path.removeprefix(prefix)}", o.file, o.size, o.sha256, o.stamp
                )
                for o in self.store.published_files(item.task_id)
                if o.path.startswith(prefix)
            ]
            published = self.store.published(item.task_id)
            if published is not None:
                self.disk.publish((item.task_id, published[0]), outputs, ())
                shown |= {output.path.rstrip("/") for output in outputs}
        if number > 1:
            older = f"{self.row.task_id}/{number - 1}/"
            for item in self.store.instances_of(older.rstrip("/")):
                gone = {
                    f"{self.row.task_id}/{o.path.removeprefix(older)}".rstrip("/") for o in item.outputs.values()
                } - shown
                self.disk.withdraw(item.task_id, gone)

    # --- both ---

    def _grower(self, frame: Frame | None, known: Mapping[str, Known]) -> Grower:
        """Return what expands, with the instances that the run has outside of rounds and in this frame."""
        from matterstack.spec.frames import ROOT, Known
        from matterstack.spec.grow import Grower

        version = self.row.campaign_version
        source = self.store.source_of(version)
        names = [*self.store.made_groups(), *(self.store.made_groups(frame.prefix) if frame and frame.prefix else [])]
        tasks = self.campaign.tasks  # what an amendment has removed is still in the ledger
        there = {name: Known({}, {}, self._written_axes(tasks[name])) for name in names if tasks.has(name)}
        grower = Grower(self.campaign, self.root / source, frozenset(self.store.sources(version)), {**there, **known})
        places = [("", ROOT), *([(frame.prefix, frame)] if frame is not None and frame.prefix else [])]
        if frame is not None and frame.round > 1:  # what was carried is of the round before
            places.append((f"{frame.row}/{frame.round - 1}", ROOT))
        for prefix, place in places:
            items = [item for item in self.store.instances_of(prefix) if item.group != self.row.group or item.plan]
            items = [item for item in items if tasks.has(item.group)]
            plans = [item.task_id for item in items if item.plan]
            upstreams = {name: [(up, how) for how, up in pairs] for name, pairs in self.store.entries(plans).items()}
            grower.preload(items, place, upstreams)
        return grower

    @staticmethod
    def _written_axes(spec: TaskSpec) -> dict[str, Any]:
        return {axis: (spec.matrix or {})[axis] for axis in spec.late}

    def _written(self, text: str) -> str:
        return self.disk.keep(text) if text else ""

    def _rows(self, items: Sequence[Instance]) -> tuple[str, list[Event]]:
        """Return the lines that `Expanded` names for instances, and the events that follow it.

        Those that the run has already are compared as in an amendment.
        """
        from matterstack.template.work import Works, digests_of, with_modes

        version = self.row.campaign_version
        digests = {
            **with_modes((self.root / self.store.source_of(version)).joinpath, self.store.sources(version)),
            **digests_of(self.store.externals(version)),
        }
        works = Works(self.campaign, digests, self._members(items))
        states = self._first_states(items)
        if self.row.plan == "group" and self.store.made(self.row.task_id):
            before = {row.task_id: row for row in self.store.members(self.row.group, retired=True) if row.plan is None}
            return self._compared(items, before, works)
        follow: list[Event] = []
        if self.item.given or self.row.plan == "loop":
            # Of a round that was dropped nothing counts but the numbers of attempts.
            again = tuple(row.task_id for row in self.store.tasks([item.task_id for item in items]))
            if not {row.task_id for row in self.board.live}.isdisjoint(again):
                raise _StillAlive
            if again:
                follow = [TasksChanged(again, TaskState.PENDING), RetriesReset(again)]
        lines = []
        for item in items:
            row = row_of(item, states[item.task_id])
            row[WORK] = works.digest(row, item)
            lines.append(encode_json(["put", None, row, None, None]))
        return "".join(f"{line}\n" for line in lines), follow

    def _members(self, items: Sequence[Instance]) -> dict[str, list[str]]:
        wholes = {
            str(source.task)
            for item in items
            for given in item.inputs.values()
            for source in given.sources
            if source.whole
        }
        from matterstack.template.work import members_of

        own = members_of(items)
        return {group: own.get(group) or [row.task_id for row in self.store.members(group)] for group in wholes}

    def _first_states(self, items: Sequence[Instance]) -> dict[str, TaskState]:
        """Return the first state of each instance: READY if all its upstream tasks have completed, else PENDING."""
        own = {item.task_id for item in items} | {item.group for item in items}
        self.waits_for = frozenset(edge.upstream for item in items for edge in item.edges) - own
        fine, settled = self.standing(self.waits_for)
        self.stood = fine, set(settled)
        settled.add(self.row.task_id)
        can_start: dict[Any, bool] = {}  # most instances wait for the same
        out = {}
        for item in items:
            waits = item.group, item.plan, item.edges
            if waits not in can_start:
                can_start[waits] = (
                    not item.plan
                    and self.campaign.tasks[item.group].when is None
                    and all(edge.upstream in (settled if only_its_end(edge.entry) else fine) for edge in item.edges)
                )
            out[item.task_id] = TaskState.READY if can_start[waits] else TaskState.PENDING
        return out

    def _compared(
        self, items: Sequence[Instance], before: Mapping[str, TaskRow], works: Works
    ) -> tuple[str, list[Event]]:
        from matterstack.orchestration.comparison import compare_some

        return compare_some(self.store, self.campaign, items, before, works)


def grown_of(store: SQLiteStateStore) -> Grown:
    """Return what results have made of a run, for an amendment."""
    from matterstack.spec.frames import Grown, known_from_json

    known, rounds = {}, {}
    for row in store.plans():
        made = store.made(row.task_id)
        if row.plan == "group" and row.state is TaskState.RETIRED and made.get("values"):
            known[row.task_id] = known_from_json(load_json(read_expanded(store.root, made["values"])))
        elif row.plan == "loop" and made.get("round"):
            found = [store.given_to(f"{row.task_id}/{number}") for number in range(1, made["round"] + 1)]
            rounds[row.task_id] = [given for given in found if given]
    return Grown(known, rounds)


def measures(spec: TaskSpec, scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the `until` of a loop names in metrics and answers, by their names."""
    from matterstack.template.language import references

    assert spec.repeat is not None
    out = {}
    for reference in references(spec.repeat.until):
        node: Any = scope
        for part in reference:
            node = node.get(part) if isinstance(node, Mapping) and part in node else None
        if reference[0] in ("metrics", "response") and node is not None:
            plain = isinstance(node, str | int | float | bool)
            out[".".join(map(str, reference[1:]))] = node if plain else str(node)
    return out
