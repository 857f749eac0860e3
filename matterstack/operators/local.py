"""The local operator: detached processes of this machine that outlive the step.

One shell a task (`wrapper.sh`), in a session of its own: it claims the folder, runs the command under its time
limit, and writes exit.json last. All that is known later is in files and in the kernel's table of processes.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from matterstack.core.model import Launch, LiveAttempt, Observation, OperatorSpec, Sighting, Submission
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.states import AttemptState, FailureClass
from matterstack.core.times import from_text
from matterstack.errors import TRANSIENT, SubmissionRejected
from matterstack.operators import processes
from matterstack.operators.base import Key
from matterstack.operators.claims import read_claim, take_claim
from matterstack.run_root.files import read_regular
from matterstack.run_root.layout import EXIT, STDOUT, TASK

_WRAPPER = Path(__file__).with_name("wrapper.sh")
_LARGEST_EXIT_JSON = 1 << 16
_DATE_FORMAT = "+%Y-%m-%dT%H:%M:%S.%6NZ" if sys.platform.startswith("linux") else "+%Y-%m-%dT%H:%M:%SZ"

_children: dict[int, subprocess.Popen[bytes]] = {}  # of this process; reaped when they are looked at


class LocalOperator:
    def __init__(self, spec: OperatorSpec) -> None:
        self.spec = spec

    def origin(self) -> str:
        return json.dumps(processes.this_place().to_json())

    def slots(self) -> tuple[int | None, int | None]:
        cpus, memory = processes.machine_slots()
        return self.spec.slot_cpus or cpus, self.spec.slot_memory or memory

    # --- handing over ---

    def submit(self, launches: Sequence[Launch]) -> Mapping[Key, Submission | SubmissionRejected]:
        out: dict[Key, Submission | SubmissionRejected] = {}
        for launch in launches:
            try:
                place = processes.this_place().to_json()
                argv = self._argv(launch, place)
            except SubmissionRejected as error:
                out[launch.task_id, launch.attempt] = error
                continue
            except OSError as error:  # before anything is started
                late = error.errno in TRANSIENT
                out[launch.task_id, launch.attempt] = SubmissionRejected(
                    f"cannot be started: {error}", retry_later=late
                )
                continue
            try:
                out[launch.task_id, launch.attempt] = self._start(launch, argv, place)
            except SubmissionRejected as error:
                out[launch.task_id, launch.attempt] = error
            except OSError:  # it was started, and cannot be looked at: the next step finds it by its claim
                continue
        return out

    @staticmethod
    def _argv(launch: Launch, place: Mapping[str, str]) -> list[str]:
        """Return the wrapper's command line. Raises SubmissionRejected for tools that are not here, OSError."""
        tools = {name: _tool(name) for name in ("date", "mv", launch.argv[0])}
        missing = [name for name, path in tools.items() if path is None]
        limit = launch.resources.time_s
        if limit is not None and _tool("timeout") is None and _tool("gtimeout") is None:
            missing.append("timeout (of GNU coreutils, for the time limit)")
        if missing:
            raise SubmissionRejected(f"{', '.join(missing)}: not found on PATH")
        head = json.dumps({"task": launch.task_id, "attempt": launch.attempt}, ensure_ascii=False)[:-1]
        claim = json.dumps({"by": "wrapper", **place})[:-1]
        files = [_as_operand(name) for name in launch.outputs]
        return [
            "/bin/sh", str(_WRAPPER), launch.folder, claim, head,
            "" if limit is None else f"{limit:.3f}", processes.oom_counter(),
            _tool("timeout") or _tool("gtimeout") or "", _tool("sha256sum") or "",
            str(tools["date"]), _DATE_FORMAT, str(tools["mv"]), os.environ.get("PATH", os.defpath),
            str(tools[launch.argv[0]]), " ".join(launch.argv[1:-1]), *files,
        ]  # fmt: skip

    def _start(self, launch: Launch, argv: list[str], place: Mapping[str, str]) -> Submission:
        try:
            child = subprocess.Popen(
                argv, env=self._environment(launch), cwd="/", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            # Popen reports a failed fork or exec from the child: for certain nothing was started. What it could not
            # run is /bin/sh, which is the machine's fault and passes, but for a command line that is too long.
            late = isinstance(error, OSError) and error.errno != errno.E2BIG
            raise SubmissionRejected(f"cannot be started: {error}", retry_later=late) from None
        _children[child.pid] = child
        handle = {**place, "pid": child.pid, "start": processes.start_of(child.pid) or ""}
        return Submission(json.dumps(handle), AttemptState.RUNNING)

    @staticmethod
    def _environment(launch: Launch) -> dict[str, str]:
        env = {**os.environ, "OMP_NUM_THREADS": str(launch.resources.cpus)}
        if "OMP_NUM_THREADS" in os.environ:
            env["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
        # The interpreter that runs MatterStack first: an environment that was not activated works as well.
        env["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
        return {**env, **launch.env}

    # --- looking ---

    def observe(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        for pid, child in list(_children.items()):
            if child.poll() is not None:
                del _children[pid]
        out: dict[Key, Observation] = {}
        for attempt in attempts:
            try:
                out[attempt.key] = self._look(attempt, _decode(attempt.handle))
            except OSError as error:
                out[attempt.key] = Observation(Sighting.UNKNOWN, reason=reason(Code.CANNOT_SEE, error=str(error)))
        return out

    def _look(self, attempt: LiveAttempt, handle: Mapping[str, Any]) -> Observation:
        ended = _read_exit(attempt)
        if ended is not None:
            return ended
        unknown = _out_of_reach(handle)
        if unknown:
            return Observation(Sighting.UNKNOWN, reason=unknown, unreachable=True)
        session = _session(attempt, handle)
        rebooted = _is_another_boot(handle)
        if not rebooted and processes.is_alive(session.leader, session.start):
            return Observation(Sighting.RUNNING)
        # It may have written exit.json and ended between the two looks.
        ended = _read_exit(attempt)
        if ended is not None:
            return ended
        hidden = "" if rebooted else _hidden(attempt)
        if hidden:
            return Observation(Sighting.UNKNOWN, reason=hidden, unreachable=True)
        left = set() if rebooted else processes.session_members(session)
        if left:
            return _orphans(session, left)
        claim = read_claim(Path(attempt.folder))
        found = None if rebooted else _find_wrapper(attempt)
        if found is not None:  # what says its pid was lost or spoilt
            return Observation(Sighting.RUNNING, found)
        ended = _read_exit(attempt) or _read_exit(attempt, f".{EXIT}")  # the last if it could not rename it any more
        if ended is not None:
            return ended
        if claim is None or claim.by != "wrapper":
            return Observation(Sighting.UNCLAIMED)  # or claimed by a step, or torn: recover tells them apart
        record = "torn" if (Path(attempt.folder) / EXIT).exists() else "missing"
        return Observation(Sighting.GONE, reason=reason(Code.GONE, rebooted=rebooted, record=record))

    def recover(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        out = {}
        for attempt in attempts:
            try:
                out[attempt.key] = self._recover(attempt)
            except OSError as error:
                out[attempt.key] = Observation(Sighting.UNKNOWN, reason=reason(Code.CANNOT_CLAIM, error=str(error)))
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
            found = _find_wrapper(attempt)
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
        if claim.by == "wrapper":
            seen = self._look(attempt, claim.data)
            return seen if seen.handle else _with_handle(seen, json.dumps(claim.data))
        ended = _read_exit(attempt)
        if ended is not None:
            return ended
        if hidden:
            return Observation(Sighting.UNKNOWN, reason=hidden, unreachable=True)
        if _find_wrapper(attempt) is not None:
            return Observation(Sighting.UNKNOWN, reason=reason(Code.CLAIM_INCOMPLETE))
        claim = read_claim(Path(attempt.folder))
        if claim is not None and claim.by == "wrapper":
            return self._recover(attempt)
        if ran:
            return Observation(Sighting.GONE, reason=reason(Code.GONE, rebooted=False, record="torn claim"))
        return Observation(Sighting.NOT_STARTED, reason=reason(Code.NOT_STARTED, why="no claim"), unclaimed=True)

    def cancel(self, attempts: Sequence[LiveAttempt]) -> Mapping[Key, Observation]:
        seen = dict(self.recover(attempts))
        running = [a for a in attempts if a.key in seen and seen[a.key].sighting is Sighting.RUNNING]
        processes.end_sessions(_session(a, _decode(seen[a.key].handle or a.handle)) for a in running)
        for key, found in self.observe(running).items():
            seen[key] = _with_handle(found, seen[key].handle)
        return seen

    def wake_fds(self, attempts: Sequence[LiveAttempt]) -> Sequence[int]:
        fds: list[int] = []
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4  # the rest is for files; the loop looks anyway
        for attempt in attempts:
            if len(fds) >= most:
                break
            handle = _decode(attempt.handle)
            with suppress(OSError):
                if (Path(attempt.folder) / EXIT).exists():  # it has ended since the step looked
                    fds.append(processes.readable_now())
                elif not _out_of_reach(handle):
                    fd = processes.end_of_leader(_session(attempt, handle))
                    fds += [] if fd is None else [fd]
        return fds


@cache
def _tool(name: str) -> str | None:
    return shutil.which(name)


def _has_run(folder: Path, *, handed_over: bool) -> bool:
    """Return whether an unclaimed folder shows that its command ran all the same, and removed the claim.

    Nothing but a wrapper that holds the claim writes logs, and nothing but a command removes task.json.
    """
    return (folder / STDOUT).exists() or (handed_over and not (folder / TASK).exists())


def _hidden(attempt: LiveAttempt) -> Reason:
    """Return why the processes of an attempt cannot be seen by this user, no reason if they can."""
    try:
        owner = processes.hidden_owner(Path(attempt.folder))  # who made it has started the wrapper
    except FileNotFoundError:
        return NO_REASON
    return reason(Code.HIDDEN, owner=owner) if owner else NO_REASON


def _find_wrapper(attempt: LiveAttempt) -> str | None:
    """Return the handle of a live wrapper of this attempt, of this installation or another, by its command line."""
    for pid in processes.find_by_arguments(_WRAPPER.name, attempt.folder):
        start = processes.start_of(pid)
        if start is not None:
            return json.dumps({**processes.this_place().to_json(), "pid": pid, "start": start})
    return None


def _orphans(session: processes.Session, pids: set[int]) -> Observation:
    """Return what is seen of a session whose wrapper is gone."""
    certain = bool(processes.session_members(session, marked=True))
    why = reason(Code.ORPHANS, pids=sorted(pids)[:5], certain=certain)
    return Observation(Sighting.RUNNING, reason=why, unreachable=not certain)


def _session(attempt: LiveAttempt, handle: Mapping[str, Any]) -> processes.Session:
    pid = handle.get("pid")
    marks = {f"MATTERSTACK_TASK={attempt.task_id}", f"MATTERSTACK_ATTEMPT={attempt.attempt}"}
    return processes.Session(
        leader=pid if isinstance(pid, int) and pid > 1 else 0,
        start=str(handle.get("start") or "unknown"),
        folder=attempt.folder,
        marks=frozenset(mark.encode(errors="surrogateescape") for mark in marks),
    )


def _as_operand(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name


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
        text = read_regular(Path(attempt.folder) / name, _LARGEST_EXIT_JSON + 1)
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
    elapsed = _elapsed(data)
    failure = None
    limit = attempt.time_s
    if code in (124, 137) and limit is not None and elapsed is not None and elapsed >= limit - 0.05:
        failure = FailureClass.TIMEOUT
    elif code == 137 and isinstance(data.get("oom_kills"), int) and data["oom_kills"] > 0:
        failure = FailureClass.OUT_OF_MEMORY
    why = reason(Code.OUT_OF_MEMORY, exit_code=code) if failure is FailureClass.OUT_OF_MEMORY else NO_REASON
    return Observation(
        Sighting.ENDED, exit_code=code, started_at=from_text(data.get("started_at")),
        ended_at=from_text(data.get("ended_at")), elapsed_s=elapsed, failure=failure, reason=why,
    )  # fmt: skip


def _elapsed(data: Mapping[str, Any]) -> float | None:
    try:
        began, ended = data["uptime"]
        return float(ended) - float(began)
    except (KeyError, TypeError, ValueError):
        started, ended_at = from_text(data.get("started_at")), from_text(data.get("ended_at"))
        return None if started is None or ended_at is None else ended_at - started
