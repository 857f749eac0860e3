"""A parcel: work for a closed cluster, sealed into one file.

A parcel mirrors the run root, so the paths in its commands hold there as well. Who took it, and when, is recorded in the
ledger, in the handle of each attempt."""

from __future__ import annotations

import io
import os
import secrets
import shlex
import tarfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from matterstack.core.events import ParcelPacked
from matterstack.core.kinds import MANUAL, Kind
from matterstack.core.recorded import AttemptRow, TaskRow
from matterstack.core.selection import select_tasks
from matterstack.core.states import AttemptState, TaskState
from matterstack.core.times import to_text
from matterstack.core.values import dump_json_lines, parse_memory
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, RunRootError, UsageError
from matterstack.hints import Hint
from matterstack.operators.answers import decode, printable, read_task
from matterstack.operators.environment import THREADS
from matterstack.operators.manual import handed
from matterstack.orchestration.session import open_to_write
from matterstack.people.answer import user
from matterstack.run_root.files import sha256_of
from matterstack.run_root.layout import STATUS, attempt_folder, require_run_root
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import sentence

PATIENCE_S = 30.0
_DRIVER = Path(__file__).parent.parent / "operators" / "parcel_run.sh"
_STRICT = _DRIVER.with_name("strict.bash")  # says where a bash ended
_OF_THE_PARCEL = "parcel-task.sh"  # in each attempt's folder: what run.sh must know of it
_ENVIRONMENT = "parcel-env.sh"
_GIVEN = (
    "task.json",
    "command.sh",
    "instructions.md",
    "claim",
    _OF_THE_PARCEL,
    _ENVIRONMENT,
)  # what we wrote; ours stays


@dataclass(frozen=True)
class Exported:
    parcel: str
    tasks: list[str]
    file: Path
    size: int


def export_parcel(
    root: str | Path,
    patterns: Sequence[str],
    output: str | Path,
    *,
    again: bool = False,
    array: bool = False,
    by: str = "",
) -> Exported:
    """Seal waiting manual tasks into one file, and record who took them.

    Without patterns: all that wait and that nobody has taken. Raises UsageError for tasks that do not wait or that were
    handed over (without ``again``), and if the file exists; RunRootError if it cannot be written.
    """
    path, target = require_run_root(Path(root)), Path(output)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; name another file with -o")
    now, parcel = time.time(), secrets.token_hex(4)
    who = printable(by or user(), 100)
    for text in (who, target.name):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r} is not UTF-8; use another name") from None
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        rows = _chosen(path, store, patterns, again=again)
        run = store.run()
        name = f"{run.name}-parcel-{parcel}"
        info = {
            "matterstack": 1, "parcel": parcel, "name": name, "run": {"id": run.run_id, "name": run.name}, "by": who, "at": to_text(now),
            "tasks": [{"task": row.task_id, "attempt": row.attempt} for row in rows],
        }  # fmt: skip
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with _Parcel(beside, target.name, name) as made:
                _fill(made, path, store, rows, info, array=array)
            packed = ParcelPacked(
                {"id": parcel, "by": who, "at": str(info["at"]), "file": target.name}, tuple(row.key for row in rows)
            )
            store.append([packed], now)
            try:
                _place(beside, target)
            except OSError:  # nobody has it: it must not count as handed over
                store.append([replace(packed, undone=True)], now)
                raise
        except OSError as error:
            if isinstance(error, MatterStackError):
                raise
            raise RunRootError(f"{error.filename or target}: {error.strerror or error}") from None
        finally:
            with suppress(OSError):
                beside.unlink()
    return Exported(name, [row.task_id for row in rows], target, target.stat().st_size)


def _place(beside: Path, target: Path) -> None:
    """Move a file to its name, never over another. Raises OSError."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links: a memory stick
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            os.replace(beside, target)
        except OSError:
            target.unlink()
            raise


def _chosen(root: Path, store: SQLiteStateStore, patterns: Sequence[str], *, again: bool) -> list[AttemptRow]:
    waiting = {
        row.task_id: row
        for row in store.live_attempts()
        if row.state is AttemptState.WAITING and row.wish is None and _kind(store, row) is MANUAL
        and not (root / attempt_folder(row.task_id, row.attempt) / STATUS).exists()
    }  # fmt: skip
    chosen = select_tasks(store.task_ids(), patterns) if patterns else list(waiting)
    for task_id in chosen:
        if task_id not in waiting:
            (row,) = store.tasks([task_id])
            if row.no_work:
                raise UsageError(f"{row.no_work}; only waiting tasks of kind manual go into a parcel")
            kind = _kind(store, row)
            what = (
                f"already has its {STATUS}"
                if row.state is TaskState.WAITING
                else f"is {row.state} and waits for nobody"
            )
            what = what if kind is MANUAL else f"is of kind {kind.name}"
            raise UsageError(f"{task_id} {what}; only waiting tasks of kind manual go into a parcel")
    taken = {task_id: None for task_id in chosen if handed(decode(waiting[task_id].handle))}
    if taken and not again and (patterns or len(taken) == len(chosen)):
        one = next(iter(taken))
        first = sentence(handed(decode(waiting[one].handle)), root)
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise UsageError(f"{one}{more} was {first}; --again packs it once more, if that parcel is lost")
    rows = [waiting[task_id] for task_id in chosen if again or task_id not in taken]
    if not rows:
        raise UsageError(f"{root}: no task of kind manual waits; {Hint('inbox', root)} lists what does")
    return rows


def _kind(store: SQLiteStateStore, row: AttemptRow | TaskRow) -> Kind:
    return store.operators(row.campaign_version)[row.operator].row


class _Parcel:
    """A tar file that is being filled, each file once; keeps the digests."""

    def __init__(self, path: Path, final_name: str, name: str) -> None:
        mode: Literal["w:gz", "w:xz", "w"] = (
            "w:gz" if final_name.endswith((".gz", ".tgz")) else "w:xz" if final_name.endswith(".xz") else "w"
        )
        self.name = name
        self.tar = tarfile.open(path, mode, format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by __exit__
        self.digests: dict[str, str] = {}

    def __enter__(self) -> _Parcel:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            text = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.digests.items()))
            self._add("SHA256SUMS", text.encode(), 0o644)
        self.tar.close()

    def text(self, name: str, text: str, mode: int = 0o644) -> None:
        import hashlib

        data = text.encode()
        self.digests[name] = hashlib.sha256(data).hexdigest()
        self._add(name, data, mode)

    def _add(self, name: str, data: bytes, mode: int) -> None:
        member = tarfile.TarInfo(f"{self.name}/{name}")
        member.size, member.mode, member.mtime = len(data), mode, int(time.time())
        self.tar.addfile(member, io.BytesIO(data))

    def path(self, root: Path, relative: str, but: Collection[str] = ()) -> None:
        """Add a file, or all of a folder, under its path below the run root; what is in already is left, and ``but``."""
        if relative in but:
            return
        origin = root / relative
        if origin.is_dir():
            member = tarfile.TarInfo(f"{self.name}/{relative.rstrip('/')}")
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
            self.tar.addfile(member)
            for item in sorted(origin.iterdir()):
                self.path(root, f"{relative.rstrip('/')}/{item.name}", but)
        elif relative not in self.digests and origin.is_file():  # a link to nowhere is nobody's input
            self.digests[relative] = sha256_of(origin)
            member = self.tar.gettarinfo(os.path.realpath(origin), f"{self.name}/{relative}")
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            with open(origin, "rb") as file:
                self.tar.addfile(member, file)


def _fill(
    made: _Parcel,
    root: Path,
    store: SQLiteStateStore,
    rows: Sequence[AttemptRow],
    info: Mapping[str, Any],
    *,
    array: bool,
) -> None:
    tasks = [(row, _task_of(root, row)) for row in rows]
    folders = [attempt_folder(row.task_id, row.attempt) for row in rows]
    header = _sbatch(str(info["run"]["name"]), [task["resources"] for _, task in tasks]) if array else ""
    made.text("run.sh", _driver(header), 0o755)
    made.text("strict.bash", _STRICT.read_text(encoding="utf-8"))
    made.text("tasks.txt", "".join(f"{folder}\n" for folder in folders))
    made.text("parcel.json", dump_json_lines(info))
    made.text("README.txt", _readme(info, tasks, array=array))
    for version in {row.campaign_version for row in rows}:
        for path in store.sources(version):
            made.path(root, f"{store.source_of(version)}/{path}")
    for (row, task), folder in zip(tasks, folders, strict=True):
        made.text(f"{folder}/{_OF_THE_PARCEL}", _task_for_the_driver(row, task, store, folder))
        made.text(f"{folder}/{_ENVIRONMENT}", _environment(task))
        copies = _copies(task, folder)
        made.path(root, folder, but=copies)
        for item in task["inputs"].values():
            paths = item["path"] if isinstance(item["path"], list) else [item["path"]]
            for file in item["files"]:
                if not file.get("external") and (file["path"] in paths or f"{folder}/{item['path']}" in copies):
                    made.path(root, os.path.normpath(f"{folder}/{file['path']}"))


def _copies(task: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Return the inputs that lie in the folder under another name -> what they are copies of, below the run root.

    Many tasks may share one: it travels once, and run.sh copies it.
    """
    found = {}
    for item in task["inputs"].values():
        name, files = item["path"], item["files"]
        if isinstance(name, str) and len(files) == 1 and files[0]["path"] != name and not files[0].get("external"):
            found[f"{folder}/{name}"] = os.path.normpath(f"{folder}/{files[0]['path']}")
    return found


def _driver(header: str) -> str:
    text = _DRIVER.read_text(encoding="utf-8")
    return text.replace("@SBATCH@", header).replace("@THREADS@", " ".join(THREADS))


def _task_of(root: Path, row: AttemptRow) -> dict[str, Any]:
    folder = root / attempt_folder(row.task_id, row.attempt)
    task = read_task(folder)
    if task is None or not (folder / "command.sh").is_file():
        raise RunRootError(f"{folder}: task.json or command.sh is missing; restore it from git, or rerun the task")
    return task


def _task_for_the_driver(row: AttemptRow, task: Mapping[str, Any], store: SQLiteStateStore, folder: str) -> str:
    limit, spec = row.time_s, store.campaign(row.campaign_version).tasks[task["group"]]
    restart = spec.restart
    warned_s = "" if limit is None or restart is None or restart.warn_s is None else max(int(limit - restart.warn_s), 0)
    lines = [
        f"ms_task={shlex.quote(row.task_id)}", f"ms_attempt={row.attempt}", f"ms_shell={shlex.quote(' '.join(task['shell']))}",
        f"ms_limit={'' if limit is None else f'{limit:.3f}'}", f"ms_limit_s={0 if limit is None else int(limit)}", f"ms_warn_s={warned_s}",
        f"ms_source={shlex.quote(store.source_of(row.campaign_version))}",
        f"ms_cpus={int(task['resources'].get('cpus', 1))}", f"ms_background={spec.background}",
        f"ms_from_env={shlex.quote(' '.join(task['asked'].get('env_from', {}).values()))}",
    ]  # fmt: skip
    copies = [
        f"copy {shlex.quote(os.path.relpath(origin, folder))} {shlex.quote(os.path.relpath(name, folder))}"
        for name, origin in _copies(task, folder).items()
    ]
    lines += ["ms_copies() {", *(f"    {line} || return 1" for line in copies), "    return 0", "}"]
    return "\n".join(lines) + "\n"


def _environment(task: Mapping[str, Any]) -> str:
    """Return what sets a task's variables; those passed by name are taken where it runs."""
    asked = task["asked"]
    lines = [f"{name}=${{{origin}-}}; export {name}" for name, origin in asked.get("env_from", {}).items()]
    lines += [f"{name}={shlex.quote(value)}; export {name}" for name, value in asked.get("env", {}).items()]
    return "".join(line + "\n" for line in lines)


def _sbatch(name: str, resources: Sequence[Mapping[str, Any]]) -> str:
    """Return the head of a Slurm array script that has room for the largest of the tasks. Source: sbatch(1)."""
    from matterstack.core.values import parse_time

    lines = [f"--job-name={name}", f"--array=1-{len(resources)}", "--output=slurm-%A_%a.log"]
    lines.append(f"--cpus-per-task={max(int(item.get('cpus', 1)) for item in resources)}")
    memory = [parse_memory(item["memory"]) for item in resources if "memory" in item]
    if memory:
        lines.append(f"--mem={-(-max(memory) // 2**20)}M")
    gpus = max(int(item.get("gpus", 0)) for item in resources)
    if gpus:
        lines.append(f"--gpus={gpus}")
    times = [parse_time(item["time"]) if "time" in item else None for item in resources]
    if None not in times:
        lines.append(f"--time={-(-max(t for t in times if t is not None) // 60) + 1:.0f}")
    return "".join(f"#SBATCH {line}\n" for line in lines)


def _readme(info: Mapping[str, Any], tasks: Sequence[tuple[AttemptRow, Mapping[str, Any]]], *, array: bool) -> str:
    names = sorted({origin for _, task in tasks for origin in task["asked"].get("env_from", {}).values()})
    lines = [
        f"Parcel {info['parcel']} of the run {info['run']['id']}, packed by {info['by']} at {info['at'][:16]} UTC.", "",
        f"It holds {len(tasks)} calculations. To run them, sh, tar and the coreutils are needed (and what the calculations",
        "themselves call). Nothing of MatterStack has to be installed.", "",
        f"1. Unpack it where the calculations will run:   tar xf FILE; cd {info['name']}", "2. Check that it is complete:                     sha256sum -c SHA256SUMS",
    ]  # fmt: skip
    if names:
        lines.append(f"   Set these variables first:                     {' '.join(names)}")
    run_it = (
        "sbatch run.sh       (with your partition, account, …; one job of the array for each)" if array else "sh run.sh"
    )
    lines += [
        f"3. Run all of it:                                {run_it}",
        "   It may be interrupted (Ctrl-C) and started again: what is done is not done twice. If a machine died, run.sh",
        "   names the folder in which it finds a `claim` without an end; remove that claim to begin it anew.",
        "4. Pack what is done, also if it is only a part: sh run.sh --pack",
        f"5. Carry {info['name']}-return.tar, which that makes, back to whoever gave you this; there it is imported with",
        "   matterstack parcel import RUN FILE", "",
        "Each calculation has a folder; command.sh in it is what runs, stdout.log and stderr.log are what it prints, and",
        "status.json says how it went. One that fails is a result as well: pack it too. instructions.md has what its author",
        "wants you to know.", "",
    ]  # fmt: skip
    for row, task in tasks:
        first = str(task["asked"].get("instructions") or "").strip().partition("\n")[0]
        needs = ", ".join(f"{name} {value}" for name, value in task["resources"].items())
        first = "; ".join(filter(None, (needs, first)))
        lines.append(f"- {attempt_folder(row.task_id, row.attempt)}" + (f": {first}" if first else ""))
    return "\n".join(lines) + "\n"
