"""A `Campaign` to its instances: matrices multiplied out, labels, paths and globs resolved, edges inferred.

Everything here is known at `init`; nothing is evaluated that an attempt decides. All problems are collected.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Protocol

from matterstack.core.graph import Graph, build, find_cycles
from matterstack.core.kinds import HUMAN
from matterstack.core.model import (
    Campaign,
    Edge,
    InputSpec,
    Instance,
    OutputSpec,
    ResolvedInput,
    ResolvedOutput,
    Source,
    TaskSpec,
)
from matterstack.core.selection import WILDCARD, names_task
from matterstack.core.suggestions import did_you_mean
from matterstack.core.validation import show
from matterstack.core.values import as_text, dump_json
from matterstack.deferred import dataclass, filled
from matterstack.errors import CampaignError, Problem, TemplateError
from matterstack.spec.axes import OF_MATRIX, in_lockstep, range_values
from matterstack.spec.files import glob_files, place_of
from matterstack.spec.frames import ANYWHERE, ROOT, Frame, Known, round_frame
from matterstack.spec.late import HOLE, can_match, declared
from matterstack.spec.mend import Doubts
from matterstack.spec.paths import PathTree, path_problem
from matterstack.spec.tables import KINDS_OF_TABLES, MOST_ROWS, decimal_commas, read_table
from matterstack.template.forms import render, render_pattern, render_text
from matterstack.template.language import Hole, Name, evaluate, is_template, parse, references, whole

KEPT_TABLES = ".tables"  # in source/ of a run, see storage.run_root: tables as they were at init
MOST_INSTANCES = MOST_ROWS
LONGEST_LABEL = 200  # bytes
_MOST_SUGGESTIONS = 50
RESERVED_FILES = frozenset(
    ["task.json", "command.sh", "claim", "stdout.log", "stderr.log", "exit.json", "outputs.sha256", "response.json", "status.json", "experiment_request.json", "experiment_result.json", "instructions.md", "response_schema.json", "heartbeat.json", "cancel.json"]
)  # fmt: skip
_LITERAL_PATH = re.compile(r"/([\w./+@%=,-]+)")

Where = tuple[str | int, ...]


@dataclass()
class Match:
    """What a pattern matched, for the summary of `validate`: count of sources by task, and of files."""

    by_task: dict[str, int] = field(default_factory=dict)
    files: int = 0
    unknown: list[str] = field(default_factory=list)  # groups and loops of which it is not known yet what matches


@dataclass()
class Expansion:
    instances: list[Instance]
    files: tuple[str, ...]  # of the campaign folder, to be copied to source/
    graph: Graph
    group_nodes: frozenset[str]  # groups that something waits for as a whole
    matches: dict[tuple[str, str], Match]  # (task id, input) -> what matched
    named: Mapping[str, AnswerNames]  # task -> `answer_names` of it
    labels: dict[str, str]  # task id -> what its label was before it was made safe, where that is something else
    externals: dict[str, bool]  # as in `LoadedCampaign`
    samples: list[Instance]  # the first round of each loop, which is made when the run gets there


AnswerNames = Mapping[tuple[str, str], Sequence[str]]


def answer_names(spec: TaskSpec) -> AnswerNames:
    """Return each (root, task) that a task's templates name below response and metrics, with the keys that do."""
    found: dict[tuple[str, str], list[str]] = {}
    # Of `until` and `next` the names of the round's own tasks are among them: nothing outside has these.
    repeat = [spec.repeat.until, spec.repeat.carry] if spec.repeat is not None else ()
    parts: dict[str, Any] = {
        "repeat": repeat, "command": spec.command, "setup": spec.setup, "env": spec.env, "params": spec.params,
        "resources": spec.resources, "retries": spec.retries_written, "when": spec.when, **spec.asked,
    }  # fmt: skip
    for key, value in parts.items():
        for reference in references(value):
            if reference[0] in ("response", "metrics") and len(reference) > 1:
                keys = found.setdefault((reference[0], reference[1]), [])
                if key not in keys:
                    keys.append(key)
    return found


_SAFE = re.compile(r"[\w.+-]*\Z", re.ASCII)


def make_label(text: str) -> str:
    """Make a label safe as the name of a folder; the rule is part of the format, labels are identities."""
    safe = text if _SAFE.match(text) else _safe(text)
    if safe[:1] in (".", "-"):
        safe = "_" + safe[1:]
    data = safe.encode("utf-8", errors="replace")
    if len(data) > LONGEST_LABEL:
        cut = data[:LONGEST_LABEL].decode("utf-8", errors="ignore")
        return f"{cut}-{hashlib.sha256(data).hexdigest()[:8]}"
    return safe or "_"


def _safe(text: str) -> str:
    return "".join(char if char.isalnum() or char in "._+-" else "_" for char in text)


class Reporter(Protocol):
    """Where an expansion reports its problems: the `Builder` of a campaign file, or what a run has in its place."""

    problems: list[Problem]
    doubts: Doubts

    @property
    def file(self) -> str: ...
    def add(self, path: Where, message: str, *, at_key: bool = False, severity: str = "error") -> None: ...
    def has_problem(self, path: Where) -> bool: ...
    def may_give(self, root: str, task: str) -> bool: ...
    def lines_from_defaults(self, task: str, lines: int) -> int:
        """Return how many of the `setup` lines of a task are those of `defaults`."""
        ...


class Expander:
    def __init__(
        self,
        campaign: Campaign,
        named: Mapping[str, AnswerNames],
        folder: Path,
        builder: Reporter,
        only_files: frozenset[str] | None = None,
        known: Mapping[str, Known] | None = None,
        rounds: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        """``known`` gives what results gave to groups, by id; those of which nothing is known are left open.

        ``rounds`` gives what the rounds of loops were given that the run has; of others the first is a sample.
        """
        self.rounds = rounds or {}
        self.campaign = campaign
        self.known = known or {}
        self.frames: list[Frame] = [ROOT]
        self.specs: dict[str, tuple[TaskSpec, Frame]] = {}  # by id of the group
        self.named = named
        self.folder = folder
        self.builder = builder
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.drafts: list[_Draft] = []
        self.by_id: dict[str, _Draft] = {}
        self.outputs = PathTree()
        self.ids = PathTree()
        self.files: set[str] = set()
        self.externals: dict[str, bool] = {}  # absolute path -> whether its digest is recorded
        self.matches: dict[tuple[str, str], Match] = {}
        self.labels: dict[str, str] = {}
        self.files_of_axes: dict[tuple[str, str], dict[str, Source]] = {}  # (group, axis) -> its values -> their files
        self._suggestions = 0
        self._shared: dict[
            tuple[str, str, str], tuple[list[Source], set[str]]
        ] = {}  # frame, pattern, base -> what it matches, and of which tasks
        self._globbed: dict[str, list[str]] = {}
        self._only_files = only_files  # None: all files of the folder
        self._by_values: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], list[str]]] = {}
        self._drafts_of: dict[str, list[_Draft]] = {}
        self._columns: dict[
            tuple[str, tuple[str, ...]], list[str]
        ] = {}  # of a task's rows: those that labels are made of
        self._choices: dict[
            str, tuple[str, int]
        ] = {}  # operator and priority of tasks all of whose instances have the same

    def place(self, path: str) -> Path:
        return place_of(self.folder, self.campaign.outside, path)

    def expand(self) -> Expansion:
        for index, pattern in enumerate(self.campaign.files):
            self._take_files(pattern, ("files", index))
        self._draft_frame(ROOT)
        for loop in [draft for draft in self.drafts if draft.plan == "loop"]:
            for given in self.rounds.get(loop.task_id, ()):
                frame = round_frame(loop.spec, loop.task_id, loop.matrix, given)
                self._draft_frame(frame)
                loop.edges = {edge: None for edge in loop.edges if edge.entry != "round"}
                groups = [group for group, (_, home) in self.specs.items() if home is frame]
                loop.edges |= {Edge(group, "round"): None for group in groups}
            if loop.task_id not in self.rounds and loop.task_id == self._members(loop.group)[0].task_id:
                self._draft_frame(self.first_round(loop))  # the others differ in values alone
        self._resolve(self.drafts)
        self._check_source_paths()
        return self._finish()

    def _draft_frame(self, frame: Frame) -> list[_Draft]:
        """Add the instances of a frame, with their outputs."""
        before = len(self.drafts)
        if frame is not ROOT:
            self.frames.append(frame)
        for spec in self.campaign.tasks.values():
            if frame.has(spec):
                self._draft_instances(spec, frame)
        new = self.drafts[before:]
        for draft in new:
            self._resolve_outputs(draft)
        for draft in new:
            if draft.plan == "group":
                self._resolve_plan(draft)
        return new

    def _resolve(self, drafts: Sequence[_Draft]) -> None:
        """Find what instances read and wait for."""
        groups: dict[str, list[_Draft]] = {}
        for draft in drafts:
            if draft.plan != "group":
                self._resolve_inputs(draft)
                self._resolve_needs(draft)
                groups.setdefault(draft.group, []).append(draft)
        for group, members in groups.items():
            spec, frame = self.specs[group]
            if self.named[spec.name]:
                self._resolve_answers(spec, frame, members)

    # --- while a run goes on ---

    def preload(self, item: Instance, frame: Frame, upstreams: Sequence[tuple[str, str]] = ()) -> None:
        """Add an instance that the run has already; ``upstreams`` are the (upstream, entry) pairs of one with a plan."""
        spec = self.campaign.tasks[item.group]
        draft = _Draft(
            spec, item.task_id, item.label, item.matrix, len(self.drafts), item.group, frame, item.plan, item.operator,
            item.priority, dict(item.inputs), dict(item.outputs), {Edge(*pair): None for pair in upstreams},
        )  # fmt: skip
        self.drafts.append(draft)
        self.by_id[item.task_id] = draft
        if not item.plan:
            self.ids.add(item.task_id, draft)
        self.specs.setdefault(item.group, (spec, frame))
        if item.plan != "group":
            self.rows.setdefault(item.group, []).append(dict(item.matrix))
        for name, output in item.outputs.items():
            self.outputs.add(output.path, (draft, name))

    def grow_group(self, spec: TaskSpec, frame: Frame) -> list[Instance]:
        """Return the instances of a group by what is known of it now; others, of the run, were added by `preload`."""
        group, before = frame.id_of(spec), len(self.drafts)
        self.specs[group] = spec, frame
        self._draft_rows(spec, frame, group, ("tasks", spec.name))
        return self._grown(self.drafts[before:])

    def grow_round(self, frame: Frame) -> list[Instance]:
        """Return the instances of a round, as far as they are known when it begins."""
        new = self._draft_frame(frame)
        self._resolve(new)
        return [draft.finish() for draft in new]

    def _grown(self, new: list[_Draft]) -> list[Instance]:
        for draft in new:
            self._resolve_outputs(draft)
        self._resolve(new)
        return [draft.finish() for draft in new]

    # --- loops ---

    def _check_carried(self, loop: _Draft, where: Where, path: str) -> None:
        problem = path_problem(path)
        if not problem and not self._sources(loop, path, "", ROOT, is_list=False) and not self.builder.doubts.any:
            problem = self._no_match(loop, path, is_list=False)
        if problem:
            self._report_once(where, problem)

    def _check_next(self, loop: _Draft, where: Where, path: str) -> None:
        """Report a path that no task of a round makes, and that is nothing outside of it either."""
        made = [
            declared(o.path)
            for spec in self.campaign.tasks.values()
            if spec.loop == loop.spec.name
            for o in spec.outputs.values()
        ]
        is_made = self.builder.doubts.any or any(can_match(path, one) for one in made)
        if not is_made and not self._sources(loop, path, "", ROOT, is_list=False):
            near = did_you_mean(path, [one for one in made if HOLE not in one])
            self._report_once(
                where,
                f"'{path}' is not an output of the loop's tasks{near}; a text is read as a path, write a value as one template",
            )

    def first_round(self, loop: _Draft) -> Frame:
        """Return the frame of a loop's first round, with what is known of it before it begins."""
        assert loop.spec.repeat is not None
        carry, paths = {}, set()
        for name, item in loop.spec.repeat.carry.items():
            value = item["first"]
            if isinstance(value, str) and whole(value) is None:
                where: Where = ("tasks", loop.spec.name, "repeat", "carry", name, "first")
                value = self._attempt(where, loop, render_pattern, value, self.scope(loop), escape=False)
                paths.add(name)
                if value is not None:
                    self._check_carried(loop, where, value)
            following = item["next"]
            if isinstance(following, str) and whole(following) is None:
                self._check_next(loop, ("tasks", loop.spec.name, "repeat", "carry", name, "next"), following)
            if name not in paths and isinstance(value, str):
                try:
                    value = render(value, self.scope(loop))
                except (TemplateError, ValueError):
                    value = UNKNOWN  # of an answer or a metric
            carry[name] = value
        self._check_until(loop)
        return Frame(f"{loop.task_id}/1", loop.spec.name, loop.task_id, loop.matrix, 1, carry, frozenset(paths))

    def _check_until(self, loop: _Draft) -> None:
        """Report a condition that is another value, where that does not depend on what a round gives."""
        assert loop.spec.repeat is not None
        until = loop.spec.repeat.until
        hole = whole(until) if until is not None else None
        named = list(references(until)) if hole is not None else []
        of_rounds = any(
            name[0] == "repeat" or (len(name) > 1 and f"{loop.spec.name}/{name[1]}" in dict.keys(self.campaign.tasks))
            for name in named
        )
        where: Where = ("tasks", loop.spec.name, "repeat", "until")
        if hole is not None and named and not of_rounds and not self.builder.has_problem(where):
            outside = any(name[0] in ("metrics", "response") for name in named)
            message = f"{hole.source} names nothing that a round gives: it is the same after each round"
            self.builder.add(where, message, severity="error" if outside else "warning")
        if hole is None or not {name[0] for name in references(until)} <= {"params", "matrix", "task", "repeat"}:
            return
        try:
            found = evaluate(hole.expression, {**self.scope(loop), "repeat": {"round": 1}})
        except (TemplateError, ValueError):
            return  # that is told where names are checked
        if not isinstance(found, bool):
            message = f"{hole.source} is {found!r}; a condition gives true or false, such as ${{{{ metrics.TASK.NAME < 0.1 }}}}"
            self._report_once(where, message)

    # --- matrices and labels ---

    def _draft_instances(self, spec: TaskSpec, frame: Frame) -> None:
        where: Where = ("tasks", spec.name)
        group = frame.id_of(spec)
        self.specs[group] = spec, frame
        if spec.late:
            self._add(spec, frame, group, spec.name.rpartition("/")[2], frame.matrix, "group")
            if not self._is_known(group, spec):
                return
        self._draft_rows(spec, frame, group, where)

    def _is_known(self, group: str, spec: TaskSpec) -> bool:
        return group in self.known and self.known[group].is_of(spec)

    def _draft_rows(self, spec: TaskSpec, frame: Frame, group: str, where: Where) -> None:
        rows = [{}] if spec.matrix is None else self._rows(spec, group, (*where, "matrix"))
        self.rows[group] = rows
        if len(self.drafts) + len(rows) > MOST_INSTANCES:
            self.builder.add(where, f"{len(rows)} instances; a campaign may have {MOST_INSTANCES}")
            return
        labels: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            text = self._label_text(spec, row, where)
            if text is None:
                return
            label = make_label(text)
            if label in labels:
                what = f"{_row_text(labels[label])} and {_row_text(row)} have the same label '{label}'; set `label`"
                if labels[label] == row:
                    what = f"{_row_text(row)} is listed twice"
                self.builder.add((*where, "label" if spec.label else "matrix"), what)
                return
            if spec.matrix is not None and re.fullmatch(r"attempt-\d+", label):
                what = f"{_row_text(row)} has the label '{label}', the name of the folder of an attempt; set `label`"
                self.builder.add((*where, "label" if spec.label else "matrix"), what)
                return
            labels[label] = row
            task_id = group if spec.matrix is None else f"{group}/{label}"
            if text != label:
                self.labels[task_id] = text
            double = next((axis for axis in row if axis in frame.matrix), None) if frame.matrix else None
            if double is not None:
                message = f"'{double}' is an axis of the loop as well; rename one"
                self.builder.add((*where, "matrix", double), message, at_key=True)
                return
            self._add(spec, frame, task_id, label, {**frame.matrix, **row}, "loop" if spec.repeat is not None else "")

    def _add(
        self, spec: TaskSpec, frame: Frame, task_id: str, label: str, matrix: Mapping[str, Any], plan: str
    ) -> _Draft:
        draft = _Draft(spec, task_id, label, matrix, len(self.drafts), frame.id_of(spec), frame, plan)
        self.drafts.append(draft)
        self.by_id[task_id] = draft
        self._drafts_of.clear()
        if not plan:  # instances lie below what stands for them
            self.ids.add(task_id, draft)
        if plan:
            if (
                plan == "group" and spec.repeat is None and not is_template(spec.operator)
            ):  # what all its instances have can be told now
                self._resolve_choice(replace(draft), ("tasks", spec.name))
            draft.operator = ""
        else:
            self._resolve_choice(draft, ("tasks", spec.name))
        return draft

    def _rows(self, spec: TaskSpec, group: str, where: Where) -> list[dict[str, Any]]:
        assert spec.matrix is not None
        axes: list[list[dict[str, Any]]] = []
        tables = []
        if "table" in spec.matrix:
            late = "table" in spec.late
            tables = [
                self.known[group].axes["table"] if late else self._table(str(spec.matrix["table"]), (*where, "table"))
            ]
        named = [
            (name, self._axis(spec, group, name, values, (*where, name)))
            for name, values in spec.matrix.items()
            if name != "table" and name not in OF_MATRIX
        ]
        try:
            axes = in_lockstep(named, spec.matrix.get("zip", ()))
        except ValueError as error:
            if all(values for _, values in named):  # else that is told already
                self.builder.add((*where, "zip"), str(error))
            return []
        if tables:
            place = [name for name in spec.matrix if name not in OF_MATRIX].index("table")
            axes[place:place] = tables
        total = 1
        for axis in axes:
            total *= len(axis)
        if total > MOST_INSTANCES:
            self.builder.add(where, f"{total} instances; a campaign may have {MOST_INSTANCES}")
            return []
        rows: list[dict[str, Any]] = []
        for combination in itertools.product(*axes) if axes else ():
            row: dict[str, Any] = {}
            for part in combination:
                double = next((key for key in part if key in row), None)
                if double is not None:
                    self.builder.add(where, f"'{double}' is both an axis and a column of the table")
                    return []
                row.update(part)
            rows.append(row)
        rows = self._exclude(rows, spec.matrix.get("exclude", []), (*where, "exclude"))
        return self._include(rows, spec.matrix.get("include", []), (*where, "include"), spec.label)

    def _axis(self, spec: TaskSpec, group: str, name: str, values: Any, where: Where) -> list[Any]:
        if self.builder.has_problem(where):
            return []
        label = spec.label
        known = self.known[group] if name in spec.late else None
        if known is not None and name in known.files:
            self.files_of_axes[group, name] = dict(known.files[name])
            return list(known.axes[name])
        if isinstance(values, Mapping) and "files" in values:
            return self._files_axis(spec, group, name, str(values["files"]), (*where, "files"))
        frame = self.specs[group][1]
        try:
            if isinstance(values, Mapping):
                where = (*where, "range")
                given = known.axes[name] if known is not None else self._with_params(values["range"], frame)
                return [] if known is not None and given == [] else range_values(given, MOST_INSTANCES)
            values = self._with_params(values, frame) if isinstance(values, str) and known is None else values
            values = known.axes[name] if known is not None else values
        except TemplateError as error:
            if self.builder.doubts.params or self.builder.doubts.param_names:
                self.builder.doubts.outputs = True  # how many instances there are is not known
            else:
                self.builder.add(where, str(error))
            return []
        except ValueError as error:
            self.builder.add(where, str(error))
            return []
        if not isinstance(values, list):
            self.builder.add(where, f"'{name}' must be a list of values, got {show(values)}")
            return []
        if not values and known is None:
            self.builder.add(where, f"'{name}' is empty: it gives no instances")
        return values if self._values_have_labels(values, where, label) else []

    def _with_params(self, value: Any, frame: Frame) -> Any:
        """Return what is written for an axis, its templates resolved. Raises TemplateError."""
        if isinstance(value, list):
            return [self._with_params(item, frame) for item in value]
        return render(value, {"params": self.campaign.params, **frame.given}) if isinstance(value, str) else value

    def _files_axis(self, spec: TaskSpec, group: str, axis: str, pattern: str, where: Where) -> list[Any]:
        """Return the stems of the files that a pattern matches, each the value of an instance."""
        problem = path_problem(pattern)
        if not problem and axis in spec.inputs:
            problem = f"inputs.{axis} is the file of this axis; rename the input"
        found = [] if problem else self._glob(pattern)
        if not problem and not found and not self.builder.doubts.files:
            problem = f"'{pattern}' matches no file of the campaign folder"
        if problem:
            self.builder.add(where, problem)
            return []
        self.files.update(found)
        stems: dict[str, Source] = {}
        for path in found:
            stem = Path(path).stem
            if stem in stems:
                self.builder.add(where, f"{stems[stem].path} and {path} are both '{stem}'")
                return []
            stems[stem] = Source(None, None, path)
        self.files_of_axes[group, axis] = stems
        return list(stems)

    def _values_have_labels(self, values: Iterable[Any], where: Where, label: str | None) -> bool:
        for value in values:
            if value is None or (isinstance(value, list | dict) and not label):
                kind = "null" if value is None else "a list or mapping"
                self.builder.add(
                    where,
                    f"{kind} as a value needs a `label`" if value is not None else "null is not allowed as a value",
                )
                return False
        return True

    def _table(self, name: str, where: Where) -> list[dict[str, Any]]:
        problem = path_problem(name)
        if problem or self.builder.has_problem(where):
            if problem:
                self.builder.add(where, problem)
            return []
        shown = str(Path(self.builder.file).parent / name)
        try:
            kept = self.folder / KEPT_TABLES / name  # of a run whose table was refreshed since
            rows = read_table(kept if self._only_files is not None and kept.is_file() else self.place(name), shown)
        except CampaignError as error:
            for found in error.problems:
                if found.line:
                    self.builder.problems.append(found)
                else:  # of the file as a whole: say where the campaign names it
                    self.builder.add(where, f"{found.file}: {found.message}")
            return []
        self.files.add(name)
        commas = decimal_commas(rows)
        if commas:
            self.builder.add(where, f"{shown}: {commas}", severity="warning")
        return rows

    def _exclude(self, rows: list[dict[str, Any]], excluded: list[Any], where: Where) -> list[dict[str, Any]]:
        for index, pattern in enumerate(excluded):
            names = set(rows[0]) if rows else set(pattern)
            unknown = next((key for key in pattern if key not in names), None)
            if unknown is not None:
                self.builder.add((*where, index, unknown), f"'{unknown}' is not an axis{did_you_mean(unknown, names)}")
                continue
            kept = [row for row in rows if not all(_same(row[key], value) for key, value in pattern.items())]
            if len(kept) == len(rows):
                self.builder.add((*where, index), "removes nothing", severity="warning")
            rows = kept
        return rows

    def _include(
        self, rows: list[dict[str, Any]], included: list[Any], where: Where, label: str | None
    ) -> list[dict[str, Any]]:
        for index, extra in enumerate(included):
            first = rows[0] if rows else extra
            if set(extra) != set(first):
                differing = {"missing": set(first) - set(extra), "unexpected": set(extra) - set(first)}
                what = ", ".join(f"{word} {' '.join(sorted(names))}" for word, names in differing.items() if names)
                self.builder.add((*where, index), f"has other keys than the first row: {what}")
                continue
            if self._values_have_labels(extra.values(), (*where, index), label):
                rows.append({key: extra[key] for key in first})
        if not rows and not self.builder.problems and not self.campaign.tasks[str(where[1])].late:
            self.builder.add(where[:-1], "gives no instances")
        return rows

    def _label_text(self, spec: TaskSpec, row: Mapping[str, Any], where: Where) -> str | None:
        """Return the label of a row before it is made safe."""
        if spec.matrix is None:
            return spec.name.rpartition("/")[2]
        try:
            if spec.label:
                scope = {"params": self.campaign.params, "matrix": row, "task": {"name": spec.name.rpartition("/")[2]}}
                return render_text(spec.label, scope)
            key = spec.name, tuple(row)
            columns = self._columns.get(key)
            if columns is None:
                columns = self._columns[key] = self._label_columns(spec, row)
            values = [row[name] for name in columns]
            if None in values:
                raise TemplateError(
                    f"{_row_text(row)} has no {columns[values.index(None)]}, which its label is made of"
                )
            return "-".join(map(as_text, values))
        except (TemplateError, ValueError) as error:
            place = (*where, "label" if spec.label else "matrix")
            if not self.builder.has_problem(place):
                self.builder.add(place, str(error))
            return None

    @staticmethod
    def _label_columns(spec: TaskSpec, row: Mapping[str, Any]) -> list[str]:
        """Return the axes in order; of a table only its first column."""
        assert spec.matrix is not None
        axes = [name for name in spec.matrix if name not in OF_MATRIX]
        if not axes:
            return list(row)
        if "table" not in axes:
            return axes
        columns = [name for name in row if name not in axes]
        return [columns[0] if name == "table" else name for name in axes if name != "table" or columns]

    # --- per instance ---

    def _attempt(self, where: Where, draft: _Draft, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (TemplateError, ValueError) as error:
            message = str(error)
            named = references(arguments[0])
            doubted = any(self.builder.doubts.about(draft.spec.name, *map(str, name[:2])) for name in named)
            if not self.builder.has_problem(where) and not doubted:
                of = f"{draft.task_id}: " if draft.spec.matrix is not None else ""
                self.builder.add(where, f"{of}{message}")
            return None

    def _report_once(self, where: Where, message: str) -> None:
        """Report the first instance of a mistake; the others differ in their names alone."""
        if not self.builder.has_problem(where):
            self.builder.add(where, message)

    def _resolve_choice(self, draft: _Draft, where: Where) -> None:
        spec = draft.spec
        if spec.name in self._choices:
            draft.operator, draft.priority = self._choices[spec.name]
            return
        scope, problems = self.scope(draft), len(self.builder.problems)
        operator = self._attempt((*where, "operator"), draft, render_text, spec.operator, scope)
        if operator is not None and operator not in self.campaign.operators and self.builder.doubts.operators:
            operator = None
        if operator is not None and operator not in self.campaign.operators:
            known = self.campaign.operators
            message = f"there is no operator '{operator}'{did_you_mean(operator, known)}; there are {', '.join(known)}"
            self.builder.add((*where, "operator"), message)
            operator = None
        known_kind = operator is not None and operator not in self.builder.doubts.operators
        draft.operator = operator or "local"
        priority = self._attempt((*where, "priority"), draft, render, spec.priority, scope)
        if isinstance(priority, str) and re.fullmatch(r"[-+]?[0-9]{1,9}", priority):
            priority = int(priority)
        if priority is not None and (
            isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > 1_000_000_000
        ):
            self.builder.add((*where, "priority"), f"expected a whole number (at most 1000000000), got {priority}")
            priority = 0
        draft.priority = int(priority or 0)
        kind = self.campaign.operators[draft.operator].row
        if not known_kind:
            return
        if spec.command is None and kind.runs_command:
            self.builder.add(
                where, f"'command' is missing (operator '{draft.operator}' is of kind {kind.name})", at_key=True
            )
        elif spec.command is not None and not kind.runs_command and not kind.plug_in:
            who = kind.whom
            self.builder.add((*where, "command"), f"{who} runs no command; use `instructions`", at_key=True)
        if len(self.builder.problems) == problems and not (is_template(spec.operator) or is_template(spec.priority)):
            self._choices[spec.name] = draft.operator, draft.priority

    def scope(self, draft: _Draft) -> dict[str, Any]:
        task = {"id": draft.task_id, "name": draft.spec.name.rpartition("/")[2], "label": draft.label}
        return {"params": self.campaign.params, "matrix": draft.matrix, "task": task, **draft.frame.given}

    def _resolve_outputs(self, draft: _Draft) -> None:
        if draft.plan:
            return
        scope = self.scope(draft)
        files: set[str] = set()
        prefix = f"{draft.frame.prefix}/" if draft.frame.prefix else ""
        for name, spec in draft.spec.outputs.items():
            where: Where = ("tasks", draft.spec.name, "outputs", name)
            path = self._attempt(where, draft, render_pattern, spec.path, scope, escape=False)
            file = (
                path if not spec.file else self._attempt(where, draft, render_pattern, spec.file, scope, escape=False)
            )
            if path is None or file is None:
                continue
            problem = path_problem(path) or self._name_of_a_round(draft, path)
            path = prefix + path
            problem = problem or self._output_problem(draft, spec, path, file, files)
            if problem:
                self._report_once(where, problem)
                continue
            if path.endswith("/") or file.endswith("/"):
                path, file = path.rstrip("/") + "/", file.rstrip("/") + "/"
            files.add(file.rstrip("/"))
            self.outputs.add(path, (draft, name))
            draft.outputs[name] = filled(
                ResolvedOutput, (path, file, spec.optional, spec.not_empty, spec.min_size, spec.temporary)
            )
        if self.campaign.operators[draft.operator].row is HUMAN and "response" not in draft.spec.outputs:
            path = f"responses/{draft.task_id}.json"  # where people's answers appear
            self.outputs.add(path, (draft, "response"))
            draft.outputs["response"] = ResolvedOutput(path, "response.json")

    def _name_of_a_round(self, draft: _Draft, path: str) -> str:
        """Return what is wrong with a path that names the place of another round, or of a loop."""
        first = path.split("/")[0]
        if draft.frame is not ROOT and first.isdigit():
            return f"'{path}': the folder '{first}' is that of a round"
        loop = self.campaign.tasks.get(first)
        if draft.frame is ROOT and loop is not None and loop.repeat is not None:
            return f"'{path}' is in the folder of the loop '{first}', which shows the outputs of its rounds"
        return ""

    def _output_problem(self, draft: _Draft, spec: OutputSpec, path: str, file: str, files: set[str]) -> str:
        problem = path_problem(path) or path_problem(file)
        if problem:
            return problem
        if _has_wildcard(spec.path):
            return f"'{path}' is a pattern; an output is one file, or a folder with a trailing /"
        if file.rstrip("/").split("/")[0] in RESERVED_FILES:
            return f"'{file}' is a file that MatterStack writes; use another name"
        if file.rstrip("/") in files:
            return f"two outputs of {draft.task_id} are the file '{file}'"
        other: Any = self.outputs.conflict(path)
        if other is not None:
            theirs = other[0].outputs[other[1]].path
            same = "also declares it" if theirs.rstrip("/") == path.rstrip("/") else f"declares '{theirs}'"
            cure = "; put ${{ task.label }} into the path" if other[0].spec is draft.spec else ""
            return (
                f"'{path}' of {draft.task_id}: {other[0].task_id} {same}; outputs cannot be or contain each other{cure}"
            )
        return ""

    # --- inputs and needs ---

    def _resolve_inputs(self, draft: _Draft) -> None:
        if draft.plan:
            return
        taken: set[str] = set()
        for axis, value in draft.matrix.items() if self.files_of_axes else ():
            file = self.files_of_axes.get((draft.group, axis), {}).get(value)
            if file is not None:
                draft.inputs[axis] = ResolvedInput(False, None, (file,))
                if file.task is not None:
                    draft.edges[Edge(file.task, f"inputs.{axis}")] = None
        for upstream in self._plan_edges(draft):
            draft.edges[Edge(upstream, "matrix")] = None
        scope = self.scope(draft) if draft.spec.inputs else {}
        for name, spec in draft.spec.inputs.items():
            where: Where = ("tasks", draft.spec.name, "inputs", name)
            is_list = is_pattern(spec.pattern) and not spec.external and spec.results is None
            carried = _carried(spec.pattern)
            frame = draft.frame if carried is None else ANYWHERE
            if carried is not None and carried not in draft.frame.paths and carried in draft.frame.carry:
                self._report_once(where, f"carry.{carried} is a value, no file: use it in the command")
                continue
            pattern = (
                str(draft.frame.carry.get(carried))
                if carried is not None
                else self._attempt(where, draft, render_pattern, spec.pattern, scope, escape=is_list)
            )
            if pattern is None:
                continue
            as_name = None if spec.results is None else f"{name}.csv"
            if spec.as_name is not None:
                as_name = self._attempt(where, draft, render_pattern, spec.as_name, scope, escape=False)
            if as_name is not None:
                problem = self._as_problem(as_name, is_list, taken)
                if not problem and any(as_name == item.file.rstrip("/") for item in draft.outputs.values()):
                    problem = f"'{as_name}' is an output as well; the copy would count as written"
                if problem and spec.as_name is None:
                    problem += "; set `as`"
                if problem:
                    self._report_once((*where, "as") if spec.as_name is not None else where, problem)
                    continue
            if spec.results is not None:
                self._take_results(draft, name, spec.results, as_name)
                continue
            if spec.external:
                draft.inputs[name] = self._external(where, spec, pattern, as_name)
                continue
            problem = path_problem(pattern)
            if problem:
                self.builder.add(where, problem)
                continue
            sources = self._sources(draft, pattern, spec.base, frame, is_list=is_list)
            if not sources:
                # A matrix without rows has no outputs: that is told already.
                doubts = self.builder.doubts
                known = not (doubts.outputs or doubts.files)
                if known and all(self.rows.values()) and not self.builder.has_problem(where):
                    self.builder.add(where, self._no_match(draft, pattern, is_list))
                continue
            draft.inputs[name] = ResolvedInput(is_list, as_name, tuple(sources))
            self._record(draft, name, sources)

    def _take_results(self, draft: _Draft, name: str, task: str, as_name: str | None) -> None:
        """Make the input that is a table of the results of a task; it waits until that has settled, however."""
        where: Where = ("tasks", draft.spec.name, "inputs", name, "results")
        written, task = task, self._id_of(draft.frame, task)
        known = [other for other in self.specs if other != draft.group]
        if task in known and self.specs[task][0].repeat is not None:
            self._report_once(
                where, f"'{written}' is a loop; name one of its tasks as an input, or a file below {written}/"
            )
            return
        if task not in known:
            if task not in self.builder.doubts.tasks:
                itself = "is the task itself" if task == draft.group else "is not a task"
                self._report_once(
                    where, f"'{written}' {itself}{did_you_mean(written, known)}; there are {', '.join(known)}"
                )
            return
        draft.inputs[name] = ResolvedInput(False, as_name, (Source(task, None, "", whole=True),))
        draft.edges[Edge(task, f"results.{name}")] = None
        self.matches.setdefault((draft.task_id, name), Match()).by_task[task] = len(self._members(task))

    def _external(self, where: Where, spec: InputSpec, written: str, as_name: str | None) -> ResolvedInput:
        """Return the input of a file outside of the campaign, and note that it has to be recorded."""
        path = os.path.abspath(self.place(spec.base) / os.path.expanduser(written))
        if path not in self.externals and not self.builder.has_problem(where):
            try:
                mode = os.stat(path).st_mode if "\0" not in path else 0
                usable = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
                problem = "" if usable and os.access(path, os.R_OK) else "cannot be read, or is no file or folder"
            except OSError as error:
                problem = f"cannot be found: {error.strerror}" + self._pattern_hint(written)
            if problem:
                self.builder.add(where, f"{path} {problem}")
        self.externals[path] = spec.digest or self.externals.get(path, False)
        return ResolvedInput(False, as_name, (Source(None, None, path),))

    def _pattern_hint(self, written: str) -> str:
        return "; `external` takes one path and no pattern, a folder is possible" if is_pattern(written) else ""

    def _as_problem(self, as_name: str, is_list: bool, taken: set[str]) -> str:
        if is_list:
            return "`as` names one file; the path is a pattern"
        problem = path_problem(as_name)
        if not problem and as_name.split("/")[0] in RESERVED_FILES:
            problem = f"'{as_name}' is a file that MatterStack writes; use another name"
        if not problem and as_name in taken:
            problem = f"two inputs are named '{as_name}'"
        taken.add(as_name)
        return problem

    def _record(self, draft: _Draft, name: str, sources: list[Source]) -> None:
        match = self.matches.setdefault((draft.task_id, name), Match())
        for source in sources:
            if source.task is None:
                match.files += 1
                if not self.place(source.path).is_dir():  # of a folder, all files are there already
                    self.files.add(source.path)
            elif source.match:
                match.unknown.append(source.task)
                draft.edges[Edge(source.task, f"inputs.{name}")] = None
            else:
                group = source.task if source.whole else self.by_id[source.task].group
                members = [item.task_id for item in self._members(group)] if source.whole else [source.task]
                match.by_task[group] = match.by_task.get(group, 0) + len(members)
                # A rule counts tasks: it needs an edge for each.
                whole = source.whole and draft.spec.allow_dependency_failure is None
                for upstream in [group] if whole else members:
                    draft.edges[Edge(upstream, f"inputs.{name}")] = None

    def _sources(self, draft: _Draft, pattern: str, base: str, frame: Frame, *, is_list: bool) -> list[Source]:
        """Return what a path or glob of a task means: outputs in its own frame, else of the campaign, else its files."""
        for one in (frame,) if frame is ANYWHERE else dict.fromkeys((frame, ROOT)):
            inside = f"{one.prefix}/{pattern}" if one.prefix else pattern
            found = [
                *self._outputs(draft, inside, one, is_list=is_list),
                *self._open(draft, inside, one, is_list=is_list),
            ]
            if found:
                return found
        return self._files_of(f"{base}/{pattern}" if base else pattern, is_list=is_list)

    def _outputs(self, draft: _Draft, pattern: str, frame: Frame, *, is_list: bool) -> list[Source]:
        if not is_list:
            return self._outputs_for(draft, pattern, frame, is_list=False)
        key = (frame.prefix, pattern, draft.frame.prefix)
        if key not in self._shared:
            found = self._outputs_for(None, pattern, frame, is_list=True)
            self._shared[key] = self._in_short(found), {str(source.task) for source in found}
        sources, tasks = self._shared[key]
        # What matches outputs of the task itself means all the others.
        mine = draft.task_id in tasks or (draft.plan and any(self.by_id[name].group == draft.group for name in tasks))
        return self._outputs_for(draft, pattern, frame, is_list=True) if mine else sources

    def _in_short(self, sources: list[Source]) -> list[Source]:
        """Return sources in which an output of all instances of a task is one."""
        out: list[Source] = []
        for (group, output, path), items in itertools.groupby(
            sources, lambda s: (self.by_id[s.task].group if s.task and not s.whole else s.task, s.output, s.path)
        ):
            run = list(items)
            whole = group is not None and len(run) > 1 and len(run) == len(self._members(group))
            out += [Source(group, output, path, whole=True)] if whole else run
        return out

    def _outputs_for(self, draft: _Draft | None, pattern: str, frame: Frame, *, is_list: bool) -> list[Source]:
        if is_list:
            found: list[tuple[Any, str]] = list(dict.fromkeys(self.outputs.glob(pattern)))  # `**/**` meets some twice
        else:
            single: Any = self.outputs.find(pattern)
            found = [single] if single is not None else []
        found = [
            (owner, rest)
            for owner, rest in found
            if owner[0] is not draft and (owner[0].frame is frame or frame is ANYWHERE)
        ]
        # Which outputs a group has is not known to others before their time: those count by `_open`.
        found = [
            (owner, rest)
            for owner, rest in found
            if not owner[0].spec.late or (not is_list and draft is not None and draft.spec.late)
        ]
        if draft is not None and draft.plan:
            found = [(owner, rest) for owner, rest in found if owner[0].group != draft.group]
        # `**` may match nothing: then it is the file itself; of a folder it is all that lies in it.
        found = [
            (owner, "" if rest == "**" and not owner[0].outputs[owner[1]].is_folder else rest) for owner, rest in found
        ]
        # What lies inside a folder output is not known yet: that counts only where no declared path matches itself.
        found = [item for item in found if item[1] in ("", "**")] or [
            (owner, rest) for owner, rest in found if owner[0].outputs[owner[1]].is_folder
        ]
        found.sort(key=lambda item: (item[0][0].position, list(item[0][0].outputs).index(item[0][1])))
        return [Source(owner[0].task_id, owner[1], rest) for owner, rest in found]

    def _open(self, draft: _Draft, pattern: str, frame: Frame, *, is_list: bool) -> list[Source]:
        """Return the groups and loops some of whose outputs may match, which cannot be told before they are known."""
        out = []
        for group, (spec, home) in self.specs.items() if self.campaign.has_unknown else ():
            if home is not (ROOT if frame is ANYWHERE else frame) or group == draft.group or not spec.is_unknown:
                continue
            prefix = f"{home.prefix}/" if home.prefix else ""
            if spec.repeat is not None:
                if spec.name != draft.frame.loop:
                    out += [Source(row, "*", "", True, pattern) for row in self._rows_of_loop(group, spec, pattern)]
            elif not (draft.spec.late and not is_list and self._is_known(group, spec)):
                paths = (prefix + declared(output.path) for output in spec.outputs.values())
                if any(can_match(pattern, path) for path in paths):
                    out.append(Source(group, "*", "", True, pattern))
        return out

    def _rows_of_loop(self, group: str, spec: TaskSpec, pattern: str) -> list[str]:
        """Return the instances of a loop that a pattern may match outputs of; the loop if these are not known."""
        body = [other for other in self.campaign.tasks.values() if other.loop == spec.name]
        paths = [declared(output.path) for other in body for output in other.outputs.values()]
        rows = [draft.task_id for draft in self._members(group)]
        places = {row: (f"{row}/", f"{row}/{HOLE}/") for row in rows}
        if spec.late:
            places = {group: (f"{group}/{HOLE}/", f"{group}/{HOLE}/{HOLE}/")}
        return [
            row
            for row, prefixes in places.items()
            if any(can_match(pattern, prefix + path) for prefix in prefixes for path in paths)
            and not _is_beyond(row, spec, pattern)
        ]

    def _files_of(self, pattern: str, *, is_list: bool) -> list[Source]:
        if is_list:
            return [Source(None, None, path) for path in self._glob(pattern)]
        path = self.place(pattern)
        try:
            if path.is_dir():
                self.files.update(self._glob(pattern))
                return [Source(None, None, pattern.rstrip("/"))] if self._glob(pattern) else []
            return [Source(None, None, pattern)] if path.is_file() else []
        except OSError:
            return []

    def _resolve_plan(self, draft: _Draft) -> None:
        """Find what must be done before the instances of a group are known."""
        spec = draft.spec
        assert spec.matrix is not None
        for axis in spec.late:
            values, where = spec.matrix[axis], ("tasks", spec.name, "matrix", axis)
            path = values if axis == "table" else values.get("files") if isinstance(values, Mapping) else None
            if path is None:
                for reference in references(values):
                    if reference[0] in ("response", "metrics") and len(reference) > 1:
                        self._wait_for_value(draft, draft.frame, (reference[0], reference[1]), where)
                continue
            is_list = axis != "table" and is_pattern(path)
            problem = path_problem(path)
            if not problem and axis == "table" and Path(path).suffix.lower() not in KINDS_OF_TABLES:
                problem = f"'{path}' is not a kind of table ({', '.join(KINDS_OF_TABLES)})"
            if not problem and axis in spec.inputs:
                problem = f"inputs.{axis} is the file of this axis; rename the input" if axis != "table" else ""
            sources = [] if problem else self._sources(draft, path, "", draft.frame, is_list=is_list)
            if not problem and not any(source.task for source in sources):
                problem = self._no_match(draft, path, is_list)
            if problem:
                self.builder.add(where, problem)
                continue
            draft.inputs[axis] = ResolvedInput(is_list or axis != "table", None, tuple(sources))
            for source in sources:
                upstream = str(source.task)
                draft.edges[Edge(upstream, f"inputs.{axis}")] = None

    def _wait_for_value(self, draft: _Draft, frame: Frame, name: tuple[str, str], where: Where) -> None:
        """Make the edge to the one task whose answer or metric decides how many instances there are."""
        root, task = name
        upstream = self._id_of(frame, task)
        found = self.specs.get(upstream)
        if found is None or not self.builder.may_give(root, found[0].name):
            return  # told where the name stands
        if found[0].matrix is not None:
            self._report_once(where, f"{root}.{task} is of many instances; an axis takes the values of one task")
            return
        draft.edges[Edge(upstream, f"{root}.{task}")] = None

    def _plan_edges(self, draft: _Draft) -> list[str]:
        """Return what decided that an instance is there: if that runs again, the instance waits."""
        plan = self.by_id.get(draft.group) if draft.spec.late else None
        return list(dict.fromkeys(edge.upstream for edge in plan.edges)) if plan is not None else []

    def _loops(self) -> list[_Draft]:
        if not self.campaign.has_unknown:
            return []
        return [draft for draft in self.drafts if draft.plan == "loop"]

    def _id_of(self, frame: Frame, name: str) -> str:
        """Return the id of the task or group that a name means for tasks of a frame."""
        own = f"{frame.prefix}/{name}" if frame.prefix else name
        return own if own in self.specs else name

    def _glob(self, pattern: str) -> list[str]:
        if pattern not in self._globbed:
            unreadable: dict[str, str] = {}
            found = glob_files(self.folder, pattern, unreadable, self.campaign.outside)
            for path, why in unreadable.items():
                self.builder.add(("files",), f"'{pattern}' selects {path}, which cannot be read: {why}; move it away")
            strange = [path for path in found if not _is_utf8(path)]
            if strange:
                name = strange[0].encode(errors="backslashreplace").decode()
                self.builder.add(("files",), f"the name of {name} is not UTF-8; rename the file")
            only = self._only_files
            self._globbed[pattern] = [path for path in found if _is_utf8(path) and (only is None or path in only)]
        return self._globbed[pattern]

    def _near(self, name: str, known: Iterable[str]) -> str:
        """Return a suggestion; only for the first mistakes, since each costs a look at all names."""
        self._suggestions += 1
        return did_you_mean(name, itertools.islice(known, 2000)) if self._suggestions <= _MOST_SUGGESTIONS else ""

    def _no_match(self, draft: _Draft, pattern: str, is_list: bool) -> str:
        if any(output.path == pattern for output in draft.outputs.values()):
            return f"'{pattern}' is an output of {draft.task_id} itself; a task cannot wait for its own output"
        paths = (output.path for draft in self.drafts for output in draft.outputs.values())
        if is_list and "/" in pattern and not WILDCARD.search(pattern.rpartition("/")[0]):
            paths = (f"{path.rpartition('/')[0]}/{pattern.rpartition('/')[2]}" for path in paths if "/" in path)
        near = self._near(pattern, paths)
        for loop in self._loops():
            if _is_beyond(loop.task_id, loop.spec, pattern):
                most = loop.spec.repeat.max if loop.spec.repeat is not None else 0
                return f"'{pattern}': {loop.task_id} has the rounds 1 to {most} (`repeat.max`)"
        if pattern.startswith("results/"):
            near = f" (paths are below results/: write {pattern.removeprefix('results/')})"
        if is_list:
            return f"'{pattern}' matches no declared output and no file of the campaign folder{near}"
        return f"'{pattern}' is neither a declared output nor a file of the campaign folder{near}"

    def _resolve_needs(self, draft: _Draft) -> None:
        if draft.plan == "group":
            return
        for index, need in enumerate(draft.spec.needs):
            where: Where = ("tasks", draft.spec.name, "needs", index)
            pattern = self._attempt(where, draft, render_pattern_of_id, need, self.scope(draft))
            if pattern is None:
                continue
            found: list[Any] = []
            groups: list[str] = []
            for frame in dict.fromkeys((draft.frame, ROOT)):
                inside = f"{frame.prefix}/{pattern}" if frame.prefix else pattern
                found, groups = self._needed(draft, frame, inside, is_glob=is_pattern(need))
                if found or groups:
                    break
            draft.edges |= {Edge(name, f"needs[{index}]"): None for name in groups}
            if not found and not groups and self.rows.get(pattern.split("/")[0]) == []:
                continue  # its matrix has a problem of its own
            doubts = self.builder.doubts
            named = pattern.split("/")[0] in doubts.tasks or (doubts.tasks and is_pattern(need))
            if named or (doubts.outputs and "/" in pattern):  # it may name what was taken out
                continue
            if not found and not groups and not self.builder.has_problem(where):
                names = [d.task_id for d in self.drafts if d.frame is ROOT or d.frame is draft.frame]
                known = (
                    name.removeprefix(f"{draft.frame.prefix}/")
                    for name in (*self.specs, *names)
                    if name != draft.task_id and self.specs.get(name, (None, ROOT))[1] in (ROOT, draft.frame)
                )
                if is_pattern(need) and any(rest == "" for _, rest in self.ids.glob(pattern)):
                    self.builder.add(where, f"'{pattern}' matches nothing but {draft.task_id} itself")
                else:
                    self.builder.add(where, f"'{pattern}' is not defined{self._near(pattern, known)}")
            for other in sorted(found, key=lambda d: d.position):
                draft.edges[Edge(other.task_id, f"needs[{index}]")] = None
        rule = draft.spec.allow_dependency_failure
        most = len({edge.upstream for edge in draft.edges})
        where = ("tasks", draft.spec.name, "allow_dependency_failure")
        if (
            rule is not None
            and (rule.min_count or 0) > most
            and not any(p.severity == "error" for p in self.builder.problems)
        ):
            self._report_once(
                where, f"needs at least {rule.min_count} completed tasks, but {draft.task_id} depends on only {most}"
            )

    def _needed(self, draft: _Draft, frame: Frame, pattern: str, *, is_glob: bool) -> tuple[list[_Draft], list[str]]:
        """Return the instances, and the groups as a whole, that an entry of `needs` names in a frame."""
        expand = draft.spec.allow_dependency_failure is not None
        spec, home = self.specs.get(pattern, (None, None))
        if spec is not None and home is frame and spec.matrix is not None:
            if not expand or spec.late:
                return [], [pattern]
            pattern = f"{pattern}/*"
        owners: list[Any] = [owner for owner, rest in self.ids.glob(pattern) if not rest]
        owners += [
            other
            for other in self._loops()
            if other.task_id == pattern or (is_glob and names_task(pattern, other.task_id))
        ]
        found = [owner for owner in owners if owner.frame is frame and owner.plan != "group" and not owner.spec.late]
        groups: list[str] = []
        for name, (other, place) in self.specs.items() if is_glob or self.campaign.has_unknown else ():
            if place is not frame or name == draft.group or other.matrix is None:
                continue
            if other.late:  # which instances it has is not known: all are waited for
                groups += [name] if names_task(name, pattern) or (is_glob and names_task(pattern, name)) else []
            elif is_glob and names_task(pattern, name):
                if expand:
                    found += self._members(name)
                else:
                    groups.append(name)
        return [other for other in found if not is_glob or other is not draft], groups

    # --- answers and metrics ---

    def _resolve_answers(self, spec: TaskSpec, frame: Frame, members: Sequence[_Draft]) -> None:
        """Make the edges that `response.TASK` and `metrics.TASK` imply: to the instance of equal axis values."""
        for (root, name), keys in self.named[spec.name].items():
            task = self._id_of(frame, name)
            other = self.specs[task][0] if task in self.specs else None
            if self.builder.doubts.outputs or other is None:
                continue  # told already, where the name stands
            where: Where = ("tasks", spec.name, keys[0])
            if other is spec:
                message = f"within the loop its tasks are named by themselves: {root}.TASK, not {root}.{name}.TASK"
                self._report_once(where, message)
                continue
            if other.repeat is not None:
                self._wait_for_loop(root, name, other, where, members)
                continue
            if other.late and not self._is_known(task, other):
                if not spec.late:
                    self._report_once(
                        where, f"{root}.{name} must be of one instance; those of {name} are not known yet"
                    )
                continue
            if not self.rows.get(task) or not self.builder.may_give(root, other.name):
                continue
            for draft in members:
                found = self._with_equal_values(task, draft)
                if len(found) != 1:
                    shared = [axis for axis in self.rows[task][0] if axis in draft.matrix]
                    has = f"{len(found)} instances with equal {', '.join(shared)}" if shared else "no axis in common"
                    message = f"{root}.{name} must be of one instance: {name} has {has}, seen from {draft.task_id}"
                    self._report_once(where, message)
                    break
                draft.edges[Edge(found[0], f"{root}.{name}")] = None

    def _wait_for_loop(self, root: str, name: str, loop: TaskSpec, where: Where, members: Sequence[_Draft]) -> None:
        """Make the edges to a loop of whose last round a value is taken: with axes, of the row of equal values."""
        if loop.late:
            self._report_once(where, f"{root}.{name} must be of one loop; those of {name} are not known yet")
            return
        for draft in members:
            found = self._with_equal_values(name, draft)
            if len(found) != 1:
                message = f"{root}.{name} must be of one loop: {name} has {len(found)}, seen from {draft.task_id}"
                self._report_once(where, message)
                break
            draft.edges[Edge(found[0], f"{root}.{name}")] = None

    def _with_equal_values(self, task: str, draft: _Draft) -> list[str]:
        """Return the instances of a task whose values of the common axes are those of ``draft``."""
        shared = tuple(axis for axis in self.rows[task][0] if axis in draft.matrix)
        index = self._by_values.get((task, shared))
        if index is None:
            index = self._by_values[task, shared] = {}
            for other in self._members(task):
                index.setdefault(tuple(_comparable(other.matrix[axis]) for axis in shared), []).append(other.task_id)
        return index.get(tuple(_comparable(draft.matrix[axis]) for axis in shared), [])

    def _members(self, task: str) -> list[_Draft]:
        if not self._drafts_of:
            for draft in self.drafts:
                if draft.plan != "group":
                    self._drafts_of.setdefault(draft.group, []).append(draft)
        return self._drafts_of.get(task, [])

    # --- files and the whole ---

    def _take_files(self, pattern: str, where: Where) -> None:
        problem = path_problem(pattern)
        if not problem and is_template(pattern):
            problem = "templates cannot be used here"
        found = [] if problem else self._glob(pattern)
        if not problem and not found:
            problem = f"'{pattern}' matches no file of {self.folder}"
        if problem:
            self.builder.add(where, problem)
        self.files.update(found)

    def _check_source_paths(self) -> None:
        """Report literal paths after `${{ source }}/` that neither `files` nor an input brings."""
        folders = {parent for file in self.files for parent in _parents(file)}
        for name, operator in self.campaign.operators.items():
            for index, line in enumerate(operator.setup):
                self._check_source_path(("operators", name, "setup", index), line, folders)
            for variable, value in operator.env.items():
                self._check_source_path(("operators", name, "env", variable), value, folders)
        for spec in self.campaign.tasks.values():
            texts = [spec.command] if isinstance(spec.command, str) else list(spec.command or ())
            for text in texts:
                self._check_source_path(("tasks", spec.name, "command"), text, folders)
            for variable, value in spec.env.items():
                self._check_source_path(("tasks", spec.name, "env", variable), value, folders)
            inherited = self.builder.lines_from_defaults(spec.name, len(spec.setup))
            for index, text in enumerate(spec.setup):
                own = ("tasks", spec.name, "setup", index - inherited)
                self._check_source_path(own if index >= inherited else ("defaults", "setup", index), text, folders)
            self._warn_of_bare_paths(spec, texts)
            self._check_uses(spec)

    def _check_uses(self, spec: TaskSpec) -> None:
        for index, pattern in enumerate(spec.uses):
            if not self.builder.doubts.files and not any(names_task(pattern, path) for path in self.files):
                near = did_you_mean(pattern, self.files)
                message = f"'{pattern}' matches no file that `files` brings{near}; name it there too"
                self.builder.add(("tasks", spec.name, "uses", index), message)

    def _check_source_path(self, where: Where, text: Any, folders: set[str]) -> None:
        for path in _source_paths(text) if isinstance(text, str) and not self.builder.doubts.files else ():
            if path not in self.files and path not in folders:
                exists = self.place(path).exists()
                what = "is not in `files`; add it" if exists else "does not exist in the campaign folder"
                self.builder.add(where, f"source/{path} {what}{did_you_mean(path, self.files)}")

    def _warn_of_bare_paths(self, spec: TaskSpec, texts: list[str]) -> None:
        """Warn of a file of the campaign folder that a command names without `${{ source }}`: it will not be there."""
        own = {item.as_name for item in spec.inputs.values()} | {
            item.file or item.path for item in spec.outputs.values()
        }
        own |= {f"{name}.csv" for name, item in spec.inputs.items() if item.results}
        for text in texts:
            literal = "".join(part if isinstance(part, str) else "\0" for part in parse(text))
            for word in re.findall(r"(?<![\w\0/.$-])[\w.-]+(?:/[\w.-]+)*\.\w+(?![\w\0/])", literal):
                made = f"/{word}" in literal or re.search(rf">\s*{re.escape(word)}", literal)
                if word not in own and not made and (self.folder / word).is_file():
                    cure = f"write ${{{{ source }}}}/{word}, and name it in `files`"
                    message = f"{word} is a file of the campaign folder, where the command does not run ({cure})"
                    self.builder.add(("tasks", spec.name, "command"), message, severity="warning")

    def _finish(self) -> Expansion:
        everything = [(draft, draft.finish()) for draft in self.drafts]
        instances = [item for draft, item in everything if draft.frame is ROOT or draft.frame.row in self.rounds]
        samples = [item for draft, item in everything if draft.frame is not ROOT and draft.frame.row not in self.rounds]
        names = {name for name, (spec, _) in self.specs.items() if spec.matrix is not None}
        group_nodes = frozenset(
            edge.upstream for _, item in everything for edge in item.edges if edge.upstream in names
        )
        graph = task_graph([*instances, *samples], group_nodes)
        graph.add_edges_from((draft.task_id, draft.frame.row) for draft in self.drafts if draft.frame is not ROOT)
        for cycle in find_cycles(graph):
            self._report_cycle(cycle)
        if samples:
            graph = task_graph(instances, {name for name in group_nodes if self.specs[name][1] is ROOT})
        return Expansion(
            instances,
            tuple(sorted(self.files)),
            graph,
            group_nodes,
            self.matches,
            self.named,
            self.labels,
            self.externals,
            samples,
        )

    def _report_cycle(self, cycle: list[str]) -> None:
        first = min(range(len(cycle)), key=lambda index: cycle[index])
        ordered = cycle[first:] + cycle[:first]
        path = " -> ".join([*ordered, ordered[0]]) if len(ordered) <= 12 else " -> ".join(ordered[:12]) + " -> …"
        first_of = self.by_id.get(ordered[0])
        name = first_of.spec.name if first_of is not None else self.specs[ordered[0]][0].name
        self.builder.add(("tasks", name), f"a cycle: {path}", at_key=True)


@dataclass(eq=False)
class _Draft:
    spec: TaskSpec
    task_id: str
    label: str
    matrix: Mapping[str, Any]
    position: int
    group: str
    frame: Frame
    plan: str = ""  # as in `Instance`
    operator: str = "local"
    priority: int = 0
    inputs: dict[str, ResolvedInput] = field(default_factory=dict)
    outputs: dict[str, ResolvedOutput] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)

    def finish(self) -> Instance:
        return filled(Instance, (
            self.task_id, self.group, self.label, self.matrix, self.operator, self.priority,
            self.inputs, self.outputs, tuple(self.edges), self.plan, self.frame.given, "",
        ))  # fmt: skip


def task_graph(instances: Iterable[Instance], group_nodes: Iterable[str]) -> Graph:
    """Return the graph of instances; a group that something needs as a whole is a node behind its members."""
    groups = set(group_nodes)
    edges: list[tuple[str, str]] = []
    nodes = []
    for instance in instances:
        nodes.append(instance.task_id)
        edges += [(edge.upstream, instance.task_id) for edge in instance.edges]
        if instance.group in groups and instance.task_id != instance.group:
            edges.append((instance.task_id, instance.group))
    return build(edges, nodes)


@functools.cache
def _has_wildcard(template: str) -> bool:
    """Return whether there is a wildcard in a path, not counting the values that it gets."""
    return bool(WILDCARD.search("".join(part for part in parse(template) if isinstance(part, str))))


def _is_beyond(row: str, spec: TaskSpec, pattern: str) -> bool:
    """Return whether a path names a round that a loop cannot have."""
    number = pattern.removeprefix(f"{row}/").partition("/")[0]
    is_round = pattern.startswith(f"{row}/") and number.isdecimal() and len(number) < 10
    return is_round and spec.repeat is not None and not 1 <= int(number) <= spec.repeat.max


UNKNOWN = "?"  # a value that is not known before the run


def _carried(pattern: str) -> str | None:
    """Return the name of what a round is given, if that is the whole input."""
    hole = whole(pattern)
    names = list(references(pattern)) if hole is not None else []
    return names[0][1] if len(names) == 1 and names[0][0] == "carry" and len(names[0]) == 2 else None


def is_pattern(text: str) -> bool:
    """Return whether a path has wildcards of its own; values put into it do not count."""
    if "${{" not in text:
        return WILDCARD.search(text) is not None
    return any(isinstance(part, str) and WILDCARD.search(part) for part in parse(text))


def render_pattern_of_id(text: str, scope: Mapping[str, Any]) -> str:
    """Resolve an entry of `needs`; a value becomes part of a label, so it is made safe as labels are."""
    if "${{" not in text:
        return text
    parts = (part if isinstance(part, str) else _safe(render_text(part.source, scope)) for part in parse(text))
    group, slash, label = "".join(parts).partition("/")
    return f"{group}{slash}_{label[1:]}" if label[:1] in (".", "-") else f"{group}{slash}{label}"


def _source_paths(text: str) -> Iterable[str]:
    parts = parse(text) if "${{" in text else ()
    for index, part in enumerate(parts):
        if isinstance(part, Hole) and part.expression == Name("source") and index + 1 < len(parts):
            following = parts[index + 1]
            match = _LITERAL_PATH.match(following) if isinstance(following, str) else None
            if match is None or not isinstance(following, str):
                continue
            if match.end() == len(following) and index + 2 < len(parts):
                continue  # another template follows: the path is not literal
            path = match[1].rstrip("/.,")
            if path:
                yield path


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rsplit("/", 1)[0]
        yield path


def _comparable(value: Any) -> Any:
    """Return what is equal for equal values of an axis: 1 and 1.0 are, "1" and 1 are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else dump_json(value)
    return float(value)


def _same(left: Any, right: Any) -> bool:
    if left == right:
        return True
    try:
        return as_text(left) == as_text(right)
    except ValueError:
        return False


def _row_text(row: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}"
