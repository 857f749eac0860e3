"""graph."""

from __future__ import annotations

from pathlib import Path

import click

from matterstack.cli import completing
from matterstack.cli.options import campaign_options, common, default_run, json_option
from matterstack.errors import ExitCode


@click.command()
@click.argument("path", required=False, metavar="RUN|FILE", shell_complete=completing.files)
@campaign_options
@json_option
@common
def graph(path: str | None, settings: tuple[str, ...], operators: str | None, as_json: bool) -> int:
    """Print the graph of instances of a run or a campaign file, as DOT or JSON."""
    from matterstack.cli.render import dot, stream_graph
    from matterstack.core.graph import instance_edges
    from matterstack.views.plans import not_known

    where = path or default_run()
    if Path(where).is_file():
        from matterstack.cli.campaign_file import load_and_warn

        loaded = load_and_warn(where, settings, operators)
        name = loaded.campaign.name
        nodes = {item.task_id: (item.group, "") for item in loaded.instances}
        entries = {item.task_id: [edge.upstream for edge in item.edges] for item in loaded.instances}
        notes = {
            item.task_id: not_known(dict.fromkeys(entries[item.task_id]), loaded.campaign.tasks[item.group].expect)
            for item in loaded.instances
            if item.plan == "group"
        }
    else:
        from matterstack.views.graph import graph_of_run

        view, entries, notes = graph_of_run(where)
        name = view.name
        nodes = {task.task_id: (task.group, str(task.state)) for task in view.tasks}
    members: dict[str, list[str]] = {}
    for task_id, (group, _) in nodes.items():
        members.setdefault(group, []).append(task_id)
    edges = instance_edges(entries, members)
    if as_json:
        stream_graph(nodes, edges)
    else:
        dot(name, nodes, members, edges, notes)
    return ExitCode.FINE
