"""Parcels: work for a closed cluster, sealed into one file, and what comes back from there.

A parcel mirrors the run root, so the paths in its commands hold there as well. Who took it and when stands in the
ledger, in the handle of each attempt.
"""

from __future__ import annotations

import errno
import io
import json
import lzma
import os
import re
import secrets
import shlex
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from matterstack.core.model import AttemptChange
from matterstack.core.states import AttemptState, TaskState
from matterstack.core.times import to_text
from matterstack.core.values import dump_json_lines, parse_memory
from matterstack.errors import MatterStackError, RunRootError, UsageError
from matterstack.operators.answers import (
    LARGEST,
    BadAnswer,
    check_status,
    decode,
    exit_code_of,
    parse_json,
    printable,
    read_task,
)
from matterstack.operators.manual import STATUS, handed
from matterstack.orchestration.people import user
from matterstack.orchestration.report import reading, select_tasks
from matterstack.orchestration.run_lifecycle import open_to_write
from matterstack.storage import run_root
from matterstack.storage.files import sync
from matterstack.storage.state_store import AttemptRow, SQLiteStateStore

PATIENCE_S = 30.0
_DRIVER = Path(__file__).parent.parent / "operators" / "parcel_run.sh"
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


# --- export ---------------------------------------------------------------------------------------------------------


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
    path, target = run_root.require_run_root(Path(root)), Path(output)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; name another file with -o")
    now, parcel = time.time(), secrets.token_hex(4)
    who = printable(by or user(), 100)
    for text in (who, target.name):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r} is not UTF-8; use another name") from None
    with open_to_write(path, wait_s=PATIENCE_S) as store:
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
            with store.transaction():
                store.apply([(_taken(row, info, target), None) for row in rows], now)
            try:
                _place(beside, target)
            except OSError:  # nobody has it: let it not count as handed over
                with store.transaction():
                    store.apply([(_as_before(row), None) for row in rows], now)
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


def _as_before(row: AttemptRow) -> AttemptChange:
    return AttemptChange(row.task_id, row.attempt, row.state, reason=row.reason, handle=row.handle)


def _chosen(root: Path, store: SQLiteStateStore, patterns: Sequence[str], *, again: bool) -> list[AttemptRow]:
    operators = store.campaign(store.run().campaign_version).operators
    waiting = {
        row.task_id: row
        for row in store.live_attempts()
        if row.state is AttemptState.WAITING and row.wish is None and operators[row.operator].kind == "manual"
        and not (root / run_root.attempt_folder(row.task_id, row.attempt) / STATUS).exists()
    }  # fmt: skip
    chosen = select_tasks(store.task_ids(), patterns) if patterns else list(waiting)
    for task_id in chosen:
        if task_id not in waiting:
            (row,) = store.tasks([task_id])
            kind = operators[row.operator].kind
            answered = row.state is TaskState.WAITING
            what = f"has its {STATUS} already" if answered else f"is {row.state} and waits for nobody"
            what = what if kind == "manual" else f"is of kind {kind}"
            raise UsageError(f"{task_id} {what}; only waiting tasks of kind manual go into a parcel")
    taken = {task_id: None for task_id in chosen if handed(decode(waiting[task_id].handle))}
    if taken and not again and (patterns or len(taken) == len(chosen)):
        one = next(iter(taken))
        first = handed(decode(waiting[one].handle))
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise UsageError(f"{one}{more} was {first}; --again packs it once more, if that parcel is lost")
    rows = [waiting[task_id] for task_id in chosen if again or task_id not in taken]
    if not rows:
        raise UsageError(f"{root}: no task of kind manual waits; `matterstack inbox {root}` lists what does")
    return rows


def _taken(row: AttemptRow, info: Mapping[str, Any], file: Path) -> AttemptChange:
    terms = decode(row.handle)
    before = terms["parcels"] if isinstance(terms.get("parcels"), list) else []
    parcel = {"id": info["parcel"], "by": info["by"], "at": info["at"], "file": file.name}
    new = {**terms, "parcel": parcel, "parcels": [*before, parcel]}
    return AttemptChange(row.task_id, row.attempt, AttemptState.WAITING, reason=handed(new), handle=json.dumps(new))


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

    def path(self, root: Path, relative: str) -> None:
        """Add a file, or all of a folder, under its path below the run root; what is in already is left."""
        origin = root / relative
        if origin.is_dir():
            member = tarfile.TarInfo(f"{self.name}/{relative.rstrip('/')}")
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
            self.tar.addfile(member)
            for item in sorted(origin.iterdir()):
                self.path(root, f"{relative.rstrip('/')}/{item.name}")
        elif relative not in self.digests and origin.is_file():  # a link to nowhere is nobody's input
            self.digests[relative] = run_root.sha256_of(origin)
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
    tasks = {row: _task_of(root, row) for row in rows}
    folders = [run_root.attempt_folder(row.task_id, row.attempt) for row in rows]
    header = _sbatch(str(info["run"]["name"]), [task["resources"] for task in tasks.values()]) if array else ""
    made.text("run.sh", _DRIVER.read_text(encoding="utf-8").replace("@SBATCH@", header), 0o755)
    made.text("tasks.txt", "".join(f"{folder}\n" for folder in folders))
    made.text("parcel.json", dump_json_lines(info))
    made.text("README.txt", _readme(info, tasks, array=array))
    for path in store.sources():
        made.path(root, f"source/{path}")
    for (row, task), folder in zip(tasks.items(), folders, strict=True):
        made.text(f"{folder}/{_OF_THE_PARCEL}", _task_for_the_driver(row, task))
        made.text(f"{folder}/{_ENVIRONMENT}", _environment(task))
        made.path(root, folder)
        for item in task["inputs"].values():
            paths = item["path"] if isinstance(item["path"], list) else [item["path"]]
            for file in item["files"]:
                if file["path"] in paths:  # an input with `as` lies in the folder itself
                    made.path(root, os.path.normpath(f"{folder}/{file['path']}"))


def _task_of(root: Path, row: AttemptRow) -> dict[str, Any]:
    folder = root / run_root.attempt_folder(row.task_id, row.attempt)
    task = read_task(folder)
    if task is None or not (folder / "command.sh").is_file():
        raise RunRootError(f"{folder}: task.json or command.sh is missing; restore it from git, or rerun the task")
    return task


def _task_for_the_driver(row: AttemptRow, task: Mapping[str, Any]) -> str:
    limit = row.time_s
    lines = [
        f"ms_task={shlex.quote(row.task_id)}", f"ms_attempt={row.attempt}", f"ms_shell={shlex.quote(' '.join(task['shell']))}",
        f"ms_limit={'' if limit is None else f'{limit:.3f}'}", f"ms_limit_s={0 if limit is None else int(limit)}",
        f"ms_cpus={row.cpus}", f"ms_from_env={shlex.quote(' '.join(task['asked'].get('env_from', {}).values()))}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _environment(task: Mapping[str, Any]) -> str:
    """Give what sets a task's variables; those passed by name are taken where it runs."""
    asked = task["asked"]
    lines = [f"{name}=${{{origin}-}}; export {name}" for name, origin in asked.get("env_from", {}).items()]
    lines += [f"{name}={shlex.quote(value)}; export {name}" for name, value in asked.get("env", {}).items()]
    return "".join(line + "\n" for line in lines)


def _sbatch(name: str, resources: Sequence[Mapping[str, Any]]) -> str:
    """Give the head of a Slurm array script that has room for the largest of the tasks. Source: sbatch(1)."""
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


def _readme(info: Mapping[str, Any], tasks: Mapping[AttemptRow, Mapping[str, Any]], *, array: bool) -> str:
    names = sorted({origin for task in tasks.values() for origin in task["asked"].get("env_from", {}).values()})
    lines = [
        f"Parcel {info['parcel']} of the run {info['run']['id']}, packed by {info['by']} at {info['at'][:16]} UTC.", "",
        f"It holds {len(tasks)} calculations. To run them, sh, tar and the coreutils are needed (and what the calculations",
        "themselves call). Nothing of MatterStack has to be installed.", "",
        f"1. Unpack it where the calculations shall run:   tar xf FILE; cd {info['name']}", "2. Check that it arrived whole:                  sha256sum -c SHA256SUMS",
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
        f"5. Carry {info['name']}-return.tar, which that makes, back to whoever gave you this; there it is taken by",
        "   matterstack parcel import RUN FILE", "",
        "Each calculation has a folder; command.sh in it is what runs, stdout.log and stderr.log are what it prints, and",
        "status.json says how it went. One that fails is a result as well: pack it too. instructions.md has what its author",
        "wants to tell you.", "",
    ]  # fmt: skip
    for row, task in tasks.items():
        first = str(task["asked"].get("instructions") or "").strip().partition("\n")[0]
        needs = ", ".join(f"{name} {value}" for name, value in task["resources"].items())
        first = "; ".join(filter(None, (needs, first)))
        lines.append(f"- {run_root.attempt_folder(row.task_id, row.attempt)}" + (f": {first}" if first else ""))
    return "\n".join(lines) + "\n"


# --- import ---------------------------------------------------------------------------------------------------------


@dataclass
class Imported:
    """What a parcel brought back; the lists hold task ids, ``refused`` and ``remarks`` sentences."""

    parcel: str
    taken: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)  # back already, or ended otherwise
    refused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "parcel": self.parcel, "taken": self.taken, "missing": self.missing, "before": self.before,
            "refused": self.refused, "remarks": self.remarks,
        }  # fmt: skip


def import_parcel(root: str | Path, file: str | Path) -> Imported:
    """Take what a parcel brought back into the attempts' folders, checked; the next step reads it.

    Raises UsageError for a file that is no parcel, or one of another run; RunRootError if it cannot be written.
    """
    path = run_root.require_run_root(Path(root))
    try:
        tar = tarfile.open(file, "r:*")  # noqa: SIM115 - used, and closed, by the `with` below, whose errors mean something else
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{file}: no such file") from None
    except OSError as error:
        raise RunRootError(f"{file}: cannot be read: {error.strerror or error}") from None
    except _DAMAGED:
        raise UsageError(f"{file} is no parcel, or damaged") from None
    try:
        with tar, open_to_write(path, wait_s=PATIENCE_S) as store:
            return _Import(path, store, tar, str(file)).take()
    except _DAMAGED as error:
        raise UsageError(f"{file} is damaged: {printable(error, 100)}") from None
    except OSError as error:
        if isinstance(error, MatterStackError):
            raise
        if error.errno is None:  # of the decompressor
            raise UsageError(f"{file} is damaged: {printable(error, 100)}") from None
        raise RunRootError(f"{error.filename or path}: cannot be written: {error.strerror}") from None


_OF_THE_NAMES = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ, errno.EINVAL)
_DAMAGED = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error)
_LARGEST_NOTE = 1 << 22  # bytes of parcel.json and of a listing


_IN_ATTEMPT = re.compile(r"((?:.*?/)?tasks/.+?/attempt-\d+)/(.+)\Z", re.DOTALL)


class _Import:
    def __init__(self, root: Path, store: SQLiteStateStore, tar: tarfile.TarFile, file: str) -> None:
        self.root, self.store, self.tar, self.file = root, store, tar, file
        self.members: dict[str, tarfile.TarInfo] = {}
        self.of_attempt: dict[str, dict[str, tarfile.TarInfo]] = {}  # folder, as in the file -> name in it -> member
        for member in tar:
            name = PurePosixPath(member.name).as_posix()
            self.members[name] = member
            found = _IN_ATTEMPT.match(name)
            if found:
                self.of_attempt.setdefault(found[1], {})[found[2]] = member
        self.now = time.time()
        self.task = ""  # that is being taken, for remarks

    def take(self) -> Imported:
        prefix, info = self._info()
        run = self.store.run()
        if info["run"].get("id") != run.run_id:
            raise UsageError(f"{self.file} is a parcel of the run {info['run'].get('id')}, this is {run.run_id}")
        out = Imported(str(info["parcel"]))
        if f"{prefix}run.sh" in self.members:
            raise UsageError(f"{self.file} is the parcel that went out; what comes back is made by `sh run.sh --pack`")
        for left in self.root.glob(".parcel-*"):  # of an import that was killed
            shutil.rmtree(left)
        packed = self._packed(prefix)
        staging = self.root / f".parcel-{secrets.token_hex(4)}"
        changes = []
        try:
            for item in info["tasks"]:
                row = self._take_one(prefix, str(item.get("task")), item.get("attempt"), out, staging, packed)
                if row is not None:
                    changes.append((_returned(row, self.now), None))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if changes:
            with self.store.transaction():
                self.store.apply(changes, self.now)
        return out

    def _packed(self, prefix: str) -> set[str]:
        """Give the folders that were packed, by the list that run.sh put in; empty without one."""
        name = f"{prefix}packed.txt"
        text = self._read(name, _LARGEST_NOTE).decode(errors="replace") if name in self.members else ""
        return set(text.splitlines())

    def _info(self) -> tuple[str, dict[str, Any]]:
        """Find parcel.json, wherever in the file its folder lies; give (prefix, content)."""
        found = sorted((name for name in self.members if PurePosixPath(name).name == "parcel.json"), key=len)
        if not found:
            raise UsageError(f"{self.file} is no parcel: it holds no parcel.json")
        try:
            info = parse_json("parcel.json", self._read(found[0], _LARGEST_NOTE))
        except BadAnswer as error:
            raise UsageError(f"{self.file}: {error}") from None
        whole = isinstance(info, dict) and isinstance(info.get("run"), dict) and isinstance(info.get("tasks"), list)
        if not whole or not all(isinstance(item, dict) for item in info["tasks"]) or "parcel" not in info:
            raise UsageError(f"{self.file}: parcel.json is not one of ours")
        return found[0].removesuffix("parcel.json"), info

    def _read(self, name: str, most: int) -> bytes:
        member = self.members[name]
        opened = self.tar.extractfile(member) if member.isreg() and member.size <= most else None
        if opened is None:
            raise UsageError(f"{self.file}: {name} is no file, or too large")
        return opened.read()

    def _take_one(
        self, prefix: str, task_id: str, attempt: Any, out: Imported, staging: Path, packed: set[str]
    ) -> AttemptRow | None:
        is_number = isinstance(attempt, int) and not isinstance(attempt, bool) and 0 < attempt < 1 << 31
        row = self.store.attempt(task_id, attempt) if is_number else None
        terms = decode(row.handle) if row is not None else {}
        known = [item.get("id") for item in terms.get("parcels", ()) if isinstance(item, dict)]
        if row is None or out.parcel not in known:
            out.refused.append(f"{task_id}, attempt {str(attempt)[:20]}: was not handed over in this parcel")
            return None
        folder, self.task = run_root.attempt_folder(task_id, row.attempt), task_id
        if not row.state.is_live and "returned_at" not in terms:
            how = row.reason or str(row.state)
            out.remarks.append(f"{task_id}: attempt {row.attempt} is {row.state} ({how}); what came back is not taken")
            return None
        if not row.state.is_live or (self.root / folder / STATUS).exists():
            out.before.append(task_id)
            return None
        inside = self.of_attempt.get(f"{prefix}{folder}", {})
        if STATUS not in inside and folder in packed:
            out.refused.append(f"{task_id}: was packed, and is not there: the file is damaged; pack and carry it again")
            return None
        if STATUS not in inside:
            out.missing.append(task_id)
            return None
        try:
            self._check_and_place(folder, inside, staging, out, by_run_sh=folder in packed)
        except BadAnswer as error:
            out.refused.append(f"{task_id}: {error}")
            return None
        except OSError as error:  # names that this file system does not bear, a file where a folder should be
            if isinstance(error, MatterStackError) or error.errno not in _OF_THE_NAMES:
                raise
            out.refused.append(f"{task_id}: {printable(os.path.basename(str(error.filename)), 60)}: {error.strerror}")
            return None
        out.taken.append(task_id)
        return row

    def _check_and_place(
        self, folder: str, inside: Mapping[str, tarfile.TarInfo], staging: Path, out: Imported, *, by_run_sh: bool
    ) -> None:
        """Bring the files of one attempt beside, check them, and only then move them in, status.json last."""
        task_id = PurePosixPath(folder).parent.as_posix().removeprefix("tasks/")
        home = staging / folder
        for name, member in inside.items():
            self._extract(name, member, inside, home, out)
        if not inside[STATUS].isreg() or inside[STATUS].size > LARGEST:
            raise BadAnswer(f"{STATUS} is no file, or larger than {LARGEST} bytes")
        status = parse_json(STATUS, (home / STATUS).read_bytes())
        attempt = int(folder.rpartition("-")[2])
        if not isinstance(status, dict) or (status.get("task", task_id), status.get("attempt", attempt)) != (
            task_id,
            attempt,
        ):
            raise BadAnswer(f"its {STATUS} is of another attempt")
        check_status(STATUS, status)
        exit_code_of(STATUS, status)
        listed = run_root.recorded_digests(home)
        if not listed and by_run_sh:
            raise BadAnswer("its checksums are not there: the file is damaged; pack and carry it again")
        if not listed:
            out.remarks.append(f"{task_id}: came back without checksums")
        for name, digest in listed.items():
            found = home / name
            if not found.is_file():
                raise BadAnswer(f"{name} is in its checksums and not in the parcel")
            if run_root.sha256_of(found) != digest:
                raise BadAnswer(f"{name} is damaged: its checksum is another")
        files = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file()]
        ours = self.root / folder
        inputs, outputs = self._given(ours)
        for name in files:
            if not (ours / name).exists() or _same(home / name, ours / name) or name in inputs & outputs:
                continue
            if name not in _GIVEN and name not in inputs:
                raise BadAnswer(f"{name} is in the run already, and is another file")
            if name != "claim":
                out.remarks.append(f"{task_id}: {name} was changed there; the run keeps its own")
        for name in sorted(files, key=lambda name: name == STATUS):
            if name in _GIVEN or ((ours / name).exists() and name not in inputs & outputs):
                continue
            (ours / name).parent.mkdir(parents=True, exist_ok=True)
            sync(home / name)
            os.replace(home / name, ours / name)

    @staticmethod
    def _given(folder: Path) -> tuple[set[str], set[str]]:
        """Give (names of inputs that lie in the folder, which the command may have changed; names of outputs)."""
        task = read_task(folder)
        if task is None:
            return set(), set()
        names = {item.get("path") for item in task["inputs"].values()}
        inputs = {name for name in names if isinstance(name, str) and not name.startswith("../")}
        return inputs, {str(item.get("file")) for item in task["outputs"].values()}

    def _extract(
        self, name: str, member: tarfile.TarInfo, inside: Mapping[str, tarfile.TarInfo], home: Path, out: Imported
    ) -> None:
        parts = PurePosixPath(name).parts
        if ".." in parts or PurePosixPath(name).is_absolute():
            raise BadAnswer(f"{name} leads out of its folder")
        if member.isdir():
            (home / name).mkdir(parents=True, exist_ok=True)
            return
        if member.issym():  # to a file of the same folder; any other leads to what did not come along
            target = inside.get(os.path.normpath(os.path.join(os.path.dirname(name), member.linkname)))
            if target is None or not target.isreg():
                out.remarks.append(f"{self.task}: {name} is a link to what did not come along; left out")
                return
            member = target
        if not member.isreg() and not member.islnk():
            out.remarks.append(f"{self.task}: {name} is no file; left out")
            return
        try:
            opened = self.tar.extractfile(member)  # of a hard link: that of the file in the parcel which it names
        except KeyError:
            opened = None
        if opened is None:
            raise BadAnswer(f"{name} is a link to what is not in the parcel")
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        with open(home / name, "wb") as file:
            shutil.copyfileobj(opened, file)
            os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)


def _returned(row: AttemptRow, now: float) -> AttemptChange:
    terms = {**decode(row.handle), "returned_at": to_text(now)}
    return AttemptChange(row.task_id, row.attempt, AttemptState.WAITING, reason=handed(terms), handle=json.dumps(terms))


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and run_root.sha256_of(one) == run_root.sha256_of(other)


# --- list -----------------------------------------------------------------------------------------------------------


def list_parcels(root: str | Path) -> list[dict[str, Any]]:
    """Give the parcels of a run, oldest first: id, by, at, file, and its tasks with their states."""
    with reading(root) as (_, store):
        states = {row.task_id: row for row in store.tasks()}
        found: dict[str, dict[str, Any]] = {}
        for row in store.parcelled():
            for parcel in _parcels_of(row):
                item = found.setdefault(parcel["id"], {**parcel, "tasks": []})
                back = "returned_at" in decode(row.handle)
                state = "back" if back and row.state.is_live else str(row.state).lower()
                item["tasks"].append({"task": row.task_id, "attempt": row.attempt, "state": state})
        order = {task_id: row.position for task_id, row in states.items()}
        for item in found.values():
            item["tasks"].sort(key=lambda task: (order[task["task"]], task["attempt"]))
        return sorted(found.values(), key=lambda item: str(item["at"]))


def _parcels_of(row: AttemptRow) -> Iterator[dict[str, Any]]:
    listed: Iterable[Any] = decode(row.handle).get("parcels", ())
    for item in listed:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            yield {key: item.get(key) for key in ("id", "by", "at", "file")}
