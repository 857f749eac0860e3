"""Files of the newest version of a campaign that somebody edited within the run, where nothing reads the edit."""

from __future__ import annotations

from pathlib import Path

from matterstack.hints import Hint
from matterstack.run_root import layout
from matterstack.run_root.files import sha256_of
from matterstack.run_root.verify import changed_digest
from matterstack.storage.queries import Queries

_LARGE = 1 << 20  # bytes
MOST_AT_A_STEP = 300  # source files; `status` and `doctor` look at all


def edited_files(root: Path, store: Queries, most: int | None = None) -> list[str]:
    """Return what of campaign.yaml, operators.yaml and, if they are at most ``most``, the source files was edited."""
    version = store.newest_version()
    found = []
    for name, digest in zip((layout.CAMPAIGN, layout.OPERATORS), store.digests_of(version), strict=True):
        try:
            if digest and sha256_of(root / name) != digest:
                found.append(name)
        except OSError:  # missing: `doctor` tells
            continue
    sources = store.source_files(version)
    for path, (digest, size, stamp) in sources.items() if most is None or len(sources) <= most else ():
        if most is not None and size > _LARGE:  # in a copy of a run each has to be read
            continue
        try:
            if stamp is not None and changed_digest(root / store.source_of(version) / path, digest, stamp) is not None:
                found.append(f"{layout.SOURCE}/{path}")
        except OSError:
            continue
    return found


def in_words(root: Path, store: Queries, most: int | None = None) -> str:
    """Return a sentence about `edited_files`, "" if there are none."""
    found = edited_files(root, store, most)
    if not found:
        return ""
    names = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
    return (
        f"{names} {'was' if len(found) == 1 else 'were'} edited within {root}, and no version has that: restore it from git; a "
        f"correction goes into the campaign folder, and {Hint('amend', root)} takes it"
    )
