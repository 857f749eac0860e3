"""What is waiting for people, laboratories and closed clusters; and what needs a machine that has more."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.model import OperatorSpec, Sighting
from matterstack.core.reasons import Code, Reason, includes, reason
from matterstack.core.recorded import AttemptRow, TaskRow
from matterstack.core.resources import parse_resources
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text, to_text
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, TemplateError
from matterstack.hints import Hint
from matterstack.operators.answers import deadline_passed, decode, read_task
from matterstack.operators.local import LocalOperator
from matterstack.people.answer import from_here
from matterstack.run_root.layout import REQUEST, attempt_folder
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.template.attempt import asked_resources, early_scope
from matterstack.text.reasons import sentence
from matterstack.views.explain import how_to_answer, look_now
from matterstack.views.reading import reading

log = logging.getLogger("matterstack")

_MOST_READY = 100  # tasks of an operator that are looked at


@dataclass(frozen=True)
class Waiting:
    """An attempt that waits for a person, a lab or a closed cluster."""

    root: Path
    run_id: str
    task_id: str
    attempt: int
    kind: str
    operator: str
    since: float  # POSIX seconds
    until: float | None
    on_deadline: str | None
    overdue: bool
    answered: bool  # the answer is there, the next step reads it
    reason: str  # who has taken it, since when it is overdue
    only_overdue: bool  # the reason says nothing else
    summary: str  # the first line of the instructions
    folder: str  # below the run root
    hint: Hint | None  # what to do; None where an instrument answers
    first: float = 0.0  # when it was asked first, POSIX seconds: bad answers are asked for again
    times: int = 1  # how often it was asked since
    fits: bool = True  # False of a READY task that asks for more than there is here

    @property
    def command(self) -> str:
        """What to type."""
        if self.hint is not None:
            return self.hint.command
        return f"cat {shlex.quote(str(self.root / self.folder / REQUEST))}"

    def to_json(self) -> dict[str, Any]:
        return {
            "root": str(self.root), "run": self.run_id, "task": self.task_id, "attempt": self.attempt,
            "kind": self.kind, "operator": self.operator, "since": to_text(self.since),
            "first": to_text(self.first or self.since), "times": self.times,
            "until": to_text(self.until) if self.until is not None else None, "on_deadline": self.on_deadline,
            "overdue": self.overdue, "answered": self.answered, "reason": self.reason, "summary": self.summary,
            "folder": self.folder, "command": self.command,
        }  # fmt: skip


def inbox(roots: Iterable[str | Path]) -> list[Waiting]:
    """Return what waits for people, labs and closed clusters in these runs, the oldest first."""
    found: list[Waiting] = []
    wanted = list(roots)
    for root in wanted:
        try:
            found += _of_run(root)
        except MatterStackError as error:
            if len(wanted) == 1:
                raise
            log.warning("%s", error)  # one that is damaged does not hide the others
    return sorted(found, key=lambda item: item.since)


def _of_run(root: str | Path) -> list[Waiting]:
    with reading(root) as (path, store):
        run_id = store.run().run_id
        waiting = [row for row in store.live_attempts() if row.state is AttemptState.WAITING]
        specs = [store.operators(row.campaign_version)[row.operator] for row in waiting]
        stale = store.stale() if waiting else {}
        found = [
            _waiting(path, run_id, store, spec, row, stale.get(row.task_id, ""))
            for spec, row in zip(specs, waiting, strict=True)
        ]
        return found + list(_too_large(path, run_id, store))


def _too_large(root: Path, run_id: str, store: SQLiteStateStore) -> Iterator[Waiting]:
    """Yield the READY tasks that ask for more GPUs than there are here."""
    for name in store.ready_operators():
        spec = store.operators(store.newest_version())[name]
        if not spec.row.on_this_machine:
            continue
        there = len(LocalOperator(spec).devices())
        for row in store.ready(name, _MOST_READY):
            asked = _gpus_of(store, row)
            if asked > there:
                text = sentence(reason(Code.NEVER_FITS, operator=name, asked=asked, there=there), root)
                yield Waiting(
                    root, run_id, row.task_id, row.attempts, spec.kind, name, time.time(), None, None, False, False, text,
                    False, "", f"tasks/{row.task_id}", Hint("explain", root, row.task_id), fits=False,
                )  # fmt: skip


def _gpus_of(store: SQLiteStateStore, row: TaskRow) -> int:
    """Return how many GPUs a task asks for; 0 if that is known only when it runs."""
    campaign = store.campaign(row.campaign_version)
    operator = campaign.operators[row.operator]
    spec = campaign.tasks[row.group].for_operator(operator)
    if "gpus" not in {**operator.resources, **spec.resources}:
        return 0
    try:
        scope = early_scope(campaign, store.instance(row.task_id))
        return parse_resources(asked_resources(spec, operator, scope)).gpus
    except (TemplateError, ValueError):
        return 0


def _waiting(
    root: Path, run_id: str, store: SQLiteStateStore, spec: OperatorSpec, row: AttemptRow, stale: str
) -> Waiting:
    folder = attempt_folder(*row.key)
    task = read_task(root / folder)
    asked: Mapping[str, Any] = task["asked"] if task is not None else {}
    terms = decode(row.handle)
    seen = look_now(root, spec, row)
    answered = seen is not None and seen.sighting is Sighting.ENDED
    now = row.reason if seen is None else seen.why
    text = sentence(now, root)
    if answered and seen is not None and seen.failure is FailureClass.BAD_RESPONSE:
        text = f"the answer cannot be accepted: {text}"
    elif row.wish is not None:
        text = f"is being cancelled; {text}"
    elif asked.get("refused"):
        text = "; ".join(filter(None, (text, f"asked again: {asked['refused']}")))
    if stale and not answered:
        text = "; ".join(filter(None, (text, f"stale: {stale} ({Hint('rerun', root, row.task_id)} asks again)")))
    taken = isinstance(terms.get("parcel"), dict)
    hint = Hint("step", root) if answered else how_to_answer(spec, root, row.task_id, taken=taken)
    return Waiting(
        root, run_id, row.task_id, row.attempt, spec.kind, row.operator, row.created_at,
        from_text(terms.get("deadline_at")), terms.get("on_deadline"), deadline_passed(terms, time.time()), answered,
        text, _says_only_overdue(now) and not stale and not asked.get("refused") and row.wish is None,
        from_here(str(asked.get("instructions") or "").strip().partition("\n")[0], root / folder), folder, hint, *_asked_since(store, row),
    )  # fmt: skip


def _asked_since(store: SQLiteStateStore, row: AttemptRow) -> tuple[float, int]:
    """Return when the question of an attempt was asked first, and how often: a bad answer is asked for again."""
    first, times = row.created_at, 1
    for before in reversed(store.attempts(row.task_id) if row.attempt > 1 else []):
        if before.attempt >= row.attempt:
            continue
        if before.failure not in (FailureClass.BAD_RESPONSE, FailureClass.MISSING_OUTPUT):
            break
        first, times = before.created_at, times + 1
    return first, times


def _says_only_overdue(found: Reason) -> bool:
    return found.code is not Code.ALSO and includes(found, Code.OVERDUE)
