"""Runs the attempts of one slot of the local operator, one after the other, and outlives the process that started it.

Started with `python -I -S` by `workers.py`, in a session of its own, with requests on descriptor 0 and a pipe for answers on
descriptor 3. It ends when the requests do and its attempt is over. For each request it claims the attempt's folder,
starts the command, waits until none of the processes of the attempt is alive, and writes exit.json last. As the child
subreaper it inherits every descendant that loses its parent, whatever session that has moved to (prctl(2)).

Modules are imported at the start alone, since Python may be upgraded meanwhile, and only small ones: the peak memory
of a process that a command starts is at least this one's.

A request is a line with the length of what follows, then that many bytes: fields, each ended by a NUL byte (`Request`).
A request that is not whole comes from a process that was killed, and is not carried out. An answer is a line: the number
of the request, what came of it ("ended", "not started"), and "last" if this worker takes no more.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # making the enumerations of `signal` takes longer than all else
import ctypes
import errno
import fcntl
import os
import stat
import sys
import time

try:
    # `hashlib` loads OpenSSL, 4 MB more. The type stubs know neither module.
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:  # before Python 3.12
    from _sha256 import sha256  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWERS = 3
CLAIM_FD = 9  # of the claim in the command: its lock says that a process of the attempt lives
GRACE_S = 10.0  # for processes that are left when the command ends, and between TERM and KILL
UNKILLABLE_S = 60.0  # after KILL
ROOM = 2048  # bytes reserved for the record of the end, should the disk be full by then
MOST_FILES = 1_000_000  # in folders that are outputs; a step looks at the others
LARGE = 1 << 20  # bytes of a file from which on `sha256sum`, if there is one, is worth a process
LONGEST_WAIT_S = 60.0  # a clock that stood still, as in a suspended machine, is looked at again
RETRY_S = 5.0  # between attempts to write the record
RETRIES = 17_280  # a day
CANNOT_BE_RUN = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP, errno.EPERM)
SHELLS = (b"bash", b"sh", b"dash", b"zsh", b"ksh", b"fish")
_PR_SET_CHILD_SUBREAPER = 36
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, and nobody sets it


class Request:
    """What to run: names of files are relative to the folder, ``env`` and ``argv`` are complete."""

    def __init__(self, data: bytes) -> None:
        fields = data.split(b"\0")[:-1]
        self.number, self.folder, self.claim, self.head, limit, self.background, self.oom_file, self.sha256sum = fields[
            :8
        ]
        limit, _, warn = limit.partition(b"/")
        self.limit_s = float(limit) if limit else None
        self.warn_s = float(warn) if warn else None
        count = int(fields[8])
        self.argv = fields[9 : 9 + count]
        outputs = int(fields[9 + count])
        self.outputs = fields[10 + count : 10 + count + outputs]
        self.env = dict(item.split(b"=", 1) for item in fields[10 + count + outputs :])


class Worker:
    def __init__(self) -> None:
        # What the step had inherited, a lock or the end of a pipe, must not stay open as long as this and its commands.
        os.closerange(ANSWERS + 1, os.sysconf("SC_OPEN_MAX"))
        self.subreaper = False
        if sys.platform.startswith("linux"):
            libc = ctypes.CDLL(None, use_errno=True)
            self.subreaper = libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        self.me = b'"pid": %d, "start": "%s"}\n' % (os.getpid(), start_of(os.getpid()))
        self.watched = {signal.SIGCHLD, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.defaults = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
        self.last = False

    def serve(self) -> None:
        os.chdir("/")
        while not self.last:
            data = read_request()
            if data is None:
                return
            request = Request(data)
            done = b"not started"
            try:
                os.chdir(request.folder)
                done = Attempt(self, request).run()
            except OSError:  # no folder, or no claim to be had: nothing was started
                pass
            os.chdir("/")
            try:
                os.write(ANSWERS, b"%s %s%s\n" % (request.number, done, b" last" if self.last else b""))
            except OSError:
                pass


class Attempt:
    def __init__(self, worker: Worker, request: Request) -> None:
        self.worker = worker
        self.request = request
        self.leader = 0
        self.code: int | None = None  # of a command that cannot be run
        self.status: int | None = None  # of the leader, as wait(2) gives it
        self.cpu_s = 0.0
        self.max_rss = self.read = self.written = 0
        self.was_killed = False  # a process of it, and not by this worker
        self.ending = ""  # why its processes are being ended: "limit", "TERM" or "left"
        self.ended_by_kill = False
        self.warned = False  # that its time limit is near
        self.left: list[bytes] = []  # names of processes that were alive when the command ended
        self.ended_at = self.ended_uptime = 0.0

    def run(self) -> bytes:
        """Return what came of it: b"ended" or b"not started". Raises OSError before anything is claimed."""
        claim = os.open("claim", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            line = self.request.claim + self.worker.me
            if os.write(claim, line) != len(line):
                return b"not started"  # whoever cannot write its line runs nothing
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # a file system without locks: then the processes alone tell who lives
                pass
            record = self.start(claim)
            if record is None:
                return b"not started"
            if self.code is None:
                self.wait()
            self.ended_at, self.ended_uptime = time.time(), time.clock_gettime(_CLOCK)
            self.write_digests()
            self.write_record(record)
        finally:
            os.close(claim)
        return b"ended"

    # --- the command ---

    def start(self, claim: int) -> int | None:
        """Start the command; return the descriptor of its record, or None with `nobody` in the claim."""
        record = None
        if signal.SIGTERM in signal.sigpending():  # it was meant for an attempt that is over
            signal.sigwait({signal.SIGTERM})
        try:
            record = os.open(".exit.json", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            if os.write(record, b" " * ROOM) != ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.oom_before = oom_kills(self.request.oom_file)
            self.started_at, self.began = time.time(), time.clock_gettime(_CLOCK)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND  # a shell that fails says where in stderr.log
            self.leader = os.posix_spawn(
                self.request.argv[0],
                self.request.argv,
                self.request.env,
                setsid=True,
                setsigmask=(),
                setsigdef=self.worker.defaults,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "stdout.log", flags, 0o666),
                    (os.POSIX_SPAWN_OPEN, 2, "stderr.log", flags, 0o666),
                    (os.POSIX_SPAWN_CLOSE, ANSWERS),
                    (os.POSIX_SPAWN_DUP2, claim, CLAIM_FD),
                ],
            )
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            if record is not None and number in CANNOT_BE_RUN:
                self.code = 127 if number == errno.ENOENT else 126  # as a shell
                write_log("stderr.log", b"%s: %s\n" % (self.request.argv[0], os.strerror(number).encode()))
                return record
            # In place, since there may be no room for another block.
            why = plain((os.strerror(number) if number else str(error)).encode())
            text = b'{"by": "nobody", "why": "its worker could not start it: %s"}' % why
            os.pwrite(claim, text.ljust(1023) + b"\n", 0)
            if record is not None:
                os.close(record)
                os.unlink(".exit.json")
            return None
        try:
            os.pwrite(record, b"started %d %s " % (self.leader, start_of(self.leader)), 0)
        except OSError:  # it would only have helped whoever looks for its processes
            pass
        return record

    def wait(self) -> None:
        """Wait until no process of the attempt is alive, and end those that must not be."""
        limit = None if self.request.limit_s is None else self.began + self.request.limit_s
        grace: float | None = None
        kill_at: float | None = None
        leave = self.request.background == b"leave"
        warn = None if limit is None or self.request.warn_s is None else limit - self.request.warn_s
        while self.reap():
            now = time.clock_gettime(_CLOCK)
            if warn is not None and now >= warn:
                warn = None
                self.warn()
            if self.status is not None and not self.ending:
                if not self.worker.subreaper or (leave and not self.is_anybody_in_session()):
                    self.worker.last = self.worker.subreaper  # what is left alone stays this process's child
                    break
                if grace is None and self.request.background != b"wait":
                    grace = now + GRACE_S
            if kill_at is None:
                if grace is not None and now >= (grace if limit is None else min(grace, limit)):
                    kill_at = self.end("left", now)
                elif limit is not None and now >= limit:
                    kill_at = self.end("limit", now)
            elif now >= kill_at + UNKILLABLE_S:
                self.left = [*self.left, *self.names(self.members())][:10]
                self.worker.last = True
                break
            elif now >= kill_at:
                self.ended_by_kill |= self.status is None
                self.tell(signal.SIGKILL)
            due = [max(kill_at, now + 0.05)] if kill_at is not None else [at for at in (limit, grace) if at is not None]
            if warn is not None:
                due.append(warn)
            if grace is not None and leave:
                due.append(now + 0.05)  # until it has called setsid
            patience = min([LONGEST_WAIT_S, *(max(0.0, at - now) for at in due)])
            if wait_for_signal(self.worker.watched, patience) == signal.SIGTERM and not self.ending:
                kill_at = self.end("TERM", time.clock_gettime(_CLOCK))
        if not self.ending and signal.SIGTERM in signal.sigpending():
            self.ending = "TERM"  # it ended of the same signal, before this process was told

    def reap(self) -> bool:
        """Collect what ended; return whether a child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.cpu_s += usage.ru_utime + usage.ru_stime
            self.max_rss = max(self.max_rss, usage.ru_maxrss)
            self.read += usage.ru_inblock
            self.written += usage.ru_oublock
            self.was_killed |= os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not self.ending
            if pid == self.leader:
                self.status = status

    def end(self, why: str, now: float) -> float:
        """Ask all processes to end; return when they are killed."""
        self.ending = why
        if why == "left":
            self.left = self.names(self.members())
        self.tell(signal.SIGTERM)
        return now + GRACE_S

    def warn(self) -> None:
        """Tell all processes that the time limit is near, but shells that wait for a child: these would not pass it on."""
        self.warned = True
        parents = {int(fields[1]) for _, fields in processes()}
        for pid in self.members():
            if pid in parents and read_file(b"/proc/%d/comm" % pid).strip() in SHELLS:
                continue
            try:
                kill(pid, signal.SIGTERM)
            except OSError:
                continue

    def tell(self, number: int) -> None:
        found = self.members()
        try:
            for pid in found:
                kill(pid, number)
            if not found and self.status is None:  # /proc cannot be read
                os.killpg(self.leader, number)
        except OSError:
            pass

    def members(self) -> list[int]:
        """Return the processes of the attempt: all that descend from this one."""
        parents: dict[int, list[int]] = {}
        for pid, fields in processes():
            parents.setdefault(int(fields[1]), []).append(pid)
        found: list[int] = []
        new = parents.get(os.getpid(), [])
        while new:
            found += new
            new = [child for pid in new for child in parents.get(pid, ())]
        return found

    def is_anybody_in_session(self) -> bool:
        """Return whether a process of the attempt is alive that stayed in the session of its command."""
        return any(int(fields[3]) == self.leader and fields[0] != b"Z" for _, fields in processes())

    def names(self, pids: list[int]) -> list[bytes]:
        found = []
        for pid in pids:
            name = read_file(b"/proc/%d/comm" % pid).strip()
            if name:
                found.append(name)
        return found[:10]

    # --- its end ---

    def exit_code(self) -> int:
        if self.code is not None:
            return self.code
        if self.status is None:
            return 137
        if self.ending == "limit":
            return 137 if self.ended_by_kill else 124  # as timeout(1)
        code = os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else 128 - code  # as a shell

    def write_digests(self) -> None:
        """Write the sha256 of declared outputs, of regular files alone: a named pipe would never end."""
        if self.exit_code() != 0 or not self.request.outputs or os.path.lexists("outputs.sha256"):
            return
        try:
            lines = b"".join(digest_lines(self.request.outputs, self.request.sha256sum, self.may_go_on))
            if lines:
                fd = os.open("outputs.sha256", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                try:
                    os.write(fd, lines)
                finally:
                    os.close(fd)
        except Stop as why:
            self.ending = why.args[0]
        except OSError:
            pass  # then a step computes them

    def may_go_on(self) -> None:
        """Raise Stop where the time limit has passed, or the attempt is to end."""
        limit = self.request.limit_s
        if limit is not None and time.clock_gettime(_CLOCK) > self.began + limit:
            raise Stop("limit")
        if signal.SIGTERM in signal.sigpending():
            raise Stop("TERM")

    def write_record(self, record: int) -> None:
        """Write exit.json: also on a disk that is full, and in a folder that is read-only by now."""
        kills = oom_kills(self.request.oom_file) - self.oom_before
        more = b""
        if self.ending == "limit":
            more += b', "timed_out": true'
        if self.ending == "TERM":
            more += b', "interrupted": "TERM"'
        if self.warned and not self.ending:
            more += b', "warned": true'
        if self.was_killed:
            more += b', "killed": true'
        if self.left:
            more += b', "left_running": [%s]' % b", ".join(b'"%s"' % plain(name) for name in self.left)
        scale = 1 if sys.platform == "darwin" else 1024
        text = (
            b'%s, "exit_code": %d, "started_at": "%s", "ended_at": "%s", "uptime": ["%.3f", "%.3f"], "oom_kills": %d, '
            b'"usage": {"cpu_s": %.3f, "max_rss": %d, "rss_of": "largest process", "read": %d, "written": %d, "by": "wait4"}%s}\n'
        ) % (
            self.request.head, self.exit_code(), date(self.started_at), date(self.ended_at), self.began, self.ended_uptime,
            kills, self.cpu_s, self.max_rss * scale, self.read * 512, self.written * 512, more,
        )  # fmt: skip
        for _ in range(RETRIES):
            try:
                try:
                    write_exit(record, text)
                except PermissionError:
                    unlocked(lambda: write_exit(record, text))
                break
            except IsADirectoryError:
                break  # a folder is in its place: a step reads .exit.json then
            except OSError:
                if not os.path.lexists("claim"):
                    break  # its folder is gone
            time.sleep(RETRY_S)
        os.close(record)
        for log in ("stdout.log", "stderr.log"):
            try:
                if os.stat(log).st_size == 0:
                    os.unlink(log)
            except OSError:
                pass


def write_exit(record: int, text: bytes) -> None:
    """Write the record of the end into the file that has room for it, and rename it. Raises OSError."""
    if not is_same(".exit.json", record):  # somebody has removed or replaced it
        if os.path.isdir(".exit.json") and not os.path.islink(".exit.json"):
            os.rename(".exit.json", ".exit.json.%d" % os.getpid())
        elif os.path.lexists(".exit.json"):
            os.unlink(".exit.json")
        again = os.open(".exit.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        os.dup2(again, record, inheritable=False)
        os.close(again)
    if os.pwrite(record, text, 0) != len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(record, len(text))
    os.rename(".exit.json", "exit.json")


def unlocked(action: Callable[[], None]) -> None:
    """Do something in the folder although somebody has made it read-only. Raises OSError."""
    mode = os.stat(".").st_mode
    os.chmod(".", mode | 0o700)
    try:
        action()
    finally:
        os.chmod(".", mode)


def wait_for_signal(watched: set[int], patience_s: float) -> int:
    """Wait for one of these blocked signals; return it, 0 if none came within ``patience_s``."""
    if hasattr(signal, "sigtimedwait"):
        found = signal.sigtimedwait(watched, patience_s)
        return found.si_signo if found is not None else 0
    end = time.monotonic() + patience_s  # macOS
    while not (pending := watched & signal.sigpending()) and time.monotonic() < end:
        time.sleep(0.01)
    return int(signal.sigwait(pending)) if pending else 0


def read_request() -> bytes | None:
    """Return the next request, None if there is none, or only the beginning of one."""
    data, wanted = b"", None
    while wanted is None or len(data) < wanted:
        part = os.read(0, 65536)  # the next request comes when this one has been answered
        if not part:
            return None
        data += part
        if wanted is None and b"\n" in data:
            length, data = data.split(b"\n", 1)
            wanted = int(length)
    return data


def processes() -> Iterator[tuple[int, list[bytes]]]:
    """Yield each process as its pid and the fields of /proc/PID/stat behind its name. Source: proc(5)."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if name.isdigit():
            fields = read_file(f"/proc/{name}/stat").rpartition(b") ")[2].split()
            if len(fields) > 3:
                yield int(name), fields


def start_of(pid: int) -> bytes:
    fields = read_file(b"/proc/%d/stat" % pid).rpartition(b") ")[2].split()
    return fields[19] if len(fields) > 19 else b""


def read_file(path: str | bytes) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)


def oom_kills(path: bytes) -> int:
    """Return how many processes of this cgroup the kernel has killed for memory."""
    for line in read_file(path).splitlines() if path else ():
        key, _, value = line.partition(b" ")
        if key == b"oom_kill" and value.isdigit():
            return int(value)
    return 0


class Stop(Exception):
    """The attempt is to end before all that it made is read; with why, `limit` or `TERM`."""


def digest_lines(outputs: list[bytes], sha256sum: bytes, may_go_on: Callable[[], None]) -> Iterator[bytes]:
    """Yield lines as `sha256sum` writes them, for files, and for all files in folders; a link to a folder is not entered.

    Raises what ``may_go_on`` raises, which is asked again and again.
    """
    count = 0
    for name in outputs:
        path = name.rstrip(b"/")
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode):
            yield from digest_line(path, sha256sum, may_go_on)
        elif stat.S_ISDIR(mode) and not os.path.islink(path):
            for folder, _, files in os.walk(path):
                for file in files:
                    count += 1
                    if count > MOST_FILES:
                        return
                    may_go_on()
                    inside = os.path.join(folder, file)
                    if stat.S_ISREG(os.lstat(inside).st_mode):
                        yield from digest_line(inside, sha256sum, may_go_on)


def digest_line(path: bytes, sha256sum: bytes, may_go_on: Callable[[], None]) -> Iterator[bytes]:
    if b"\n" in path or b"\\" in path:
        return  # sha256sum would escape these: a step computes them
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        digest = digest_by_program(path, sha256sum, may_go_on) if sha256sum and size >= LARGE else b""
        if not digest:
            digest = digest_of(fd, may_go_on)
    finally:
        os.close(fd)
    yield b"%s  %s\n" % (digest, path)


def digest_of(fd: int, may_go_on: Callable[[], None]) -> bytes:
    found = sha256()
    while data := os.read(fd, 1 << 20):
        found.update(data)
        if len(data) == 1 << 20:
            may_go_on()
    return bytes(found.hexdigest(), "ascii")


def digest_by_program(path: bytes, sha256sum: bytes, may_go_on: Callable[[], None]) -> bytes:
    import select

    reader, writer = os.pipe()
    try:
        try:
            pid = os.posix_spawn(
                sha256sum, [sha256sum, b"--", path], {}, setsigmask=(),
                file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)],
            )  # fmt: skip
        finally:
            os.close(writer)
        try:
            while not select.select([reader], [], [], 0.1)[0]:
                may_go_on()
        except (Stop, OSError):
            kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        text = os.read(reader, 4096)
        return text[:64] if os.waitpid(pid, 0)[1] == 0 else b""
    except OSError:
        return b""
    finally:
        os.close(reader)


def write_log(name: str, text: bytes) -> None:
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        os.write(fd, text)
        os.close(fd)
    except OSError:
        pass


def is_same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def plain(name: bytes) -> bytes:
    """Return a process's name with every character replaced that JSON would have to escape."""
    return bytes(byte if 32 <= byte < 127 and byte not in b'"\\' else 63 for byte in name)


def date(seconds: float) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%06dZ" % (seconds % 1 * 1e6)


if __name__ == "__main__":
    Worker().serve()
