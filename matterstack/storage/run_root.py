"""The folders and files of a run root, and how they are written.

Files that others read are written beside and moved over. Everything is relative to the root.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from matterstack.core.model import Evidence, OutputFile, ResolvedOutput
from matterstack.core.values import dump_json_lines
from matterstack.errors import RunRootError, UsageError
from matterstack.storage.files import open_regular, read_regular, sync

LEDGER = "state.sqlite"
JOURNAL = "journal.jsonl"
CAMPAIGN = "campaign.yaml"
OPERATORS = "operators.yaml"
RUN = "run.json"
DIGESTS = "outputs.sha256"
METRICS = "metrics.json"
_LARGEST_METRICS = 1 << 20

GITIGNORE = "/state.sqlite*\n/run.lock\n/.parcel-*\n/tasks/**/.exit.json\n"  # the last are there for a moment
GITATTRIBUTES = (
    "journal.jsonl text eol=lf\n/campaign.yaml -text\n/operators.yaml -text\n/run.json -text\n"
    "/tasks/** -text\n/source/** -text\n/results/** -text\n"
)


def require_run_root(root: Path) -> Path:
    """Give the root if it is one. Raises UsageError in words if not."""
    if (root / RUN).is_file():
        return root
    if not root.exists():
        raise UsageError(f"{root}: no such run root; `matterstack init FILE` makes one")
    if root.is_file():
        raise UsageError(f"{root} is a file, not a run root; `matterstack run {root}` starts a campaign file")
    if (root / LEDGER).exists() or (root / JOURNAL).exists():
        raise RunRootError(f"{root}: run.json is missing; restore it from git or a backup")
    raise UsageError(f"{root} is not a run root (it has no run.json); `matterstack init FILE` makes one")


def attempt_folder(task_id: str, attempt: int) -> str:
    """Give the path of an attempt's folder below the run root."""
    return f"tasks/{task_id}/attempt-{attempt}"


def write_beside(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise


def write_once(path: Path, text: str, *, sync: bool = True) -> bool:
    """Write a file, whole, where there is none; say whether it is there with this text. Raises OSError."""
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.link(beside, path)
        return True
    except FileExistsError:
        with open_regular(path) as file:
            return file.read(len(text.encode()) + 1) == text.encode()
    finally:
        with suppress(OSError):
            beside.unlink()


def sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_listing(digests: Mapping[str, str]) -> str:
    """Give the digest of many files: of the sorted lines `<sha256>  <path>`."""
    lines = "".join(f"{digests[path]}  {path}\n" for path in sorted(digests))
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()


def sync_files(folder: Path) -> None:
    """Bring all files and folders below ``folder`` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


# --- source/ ---


def copy_source(folder: Path, files: Iterable[str], source: Path) -> dict[str, tuple[str, int]]:
    """Copy files of the campaign folder; give {path: (sha256, size)}."""
    out = {}
    for path in files:
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, target)
        shutil.copymode(folder / path, target)
        out[path] = (sha256_of(target), target.stat().st_size)
    return out


STAGING = ".refresh"  # in source/: corrected files whose commit is under way
KEPT_TABLES = ".tables"  # in source/: tables as they were at init, which say what the instances are


def stage_source(root: Path, folder: Path, files: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Copy corrected files beside source/'s own; give {path: (sha256, size)}."""
    staging = root / "source" / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    return copy_source(folder, files, staging)


def finish_staged_source(root: Path, recorded: Mapping[str, str], tables: Iterable[str]) -> None:
    """Move staged files into place if the ledger has recorded them, and drop the others.

    The first version of a table of the campaign is kept: a ledger can only be rebuilt with it.
    """
    known = set(tables)
    staging = root / "source" / STAGING
    for path, digest in recorded.items():
        staged = staging / path
        if staged.is_file() and sha256_of(staged) == digest:
            target = root / "source" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = root / "source" / KEPT_TABLES / path
            if path in known and not kept.exists() and target.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.link(target, kept)
            os.replace(staged, target)
    shutil.rmtree(staging, ignore_errors=True)


# --- attempts ---


def create_attempt_folder(
    folder: Path,
    task: Mapping[str, Any],
    script: str,
    outputs: Iterable[ResolvedOutput],
    copies: Mapping[str, Path] | None = None,
) -> None:
    """Make an attempt's folder with command.sh, the folders of its outputs, inputs under their `as` names, task.json.

    task.json comes last, and whole: where it is, all is. Raises FileExistsError if the folder exists: it is never
    reused; OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    for output in outputs:
        path = folder / output.file
        (path if output.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
    if script:
        (folder / "command.sh").write_text(script, encoding="utf-8")
    _place_inputs(folder, copies or {})
    write_beside(folder / "task.json", dump_json_lines(task))


def _place_inputs(folder: Path, copies: Mapping[str, Path]) -> None:
    """Copy inputs under their `as` names; a copy, so that a task which writes to it harms no one else's file."""
    for name, origin in copies.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target)
        else:
            shutil.copy(origin, target)  # with its mode: a script stays executable


def gather_evidence(
    folder: Path, outputs: Mapping[str, ResolvedOutput], checked: Mapping[str, tuple[str, str]], *, ours: bool = True
) -> Evidence:
    """Say which declared outputs an attempt left, with size and digest, and read its metrics.

    ``checked`` gives (file, sha256) of outputs that an operator has looked at, wherever in the folder they lie. Digests
    that the job itself wrote down are only believed of jobs of ``ours``.
    """
    missing, found = [], []
    recorded = recorded_digests(folder) if ours else {}
    for name, declared in outputs.items():
        output = declared
        if name in checked:
            output = replace(declared, file=checked[name][0])
            recorded = {**recorded, checked[name][0]: checked[name][1]}
        path = folder / output.file
        try:
            mode = path.stat().st_mode
            if not (stat.S_ISDIR(mode) if output.is_folder else stat.S_ISREG(mode)):
                raise FileNotFoundError(errno.ENOENT, "is not what was declared")
            size, digest = _measure(path, output, recorded)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise  # any other error says nothing about the file
            if not output.optional:
                missing.append(output.file)
            continue
        found.append(OutputFile(name, output.path, output.file, size, digest))
    metrics, remark = read_metrics(folder)
    return Evidence(tuple(missing), tuple(found), metrics, remark)


def digest_within(folder: Path, file: Path) -> str:
    """Give the sha256 of a file in an attempt's folder, as its job computed it, or computed here."""
    return recorded_digests(folder).get(file.relative_to(folder).as_posix()) or sha256_of(file)


def _measure(path: Path, output: ResolvedOutput, recorded: Mapping[str, str]) -> tuple[int, str]:
    if not output.is_folder:
        return path.stat().st_size, recorded.get(output.file) or sha256_of(path)
    size, digests = 0, {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            relative = file.relative_to(path).as_posix()
            size += file.stat().st_size
            digests[relative] = recorded.get(output.file + relative) or sha256_of(file)
    return size, digest_of_listing(digests)


def recorded_digests(folder: Path) -> dict[str, str]:
    """Read the digests that the wrapper computed with sha256sum, outside the lock; what is odd is left out."""
    out = {}
    try:
        with open_regular(folder / DIGESTS) as file:
            text = file.read().decode()
    except (OSError, UnicodeDecodeError):
        return {}  # then they are computed here
    for line in text.split("\n")[:-1]:  # what follows the last one was cut
        digest, _, name = line.partition(" ")
        if len(digest) == 64 and not line.startswith("\\"):
            out[name[1:]] = digest
    return out


def read_metrics(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Read metrics.json: a flat object of numbers, texts and booleans. Gives (metrics, remark)."""
    path = folder / METRICS
    try:
        with open_regular(path) as file:
            text = file.read(_LARGEST_METRICS + 1)
        if len(text) > _LARGEST_METRICS:
            return None, f"metrics.json is ignored: larger than {_LARGEST_METRICS} bytes"
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate is JSON but no text that could be kept
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, RecursionError) as error:
        return None, f"metrics.json is ignored: {str(error).splitlines()[0][:100]}"
    if not isinstance(data, dict):
        return None, "metrics.json is ignored: not an object"
    bad = next((key for key, value in data.items() if isinstance(value, list | dict)), None)
    if bad is not None:
        return None, f"metrics.json is ignored: '{bad}' is not a single value"
    return {key: _finite(value) for key, value in data.items()}, ""


def _finite(value: Any) -> Any:
    """NaN and infinities are no JSON; keep them as text."""
    return str(value) if isinstance(value, float) and value - value != 0 else value


# --- results/ ---


def publish(
    root: Path, task_id: str, attempt: int, outputs: Sequence[OutputFile], declared: Iterable[ResolvedOutput]
) -> list[str]:
    """Point results/ to the outputs of a successful attempt; give a remark for each that could not be linked.

    A link of an older attempt to an optional output that this one did not write goes.
    """
    remarks = _unlink_absent(root, task_id, {item.path for item in declared} - {item.path for item in outputs})
    folder = attempt_folder(task_id, attempt)
    for output in outputs:
        path = output.path.rstrip("/")
        link = root / "results" / path
        target = "../" * (path.count("/") + 1) + f"{folder}/{output.file.rstrip('/')}"
        try:
            if os.path.islink(link) and os.readlink(link) == target:
                continue
            in_the_way = what_is_in_the_way(root, link)
            if in_the_way:
                remarks.append(f"results/{path} was not linked: {in_the_way}; move it away")
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(link) and not os.path.islink(link):
                remarks.append(f"results/{path} was not linked: something that is no link stands there")
                continue
            beside = link.with_name(f".{link.name[:200]}.{os.getpid()}")
            with suppress(FileNotFoundError):
                beside.unlink()
            beside.symlink_to(target)
            os.replace(beside, link)
        except OSError as error:
            remarks.append(f"results/{path} was not linked: {error.strerror or error}")
    return remarks


def what_is_in_the_way(root: Path, link: Path) -> str:
    """Say what stands where a folder of results/ should be, "" if nothing does: a link there may lead anywhere."""
    for folder in [folder for folder in link.parents if folder.is_relative_to(root / "results")]:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            return f"{folder.relative_to(root)} is {'a link' if folder.is_symlink() else 'no folder'}"
    return ""


def ignore_large(root: Path, outputs: Iterable[str], most: int) -> None:
    """List outputs above ``most`` bytes in the run root's .gitignore; of a folder, the files that are."""
    lines = []
    for output in outputs:
        path = root / output
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        lines += [
            _gitignore_line(file.relative_to(root).as_posix())
            for file in files
            if file.is_file() and file.stat().st_size > most
        ]
    if not lines:
        return
    file = root / ".gitignore"
    try:
        text = read_regular(file).decode(errors="surrogateescape")
    except FileNotFoundError:
        text = GITIGNORE
    known = set(text.splitlines())
    new = [line for line in lines if line not in known]
    if new:
        write_beside(file, text + ("" if text.endswith("\n") else "\n") + "".join(line + "\n" for line in new))


def _gitignore_line(path: str) -> str:
    """Give the line that ignores this one path. Source: gitignore(5)."""
    text = re.sub(r"([\\*?\[\]!#])", r"\\\1", path).replace("\n", "?")
    return "/" + re.sub(r" +\Z", lambda match: "\\ " * len(match[0]), text)


def _unlink_absent(root: Path, task_id: str, paths: Iterable[str]) -> list[str]:
    remarks = []
    for name in paths:
        path = name.rstrip("/")
        link = root / "results" / path
        try:
            if os.path.islink(link) and f"tasks/{task_id}/attempt-" in os.readlink(link):
                link.unlink()
        except OSError as error:
            remarks.append(f"results/{path} of an older attempt was not removed: {error.strerror}")
    return remarks


def find_last_line(path: Path, limit: int = 4096) -> str:
    """Give the last line of a log that is not empty, "" if there is none."""
    try:
        with open_regular(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
