"""What is recorded of the files of a campaign: those that a run has copies of, and external ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from matterstack.run_root.verify import digest_or_none, files_below, stamp_of

Sources = dict[str, tuple[str, int, str | None]]


def record_externals(paths: Mapping[str, bool]) -> Sources:
    """Return {path: (sha256, or "" where that is not asked for; size; stamp)} of files that are not copied.

    Raises OSError.
    """
    out: Sources = {}
    for path, with_digest in paths.items():
        found = os.stat(path)
        size = found.st_size if os.path.isfile(path) else sum(there.st_size for _, there in files_below(path))
        digest = (digest_or_none(Path(path), folder=os.path.isdir(path)) or "") if with_digest else ""
        out[path] = (digest, size, stamp_of(path, found))
    return out
