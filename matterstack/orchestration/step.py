"""One step of a run, in one direction: look, decide, commit, act, commit, report.

Looking only reads; `core.plan.decide` is pure; nothing is done that was not committed before. A kill between any two of
these leaves what the next step can carry on from (docs/architecture.md).
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from matterstack.core.board import Board
from matterstack.core.events import (
    AttemptChanged,
    AttemptMade,
    Event,
    Key,
    LinksChanged,
    OutputsRemoved,
    TasksChanged,
    Withdrawn,
)
from matterstack.core.model import Evidence, Launch, Observation, Rejection, ResolvedOutput, Sighting, Submission
from matterstack.core.plan import (
    ENDED,
    Ahead,
    Decider,
    Notice,
    Outcome,
    Plan,
    Publication,
    decide,
    decide_handed,
    decide_outcomes,
)
from matterstack.core.reasons import Code, Reason, reason
from matterstack.core.recorded import AttemptRow
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.deferred import changed, dataclass
from matterstack.errors import OperatorUnavailable, RunRootError, SubmissionRejected
from matterstack.operators.base import Operator
from matterstack.orchestration.files import FolderTaken, RunFiles
from matterstack.orchestration.growth import Growing, grow
from matterstack.orchestration.growth import Outcome as Growth
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.profile import HAND_OVER, LOOK, RECORD, Profile, part_of
from matterstack.orchestration.report import StepReport, report_of, report_of_dry_run
from matterstack.orchestration.workshop import RenderedIntent, RunWorkshop
from matterstack.run_root.layout import ENVIRONMENT
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import sentence

if TYPE_CHECKING:
    from matterstack.operators.local import LocalOperator

log = logging.getLogger("matterstack")

_BREATH_S = 0.0002  # between two looks for attempts that ended
_EPOCH_S = 0.01  # after which a loop asks again whether the run is still its own; what slept for longer asks first

Clock = Callable[[], float]

_MOST_READERS = 200  # attempts that are looked at


@dataclass()
class Acted:
    """What came of acting on a plan."""

    seen: dict[Key, Observation] = field(default_factory=dict)
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    started: bool = False  # whether anything was handed over that is recorded later

    @property
    def freed(self) -> bool:
        """Whether something ended of which a task may be handed over again in the same step."""
        return any(item.sighting in (*ENDED, Sighting.NOT_STARTED) for item in self.seen.values())


class Step:
    """The parts of a step over an open ledger; commands of people use some of them.

    ``check`` looks at the ledger before each commit and returns what is wrong with it.
    """

    def __init__(
        self,
        root: Path,
        store: SQLiteStateStore,
        *,
        pool: Pool | None = None,
        files: RunFiles | None = None,
        clock: Clock = time.time,
        workshop: type[RunWorkshop] = RunWorkshop,
        ahead: Ahead | None = None,
        ended: Callable[[], Sequence[Key]] = tuple,
        profile: Profile | None = None,
        paced: bool = True,
        only: Callable[[], Collection[str]] | None = None,
        outcome_of: Callable[[Growing], Growth | None] = Growing.outcome,
    ) -> None:
        self.outcome_of = outcome_of  # of what results make; `Beside` leaves large groups until the lock is free
        self.choose = only  # gives the tasks that may start; without it, all may
        self.only = only() if only is not None else None
        self.ahead = ahead  # of a loop: then what was seen may be committed later, with what comes next
        self.profile = profile
        self._may_refill = True
        self._at_work: set[Key] = set()  # attempts of this machine that are alive
        self.paced = paced  # what costs little is not done again within a moment; the simulator has no such moments
        self.ended = ended  # attempts that ended since it was asked last, in whose place the next are handed over
        self.root = root
        self.store = store
        self.pool = pool or Pool(store)
        self.files = files or RunFiles(root)
        self.workshop = workshop
        self.now = clock()

    def take(self, plans: list[Plan] | None = None) -> StepReport:
        """Take the step. Raises RunRootError if the disk refuses everything that was to be handed over.

        ``plans`` are those of its first part, if what `Beside` left was made since: the report tells of them as well.
        """
        plans = [] if plans is None else plans
        started_before = any(plan.submitted for plan in plans)
        was_open = self._keeps_temporary()
        if self.ahead is None:
            self.withdraw()
        else:
            self.pool.notices += self.ahead.notices
            self.ahead.notices.clear()
        board, acted = self._pass(plans)
        if acted.freed and board.startable():
            # What was fenced or ended may run again at once: by a pass like any other.
            board, again = self._pass(plans)
            acted.outcomes.update(again.outcomes)
            acted.started |= again.started
        while (
            not board.run.paused
            and board.run.cancelled is False
            and grow(self.store, self.files, self.now, self.decider, self.outcome_of)
        ):
            # What was made may start at once, and so decide more.
            self.only = self.choose() if self.choose is not None else None
            board, again = self._pass(plans)
            acted.outcomes.update(again.outcomes)
            acted.started |= again.started
        if was_open and not self._keeps_temporary():
            self.remove_temporary()  # also of what was read before
        report = report_of(self.root, board, plans, self.pool.notices)
        if not acted.started and not started_before:
            self._raise_if_all_is_refused(acted.outcomes)
        return report

    def refill(self) -> None:
        """Hand over what is on record ahead of its time, in the place of attempts that ended.

        Nothing is committed: what came of it is in `Ahead.handed` for the next step. One that takes more than what ended
        is left to that as well. A step does so between its parts as well, so that no slot waits for it.
        """
        if self.ahead is None:
            return
        self.ahead.looked = now = time.monotonic()
        over = [key for key in self.ended() if key in self.ahead.places]
        self.ahead.places.difference_update(over)
        places = [self.ahead.running[key] for key in over]
        if places and self.ahead.intents and (not self.paced or now - self.ahead.checked > _EPOCH_S):
            self.store.require_epoch()
            self.ahead.checked = now
        with part_of(self.profile, HAND_OVER) if places else nullcontext():
            self._fill(places)

    def _breathe(self) -> None:
        """Refill, unless that was done this very moment: it is called after each small part of a step."""
        if (
            self._may_refill
            and self.ahead is not None
            and (not self.paced or time.monotonic() - self.ahead.looked > _BREATH_S)
        ):
            self.refill()

    def _fill(self, places: Iterable[AttemptMade]) -> None:
        assert self.ahead is not None
        for place in places:
            self.ahead.free += 1
            while (intent := self.ahead.next_for(place)) is not None:
                plan, acted = Plan(), Acted()
                del self.ahead.intents[intent.key]
                self._hand_over([cast("RenderedIntent", intent)], plan, acted)
                self.ahead.notices += plan.notices
                self.ahead.handed |= acted.outcomes
                if not isinstance(acted.outcomes.get(intent.key), Rejection):  # it may run, also where that is unknown
                    self.ahead.free -= 1
                    self.ahead.replaced += 1
                    break

    def record_handed(self) -> None:
        """Record what came of hand-overs since the last step, before the ledger is let go; nothing more is handed over."""
        if self.ahead is not None and self.ahead.handed:
            self._may_refill = False
            board = self._board()
            seen, evidence, _ = self._look(board, ())
            self._commit(decide_handed(board, self._workshop(board), seen, evidence, self.now, self.ahead))

    def withdraw(self, also: Iterable[Key] = ()) -> None:
        """Take back the intents of a loop that was killed, of which nothing was made, and ``also`` these of our own."""
        keys = [*also]
        for row in self.store.submitting():
            if row.key not in keys and self._is_local(row.campaign_version, row.operator):
                try:
                    keys += [] if self.files.has_folder(row.key) else [row.key]
                except OSError:  # it cannot be told: its claim decides
                    continue
        if keys:
            self.store.append([Withdrawn(tuple(keys))], self.now)

    def _is_local(self, version: int, operator: str) -> bool:
        return self.store.operators(version)[operator].row.on_this_machine

    def is_local(self, row: AttemptRow) -> bool:
        """Return whether an attempt runs on this machine."""
        return self._is_local(row.campaign_version, row.operator)

    def preview(self) -> StepReport:
        """Return what a step would do; it ends where anything would be written."""
        board, plan, seen = self._decide()
        running = [key for key, item in seen.items() if item.sighting is Sighting.RUNNING]
        return report_of_dry_run(self.root, board, plan, running, self.pool.notices)

    def decider(self) -> Decider:
        """Return what a person's command decides with, over the ledger as it is."""
        board = self._board()
        return Decider(board, self._workshop(board), self.now)

    def end_wished(self) -> None:
        """End the attempts that somebody wants ended, and record what is seen of them; nothing else happens."""
        wished = [row for row in self.store.live_attempts() if row.wish]
        seen = self.pool.ask(lambda operator, live: operator.cancel(live), wished, self._folders(wished))
        self.record(seen)

    def look(self) -> dict[Key, Observation]:
        """Return what is seen of the live attempts; nothing is recorded."""
        live = self.store.live_attempts()
        return self.pool.observe(live, (), self._folders(live))

    def record(self, seen: Mapping[Key, Observation]) -> None:
        """Record what was seen of live attempts; nothing is handed over."""
        board = self._board()
        evidence = self._gather(board.live, seen)
        self._commit(decide_outcomes(board, self._workshop(board), seen, evidence, {}, self.now, unlooked=False))

    def _board(self) -> Board:
        board = Board(self.store, self.ahead.intents if self.ahead is not None else (), self.only)
        self._at_work = {row.key for row in board.live if self.is_local(row)}
        return board

    # --- the way of a step ---

    def _pass(self, plans: list[Plan]) -> tuple[Board, Acted]:
        """Look, decide, commit, act, commit; return the ledger as it is then, and what came of acting."""
        with part_of(self.profile, LOOK):
            board, plan, _ = self._decide()
        with part_of(self.profile, RECORD):
            committed = self._commit(plan)
        with part_of(self.profile, HAND_OVER):
            acted = self._act(plan)
        plans.append(plan)
        board = self._board() if committed or plan.queued else board
        if self.ahead is not None:
            # What runs here is recorded with what comes next; what was asked of others, or refused, is decided now.
            handed = {key: acted.outcomes[key] for key in self.ahead.places if key in acted.outcomes}
            self.ahead.handed |= handed
            acted.started = bool(handed)
            acted.outcomes = {key: item for key, item in acted.outcomes.items() if key not in handed}
        if acted.seen or acted.outcomes:
            evidence = self._gather(board.live, acted.seen)
            second = decide_outcomes(board, self._workshop(board), acted.seen, evidence, acted.outcomes, self.now)
            board = self._board() if self._commit(second) else board
            plans.append(second)
        return board, acted

    def _decide(self) -> tuple[Board, Plan, dict[Key, Observation]]:
        board = self._board()
        awaited = self.store.awaited_attempts()
        seen, evidence, folders = self._look(board, awaited)
        plan = decide(board, self._workshop(board), awaited, folders, seen, evidence, self.now, self.ahead)
        return board, plan, seen

    def _look(
        self, board: Board, awaited: Sequence[AttemptRow]
    ) -> tuple[dict[Key, Observation], dict[Key, Evidence | Reason], dict[Key, str]]:
        """Return what is seen of attempts, what the files of those that ended show, and where they are."""
        folders = self._folders([*board.live, *awaited])
        handed = self.ahead.handed if self.ahead is not None else {}
        live = [_handed_over(row, handed) for row in board.live] if handed else board.live
        seen = self.pool.observe(live, awaited, folders)
        for key, item in handed.items():
            if key in seen and isinstance(item, Submission):
                seen[key] = changed(seen[key], handle=item.handle)
        if self.ahead is not None:
            self.ahead.replaced = self.ahead.free = 0
            alive = {row.key for row in board.live}
            for key in [*self.ahead.running]:
                if key not in alive or (key in seen and seen[key].sighting in ENDED):
                    del self.ahead.running[key]  # its place is taken by what is decided now, or by another command
                    self.ahead.places.discard(key)
        return seen, self._gather([*board.live, *awaited], seen), folders

    def _workshop(self, board: Board) -> RunWorkshop:
        return self.workshop(self.store, board, self.pool, self.files, self.now, self._breathe)

    def _folders(self, rows: Iterable[AttemptRow]) -> dict[Key, str]:
        return {row.key: self.files.folder(row.key) for row in rows}

    def _gather(self, rows: Sequence[AttemptRow], seen: Mapping[Key, Observation]) -> dict[Key, Evidence | Reason]:
        """Read the files of attempts that ended; nothing is written."""
        evidence: dict[Key, Evidence | Reason] = {}
        for row in rows:
            found = seen.get(row.key)
            if found is None or found.sighting not in ENDED or found.leave:
                continue
            good = found.sighting is Sighting.ENDED and found.is_good
            ours = not self.store.operators(row.campaign_version)[row.operator].row.asks
            outputs = self._declared(row) if good else {}
            item = self.files.evidence(row.key, found, outputs, self.now, ours=ours)
            if isinstance(item, Evidence) and found.response is not None:
                item = changed(item, response=found.response)
            restart = None if good else self.store.spec_of(row.task_id, row.campaign_version).restart
            if restart is not None and isinstance(item, Evidence):
                item = changed(item, stalled=self.files.has_stalled(row.key, restart.files))
            evidence[row.key] = item
            self._breathe()
        return evidence

    def _declared(self, row: AttemptRow) -> Mapping[str, ResolvedOutput]:
        """Return the outputs that an attempt was asked for: of one from before an amendment, its task.json has them."""
        if self.store.newest_version() > 1 and not self.store.is_as_asked(row):
            found = self.files.declared(row.key)
            if found is not None:
                return found
        return self.store.outputs_of(row.task_id)

    # --- commits ---

    def _commit(self, plan: Plan) -> bool:
        """Publish results, commit the events, keep tracebacks; return whether there was anything to record.

        Links are swapped before the commit: one that is swapped too early is swapped again by the next step, one that
        is swapped too late would be forgotten.
        """
        most = self.store.newest_campaign().git_max_size if plan.publications else 0
        unlinked = {item.task_id: self._publish(item, plan, most) for item in plan.publications}
        if plan.events:
            error = self.files.keep_from_git(self._at_work_after(plan))
            if error:
                plan.notices.append(Notice("", reason(Code.GITIGNORE_UNWRITABLE, error=error)))
        events: list[Event] = [
            changed(event, unlinked=unlinked[event.task])
            if isinstance(event, AttemptChanged)
            and event.state is AttemptState.COMPLETED
            and unlinked[event.task] != event.unlinked
            else event
            for event in plan.events
        ]
        events += self._link_again({event.task for event in events if isinstance(event, AttemptChanged)})
        # Nothing is acted on that is not committed.
        acts = bool(plan.intents or plan.ahead or plan.fences or plan.ends or plan.leave)
        written = self.store.append(events, self.now, sync=acts or self.ahead is None, between=self._breathe)
        if self.ahead is not None:
            self.ahead.intents |= {intent.made.key: intent for intent in plan.ahead}
            for key in plan.recorded:
                del self.ahead.handed[key]
        for key, text in plan.defects.items():
            self.files.write_defect(key, text)
        self._remove_temporary_after(events)
        return written > 0

    def _remove_temporary_after(self, events: Sequence[Event]) -> None:
        done = [event.becomes.task_id for event in events if isinstance(event, AttemptChanged) and event.becomes is not None
                and event.becomes.state is TaskState.COMPLETED]  # fmt: skip
        done += [
            task
            for event in events
            if isinstance(event, TasksChanged) and event.state is TaskState.SKIPPED
            for task in event.tasks
        ]
        if done:
            self.remove_temporary(done)

    def _keeps_temporary(self) -> bool:
        """Return whether there are temporary outputs that instances which are not known yet may read."""
        campaign = self.store.newest_campaign()
        return campaign.has_unknown and campaign.has_temporary and self.store.has_open_plans()

    def remove_temporary(self, done: Iterable[str] | None = None) -> None:
        """Remove temporary outputs, of those that ``done`` have read, or of all, which no task needs any longer; the record comes first."""
        if not self.store.newest_campaign().has_temporary or self.store.has_open_plans():
            return
        found = self.store.removable(self.store.task_ids() if done is None else done)
        if not found:
            return
        self.store.append([OutputsRemoved(tuple(item[:3] for item in found))], self.now)
        for task_id, attempt, _, file, path in found:
            self.files.remove_output((task_id, attempt), file, path)

    def _publish(self, item: Publication, plan: Plan, most: int) -> Reason:
        """Set the links of an attempt that ended; look for its files above ``most`` bytes, for git."""
        self._breathe()
        key = (item.task_id, item.attempt)
        why = Reason()
        if item.completed:
            declared = {output.path for output in self.store.outputs_of(item.task_id).values()}
            if self.store.newest_version() > 1:
                declared |= set(self.store.left_paths(item.task_id))
            why = self.files.publish(key, item.outputs, declared)
            if why:
                plan.notices.append(Notice(item.task_id, reason(Code.RETRIED_LATER, because=why)))
        self.files.note_large(key, most)
        return why

    def _at_work_after(self, plan: Plan) -> set[Key]:
        """Return the attempts whose commands may be writing once a plan is carried out; of this machine alone."""
        keys = self._at_work - {(item.task_id, item.attempt) for item in plan.ended}
        ahead = self.ahead.intents.values() if self.ahead is not None else ()
        for intent in (*plan.intents, *plan.queued, *plan.ahead, *ahead):
            if self._is_local(cast("RenderedIntent", intent).version, intent.made.operator):
                keys.add(intent.key)
        return keys

    def _link_again(self, but: set[str]) -> Iterable[LinksChanged]:
        """Set the links that an earlier step could not; a reason that stays the same is not recorded again."""
        for row in self.store.unlinked():
            published = self.store.published(row.task_id)
            if row.task_id in but or published is None or published[0] != row.attempt:
                continue
            why = self.files.publish(row.key, self.store.published_files(row.task_id), ())
            if why != row.unlinked:
                yield LinksChanged(*row.key, why)

    # --- acting ---

    def _act(self, plan: Plan) -> Acted:
        acted = Acted()
        if plan.queued:
            self.store.require_epoch()
        folders = self._folders([*plan.fences, *(end.operator for end in plan.ends)])
        acted.seen.update(self.pool.ask(lambda operator, live: operator.recover(live), plan.fences, folders))
        self._end(plan, folders, acted)
        for row, seen in plan.leave:
            acted.seen[row.key] = self._leave(row, seen)
        self._hand_over(cast("list[RenderedIntent]", [*plan.queued, *plan.intents]), plan, acted)
        return acted

    def _end(self, plan: Plan, folders: Mapping[Key, str], acted: Acted) -> None:
        """End attempts, claiming them first. One whose time is over may have been answered until then: that counts."""
        rows = [end.operator for end in plan.ends]
        found = self.pool.ask(lambda operator, live: operator.cancel(live), rows, folders)
        for end in plan.ends:
            now = found.get(end.live.key)
            if now is None:  # an answer is being written this moment, or it could not be told: the next step decides
                continue
            answered = end.instead is None or (now.sighting is Sighting.ENDED and now.is_good)
            acted.seen[end.live.key] = now if answered or end.instead is None else end.instead

    def _leave(self, row: AttemptRow, seen: Observation) -> Observation:
        """Write the files that an operator wants there first; without them nothing is decided."""
        try:
            if self.files.leave(row.key, seen.leave):
                return changed(seen, leave={})
            why = reason(Code.OTHER_CONTENT, files=list(seen.leave))  # somebody was faster: the next step reads it
        except OSError as error:
            why = reason(Code.CANNOT_RECORD, what=", ".join(seen.leave), error=error.strerror or str(error))
        return Observation(Sighting.UNKNOWN, reason=why)

    def _hand_over(self, intents: Sequence[RenderedIntent], plan: Plan, acted: Acted) -> None:
        batches: dict[tuple[int, str], list[Launch]] = {}
        for intent in intents:
            try:
                launch = self._prepare(intent)
            except FolderTaken:  # by a step that took over, or was taken over: the claim decides whose it is
                continue
            if isinstance(launch, Rejection):
                acted.outcomes[intent.key] = launch
            else:
                batches.setdefault((intent.version, intent.made.operator), []).append(launch)
        by_key = {intent.key: intent for intent in intents}
        for (version, name), launches in batches.items():
            defect = self._submit(self.pool.of(version, name), name, launches, plan, acted)
            if self.ahead is not None and self._is_local(version, name):
                started = [key for key in by_key if isinstance(acted.outcomes.get(key), Submission)]
                self.ahead.running |= {key: by_key[key].made for key in started}
                self.ahead.places.update(started)
            if defect is not None:
                unknown = [
                    by_key[i.task_id, i.attempt] for i in launches if (i.task_id, i.attempt) not in acted.outcomes
                ]
                self._fence(unknown, *defect, acted)

    def _devices(self, intent: RenderedIntent) -> list[str] | Rejection:
        """Return the GPUs of an attempt, which no other has: those of live attempts are in their task.json."""
        asked = intent.resources.gpus
        if not asked or not self._is_local(intent.version, intent.made.operator):
            return []
        taken: set[str] = set()
        for row in self.store.live_attempts():
            if row.gpus and row.key != intent.key:
                try:
                    taken |= set(self.files.devices(row.key))
                except OSError as error:
                    why = reason(Code.CANNOT_RECORD, what="task.json", error=error.strerror or str(error))
                    return Rejection(why, retry_later=True)
        operator = cast("LocalOperator", self.pool.of(intent.version, intent.made.operator))
        free = [device for device in operator.devices() if device not in taken]
        if len(free) < asked:
            return Rejection(reason(Code.NO_DEVICES, asked=asked, free=len(free)), retry_later=True)
        return free[:asked]

    def _prepare(self, intent: RenderedIntent) -> Launch | Rejection:
        outputs = intent.instance.outputs.values()
        devices = self._devices(intent)
        if isinstance(devices, Rejection):
            return devices
        task_json, env = intent.task_json, intent.env
        if devices:
            names = ",".join(devices)
            env = {"CUDA_VISIBLE_DEVICES": names, "ROCR_VISIBLE_DEVICES": names, **env}
            task_json = {**task_json, "devices": devices, "env": sorted(env)}
        if self._is_local(intent.version, intent.made.operator):
            task_json = {**task_json, ENVIRONMENT: self.files.environment(env.get("PATH"))}
        wrong = self.files.make_folder(
            intent.key, task_json, intent.rendered.script, outputs, intent.copies, intent.rendered.lists, intent.stamps
        )
        if wrong is not None:
            return self._with_readers(wrong)
        return Launch(
            task_id=intent.key[0],
            attempt=intent.key[1],
            folder=self.files.folder(intent.key),
            argv=intent.rendered.argv,
            env=env,
            resources=intent.resources,
            outputs=tuple(output.file for output in outputs),
            background=intent.background,
            warn_s=intent.warn_s,
        )

    def _with_readers(self, wrong: Rejection) -> Rejection:
        """Name who has read an input that was changed: one of them may have done it."""
        upstream = wrong.reason["upstream"]
        if wrong.failure is not FailureClass.INPUT_CHANGED or not upstream:
            return wrong
        path = str(wrong.reason["path"])
        candidates = self.store.readers_of(str(upstream))[:_MOST_READERS]
        readers = list(dict.fromkeys(key[0] for key in candidates if self.files.is_input(key, path)))
        return changed(wrong, reason=reason(wrong.reason.code, **{**wrong.reason.values, "readers": readers[:20]}))

    def _submit(
        self, operator: Operator, name: str, launches: Sequence[Launch], plan: Plan, acted: Acted
    ) -> tuple[str, str] | None:
        """Hand a batch over; return (error, traceback) if the operator raised what it should not."""
        try:
            outcomes = operator.submit(launches)
        except OperatorUnavailable as error:
            plan.notices.append(Notice("", reason(Code.HAND_OVER_UNKNOWN, operator=name, error=str(error))))
            return None
        except Exception as error:  # a defect of one operator: its attempts are fenced, the others go on
            log.debug("operator '%s'", name, exc_info=True)
            text = f"{type(error).__name__}: {error}"
            plan.notices.append(Notice("", reason(Code.HAND_OVER_RAISED, operator=name, error=text)))
            return text, traceback.format_exc()
        for key, outcome in outcomes.items():
            acted.outcomes[key] = _outcome(outcome)
        return None

    def _fence(self, intents: Sequence[RenderedIntent], error: str, text: str, acted: Acted) -> None:
        """Fail attempts whose operator raised a defect, once it is certain that they never start."""
        rows = [row for intent in intents if (row := self.store.attempt(*intent.key)) is not None]
        seen = self.pool.ask(lambda operator, live: operator.recover(live), rows, self._folders(rows))
        for row in rows:
            if row.key in seen and seen[row.key].sighting is Sighting.NOT_STARTED:
                self.files.write_defect(row.key, text)
                acted.outcomes[row.key] = Rejection(
                    reason(Code.DEFECT, during="the operator", error=error), is_defect=True
                )

    def _raise_if_all_is_refused(self, outcomes: Mapping[Key, Outcome]) -> None:
        refused = [item for item in outcomes.values() if isinstance(item, Rejection) and item.retry_later]
        if refused and len(refused) == len(outcomes):
            why = sentence(refused[0].reason, self.root)
            raise RunRootError(f"nothing could be handed over: {why}; the next step will retry")


def _handed_over(row: AttemptRow, handed: Mapping[Key, Outcome]) -> AttemptRow:
    """Return an attempt as it is, although its hand-over may not be on record yet."""
    outcome = handed.get(row.key)
    return changed(row, state=outcome.state, handle=outcome.handle) if isinstance(outcome, Submission) else row


def _outcome(outcome: Submission | SubmissionRejected) -> Outcome:
    if isinstance(outcome, Submission):
        return outcome
    return Rejection(reason(Code.REJECTED, text=str(outcome)), retry_later=outcome.retry_later)


def take_and_tell(step: Step, told: Collection[str] = (), plans: list[Plan] | None = None) -> StepReport:
    """Take a step and log its warnings; ``told`` are those of the step before, which a loop does not repeat."""
    report = step.take(plans)
    for warning in report.warnings:
        if warning not in told:
            log.warning("%s", warning)
    return report
