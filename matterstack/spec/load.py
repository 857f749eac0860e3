"""`load_campaign`: a campaign file, checked and expanded, or all of its problems."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from matterstack.core.graph import shape
from matterstack.core.kinds import RUNNABLE
from matterstack.core.model import Campaign, Instance, LoadedCampaign
from matterstack.core.values import dump_json, load_json, resolve_scalar
from matterstack.errors import CampaignError, Problem, UsageError
from matterstack.spec.campaign import Builder
from matterstack.spec.checks import (
    check_chosen_kinds,
    check_gpus,
    check_instances,
    check_kinds,
    check_licences,
    cpu_hours,
    expected_instances,
    warn_of_typos,
)
from matterstack.spec.expand import Expander, Expansion, answer_names
from matterstack.spec.files import place_of
from matterstack.spec.frames import Grown
from matterstack.spec.habits import warn_of_habits
from matterstack.spec.include import with_includes
from matterstack.spec.loader import Document, load_document, parse_document, plain
from matterstack.spec.loops import with_loops
from matterstack.spec.mend import mend, unparsable
from matterstack.spec.schema import check_campaign, check_operators


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` settings, VALUE as YAML. Raises UsageError."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting}: expected NAME=VALUE")
        if any("\ud800" <= char <= "\udfff" for char in setting):
            raise UsageError(f"--set {setting!r}: the value is not UTF-8 text")
        overrides[name] = parse_value(f"--set {name}", text)
    return overrides


def parse_value(name: str, text: str) -> Any:
    """Read a value that somebody typed, as YAML; ``name`` says of what. Raises UsageError."""
    try:
        return plain(parse_document(text, name).root) if text.strip() else resolve_scalar(text)
    except CampaignError as error:
        raise UsageError(str(error)) from None


def load_campaign(
    file: str | Path,
    *,
    operators: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    kept: Collection[str] = (),
    installed_kinds: Iterable[str] = RUNNABLE,
    to_run: bool = False,
    folder: Path | None = None,
    only_files: frozenset[str] | None = None,
    gpus_here: int | None = None,
    grown: Grown | None = None,
) -> LoadedCampaign:
    """Read, check and expand a campaign file (YAML or JSON).

    ``operators`` is an operators.yaml that replaces operators by name; ``overrides`` replace params,
    those of ``kept`` since they were set before.
    ``installed_kinds`` are the kinds of operators that can run here; with ``to_run`` a key or kind that can only be
    checked is a problem. ``folder`` is the campaign folder, by default the file's; ``only_files`` are the files of it
    that count, by default all. ``grown`` is what results of a run have made. ``gpus_here`` is how many GPUs this machine has, where that is to be compared. Raises
    CampaignError with all problems, sorted by position.
    """
    path = Path(file)
    document = load_document(path, with_problems=True)
    site = load_document(Path(operators), with_problems=True) if operators is not None else None
    home = folder if folder is not None else path.parent
    document = with_loops(with_includes(document, home, site))
    problems = check_campaign(document) + unparsable(document)
    if document.in_part:  # what a file that cannot be included would have given is not missing
        problems = [problem for problem in problems if problem.path != ()]
    doubts = mend(document.plain, problems)
    if doubts is None:
        raise CampaignError(_sorted(problems))
    if document.in_part:  # what a file that cannot be included would give is not known
        doubts.params = doubts.outputs = doubts.files = True
        doubts.operators.add("*")
        doubts.tasks.add("*")
    of_site = check_operators(site) if site is not None else []
    if of_site:  # then all that its operators decide is open
        site, doubts.operators = None, doubts.operators | {"*"}
    overrides = dict(overrides or {})
    builder = Builder(document, site, overrides, doubts, kept)
    for source in (document, site):
        told = {(problem.line, problem.column) for problem in source.problems} if source is not None else set()
        problems = [problem for problem in problems if (problem.line, problem.column) not in told]
        builder.problems += source.problems if source is not None else []
    builder.problems += problems + of_site
    campaign = builder.build()
    if gpus_here is not None:
        check_gpus(campaign, builder, gpus_here)
    named = {spec.name: answer_names(spec) for spec in campaign.tasks.values()}
    check_licences(campaign, builder)
    check_kinds(campaign, builder, installed_kinds, to_run=to_run)
    expansion = Expander(
        campaign, named, home, builder, only_files, grown.known if grown else None, grown.rounds if grown else None
    ).expand()
    known_now = [item for item in (*expansion.instances, *expansion.samples) if not item.plan]
    to_check = replace(expansion, instances=known_now)
    if to_run:
        check_chosen_kinds(campaign, to_check, builder, installed_kinds)
    check_instances(campaign, to_check, builder)
    if not _errors(builder.problems):
        warn_of_typos(campaign, to_check, builder)
        warn_of_habits(campaign, to_check, home, builder)
    if _errors(builder.problems):
        raise CampaignError(_sorted([*builder.problems, *document.warnings]))
    return LoadedCampaign(
        campaign=campaign,
        instances=tuple(expansion.instances),
        folder=home,
        file=path,
        text=document.text,
        files=tuple(sorted({*expansion.files, *document.included})),
        origins=document.origins,
        read=frozenset({*document.included, *_tables(campaign)}),
        operators_file=Path(operators) if operators is not None else None,
        overrides=overrides,
        digest=_digest(document, site, overrides),
        site_text=site.text if site is not None else None,
        operators_json={**_operators_json(document), **(_operators_json(site) if site is not None else {})},
        warnings=tuple(_sorted([*builder.problems, *document.warnings])),
        externals=expansion.externals,
        summary=_summary(campaign, expansion),
        samples=tuple(expansion.samples),
        regrown=partial(
            load_campaign,
            file,
            operators=operators,
            overrides=overrides,
            kept=kept,
            installed_kinds=tuple(installed_kinds),
            to_run=to_run,
            folder=folder,
            only_files=only_files,
            gpus_here=gpus_here,
        ),
        outside={name: place_of(home, document.outside, name) for name in document.outside},
    )


def _tables(campaign: Campaign) -> set[str]:
    return {str(spec.matrix["table"]) for spec in campaign.tasks.values() if spec.matrix and "table" in spec.matrix}


def differences(loaded: LoadedCampaign, root: Path, digest: str, sources: Mapping[str, str]) -> str:
    """Return what of a campaign differs from the newest version of the run in ``root``, "" if it is the same one.

    ``digest`` and ``sources`` are that version's. Files other than tables and included ones do not count. Raises UsageError if ``root`` cannot
    be read as a run root.
    """
    other = sorted(path for path in loaded.read if sha256_of_file(loaded.place(path)) != sources.get(path))
    if digest == loaded.digest:
        return f"{other[0]} differs from that of the run" if other else ""
    try:
        old = plain(load_document(root / "campaign.yaml").root)
        before = load_json(_settings_of(root).read_text(encoding="utf-8"))
        before = before.get("set") or {} if "set" in before and "id" in before else before
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UsageError(f"{root} cannot be read as a run root: {error}") from None
    if plain(load_document(loaded.file).root) != old:
        return f"{loaded.file} differs from {root / 'campaign.yaml'}"
    was, now = dump_json(before), dump_json(loaded.overrides)
    if was != now:
        return f"--set was {was} and is {now}"
    if other:
        return f"{other[0]} differs from that of the run"
    return f"the operators differ from {root / 'operators.yaml'}"


def _settings_of(root: Path) -> Path:
    """Return the file that says what --set gave; in a run of before versions that is run.json."""
    link = root / "campaign.yaml"
    return link.resolve().parent / "set.json" if link.is_symlink() else root / "run.json"


def sha256_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def operators_differ(root: Path) -> bool:
    """Return whether the operators of a run, of before versions, are not those that its campaign file has."""
    try:
        own = _operators_json(load_document(root / "campaign.yaml"))
        return own != _operators_json(load_document(root / "operators.yaml"))
    except CampaignError:
        return True


def _errors(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity == "error"]


def _sorted(problems: list[Problem]) -> list[Problem]:
    unique = list(dict.fromkeys(problems))
    return sorted(unique, key=lambda problem: (problem.file, problem.line, problem.column))


def _digest(document: Document, site: Document | None, overrides: Mapping[str, Any]) -> str:
    """Return the sha256 of what defines a run; comments and layout of the files do not count."""
    content = [document.plain, site.plain if site is not None else None, dict(overrides)]
    return hashlib.sha256(dump_json(content, exact=True).encode()).hexdigest()


def _operators_json(document: Document) -> dict[str, str]:
    """Return the operators of a campaign or an operators.yaml, each as JSON text in which numbers keep their text."""
    root = document.plain
    found = root.get("operators", {}) if "matterstack" in root else root
    return {"local": '{"kind": "local"}', **{name: dump_json(value) for name, value in found.items()}}


def _edges_into(instance: Instance, members: Mapping[str, int]) -> int:
    """Return how many tasks an instance waits for; a group whose instances it needs but does not read counts as one."""
    upstreams = {edge.upstream: edge.entry.startswith("inputs.") for edge in instance.edges}
    return sum(members[name] if reads and name in members else 1 for name, reads in upstreams.items())


def _summary(campaign: Campaign, expansion: Expansion) -> dict[str, Any]:
    form = shape(expansion.graph, expansion.group_nodes)
    patterns = {
        f"{task_id}.{name}": ", ".join(
            [f"{count} of {group}" for group, count in match.by_task.items()]
            + [f"those of {name} that match" for name in match.unknown]
            + ([f"{match.files} file{'s' if match.files > 1 else ''}"] if match.files else [])
        )
        for (task_id, name), match in expansion.matches.items()
    }
    counts: dict[str, int] = {}
    ordinary = [instance for instance in expansion.instances if not instance.plan]
    for instance in ordinary:
        counts[instance.group] = counts.get(instance.group, 0) + 1
    hours, unlimited = cpu_hours(campaign, expansion)
    return {
        "name": campaign.name,
        "tasks": sum(not spec.loop for spec in campaign.tasks.values()),
        "instances": len(ordinary),
        "depth": form.depth,
        "width": form.width,
        "edges": sum(_edges_into(instance, counts) for instance in expansion.instances),
        "files": len(expansion.files),
        "expected": expected_instances(campaign, expansion),
        "limits": dict(campaign.limits),
        "cpu_hours": round(hours, 6) if not unlimited else None,
        "without_time_limit": unlimited,
        "instances_of": counts,
        "patterns": patterns,
        "labels": expansion.labels,
        "unknown": _unknown(campaign, expansion),
    }


def _unknown(campaign: Campaign, expansion: Expansion) -> dict[str, Any]:
    """Return what is not known before the run: of groups what they wait for, of loops how many rounds there may be."""
    out: dict[str, Any] = {}
    for item in (*expansion.instances, *expansion.samples):
        spec = campaign.tasks[item.group]
        if item.plan and spec.name not in out:
            waits = list(dict.fromkeys(edge.upstream for edge in item.edges))
            out[spec.name] = {"waits_for": waits}
            if spec.expect is not None:
                out[spec.name]["expect"] = spec.expect
            if spec.repeat is not None:
                body = [name for name, other in campaign.tasks.items() if other.loop == spec.name]
                out[spec.name] |= {"rounds": spec.repeat.max, "tasks": [name.rpartition("/")[2] for name in body]}
    return out
