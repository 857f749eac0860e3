"""The slot workers of this process: who is idle, what is handed to them, and what they answer.

A worker (`slot_worker.py`) runs one attempt at a time. It ends when this process closes its requests or dies, once its
attempt is over.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from matterstack.deferred import dataclass
from matterstack.operators import processes

Key = tuple[str, int]

_PROGRAM = Path(__file__).with_name("slot_worker.py")
WORKER = _PROGRAM.name
# As a module: a script would be compiled anew each time. The last argument says in the table of processes what it is.
_START = "import sys; sys.path.insert(0, sys.argv[1]); import slot_worker; slot_worker.Worker().serve()"
_ANSWERS = 3  # the descriptor of `slot_worker.ANSWERS`
_LEAVING_S = 0.2  # for idle workers to end
_ANSWERING_MS = 2
_PATIENCE_MS = 10_000  # for a worker to read its request


@dataclass()
class Worker:
    pid: int
    start: str  # as processes.start_of gives it
    requests: int  # the descriptor to write to
    end: int | None = None  # a descriptor that becomes readable when it ends, where the system has such
    running: Key | None = None


class WorkerGone(OSError):
    """A worker ended before it had read a request whole: the attempt was not started."""


class Workers:
    """The workers that this process has started, and their answers."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}  # number of the request -> worker
        self._ended: list[Key] = []  # those that `ended` has not returned yet
        self._leaving: list[int] = []  # pids of workers that end, to be reaped
        self._answers: int | None = None  # read end of the pipe that all workers answer through
        self._answers_in: int | None = None
        self._text = b""
        self._number = 0
        self._lock = threading.RLock()  # of the Python API: several runs of one process share its workers

    def run(self, key: Key, fields: Sequence[bytes]) -> Worker:
        """Hand a request to a worker, a new one if none is idle. Raises OSError if that cannot be done: nothing ran."""
        with self._lock:
            return self._run(key, fields)

    def _run(self, key: Key, fields: Sequence[bytes]) -> Worker:
        self._number += 1
        data = b"\0".join((b"%d" % self._number, *fields, b""))
        if not self._idle and self._busy and self._answers is not None:
            # One whose exit.json was seen answers this moment.
            poll = select.poll()
            poll.register(self._answers, select.POLLIN)
            if poll.poll(_ANSWERING_MS):
                self._collect()
        while True:
            worker = self._idle.pop() if self._idle else self._start()
            try:
                _write_all(worker.requests, b"%d\n%s" % (len(data), data))
            except WorkerGone:
                self._dismiss(worker)
                continue
            except OSError:
                self._dismiss(worker)  # what it has read is not whole: it carries nothing out
                raise
            worker.running = key
            self._busy[self._number] = worker
            return worker

    def collect(self) -> None:
        """Take note of what workers have answered and of those that were killed, without waiting."""
        with self._lock:
            self._collect()
            self._miss()
            self._reap()

    def ended(self) -> list[Key]:
        """Return the attempts that workers have answered for since the last call, without waiting."""
        with self._lock:
            self._collect()
            ended, self._ended = self._ended, []
            return ended

    def _collect(self) -> None:
        if self._answers is not None:
            while True:
                try:
                    found = os.read(self._answers, 65536)
                except BlockingIOError:
                    break
                self._text += found
                if len(found) < 65536:
                    break
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            words = line.split(b" ")
            worker = self._busy.pop(int(words[0]), None)
            if worker is None or worker.running is None:
                continue
            self._ended.append(worker.running)
            worker.running = None
            if words[-1] == b"last":
                self._dismiss(worker)
            else:
                self._idle.append(worker)

    def _miss(self) -> None:
        for number, worker in [*self._busy.items()]:
            if _has_ended(worker.pid):  # killed with its attempt in hand: from now on the kernel is asked about it
                del self._busy[number]
                _close(worker)

    def is_running(self, pid: int, start: str, key: Key) -> bool | None:
        """Return whether a worker of this process is running an attempt; None if this process did not start the worker."""
        for worker in [*self._busy.values(), *self._idle]:
            if (worker.pid, worker.start) == (pid, start):
                return worker.running == key
        return None

    def wakers(self) -> list[int]:
        """Return the descriptors that become readable when a worker answers or is killed, none if none is at work."""
        if self._answers is None or not self._busy:
            return []
        return [self._answers, *(worker.end for worker in self._busy.values() if worker.end is not None)]

    def close(self) -> None:
        """Let all workers go; they end when what they have in hand has ended."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        for worker in (*self._idle, *self._busy.values()):
            self._dismiss(worker)
        idle, self._idle, self._busy, self._text, self._ended = self._idle, [], {}, b"", []
        for fd in (self._answers, self._answers_in):
            if fd is not None:
                os.close(fd)
        self._answers = self._answers_in = None
        deadline = time.monotonic() + _LEAVING_S
        while self._reap() & {worker.pid for worker in idle} and time.monotonic() < deadline:
            time.sleep(0.001)

    # --- processes ---

    def _start(self) -> Worker:
        if self._answers is None:
            self._answers, self._answers_in = os.pipe()
            os.set_blocking(self._answers, False)
        assert self._answers_in is not None
        reader, writer = os.pipe()
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _START, str(_PROGRAM.parent), str(_PROGRAM)],
                os.environ, setsid=True, setsigmask=(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reader, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, self._answers_in, _ANSWERS),
                ],
            )  # fmt: skip
        except OSError:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        os.set_blocking(writer, False)
        worker = Worker(pid, "", writer)
        try:
            worker.start = processes.start_of(pid) or ""
            worker.end = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        except OSError:
            self._dismiss(worker)
            raise
        return worker

    def _dismiss(self, worker: Worker) -> None:
        _close(worker)
        self._leaving.append(worker.pid)

    def _reap(self) -> set[int]:
        """Collect the workers that have ended; return those that have not."""
        for pid in [*self._leaving]:
            if _has_ended(pid):
                self._leaving.remove(pid)
        return set(self._leaving)


def _close(worker: Worker) -> None:
    for fd in (worker.requests, worker.end):
        if fd is not None:
            with suppress(OSError):
                os.close(fd)


def _has_ended(pid: int) -> bool:
    """Return whether a child of this process has ended, and let the kernel forget it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


_here = Workers()
_keepers = 0  # loops of this process that go on


def here() -> Workers:
    """Return the workers of this process."""
    return _here


@contextmanager
def kept() -> Iterator[None]:
    """Keep workers for the attempts to come; without it they are let go after each batch."""
    global _keepers
    _keepers += 1
    try:
        yield
    finally:
        _keepers -= 1
        let_go()


def wait_for_all() -> None:
    """Wait until no child of this process is left: as process 1 of a container it ends with all that runs in it."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def let_go() -> None:
    """Let the workers of this process go, unless a loop keeps them."""
    if not _keepers:
        _here.close()


def request(
    folder: str,
    claim: str,
    head: str,
    limits: tuple[float | None, float | None],
    background: str,
    argv: Sequence[str],
    outputs: Sequence[str],
    env: Sequence[bytes],
) -> list[bytes]:
    """Return the fields of a request behind its number, as `slot_worker.Request` reads them; ``env`` is NAME=value.

    ``limits`` are the time limit, and how long before it the command is warned, in seconds.

    Raises ValueError.
    """
    limit_s, warn_s = limits
    limit = "" if limit_s is None else f"{limit_s:.3f}" + (f"/{warn_s:.3f}" if warn_s is not None else "")
    texts = [folder, claim, head, limit, background, processes.oom_counter(), _sha256sum()]
    texts += [str(len(argv)), *argv, str(len(outputs)), *outputs]
    fields = [*map(os.fsencode, texts), *env]
    if b"\0" in b"".join(fields):
        raise ValueError("an argument or a variable holds a NUL")
    return fields


@cache
def _sha256sum() -> str:
    import shutil

    return shutil.which("sha256sum") or ""


def _write_all(fd: int, data: bytes) -> None:
    """Write to a worker that reads. Raises WorkerGone if it has ended, OSError if it does not read."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(_PATIENCE_MS):
                raise OSError(errno.ETIMEDOUT, "its worker does not read") from None
        except BrokenPipeError:
            raise WorkerGone(errno.EPIPE, "its worker has ended") from None
