"""One history: a random campaign, stepped through faults until they stop, and then until it ends."""

from __future__ import annotations

import copy
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from matterstack.core.events import Adopted, Paused, Resumed, RetriesReset, Uncancelled, Wished
from matterstack.core.model import TaskChange
from matterstack.core.reasons import Code, reason
from matterstack.core.states import ACTIVE, TaskState
from matterstack.errors import JournalError, LedgerTakenOverError, MatterStackError, RunRootError
from matterstack.orchestration.actions import Reset
from matterstack.simulation.chance import Chance
from matterstack.simulation.run import SimulatedRun
from matterstack.simulation.world import Killed, World
from matterstack.storage.journal import parse
from tests.simulation.campaigns import campaign
from tests.simulation.invariants import AFTER_EACH_STEP, AT_THE_END, Now

MOST_FAULTY_STEPS = 8
MOST_QUIET_STEPS = 150
QUIET_STEP_S = 90.0  # most attempts end, and most delays are over, within one


def _of_sqlite(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


_NO_SPACE = OSError(28, "No space left on device")
_CAN_FAIL = {
    "read": _of_sqlite("disk I/O error", sqlite3.SQLITE_IOERR),
    "commit": _of_sqlite("database or disk is full", sqlite3.SQLITE_FULL),
    "journal": _NO_SPACE,
    "journal line": _NO_SPACE,
    "task.json": _NO_SPACE,
    "link": OSError(5, "Input/output error"),
}
_OUTSIDE_OF_TRANSACTIONS = ("journal", "folder", "task.json", "start", "started", "claim", "ask")


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Faults:
    """Kills, errors and second steppers, each at one effect; `fired` says which happened."""

    chance: Chance
    left_out: frozenset[str] = frozenset()
    fired: list[str] = field(default_factory=list)
    on: bool = True
    counts: Counter[str] = field(default_factory=Counter)

    def at(self, effect: str) -> str:
        """Give the fault at the next effect of this name, "" for none."""
        self.counts[effect] += 1
        number = self.counts[effect]
        roll = self.chance.roll("fault", effect, number)
        kind = "kill" if roll < 0.04 else "error" if roll < 0.06 else "second" if roll < 0.075 else ""
        if kind == "error" and effect not in _CAN_FAIL:
            kind = ""
        if kind == "second" and effect not in _OUTSIDE_OF_TRANSACTIONS:
            kind = ""
        name = f"{kind} at {effect} {number}"
        if not kind or not self.on or name in self.left_out:
            return ""
        self.fired.append(name)
        return kind


class History:
    def __init__(self, seed: int, left_out: Iterable[str] = (), groups_left_out: Iterable[str] = ()) -> None:
        self.seed = seed
        self.chance = Chance(seed)
        self.world = World(self.chance)
        self.faults = Faults(self.chance, frozenset(left_out))
        self.run = SimulatedRun(self.world)
        self.run.reruns = False
        self.log: list[str] = []
        self.groups_left_out = frozenset(groups_left_out)
        self._has_plans = False
        self._nested = False
        self._checked = (0, 0)
        self._adopted_from: tuple[SimulatedRun, World] | None = None

    def play(self) -> Counter[tuple[str, str]]:
        """Play the history; give which moves of attempts it made. Raises Broken."""
        made, instances = campaign(self.seed, self.groups_left_out)
        self._has_plans = made.has_unknown
        self.run.create(made, instances)
        self.world.before = self._before
        for number in range(MOST_FAULTY_STEPS):
            self._wait(number)
            self._people(number)
            self._step(number)
        self.faults.on = False
        self._to_its_end()
        moves = self._moves()
        self.run.close()
        return moves

    # --- faults ---

    def _before(self, effect: str) -> None:
        fault = self.faults.at(effect) if not self._nested else ""
        if fault == "kill":
            raise Killed(effect)
        if fault == "error":
            raise copy.copy(_CAN_FAIL[effect])
        if fault == "second" and not self.run.db.in_transaction:  # this process sleeps, and another takes the lock over
            self._nested = True
            try:
                self.run.step()
            except MatterStackError as error:
                self.log.append(f"  second stepper: {error}")
            finally:
                self._nested = False
        self._checked = (0, 0)

    # --- time ---

    def _wait(self, number: int) -> None:
        self.world.now += self.chance.roll("wait", number) * 12
        for key in list(self.world.work):
            self.world.catch_up(key)

    def _step(self, number: int) -> None:
        self.log.append(f"step {number} at {self.world.now - 1_800_000_000:.0f} s")
        try:
            if self.chance.happens(0.4, "loop", number):
                self._loop(number)
            else:
                self.log.append(f"  {self.run.step().line()}")
        except Killed as error:
            self.log.append(f"  killed at {error}")
        except LedgerTakenOverError:
            self.log.append("  stopped: another process has taken over")
        except MatterStackError as error:
            self.log.append(f"  {type(error).__name__}: {error}")
        self._check()

    def _loop(self, number: int) -> None:
        """Take some steps as a loop does: the ledger stays open, and what was seen is committed with what comes next."""
        store, step, ahead = self.run.hold(self.chance.number(0, 4, "ahead", number))
        step().withdraw()
        try:
            for tick in range(self.chance.number(1, 4, "ticks", number)):
                self.log.append(f"  in a loop: {step().take().line()}")
                if self.chance.happens(0.3, "flush", number, tick):
                    store.flush()
                for moment in range(self.chance.number(1, 4, "moments", number, tick)):
                    self.world.now += self.chance.roll("moment", number, tick, moment) * 6
                    for key in list(self.world.work):
                        self.world.catch_up(key)
                    step().refill()
        except MatterStackError:
            with suppress(MatterStackError):
                step().record_handed()
                step().withdraw(ahead.intents)
                store.flush()
            raise
        step().record_handed()
        step().withdraw(ahead.intents)
        store.flush()

    def _check(self) -> None:
        started = sum(work.started for work in self.world.work.values())
        if (len(self.world.journal), started) == self._checked:
            return  # nothing was recorded and nothing began since
        self._checked = (len(self.world.journal), started)
        faults, self.faults.on = self.faults.on, False
        try:
            store = self.run.open()  # as the next process finds it
            now = Now(self.run, store)
            for invariant in AFTER_EACH_STEP:
                wrong = invariant(now)
                if wrong:
                    raise Broken(f"{invariant.__name__}: {wrong}")
        finally:
            self.faults.on = faults

    # --- people ---

    def _people(self, number: int) -> None:
        """Pause, resume, cancel, rerun, or adopt a copy: each is events through the same door."""
        roll = self.chance.roll("people", number)
        try:
            if roll < 0.05:
                self._act(number, "pause")
            elif roll < 0.15:
                self._act(number, "resume")
            elif roll < 0.19:
                self._act(number, "cancel")
            elif roll < 0.25:
                self._act(number, "rerun")
            elif roll < 0.28:
                self._adopt()
            elif roll < 0.38:
                self._amend(number)
        except Killed as error:
            self.log.append(f"  killed at {error}")
        except MatterStackError as error:
            self.log.append(f"  {type(error).__name__}: {error}")

    def _act(self, number: int, what: str) -> None:
        self.log.append(what)
        step = self.run.process()
        store = step.store
        rows = store.tasks()
        chosen = [row for row in rows if self.chance.happens(0.4, what, number, row.task_id)]
        if what == "pause":
            store.append(
                [Paused() if self.chance.happens(0.5, "all", number) else Paused(tuple(r.task_id for r in rows[:1]))],
                step.now,
            )
        elif what == "resume":
            store.append([Resumed(), Resumed(tuple(row.task_id for row in rows))], step.now)
        elif what == "cancel":
            live = [row for row in chosen if row.state in ACTIVE]
            waiting = [row for row in chosen if row.state in (TaskState.PENDING, TaskState.READY)]
            decider = step.decider()
            why = reason(Code.CANCELLED)
            made = decider.change_tasks(waiting, [TaskChange(row.task_id, TaskState.CANCELLED, why) for row in waiting])
            decider.settle(made, unlooked=False)
            wishes = [Wished(tuple((row.task_id, row.attempts) for row in live), "cancel")] if live else []
            store.append([*wishes, *decider.plan.events], step.now)
            step.end_wished()
        elif store.newest_campaign().has_unknown:
            self.run.reruns = True
            names = [row.task_id for row in chosen if row.state is not TaskState.RETIRED]
            reset = Reset.of(store, names, downstream=self.chance.happens(0.5, "downstream", number))
            reset.carry_out(step)
        else:
            self.run.reruns = True
            settled = [row for row in chosen if row.state.is_settled]
            live = [row for row in chosen if row.state in ACTIVE]
            below = [row for row in rows if row.state in (TaskState.PENDING, TaskState.READY, TaskState.BLOCKED, TaskState.SKIPPED)
                     and row.retry_at is None and row not in settled]  # fmt: skip
            decider = step.decider()
            again = [*settled, *below]
            decider.change_tasks(again, [TaskChange(row.task_id, TaskState.PENDING) for row in again])
            events = [Uncancelled(), *([Wished(tuple((r.task_id, r.attempts) for r in live), "rerun")] if live else []),
                      *([RetriesReset(tuple(row.task_id for row in chosen))] if chosen else [])]  # fmt: skip
            store.append([*events, *decider.plan.events], step.now)
            step.end_wished()

    def _amend(self, number: int) -> None:
        """Take a new version of the campaign: what it does not concern stands on the same attempts as before."""
        if self._has_plans:  # `tests/test_growth_random.py` amends those
            return
        self.log.append("amend")
        store = self.run.open()
        self.run.reruns = True
        before = {row.task_id: row for row in store.tasks() if row.state is TaskState.COMPLETED}
        old = store.newest_campaign()
        made, instances = campaign(self.seed, self.groups_left_out, store.newest_version() + 1)
        self.run.amend(made, instances, cancel_gone=self.chance.happens(0.3, "cancel gone", number))
        now = {row.task_id: row for row in self.run.open().tasks()}
        there = {item.task_id for item in instances}
        if set(now) != there:
            raise Broken(f"after an amendment there are {sorted(now)}, the campaign has {sorted(there)}")
        for task_id, row in before.items():
            if (
                task_id in there
                and made.tasks[row.group].command == old.tasks[row.group].command
                and (now[task_id].state is not TaskState.COMPLETED or now[task_id].result != row.result)
            ):
                raise Broken(
                    f"{task_id} was COMPLETED by attempt {row.result}, and is {now[task_id].state} after an amendment"
                )

    def _adopt(self) -> None:
        """A clone becomes the home: a ledger made from the journal alone. The old home must stop when it sees that."""
        before = self.faults.on
        self.faults.on = False
        store = self.run.open()
        if store.active():
            self.faults.on = before
            return
        self.log.append("adopt a clone")
        clone = SimulatedRun(self.world, "home-2")
        clone.reruns = self.run.reruns
        empty = clone.empty()
        empty.replay([parse(line) for line in self.world.journal])
        clone.open().append([Adopted("home-2", "other", "/clone", 2, "", None)], self.world.now)
        old, self.run = self.run, clone
        try:
            old.step()
        except JournalError:
            pass
        else:
            raise Broken("the old home goes on after the run was adopted")
        finally:
            self.faults.on = before
        old.close()

    # --- the end ---

    def _to_its_end(self) -> None:
        """Once the faults have stopped the run must end, within a bounded number of steps."""
        store = self.run.open()
        store.append([Resumed(), Resumed(tuple(store.task_ids()))], self.world.now)
        for _ in range(MOST_QUIET_STEPS):
            self.world.now += QUIET_STEP_S
            for key in list(self.world.work):
                self.world.catch_up(key)
            if self._quiet_step():
                break
        else:
            raise Broken(f"liveness: not over after {MOST_QUIET_STEPS} quiet steps")
        store = self.run.open()
        lines, awaited = store.last_seq(), bool(store.awaited_attempts())
        for _ in range(2):
            self.world.now += 100.0
            self._quiet_step()
        # A lost attempt may still turn up, and a link may still be set; nothing else happens to a run that is over.
        later = [parse(line).event.kind for line in self.run.open().lines_after(lines)]
        if set(later) - {"links_changed", "attempt_changed", "tasks_changed"} and not awaited:
            raise Broken(f"a run that is over changed: {later}")
        for invariant in AT_THE_END:
            wrong = invariant(Now(self.run, self.run.open()))
            if wrong:
                raise Broken(f"{invariant.__name__}: {wrong}")

    def _quiet_step(self) -> bool:
        """Take a step without faults; give whether the run is over. Work may still be refused."""
        try:
            report = self.run.step()
        except RunRootError as error:
            self.log.append(f"  {error}")
            return False
        self.log.append(f"  {report.line()}")
        self._check()
        return report.state.is_over

    def _moves(self) -> Counter[tuple[str, str]]:
        states: dict[tuple[str, int], str] = {}
        moves: Counter[tuple[str, str]] = Counter()
        for line in self.world.journal:
            event = json.loads(line)
            if event["kind"] == "attempt_made":
                states[event["task"], event["attempt"]] = "SUBMITTING"
            elif event["kind"] == "attempt_changed":
                key = (event["task"], event["attempt"])
                if states[key] != event["state"]:
                    moves[states[key], event["state"]] += 1
                states[key] = event["state"]
        return moves


def shortest(seed: int) -> tuple[History, BaseException] | None:
    """Give the shortest failing history that can be found for a seed by leaving faults and groups out; None if it holds."""
    found = _failure(seed, (), ())
    if found is None:
        return None
    left_out: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    for group in [*(f"t{number}" for number in range(7)), "plans"]:
        again = _failure(seed, left_out, (*groups, group))
        if again is not None:
            groups, found = (*groups, group), again
    for fault in list(found[0].faults.fired):
        again = _failure(seed, (*left_out, fault), groups)
        if again is not None:
            left_out, found = (*left_out, fault), again
    return found


def _failure(seed: int, left_out: tuple[str, ...], groups: tuple[str, ...]) -> tuple[History, BaseException] | None:
    history = History(seed, left_out, groups)
    try:
        history.play()
    except Exception as error:
        return history, error
    return None
