"""What must be true after every step, whatever went wrong: each a function that gives what is wrong, "" for nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from matterstack.core.recorded import AttemptRow
from matterstack.core.states import LIVE, TASK_STATE_OF_ATTEMPT, AttemptState, FailureClass, TaskState
from matterstack.simulation.run import ROOT, SimulatedRun, empty_ledger
from matterstack.storage.journal import Journal
from matterstack.storage.rows import ATTEMPT_COLUMNS, attempt_row
from matterstack.storage.state_store import SQLiteStateStore

TABLES = (
    "run", "campaign_versions", "tasks", "task_counts", "edges", "attempts", "attempt_inputs", "outputs", "source_files",
    "events",
)  # fmt: skip


class Now:
    """A run as the next process finds it, read once for all invariants."""

    def __init__(self, run: SimulatedRun, store: SQLiteStateStore) -> None:
        self.run, self.store, self.world = run, store, run.world
        self.tasks = {row.task_id: row for row in store.tasks()}
        rows = store.db.execute(f"SELECT {ATTEMPT_COLUMNS} FROM attempts").fetchall()
        self.attempts = {row.key: row for row in map(attempt_row, rows)}
        self.live = [row for row in self.attempts.values() if row.state in LIVE]
        self.campaign = store.newest_campaign()
        self.plans = {row.task_id for row in self.tasks.values() if row.plan}
        if not run.entries or self.campaign.has_unknown or store.newest_version() > 1:
            run.entries = store.entries(self.tasks)
        self.entries = run.entries


def no_command_starts_twice(now: Now) -> str:
    return next((f"{key} was started {w.started} times" for key, w in now.world.work.items() if w.started > 1), "")


def at_most_one_live_attempt_for_each_task(now: Now) -> str:
    seen: set[str] = set()
    for row in now.live:
        if row.task_id in seen:
            return f"{row.task_id} has two live attempts"
        seen.add(row.task_id)
    return ""


def at_most_one_attempt_of_a_task_runs(now: Now) -> str:
    """Also in the world, and not only by what the ledger knows; but for one that was taken to be lost."""
    alive: dict[str, int] = {}
    for task, attempt in now.world.work:
        work = now.world.work[task, attempt]
        row = now.attempts.get((task, attempt))
        if work.began_at is not None and now.world.is_alive((task, attempt)):
            if task in alive and row is not None and row.state is not AttemptState.LOST:
                return f"attempts {alive[task]} and {attempt} of {task} both run"
            alive[task] = attempt
    return ""


def what_completed_has_its_evidence(now: Now) -> str:
    for row in now.tasks.values():
        if row.state is TaskState.COMPLETED and row.task_id not in now.plans:
            attempt = now.attempts.get((row.task_id, row.result or 0))
            if attempt is None or attempt.state is not AttemptState.COMPLETED:
                return f"{row.task_id} is COMPLETED by attempt {row.result}, which is not"
            work = now.world.work.get((row.task_id, row.result or 0))
            if work is not None and (work.started != 1 or now.world.exit_code((row.task_id, row.result or 0)) != 0):
                return f"{row.task_id} is COMPLETED, and its command did not succeed"
    return ""


def what_was_fenced_never_runs(now: Now) -> str:
    for (task, number), work in now.world.work.items():
        row = now.attempts.get((task, number))
        if row is not None and row.failure in (FailureClass.NOT_STARTED, FailureClass.POSTPONED) and work.started:
            return f"{task}, attempt {number} is recorded as never started, and it ran"
    return ""


def nothing_runs_that_is_not_on_record(now: Now) -> str:
    """But for what a loop handed over while another withdrew it: the number is used again, and its folder found taken."""
    for key in now.world.work:
        if key not in now.attempts and list(key) not in _withdrawn(now):
            return f"{key} was handed over and is not in the ledger"
    return ""


def _withdrawn(now: Now) -> list[list[object]]:
    events = map(json.loads, now.world.journal)
    return [key for event in events if event["kind"] == "withdrawn" for key in event["attempts"]]


def each_instance_of_a_round_is_there_once(now: Now) -> str:
    """By the journal, a round begins once after the one before, unless a rerun has dropped it."""
    last: dict[str, int] = {}
    for event in map(json.loads, now.world.journal):
        if event["kind"] != "expanded" or event.get("values"):  # of a group
            continue
        number, made = event.get("round", 0), event.get("count", 0)
        if made and number != last.get(event["task"], 0) + 1:
            return f"round {number} of {event['task']} begins after round {last.get(event['task'], 0)}"
        last[event["task"]] = number
    for row in now.tasks.values():
        loop, _, rest = row.task_id.partition("/")
        if loop in last and rest and row.state is not TaskState.RETIRED and int(rest.partition("/")[0]) > last[loop]:
            return f"{row.task_id} is {row.state} in round {last[loop]}"
    return ""


def a_task_is_active_while_its_attempt_is(now: Now) -> str:
    for row in now.tasks.values():
        attempt = now.attempts.get((row.task_id, row.attempts))
        live = attempt is not None and attempt.state in LIVE
        expected = TASK_STATE_OF_ATTEMPT[attempt.state] if live and attempt is not None else None
        active = row.state in set(TASK_STATE_OF_ATTEMPT.values())
        if live != active or (live and row.state is not expected):
            return f"{row.task_id} is {row.state}, its attempt {attempt and attempt.state}"
    return ""


def nothing_starts_before_what_it_needs(now: Now) -> str:
    if now.run.reruns or any(now.attempts[key].state is not AttemptState.LOST for key in now.world.given_up):
        return ""  # what was needed may run again, or have turned up after all
    rows = now.tasks
    groups: dict[str, list[str]] = {}
    for row in rows.values():
        groups.setdefault(row.group, []).append(row.task_id)
    for task_id, pairs in now.entries.items():
        if rows[task_id].state not in (TaskState.SUBMITTED, TaskState.RUNNING):
            continue
        for _, upstream in pairs:
            for name in [upstream] if upstream in rows else groups[upstream]:
                if not rows[name].state.is_settled:
                    return f"{task_id} is {rows[task_id].state}, and {name} is {rows[name].state}"
    return ""


def nothing_was_made_without_what_it_needs(now: Now) -> str:
    if now.run.reruns or now.world.given_up:
        return ""
    return next((f"{task} is stale: {why}" for task, why in now.store.stale().items()), "")


def retries_are_bounded(now: Now) -> str:
    for row in now.tasks.values():
        spec = now.campaign.tasks[row.group]
        if row.tries > spec.retries.max + 1:
            return f"{row.task_id} has {row.tries} failures that count, with {spec.retries.max} retries"
    return ""


def nobody_gives_up_on_a_task_whose_commands_were_not_even_handed_over(now: Now) -> str:
    for row in now.tasks.values():
        last = now.attempts.get((row.task_id, row.attempts))
        if row.state is not TaskState.FAILED or last is None or last.failure is not FailureClass.NOT_STARTED:
            continue
        handed = [n for n in range(1, row.attempts + 1) if (row.task_id, n) in now.world.work]
        if len(handed) < 3:
            return f"{row.task_id} FAILED as never started, and was handed over {len(handed)} times"
    return ""


def only_a_defect_of_an_operator_fails_a_task_as_a_defect(now: Now) -> str:
    """Never a disk, and never the ledger."""
    for key, row in now.attempts.items():
        if row.failure is FailureClass.DEFECT and not any(
            row.created_at - 1 < at < (row.ended_at or at) + 1 for at in now.world.raised_at
        ):
            return f"{key} failed for a defect that no operator had"
    return ""


def _may_run(now: Now, row: AttemptRow) -> bool:
    if row.key not in now.world.work:
        return row.state is not AttemptState.SUBMITTING
    fenced = now.world.folders[row.key].claim == "step"  # its worker comes too late, and runs nothing
    return now.world.is_alive(row.key) and not fenced


def no_more_is_active_than_may_be(now: Now) -> str:
    # What a loop has on record ahead of its time takes no slot; nor does what was refused, or has ended, and was seen by a
    # loop that was killed before it committed that.
    live = [row for row in now.live if row.operator == "local" and _may_run(now, row)]
    most = now.campaign.operators["local"].max_active
    if most is not None and len(live) > most:
        return f"{len(live)} attempts are active, at most {most} may be"
    if len(live) > 1 and sum(row.cpus for row in live) > 4:
        return f"{sum(row.cpus for row in live)} cpus are used of 4"
    return ""


def journal_and_ledger_say_the_same(now: Now) -> str:
    return "" if now.store.lines_after(0) == now.world.journal else "journal and ledger differ"


def a_rebuilt_ledger_is_the_same(now: Now) -> str:
    entries = list(Journal(ROOT / "journal.jsonl").check(now.world.journal))
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.deserialize(empty_ledger())
    again = SQLiteStateStore.over(db, ROOT / "again", now.world.expanded.__getitem__, known=True)
    with again:
        again.replay(entries)
        for table in TABLES:
            where = " WHERE tasks <> 0" if table == "task_counts" else ""
            question = f"SELECT * FROM {table}{where} ORDER BY 1, 2"
            ours, theirs = now.store.db.execute(question).fetchall(), again.db.execute(question).fetchall()
            if ours != theirs:
                pair = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), (ours, theirs))
                return f"rebuilt, {table} has {pair[1]} for {pair[0]}"
    return ""


Invariant = Callable[["Now"], str]

AFTER_EACH_STEP: tuple[Invariant, ...] = (
    no_command_starts_twice,
    at_most_one_live_attempt_for_each_task,
    at_most_one_attempt_of_a_task_runs,
    what_completed_has_its_evidence,
    what_was_fenced_never_runs,
    nothing_runs_that_is_not_on_record,
    a_task_is_active_while_its_attempt_is,
    each_instance_of_a_round_is_there_once,
    nothing_starts_before_what_it_needs,
    nothing_was_made_without_what_it_needs,
    retries_are_bounded,
    nobody_gives_up_on_a_task_whose_commands_were_not_even_handed_over,
    only_a_defect_of_an_operator_fails_a_task_as_a_defect,
    no_more_is_active_than_may_be,
    journal_and_ledger_say_the_same,
)
AT_THE_END: tuple[Invariant, ...] = (a_rebuilt_ledger_is_the_same,)
