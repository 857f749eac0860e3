"""A run of version 1 whose ledger is lost, or that is a clone: its journal left out what the campaign's YAML says.

The one place outside of `spec` where a campaign is expanded after init.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from matterstack.care.record import attempts_read, changed_files, read_record
from matterstack.core.model import LoadedCampaign, OutputFile, to_json
from matterstack.core.readiness import initial_changes
from matterstack.core.values import dump_json
from matterstack.errors import MatterStackError, RunRootError
from matterstack.operators.registry import runnable_kinds
from matterstack.run_root import layout
from matterstack.run_root.files import place_of
from matterstack.run_root.layout import attempt_folder
from matterstack.spec.load import load_campaign
from matterstack.storage.apply import rows_of
from matterstack.storage.state_store import SQLiteStateStore
from matterstack.storage.version_1 import Past, Timed, translate


def translated(root: Path, store: SQLiteStateStore, lines: list[str]) -> Iterator[Timed]:
    """Return today's events for the journal of a run of version 1. Raises LedgerError, RunRootError."""
    created = json.loads(lines[0])
    digests = {
        layout.CAMPAIGN: created.get("campaign_sha256", ""),
        layout.OPERATORS: created.get("operators_sha256", ""),
    }
    changed = next(changed_files(root, digests), None)
    if changed is not None:
        raise RunRootError(
            f"{root / changed} differs from the file the run was created with; restore it from git first"
        )
    record = read_record(root)
    sources = {path: (digest, size) for path, (digest, size) in created.get("sources", {}).items()}
    loaded = _expand(root, record.get("set") or {}, frozenset(sources))
    declared = {item.task_id: item.outputs for item in loaded.instances}
    conditional = {name for name, task in loaded.campaign.tasks.items() if task.when is not None}
    rows = "".join(f"{row}\n" for row in rows_of(loaded.instances, initial_changes(loaded.instances, conditional)))

    def outputs_of(
        task_id: str, attempt: int, digests: Mapping[str, str], files: Mapping[str, str]
    ) -> Iterable[OutputFile]:
        for name, item in declared[task_id].items():
            if item.path in digests:
                file = files.get(item.path, item.file)
                size = _size(root / attempt_folder(task_id, attempt) / file)
                yield OutputFile(name, item.path, file, size, digests[item.path])

    past = Past(
        run={key: record[key] for key in ("id", "name", "digest", "created_at")},
        place=(*place_of(root), 0), campaign_path=created.get("campaign_path", ""),
        definition=store.keep(dump_json(to_json(loaded.campaign), exact=True)), rows=store.keep(rows),
        count=len(loaded.instances), sources=sources, inputs_of=lambda *key: attempts_read(root, *key),
        outputs_of=outputs_of,
    )  # fmt: skip
    return translate(lines, past)


def _expand(root: Path, settings: Mapping[str, object], files: frozenset[str]) -> LoadedCampaign:
    """Expand the campaign of a run root as `init` did: with the files that source/ had at first."""
    try:
        return load_campaign(
            root / layout.CAMPAIGN, operators=root / layout.OPERATORS, overrides=settings,
            installed_kinds=runnable_kinds(), folder=root / "source", only_files=files,
        )  # fmt: skip
    except MatterStackError as error:
        first = str(error).splitlines()[0]
        raise RunRootError(f"{root}: its campaign can no longer be read: {first}") from None


def _size(path: Path) -> int | None:
    try:
        if path.is_dir():
            return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
        return path.stat().st_size
    except OSError:
        return None
