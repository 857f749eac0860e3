"""One instance of a campaign exactly as its first attempt would run, without a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterstack.core.model import Instance, LoadedCampaign, ResolvedInput
from matterstack.core.selection import WILDCARD, in_short
from matterstack.core.suggestions import did_you_mean
from matterstack.errors import CampaignError, Problem, TemplateError, UsageError
from matterstack.spec.expand import answer_names
from matterstack.template.attempt import (
    FIRST_SOURCE,
    RunFacts,
    early_scope,
    params_for_scripts,
    path_up,
    render_attempt,
    resolve_retries,
)

_UNKNOWN_ID = "00000000"  # stands for the 8 hex digits of a run's id, which `init` draws


def find_instance(loaded: LoadedCampaign, task: str) -> Instance:
    """Return the one instance that an id names. Raises UsageError for none, or for a group of several."""
    by_id = {instance.task_id: instance for instance in (*loaded.instances, *loaded.samples)}
    if task in by_id:
        if by_id[task].plan == "loop":
            raise UsageError(f"'{task}' is a loop; its tasks are {task}/1/TASK")
        if by_id[task].plan:
            raise UsageError(f"the instances of '{task}' are not known before the run")
        return by_id[task]
    members = [instance.task_id for instance in by_id.values() if instance.group == task]
    if len(members) == 1:
        return by_id[members[0]]
    if members:
        more = ", …" if len(members) > 3 else ""
        raise UsageError(f"'{task}' has {len(members)} instances ({', '.join(members[:3])}{more}); name one")
    raise UsageError(f"no task is named '{task}'{did_you_mean(task, by_id)}; there are {in_short(list(by_id))}")


def preview(loaded: LoadedCampaign, instance: Instance) -> dict[str, Any]:
    """Return the first attempt of an instance as JSON values, as `validate --task` and `explain FILE TASK` show it.

    Inputs made by other tasks are shown as of their first attempt; a glob over what a folder will hold stays a glob. Where templates name answers or metrics, which
    only a run has, `command`, `env` and `script` are as written and `unresolved` names those.
    """
    campaign = loaded.campaign
    operator = campaign.operators[instance.operator]
    spec = campaign.tasks[instance.group].for_operator(operator)
    early = early_scope(campaign, instance)
    outputs = {other.task_id: other.outputs for other in (*loaded.instances, *loaded.samples)}
    inputs = {name: _paths(item, instance, outputs) for name, item in instance.inputs.items()}
    named = answer_names(spec)
    out: dict[str, Any] = {
        "task": instance.task_id, "attempt": 1, "operator": instance.operator, "kind": operator.kind,
        "matrix": instance.matrix, "priority": instance.priority,
        "needs": list(dict.fromkeys(edge.upstream for edge in instance.edges)),
        "inputs": inputs,
        "outputs": {name: {"file": item.file, "path": item.path, "optional": item.optional}
                    for name, item in instance.outputs.items()},
    }  # fmt: skip
    if spec.when is not None:
        out["when"] = spec.when
    if any(keys != ["when"] for keys in named.values()):
        out |= {"unresolved": [f"{root}.{task}" for root, task in named], "command": spec.command, "script": None}
        out |= {"env": dict(spec.env), "resources": dict(spec.resources), "instructions": None}
        return out
    unknown = [f"inputs.{name}" for name, item in instance.inputs.items() if _is_open(item)]
    run = RunFacts(f"{campaign.name}-{_UNKNOWN_ID}", campaign.name, FIRST_SOURCE)
    try:
        rendered = render_attempt(campaign, instance, 1, run, inputs, [])
        retries = resolve_retries(spec, early)
    except (TemplateError, ValueError) as error:
        problem = Problem(str(loaded.file), 0, 0, f"tasks.{instance.group}", f"{instance.task_id}: {error}")
        raise CampaignError([problem]) from None
    root = (Path("runs") / campaign.name).resolve()
    env: dict[str, Any] = {**rendered.env, **{name: {"from_env": origin} for name, origin in rendered.env_from.items()}}
    env |= {"MATTERSTACK_RUN": str(root), "MATTERSTACK_SOURCE": str(root / FIRST_SOURCE)}
    env |= {"MATTERSTACK_TASK": instance.task_id, "MATTERSTACK_ATTEMPT": "1"}
    out |= {"command": rendered.command, "script": rendered.script, "shell": list(rendered.argv[:-1])}
    out |= {"env": env, "resources": dict(rendered.resources.as_written)}
    out |= {"params": params_for_scripts(campaign, rendered.params)}
    out |= {"retries": {"max": retries.max, "delay_s": retries.delay_s, **retries.rules}}
    out |= {"instructions": rendered.asked.get("instructions") or None, "unresolved": unknown}
    return out


def _is_open(item: ResolvedInput) -> bool:
    """Return whether a list takes what a folder output will hold: then its files are not known before."""
    return item.is_list and any(source.task is not None and WILDCARD.search(source.path) for source in item.sources)


def _paths(item: ResolvedInput, instance: Instance, outputs: Mapping[str, Mapping[str, Any]]) -> str | list[str]:
    up = path_up(instance.task_id)
    if any(source.is_table for source in item.sources):
        return str(item.as_name)
    paths = []
    for source in item.sources:
        if source.task is None:
            paths.append(source.path if source.is_external else f"{up}{FIRST_SOURCE}/{source.path}")
            continue
        inside = f"/{source.path}" if source.path else ""
        tasks = [name for name in outputs if name.startswith(f"{source.task}/")] if source.whole else [source.task]
        for name in tasks:
            file = outputs[name][str(source.output)].file.rstrip("/")
            paths.append(f"{up}tasks/{name}/attempt-1/{file}{inside}")
    if item.is_list:
        return paths
    return item.as_name or paths[0]
