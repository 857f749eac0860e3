"""Making a run root: whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from matterstack.core.events import Event, Reused, RunCreated, TasksAdded
from matterstack.core.model import LoadedCampaign, TaskChange, to_json
from matterstack.core.readiness import initial_changes
from matterstack.core.states import TaskState
from matterstack.core.times import to_text
from matterstack.core.values import dump_json, dump_json_lines
from matterstack.errors import MatterStackError, RunRootError, UsageError
from matterstack.hints import Hint
from matterstack.operators.environment import describe
from matterstack.orchestration.fork import Fork, bring, bring_what_results_make
from matterstack.orchestration.session import author
from matterstack.run_root import layout
from matterstack.run_root.environments import write_environment
from matterstack.run_root.files import digest_of_listing, place_of, sha256_of, sync, sync_files, write_beside
from matterstack.run_root.gitignore import ignore, large_files
from matterstack.run_root.results import publish
from matterstack.run_root.source import record_externals
from matterstack.run_root.versions import link_version, write_version
from matterstack.storage.apply import rows_of
from matterstack.storage.expanded import write_expanded
from matterstack.storage.journal import Journal
from matterstack.storage.run_lock import LOCK_FILE, run_lock, write_released
from matterstack.storage.state_store import LONGEST_PATH_OF_SQLITE, SQLiteStateStore
from matterstack.template.work import Works, digests_of, members_of, with_modes
from matterstack.version import __version__

log = logging.getLogger("matterstack")

_OF_INIT_ALONE = len(".init-0123456789abcdef/")  # of the folder in which a run root is made
_LONGEST_PATH = 4095  # bytes. Source: limits.h of Linux, PATH_MAX
_OWN_FILES = 24  # the longest name of a file that MatterStack writes beside outputs


def initialize_run(campaign: LoadedCampaign, root: Path | None = None, fork: Fork | None = None) -> Path:
    """Make the run root of a campaign, whole or not at all; return its path. With ``fork`` it begins with results of another.

    It is built beside and moved in place. Raises UsageError if the folder exists and is not empty, RunLockedError
    if a process works in it, RunRootError if it cannot be written.
    """
    root = root if root is not None else Path("runs") / campaign.campaign.name
    require_short_paths(campaign, root)
    _require_free(root)
    try:
        if root.exists():
            _make_in(campaign, root, fork)
        else:
            _make_beside(campaign, root, fork)
    except OSError as error:
        if isinstance(error, MatterStackError):
            raise
        origin = str(error.filename or "")
        if os.path.relpath(origin or ".", campaign.folder) in campaign.files:
            raise RunRootError(f"{origin}: cannot be read: {error.strerror}; the run needs a copy of it") from None
        raise RunRootError(f"{root}: cannot be written: {error.strerror or error}") from None
    log.info("run root made: %s", root)
    return root


def require_short_paths(campaign: LoadedCampaign, root: Path) -> None:
    """Raise UsageError if a path of the run would be longer than SQLite or the system takes, before anything is made."""
    home = os.fsencode(os.path.abspath(root))
    ledger = len(home) + _OF_INIT_ALONE + len(f"/{layout.LEDGER}-journal")
    if ledger > LONGEST_PATH_OF_SQLITE:
        raise UsageError(
            f"{root}: the path of its ledger needs {ledger} bytes, SQLite takes {LONGEST_PATH_OF_SQLITE}; name a shorter "
            "folder with --root"
        )
    longest = 0
    for instance in campaign.instances:
        files = (output.file for output in instance.outputs.values())
        inside = max((len(os.fsencode(file)) for file in files), default=0)
        longest = max(longest, len(os.fsencode(instance.task_id)) + max(inside, _OWN_FILES))
    path = len(home) + len("/tasks//attempt-9999/") + longest
    if path > _LONGEST_PATH:
        raise UsageError(
            f"{root}: the longest path in it would have {path} bytes, the system takes {_LONGEST_PATH}; name a shorter folder "
            "with --root, or shorter labels and outputs"
        )


def _make_beside(campaign: LoadedCampaign, root: Path, fork: Fork | None) -> None:
    beside = root.parent / f".{root.name}.init-{os.urandom(8).hex()}"
    root.parent.mkdir(parents=True, exist_ok=True)
    beside.mkdir()
    try:
        _build(campaign, beside, root, fork)
        try:
            os.rename(beside, root)
        except OSError:
            _require_free(root)
            raise
        sync(root.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _make_in(campaign: LoadedCampaign, root: Path, fork: Fork | None) -> None:
    """Make a run root in an empty folder, which may be somebody's current one; run.json, by which it is one, last."""
    inside = root / f".init-{os.urandom(8).hex()}"
    with run_lock(root):
        try:
            _require_free(root, locked=True)
            _clear_killed_init(root)
            inside.mkdir()
            _build(campaign, inside, root, fork)
            for path in sorted(inside.iterdir(), key=lambda path: path.name == layout.RUN):
                if path.name != LOCK_FILE:
                    os.rename(path, root / path.name)
            shutil.rmtree(inside, ignore_errors=True)
            sync(root)
        except BaseException:  # also Ctrl-C: without run.json at its place all goes back
            if not (root / layout.RUN).exists():
                with suppress(OSError):  # what stays is cleared by the next init
                    _clear_killed_init(root)
            raise
        finally:
            if not (root / layout.RUN).exists():
                (root / LOCK_FILE).unlink(missing_ok=True)


_OF_INIT = (
    layout.CAMPAIGN, layout.OPERATORS, layout.LEDGER, layout.JOURNAL, layout.EXPANDED, layout.ENVIRONMENTS, layout.VERSIONS, layout.SOURCE, "tasks", "results", ".gitignore",
    ".gitattributes",
)  # fmt: skip


def _left_by_init(root: Path) -> tuple[list[Path], list[Path]] | None:
    """Return what an `init` that was killed in this folder left: (its hidden folders, what it had moved out of them).

    None if there is anything else. run.json is moved last, so without it there never was a run.
    """
    hidden = list(root.glob(".init-*"))
    moved = [path for path in root.iterdir() if path not in hidden and path.name != LOCK_FILE]
    known = all(path.name in _OF_INIT and not os.path.lexists(hidden[0] / path.name) for path in moved if hidden)
    if moved and (len(hidden) != 1 or not known or not (hidden[0] / layout.RUN).exists()):
        return None
    return hidden, moved


def _clear_killed_init(root: Path) -> None:
    hidden, moved = _left_by_init(root) or ([], [])
    for path in moved:
        os.rename(path, hidden[0] / path.name)
    for path in hidden:
        shutil.rmtree(path)


def _require_free(root: Path, *, locked: bool = False) -> None:
    """Raise UsageError unless a run root can be made here, RunLockedError if a process is at it (``locked``: we are)."""
    try:
        if not root.exists() or (root.is_dir() and _left_by_init(root) is not None):
            return
    except OSError as error:
        raise RunRootError(f"{root}: cannot be read: {error.strerror}") from None
    if not locked and (root / LOCK_FILE).exists():
        with run_lock(root):
            pass
    if (root / layout.RUN).exists():
        raise UsageError(f"{root} already is a run; {Hint('run', root)} continues it, --root DIR names another folder")
    raise UsageError(f"{root} exists and is not empty; --root DIR names another folder")


def _build(loaded: LoadedCampaign, folder: Path, root: Path, fork: Fork | None) -> None:
    now = time.time()
    run_id = f"{loaded.campaign.name}-{os.urandom(4).hex()}"
    for name in (layout.TASKS, layout.RESULTS):
        (folder / name).mkdir()
    write_beside(folder / ".gitignore", layout.GITIGNORE)
    write_beside(folder / ".gitattributes", layout.GITATTRIBUTES)
    sources = write_version(
        folder, 1, campaign=loaded.text, operators=operators_text(loaded), site=loaded.site_text,
        settings=loaded.overrides, place=loaded.place, files=loaded.files, synced=False,
    )  # fmt: skip
    link_version(folder, 1)
    ignore(folder, large_files(folder, layout.VERSIONS, loaded.campaign.git_max_size))
    source_digest = digest_of_listing({path: digest for path, (digest, *_) in sources.items()})
    record = {
        "id": run_id, "name": loaded.campaign.name, "digest": loaded.digest, "created_at": to_text(now),
        "version": __version__, "set": loaded.overrides, layout.ENVIRONMENT: write_environment(folder, describe(os.environ)),
    }  # fmt: skip
    write_beside(folder / layout.RUN, dump_json_lines(record, exact=True))
    write_released(folder, root)  # so that a ledger lost before the first step is known to have been here
    definition = write_expanded(folder, dump_json(to_json(loaded.campaign), exact=True))
    conditional = {name for name, task in loaded.campaign.tasks.items() if task.when is not None}
    first = initial_changes(loaded.instances, conditional)
    if fork is not None and fork.results:  # then what waits for them has to be looked at
        first = (TaskChange(item.task_id, TaskState.PENDING) for item in loaded.instances)
    reused = bring(fork, folder) if fork is not None and fork.results else ""
    externals = record_externals(loaded.externals)
    digests = {**with_modes((folder / layout.SOURCE).joinpath, digests_of(sources)), **digests_of(externals)}
    works = Works(loaded.campaign, digests, members_of(loaded.instances))
    rows = write_expanded(folder, "".join(f"{row}\n" for row in rows_of(loaded.instances, first, works.digest)))
    reused_rows = write_expanded(folder, reused) if reused else ""
    sync_files(folder)  # what the ledger will speak of must be there after a power cut
    with SQLiteStateStore(folder / layout.LEDGER, create=True, journal=Journal(folder / layout.JOURNAL)) as store:
        host, path = place_of(root)
        created = RunCreated(
            run=run_id, name=loaded.campaign.name, digest=loaded.digest, version=__version__, definition=definition,
            created_at=to_text(now), campaign_path=relative_path(loaded, root),
            campaign_sha256=sha256_of(folder / layout.CAMPAIGN), operators_sha256=sha256_of(folder / layout.OPERATORS),
            source_digest=source_digest, new_home=os.urandom(4).hex(), host=host, path=path,
            inode=store.path.stat().st_ino, set=json.loads(dump_json(loaded.overrides)),
            sources={name: list(item) for name, item in {**sources, **externals}.items()},
            source=f"{layout.version_folder(1)}/{layout.SOURCE}", site=site_path(loaded, root),
        )  # fmt: skip
        store.author = author()
        events: list[Event] = [created, TasksAdded(1, rows, len(loaded.instances))]
        if fork is not None and reused:
            events.append(Reused(fork.run_id, reused_rows, len(fork.results)))
        store.append(events, now)
        if fork is not None:
            for task_id in fork.results:
                publish(folder, task_id, 1, store.published_files(task_id), ())
            if fork.results and loaded.campaign.has_unknown:
                bring_what_results_make(fork, folder, store)
                sync_files(folder)  # as above; the run is not at its place yet
    sync(folder)


def operators_text(loaded: LoadedCampaign) -> str:
    """Return the text of a version's operators.yaml: those of the campaign and the site, each as it was written."""
    return "".join(f"{name}: {text}\n" for name, text in loaded.operators_json.items())


def site_path(loaded: LoadedCampaign, root: Path) -> str:
    """Return the path of the file given with --operators, relative to the run root; "" without one."""
    if loaded.operators_file is None:
        return ""
    return os.fsencode(os.path.relpath(loaded.operators_file.resolve(), root.resolve())).decode(errors="replace")


def relative_path(loaded: LoadedCampaign, root: Path) -> str:
    """Return the path of the campaign file, relative to the run root. Raises UsageError for one that is not UTF-8."""
    path = os.path.relpath(loaded.folder.resolve() / loaded.file.name, root.resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path!r}: the path of the campaign is not UTF-8; rename the folder") from None
    return path
