"""The local operator: processes of this machine that outlive the step.

A slot worker (`slot_worker.py`) claims an attempt's folder, runs its command under its time limit, and writes exit.json
last. All that is known later is in files and in the kernel's table of processes.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from matterstack.core.model import Launch, LiveAttempt, Observation, OperatorSpec, Sighting, Submission
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text
from matterstack.core.values import encode_json
from matterstack.errors import STAYS, SubmissionRejected
from matterstack.operators import environment, processes, workers
from matterstack.operators.base import Key
from matterstack.operators.claims import Claim, is_held, read_claim, take_claim
from matterstack.run_root.files import open_regular, read_regular
from matterstack.run_root.layout import EXIT, STDERR, STDOUT, TASK, attempt_folder

_LARGEST_EXIT_JSON = 1 << 16
_LARGEST_ARGUMENT = 32 * 4096  # bytes, MAX_ARG_STRLEN of Linux. Source: execve(2)
_OPEN_FILES = 20  # that a step needs beside those of its workers
# Plain sh has no trap for errors, and does not tell the line; one that is bash does.
_STRICT_SH = (
    "case ${BASH_VERSION-} in '') "
    '__matterstack_log="$MATTERSTACK_RUN/tasks/$MATTERSTACK_TASK/attempt-$MATTERSTACK_ATTEMPT/stderr.log"; '
    "trap 'case $? in 0) ;; *) "
    'printf "matterstack: %s: exit code %s (sh does not say at which line, bash does)\\n" "$0" "$?" '
    '2> /dev/null >> "${__matterstack_log-/dev/null}" ;; '
    "esac' EXIT ;; *) . " + shlex.quote(str(Path(__file__).with_name("strict.bash"))) + ' ;; esac; . "./$0"'
)
_STRICT_BASH = Path(__file__).with_name("strict.bash")
_RECORD_S = 3.0  # within which a worker records the end of what was killed


class LocalOperator:
    def __init__(self, spec: OperatorSpec) -> None:
        self.spec = spec

    def origin(self) -> str:
        return encode_json(processes.this_place().to_json())

    def slots(self) -> tuple[int | None, int | None]:
        cpus, memory = processes.machine_slots()
        return self.spec.slot_cpus or cpus, self.spec.slot_memory or memory

    def most(self) -> int | None:
        """Return how many attempts may be active: each needs a worker, and each worker two open files of this process."""
        room = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OPEN_FILES) // 2)
        wanted = self.spec.max_active or self.slots()[0] or room  # each takes a cpu
        return room if wanted > room else self.spec.max_active

    def devices(self) -> Sequence[str]:
        """Return the ids of the GPUs that tasks may get, as CUDA_VISIBLE_DEVICES names them."""
        return self.spec.slot_gpus if self.spec.slot_gpus is not None else processes.machine_gpus()

    # --- handing over ---

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        out: dict[Key, Submission | SubmissionRejected] = {}
        try:
            for launch in launches:
                try:
                    out[launch.task_id, launch.attempt] = self._start(launch)
                except SubmissionRejected as error:
                    out[launch.task_id, launch.attempt] = error
        finally:
            workers.let_go()
        return out

    def _start(self, launch: Launch) -> Submission:
        """Hand an attempt to a worker. Raises SubmissionRejected: nothing was started."""
        path = launch.env.get("PATH") or self._path
        program = _program(launch.argv[0], path)
        if program is None:
            raise SubmissionRejected(f"{launch.argv[0]}: not found on PATH, which is {path[:500]}")
        env = self._environment(launch)
        argv = _saying_where(launch.argv)
        _check_size(argv, env)
        try:
            place = processes.this_place().to_json()
            head = encode_json({"task": launch.task_id, "attempt": launch.attempt})[:-1]
            claim = encode_json({"by": "worker", **place})[:-1] + ", "
            fields = workers.request(
                launch.folder, claim, head, (launch.resources.time_s, launch.warn_s), launch.background,
                (program, *argv[1:]), launch.outputs, env,
            )  # fmt: skip
            worker = workers.here().run((launch.task_id, launch.attempt), fields)
        except (OSError, ValueError) as error:
            # A worker that cannot be started is the machine's fault, and passes.
            raise SubmissionRejected(f"cannot be started: {error}", retry_later=isinstance(error, OSError)) from None
        return Submission(encode_json({**place, "pid": worker.pid, "start": worker.start}), AttemptState.RUNNING)

    def _environment(self, launch: Launch) -> list[bytes]:
        own = {name: _variable(name, value) for name, value in launch.env.items()}
        if launch.argv[0] == "bash":  # `strict.bash` says where it ends, and reads the user's own file
            given = own.get("BASH_ENV") or self._ambient.get("BASH_ENV")
            if given is not None:
                own["MATTERSTACK_BASH_ENV"] = b"MATTERSTACK_" + given
            own["BASH_ENV"] = _variable("BASH_ENV", str(_STRICT_BASH))
        return [*{**self._ambient, **_threads(launch.resources.cpus), **own}.values()]

    @cached_property
    def _path(self) -> str:
        return environment.command_path(os.environ)

    @cached_property
    def _ambient(self) -> dict[str, bytes]:
        """What every command gets, encoded once."""
        return {name: _variable(name, value) for name, value in environment.ambient(os.environ).items()}

    # --- looking ---

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        workers.here().collect()
        out: dict[Key, Observation] = {}
        for attempt in attempts:
            try:
                out[attempt.key] = self._look(attempt, _decode(attempt.handle))
            except OSError as error:
                out[attempt.key] = self._unseen(attempt, error)
        return out

    def _unseen(self, attempt: LiveAttempt, error: OSError) -> Observation:
        """Return what is seen of an attempt of which something cannot be read: nothing, or that it ended so."""
        handle = _decode(attempt.handle)
        pid, start = handle.get("pid"), handle.get("start")
        with suppress(OSError):
            here = isinstance(pid, int) and isinstance(start, str) and not _out_of_reach(handle)
            ours = workers.here().is_running(int(pid or 0), str(start), attempt.key) if here else None
            at_work = processes.is_alive(int(pid or 0), str(start)) if ours is None else ours
            if error.errno in STAYS and here and not at_work:
                path = str(error.filename or attempt.folder).partition("/tasks/")[2]
                why = reason(Code.UNREADABLE, path=f"tasks/{path}"[-300:], error=str(error.strerror))
                return Observation(Sighting.GONE, failure=FailureClass.UNREADABLE, reason=why)
        return Observation(Sighting.UNKNOWN, reason=reason(Code.CANNOT_SEE, error=str(error)))

    def _look(self, attempt: LiveAttempt, handle: Mapping[str, Any]) -> Observation:
        if workers.here().is_running(handle.get("pid", 0), handle.get("start", ""), attempt.key):
            return Observation(Sighting.RUNNING)  # it answers when it has written exit.json
        ended = _read_exit(attempt)
        if ended is not None:
            return ended
        unknown = _out_of_reach(handle)
        if unknown:
            return Observation(Sighting.UNKNOWN, reason=unknown, unreachable=True)
        rebooted = _is_another_boot(handle)
        if not rebooted and _is_at_work(attempt, handle):
            return Observation(Sighting.RUNNING)
        # It may have written exit.json and ended between the two looks.
        ended = _read_exit(attempt)
        if ended is not None:
            return ended
        hidden = "" if rebooted else _hidden(attempt)
        if hidden:
            return Observation(Sighting.UNKNOWN, reason=hidden, unreachable=True)
        session = _session(attempt, handle)
        left = set() if rebooted else processes.session_members(session)
        if left:
            return _orphans(session, left)
        claim = read_claim(Path(attempt.folder))
        found = None if rebooted else _find_worker(attempt)
        if found is not None:  # what says its pid was lost or spoilt
            return Observation(Sighting.RUNNING, found)
        ended = _read_exit(attempt) or _read_exit(attempt, f".{EXIT}")  # the last if it could not rename it any more
        if ended is not None:
            return ended
        if claim is None or claim.by != "worker":
            return Observation(Sighting.UNCLAIMED)  # or claimed by a step, or torn: recover tells them apart
        if not rebooted and is_held(Path(attempt.folder)):
            return Observation(
                Sighting.RUNNING, reason=reason(Code.CLAIM_HELD, folder=attempt.folder), unreachable=True
            )
        record = "torn" if (Path(attempt.folder) / EXIT).exists() else "missing"
        return Observation(
            Sighting.GONE, reason=reason(Code.GONE, rebooted=rebooted, record=record),
            failure=FailureClass.INTERRUPTED if rebooted else None,
        )  # fmt: skip

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        out = {}
        for attempt in attempts:
            try:
                out[attempt.key] = self._recover(attempt)
            except OSError as error:
                seen = self._unseen(attempt, error)
                unclear = Observation(Sighting.UNKNOWN, reason=reason(Code.CANNOT_CLAIM, error=str(error)))
                out[attempt.key] = unclear if seen.sighting is Sighting.UNKNOWN else seen
        return out

    def _recover(self, attempt: LiveAttempt) -> Observation:
        unknown = _out_of_reach(_decode(attempt.handle))
        if unknown:
            return Observation(Sighting.UNKNOWN, reason=unknown, unreachable=True)
        folder = Path(attempt.folder)
        hidden = _hidden(attempt)
        ran = _has_run(folder, handed_over=attempt.state is not AttemptState.SUBMITTING)
        claim = take_claim(folder, "recover")
        if ran and (claim is None or claim.by == "step"):  # of this step or an earlier, since its own was removed
            if hidden:
                return Observation(Sighting.UNKNOWN, reason=hidden, unreachable=True)
            found = _find_worker(attempt)
            if found is not None:
                return Observation(Sighting.RUNNING, found)
            ended = _read_exit(attempt)
            record = "no claim" if (folder / TASK).exists() else "no folder"
            gone = Observation(Sighting.GONE, reason=reason(Code.GONE, rebooted=False, record=record))
            return ended if ended is not None else gone
        if claim is None or claim.by == "step":
            return Observation(Sighting.NOT_STARTED, reason=reason(Code.NOT_STARTED, why="interrupted"))
        if claim.by == "nobody":
            why = reason(Code.NO_ROOM, text=str(claim.data.get("why")))
            return Observation(Sighting.NOT_STARTED, failure=FailureClass.POSTPONED, reason=why)
        if claim.by == "worker":
            seen = self._look(attempt, claim.data)
            return seen if seen.handle else _with_handle(seen, json.dumps(claim.data))
        ended = _read_exit(attempt)
        if ended is not None:
            return ended
        if hidden:
            return Observation(Sighting.UNKNOWN, reason=hidden, unreachable=True)
        if _find_worker(attempt) is not None:
            return Observation(Sighting.UNKNOWN, reason=reason(Code.CLAIM_INCOMPLETE))
        claim = read_claim(Path(attempt.folder))
        if claim is not None and claim.by == "worker":
            return self._recover(attempt)
        if ran:
            return Observation(Sighting.GONE, reason=reason(Code.GONE, rebooted=False, record="torn claim"))
        return Observation(Sighting.NOT_STARTED, reason=reason(Code.NOT_STARTED, why="no claim"), unclaimed=True)

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        seen = dict(self.recover(attempts))
        running = [a for a in attempts if a.key in seen and seen[a.key].sighting is Sighting.RUNNING]
        processes.end_sessions(_session(a, _decode(seen[a.key].handle or a.handle)) for a in running)
        found = self._until_recorded(running)
        reading = [a for a in running if found[a.key].sighting is Sighting.RUNNING and not found[a.key].why]
        if reading:  # the command has ended: its worker is reading what it made
            for attempt in reading:
                processes.end_worker(_decode(seen[attempt.key].handle or attempt.handle))
            found = self._until_recorded(running)
        for key, item in found.items():
            seen[key] = _with_handle(item, seen[key].handle)
        return seen

    def _until_recorded(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        """Look until the workers of what was killed this moment have written the end, for some seconds."""
        found = self.observe(attempts)
        deadline = time.monotonic() + _RECORD_S
        while any(i.sighting is Sighting.RUNNING and not i.why for i in found.values()) and time.monotonic() < deadline:
            time.sleep(0.005)
            found = self.observe(attempts)
        return found

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        ours, fds = workers.here(), list[int]()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4  # the rest is for files; the loop looks anyway
        for attempt in attempts:
            if len(fds) >= most:
                break
            handle = _decode(attempt.handle)
            if ours.is_running(handle.get("pid", 0), handle.get("start", ""), attempt.key):
                continue  # its worker answers
            with suppress(OSError):
                if (Path(attempt.folder) / EXIT).exists():  # it has ended since the step looked
                    fds.append(processes.readable_now())
                elif not _out_of_reach(handle):
                    fd = processes.end_of_leader(_session(attempt, handle))
                    fds += [] if fd is None else [fd]
        return fds


@cache
def _threads(cpus: int) -> dict[str, bytes]:
    return {name: _variable(name, value) for name, value in environment.threads(cpus).items()}


@cache
def _program(name: str, path: str) -> str | None:
    return environment.find_program(name, path)


def _saying_where(argv: Sequence[str]) -> Sequence[str]:
    """Return what runs a command file so that the end of a strict `sh` is told; for bash `strict.bash` does that."""
    return ("sh", "-ec", _STRICT_SH, argv[-1]) if argv[0] == "sh" else argv


def _variable(name: str, value: str) -> bytes:
    return os.fsencode(f"{name}={value}")


def _check_size(argv: Sequence[str], env: Sequence[bytes]) -> None:
    """Raise SubmissionRejected for what the system will not start: it would end with 126 and no word of why."""
    texts = [*map(os.fsencode, argv), *env]
    sizes = [*map(len, texts)]
    largest = max(sizes) + 1  # with the NUL at its end
    if largest > _LARGEST_ARGUMENT and sys.platform.startswith("linux"):
        name = os.fsdecode(texts[sizes.index(largest - 1)].partition(b"=")[0])
        raise SubmissionRejected(
            f"cannot be started: {name[:60]} with its value is {largest} bytes long, the system takes {_LARGEST_ARGUMENT}; "
            "write it to a file"
        )
    most = os.sysconf("SC_ARG_MAX")
    total = sum(sizes) + 9 * len(sizes) + 16  # with a NUL and a pointer for each
    if total > most - 4096:
        raise SubmissionRejected(
            f"cannot be started: its arguments and environment are {total} bytes, the system takes {most - 4096}; "
            "write what is long to a file"
        )


def _has_run(folder: Path, *, handed_over: bool) -> bool:
    """Return whether an unclaimed folder shows that its command ran all the same, and removed the claim.

    Nothing but a worker that holds the claim writes logs, and nothing but a command removes task.json.
    """
    return (folder / STDOUT).exists() or (handed_over and not (folder / TASK).exists())


def _hidden(attempt: LiveAttempt) -> Reason:
    """Return why the processes of an attempt cannot be seen by this user, no reason if they can."""
    try:
        owner = processes.hidden_owner(Path(attempt.folder))  # who made it has started the worker
    except FileNotFoundError:
        return NO_REASON
    return reason(Code.HIDDEN, owner=owner) if owner else NO_REASON


def _find_worker(attempt: LiveAttempt) -> str | None:
    """Return the handle of a live worker that is in an attempt's folder, of this installation or another."""
    for pid in processes.find_in_folder(workers.WORKER, attempt.folder):
        start = processes.start_of(pid)
        if start is not None:
            return json.dumps({**processes.this_place().to_json(), "pid": pid, "start": start})
    return None


def _is_at_work(attempt: LiveAttempt, handle: Mapping[str, Any]) -> bool:
    """Return whether the worker that got an attempt is alive and has it in hand. Raises OSError."""
    pid, start = handle.get("pid"), handle.get("start")
    if not isinstance(pid, int) or not isinstance(start, str) or pid < 2:
        return False
    known = workers.here().is_running(pid, start, attempt.key)
    if known is not None:
        return known
    if not processes.is_alive(pid, start):
        return False
    claim = read_claim(Path(attempt.folder))
    if claim is not None and _is_by(claim, pid, start):
        return processes.works_in(pid, attempt.folder)  # or it has ended, and could not say so
    return claim is None or claim.by == "torn"


def _is_by(claim: Claim, pid: int, start: str) -> bool:
    return claim.by == "worker" and (claim.data.get("pid"), claim.data.get("start")) == (pid, start)


def _orphans(session: processes.Session, pids: set[int]) -> Observation:
    """Return what is seen of an attempt whose worker is gone."""
    certain = bool(processes.session_members(session, marked=True))
    why = reason(Code.ORPHANS, pids=sorted(pids)[:5], certain=certain)
    return Observation(Sighting.RUNNING, reason=why, unreachable=not certain)


def _session(attempt: LiveAttempt, handle: Mapping[str, Any]) -> processes.Session:
    root = attempt.folder.removesuffix(f"/{attempt_folder(*attempt.key)}")
    marks = {
        f"MATTERSTACK_RUN={root}", f"MATTERSTACK_TASK={attempt.task_id}", f"MATTERSTACK_ATTEMPT={attempt.attempt}"
    }  # fmt: skip
    command, command_start = _command(attempt)
    return processes.Session(
        leader=handle["pid"] if _is_at_work(attempt, handle) else 0,
        start=str(handle.get("start") or "unknown"),
        command=command,
        command_start=command_start,
        folder=attempt.folder,
        marks=frozenset(mark.encode(errors="surrogateescape") for mark in marks),
    )


def _command(attempt: LiveAttempt) -> tuple[int, str]:
    """Return pid and start time of a command, as its worker wrote them down; (0, "") if they are not known."""
    try:
        words = read_regular(Path(attempt.folder) / f".{EXIT}", 64).decode(errors="replace").split()
    except OSError:
        return 0, ""
    return (int(words[1]), words[2]) if len(words) > 2 and words[0] == "started" and words[1].isdigit() else (0, "")


def _decode(handle: str) -> dict[str, Any]:
    try:
        data = json.loads(handle)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _with_handle(seen: Observation, handle: str | None) -> Observation:
    return replace(seen, handle=handle)


def _is_another_boot(handle: Mapping[str, Any]) -> bool:
    """Return whether what a handle names was started under another boot; one that is not known is no other."""
    boots = handle.get("boot"), processes.this_place().boot
    return all(boots) and boots[0] != boots[1]


def _out_of_reach(handle: Mapping[str, Any]) -> Reason:
    """Return why nothing can be known here of a process, no reason if it can."""
    here = processes.this_place()
    if not handle:
        return reason(Code.NOT_RECORDED_WHERE)
    unknown = not handle.get("boot") or not here.boot
    if (unknown or _is_another_boot(handle)) and (handle.get("machine"), handle.get("host")) != (
        here.machine,
        here.host,
    ):
        # Machines that were installed from one image share a machine id: a reboot needs the same name as well.
        return reason(Code.ELSEWHERE, host=handle.get("host", "another machine"), container=False)
    if not _is_another_boot(handle) and handle.get("pid_ns") != here.pid_namespace:
        return reason(Code.ELSEWHERE, host=handle.get("host", "this machine"), container=True)
    return NO_REASON


def _read_exit(attempt: LiveAttempt, name: str = EXIT) -> Observation | None:
    """Read exit.json; None if it is absent, not whole, or of another attempt."""
    try:
        text = read_regular(f"{attempt.folder}/{name}", _LARGEST_EXIT_JSON + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO):  # not a regular file: a folder, a pipe, a socket
            return None
        raise  # it cannot be told
    try:
        data = json.loads(text) if len(text) <= _LARGEST_EXIT_JSON and text.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or (data.get("task"), data.get("attempt")) != attempt.key:
        return None
    code = data.get("exit_code")
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
        return None
    failure, why = _failure(attempt, data, code)
    usage = data.get("usage")
    return Observation(
        Sighting.ENDED, exit_code=code, started_at=from_text(data.get("started_at")),
        ended_at=from_text(data.get("ended_at")), elapsed_s=_elapsed(data), failure=failure, reason=why,
        usage=usage if isinstance(usage, dict) else {}, warned=data.get("warned") is True,
    )  # fmt: skip


def _failure(attempt: LiveAttempt, data: Mapping[str, Any], code: int) -> tuple[FailureClass | None, Reason]:
    """Return the class of a failure that the record tells, None for others and for a success."""
    if data.get("timed_out") is True:
        return FailureClass.TIMEOUT, NO_REASON
    if data.get("interrupted"):  # whatever it made of that: a program that ends at TERM with 0 is not done
        return FailureClass.INTERRUPTED, reason(Code.INTERRUPTED, by=str(data["interrupted"]))
    kills = data.get("oom_kills")
    if (
        code != 0
        and isinstance(kills, int)
        and kills > 0
        and (code == 137 or data.get("killed") or _tells_of_kill(attempt))
    ):
        return FailureClass.OUT_OF_MEMORY, reason(Code.OUT_OF_MEMORY, exit_code=code, max_rss=_max_rss(data))
    left = data.get("left_running")
    if code == 0 and isinstance(left, list) and left:
        return FailureClass.LEFT_RUNNING, reason(Code.LEFT_RUNNING, names=[str(name) for name in left])
    return None, NO_REASON


def _max_rss(data: Mapping[str, Any]) -> int | None:
    usage = data.get("usage")
    size = usage.get("max_rss") if isinstance(usage, dict) else None
    return size if isinstance(size, int) else None


def _tells_of_kill(attempt: LiveAttempt) -> bool:
    """Return whether a shell has written that a process which it started was killed.

    The kernel's count is of the whole cgroup: without this the kill may have been another attempt's.
    """
    try:
        with open_regular(Path(attempt.folder) / STDERR) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65_536))
            return b"Killed" in file.read()
    except OSError:
        return False


def _elapsed(data: Mapping[str, Any]) -> float | None:
    try:
        began, ended = data["uptime"]
        return float(ended) - float(began)
    except (KeyError, TypeError, ValueError):
        started, ended_at = from_text(data.get("started_at")), from_text(data.get("ended_at"))
        return None if started is None or ended_at is None else ended_at - started
