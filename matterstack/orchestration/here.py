"""What a campaign requests that this machine does not have. That is not an error: the run may be stepped elsewhere."""

from __future__ import annotations

from matterstack.core.model import Instance, LoadedCampaign, Resources
from matterstack.core.resources import parse_resources
from matterstack.core.values import format_memory
from matterstack.errors import TemplateError
from matterstack.operators import processes
from matterstack.template.attempt import asked_resources, early_scope
from matterstack.template.language import is_template

_LIMITED = ("gpus", "cpus", "tasks", "memory")


def remarks_on_machine(loaded: LoadedCampaign) -> list[str]:
    """Return a sentence for each task of the file that asks for more than there is here: it stays READY, or runs alone."""
    most: dict[str, dict[str, int]] = {}
    known: dict[tuple[str, str], Resources | None] = {}  # of tasks whose instances all ask for the same
    for instance in loaded.instances:
        if instance.plan:
            continue
        operator = loaded.campaign.operators[instance.operator]
        asked = _asked(loaded, instance, known) if operator.row.on_this_machine else None
        if asked is None:
            continue
        found = most.setdefault(instance.group, {})
        # What is given under `slots` replaces the machine's: more than that is an error of the file.
        for name, amount, given in (
            ("gpus", asked.gpus, operator.slot_gpus),
            ("cpus", asked.cores, operator.slot_cpus),
            ("memory", asked.memory or 0, operator.slot_memory),
        ):
            found[name] = max(found.get(name, 0), amount if given is None else 0)
    cpus, memory = processes.machine_slots()
    gpus = len(processes.machine_gpus())
    out = []
    for group, found in most.items():
        if found["gpus"] > gpus:
            asked_gpus = f"{found['gpus']} GPU{'s' if found['gpus'] > 1 else ''}"
            out.append(
                f"{group} asks for {asked_gpus}, this machine has {gpus}: it stays READY here "
                "(`slots: {gpus: N}` of its operator says otherwise)"
            )
        if cpus is not None and found["cpus"] > cpus:
            out.append(f"{group} asks for {found['cpus']} cpus, this machine has {cpus}: it runs alone here")
        if memory is not None and found["memory"] > memory:
            wanted, there = format_memory(found["memory"]), format_memory(memory)
            out.append(f"{group} asks for {wanted} of memory, this machine has {there}: it runs alone here")
    return out


def _asked(
    loaded: LoadedCampaign, instance: Instance, known: dict[tuple[str, str], Resources | None]
) -> Resources | None:
    """Return what an instance asks for, None if that is nothing limited, or known only when it runs."""
    key = (instance.group, instance.operator)
    if key in known:
        return known[key]
    operator = loaded.campaign.operators[instance.operator]
    spec = loaded.campaign.tasks[instance.group].for_operator(operator)
    written = {name: value for name, value in {**operator.resources, **spec.resources}.items() if name in _LIMITED}
    try:
        found = (
            parse_resources(asked_resources(spec, operator, early_scope(loaded.campaign, instance)))
            if written
            else None
        )
    except (TemplateError, ValueError):
        found = None
    if not any(is_template(value) for value in written.values()):
        known[key] = found
    return found
