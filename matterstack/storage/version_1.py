"""Ledgers and journals of version 1, translated into events once.

Version 1 wrote its tables and its journal side by side, and kept reasons as sentences. Each of its events becomes one of
today's, a sentence the reason `said`. What its journal left out (instances, what an attempt read, sizes) comes from its
tables, or from the files of the run root where the ledger is lost (`care.rebuild`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from matterstack.core import events as e
from matterstack.core.model import OutputFile, TaskChange
from matterstack.core.reasons import Code, Reason, reason, said
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.core.times import from_text
from matterstack.deferred import dataclass
from matterstack.errors import LedgerError
from matterstack.storage.expanded import write_expanded
from matterstack.storage.journal import KEPT_JOURNAL

if TYPE_CHECKING:
    import sqlite3

_TABLES = (
    "events", "outputs", "attempt_inputs", "attempts", "edges", "tasks", "campaign_versions", "source_files", "run",
    "schema_info",
)  # fmt: skip

Timed = tuple[float, int, e.Event]  # at, epoch, event


class Ledger(Protocol):
    """The part of `state_store.SQLiteStateStore` that a translation uses."""

    db: sqlite3.Connection
    path: Path
    root: Path

    def write(self, timed: Iterable[Timed]) -> list[str]: ...
    def home(self) -> tuple[int, str, str]: ...


@dataclass(frozen=True)
class Past:
    """What the events of version 1 do not say. ``place`` is (host, path, inode) of the home."""

    run: Mapping[str, str]  # id, name, digest, created_at
    place: tuple[str, str, int]
    campaign_path: str
    definition: str  # sha256 of the file in expanded/
    rows: str
    count: int
    sources: Mapping[str, tuple[str, int]]
    inputs_of: Callable[[str, int], Mapping[str, int]]
    outputs_of: Callable[[str, int, Mapping[str, str], Mapping[str, str]], Iterable[OutputFile]]


def translate(lines: Iterable[str], past: Past) -> Iterator[Timed]:
    """Yield today's events for the lines of a journal of version 1. Raises LedgerError for one that it did not write."""
    handles: dict[e.Key, str] = {}
    states: dict[e.Key, AttemptState] = {}
    at, epoch = 0.0, 1
    for number, line in enumerate(lines, start=1):
        try:
            data = json.loads(line)
            at, epoch, kind = from_text(data["at"]) or 0.0, int(data["epoch"]), data["kind"]
            if kind == "attempt":
                yield from ((at, epoch, event) for event in _attempt(data, past, handles, states))
            else:
                yield from ((at, epoch, event) for event in _OTHERS[kind](data, past))
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"event {number} of version 1 cannot be translated: {error!r}") from None
    yield at, epoch, e.Translated(1, KEPT_JOURNAL)


def _run_created(data: Mapping[str, Any], past: Past) -> Iterator[e.Event]:
    host, path, inode = past.place
    home = hashlib.sha256(f"{past.run['id']} {data['at']}".encode()).hexdigest()[:8]
    yield e.RunCreated(
        run=past.run["id"], name=past.run["name"], digest=past.run["digest"], version=str(data.get("version") or "0.1.0"),
        definition=past.definition, created_at=past.run["created_at"], campaign_path=past.campaign_path,
        campaign_sha256=str(data.get("campaign_sha256") or ""), operators_sha256=str(data.get("operators_sha256") or ""),
        source_digest=str(data.get("source_digest") or ""), new_home=home, host=host, path=path, inode=inode,
        set=data.get("set") or {}, sources={name: list(item) for name, item in data.get("sources", {}).items()},
    )  # fmt: skip
    yield e.TasksAdded(1, past.rows, past.count)


def _paused(data: Mapping[str, Any], past: Past) -> Iterator[e.Event]:
    tasks = (str(data["task"]),) if "task" in data else ()
    yield e.Paused(tasks) if data["kind"] == "paused" else e.Resumed(tasks)


def _cancelled(data: Mapping[str, Any], past: Past) -> Iterator[e.Event]:
    yield e.Cancelled() if data["kind"] == "cancelled" else e.Uncancelled()


def _refreshed(data: Mapping[str, Any], past: Past) -> Iterator[e.Event]:
    files = data.get("files", {})
    yield e.SourceChanged(
        data["source_digest"], {path: [digest, past.sources.get(path, ("", 0))[1]] for path, digest in files.items()}
    )


def _adopted(data: Mapping[str, Any], past: Past) -> Iterator[e.Event]:
    host, path = str(data.get("host")), str(data.get("path"))
    if data["kind"] == "rebuilt":
        yield e.Rebuilt(host, path, 0, past.campaign_path, str(data.get("why") or ""))
    else:
        home = hashlib.sha256(f"{host} {path} {data['at']}".encode()).hexdigest()[:8]
        yield e.Adopted(home, host, path, 0, past.campaign_path, data.get("assume"))


def _task(data: Mapping[str, Any], past: Past) -> Iterator[e.Event]:
    change = _change(data, data["state"], data.get("reason", ""))
    yield from e.tasks_changed([change])


def _change(data: Mapping[str, Any], state: str, why: str) -> TaskChange:
    return TaskChange(
        data["task"], TaskState(state), _reason(why), bool(data.get("soft", False)), data.get("cause"), None,
        data.get("retry_at"),
    )  # fmt: skip


_UPSTREAM = re.compile(r"(\S+) (failed|is blocked|was cancelled)(, which is allowed)?\Z")
_STATES = {"failed": "FAILED", "is blocked": "BLOCKED", "was cancelled": "CANCELLED"}


def _reason(text: str) -> Reason:
    """Return a sentence of version 1 as a reason. Only that something upstream ended badly is recognized: `explain` says
    the root cause instead."""
    found = _UPSTREAM.match(text)
    if found is None:
        return said(text)
    return reason(Code.UPSTREAM, task=found[1], state=_STATES[found[2]], allowed=found[3] is not None)


_OTHERS: dict[str, Callable[[Mapping[str, Any], Past], Iterator[e.Event]]] = {
    "run_created": _run_created,
    "paused": _paused,
    "resumed": _paused,
    "cancelled": _cancelled,
    "uncancelled": _cancelled,
    "refreshed": _refreshed,
    "retries_anew": lambda data, past: iter([e.RetriesReset((data["task"],))]),
    "wish": lambda data, past: iter([e.Wished(((data["task"], data["attempt"]),), data["wish"])]),
    "adopted": _adopted,
    "rebuilt": _adopted,
    "task": _task,
}


def _attempt(
    data: Mapping[str, Any], past: Past, handles: dict[e.Key, str], states: dict[e.Key, AttemptState]
) -> Iterator[e.Event]:
    key = (str(data["task"]), int(data["attempt"]))
    state = AttemptState(data["state"])
    if key not in states:
        states[key], handles[key] = state, data.get("handle", "")
        yield e.AttemptMade(
            *key, data["operator"], handles[key], data.get("cpus", 1), data.get("memory"), data.get("time_s"),
            data.get("source_digest", ""), dict(past.inputs_of(*key)),
        )  # fmt: skip
        return
    if (
        states[key] is AttemptState.COMPLETED and state is AttemptState.COMPLETED
    ):  # it only ever said which links could not be set
        yield e.LinksChanged(*key, said(data.get("reason", "")))
        return
    states[key] = state
    handle = data.get("handle")
    parcels = list(_parcel_events(key, handles[key], handle)) if handle is not None else []
    if handle is not None:
        handles[key] = handle
    yield from parcels
    completed = state is AttemptState.COMPLETED
    becomes = _change(data, data["task_state"], data.get("task_reason", "")) if data.get("task_state") else None
    yield e.AttemptChanged(
        task=key[0], attempt=key[1], state=state,
        failure=FailureClass(data["failure"]) if data.get("failure") else None, reason=said(data.get("reason", "")),
        handle=None if parcels else handle, exit_code=data.get("exit_code"), started_at=data.get("started_at"),
        ended_at=data.get("ended_at"), counts=bool(data.get("counts", False)),
        outputs=tuple(past.outputs_of(*key, data.get("outputs", {}), data.get("files", {}))) if completed else (),
        metrics=data.get("metrics") or {}, response=data.get("response") or {}, becomes=becomes,
    )  # fmt: skip


def _parcel_events(key: e.Key, before: str, now: str) -> Iterator[e.Event]:
    old, new = _terms(before), _terms(now)
    for parcel in new.get("parcels", [])[len(old.get("parcels", [])) :]:
        yield e.ParcelPacked(parcel, (key,))
    if "returned_at" in new and "returned_at" not in old:
        yield e.ParcelReturned(str(new.get("parcel", {}).get("id", "")), (key,))


def _terms(handle: str) -> dict[str, Any]:
    try:
        data = json.loads(handle or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def definition_of(text: str) -> str:
    """Return a campaign as version 1 stored it, as today's does: `people` of a task became `when`, `bundle`, `asked`."""
    data = json.loads(text)  # numbers that keep their text are mappings here, and stay so
    for task in data["tasks"].values():
        for spec in filter(None, (task, task.get("for_people"))):
            asked = spec.pop("people", {})
            for name in ("when", "bundle"):
                if name in asked:
                    spec[name] = asked.pop(name)
            if asked:
                spec["asked"] = asked
    return json.dumps(data, ensure_ascii=False)


# --- a ledger -------------------------------------------------------------------------------------------------------


def translate_ledger(store: Ledger, schema: Iterable[str]) -> None:
    """Replace the tables of version 1 by today's, filled by events, in the open transaction.

    Raises LedgerError if the result does not say what version 1 said.
    """
    past, lines, before = _read(store)
    for table in _TABLES:
        store.db.execute(f"DROP TABLE {table}")
    for statement in schema:
        store.db.execute(statement)
    store.db.execute("INSERT INTO schema_info VALUES (2, '')")
    timed = list(translate(lines, past))
    store.write(timed)
    waiting = [
        row[0] for row in store.db.execute("SELECT task_id FROM tasks WHERE watch IS NOT NULL ORDER BY position")
    ]
    at, epoch, _ = timed[-1]
    last: list[e.Event] = [e.TasksChanged(tuple(waiting), TaskState.PENDING)] if waiting else []
    host, path, home_inode = past.place
    if store.home() != (home_inode, host, path):
        last.append(e.Moved(host, path, home_inode, past.campaign_path))
    if last:
        store.write((at, epoch, event) for event in last)
    for name, question in _SAME.items():
        now = store.db.execute(question).fetchall()
        if now != before[name]:
            differing = next(
                (pair for pair in zip(before[name], now, strict=False) if pair[0] != pair[1]), ("rows", "")
            )
            raise LedgerError(
                f"{store.path} cannot be migrated to schema 2: {name} {differing[0]} became {differing[1]}"
            )


_SAME = {  # what must be the same before and after; times to the millisecond
    "task": "SELECT task_id, state, soft, cause, ROUND(retry_at, 3), paused, tries, attempts, result FROM tasks "
    "ORDER BY position",
    "attempt": "SELECT task_id, attempt, state, operator, wish, exit_code, failure, counts, cpus, memory, time_s FROM "
    "attempts ORDER BY task_id, attempt",
    "input": "SELECT * FROM attempt_inputs ORDER BY 1, 2, 3",
    "output": "SELECT task_id, attempt, name, path, file, size, sha256 FROM outputs ORDER BY 1, 2, 3",
    "run": "SELECT run_id, name, digest, paused, cancelled, source_digest FROM run",
}


def _read(store: Ledger) -> tuple[Past, list[str], dict[str, Any]]:
    db = store.db
    before: dict[str, Any] = {name: db.execute(question).fetchall() for name, question in _SAME.items()}
    run = db.execute(
        "SELECT run_id, name, digest, created_at, campaign_path, home_host, home_path, home_inode FROM run"
    ).fetchone()
    definition = db.execute("SELECT definition FROM campaign_versions WHERE version = 1").fetchone()[0]
    edges: dict[str, list[list[str]]] = {}
    for downstream, upstream, entry in db.execute("SELECT downstream, upstream, entry FROM edges ORDER BY 1, 2, 3"):
        edges.setdefault(downstream, []).append([upstream, entry])
    rows = []
    for row in db.execute(
        "SELECT task_id, group_name, label, matrix, operator, priority, inputs, outputs FROM tasks ORDER BY position"
    ):
        rows.append([*row, "PENDING", None, edges.get(row[0], [])])
    inputs: dict[e.Key, dict[str, int]] = {}
    for task, attempt, upstream, number in db.execute("SELECT * FROM attempt_inputs"):
        inputs.setdefault((task, attempt), {})[upstream] = number
    outputs: dict[e.Key, list[OutputFile]] = {}
    for task, attempt, *rest in db.execute("SELECT task_id, attempt, name, path, file, size, sha256 FROM outputs"):
        outputs.setdefault((task, attempt), []).append(OutputFile(*rest))
    names = ("seq", "at", "epoch", "kind")
    lines = []
    for *head, data in db.execute("SELECT seq, at, epoch, kind, data FROM events ORDER BY seq"):
        lines.append(json.dumps({**dict(zip(names, head, strict=True)), **json.loads(data)}, ensure_ascii=False))
    sources = {row[0]: (row[1], row[2]) for row in db.execute("SELECT path, sha256, size FROM source_files")}
    past = Past(
        run={"id": run[0], "name": run[1], "digest": run[2], "created_at": run[3]},
        place=(run[5], run[6], run[7]), campaign_path=run[4],
        definition=write_expanded(store.root, definition_of(definition)),
        rows=write_expanded(store.root, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)),
        count=len(rows), sources=sources, inputs_of=lambda *key: inputs.get(key, {}),
        outputs_of=lambda task, attempt, digests, files: outputs.get((task, attempt), []),
    )  # fmt: skip
    return past, lines, before
