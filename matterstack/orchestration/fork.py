"""A run that begins with results of another: what its instances may take over, and how that is brought into it.

An instance takes the result of an attempt that was asked for the same work, and was given the same inputs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matterstack.core.events import Reused, TasksChanged
from matterstack.core.model import Edge, Instance, LoadedCampaign
from matterstack.core.recorded import TaskRow
from matterstack.core.states import TaskState
from matterstack.core.values import encode_json
from matterstack.deferred import dataclass
from matterstack.errors import RunRootError, UsageError
from matterstack.orchestration.comparison import made_again
from matterstack.orchestration.session import open_ledger
from matterstack.orchestration.step import Step
from matterstack.run_root.files import sha256_of
from matterstack.run_root.layout import METRICS, RESPONSE, RESULT, TASK, attempt_folder, require_run_root
from matterstack.run_root.reflink import copy_file, copy_with_digest
from matterstack.run_root.results import publish
from matterstack.run_root.source import record_externals
from matterstack.run_root.verify import changed_digest, make_read_only, stamp_of
from matterstack.spec.grow import may_read
from matterstack.storage.apply import row_of
from matterstack.storage.expanded import write_expanded
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.template.work import Works, digests_of, members_of, with_modes

Key = tuple[str, int]
_KEPT = (TASK, METRICS, RESPONSE, RESULT)
_INPUTS = ("inputs.", "response.", "metrics.")  # entries of edges through which something is read


@dataclass(frozen=True)
class Result:
    """A successful attempt of another run."""

    task_id: str
    attempt: int
    # name -> (path, file, bytes, sha256, stamp, whether it was temporary and was removed)
    outputs: Mapping[str, tuple[str, str, int | None, str | None, str | None, int]]
    row: Mapping[str, Any]  # metrics, response, usage, started_at, ended_at, exit_code

    @property
    def content(self) -> Any:
        """What others read of it: digests, metrics, answer."""
        return {name: item[3] for name, item in self.outputs.items()}, self.row["metrics"], self.row["response"]


@dataclass(frozen=True)
class Fork:
    """What a new run takes over from another one."""

    root: Path  # of the other
    run_id: str
    results: dict[str, Result]  # instance -> what it takes; `bring_what_results_make` adds those that results make
    answers: tuple[tuple[str, str, str], ...]  # of people: (instance, who, when)
    counts: Mapping[str, tuple[int, int]]  # task -> (instances that are taken over, all)


def plan_fork(loaded: LoadedCampaign, root: str | Path) -> Fork:
    """Return what a campaign could take over from a run; nothing is written. Raises UsageError if that is no run root."""
    path = require_run_root(Path(root))
    try:
        files = with_modes(loaded.place, {name: sha256_of(loaded.place(name)) for name in loaded.files})
        externals = digests_of(record_externals(loaded.externals))
    except OSError as error:
        raise RunRootError(f"{error.filename}: cannot be read: {error.strerror}") from None
    works = Works(loaded.campaign, {**files, **externals}, members_of(loaded.instances))
    with open_ledger(path, read_only=True) as store, store.snapshot():
        results = _Results(path, store)
        members = members_of(loaded.instances)
        needed: set[str] = set()  # what was removed of these is read by an instance that is to be computed
        while True:
            found: dict[str, Result] = {}
            for item in _upstream_first(loaded.instances, members):
                if item.task_id in needed:
                    continue
                row = row_of(item, TaskState.PENDING)
                candidate = results.for_work(works.digest(row, item), item.task_id)
                if candidate is not None and results.read_the_same(candidate, item, found, members):
                    found[item.task_id] = candidate
            more = set(_removed_and_read(loaded.instances, found, members))
            if not more:
                break
            needed |= more
        run_id = store.run().run_id
    counts = {task: (sum(name in found for name in names), len(names)) for task, names in members.items()}
    answers = tuple(
        (name, str(answer.get("by", "somebody")), str(answer.get("at", "")))
        for name in (item.task_id for item in loaded.instances if item.task_id in found)
        if (answer := json.loads(found[name].row["response"] or "{}"))
    )
    return Fork(
        path,
        run_id,
        {name: found[name] for item in loaded.instances if (name := item.task_id) in found},
        answers,
        counts,
    )


def _removed_and_read(
    instances: Iterable[Instance], found: Mapping[str, Result], members: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield what is taken over without an output that was removed and that an instance which is to be computed reads.

    Also where the new campaign says that the output is to be kept.
    """
    removed = {(name, output) for name, result in found.items() for output, item in result.outputs.items() if item[5]}
    if not removed:
        return
    for item in instances:
        if item.task_id in found:
            kept = (name for name, output in item.outputs.items() if not output.temporary)
            if any((item.task_id, name) in removed for name in kept):
                yield item.task_id
            continue
        for source in (source for given in item.inputs.values() for source in given.sources):
            for name in members.get(source.task or "", (source.task or "",)):
                if (name, source.output) in removed:
                    yield name


class _Results:
    """The newest successful attempts of a run, those of instances that are RETIRED as well."""

    def __init__(self, root: Path, store: SQLiteStateStore) -> None:
        self.root = root
        self.store = store
        self.by_work: dict[str, list[Result]] = {}
        self.by_key: dict[Key, Result] = {}
        self.read: dict[Key, dict[str, int]] = {}
        for work, result in store.results():
            self.by_key[result[0], result[1]] = found = Result(*result)
            if work:
                self.by_work.setdefault(work, []).append(found)
        for task_id, attempt, upstream, number in store.all_reads():
            self.read.setdefault((task_id, attempt), {})[upstream] = number

    def for_work(self, work: str, task_id: str) -> Result | None:
        """Return a result of this work whose files are still what they were; of the instance of this name if it has one."""
        found = sorted(self.by_work.get(work, ()), key=lambda item: item.task_id != task_id)
        return next((item for item in found if self._is_whole(item)), None)

    def _is_whole(self, result: Result) -> bool:
        folder = f"{self.root}/{attempt_folder(result.task_id, result.attempt)}"
        try:
            for _, file, _, digest, stamp, removed in result.outputs.values():
                if removed:
                    continue
                there = f"{folder}/{file.rstrip('/')}"
                if digest is None or changed_digest(there, digest, stamp) is not None:
                    return False
        except OSError:  # also of one that is gone
            return False
        return os.path.isfile(f"{folder}/{TASK}")

    def read_the_same(
        self, result: Result, item: Instance, found: Mapping[str, Result], members: Mapping[str, Sequence[str]]
    ) -> bool:
        """Return whether an attempt was given what an instance would be given of the results that are taken over."""
        read = self.read.get((result.task_id, result.attempt), {})
        above = {edge.upstream for edge in item.edges if edge.entry.startswith(_INPUTS)}
        names = {name for upstream in above for name in members.get(upstream, (upstream,))}
        for name in names:
            mine = found.get(name)
            number = read.get(name, read.get(name.rpartition("/")[0]))
            if mine is None or number is None:
                return False
            theirs = self.by_key.get((name, number))
            if theirs is None or theirs.content != mine.content:
                return False
        return True


def _upstream_first(instances: Sequence[Instance], members: Mapping[str, Sequence[str]]) -> Iterator[Instance]:
    """Yield instances, each after all that it reads or waits for."""
    by_id = {item.task_id: item for item in instances}
    done: set[str] = set()
    for first in instances:
        stack = [first.task_id]
        while stack:
            name = stack[-1]
            if name in done:
                stack.pop()
                continue
            above = {one for edge in by_id[name].edges for one in members.get(edge.upstream, (edge.upstream,))}
            open_ = [one for one in above if one not in done and one in by_id]
            if open_:
                stack += open_
                continue
            done.add(name)
            stack.pop()
            yield by_id[name]


def bring(fork: Fork, folder: Path) -> str:
    """Copy what is taken over into a run root that is being made; return the lines of the file that `Reused` names.

    Raises OSError, and UsageError for a result that was changed meanwhile.
    """
    return _bring(fork, fork.results, folder)


def bring_what_results_make(fork: Fork, folder: Path, store: SQLiteStateStore) -> None:
    """Take results over for groups and rounds as well, one after the other as those before make them known.

    Nothing is started: the step that makes them may start no task. Raises what `bring` does.
    """
    with open_ledger(fork.root, read_only=True) as other, other.snapshot():
        results = _Results(fork.root, other)
        seen: set[str] = set()
        while True:
            step = Step(folder, store, only=frozenset)
            step.take()
            rows = [row for row in store.tasks() if row.state is TaskState.READY and row.plan is None]
            found = _found_for((row for row in rows if row.task_id not in seen), store, results, fork.results)
            if not found:
                _make_removed_again(store, step.now)
                return
            seen |= {row.task_id for row in rows}
            lines = write_expanded(folder, _bring(fork, found, folder))
            watching = tuple(row.task_id for row in store.tasks() if row.watch in found)
            again = [TasksChanged(watching, TaskState.PENDING)] if watching else []
            store.append([Reused(fork.run_id, lines, len(found)), *again], step.now)
            for task_id in found:
                publish(folder, task_id, 1, store.published_files(task_id), ())
            fork.results.update(found)


def _make_removed_again(store: SQLiteStateStore, now: float) -> None:
    """Let what was taken over without a temporary output run again, if what is to be computed reads it, or may read it."""
    removed = store.removed_outputs()
    open_ = [row for row in store.tasks() if row.state in (TaskState.PENDING, TaskState.READY)] if removed else []
    again = made_again((row.task_id for row in open_ if row.plan is None), store.outputs_read, removed)
    if removed and store.has_open_plans():
        campaign = store.newest_campaign()
        later = [spec for spec in campaign.tasks.values() if spec.is_unknown or spec.loop]
        patterns = [item.pattern for spec in later for item in spec.inputs.values()]
        names = {name for tasks in removed.values() for name in tasks}
        again |= {row.task_id for row in store.tasks(names) if may_read(patterns, campaign.tasks[row.group])}
        again |= made_again(again, store.outputs_read, removed)
    if again:
        waiting = tuple(row.task_id for row in open_ if row.task_id not in again)
        events = [TasksChanged(tasks, TaskState.PENDING) for tasks in (tuple(sorted(again)), waiting) if tasks]
        store.append(events, now)


def _found_for(
    rows: Iterable[TaskRow], store: SQLiteStateStore, results: _Results, taken: Mapping[str, Result]
) -> dict[str, Result]:
    """Return the results for instances of which all that they read is there."""
    new = {row.task_id: row for row in rows}
    entries = store.entries(new)
    members: dict[str, list[str]] = {}
    for row in store.tasks():
        if row.plan is None:
            members.setdefault(row.group, []).append(row.task_id)
    items = [
        replace(store.instance(name), edges=tuple(Edge(upstream, entry) for entry, upstream in entries[name]))
        for name in new
    ]
    found: dict[str, Result] = {}
    for item in _upstream_first(items, members):
        candidate = results.for_work(item.work, item.task_id)
        is_whole = candidate is not None and not any(output[5] for output in candidate.outputs.values())
        if candidate is None or not is_whole:  # what was removed is made anew
            continue
        if results.read_the_same(candidate, item, {**taken, **found}, members):
            found[item.task_id] = candidate
    return found


def _bring(fork: Fork, results: Mapping[str, Result], folder: Path) -> str:
    lines = []
    for name, result in results.items():
        origin = f"{fork.root}/{attempt_folder(result.task_id, result.attempt)}"
        target = f"{folder}/{attempt_folder(name, 1)}"
        try:
            os.mkdir(os.path.dirname(target))
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target))
        os.mkdir(target)
        there = set(os.listdir(origin))
        for kept in _KEPT:
            if kept in there:
                copy_file(f"{origin}/{kept}", f"{target}/{kept}")
        outputs = []
        for output, (path, file, size, digest, _, removed) in result.outputs.items():
            if removed:
                outputs.append([output, path, file, size, digest, None, 1])
                continue
            made, copy = f"{origin}/{file.rstrip('/')}", f"{target}/{file.rstrip('/')}"
            if "/" in file.rstrip("/"):
                os.makedirs(os.path.dirname(copy), exist_ok=True)
            if os.path.isdir(made):
                shutil.copytree(made, copy, copy_function=copy_file)
                now = changed_digest(copy, str(digest), None) or digest
            else:
                now = sha256_of(copy) if os.path.exists(copy) else copy_with_digest(made, copy)
            if now != digest:
                raise UsageError(
                    f"{made} is not what {result.task_id} made; `doctor` says more; without --from it is computed"
                )
            make_read_only(copy)
            outputs.append([output, path, file, size, digest, stamp_of(copy), 0])
        row = {**result.row, "run": fork.run_id, "task": result.task_id, "attempt": result.attempt}
        lines.append(encode_json([name, row, outputs]))
    return "".join(f"{line}\n" for line in lines)


def in_words(fork: Fork) -> Iterable[str]:
    """Yield what a new run takes over, for people."""
    for task, (taken, total) in fork.counts.items():
        rest = f"; {total - taken} new" if total > taken else ""
        yield f"  {task}: {taken} of {total} reused{rest}"
    for name, who, at in fork.answers:
        yield f"  {name}: the answer of {who} at {at[:16].replace('T', ' ')} is taken over"
