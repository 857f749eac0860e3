"""What a campaign requests that this machine does not have. That is not an error: the run may be stepped elsewhere."""

from __future__ import annotations

from matterstack.core.model import LoadedCampaign
from matterstack.core.resources import parse_resources
from matterstack.errors import TemplateError
from matterstack.operators import processes
from matterstack.template.attempt import asked_resources, early_scope


def remarks_on_machine(loaded: LoadedCampaign) -> list[str]:
    """Return one sentence for each task of the file that would stay READY here."""
    most: dict[str, int] = {}
    campaign = loaded.campaign
    for instance in loaded.instances:
        operator = campaign.operators[instance.operator]
        spec = campaign.tasks[instance.group].for_operator(operator)
        written = {**operator.resources, **spec.resources}
        if "gpus" not in written or not operator.row.on_this_machine or operator.slot_gpus is not None:
            continue
        try:
            gpus = parse_resources(asked_resources(spec, operator, early_scope(campaign, instance))).gpus
        except (TemplateError, ValueError):  # it is known only when it runs
            continue
        most[instance.group] = max(gpus, most.get(instance.group, 0))
    there = len(processes.machine_gpus())
    return [
        f"{name} asks for {gpus} GPU{'s' if gpus > 1 else ''}, this machine has {there}: it stays READY here "
        "(`slots: {gpus: N}` of its operator says otherwise)"
        for name, gpus in most.items()
        if gpus > there
    ]
