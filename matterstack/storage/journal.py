"""`journal.jsonl`: one line for each event of the ledger, append-only; the mirror that git keeps.

A line is an event with its envelope: number, time, epoch, the home that wrote it, and the digest of the line before. The
chain makes an edit, a cut in the middle and a branch visible to whoever reads the file.

The ledger commits first, then its lines are appended here and synced, before anything is handed over. So a kill leaves the
journal short by the lines of one commit, perhaps with a torn last line: `complete` repairs that from the ledger. A journal
that is *ahead* of the ledger is never a crash: the ledger is an old or foreign one.

What is older than some megabytes is moved to `journal/000001.jsonl` and so on, which never change again: git stores a file
that changed as a whole, and readers of the last events need not read the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from matterstack.core.events import KINDS, Adopted, Event
from matterstack.core.times import from_text, to_text
from matterstack.core.values import encode_json
from matterstack.deferred import dataclass
from matterstack.errors import JournalError
from matterstack.hints import Hint
from matterstack.run_root.files import open_regular, read_regular, sha256_of_text, sync, write_new
from matterstack.run_root.layout import SEGMENTS

_ENVELOPE = ("seq", "at", "epoch", "home", "prev", "kind", "who")
KEPT_JOURNAL = "journal.v1.jsonl"
BEGINNING = "0" * 32  # stands for the digest of the line before the first


@dataclass(frozen=True)
class Entry:
    """An event with its envelope; ``at`` is in POSIX seconds, ``prev`` the digest of the line before."""

    seq: int
    at: float
    epoch: int
    home: str
    prev: str
    event: Event
    who: str = ""  # of a command of a person, as user@host
    why: str = ""  # and the reason that was given

    def line(self) -> str:
        """Return the line of the journal, without its newline."""
        data = {
            "seq": self.seq, "at": to_text(self.at), "epoch": self.epoch, "home": self.home, "prev": self.prev,
            "kind": self.event.kind, **self.event.to_json(),
        }  # fmt: skip
        if self.who:
            data["who"] = self.who
        if self.why and "why" not in data:
            data["why"] = self.why
        return encode_json(data)


def digest_of(line: str) -> str:
    """Return what the next line names as the digest of this one."""
    return sha256_of_text(line)[:32]


def parse(line: str) -> Entry:
    """Undo `Entry.line`. Raises ValueError, in words, for a line that no `Entry` writes."""
    try:
        data = json.loads(line)
        at = from_text(data["at"])
        if at is None or not isinstance(data["seq"], int):
            raise ValueError("is not an event")
        kind = KINDS.get(data["kind"])
        if kind is None:
            raise ValueError(f"is an event of the unknown kind {str(data['kind'])[:60]!r}; use a newer MatterStack")
        own = {key: value for key, value in data.items() if key not in _ENVELOPE}
        why = own.pop("why", "") if "why" not in kind.names() else ""
        event = kind.from_json(own)
        return Entry(data["seq"], at, data["epoch"], data["home"], data["prev"], event, data.get("who", ""), why)
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError):
        raise ValueError("is not an event") from None


def seq_of(line: str) -> int | None:
    """Return the number of a line, None for one that has none."""
    try:
        seq = json.loads(line)["seq"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return seq if isinstance(seq, int) else None


_SEGMENT = 4 << 20  # bytes, from which on a journal is moved to a segment


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._end: int | None = None  # where this process's next line belongs

    def _fix(self) -> Hint:
        return Hint("doctor", self.path.parent, rest="--fix")

    def put_back(self) -> str:
        """Return what to do where journal and ledger contradict each other."""
        return f"put back the two that belong together, or move the wrong one away, and {self._fix()} makes it from the other"

    # --- reading ---

    def segments(self) -> list[Path]:
        """Return the files of older events, the oldest first."""
        return sorted(self.path.with_name(SEGMENTS).glob("[0-9]*.jsonl"))

    def exists(self) -> bool:
        return self.path.exists() or bool(self.segments())

    def files(self) -> list[Path]:
        """Return all files of it, the oldest events first."""
        older = self.segments()
        return [*older, self.path] if self.path.exists() or not older else older

    def lines(self) -> list[str]:
        """Return all lines, without a torn last one. Raises JournalError if a file cannot be read."""
        return [line for file in self.files() for line in self._lines_of(file)]

    def _lines_of(self, file: Path) -> list[str]:
        try:
            data = read_regular(file)
        except FileNotFoundError:
            raise JournalError(f"{file} is missing; restore it from git or a backup") from None
        except OSError as error:
            raise JournalError(f"{file}: cannot be read: {error.strerror}") from None
        text = data.decode("utf-8", errors="surrogateescape")
        return [line.removesuffix("\r") for line in text.split("\n")[:-1]]  # as some editors end lines

    def _place(self, number: int) -> str:
        """Return FILE:LINE of a line of the whole."""
        for file in self.files():
            count = len(self._lines_of(file))
            if number <= count or file == self.path:
                return f"{file}:{number}"
            number -= count
        return f"{self.path}:{number}"

    def read(self) -> list[Entry]:
        """Return all events, checked as a chain. Raises JournalError for a file that is not a whole journal."""
        return list(self.check(self.lines()))

    def check(self, lines: Iterable[str]) -> Iterator[Entry]:
        """Yield the events of lines. Raises JournalError where a line was edited, left out or added."""
        prev, number = BEGINNING, 0
        for number, line in enumerate(lines, start=1):
            try:
                entry = parse(line)
            except ValueError as error:
                raise self._broken(number, str(error)) from None
            if entry.seq != number:
                raise self._broken(number, f"is event {entry.seq}, not {number}")
            if entry.prev != prev:
                raise self._broken(
                    number, "does not follow from the line before: one of the two was edited or replaced"
                )
            prev = digest_of(line)
            yield entry

    def _broken(self, number: int, what: str) -> JournalError:
        return JournalError(f"{self._place(number)}: {what}; restore the file from git or a backup")

    def stamp(self) -> list[int]:
        """Return size and time of the last change in ns of each file, by which a change from outside is noticed."""
        try:
            found = [os.stat(file) for file in self.files()]
        except OSError:
            return []
        return [number for item in found for number in (item.st_size, item.st_mtime_ns)]

    # --- writing ---

    def append(self, lines: Sequence[str]) -> None:
        """Write lines behind the last one that this process knows of, and sync them. Raises OSError."""
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="surrogateescape")
        if not data:
            return
        flags = os.O_RDWR | os.O_NONBLOCK | (0 if self._end else os.O_CREAT)
        try:
            fd = os.open(self.path, flags, 0o666)
        except FileNotFoundError:
            if self._end:  # a process that took over has moved it to a segment, with these lines
                return
            raise
        try:
            # At its place, not at the file's end: a process that slept between its commit and this, while another took
            # the lock over and completed the journal from the ledger, writes the same bytes where they already are.
            size = os.fstat(fd).st_size
            position = size if self._end is None else self._end
            there = os.pread(fd, len(data), position)
            if size < position or there != data[: len(there)]:
                return  # as above: this is the next segment, or somebody has changed the file: `complete` finds that
            while data:
                written = os.pwrite(fd, data, position)
                data, position = data[written:], position + written
            os.fsync(fd)
            self._end = position
        finally:
            os.close(fd)

    def complete(self, last_seq: int, line: Callable[[int], str | None], after: Callable[[int], list[str]]) -> int:
        """Bring the journal up to the ledger's ``last_seq``; return the number of lines that were missing.

        ``line`` gives one line of the ledger, ``after`` those behind a number. Raises JournalError if the journal
        has events that the ledger does not have, or other ones; OSError.
        """
        tail, torn_at = self._tail()
        found = seq_of(tail) if tail is not None else 0
        if found is None:
            raise JournalError(f"{self.path}: its last line is not an event; restore the file from git or a backup")
        if found > last_seq:
            self._stop_if_branched(after(0))
            self._stop_if_adopted(last_seq)
            raise JournalError(
                f"{self.path} knows event {found}, the ledger only {last_seq}: state.sqlite is an old or foreign "
                f"one; put the newer ledger back, or move it away and run {self._fix()}"
            )
        if tail is not None and line(found) != tail:
            self._stop_if_branched(after(0))
            raise JournalError(
                f"{self.path} and state.sqlite have different histories (event {found}); {self.put_back()}"
            )
        if torn_at is not None:
            # A torn line is the head of an event that the ledger holds; it is written again, whole, below.
            os.truncate(self.path, torn_at)
        self._end = self.path.stat().st_size if self.path.exists() else 0
        missing = after(found) if found < last_seq else []
        self.append(missing)
        return len(missing)

    def compare(self, after: Callable[[int], list[str]]) -> None:
        """Compare every whole line with the ledger's. Raises JournalError for the first that differs."""
        if not self.exists():
            return
        ours = after(0)
        for number, (theirs, own) in enumerate(zip_longest(self.lines(), ours), start=1):
            if theirs is None:  # the ledger knows more: `complete` writes it
                break
            if theirs != own and (
                own is not None or seq_of(theirs) != number
            ):  # one that is ahead: `complete` refuses it
                self._stop_if_branched(ours)
                raise JournalError(
                    f"{self._place(number)}: differs from the ledger: it was edited, or belongs to another history; "
                    f"{self.put_back()}"
                )

    def _stop_if_branched(self, ours: Sequence[str]) -> None:
        branch = branch_of(ours, self.lines())
        if branch is not None:
            raise JournalError(f"{self.path} {branch.in_words(self.path.parent)}")

    def _stop_if_adopted(self, last_seq: int) -> None:
        """Raise JournalError in plainer words if what the ledger does not know is that the run goes on elsewhere."""
        for line in self.lines()[last_seq:]:
            entry = parse_or_none(line)
            if entry is not None and isinstance(entry.event, Adopted):
                raise JournalError(
                    f"{self.path}: the run was adopted by {entry.event.host}:{entry.event.path} at "
                    f"{to_text(entry.at)[:19]} UTC; it goes on there, and this home of it stops "
                    f"({Hint('adopt', self.path.parent)} takes it back)"
                )

    def rotate(self) -> None:
        """Move a large journal to the next segment. Raises OSError."""
        try:
            if self.path.stat().st_size < _SEGMENT:
                return
        except FileNotFoundError:
            return
        older = self.segments()
        number = int(older[-1].stem) + 1 if older else 1
        target = self.path.with_name(SEGMENTS) / f"{number:06}.jsonl"
        target.parent.mkdir(exist_ok=True)
        os.rename(self.path, target)
        write_new(str(self.path), b"")  # whoever looks for the journal finds one
        sync(target.parent)
        sync(self.path.parent)
        self._end = None

    def _tail(self) -> tuple[str | None, int | None]:
        """Return the last whole line, and where a torn one behind it begins."""
        tail, torn_at = _tail_of(self.path)
        older = self.segments() if tail is None else []
        return (_tail_of(older[-1])[0] if older else tail), torn_at


def _tail_of(path: Path) -> tuple[str | None, int | None]:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None, None
    length = 1 << 16
    with open_regular(path) as file:
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
    return data[begin + 1 : end].removesuffix(b"\r").decode("utf-8", errors="surrogateescape"), torn_at


@dataclass(frozen=True)
class Branch:
    """Two histories with the same beginning, since a copy was adopted and its old home was changed afterwards."""

    common: int  # events
    here: Entry  # the last of the ledger
    there: Entry  # the last of the journal's file

    def in_words(self, root: Path) -> str:
        """Return a sentence that names both heads, and what keeps one of them."""
        hint = Hint("adopt", root, rest="--journal here")
        return (
            f"branches after event {self.common}: here, in the ledger, {_head(self.here)}; there, in the file, {_head(self.there)}; "
            f"{hint} keeps the ledger's, --journal there the file's"
        )


def _head(entry: Entry) -> str:
    who = f" by {entry.who}" if entry.who else ""
    return f"event {entry.seq} ({entry.event.kind}{who}, {to_text(entry.at)[:19]} UTC, home {entry.home})"


def branch_of(ours: Sequence[str], theirs: Sequence[str]) -> Branch | None:
    """Return where two journals part, if one of them was adopted there; None for one that is edited, older or foreign."""
    common = 0
    for own, other in zip(ours, theirs, strict=False):
        if own != other:
            break
        common += 1
    sides = []
    for lines in (ours, theirs):
        prev = digest_of(lines[common - 1]) if common else BEGINNING
        entries = []
        for line in lines[common:]:
            entry = parse_or_none(line)
            if entry is None or entry.prev != prev:
                return None
            entries.append(entry)
            prev = digest_of(line)
        sides.append(entries)
    if not common or not all(sides) or not any(isinstance(e.event, Adopted) for side in sides for e in side):
        return None
    return Branch(common, sides[0][-1], sides[1][-1])


def parse_or_none(line: str) -> Entry | None:
    try:
        return parse(line)
    except ValueError:
        return None


def is_version_1(line: str) -> bool:
    """Return whether a line of a journal was written by version 1, which had no chain."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("kind") == "run_created" and "prev" not in data


def set_aside_version_1(journal: Path, run_id: str) -> bool:
    """Keep a journal of version 1 under another name, once the ledger holds its translation; return whether it was one.

    One is kept once, and only the run's own: nothing is done about any other. Raises OSError.
    """
    if not journal.is_file() or journal.with_name(KEPT_JOURNAL).exists():
        return False
    with open(journal, encoding="utf-8", errors="surrogateescape") as file:
        first = file.readline()
    if not is_version_1(first) or json.loads(first).get("run") != run_id:
        return False
    os.replace(journal, journal.with_name(KEPT_JOURNAL))
    return True
