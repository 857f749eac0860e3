"""An attempt's folder: how it is made, and what the files in it prove."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matterstack.core.model import Evidence, OutputFile, ResolvedOutput
from matterstack.core.reasons import NO_REASON, Code, Reason, also, reason
from matterstack.core.values import dump_json_lines
from matterstack.run_root.files import digest_of_listing, open_regular, read_regular, sha256_of, write_beside, write_new
from matterstack.run_root.layout import COMMAND, DIGESTS, METRICS, TASK
from matterstack.run_root.verify import files_below, stamp_of

_LARGEST_METRICS = 1 << 20


def create_attempt_folder(
    folder: str,
    task: Mapping[str, Any],
    script: str,
    outputs: Iterable[ResolvedOutput],
    copies: Mapping[str, Path] | None = None,
    lists: Mapping[str, str] | None = None,
) -> None:
    """Make an attempt's folder with command.sh, the folders of its outputs, inputs under their `as` names, lists, task.json.

    task.json comes last, and whole: where it is, all is. Raises FileExistsError if the folder exists: it is never
    reused; OSError.
    """
    try:
        os.mkdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        try:
            os.mkdir(os.path.dirname(folder))
        except FileNotFoundError:
            os.makedirs(os.path.dirname(folder), exist_ok=True)
        os.mkdir(folder)
    for output in outputs:
        if "/" in output.file:  # of a folder, at its end
            path = f"{folder}/{output.file}"
            os.makedirs(path if output.is_folder else os.path.dirname(path), exist_ok=True)
    if script:
        write_new(f"{folder}/{COMMAND}", script.encode())
    for name, text in (lists or {}).items():
        if "/" in name:
            os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        Path(folder, name).write_text(text, encoding="utf-8", errors="surrogateescape")
    _place_inputs(Path(folder), copies or {})
    write_beside(f"{folder}/{TASK}", dump_json_lines(task))


def _place_inputs(folder: Path, copies: Mapping[str, Path]) -> None:
    """Copy inputs under their `as` names; a copy, so that a task which writes to it harms no one else's file."""
    if not copies:
        return
    import shutil  # few tasks have any

    for name, origin in copies.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target)
            for name, there in files_below(target):
                os.chmod(target / name, there.st_mode | stat.S_IWUSR)
        else:
            shutil.copyfile(origin, target)
            os.chmod(target, origin.stat().st_mode | stat.S_IWUSR)  # a script stays executable


def gather_evidence(
    folder: str, outputs: Mapping[str, ResolvedOutput], checked: Mapping[str, tuple[str, str]], *, ours: bool = True
) -> Evidence:
    """Return which declared outputs an attempt left, with size and digest, and read its metrics.

    ``checked`` gives (file, sha256) of outputs that an operator has looked at, wherever in the folder they lie. Digests
    that the job itself wrote down are only believed of jobs of ``ours``.
    """
    missing, found, wrong, remarks = [], [], [], []
    recorded, recorded_at = recorded_digests(folder) if ours else ({}, 0)
    for name, declared in outputs.items():
        output = declared
        if name in checked:
            output = replace(declared, file=checked[name][0])
            recorded = {**recorded, checked[name][0]: checked[name][1]}
        path = f"{folder}/{output.file.rstrip('/')}"
        try:
            there = os.stat(path)
            problem = _problem_of(output, path, there, folder)
            if problem:
                wrong.append(f"{output.file} {problem}")
                continue
            if output.is_folder:
                size, digest, count = _measure(path, output, recorded, recorded_at)
            else:
                size, count = there.st_size, 1
                known = recorded.get(output.file) if there.st_mtime_ns <= recorded_at or name in checked else None
                digest = known or sha256_of(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise  # any other error says nothing about the file
            if os.path.islink(path):
                wrong.append(f"{output.file} is a link to {os.readlink(path)}, which does not exist")
            elif not output.optional:
                missing.append(output.file)
            continue
        if size < output.min_size or (output.not_empty and (count == 0 or (size == 0 and not output.is_folder))):
            wrong.append(_too_small(output, size, count))
            continue
        if not output.is_folder and os.path.islink(path) and _leads_out(path, _run_root(folder)):
            remarks.append(reason(Code.OUTPUT_IS_LINK, output=output.file, target=os.path.realpath(path)))
        found.append(OutputFile(name, output.path, output.file, size, digest, stamp_of(path, there)))
    metrics, remark = read_metrics(folder)
    return Evidence(tuple(missing), tuple(found), metrics, also(remark, *remarks), wrong=tuple(wrong))


def _problem_of(output: ResolvedOutput, path: str, there: os.stat_result, folder: str) -> str:
    """Return why what is there cannot be an output, as a predicate; "" if it can."""
    mode = there.st_mode
    if output.is_folder:
        if not stat.S_ISDIR(mode):
            return f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a folder"
        if os.path.islink(path) and _leads_out(path, folder):
            return f"is a link to {os.path.realpath(path)}, out of the attempt's folder; copy what it holds"
    elif stat.S_ISDIR(mode):
        return "is a folder; declare it with a `/` at its end"
    elif not stat.S_ISREG(mode):
        return f"is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file"
    return ""


_KINDS = {
    stat.S_IFREG: "a file", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def _leads_out(path: str, folder: str) -> bool:
    return not f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(folder)}/")


def _run_root(folder: str) -> str:
    return folder.partition("/tasks/")[0]


def _too_small(output: ResolvedOutput, size: int, count: int) -> str:
    what = f"has {size} bytes" if size or not output.is_folder else f"has {count} files"
    what = "is empty" if not size and (not output.is_folder or not count) else what
    return f"{output.file} {what}" + (f" of at least {output.min_size} bytes" if size < output.min_size else "")


def digest_within(folder: Path, file: Path) -> str:
    """Return the sha256 of a file in an attempt's folder, as its job computed it, or computed here."""
    return recorded_digests(str(folder))[0].get(file.relative_to(folder).as_posix()) or sha256_of(file)


def _measure(path: str, output: ResolvedOutput, recorded: Mapping[str, str], recorded_at: int) -> tuple[int, str, int]:
    """Return size and digest of a folder, and how many files it holds."""
    size, digests = 0, {}
    for name, there in files_below(path):
        size += there.st_size
        known = recorded.get(output.file + name) if there.st_mtime_ns <= recorded_at else None
        digests[name] = known or sha256_of(f"{path}/{name}")
    return size, digest_of_listing(digests), len(digests)


def recorded_digests(folder: str) -> tuple[dict[str, str], int]:
    """Read the digests that an attempt's worker computed, outside the lock, and when (in ns); what is odd is left out."""
    out = {}
    try:
        text = read_regular(f"{folder}/{DIGESTS}").decode()
        at = os.stat(f"{folder}/{DIGESTS}").st_mtime_ns
    except (OSError, UnicodeDecodeError):
        return {}, 0  # then they are computed here
    for line in text.split("\n")[:-1]:  # what follows the last one was cut
        digest, _, name = line.partition(" ")
        if len(digest) == 64 and not line.startswith("\\"):
            out[name[1:]] = digest
    return out, at


def read_metrics(folder: str) -> tuple[dict[str, Any] | None, Reason]:
    """Read metrics.json: a flat object of numbers, texts and booleans. Return (metrics, remark).

    Values that are none of these are left out and named in the remark; the others count.
    """
    try:
        text = read_regular(f"{folder}/{METRICS}", _LARGEST_METRICS + 1)
        if len(text) > _LARGEST_METRICS:
            return _ignored(f"larger than {_LARGEST_METRICS} bytes")
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False).encode()  # a lone surrogate is JSON but no text that could be kept
    except FileNotFoundError:
        return None, NO_REASON
    except (OSError, ValueError, RecursionError) as error:
        return _ignored(str(error).splitlines()[0][:100])
    if not isinstance(data, dict):
        return _ignored("not an object")
    bad = {key: why for key, value in data.items() if (why := _no_metric(value))}
    remark = reason(Code.METRICS_INVALID, values=bad) if bad else NO_REASON
    return {key: value for key, value in data.items() if key not in bad}, remark


def _ignored(why: str) -> tuple[None, Reason]:
    return None, reason(Code.METRICS_IGNORED, why=why)


def _no_metric(value: Any) -> str:
    """Return why a value cannot be a metric, as a predicate; "" if it can."""
    if isinstance(value, list | dict):
        return f"is {'a list' if isinstance(value, list) else 'an object'}, not a single value"
    if isinstance(value, float) and value - value != 0:
        return "is not a number" if value != value else "is infinite"
    return ""


def read_tail(path: Path, limit: int = 8192) -> list[str]:
    """Return the last lines of a log that are not empty, at most ``limit`` bytes of them; none of what cannot be read."""
    try:
        with open_regular(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]
