"""environments/: where and with what attempts ran, each record named by its sha256, so that equal ones are stored once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.values import dump_json_lines
from matterstack.run_root.files import read_regular, sha256_of_text, write_beside
from matterstack.run_root.layout import ENVIRONMENT, ENVIRONMENTS, RUN, TASK

_NAME_LENGTH = 16  # hex digits of the sha256


def write_environment(root: Path, record: Mapping[str, Any]) -> str:
    """Keep a record unless it is there; return its name. Raises OSError."""
    text = dump_json_lines(record)
    name = sha256_of_text(text)[:_NAME_LENGTH]
    path = root / ENVIRONMENTS / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_beside(path, text)
    return name


def environment_at_init(root: Path) -> dict[str, Any] | None:
    """Return the environment of whoever made the run, None if it is not on record."""
    return _named_in(root, root / RUN)


def environment_of(root: Path, folder: str) -> dict[str, Any] | None:
    """Return the environment in which the attempt of a folder ran, None if it is not on record."""
    return _named_in(root, root / folder / TASK)


def _named_in(root: Path, file: Path) -> dict[str, Any] | None:
    try:
        name = json.loads(read_regular(file)).get(ENVIRONMENT)
        data = json.loads(read_regular(root / ENVIRONMENTS / f"{name}.json")) if isinstance(name, str) else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
