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
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.values import dump_json_lines
from matterstack.run_root.files import digest_of_listing, open_regular, read_regular, sha256_of, write_beside, write_new
from matterstack.run_root.layout import COMMAND, DIGESTS, METRICS, TASK

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
    missing, found = [], []
    recorded = recorded_digests(folder) if ours else {}
    for name, declared in outputs.items():
        output = declared
        if name in checked:
            output = replace(declared, file=checked[name][0])
            recorded = {**recorded, checked[name][0]: checked[name][1]}
        path = f"{folder}/{output.file}"
        try:
            there = os.stat(path)
            if not (stat.S_ISDIR(there.st_mode) if output.is_folder else stat.S_ISREG(there.st_mode)):
                raise FileNotFoundError(errno.ENOENT, "is not what was declared")
            if output.is_folder:
                size, digest = _measure(Path(path), output, recorded)
            else:
                size, digest = there.st_size, recorded.get(output.file) or sha256_of(path)
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
    """Return the sha256 of a file in an attempt's folder, as its job computed it, or computed here."""
    return recorded_digests(str(folder)).get(file.relative_to(folder).as_posix()) or sha256_of(file)


def _measure(path: Path, output: ResolvedOutput, recorded: Mapping[str, str]) -> tuple[int, str]:
    """Return size and digest of a folder."""
    size, digests = 0, {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            relative = file.relative_to(path).as_posix()
            size += file.stat().st_size
            digests[relative] = recorded.get(output.file + relative) or sha256_of(file)
    return size, digest_of_listing(digests)


def recorded_digests(folder: str) -> dict[str, str]:
    """Read the digests that an attempt's worker computed, outside the lock; what is odd is left out."""
    out = {}
    try:
        text = read_regular(f"{folder}/{DIGESTS}").decode()
    except (OSError, UnicodeDecodeError):
        return {}  # then they are computed here
    for line in text.split("\n")[:-1]:  # what follows the last one was cut
        digest, _, name = line.partition(" ")
        if len(digest) == 64 and not line.startswith("\\"):
            out[name[1:]] = digest
    return out


def read_metrics(folder: str) -> tuple[dict[str, Any] | None, Reason]:
    """Read metrics.json: a flat object of numbers, texts and booleans. Return (metrics, remark)."""
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
    bad = next((key for key, value in data.items() if isinstance(value, list | dict)), None)
    if bad is not None:
        return _ignored(f"'{bad}' is not a single value")
    return {key: _finite(value) for key, value in data.items()}, NO_REASON


def _ignored(why: str) -> tuple[None, Reason]:
    return None, reason(Code.METRICS_IGNORED, why=why)


def _finite(value: Any) -> Any:
    """NaN and infinities are no JSON; keep them as text."""
    return str(value) if isinstance(value, float) and value - value != 0 else value


def find_last_line(path: Path, limit: int = 4096) -> str:
    """Return the last line of a log that is not empty, "" if there is none."""
    try:
        with open_regular(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - limit))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
