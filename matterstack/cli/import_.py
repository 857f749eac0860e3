"""import."""

from __future__ import annotations

from pathlib import Path

import click

from matterstack.cli import completing
from matterstack.cli.options import common, echo_remark
from matterstack.errors import ExitCode, UsageError


@click.group("import")
def import_() -> None:
    """Import a campaign from another format."""


@import_.command()
@click.argument("file", shell_complete=completing.files)
@click.option("-o", "--output", metavar="FILE", help="The campaign file to write (.yaml or .json; default: stdout).")
@common
def wfformat(file: str, output: str | None) -> int:
    """Make a campaign of a WfFormat file (WfCommons, versions 1.3 to 1.5; also .xz and .gz)."""
    from matterstack.cli.render import plural
    from matterstack.spec.importers.wfformat import read_wfformat
    from matterstack.spec.loader import dump_document

    target = Path(output) if output is not None else None
    if target is not None and target.exists():
        raise UsageError(f"{target} exists; -o needs a new file")
    imported = read_wfformat(Path(file), target.parent if target is not None else Path())
    text = dump_document(imported.document, as_json=target is not None and target.suffix == ".json")
    if target is None:
        click.echo(text, nl=False)
    else:
        data = text.encode()
        with open(target, "xb") as opened:
            opened.write(data)
    echo_remark(f"{plural(len(imported.document['tasks']), 'task')}; {plural(imported.edges, 'edge')}")
    for remark in imported.remarks:
        echo_remark(remark)
    return ExitCode.FINE
