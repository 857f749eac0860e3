"""amend."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matterstack.cli import completing
from matterstack.cli.options import common, echo_remark, json_option, run_argument, why_option
from matterstack.core.states import TaskState
from matterstack.errors import CampaignError, ExitCode, UsageError
from matterstack.hints import Hint

if TYPE_CHECKING:
    from matterstack.core.model import LoadedCampaign
    from matterstack.orchestration.amend import Amendment
    from matterstack.orchestration.comparison import Fate

_MOST_KEYS = 8  # of the campaign that differ, which are shown
_MOST_NAMES = 3  # of tasks


@click.command()
@run_argument
@click.argument("file", required=False, metavar="[FILE]", shell_complete=completing.files)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a parameter; those set before stay.")
@click.option("--unset", multiple=True, metavar="NAME", help="Take back what --set gave a parameter.")
@click.option(
    "--operators", metavar="FILE", shell_complete=completing.files, help="Operators of this site from now on."
)
@click.option("--yes", is_flag=True, help="Take the changes without asking.")
@click.option("--plan", metavar="DIGEST", help="Take only the files that a preview with this digest has shown.")
@click.option("--cancel-gone", is_flag=True, help="End what still runs of instances that are gone.")
@click.option("--to", "to", type=int, metavar="N", help="Go back to version N.")
@click.option("--checkout", metavar="DIR", help="Write the newest version, or that of --to, out as a campaign folder.")
@why_option
@json_option
@common
def amend(
    run: str,
    file: str | None,
    settings: tuple[str, ...],
    unset: tuple[str, ...],
    operators: str | None,
    yes: bool,
    plan: str | None,
    cancel_gone: bool,
    to: int | None,
    checkout: str | None,
    as_json: bool,
) -> int:
    """Show what the campaign folder, as it is now, means for a run; with --yes, or when asked, take it.

    What has not changed is never computed again. FILE is the campaign file, by default the one that the run was made from.
    """
    from matterstack.cli.render import print_json
    from matterstack.orchestration.amend import amend as take
    from matterstack.orchestration.amend import check_out, show_amendment

    if checkout is not None:
        version = check_out(run, Path(checkout), to)
        click.echo(
            f"version {version} of {run} is in {checkout}; {Hint('amend', run)} FILE takes it after a correction"
        )
        return ExitCode.FINE
    if to is not None and (file or settings or unset or operators):
        raise UsageError("--to takes a version as it was: FILE, --set, --unset and --operators do not go with it")
    loaded = _load(run, file, settings, unset, operators, to)
    found = show_amendment(run, loaded, cancel_gone=cancel_gone)
    if not as_json:
        for warning in loaded.warnings:
            echo_remark(str(warning))
        for line in _lines(run, found):
            click.echo(line)
    if found.is_nothing or not (yes or plan or _is_agreed_to(as_json=as_json)):
        if as_json:
            print_json(_to_json(found, taken=False))
        elif not found.is_nothing:
            click.echo(f"nothing was changed; {Hint('amend', run, rest=f'--plan {found.digest}')} takes just this")
        return ExitCode.FINE
    done, alive = take(run, loaded, cancel_gone=cancel_gone, plan=plan or found.digest, is_of_the_run=to is not None)
    if as_json:
        print_json(_to_json(done, taken=True))
        return ExitCode.FINE
    click.echo(f"version {done.version} taken; {Hint('run', run)} or {Hint('step', run)} goes on with it")
    if alive:
        echo_remark(f"warning: {', '.join(sorted(alive)[:5])} could not be ended from here; the next step will retry")
    return ExitCode.FINE


def _is_agreed_to(*, as_json: bool) -> bool:
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm("Take it?")


def _load(
    run: str, file: str | None, settings: Sequence[str], unset: Sequence[str], operators: str | None, to: int | None
) -> LoadedCampaign:
    """Load the campaign as it is to be. Raises CampaignError with all its problems, UsageError."""
    from matterstack.operators.registry import runnable_kinds
    from matterstack.orchestration.amend import recorded
    from matterstack.run_root import layout
    from matterstack.spec.load import load_campaign, operators_differ, parse_overrides

    known = recorded(run, to)
    given = {**known.settings, **parse_overrides(settings)}
    for name in unset:
        if name not in given:
            has = ", ".join(given) or "nothing"
            raise UsageError(f"--unset {name}: --set gave {has}")
        del given[name]
    if to is not None:
        home = Path(run) / layout.version_folder(to)
        path, folder = home / layout.CAMPAIGN, home / layout.SOURCE
        if not path.is_file():
            raise UsageError(
                f"--to {to}: {path} does not exist; restore it from git, or choose another version (versions/)"
            )
    else:
        path, folder = Path(file) if file else known.file, None
        if not path.is_file() and not file:
            raise UsageError(
                f"the campaign file {path} is not there; name it, {Hint('amend', run, rest='FILE')}, or write the run's own out "
                f"with {Hint('amend', run, rest='--checkout DIR')}"
            )
    site = Path(operators) if operators is not None else known.operators
    if site is None and not known.has_versions and operators_differ(Path(run)):
        site = Path(run) / layout.OPERATORS
    return load_campaign(
        path, operators=site, overrides=given, kept=set(known.settings) - set(parse_overrides(settings)),
        installed_kinds=runnable_kinds(), to_run=True, folder=folder,
    )  # fmt: skip


# --- showing --------------------------------------------------------------------------------------------------------


def _lines(run: str, found: Amendment) -> Iterator[str]:
    """Yield the preview: what differs, and what becomes of the instances of each task."""
    from matterstack.core.events import Uncancelled

    if found.is_nothing:
        yield f"nothing differs from version {found.version - 1}"
        return
    yield from _differences(run, found)
    groups = list(dict.fromkeys([*found.loaded.campaign.tasks, *(fate.group for fate in found.fates)]))
    width = max(map(len, groups))
    for group in groups:
        fates = [fate for fate in found.fates if fate.group == group]
        if fates:
            yield f"  {group:<{width}}  {'; '.join([*_of_group(fates), *_stay(found.stay.get(group, {}))])}"
    if not found.fates:
        yield "  no instance is concerned"
    if any(isinstance(event, Uncancelled) for event in found.events):
        yield "  (the run was cancelled: this takes that back)"
    added = {fate.group for fate in found.fates if fate.kind == "new"}
    gone = {fate.group for fate in found.fates if fate.kind == "retired"}
    left = gone - set(found.loaded.campaign.tasks)
    if left and added:
        yield f"  (a task of another name is another task: {', '.join(sorted(left))} gone, its results are not taken over)"
    elif added & gone and not found.stay and all(fate.kind in ("new", "retired") for fate in found.fates):
        yield "  (all instances have other ids; `label:` keeps the ids when axes change)"
    yield f"plan {found.digest}"


def _differences(run: str, found: Amendment) -> Iterator[str]:
    from matterstack.cli.render import harmless, plural

    keys = _keys(found)
    if len(keys) > _MOST_KEYS:
        rest = f"and {plural(len(keys) - _MOST_KEYS, 'other key')}"
        keys = [*keys[:_MOST_KEYS], (keys[_MOST_KEYS - 1][0], rest)]
    for file in dict.fromkeys(file for file, _ in keys):
        yield harmless(f"{file}: {'; '.join(text for its, text in keys if its == file)}")
    before, now = found.settings
    if before != now:
        yield harmless(f"--set: {_value(before)} -> {_value(now)}")
    tables = {
        str(spec.matrix["table"])
        for spec in found.loaded.campaign.tasks.values()
        if spec.matrix and "table" in spec.matrix
    }
    texts = []
    for path, how in found.changed_files.items():
        rows = _rows_that_differ(run, found, path) if path in tables and how == "changed" else ""
        names = " (named by no task: `uses` says whose results it determines)" if path in found.unnamed_files else ""
        texts.append(f"{path}: {rows or how}{names}")
    for text in texts[:_MOST_KEYS]:
        yield harmless(text)
    if len(texts) > _MOST_KEYS:
        yield f"and {plural(len(texts) - _MOST_KEYS, 'other file')}"


def _keys(found: Amendment) -> list[tuple[str, str]]:
    """Return the keys of the campaign that differ, each with its file; what differs alike in several tasks is one entry."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for path, before, now in found.changed_keys:
        root, _, rest = path.partition(".")
        task, _, key = rest.partition(".")
        change = f"{_value(before)} -> {_value(now)}"
        file = found.loaded.origins.get(f"{root}.{task}", found.loaded.file.name)
        if root == "tasks" and key:
            alike.setdefault((file, key, change), []).append(task)
        else:
            alike[file, path, change] = []
    return [
        (file, f"{key} {change}" if not tasks
        else f"tasks.{tasks[0]}.{key} {change}" + (f" (also in {', '.join(tasks[1:])})" if tasks[1:] else ""))
        for (file, key, change), tasks in alike.items()
    ]  # fmt: skip


def _rows_that_differ(run: str, found: Amendment, path: str) -> str:
    """Return how a table differs from that of the version before, by its first column; "" if that cannot be told."""
    from matterstack.cli.render import plural
    from matterstack.run_root import layout
    from matterstack.spec.tables import read_table

    try:
        before, now = (
            {str(next(iter(row.values()), "")): row for row in read_table(place, path)}
            for place in (Path(run) / layout.SOURCE / path, found.loaded.place(path))
        )
    except (CampaignError, OSError):
        return ""
    added, gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
    other = sum(now[name] != before[name] for name in now.keys() & before.keys())
    parts = [(added, "added"), (gone, "removed"), (other, "changed")]
    texts = [f"{plural(count, 'row')} {what}" if i == 0 else f"{count} {what}" for i, (count, what) in enumerate(
        [(count, what) for count, what in parts if count])]  # fmt: skip
    return ", ".join(texts)


def _value(value: Any) -> str:
    from matterstack.core.values import dump_json, resolve_scalar

    if value is None:
        return "(none)"
    plain = isinstance(value, str) and isinstance(resolve_scalar(value), str)
    text = value if plain else dump_json(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _of_group(fates: Sequence[Fate]) -> Iterator[str]:
    """Yield what becomes of the instances of a task, those alike together."""
    from matterstack.orchestration.comparison import FATES

    alike: dict[tuple[str, TaskState, str], list[Fate]] = {}
    for fate in fates:
        state = (
            fate.state
            if fate.kind in ("restarts", "below", "stale", "goes_on", "asked_again", "fresh")
            else TaskState.PENDING
        )
        alike.setdefault((fate.kind, state, fate.detail), []).append(fate)
    for (kind, state, detail), some in alike.items():
        count = len(some)
        what = FATES[kind]
        if count == 1:
            what = {
                "become PENDING": "becomes PENDING",
                "become stale": "becomes stale",
                "come back": "comes back",
            }.get(what, what)
        states = f" {state}" if kind in ("restarts", "below", "stale", "goes_on", "asked_again", "fresh") else ""
        why = f" ({detail})" if detail else ""
        names = (
            f": {_names(some)}"
            if kind in ("new", "retired", "restarts", "stale", "back") and count <= _MOST_NAMES
            else ""
        )
        yield f"{count}{states} {what}{why}{names}"


def _names(fates: Sequence[Fate]) -> str:
    return ", ".join(fate.task_id.removeprefix(f"{fate.group}/") for fate in fates)


def _stay(counts: Mapping[TaskState, int]) -> list[str]:
    return [f"{count} {state} {'stays' if count == 1 else 'stay'}" for state, count in counts.items() if count]


def _to_json(found: Amendment, *, taken: bool) -> dict[str, Any]:
    tasks: dict[str, dict[str, list[dict[str, str]]]] = {}
    for fate in found.fates:
        item = {"task": fate.task_id, "state": str(fate.state), **({"why": fate.detail} if fate.detail else {})}
        tasks.setdefault(fate.group, {}).setdefault(fate.kind, []).append(item)
    return {
        "version": found.version, "taken": taken, "plan": found.digest, "nothing": found.is_nothing,
        "campaign": [{"key": path, "before": before, "now": now} for path, before, now in found.changed_keys],
        "set": {"before": found.settings[0], "now": found.settings[1]}, "files": dict(found.changed_files),
        "named_by_no_task": list(found.unnamed_files), "tasks": tasks,
        "stay": {group: {str(state): count for state, count in counts.items() if count} for group, counts in found.stay.items()},
    }  # fmt: skip
