"""`journal.jsonl`: one line for each event of the ledger, append-only; the mirror that git keeps.

The ledger commits first, then its events are appended here and synced, before anything is handed over. So a kill
leaves the journal short by the events of one commit, perhaps with a torn last line: `mend` completes it from the
ledger. A journal that is *ahead* of the ledger is never a crash: the ledger is an old or foreign one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from matterstack.errors import JournalError
from matterstack.run_root.files import open_regular, read_regular

_TAIL = 1 << 16
PUT_BACK = (
    "put back the two that belong together, or move the wrong one away, and `matterstack doctor --fix` makes it from "
    "the other"
)


class Event(NamedTuple):
    """A row of the ledger's table `events`; ``data`` is a JSON object as text."""

    seq: int
    at: str
    epoch: int
    kind: str
    data: str

    def line(self) -> str:
        """Give the line of the journal, without its newline."""
        head = f'{{"seq": {self.seq}, "at": "{self.at}", "epoch": {self.epoch}, "kind": "{self.kind}"'
        return head + (f", {self.data[1:]}" if self.data != "{}" else "}")


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._end: int | None = None  # where this process's next line belongs

    def read(self) -> list[Event]:
        """Give all events, without a torn last line. Raises JournalError for a file that is no whole journal."""
        try:
            data = read_regular(self.path)
        except FileNotFoundError:
            raise JournalError(f"{self.path} is missing; restore it from git or a backup") from None
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be read: {error.strerror}") from None
        events = []
        for number, line in enumerate(data.split(b"\n")[:-1], start=1):
            event = _event_of(line.removesuffix(b"\r"))  # as some editors end lines
            if event is None or event.seq != number:
                what = "is no event" if event is None else f"is event {event.seq}, not {number}"
                raise JournalError(f"{self.path}:{number}: {what}; restore the file from git or a backup")
            events.append(event)
        return events

    def append(self, events: Iterable[Event]) -> None:
        """Write lines behind the last one that this process knows of, and sync them."""
        data = "".join(event.line() + "\n" for event in events).encode()
        if not data:
            return
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o666)
        try:
            # At its place, not at the file's end: a process that slept between its commit and this, while another took
            # the lock over and completed the journal from the ledger, writes the same bytes where they stand already.
            position = os.fstat(fd).st_size if self._end is None else self._end
            while data:
                written = os.pwrite(fd, data, position)
                data, position = data[written:], position + written
            os.fsync(fd)
            self._end = position
        finally:
            os.close(fd)

    def mend(self, last_seq: int, event: Callable[[int], Event | None], after: Callable[[int], list[Event]]) -> int:
        """Bring the journal up to the ledger's ``last_seq``; give the number of lines that were missing.

        ``event`` gives one event of the ledger, ``after`` those behind a number. Raises JournalError if the
        journal knows events that the ledger does not, or other ones.
        """
        tail, torn_at = self._tail()
        found = _seq_of(tail) if tail is not None else 0
        if found is None:
            raise JournalError(f"{self.path}: its last line is no event; restore the file from git or a backup")
        if found > last_seq:
            self._stop_if_adopted(last_seq)
            raise JournalError(
                f"{self.path} knows event {found}, the ledger only {last_seq}: state.sqlite is an old or foreign "
                "one; put the newer ledger back, or move it away and run `matterstack doctor --fix`"
            )
        if tail is not None:
            ours = event(found)
            if ours is None or ours.line() != tail:
                raise JournalError(
                    f"{self.path} and state.sqlite are of different histories (event {found}); {PUT_BACK}"
                )
        if torn_at is not None:
            # A torn line is the head of an event that the ledger holds; it is written again, whole, below.
            os.truncate(self.path, torn_at)
        self._end = self.path.stat().st_size if self.path.exists() else 0
        missing = after(found) if found < last_seq else []
        self.append(missing)
        return len(missing)

    def _stop_if_adopted(self, last_seq: int) -> None:
        """Raise JournalError in plainer words if what the ledger does not know begins a life of the run elsewhere."""
        for event in self.read()[last_seq:]:
            if event.kind == "adopted":
                data = json.loads(event.data)
                raise JournalError(
                    f"{self.path}: the run was adopted by {data.get('host')}:{data.get('path')} at {event.at[:19]} UTC; "
                    "it goes on there, and this home of it stops (`matterstack adopt` takes it back)"
                )

    def _tail(self) -> tuple[str | None, int | None]:
        """Give the last whole line, and where a torn one behind it begins."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return None, None
        length = _TAIL
        with open_regular(self.path) as file:
            while True:
                start = max(0, size - length)
                file.seek(start)
                data = file.read(size - start)
                end = data.rfind(b"\n")
                begin = data.rfind(b"\n", 0, end) if end > 0 else -1
                if begin >= 0 or start == 0:
                    break
                length *= 8
        torn_at = start + end + 1 if start + end + 1 < size else None
        if end < 0:
            return None, torn_at if size else None
        return data[begin + 1 : end].removesuffix(b"\r").decode("utf-8", errors="replace"), torn_at


def _event_of(line: bytes) -> Event | None:
    """Undo `Event.line`; None for a line that no `Event` writes."""
    try:
        text = line.decode()
        head = json.loads(text)
        event = Event(head["seq"], head["at"], head["epoch"], head["kind"], "{}")
        if text != event.line():
            event = event._replace(data="{" + text[len(event.line()) + 1 :])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return event if event.line() == text and isinstance(event.seq, int) else None


def _seq_of(line: str) -> int | None:
    try:
        seq = json.loads(line)["seq"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return seq if isinstance(seq, int) else None


def encode(data: dict[str, Any]) -> str:
    """Give the JSON text of an event's data; empty values are left out."""
    return json.dumps({k: v for k, v in data.items() if v is not None and v != ""}, ensure_ascii=False)
