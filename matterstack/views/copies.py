"""Results as files of their own, apart from the run."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from matterstack.core.selection import select_tasks
from matterstack.deferred import dataclass
from matterstack.errors import RunRootError, UsageError
from matterstack.run_root.files import sha256_of
from matterstack.run_root.layout import attempt_folder
from matterstack.run_root.verify import files_below
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.views.reading import reading

TABLE = "origins.csv"
_COLUMNS = ("file", "run", "task", "attempt", "output", "bytes", "sha256", "from", "stale")


@dataclass(frozen=True)
class Copied:
    """What `copy_results` wrote, and what it could not find."""

    files: int
    size: int  # bytes
    missing: tuple[str, ...]  # recorded outputs that are not there, below the run root
    table: str  # the name of the table
    stale: int  # files from results that were made from older ones
    changed: tuple[str, ...]  # copied, but no longer what the task made, below the run root
    left_out: tuple[str, ...]  # what is no regular file of its folder: links out of it, pipes


def copy_results(root: str | Path, target: Path, patterns: Iterable[str] = ()) -> Copied:
    """Write the newest results as files below ``target``, with a table of where each comes from.

    Raises UsageError if there is something at ``target``, RunRootError if it cannot be written.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; name a folder that is not there yet")
    beside = target.with_name(f".{target.name}.{os.urandom(6).hex()}")
    with reading(root) as (path, store):
        wanted = list(patterns)
        chosen = set(select_tasks(store.task_ids(), wanted)) if wanted else None
        missing: list[str] = []
        stale = store.stale()
        try:
            beside.mkdir(parents=True)
            rows = []
            changed: list[str] = []
            left_out: list[str] = []
            for task_id, attempt, output, name, origin, recorded in _results(path, store, chosen, left_out):
                if not origin.is_file():
                    missing.append(origin.relative_to(path).as_posix())
                    continue
                copy = beside / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin, copy)
                shutil.copystat(origin, copy)
                copy.chmod(copy.stat().st_mode | 0o200)
                place, count, digest = origin.relative_to(path).as_posix(), copy.stat().st_size, sha256_of(copy)
                if recorded not in (None, digest):
                    changed.append(place)
                rows.append(
                    (
                        name,
                        store.run().run_id,
                        task_id,
                        attempt,
                        output,
                        count,
                        digest,
                        place,
                        stale.get(task_id, ""),
                    )
                )
            table = TABLE if not os.path.lexists(beside / TABLE) else f"_{TABLE}"  # a result may have that name
            with open(beside / table, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])
            os.rename(beside, target)
        except OSError as error:
            raise RunRootError(f"{error.filename or target}: cannot be copied: {error.strerror}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    old = sum(bool(row[-1]) for row in rows)
    return Copied(len(rows), sum(row[5] for row in rows), tuple(missing), table, old, tuple(changed), tuple(left_out))


def _results(
    root: Path, store: SQLiteStateStore, chosen: set[str] | None, left_out: list[str]
) -> Iterator[tuple[str, int, str, str, Path, str | None]]:
    """Yield (task, attempt, output, path below results/, file, recorded digest) of each file; of a folder, all that it holds.

    What else a folder holds is added to ``left_out``.
    """
    for row in store.tasks():
        found = store.published(row.task_id) if chosen is None or row.task_id in chosen else None
        if found is None:
            continue
        paths = {item.name: item.path for item in store.published_files(row.task_id)}
        for output, (file, *recorded) in found[1].items():
            origin = root / attempt_folder(row.task_id, found[0]) / file.rstrip("/")
            path = paths[output].rstrip("/")
            if not file.endswith("/") or not origin.is_dir():
                yield row.task_id, found[0], output, path, origin, recorded[0]
                continue
            names = {name for name, _ in files_below(origin)}
            for name in sorted(names):
                yield row.task_id, found[0], output, f"{path}/{name}", origin / name, None
            left_out += [
                other.relative_to(root).as_posix()
                for other in sorted(origin.rglob("*"))
                if (other.is_symlink() or not other.is_dir()) and other.relative_to(origin).as_posix() not in names
            ]
