"""A new version of a campaign for a run that has begun: what becomes of each instance, shown first, then taken at once.

An instance is compared with what the attempt that it stands on was asked to do (`template.work`), never with the version
before. All that changes is one commit; the files of the version are written whole before it, the links in the run root set
after it, by whoever opens the ledger next if this process is killed in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.events import Amended, Event, Wished
from matterstack.core.model import LoadedCampaign, to_json
from matterstack.core.states import TaskState
from matterstack.core.values import dump_json, encode_json, load_json
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, RunRootError, UsageError
from matterstack.hints import Hint
from matterstack.orchestration.actions import PATIENCE_S, carry_out_wishes
from matterstack.orchestration.comparison import Comparison, Fate, compare, events_of
from matterstack.orchestration.growth import grown_of
from matterstack.orchestration.init import operators_text, relative_path, require_short_paths, site_path
from matterstack.orchestration.session import finish_version, is_a_copy, open_ledger, open_to_write, refuse_clone
from matterstack.orchestration.step import Step
from matterstack.run_root import layout
from matterstack.run_root.files import digest_of_listing, place_of, sha256_of, sha256_of_text
from matterstack.run_root.gitignore import ignore, large_files
from matterstack.run_root.layout import require_run_root, version_folder
from matterstack.run_root.source import record_externals
from matterstack.run_root.versions import keep_first, write_version
from matterstack.storage.expanded import write_expanded
from matterstack.storage.run_lock import read_holder
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.template.work import Works, digests_of, members_of, with_modes


@dataclass(frozen=True)
class Amendment:
    """A new version of a campaign, and all that it means for a run."""

    version: int  # the new one
    loaded: LoadedCampaign
    files: Mapping[str, str]  # of the campaign folder -> sha256
    externals: Mapping[str, Any]
    changed_keys: tuple[
        tuple[str, Any, Any], ...
    ]  # of the campaign, as (path, before, now); None for what is not there
    changed_files: Mapping[str, str]  # path -> "changed", "new" or "gone"
    unnamed_files: tuple[str, ...]  # of these, that no command names
    settings: tuple[Mapping[str, Any], Mapping[str, Any]]  # of --set, before and now
    fates: tuple[Fate, ...]
    stay: Mapping[str, Mapping[TaskState, int]]  # group -> state -> instances of which nothing changes
    lines: tuple[str, ...]  # of the file that `Amended.rows` names
    events: tuple[Event, ...]  # that follow `Amended`
    live_gone: tuple[str, ...]  # tasks that go on although they are retired
    digest: str  # of all files that it was made from

    @property
    def is_nothing(self) -> bool:
        """Return whether the run is of just this campaign already."""
        lines = any(not line.startswith('["move"') for line in self.lines)  # an order alone is nothing
        return not (self.changed_keys or self.changed_files or self.fates or lines) and (
            self.settings[0] == self.settings[1]
        )


def plan_amendment(
    store: SQLiteStateStore, loaded: LoadedCampaign, root: Path, *, cancel_gone: bool = False
) -> Amendment:
    """Return what a campaign means for a run that has begun; nothing is written.

    Raises UsageError for what cannot be amended: another name, an operator that is gone and has live attempts.
    """
    before = store.newest_campaign()
    if loaded.campaign.has_unknown and loaded.regrown is not None:
        loaded = loaded.regrown(grown=grown_of(store))
    if loaded.campaign.name != before.name:
        raise UsageError(
            f"{loaded.file}: its name is {loaded.campaign.name}, the run's is {before.name}; a name cannot be amended: "
            f"{Hint('run', loaded.file, rest='--root DIR')} starts another run"
        )
    require_short_paths(loaded, root)
    version = store.newest_version()
    files = _digests(loaded)
    externals = record_externals(loaded.externals)
    was = store.sources(version)
    modes = with_modes(loaded.place, files)
    works = Works(loaded.campaign, {**modes, **digests_of(externals)}, members_of(loaded.instances))
    found = compare(store, loaded, works, cancel_gone=cancel_gone)
    _require_operators(store, loaded, found)
    there = with_modes((root / store.source_of(version)).joinpath, was)
    changed = {path: "changed" for path in files if path in was and there[path] != modes[path]}
    changed |= {path: "new" for path in files if path not in was}
    changed |= {path: "gone" for path in was if path not in files}
    named = works.files_named() | {s.path for item in loaded.instances for i in item.inputs.values() for s in i.sources}
    named |= {loaded.file.name, *loaded.read}
    unnamed = tuple(path for path, how in changed.items() if how == "changed" and not _is_named(path, named))
    keys = tuple(_changed_keys(to_json(before), to_json(loaded.campaign)))
    settings = (_settings(root, version), json.loads(dump_json(loaded.overrides)))
    listing = digest_of_listing(dict(files))
    parts = [loaded.digest, sha256_of_text(loaded.text), listing, encode_json(sorted(digests_of(externals).items()))]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    events = tuple(events_of(store, found))
    return Amendment(
        version + 1, loaded, files, externals, keys, dict(sorted(changed.items())), unnamed, settings, tuple(found.fates),
        found.stay, tuple(found.lines), events, tuple(found.live_gone), digest,
    )  # fmt: skip


def _digests(loaded: LoadedCampaign) -> dict[str, str]:
    try:
        return {path: sha256_of(loaded.place(path)) for path in loaded.files}
    except OSError as error:
        raise RunRootError(f"{error.filename}: cannot be read: {error.strerror}; the run needs a copy of it") from None


def _is_named(path: str, named: set[str]) -> bool:
    return path in named or any(path.startswith(f"{name}/") for name in named if name)


def _settings(root: Path, version: int) -> dict[str, Any]:
    """Return what --set gave for a version."""
    try:
        found = load_json((root / version_folder(version) / layout.SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        try:
            found = load_json((root / layout.RUN).read_text(encoding="utf-8")).get("set")
        except (OSError, ValueError, AttributeError):
            found = {}
    return json.loads(dump_json(found)) if isinstance(found, dict) else {}


_MOST_LISTED = 40  # keys that differ


def _changed_keys(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two campaigns, by the dotted path of the smallest value that does."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        if dump_json(before, exact=True) != dump_json(now, exact=True):
            yield path, before, now
        return
    for key in dict.fromkeys([*before, *now]):
        if key in ("for_people", "name") and path.startswith("tasks."):
            continue  # the same once more
        inside = path if key in ("asked", "rules") else f"{path}.{key}" if path else str(key)
        yield from _changed_keys(before.get(key), now.get(key), inside)


def _require_operators(store: SQLiteStateStore, loaded: LoadedCampaign, found: Comparison) -> None:
    ending = {*found.end, *found.ask_again}
    for row in store.live_attempts():
        if row.operator not in loaded.campaign.operators and row.key not in ending:
            live = [item for item in store.live_attempts() if item.operator == row.operator]
            hint = Hint("cancel", store.root, row.task_id)
            raise UsageError(
                f"operator '{row.operator}' is gone from {loaded.file}, and {len(live)} of its attempts "
                f"{'is' if len(live) == 1 else 'are'} live ({row.task_id}); keep it until they have ended, or {hint}"
            )


# --- taking ---------------------------------------------------------------------------------------------------------


def show_amendment(root: str | Path, loaded: LoadedCampaign, *, cancel_gone: bool = False) -> Amendment:
    """Return what `amend` would do. Raises RunIsCopyError for a copy of a run, and what `plan_amendment` raises."""
    path = _home(root)
    with open_ledger(path, read_only=True) as store:
        if not store.is_at_home(*place_of(path)):
            raise is_a_copy(path)
        return plan_amendment(store, loaded, path, cancel_gone=cancel_gone)


def _home(root: str | Path) -> Path:
    """Return a run root. Raises RunIsCopyError for a copy without a ledger."""
    path = require_run_root(Path(root))
    if not os.path.lexists(path / layout.LEDGER):
        refuse_clone(path, read_holder(path))
    return path


class PlanOutdated(UsageError):
    """Files have changed since the plan that was agreed to."""


def amend(
    root: str | Path,
    loaded: LoadedCampaign,
    *,
    cancel_gone: bool = False,
    plan: str | None = None,
    is_of_the_run: bool = False,
) -> tuple[Amendment, set[str]]:
    """Take a new version of a campaign; return it, and the tasks that could not be ended from here.

    ``is_of_the_run`` says that the files are those of an older version: where the campaign comes from stays on record. With
    ``plan`` only files of that digest are taken. Works while a loop runs the campaign. Raises PlanOutdated,
    RunLockedError, and what `plan_amendment` raises.
    """
    path = require_run_root(Path(root))
    with open_to_write(path, wait_s=PATIENCE_S, by_person=True) as store:
        found = plan_amendment(store, loaded, path, cancel_gone=cancel_gone)
        if plan is not None and len(plan) < 8:
            raise UsageError(f"--plan {plan}: at least 8 characters of the digest that the preview ends with")
        if plan is not None and (not found.digest.startswith(plan)):
            raise PlanOutdated(
                f"--plan {plan}: the files give {found.digest} now, so they, or the run, have changed since that was shown; "
                f"{Hint('amend', path)} shows what they mean"
            )
        if found.is_nothing:
            return found, set()
        _require_no_old_layout_at_work(store, found)
        try:
            amended = _write(path, store, found, is_of_the_run=is_of_the_run)
        except OSError as error:
            if isinstance(error, MatterStackError):
                raise
            raise RunRootError(f"{error.filename or path}: {error.strerror}; nothing was changed") from None
        step = Step(path, store)
        store.append([amended, *found.events], step.now)
        finish_version(path, store)
        wished = {key for event in found.events if isinstance(event, Wished) for key in event.attempts}
        live = store.tasks({task_id for task_id, _ in wished}) if wished else []
        alive = carry_out_wishes(step, store, live)
        step.remove_temporary()  # of those that only a task read that is RETIRED now
        return found, alive


def _require_no_old_layout_at_work(store: SQLiteStateStore, found: Amendment) -> None:
    """Raise UsageError where commands that run name `source` itself, which would show them other files."""
    if store.source_of(found.version - 1) != layout.SOURCE or not found.changed_files:
        return
    live = [
        row for row in store.live_attempts() if store.operators(row.campaign_version)[row.operator].row.runs_command
    ]
    if live:
        raise UsageError(
            f"{len(live)} attempts run that were started before this version of MatterStack ({live[0].task_id}), and name the files "
            f"that would change; try again when they have ended, or {Hint('cancel', store.root, live[0].task_id)}"
        )


def _write(root: Path, store: SQLiteStateStore, found: Amendment, *, is_of_the_run: bool) -> Amended:
    """Write all that the ledger will speak of."""
    loaded, before = found.loaded, found.version - 1
    operators = operators_text(loaded)
    if store.source_of(before) == layout.SOURCE:  # of before versions
        keep_first(root, _settings(root, before))
    there = root / version_folder(before) / layout.SOURCE
    older = {path: (there / path, digest, stamp) for path, (digest, _, stamp) in store.source_files(before).items()}
    sources = write_version(
        root, found.version, campaign=loaded.text, operators=operators, site=loaded.site_text, settings=loaded.overrides,
        place=loaded.place, files=found.files, before=older,
    )  # fmt: skip
    ignore(root, large_files(root, version_folder(found.version), loaded.campaign.git_max_size))
    counts: dict[str, int] = {}
    for fate in found.fates:
        counts[fate.kind] = counts.get(fate.kind, 0) + 1
    return Amended(
        version=found.version, digest=loaded.digest,
        definition=write_expanded(root, dump_json(to_json(loaded.campaign), exact=True)),
        rows=write_expanded(root, "".join(f"{line}\n" for line in found.lines)),
        campaign_path=store.run().campaign_path if is_of_the_run else relative_path(loaded, root), campaign_sha256=sha256_of_text(loaded.text),
        operators_sha256=sha256_of_text(operators), source=f"{version_folder(found.version)}/{layout.SOURCE}",
        source_digest=digest_of_listing({path: digest for path, (digest, *_) in sources.items()}),
        set=json.loads(dump_json(loaded.overrides)),
        sources={name: list(item) for name, item in {**sources, **found.externals}.items()},
        site=store.site_of(before) if is_of_the_run else site_path(loaded, root), counts=counts,
    )  # fmt: skip


# --- what is recorded -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """Where the campaign of a run came from, and what was given with it."""

    version: int
    file: Path
    settings: Mapping[str, Any]
    operators: Path | None  # file of --operators: the user's if it is still there, else the run's copy
    has_versions: bool  # false of a run of before versions


def recorded(root: str | Path, version: int | None = None) -> Recorded:
    """Return what a run, or a ``version`` of it, was made from. Raises UsageError for a version that it does not have."""
    path = _home(root)
    with open_ledger(path, read_only=True) as store:
        newest = store.newest_version()
        if version is not None and not 1 <= version <= newest:
            raise UsageError(f"--to {version}: {path} has the versions 1 to {newest}")
        run, number = store.run(), version or newest
        has_versions = store.source_of(newest) != layout.SOURCE
        file = _there(path, run.home_path, run.campaign_path)
        site = _there(path, run.home_path, store.site_of(number)) if store.site_of(number) else None
        kept = path / version_folder(number) / layout.SITE
        if version is not None or site is None or not site.is_file():
            site = kept if kept.is_file() else None
    return Recorded(number, file, _settings(path, number), site, has_versions)


Find = Callable[[Path, str, None, Mapping[str, str]], Iterable[str]]  # `spec.files.glob_files`
Place = Callable[[Path, Mapping[str, str], str], Path]  # `spec.files.place_of`


def differing_files(root: str | Path, find: Find, place: Place) -> tuple[int, list[str]]:
    """Return the newest version of a run, and the files of the campaign folder that are not those of that version.

    Raises UsageError if the campaign file is not there.
    """
    path = require_run_root(Path(root))
    with open_ledger(path, read_only=True) as store:
        version, was, campaign = store.newest_version(), store.sources(), store.newest_campaign()
    file = recorded(path).file
    if not file.is_file():
        raise UsageError(f"the campaign file {file} is not there")
    kept = path / layout.CAMPAIGN
    out = [] if _same(kept, sha256_of(file)) else [file.name]
    for name in sorted(
        {*was, *(found for pattern in campaign.files for found in find(file.parent, pattern, None, campaign.outside))}
    ):
        if not _same(place(file.parent, campaign.outside, name), was.get(name, "")):
            out.append(name)
    return version, out


def _same(path: Path, digest: str) -> bool:
    try:
        return sha256_of(path) == digest
    except OSError:
        return False


def check_out(root: str | Path, target: Path, version: int | None = None) -> int:
    """Write a version, by default the newest, as a campaign folder that can be worked on; return its number.

    Raises UsageError if the folder is there and not empty, RunRootError.
    """
    path = require_run_root(Path(root))
    found = recorded(path, version)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--checkout {target}: is there already, and is not an empty folder")
    home = path / version_folder(found.version)
    home = home if home.is_dir() else path  # of before versions
    try:
        shutil.copytree(home / layout.SOURCE, target, dirs_exist_ok=True)
        shutil.copyfile(home / layout.CAMPAIGN, target / found.file.name)
        if (home / layout.SITE).is_file():
            shutil.copyfile(home / layout.SITE, target / layout.SITE)
        for file in target.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(file.stat().st_mode | stat.S_IWUSR)
    except OSError as error:
        raise RunRootError(f"{error.filename or target}: cannot be written: {error.strerror}") from None
    return found.version


def _there(root: Path, home: str, relative: str) -> Path:
    """Return a path that is relative to the run root, or to where that was when the run was made."""
    candidates = [os.path.normpath(root.resolve() / relative), os.path.normpath(Path(home) / relative)]
    shown = next((path for path in candidates if os.path.isfile(path)), candidates[0])
    near = os.path.relpath(shown)
    return Path(near if not near.startswith("../..") else shown)
