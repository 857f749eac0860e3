"""What is read from the ledger. Every statement looks rows up by an index that what changed, or what is live, bounds."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from matterstack.core.board import Published
from matterstack.core.limits import Limits, Spent
from matterstack.core.model import (
    ABSENT,
    Campaign,
    Instance,
    OperatorSpec,
    OutputFile,
    ResolvedOutput,
    TaskSpec,
    campaign_from_json,
    operators_from_json,
)
from matterstack.core.readiness import GroupSummary, TaskStanding
from matterstack.core.recorded import AsAsked, AttemptRow, Bucket, RunRow, TaskRow
from matterstack.core.states import FailureClass, TaskState
from matterstack.core.times import from_text
from matterstack.core.values import load_json
from matterstack.storage.rows import (
    ATTEMPT_COLUMNS,
    TASK_COLUMNS,
    Undecodable,
    attempt_row,
    data_of,
    decode,
    inputs,
    outputs,
    plain,
    reason_of,
    standing,
    task_row,
)

if TYPE_CHECKING:
    import sqlite3

CLOCK_SKEW_S = 60.0  # between machines that write to one run root
_LIVE = "('SUBMITTING', 'SUBMITTED', 'RUNNING', 'WAITING')"
_MOST_KEPT = 1000  # instances
CPU_S = (
    "CASE WHEN a.ended_at IS NOT NULL AND a.started_at IS NOT NULL THEN MAX(0, a.ended_at - a.started_at) * a.cpus END"
)
_COUNTED = "COALESCE(a.failure, '') NOT IN ('not_started', 'postponed', 'reused', 'by_hand')"  # of these nothing ran
_SOURCES = "SELECT path, sha256, size, stamp FROM source_files WHERE version = ? AND"
# Once the instances of a group are known, the row that stood for it is no longer a task; its name means the group.
_STANDS_FOR_ITSELF = "(plan IS NOT 'group' OR state <> 'RETIRED')"
_STANDING = "task_id, position, state, soft, cause"
_IN_USE = "(t.state IN ('COMPLETED', 'WAITING') OR t.state = 'FAILED' AND t.soft)"  # what others or a person may go by
# The attempt whose outcome a task has: of one that comes back after it was RETIRED, the newest.
_STANDS_ON = "CASE t.state WHEN 'COMPLETED' THEN t.result ELSE t.attempts END"
_ATTEMPT_IN_USE = "CASE t.state WHEN 'COMPLETED' THEN t.result ELSE t.attempts END"


_A_FILE_DIFFERS = (
    "EXISTS (SELECT 1 FROM outputs o LEFT JOIN outputs n ON n.task_id = o.task_id AND n.attempt = {now} "
    "AND n.name = o.name WHERE o.task_id = u.task_id AND o.attempt = {was} AND (n.sha256 IS NULL OR n.sha256 <> o.sha256))"
)
# Whether the newest result of a task is another than the one that was read: an equal one makes nothing stale.
_OTHER_RESULT = (
    f"({_A_FILE_DIFFERS.format(was='i.upstream_attempt', now='u.result')} "
    f"OR {_A_FILE_DIFFERS.format(was='u.result', now='i.upstream_attempt')} "
    "OR EXISTS (SELECT 1 FROM attempts o JOIN attempts n ON n.task_id = o.task_id AND n.attempt = u.result "
    "WHERE o.task_id = u.task_id AND o.attempt = i.upstream_attempt AND (o.metrics IS NOT n.metrics "
    "OR o.response IS NOT NULL OR n.response IS NOT NULL OR o.state <> 'COMPLETED')) "
    "OR NOT EXISTS (SELECT 1 FROM outputs o WHERE o.task_id = u.task_id AND o.attempt = u.result))"
)


def _within(prefix: str) -> tuple[str, list[str]]:
    """Return the condition, and its values, for the tasks below an id: one that an index of groups answers."""
    return "group_name >= ? AND group_name < ?", [f"{prefix}/", f"{prefix}0"]  # "0" follows "/"


class Queries:
    """The reading half of an open ledger; `state_store.SQLiteStateStore` is the whole."""

    db: sqlite3.Connection
    _campaigns: dict[int, Campaign]
    _instances: dict[str, Instance]
    _operators: dict[int, Mapping[str, OperatorSpec]]
    _source_of: dict[int, str]
    _spent: Spent | None

    def guard(self) -> AbstractContextManager[None]:
        """Turn what SQLite raises into errors of ours."""
        raise NotImplementedError

    def _all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.guard():
            return self.db.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        with self.guard():
            row: tuple[Any, ...] | None = self.db.execute(statement, values).fetchone()
            return row

    def _decoded(self, decoder: Any, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
        with self.guard():
            return [decoder(row) for row in rows]

    # --- the run ---

    def run(self) -> RunRow:
        row = self._one(
            "SELECT run_id, name, digest, created_at, paused, cancelled, campaign_path, source_digest, home_id, "
            "home_path, pause_reason, over, failures_before FROM run"
        )
        with self.guard():
            if row is None:
                raise Undecodable("it holds no run")
            values: list[Any] = [*row[:4], bool(row[4]), bool(row[5]), *row[6:10]]
            values += [reason_of(row[10]), bool(row[11]), decode(int, row[12])]
            wrong = next((value for value in (*row[:4], *row[6:10]) if not isinstance(value, str)), None)
            if wrong is not None:
                raise Undecodable(f"it holds {str(wrong)[:60]!r}")
            return RunRow(*values)

    def home(self) -> tuple[int, str, str]:
        """Return (inode of the ledger, host, path) of where the run is at home."""
        row = self._one("SELECT home_inode, home_host, home_path FROM run")
        with self.guard():
            if row is None:
                raise Undecodable("it holds no run")
            return decode(int, row[0]), str(row[1]), str(row[2])

    def campaign(self, version: int) -> Campaign:
        """Return a campaign version; kept, since reading a large one costs."""
        if version not in self._campaigns:
            row = self._one("SELECT definition FROM campaign_versions WHERE version = ?", version)
            with self.guard():
                text = row[0] if row is not None else None
                self._campaigns[version] = decode(lambda text: campaign_from_json(load_json(text)), text)
        return self._campaigns[version]

    def operators(self, version: int) -> Mapping[str, OperatorSpec]:
        """Return the operators of a campaign version, without reading its tasks and the values of its axes."""
        if version in self._campaigns:
            return self._campaigns[version].operators
        if version not in self._operators:
            row = self._one(
                "SELECT json_extract(definition, '$.operators') FROM campaign_versions WHERE version = ?", version
            )
            with self.guard():
                text = row[0] if row is not None else None
                self._operators[version] = decode(lambda text: operators_from_json(load_json(text)), text)
        return self._operators[version]

    def limits(self) -> Limits:
        """Return the limits of the run, without reading its tasks."""
        version = self.newest_version()
        if version in self._campaigns:
            return Limits(**self._campaigns[version].limits)
        row = self._one("SELECT json_extract(definition, '$.limits') FROM campaign_versions WHERE version = ?", version)
        with self.guard():
            return decode(lambda text: Limits(**load_json(text)), row[0]) if row is not None and row[0] else Limits()

    def spent(self) -> Spent:
        """Return what attempts have used so far; it looks at all of them once, and is kept up from then on."""
        if self._spent is None:
            row = self._one(f"SELECT COUNT(*), COALESCE(SUM({CPU_S}), 0) FROM attempts a WHERE {_COUNTED}")
            self._spent = Spent(int(row[0]), float(row[1])) if row is not None else Spent(0, 0.0)
        return self._spent

    def newest_version(self) -> int:
        """Return the newest version of the campaign: that of settings which hold for the run, not for a task."""
        row = self._one("SELECT MAX(version) FROM campaign_versions")
        return int(row[0]) if row is not None and row[0] is not None else 0

    def newest_campaign(self) -> Campaign:
        return self.campaign(self.newest_version())

    def versions(self) -> list[int]:
        return [row[0] for row in self._all("SELECT version FROM campaign_versions ORDER BY version")]

    def digests_of(self, version: int) -> tuple[str, str]:
        """Return the sha256 of campaign.yaml and operators.yaml of a version; "" where that is not recorded."""
        row = self._one("SELECT campaign_sha256, operators_sha256 FROM campaign_versions WHERE version = ?", version)
        return (str(row[0]), str(row[1])) if row is not None else ("", "")

    def site_of(self, version: int) -> str:
        """Return the path of the file given with --operators, relative to the run root; "" without one."""
        row = self._one("SELECT site FROM campaign_versions WHERE version = ?", version)
        return str(row[0]) if row is not None else ""

    def tasks_as_asked(self) -> list[tuple[TaskRow, AttemptRow | None, AsAsked]]:
        """Return all tasks, each with the attempt that it stands on, and with what is compared in an amendment."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS}, matrix, inputs, outputs, work, asked, changed, before FROM tasks ORDER BY position"
        )
        found = self._all(
            f"SELECT {', '.join(f'a.{name}' for name in ATTEMPT_COLUMNS.split(', '))}, a.work FROM tasks t JOIN attempts a "
            f"ON a.task_id = t.task_id AND a.attempt = {_STANDS_ON}"
        )
        attempts = {row[0]: (attempt, row[-1]) for row in found for attempt in self._decoded(attempt_row, [row[:-1]])}
        edges: dict[str, list[tuple[str, str]]] = {}
        for upstream, downstream, entry in self._all("SELECT upstream, downstream, entry FROM edges"):
            edges.setdefault(downstream, []).append((upstream, entry))
        out = []
        for raw, row in zip(rows, self._decoded(task_row, (row[:-7] for row in rows)), strict=True):
            attempt, work = attempts.get(row.task_id, (None, ""))
            asked, names, before = (decode(json.loads, text) if text else None for text in raw[-3:])
            matrix, inputs_, outputs_, now = raw[-7:-3]
            own = frozenset(edges.get(row.task_id, ()))
            as_asked = AsAsked(matrix, inputs_, outputs_, now, work, asked, names, before, own)
            out.append((row, attempt, as_asked))
        return out

    def source_of(self, version: int) -> str:
        """Return where the files of a version of the campaign are, below the run root."""
        if version not in self._source_of:
            row = self._one("SELECT source FROM campaign_versions WHERE version = ?", version)
            with self.guard():
                self._source_of[version] = decode(str, row[0] if row is not None else None)
        return self._source_of[version]

    def sources(self, version: int | None = None) -> dict[str, str]:
        """Return {path in the campaign folder: sha256} of a version, by default the newest."""
        return {path: digest for path, (digest, *_) in self.source_files(version).items()}

    def source_files(self, version: int | None = None) -> dict[str, tuple[str, int, str | None]]:
        """Return {path in the campaign folder: (sha256, bytes, stamp)} of a version, by default the newest."""
        number = self.newest_version() if version is None else version
        return {row[0]: (row[1], row[2], row[3]) for row in self._all(f"{_SOURCES} path NOT LIKE '/%'", number)}

    def externals(self, version: int | None = None) -> dict[str, tuple[str, int, str | None]]:
        """Return {absolute path of a file outside of the run: (sha256, or "" if it is not recorded; bytes; stamp)}."""
        number = self.newest_version() if version is None else version
        return {row[0]: (row[1], row[2], row[3]) for row in self._all(f"{_SOURCES} path LIKE '/%'", number)}

    # --- tasks ---

    def buckets(self) -> dict[Bucket, int]:
        """Return how many tasks are in each bucket, see `bucket_of`."""
        rows = self._all("SELECT state, soft, paused, waits, unlooked, tasks FROM task_counts WHERE tasks <> 0")
        newest = self._one("SELECT MAX(rowid) FROM tasks")  # no task is ever removed
        with self.guard():
            if sum(row[5] for row in rows) != (newest[0] if newest and newest[0] else 0):
                raise Undecodable("its counts of tasks are not those of its tasks")
        return {
            (state, bool(row[1]), bool(row[2]), bool(row[3]), bool(row[4])): row[5]
            for row, state in zip(rows, self._decoded(lambda row: decode(TaskState, row[0]), rows), strict=True)
        }

    def tasks(self, task_ids: Iterable[str] | None = None, *, retired: bool = False) -> list[TaskRow]:
        """Return tasks in the order of the campaign, the named ones or all, those that are RETIRED only if ``retired``."""
        if task_ids is None:
            but = _STANDS_FOR_ITSELF if retired else "state <> 'RETIRED'"
            rows = self._all(f"SELECT {TASK_COLUMNS} FROM tasks WHERE {but} ORDER BY position")
        else:
            rows = self._all(
                f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id IN (SELECT value FROM json_each(?)) ORDER BY position",
                json.dumps(list(task_ids)),
            )
        return self._decoded(task_row, rows)

    def groups(self) -> list[tuple[str, TaskState, bool, int]]:
        """Return (group, state, whether its tasks were paused by name, number of tasks), groups in campaign order.

        Those that are RETIRED are left out.
        """
        # The index has all of it but `paused`, which is looked for only where something is.
        paused = "paused" if any(bucket[2] for bucket in self.buckets()) else "0"
        rows = self._all(
            f"SELECT group_name, state, {paused} AS p, COUNT(*), MIN(rowid) FROM tasks GROUP BY group_name, state, p"
        )
        first: dict[str, int] = {}
        amended = self.newest_version() > 1
        for row in rows:
            first[row[0]] = min(row[4], first.get(row[0], row[4]))
        if amended:  # then the order of the rows is no longer that of the file
            first |= dict(self._all("SELECT group_name, MIN(position) FROM tasks GROUP BY group_name"))
        rows = sorted((row for row in rows if row[1] != "RETIRED"), key=lambda row: first[row[0]])
        return self._decoded(lambda row: (row[0], decode(TaskState, row[1]), bool(row[2]), row[3]), rows)

    def paused_tasks(self) -> list[str]:
        """Return the tasks that are paused by themselves, in the order of the campaign."""
        if not any(bucket[2] for bucket in self.buckets()):
            return []
        return [row[0] for row in self._all("SELECT task_id FROM tasks WHERE paused = 1 ORDER BY position")]

    def first_in(self, state: TaskState, most: int) -> list[TaskRow]:
        """Return the first tasks in a state, in the order of the campaign."""
        rows = self._all(f"SELECT {TASK_COLUMNS} FROM tasks WHERE state = ? ORDER BY position LIMIT ?", state, most)
        return self._decoded(task_row, rows if most else ())

    def task_ids(self, *, retired: bool = False) -> list[str]:
        """Return the ids of all tasks in the order of the campaign, those that are RETIRED only if they are wanted."""
        but = _STANDS_FOR_ITSELF if retired else "state <> 'RETIRED'"
        return [row[0] for row in self._all(f"SELECT task_id FROM tasks WHERE {but} ORDER BY position")]

    def retired(self) -> list[str]:
        rows = self._all(
            f"SELECT task_id FROM tasks WHERE state = 'RETIRED' AND {_STANDS_FOR_ITSELF} ORDER BY position"
        )
        return [row[0] for row in rows]

    # --- what results make ---

    def plans(self, *states: TaskState) -> list[TaskRow]:
        """Return what stands for instances that results make, in these states, or in any."""
        which = "AND state IN (SELECT value FROM json_each(?))" if states else "AND ? IS NOT NULL"
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE plan IS NOT NULL {which} ORDER BY position",
            json.dumps([str(state) for state in states]),
        )
        return self._decoded(task_row, rows)

    def results_above(self, task_id: str) -> list[tuple[str, str, int | None]]:
        """Return (task, state, the attempt that it stands on) of all that a task waits for, in the order of their ids."""
        rows = self._all(
            "SELECT t.task_id, t.state, t.result FROM edges e JOIN tasks t ON t.task_id = e.upstream WHERE e.downstream = ?1 "
            "UNION SELECT t.task_id, t.state, t.result FROM edges e JOIN tasks t ON t.group_name = e.upstream WHERE e.downstream = ?1 "
            "ORDER BY 1",
            task_id,
        )
        return [(row[0], row[1], row[2]) for row in rows]

    def made(self, task_id: str) -> dict[str, Any]:
        """Return what a plan has made last: {round, given} of a loop, {reads, values} of a group; empty if nothing yet."""
        row = self._one("SELECT made FROM tasks WHERE task_id = ?", task_id)
        with self.guard():
            return decode(load_json, row[0]) if row is not None and row[0] else {}

    def made_groups(self, within: str = "") -> list[str]:
        """Return the groups whose instances results have made, of the campaign, or of the round ``within``."""
        own = "= 1" if not within else "= 0 AND group_name >= ? || '/' AND group_name < ? || '0'"
        rows = self._all(
            f"SELECT task_id FROM tasks WHERE plan = 'group' AND state = 'RETIRED' AND (given IS NULL) {own}",
            *([within] * 2 if within else []),
        )
        return [row[0] for row in rows]

    def plans_below(self, task_ids: Iterable[str]) -> list[TaskRow]:
        """Return the groups whose instances were made by results of these tasks, or could not be made of them."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE plan = 'group' AND (made IS NOT NULL OR state = 'FAILED') AND task_id IN "
            "(SELECT e.downstream FROM edges e WHERE e.upstream IN (SELECT value FROM json_each(?1)) OR e.upstream IN "
            "(SELECT t.group_name FROM tasks t WHERE t.task_id IN (SELECT value FROM json_each(?1))))",
            json.dumps(list(task_ids)),
        )
        return self._decoded(task_row, rows)

    def instances_of(self, prefix: str = "") -> list[Instance]:
        """Return the instances outside of all rounds, or those of the round ``prefix``, without their edges."""
        which, values = ("given IS NULL", []) if not prefix else _within(prefix)
        rows = self._all(
            "SELECT task_id, group_name, label, matrix, operator, priority, inputs, outputs, plan, given, work FROM tasks "
            f"WHERE {which} AND (state <> 'RETIRED' OR plan IS NOT NULL) ORDER BY position",
            *values,
        )
        with self.guard():
            return [
                Instance(
                    row[0],
                    row[1],
                    row[2],
                    decode(load_json, row[3]),
                    row[4],
                    row[5],
                    inputs(row[6]),
                    outputs(row[7]),
                    (),
                    row[8] or "",
                    decode(load_json, row[9]) if row[9] else {},
                    row[10],
                )
                for row in rows
            ]

    def round_values(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Return {"metrics": {task: values}, "response": {task: data}} of a round's single tasks, by their names in it."""
        which, values = _within(prefix)
        rows = self._all(
            "SELECT t.task_id, t.state, a.metrics, a.response FROM tasks t LEFT JOIN attempts a ON a.task_id = t.task_id "
            f"AND a.attempt = t.result WHERE {which} AND t.task_id = t.group_name AND t.plan IS NULL",
            *values,
        )
        out: dict[str, dict[str, Any]] = {"metrics": {}, "response": {}}
        with self.guard():
            for task_id, state, metrics, response in rows:
                name, done = task_id.rpartition("/")[2], state == TaskState.COMPLETED
                out["metrics"][name] = plain(metrics) if done else ABSENT
                out["response"][name] = (plain(response).get("data") or {}) if done else ABSENT
        return out

    def given_to(self, prefix: str) -> dict[str, Any]:
        """Return the template roots that the tasks of a round were given; empty for a round that is not there."""
        which, values = _within(prefix)
        row = self._one(
            f"SELECT given FROM tasks WHERE {which} AND (state <> 'RETIRED' OR plan IS NOT NULL) LIMIT 1", *values
        )
        with self.guard():
            return decode(load_json, row[0]) if row is not None and row[0] else {}

    def tasks_within(self, loop: str, first: int) -> list[TaskRow]:
        """Return the tasks of the rounds of a loop from ``first`` on, with what stood for groups of theirs."""
        which, values = _within(loop)
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE {which} AND (state <> 'RETIRED' OR plan IS NOT NULL) "
            "AND CAST(substr(group_name, ?) AS INTEGER) >= ? ORDER BY position",
            *values,
            len(loop) + 2,
            first,
        )
        return self._decoded(task_row, rows)

    def rounds_dropped_since(self, at: float) -> bool:
        """Return whether a rerun, of that time or later, dropped rounds that were not made again."""
        row = self._one(
            "SELECT 1 FROM tasks WHERE before IS NOT NULL AND given IS NOT NULL AND state = 'RETIRED' "
            "AND json_extract(before, '$[6]') >= ? LIMIT 1",
            at,
        )
        return row is not None

    def paths_of(self, name: str, within: str = "") -> list[tuple[str, str, str, str]]:
        """Return (task, output, path, path as results/ shows it last) of what a group, or a loop, declares.

        Of a loop only those of the round ``within``, if one is given.
        """
        row = self._one("SELECT plan, made FROM tasks WHERE task_id = ?", name)
        if row is None or row[0] != "loop":
            loops = [r[0] for r in self._all("SELECT task_id FROM tasks WHERE group_name = ? AND plan = 'loop'", name)]
            if loops:
                return [item for loop in loops for item in self.paths_of(loop)]
            which, values, last = "group_name = ?", [name], ""
        else:
            which, values = _within(within or name)
            last = f"{name}/{json.loads(row[1])['round']}/" if row[1] else ""
        out = []
        for task_id, text in self._all(
            f"SELECT task_id, outputs FROM tasks WHERE {which} AND state <> 'RETIRED' AND plan IS NULL ORDER BY position",
            *values,
        ):
            for output, item in outputs(text).items():
                shown = f"{name}/{item.path.removeprefix(last)}" if last and item.path.startswith(last) else item.path
                out.append((task_id, output, item.path, shown))
        return out

    def instance(self, task_id: str) -> Instance:
        """Return a task as it was expanded; without its edges. Kept for a while: it never changes."""
        found = self._instances.get(task_id)
        if found is not None:
            return found
        if len(self._instances) >= _MOST_KEPT:
            self._instances.clear()
        row = self._one(
            "SELECT group_name, label, matrix, operator, priority, inputs, outputs, work, plan, given FROM tasks WHERE task_id = ?",
            task_id,
        )
        assert row is not None
        with self.guard():
            matrix, read, made = decode(load_json, row[2]), inputs(row[5]), outputs(row[6])
            given = decode(load_json, row[9]) if row[9] else {}
        self._instances[task_id] = Instance(
            task_id, row[0], row[1], matrix, row[3], row[4], read, made, (), row[8] or "", given, row[7]
        )
        return self._instances[task_id]

    def spec_of(self, task_id: str, version: int) -> TaskSpec:
        """Return the entry of ``tasks`` that a task is an instance of, in a version of the campaign."""
        return self.campaign(version).tasks[self.instance(task_id).group]

    def outputs_of(self, task_id: str) -> Mapping[str, ResolvedOutput]:
        return self.instance(task_id).outputs

    def matrices(self) -> dict[str, dict[str, Any]]:
        rows = self._all("SELECT task_id, matrix FROM tasks")
        return dict(self._decoded(lambda row: (row[0], decode(load_json, row[1])), rows))

    def ready(self, operator: str, most: int) -> list[TaskRow]:
        """Return at most ``most`` READY tasks of an operator that are not paused, the first to start first."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE operator = ? AND state = 'READY' AND paused = 0 "
            "ORDER BY priority DESC, position LIMIT ?",
            operator,
            most,
        )
        return self._decoded(task_row, rows)

    def ready_operators(self) -> list[str]:
        """Return the operators for which a task is READY."""
        found: list[str] = []
        while True:  # one look-up each: a DISTINCT would read every READY task
            row = self._one(
                "SELECT operator FROM tasks WHERE state = 'READY' AND operator > ? ORDER BY operator LIMIT 1",
                found[-1] if found else "",
            )
            if row is None:
                return found
            found.append(row[0])

    def retries_due(self, now: float) -> list[TaskRow]:
        """Return the tasks whose delay is over, or began in what is the future now: the clock was set back."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks t WHERE retry_at IS NOT NULL AND paused = 0 AND (retry_at <= ? OR EXISTS "
            "(SELECT 1 FROM attempts a WHERE a.task_id = t.task_id AND a.attempt = t.attempts AND a.ended_at > ?)) "
            "ORDER BY position",
            now,
            now + CLOCK_SKEW_S,
        )
        return self._decoded(task_row, rows)

    def next_retry(self) -> float | None:
        row = self._one("SELECT MIN(retry_at) FROM tasks WHERE retry_at IS NOT NULL AND paused = 0")
        return None if row is None or row[0] is None else float(row[0])

    # --- readiness ---

    def unlooked(self) -> list[TaskRow]:
        """Return PENDING tasks that nothing has looked at since something about them changed."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE state = 'PENDING' AND watch IS NULL AND retry_at IS NULL "
            "ORDER BY position"
        )
        return self._decoded(task_row, rows)

    def watchers(self, settled: Iterable[str]) -> list[TaskRow]:
        """Return the PENDING tasks that watch one of these."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE watch IN (SELECT value FROM json_each(?)) AND state = 'PENDING'",
            json.dumps(list(settled)),
        )
        return self._decoded(task_row, rows)

    def successors(self, task_ids: Iterable[str]) -> list[TaskRow]:
        """Return the tasks directly below, also those that wait for a whole group of which one is named."""
        rows = self._all(
            f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id IN (SELECT e.downstream FROM edges e WHERE e.upstream IN "
            "(SELECT value FROM json_each(?1)) OR e.upstream IN "
            "(SELECT t.group_name FROM tasks t WHERE t.task_id IN (SELECT value FROM json_each(?1))))",
            json.dumps(list(task_ids)),
        )
        return self._decoded(task_row, rows)

    def entries(self, task_ids: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """Return for each task its (entry, upstream) pairs, upstreams in the order of the campaign."""
        out: dict[str, list[tuple[str, str]]] = {task_id: [] for task_id in task_ids}
        rows = self._all(
            "SELECT e.downstream, e.entry, e.upstream FROM edges e LEFT JOIN tasks t ON t.task_id = e.upstream "
            "WHERE e.downstream IN (SELECT value FROM json_each(?)) ORDER BY t.position",
            json.dumps(list(out)),
        )
        for downstream, entry, upstream in rows:
            out[downstream].append((entry, upstream))
        return out

    def group(self, name: str, without: Iterable[str]) -> GroupSummary:
        """Return a group in sum; the first troubled and the last unsettled task are looked for ``without`` some."""
        left_out = json.dumps(list(without))
        rows = self._all(
            "SELECT state, soft, COUNT(*) FROM tasks WHERE group_name = ? AND state <> 'RETIRED' GROUP BY state, soft",
            name,
        )
        troubled = self._one(
            f"SELECT {_STANDING} FROM tasks WHERE group_name = ? AND state IN ('FAILED', 'BLOCKED', 'CANCELLED', "
            "'SKIPPED') AND task_id NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY state = 'SKIPPED', soft, position LIMIT 1",
            name,
            left_out,
        )
        last = self._one(
            f"SELECT {_STANDING} FROM tasks WHERE group_name = ? AND state IN ('PENDING', 'READY', 'SUBMITTED', "
            "'RUNNING', 'WAITING') AND task_id NOT IN (SELECT value FROM json_each(?)) ORDER BY position DESC LIMIT 1",
            name,
            left_out,
        )
        with self.guard():
            counts = {(decode(TaskState, state), bool(soft)): count for state, soft, count in rows}
            return GroupSummary(counts, standing(troubled), standing(last))

    def standings(self, task_ids: Iterable[str]) -> dict[str, TaskStanding]:
        """Return how tasks stand, by id; names of groups are not tasks and left out."""
        rows = self._all(
            f"SELECT {_STANDING} FROM tasks WHERE task_id IN (SELECT value FROM json_each(?)) AND {_STANDS_FOR_ITSELF}",
            json.dumps(list(task_ids)),
        )
        found: list[TaskStanding] = self._decoded(standing, rows)
        return {item.task_id: item for item in found}

    def results(self) -> list[tuple[str, tuple[str, int, dict[str, Any], dict[str, Any]]]]:
        """Return (work, (task, attempt, outputs, what is recorded)) of all successful attempts, the newest of each task first.

        Temporary outputs that were removed are among them.
        """
        outputs: dict[tuple[str, int], dict[str, Any]] = {}
        for task_id, attempt, name, *item in self._all(
            "SELECT task_id, attempt, name, path, file, size, sha256, stamp, removed FROM outputs"
        ):
            outputs.setdefault((task_id, attempt), {})[name] = tuple(item)
        rows = self._all(
            "SELECT a.work, a.task_id, a.attempt, a.metrics, a.response, a.usage, a.started_at, a.ended_at, a.exit_code "
            "FROM attempts a JOIN tasks t ON t.task_id = a.task_id WHERE a.state = 'COMPLETED' "
            "ORDER BY t.position, a.attempt DESC"
        )
        names = ("metrics", "response", "usage", "started_at", "ended_at", "exit_code")
        return [
            (row[0], (row[1], row[2], outputs.get((row[1], row[2]), {}), dict(zip(names, row[3:], strict=True))))
            for row in rows
        ]

    def all_reads(self) -> list[tuple[str, int, str, int]]:
        """Return (task, attempt, upstream or its group, attempt that was read) of all attempts."""
        return [(r[0], r[1], r[2], r[3]) for r in self._all("SELECT * FROM attempt_inputs")]

    def all_edges(self, *, only_read: bool = False) -> list[tuple[str, str]]:
        """Return (upstream, downstream) pairs; a group that something waits for as a whole is a node behind its members.

        With ``only_read`` those are left out that only `needs` names.
        """
        read = "WHERE entry NOT LIKE 'needs[%'" if only_read else ""
        rows = self._all(
            f"SELECT DISTINCT upstream, downstream FROM edges {read} UNION ALL SELECT task_id, group_name FROM tasks "
            "WHERE group_name <> task_id AND group_name IN (SELECT DISTINCT upstream FROM edges)"
        )
        return [(row[0], row[1]) for row in rows]

    # --- attempts ---

    def live_attempts(self, without: Container[tuple[str, int]] = ()) -> list[AttemptRow]:
        """Return live attempts but those ``without`` names by (task, attempt), the oldest first."""
        rows = self._all(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE state IN {_LIVE} ORDER BY created_at, task_id")
        return self._decoded(attempt_row, (row for row in rows if row[:2] not in without))

    def submitting(self) -> list[AttemptRow]:
        """Return the attempts of whose hand-over the outcome is not on record."""
        rows = self._all(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE state IN {_LIVE} AND state = 'SUBMITTING'")
        return self._decoded(attempt_row, rows)

    def awaited_attempts(self) -> list[AttemptRow]:
        """Return LOST attempts behind which no later one was handed over: their end may still turn up."""
        return self._decoded(attempt_row, self._all(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE awaited = 1"))

    def unlinked(self) -> list[AttemptRow]:
        """Return the newest results of which a link in results/ could not be set."""
        rows = self._all(
            f"SELECT {ATTEMPT_COLUMNS} FROM attempts a WHERE unlinked <> '' "
            "AND attempt = (SELECT result FROM tasks WHERE task_id = a.task_id)"
        )
        return self._decoded(attempt_row, rows)

    def active(self) -> int:
        row = self._one(f"SELECT COUNT(*) FROM attempts WHERE state IN {_LIVE}")
        return int(row[0]) if row is not None else 0

    def attempts(self, task_id: str) -> list[AttemptRow]:
        rows = self._all(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE task_id = ? ORDER BY attempt", task_id)
        return self._decoded(attempt_row, rows)

    def attempt(self, task_id: str, attempt: int) -> AttemptRow | None:
        row = self._one(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE task_id = ? AND attempt = ?", task_id, attempt)
        with self.guard():
            return attempt_row(row) if row else None

    def parcelled(self) -> list[AttemptRow]:
        """Return the attempts that went out in a parcel, oldest first."""
        rows = self._all(f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE parcelled = 1 ORDER BY created_at, task_id")
        return self._decoded(attempt_row, rows)

    def last_attempts(self) -> dict[str, AttemptRow]:
        """Return the newest attempt of each task that has one."""
        rows = self._all(
            f"SELECT {ATTEMPT_COLUMNS} FROM attempts a WHERE attempt = "
            "(SELECT attempts FROM tasks WHERE task_id = a.task_id)"
        )
        found: list[AttemptRow] = self._decoded(attempt_row, rows)
        return {row.task_id: row for row in found}

    def metrics(self) -> dict[str, tuple[int, dict[str, Any], Any]]:
        """Return {task: (attempt, metrics, data of the response)} of the newest successful attempts, else of the newest."""
        rows = self._all(
            "SELECT a.task_id, a.attempt, a.metrics, a.response FROM attempts a JOIN tasks t "
            "ON t.task_id = a.task_id AND COALESCE(t.result, t.attempts) = a.attempt"
        )
        return dict(self._decoded(lambda row: (row[0], (row[1], plain(row[2]), data_of(row[3]))), rows))

    def usage_of_results(self) -> dict[str, dict[str, Any]]:
        """Return {task: usage} of the attempts that `metrics` gives."""
        rows = self._all(
            "SELECT a.task_id, a.usage FROM attempts a JOIN tasks t "
            "ON t.task_id = a.task_id AND COALESCE(t.result, t.attempts) = a.attempt WHERE a.usage IS NOT NULL"
        )
        return dict(self._decoded(lambda row: (row[0], plain(row[1])), rows))

    def usages(self) -> dict[str, list[tuple[int, int | None, dict[str, Any]]]]:
        """Return {group: [(cpus, memory, usage)]} of the attempts whose usage is on record, in the order of the file."""
        rows = self._all(
            "SELECT t.group_name, a.cpus, a.memory, a.usage FROM attempts a JOIN tasks t ON t.task_id = a.task_id "
            "WHERE a.usage IS NOT NULL ORDER BY t.position, a.attempt"
        )
        out: dict[str, list[tuple[int, int | None, dict[str, Any]]]] = {}
        for group, *values in self._decoded(lambda row: (*row[:3], plain(row[3])), rows):
            out.setdefault(group, []).append((values[0], values[1], values[2]))
        return out

    def given_values(self, task_id: str) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, int]]]:
        """Return the answers and metrics that a task's templates name, and of which attempts they are.

        ({"response": {group: data}, "metrics": {group: values}}, {"response.GROUP": (task, attempt)}); ABSENT, and no
        attempt, of a task that is not COMPLETED.
        """
        values: dict[str, dict[str, Any]] = {"response": {}, "metrics": {}}
        origins: dict[str, tuple[str, int]] = {}
        rows = self._all(
            "SELECT e.entry, t.task_id, t.state, a.attempt, a.metrics, a.response, t.plan FROM edges e "
            "JOIN tasks t ON t.task_id = e.upstream LEFT JOIN attempts a ON a.task_id = t.task_id "
            "AND a.attempt = t.result WHERE e.downstream = ? AND (e.entry LIKE 'response.%' OR e.entry LIKE 'metrics.%')",
            task_id,
        )
        with self.guard():
            for entry, upstream, state, attempt, metrics, response, plan in rows:
                root, _, group = entry.partition(".")
                found: Any = ABSENT
                if plan == "loop" and state == TaskState.COMPLETED:
                    last = f"{upstream}/{self.made(upstream)['round']}"
                    found = self.round_values(last)[root]
                    names = [f"{last}/{name}" for name, value in found.items() if value]
                    origins |= {
                        f"{entry}.{name.rpartition('/')[2]}": (name, made[0])
                        for name, made in self.published_of(names).items()
                    }
                elif state == TaskState.COMPLETED and attempt is not None:
                    found = plain(metrics) if root == "metrics" else plain(response).get("data")
                    origins[entry] = (upstream, attempt)
                values[root][group] = found
        return values, origins

    def published(self, task_id: str) -> Published | None:
        """Return (attempt, {output: (file, sha256, stamp)}) of a task's newest successful attempt, None without one."""
        row = self._one("SELECT result FROM tasks WHERE task_id = ?", task_id)
        if row is None or row[0] is None:
            return None
        rows = self._all(
            "SELECT name, file, sha256, stamp FROM outputs WHERE task_id = ? AND attempt = ? AND removed = 0",
            task_id,
            row[0],
        )
        return row[0], {name: (file, sha256, stamp) for name, file, sha256, stamp in rows}

    def published_files(self, task_id: str) -> list[OutputFile]:
        """Return the outputs of a task's newest successful attempt, as they were declared then."""
        rows = self._all(
            "SELECT o.name, o.path, o.file, o.size, o.sha256, o.stamp FROM outputs o JOIN tasks t ON t.task_id = o.task_id "
            "AND t.result = o.attempt WHERE o.task_id = ? AND o.removed = 0",
            task_id,
        )
        return [OutputFile(*row) for row in rows]

    def has_open_plans(self) -> bool:
        """Return whether instances that may read anything are not known yet."""
        return (
            self._one("SELECT 1 FROM tasks WHERE plan IS NOT NULL AND state IN ('PENDING', 'READY') LIMIT 1")
            is not None
        )

    def removable(self, readers: Iterable[str]) -> list[tuple[str, int, str, str, str]]:
        """Return (task, attempt, output, file, path below results/) of temporary outputs that some tasks have read and that no task needs any longer."""
        return [
            (row[0], row[1], row[2], row[3], row[4])
            for row in self._all(
                "SELECT DISTINCT t.task_id, o.attempt, o.name, o.file, o.path FROM edges mine JOIN tasks t "
                "ON t.task_id = mine.upstream OR t.group_name = mine.upstream JOIN outputs o ON o.task_id = t.task_id "
                "AND o.attempt <= t.result AND o.removed = 0 WHERE mine.downstream IN (SELECT value FROM json_each(?)) "
                "AND mine.entry LIKE 'inputs.%' AND t.state = 'COMPLETED' "
                "AND json_extract(t.outputs, '$.' || o.name || '.temporary') AND NOT EXISTS (SELECT 1 FROM edges e "
                "JOIN tasks r ON r.task_id = e.downstream WHERE e.upstream IN (t.task_id, t.group_name) "
                "AND e.entry LIKE 'inputs.%' AND r.state NOT IN ('COMPLETED', 'SKIPPED', 'RETIRED') AND EXISTS "
                "(SELECT 1 FROM json_each(r.inputs) i, json_each(i.value, '$[2]') s WHERE json_extract(s.value, '$[1]') IN (o.name, '*') "
                "AND json_extract(s.value, '$[0]') IN (t.task_id, t.group_name))) ORDER BY t.position, o.attempt",
                json.dumps(list(readers)),
            )
        ]

    def removed_files(self) -> list[tuple[str, int, str]]:
        """Return (task, attempt, file) of the temporary outputs that were removed."""
        return [(r[0], r[1], r[2]) for r in self._all("SELECT task_id, attempt, file FROM outputs WHERE removed = 1")]

    def removed_outputs(self) -> dict[tuple[str, str], set[str]]:
        """Return the tasks of whose newest result a temporary output was removed, by (task or its group, output)."""
        out: dict[tuple[str, str], set[str]] = {}
        for task_id, group, name in self._all(
            "SELECT t.task_id, t.group_name, o.name FROM outputs o JOIN tasks t ON t.task_id = o.task_id "
            "AND t.result = o.attempt WHERE o.removed = 1 AND t.state = 'COMPLETED'"
        ):
            out.setdefault((task_id, name), set()).add(task_id)
            out.setdefault((group, name), set()).add(task_id)
        return out

    def outputs_read(self, task_ids: Iterable[str]) -> set[tuple[str, str]]:
        """Return the outputs that tasks read, each as (task or its group, output)."""
        rows = self._all(
            "SELECT DISTINCT json_extract(s.value, '$[0]'), json_extract(s.value, '$[1]') FROM tasks t, "
            "json_each(t.inputs) i, json_each(i.value, '$[2]') s WHERE t.task_id IN (SELECT value FROM json_each(?)) "
            "AND json_extract(s.value, '$[1]') IS NOT NULL",
            json.dumps(list(task_ids)),
        )
        return {(row[0], row[1]) for row in rows}

    def left_paths(self, task_id: str) -> list[str]:
        """Return the paths below results/ that outputs of a task have, or had in an older version of the campaign."""
        return [row[0] for row in self._all("SELECT DISTINCT path FROM outputs WHERE task_id = ?", task_id)]

    def is_as_asked(self, row: AttemptRow) -> bool:
        """Return whether a task is still declared as it was when an attempt of it was made."""
        found = self._one("SELECT campaign_version FROM tasks WHERE task_id = ?", row.task_id)
        return found is not None and found[0] == row.campaign_version

    def published_of(self, task_ids: Iterable[str]) -> dict[str, Published]:
        """Return what `published` gives of each of these tasks that has it."""
        return self._published("t.task_id IN (SELECT value FROM json_each(?))", json.dumps(list(task_ids)))

    def published_in(self, group: str) -> dict[str, Published]:
        """Return what `published` gives of the COMPLETED instances of a group, in the order of the campaign."""
        return self._published("t.group_name = ? AND t.state = 'COMPLETED'", group)

    def _published(self, which: str, value: str) -> dict[str, Published]:
        rows = self._all(
            "SELECT t.task_id, t.result, o.name, o.file, o.sha256, o.stamp FROM tasks t LEFT JOIN outputs o "
            f"ON o.task_id = t.task_id AND o.attempt = t.result AND o.removed = 0 WHERE {which} AND t.result IS NOT NULL ORDER BY t.position",
            value,
        )
        out: dict[str, Published] = {}
        for task_id, attempt, name, file, sha256, stamp in rows:
            found = out.setdefault(task_id, (attempt, {}))
            if name is not None:
                found[1][name] = (file, sha256, stamp)
        return out

    def last_end(self) -> float:
        """Return when an attempt ended last, 0 if none has; it looks at all of them."""
        row = self._one("SELECT MAX(ended_at) FROM attempts")
        return float(row[0]) if row is not None and row[0] is not None else 0.0

    def readers_of(self, task_id: str) -> list[tuple[str, int]]:
        """Return the attempts that were started with a result of a task, or of all its group, in the order of the campaign."""
        rows = self._all(
            "SELECT i.task_id, i.attempt FROM attempt_inputs i JOIN tasks t ON t.task_id = i.task_id "
            "JOIN attempts a ON a.task_id = i.task_id AND a.attempt = i.attempt WHERE i.upstream IN "
            "(?, (SELECT group_name FROM tasks WHERE task_id = ?)) AND a.state <> 'SUBMITTING' "
            "AND COALESCE(a.failure, '') NOT IN ('not_started', 'template', 'postponed', 'input_changed') "
            "ORDER BY t.position, i.attempt",
            task_id,
            task_id,
        )
        return [(row[0], row[1]) for row in rows]

    def noted(self) -> list[str]:
        """Return the COMPLETED tasks with a remark about their result, such as invalid metrics."""
        rows = self._all(
            "SELECT t.task_id FROM tasks t JOIN attempts a ON a.task_id = t.task_id AND a.attempt = t.result "
            "WHERE t.state = 'COMPLETED' AND a.reason <> '' AND a.response IS NULL"
        )
        return [row[0] for row in rows]

    def reruns(self) -> list[tuple[str, float, int, bool]]:
        """Return (task, when, how many in that rerun, whether the run was cancelled) of tasks not started since a rerun."""
        rows = self._all(
            "SELECT task_id, json_extract(before, '$[6]'), json_extract(before, '$[7]'), json_extract(before, '$[5]') "
            "FROM tasks WHERE before IS NOT NULL AND state IN ('PENDING', 'READY') ORDER BY position"
        )
        return [(task_id, float(at), int(count), bool(cancelled)) for task_id, at, count, cancelled in rows]

    def failed_as(self, failure: str, exit_code: int | None) -> list[str]:
        """Return the FAILED tasks whose last attempt failed with this class, and with this exit code if one is given."""
        rows = self._all(
            "SELECT t.task_id FROM tasks t JOIN attempts a ON a.task_id = t.task_id AND a.attempt = t.attempts "
            "WHERE t.state = 'FAILED' AND a.failure = ? AND (? IS NULL OR a.exit_code = ?) ORDER BY t.position",
            failure,
            exit_code,
            exit_code,
        )
        return [row[0] for row in rows]

    def lines_of(self, *kinds: str) -> list[str]:
        """Return the lines of all events of these kinds."""
        return [
            row[0]
            for row in self._all(
                "SELECT line FROM events WHERE json_extract(line, '$.kind') IN (SELECT value FROM json_each(?)) ORDER BY seq",
                json.dumps(kinds),
            )
        ]

    def last_event_at(self) -> float:
        """Return the time of the newest event."""
        row = self._one("SELECT line FROM events ORDER BY seq DESC LIMIT 1")
        found = from_text(json.loads(row[0])["at"]) if row is not None else None
        return found or 0.0

    def completed_in(self, group: str) -> tuple[str, int] | None:
        """Return (task, attempt) of an instance of a group that is COMPLETED, None if none is."""
        row = self._one(
            "SELECT task_id, result FROM tasks WHERE group_name = ? AND state = 'COMPLETED' ORDER BY position DESC LIMIT 1",
            group,
        )
        return None if row is None else (row[0], row[1])

    def members(self, group: str, *, retired: bool = False) -> list[TaskRow]:
        """Return the tasks of a group, in the order of the campaign; with those that are RETIRED if they are wanted."""
        but = "" if retired else "AND state <> 'RETIRED'"
        rows = self._all(f"SELECT {TASK_COLUMNS} FROM tasks WHERE group_name = ? {but} ORDER BY position", group)
        return self._decoded(task_row, rows)

    def values_in(self, group: str) -> dict[str, tuple[Any, Any]]:
        """Return {task: (metrics, data of the answer)} of the attempts that tasks of a group stand on."""
        rows = self._all(
            "SELECT t.task_id, a.metrics, a.response FROM tasks t JOIN attempts a ON a.task_id = t.task_id "
            "AND a.attempt = COALESCE(t.result, t.attempts) WHERE t.group_name = ?",
            group,
        )
        return dict(self._decoded(lambda row: (row[0], (plain(row[1]), data_of(row[2]))), rows))

    def size_of(self, group: str) -> int:
        """Return how many instances a group has."""
        row = self._one("SELECT COUNT(*) FROM tasks WHERE group_name = ? AND state <> 'RETIRED'", group)
        return int(row[0]) if row is not None else 0

    def published_since(self, since: float) -> list[tuple[str, int, list[OutputFile]]]:
        """Return (task, attempt, outputs) of the newest successful attempts that ended since then."""
        rows = self._all(
            "SELECT a.task_id, a.attempt, o.name, o.path, o.file, o.size, o.sha256 FROM attempts a "
            "JOIN tasks t ON t.task_id = a.task_id AND t.result = a.attempt "
            "JOIN outputs o ON o.task_id = a.task_id AND o.attempt = a.attempt AND o.removed = 0 WHERE a.ended_at >= ? AND t.state <> 'RETIRED' AND t.plan IS NULL ORDER BY t.position",
            since,
        )
        found: dict[tuple[str, int], list[OutputFile]] = {}
        for task_id, attempt, *output in rows:
            found.setdefault((task_id, attempt), []).append(OutputFile(*output))
        return [(*key, outputs) for key, outputs in found.items()]

    def stale(self) -> dict[str, str]:
        """Return why, of tasks that read an older attempt than there is, or began without one that has succeeded since.

        They are COMPLETED, FAILED where that is allowed, or ask a person.
        """
        # Only what succeeded more than once can have a newer result: CROSS JOIN keeps the order of the tables.
        rows = self._all(
            "SELECT i.task_id, i.upstream, i.upstream_attempt, u.result, t.state FROM tasks u "
            "CROSS JOIN attempt_inputs i ON i.upstream = u.task_id AND u.result > i.upstream_attempt "
            f"JOIN tasks t ON t.task_id = i.task_id AND {_IN_USE} AND i.attempt = {_ATTEMPT_IN_USE} "
            f"WHERE u.result > 1 AND {_OTHER_RESULT}"
        )
        # A group that is named was read whole: all of its instances, of this attempt where none is named for one of them.
        rows += self._all(
            "SELECT i.task_id, u.task_id, i.upstream_attempt, u.result, t.state FROM tasks u "
            "CROSS JOIN attempt_inputs i ON i.upstream = u.group_name AND u.result > i.upstream_attempt "
            f"JOIN tasks t ON t.task_id = i.task_id AND {_IN_USE} AND i.attempt = {_ATTEMPT_IN_USE} "
            f"WHERE u.result > 1 AND {_OTHER_RESULT} AND u.group_name <> u.task_id AND NOT EXISTS (SELECT 1 FROM attempt_inputs o "
            "WHERE o.task_id = i.task_id AND o.attempt = i.attempt AND o.upstream = u.task_id)"
        )
        out = {
            task_id: f"changed since it was made: {', '.join(json.loads(names))}"
            for task_id, names in self._all(
                f"SELECT t.task_id, t.changed FROM tasks t WHERE t.changed IS NOT NULL AND {_IN_USE} "
                f"AND json_extract(t.asked, '$[0]') = {_ATTEMPT_IN_USE} ORDER BY t.position"
            )
        }
        out |= {
            task_id: f"{'made from' if state == 'COMPLETED' else 'has read'} attempt {read} of {upstream}, "
            f"which has a newer one ({newest})"
            for task_id, upstream, read, newest, state in rows
        }
        if not self._may_go_on_without():
            return out
        # Of instances that results make some may be gone.
        rows = self._all(
            "SELECT t.task_id, u.task_id FROM tasks p CROSS JOIN tasks u ON p.plan = 'group' AND u.group_name = p.task_id "
            "AND u.state = 'RETIRED' AND u.plan IS NULL JOIN attempt_inputs i ON i.upstream = u.task_id "
            f"JOIN tasks t ON t.task_id = i.task_id AND {_IN_USE} AND i.attempt = {_ATTEMPT_IN_USE} WHERE p.plan IS NOT NULL"
        )
        for task_id, upstream in rows:
            out.setdefault(task_id, f"was made from {upstream}, which is gone")
        out = {**self._of_other_rounds(), **out}
        # A table of results has what failed in it too.
        rows = self._all(
            "SELECT DISTINCT e.downstream, u.task_id, u.attempts FROM edges e "
            f"JOIN tasks t ON t.task_id = e.downstream AND {_IN_USE} "
            "JOIN tasks u ON (u.task_id = e.upstream OR u.group_name = e.upstream) AND u.state = 'FAILED' "
            f"JOIN attempts mine ON mine.task_id = t.task_id AND mine.attempt = {_ATTEMPT_IN_USE} "
            "JOIN attempts theirs ON theirs.task_id = u.task_id AND theirs.attempt = u.attempts "
            "WHERE e.entry LIKE 'results.%' AND theirs.ended_at > mine.created_at"
        )
        for task_id, upstream, attempt in rows:
            out.setdefault(task_id, f"has read {upstream} before its attempt {attempt} failed")
        rows = self._all(
            "SELECT e.downstream, u.task_id, t.state FROM edges e "
            f"JOIN tasks t ON t.task_id = e.downstream AND {_IN_USE} "
            "JOIN tasks u ON (u.task_id = e.upstream OR u.group_name = e.upstream) AND u.state = 'COMPLETED' "
            f"JOIN attempts mine ON mine.task_id = t.task_id AND mine.attempt = {_ATTEMPT_IN_USE} "
            "JOIN attempts theirs ON theirs.task_id = u.task_id AND theirs.attempt = u.result "
            "WHERE (e.entry LIKE 'inputs.%' OR e.entry LIKE 'results.%') AND theirs.ended_at > mine.created_at AND NOT EXISTS "
            "(SELECT 1 FROM attempt_inputs i WHERE i.task_id = t.task_id AND i.attempt = mine.attempt AND i.upstream = u.task_id) "
            "AND NOT EXISTS "
            "(SELECT 1 FROM attempt_inputs i WHERE i.task_id = t.task_id AND i.attempt = mine.attempt AND i.upstream = u.group_name)"
        )
        for task_id, upstream, state in rows:
            verb = "made" if state == "COMPLETED" else "began"
            out.setdefault(task_id, f"{verb} without {upstream}, which has succeeded since")
        return out

    def _of_other_rounds(self) -> dict[str, str]:
        """Return why, of tasks that read what was the last round of a loop when they started, and no longer is."""
        rows = self._all(
            "SELECT t.task_id, p.task_id, p.made, i.upstream FROM tasks p CROSS JOIN edges e ON e.upstream = p.task_id "
            f"JOIN tasks t ON t.task_id = e.downstream AND t.given IS NULL AND {_IN_USE} "
            f"JOIN attempt_inputs i ON i.task_id = t.task_id AND i.attempt = {_ATTEMPT_IN_USE} "
            "AND i.upstream >= p.task_id || '/' AND i.upstream < p.task_id || '0' "
            "WHERE p.plan = 'loop' AND p.state = 'COMPLETED' AND p.made IS NOT NULL"
        )
        last: dict[tuple[str, str], tuple[int, int]] = {}
        for task_id, loop, made, upstream in rows:
            number = int(upstream[len(loop) + 1 :].partition("/")[0])
            before = last.get((task_id, loop), (0, 0))[0]
            last[task_id, loop] = max(before, number), decode(lambda text: int(json.loads(text)["round"]), made)
        return {
            task_id: f"was made from round {read} of {loop}, whose last one is {now}"
            for (task_id, loop), (read, now) in last.items()
            if read != now
        }

    def live_of_old_form(self) -> list[str]:
        """Return the tasks whose live attempts were started before an amendment changed their work."""
        rows = self._all(
            "SELECT t.task_id FROM tasks t WHERE t.changed IS NOT NULL AND t.state IN ('SUBMITTED', 'RUNNING', 'WAITING') "
            "AND json_extract(t.asked, '$[0]') = t.attempts ORDER BY t.position"
        )
        return [row[0] for row in rows]

    def _may_go_on_without(self) -> bool:
        """Return whether a version of the campaign lets tasks go on without some of their inputs."""
        row = self._one(
            "SELECT 1 FROM campaign_versions, json_each(definition, '$.tasks') v WHERE "
            "json_extract(v.value, '$.when') IS NOT NULL OR json_extract(v.value, '$.allow_failure') "
            "OR json_extract(v.value, '$.allow_dependency_failure') IS NOT NULL "
            "OR json_extract(v.value, '$.late') IS NOT NULL OR json_extract(v.value, '$.repeat') IS NOT NULL "
            "OR EXISTS (SELECT 1 FROM json_each(v.value, '$.inputs') i WHERE i.value LIKE '%\"results\":%') LIMIT 1"
        )
        return row is not None

    def unclaimed_before(self, task_id: str, attempt: int) -> int:
        """Return how many attempts in a row just before this one had a process that ended without claiming.

        Those that a step fenced say nothing about it: they neither count nor end the row.
        """
        rows = self._all(
            "SELECT failure, unclaimed FROM attempts WHERE task_id = ? AND attempt < ? ORDER BY attempt DESC",
            task_id,
            attempt,
        )
        count = 0
        for failure, unclaimed in rows:
            if failure != FailureClass.NOT_STARTED:
                break
            count += bool(unclaimed)
        return count

    def consecutive(self, task_id: str, attempt: int, *failures: FailureClass) -> int:
        """Return how many attempts in a row just before this one ended with one of these classes."""
        rows = self._all(
            "SELECT failure FROM attempts WHERE task_id = ? AND attempt < ? ORDER BY attempt DESC", task_id, attempt
        )
        count = 0
        for row in rows:
            if row[0] not in failures:
                break
            count += 1
        return count

    def counted_failures(self, task_id: str, tries: int) -> list[tuple[FailureClass, int | None]]:
        """Return class and exit code of the last ``tries`` failures that count, oldest first."""
        if tries == 0:
            return []
        rows = self._all(
            "SELECT failure, exit_code FROM attempts WHERE task_id = ? AND counts = 1 ORDER BY attempt DESC LIMIT ?",
            task_id,
            tries,
        )
        return self._decoded(lambda row: (decode(FailureClass, row[0]), row[1]), reversed(rows))
