"""What a parcel brings back from a closed cluster: checked, then moved into the attempts' folders."""

from __future__ import annotations

import errno
import lzma
import os
import re
import secrets
import shutil
import tarfile
import time
import zlib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Any

from matterstack.core.events import Key, ParcelReturned
from matterstack.core.recorded import AttemptRow
from matterstack.core.values import format_memory
from matterstack.deferred import dataclass
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
from matterstack.orchestration.session import open_to_write
from matterstack.parcels.pack import _GIVEN, PATIENCE_S
from matterstack.run_root.attempts import recorded_digests
from matterstack.run_root.files import sha256_of, sync
from matterstack.run_root.gitignore import ignore, large_files
from matterstack.run_root.layout import STATUS, attempt_folder, require_run_root
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.text.reasons import sentence


@dataclass()
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


def import_parcel(root: str | Path, file: str | Path, *, most: int | None = None) -> Imported:
    """Take what a parcel brought back into the attempts' folders, checked; the next step reads it.

    ``most`` is how many bytes it may unpack to, by default as many as is plausible for its size.
    Raises UsageError for a file that is no parcel, or one of another run; RunRootError if it cannot be written.
    """
    path = require_run_root(Path(root))
    try:
        tar = tarfile.open(file, "r:*")  # noqa: SIM115 - used, and closed, by the `with` below, whose errors mean something else
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{file}: no such file") from None
    except OSError as error:
        raise RunRootError(f"{file}: cannot be read: {error.strerror or error}") from None
    except _DAMAGED:
        raise UsageError(f"{file} is not a parcel, or is damaged") from None
    try:
        with tar, open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
            return _Import(path, store, tar, str(file), most).take()
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
_ATTEMPT = re.compile(r"attempt-\d+")
_LONGEST_NAME = 4096  # bytes. Source: limits.h of Linux, PATH_MAX
_MOST_MEMBERS = 1_000_000
_MOST_TIMES = 200  # that a parcel may unpack to, beside _ROOM: text packs to a twentieth
_ROOM = 1 << 28  # bytes
_KEPT_FREE = 1 << 28  # bytes of the disk that stay free


def _in_attempt(name: str) -> tuple[str, str] | None:
    """Return (folder of an attempt, path in it) of a name in a parcel, None for what lies in no attempt."""
    parts = name.split("/")
    if "tasks" not in parts:
        return None
    first = parts.index("tasks")
    for at in range(first + 2, len(parts) - 1):
        if _ATTEMPT.fullmatch(parts[at]):
            return "/".join(parts[: at + 1]), "/".join(parts[at + 1 :])
    return None


class _Import:
    def __init__(self, root: Path, store: SQLiteStateStore, tar: tarfile.TarFile, file: str, most: int | None) -> None:
        self.root, self.store, self.tar, self.file = root, store, tar, file
        room = shutil.disk_usage(root).free - _KEPT_FREE
        usual = os.stat(file).st_size * _MOST_TIMES + _ROOM
        size = 0
        self.members: dict[str, tarfile.TarInfo] = {}
        self.of_attempt: dict[str, dict[str, tarfile.TarInfo]] = {}  # folder, as in the file -> name in it -> member
        for member in tar:
            # Before anything of it is unpacked: what follows a huge file is not even looked for.
            if len(os.fsencode(member.name)) > _LONGEST_NAME:
                raise UsageError(
                    f"{file} holds a name of {len(member.name)} characters; no file has one above {_LONGEST_NAME}"
                )
            size += member.size if member.isreg() else 0
            if most is None and size > usual:
                raise UsageError(
                    f"{file} would unpack to more than {format_memory(usual)}, {_MOST_TIMES} times its size; if that is "
                    f"meant, --max-size says how much it may be"
                )
            if size > (room if most is None else min(most, room)):
                limit = "there is room for" if size > room else "--max-size allows"
                raise UsageError(f"{file} would unpack to more than {limit}, {format_memory(min(most or room, room))}")
            if len(self.members) == _MOST_MEMBERS:
                raise UsageError(f"{file} holds more than {_MOST_MEMBERS} files")
            name = PurePosixPath(member.name).as_posix()
            self.members[name] = member
            found = _in_attempt(name)
            if found:
                self.of_attempt.setdefault(found[0], {})[found[1]] = member
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
        taken: list[Key] = []
        try:
            for item in info["tasks"]:
                row = self._take_one(prefix, str(item.get("task")), item.get("attempt"), out, staging, packed)
                if row is not None:
                    taken.append(row.key)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if taken:
            self.store.append([ParcelReturned(out.parcel, tuple(taken))], self.now)
        return out

    def _packed(self, prefix: str) -> set[str]:
        """Return the folders that were packed, by the list that run.sh put in; empty without one."""
        name = f"{prefix}packed.txt"
        text = self._read(name, _LARGEST_NOTE).decode(errors="replace") if name in self.members else ""
        return set(text.splitlines())

    def _info(self) -> tuple[str, dict[str, Any]]:
        """Find parcel.json, wherever in the file its folder lies; return (prefix, content)."""
        found = sorted((name for name in self.members if PurePosixPath(name).name == "parcel.json"), key=len)
        if not found:
            raise UsageError(f"{self.file} is not a parcel: it holds no parcel.json")
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
            raise UsageError(f"{self.file}: {name} is not a file, or is too large")
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
        folder, self.task = attempt_folder(task_id, row.attempt), task_id
        if not row.state.is_live and "returned_at" not in terms:
            how = sentence(row.reason, self.root) or str(row.state)
            out.remarks.append(
                f"{task_id}: attempt {row.attempt} is {row.state} ({how}); what came back is not accepted"
            )
            return None
        if not row.state.is_live or (self.root / folder / STATUS).exists():
            out.before.append(task_id)
            return None
        inside = self.of_attempt.get(f"{prefix}{folder}", {})
        if STATUS not in inside and folder in packed:
            out.refused.append(
                f"{task_id}: was packed but is missing: the file is damaged; pack it and bring it back again"
            )
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
            raise BadAnswer(f"{STATUS} is not a file, or is larger than {LARGEST} bytes")
        status = parse_json(STATUS, (home / STATUS).read_bytes())
        attempt = int(folder.rpartition("-")[2])
        if not isinstance(status, dict) or (status.get("task", task_id), status.get("attempt", attempt)) != (
            task_id,
            attempt,
        ):
            raise BadAnswer(f"its {STATUS} is of another attempt")
        check_status(STATUS, status)
        exit_code_of(STATUS, status)
        listed, _ = recorded_digests(str(home))
        if not listed and by_run_sh:
            raise BadAnswer("its checksums are missing: the file is damaged; pack it and bring it back again")
        if not listed:
            out.remarks.append(f"{task_id}: came back without checksums")
        for name, digest in listed.items():
            found = home / name
            if not found.is_file():
                raise BadAnswer(f"{name} is in its checksums and not in the parcel")
            if sha256_of(found) != digest:
                raise BadAnswer(f"{name} is damaged: its checksum does not match")
        files = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file()]
        ours = self.root / folder
        inputs, changing = self._given(ours)
        same = {name for name in files if _same(home / name, ours / name)}
        for name in files:
            if not (ours / name).exists() or name in same or name in changing:
                continue
            if name not in _GIVEN and not any(name == given or name.startswith(f"{given}/") for given in inputs):
                raise BadAnswer(f"{name} already exists in the run with different content")
            if name != "claim":
                out.remarks.append(f"{task_id}: {name} was changed there; the run keeps its own")
        # Before git can see them.
        ignore(self.root, large_files(self.root / staging, folder, self.store.newest_campaign().git_max_size))
        for name in sorted(files, key=lambda name: name == STATUS):
            if name in _GIVEN or name in same or ((ours / name).exists() and name not in changing):
                continue
            (ours / name).parent.mkdir(parents=True, exist_ok=True)
            sync(home / name)
            os.replace(home / name, ours / name)

    @staticmethod
    def _given(folder: Path) -> tuple[set[str], set[str]]:
        """Return the names of inputs that lie in the folder, and of what the command is meant to change there: inputs that
        are outputs as well, and the files of the attempt before from which it goes on."""
        task = read_task(folder)
        if task is None:
            return set(), set()
        names = {item.get("path") for item in task["inputs"].values()}
        inputs = {name for name in names if isinstance(name, str) and not name.startswith("../")}
        restart = task.get("restart")
        carried = restart.get("files") if isinstance(restart, dict) else None
        changing = inputs & {str(item.get("file")) for item in task["outputs"].values()}
        return inputs, changing | set(map(str, carried if isinstance(carried, list) else ()))

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
            out.remarks.append(f"{self.task}: {name} is not a file; left out")
            return
        if member.islnk():  # to a file in the parcel; not to another link, which may lead round in a circle
            linked = self.members.get(PurePosixPath(member.linkname).as_posix())
            if linked is None or not linked.isreg():
                raise BadAnswer(f"{name} is a link to what is not in the parcel")
            member = linked
        opened = self.tar.extractfile(member)
        if opened is None:
            raise BadAnswer(f"{name} is a link to what is not in the parcel")
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        with open(home / name, "wb") as file:
            shutil.copyfileobj(opened, file)
            os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and sha256_of(one) == sha256_of(other)
