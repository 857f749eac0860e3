"""Operators of the pretended world. They keep the promises of `operators.base`, and use all the freedom that these leave:
answers come late, partly or not at all, and work is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from matterstack.core.model import Launch, LiveAttempt, Observation, OperatorSpec, Sighting, Submission
from matterstack.core.reasons import Code, reason, said
from matterstack.core.states import AttemptState, FailureClass
from matterstack.errors import OperatorUnavailable, SubmissionRejected
from matterstack.operators.base import Key
from matterstack.simulation.world import Folder, World


class SimulatedOperator:
    """Machines: a worker claims its folder and runs; what ended leaves a record, now and then only later."""

    def __init__(self, spec: OperatorSpec, world: World) -> None:
        self.spec = spec
        self.world = world

    def origin(self) -> str:
        return "{}"

    def slots(self) -> tuple[int | None, int | None]:
        return self.spec.slot_cpus, None

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        return ()

    # --- handing over ---

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        out: dict[Key, Submission | SubmissionRejected] = {}
        chance = self.world.chance
        for launch in launches:
            key = (launch.task_id, launch.attempt)
            self.world.before("start")
            if chance.happens(0.02, "refused", key):
                out[key] = SubmissionRejected("no more processes", retry_later=True)
                continue
            if chance.happens(0.01, "rejected", key):
                out[key] = SubmissionRejected("no such partition")
                continue
            self._start(key)
            self.world.before("started")
            if chance.happens(0.02, "operator raises", key):
                self.world.raised_at.append(self.world.now)
                raise RuntimeError("the operator has a defect")
            if chance.happens(0.02, "outcome unknown", key):
                continue
            state = AttemptState.RUNNING if chance.happens(0.5, "at once", key) else AttemptState.SUBMITTED
            out[key] = Submission(json.dumps({"job": f"{key[0]}.{key[1]}"}), state)
        return out

    def _start(self, key: Key) -> None:
        chance = self.world.chance
        runs_s = 1.0 + chance.roll("runs", key) * 20
        fails = chance.happens(0.2, "fails", key)
        self.world.hand_over(key, runs_s, chance.choice((1, 2, 137), "code", key) if fails else 0)

    # --- looking ---

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        chance, moment = self.world.chance, int(self.world.now)
        if chance.happens(0.02, "away", moment):
            raise OperatorUnavailable("the scheduler does not answer")
        if chance.happens(0.01, "observe raises", moment):
            raise ValueError("a reply that cannot be read")
        seen = {}
        for attempt in attempts:
            if not chance.happens(0.05, "not seen", attempt.key, moment):
                seen[attempt.key] = self.look(attempt)
        return seen

    def look(self, attempt: LiveAttempt) -> Observation:
        world, key = self.world, attempt.key
        ended = world.ended_at(key)
        if ended is not None and world.now >= ended + self._record_is_late(key):
            return self._end(key, ended)
        if ended is not None and world.chance.happens(0.3, "lost", key):
            world.given_up.add(key)
            return Observation(Sighting.GONE)
        if ended is not None or world.is_alive(key):
            return self._alive(attempt)
        folder = world.folders.get(key)
        if folder is not None and folder.claim == "worker":
            return Observation(Sighting.GONE)
        return Observation(Sighting.UNCLAIMED)

    def _record_is_late(self, key: Key) -> float:
        """Return for how long the record of an end is not visible: another host's view of the files is old."""
        return 15.0 if self.world.chance.happens(0.15, "record late", key) else 0.0

    def _end(self, key: Key, at: float) -> Observation:
        work = self.world.work[key]
        code = self.world.exit_code(key)
        failure = FailureClass.OUT_OF_MEMORY if code == 137 else None
        return Observation(Sighting.ENDED, exit_code=code, started_at=work.began_at, ended_at=at, failure=failure)

    def _alive(self, attempt: LiveAttempt) -> Observation:
        """A scheduler may requeue what ran, and say of anything that it waits."""
        moment = int(self.world.now)
        if self.world.chance.happens(0.03, "unknown", attempt.key, moment):
            return Observation(Sighting.UNKNOWN, reason=said("nobody knows"))
        options = (Sighting.RUNNING, Sighting.RUNNING, Sighting.RUNNING, Sighting.SUBMITTED, Sighting.WAITING)
        return Observation(self.world.chance.choice(options, "phase", attempt.key, moment // 5))

    # --- claims ---

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        out = {}
        for attempt in attempts:
            self.world.before("claim")
            if not self.world.chance.happens(0.05, "not recovered", attempt.key, int(self.world.now)):
                out[attempt.key] = self._recover(attempt)
        return out

    def _recover(self, attempt: LiveAttempt) -> Observation:
        key = attempt.key
        self.world.catch_up(key)
        folder = self.world.folders.setdefault(key, Folder(whole=False))
        if folder.claim == "worker":
            seen = self.look(attempt)
            return seen if seen.sighting is not Sighting.UNCLAIMED else Observation(Sighting.GONE)
        folder.claim = "step"
        return Observation(Sighting.NOT_STARTED, reason=reason(Code.NOT_STARTED, why="interrupted"))

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        out = dict(self.recover(attempts))
        for attempt in attempts:
            if attempt.key in out and out[attempt.key].sighting not in (Sighting.NOT_STARTED, Sighting.ENDED):
                if not self.world.chance.happens(0.1, "survives", attempt.key, int(self.world.now)):
                    self.world.stop(attempt.key)
                out[attempt.key] = self.look(attempt)
        return {key: seen for key, seen in out.items() if seen.sighting is not Sighting.UNCLAIMED}


class SimulatedPerson(SimulatedOperator):
    """People: a question in files; an answer comes after a while, and may be nonsense."""

    def slots(self) -> tuple[int | None, int | None]:
        return None, None

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        out: dict[Key, Submission | SubmissionRejected] = {}
        for launch in launches:
            key = (launch.task_id, launch.attempt)
            self.world.before("ask")
            if not self.world.chance.happens(0.05, "outcome unknown", key):  # `recover` finishes it
                out[key] = self._ask(key)
        return out

    def _ask(self, key: Key) -> Submission:
        self.world.folders[key].files.setdefault("instructions.md", "?")
        deadline = self.world.now + 60 if self.world.chance.happens(0.3, "deadline", key[0]) else None
        return Submission(json.dumps({"deadline": deadline}), AttemptState.WAITING)

    def look(self, attempt: LiveAttempt) -> Observation:
        key, chance = attempt.key, self.world.chance
        folder = self.world.folders.get(key)
        if folder is None:
            return Observation(Sighting.UNKNOWN, reason=reason(Code.NO_FOLDER))
        answered_at = self._asked_at(key) + chance.roll("thinks", key) * 90
        if self.world.now >= answered_at:
            return self._answer(key, answered_at)
        deadline = json.loads(attempt.handle or "{}").get("deadline")
        if deadline is not None and self.world.now >= deadline:
            return Observation(Sighting.ENDED, failure=FailureClass.DEADLINE, ended_at=deadline)
        return Observation(Sighting.WAITING)

    def _asked_at(self, key: Key) -> float:
        return float(self.world.folders[key].files.setdefault("asked", str(self.world.now)))

    def _answer(self, key: Key, at: float) -> Observation:
        chance = self.world.chance
        if chance.happens(0.3, "nonsense", key):
            why = reason(Code.BAD_ANSWER, text="response.json is not JSON")
            return Observation(Sighting.ENDED, failure=FailureClass.BAD_RESPONSE, reason=why, ended_at=at)
        if chance.happens(0.1, "rejects", key):
            why = reason(Code.REJECTED_BY, by="ann")
            return Observation(Sighting.ENDED, failure=FailureClass.REJECTED, reason=why, ended_at=at)
        data = {"go": chance.happens(0.6, "go", key)}
        response = {"status": "COMPLETED", "data": data, "by": "ann"}
        return Observation(Sighting.ENDED, response=response, reason=reason(Code.ANSWERED, by="ann"), ended_at=at)

    def _recover(self, attempt: LiveAttempt) -> Observation:
        folder = self.world.folders.setdefault(attempt.key, Folder(whole=False))
        if not folder.whole:
            folder.claim = "step"
            return Observation(Sighting.NOT_STARTED, reason=reason(Code.NOT_STARTED, why="no files"))
        if "instructions.md" not in folder.files or attempt.state is AttemptState.SUBMITTING:
            return Observation(Sighting.WAITING, handle=self._ask(attempt.key).handle)
        return self.look(attempt)

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        out = {}
        for attempt in attempts:
            self.world.before("claim")
            seen = self.look(attempt)
            if seen.sighting is not Sighting.ENDED or seen.failure is FailureClass.DEADLINE:
                self.world.folders.setdefault(attempt.key, Folder(whole=False)).claim = "step"
                why = reason(Code.WITHDRAWN, what="question")
                seen = Observation(Sighting.ENDED, failure=FailureClass.CANCELLED, reason=why)
            out[attempt.key] = seen
        return out
