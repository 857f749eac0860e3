"""What the small files of a run root say: run.json, the campaign's files, task.json of an attempt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.values import load_json
from matterstack.errors import RunRootError
from matterstack.run_root import layout
from matterstack.run_root.files import read_regular, sha256_of
from matterstack.run_root.layout import TASK, attempt_folder


def changed_files(root: Path, created: Mapping[str, str]) -> Iterator[str]:
    """Yield the files that describe the run and are not what they were at init; ``created`` maps them to digests."""
    for name, digest in created.items():
        try:
            if digest and sha256_of(root / name) != digest:
                yield name
        except OSError:
            yield name


def read_record(root: Path) -> dict[str, Any]:
    """Read run.json. Raises RunRootError if it is missing or not ours."""
    path = root / layout.RUN
    try:
        data = load_json(read_regular(path).decode())
    except OSError as error:
        raise RunRootError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not all(isinstance(data.get(k), str) for k in ("id", "name", "digest")):
        raise RunRootError(f"{path} is damaged; restore it from git or a backup")
    return {"created_at": "", **data}


def attempts_read(root: Path, task_id: str, attempt: int) -> dict[str, int]:
    """Read from task.json which attempts an attempt read from; empty if it is gone or not ours."""
    try:
        data = json.loads(read_regular(root / attempt_folder(task_id, attempt) / TASK))
        files = [file for item in data["inputs"].values() for file in item["files"] if "task" in file]
        found = [*files, *data.get("answers", {}).values()]
        return {str(file["task"]): int(file["attempt"]) for file in found}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
