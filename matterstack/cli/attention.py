"""What a quiet command says all the same: that something has failed, that a result is stale, that a person must decide."""

from __future__ import annotations

from pathlib import Path

from matterstack.cli.options import echo_remark, tell
from matterstack.cli.render import failure_lines, harmless, plural
from matterstack.core.states import AttemptState, RunState, TaskState
from matterstack.errors import MatterStackError
from matterstack.hints import Hint
from matterstack.orchestration.report import StepReport

_MOST_TOLD = 10


def tell_attention(run: str | Path, report: StepReport) -> None:
    """Print on stderr what of a step needs somebody's attention, nothing if nothing does."""
    failed = any(item.task_state is TaskState.FAILED and not item.soft for item in report.ended)
    lines: list[str] = []
    if failed or report.state in (RunState.FAILED, RunState.CANCELLED):
        lines += _failures(Path(run), report)
    lines += _decisions(run, report)
    if any(item.state is AttemptState.COMPLETED for item in report.ended):
        lines += _stale(run)
    for line in lines:
        tell(line, "warning")


def tell_stale(run: str | Path) -> None:
    """Print on stderr that results are stale, nothing if none is."""
    for line in _stale(run):
        tell(line, "warning")


def tell_sources(run: str | Path) -> None:
    """Say that files of the campaign folder are no longer those of the run."""
    from matterstack.orchestration.amend import differing_files
    from matterstack.spec.files import glob_files, place_of

    try:
        version, changed = differing_files(run, glob_files, place_of)
    except (MatterStackError, OSError):  # the folder is not here
        return
    if changed:
        names = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        differ = "differs" if len(changed) == 1 else "differ"
        echo_remark(
            f"warning: {plural(len(changed), 'file')} of the campaign folder {differ} from version {version} ({names}), which the "
            f"run goes on with; {Hint('amend', run)} shows what they mean"
        )


def tell_edited(run: str | Path) -> None:
    """Say that files were edited within the run, where nothing reads them."""
    from matterstack.orchestration.edited import in_words
    from matterstack.views.reading import reading

    try:
        with reading(run) as (path, store):
            told = in_words(path, store)
    except MatterStackError:  # told by the command itself
        return
    if told:
        tell(told, "warning")


def _failures(root: Path, report: StepReport) -> list[str]:
    from matterstack.views.failures import failure_groups

    groups = [group for group in failure_groups(root) if not group.soft]
    lines = [f"{root} is {report.state}"] if report.state.is_over else []
    for group in groups[:_MOST_TOLD]:
        lines += failure_lines(root, group)
    if len(groups) > _MOST_TOLD:
        lines.append(f"… and {plural(len(groups) - _MOST_TOLD, 'other cause')}")
    return [*lines, Hint("explain", root).command]


def _decisions(run: str | Path, report: StepReport) -> list[str]:
    """Return what people were asked in this step."""
    asked = {row.key: row for row in report.live if row.state is AttemptState.WAITING}
    new = [key for key in report.submitted if key in asked]
    if not new:
        return []
    names = ", ".join(task_id for task_id, _ in new[:_MOST_TOLD]) + (", …" if len(new) > _MOST_TOLD else "")
    return [
        harmless(f"{names} {'waits' if len(new) == 1 else 'wait'} for a person or a lab"),
        Hint("inbox", run).command,
    ]


def _stale(run: str | Path) -> list[str]:
    from matterstack.views.status import summarise

    count = summarise(run, 0).stale
    if not count:
        return []
    verb = "is" if count == 1 else "are"
    return [f"{plural(count, 'result')} {verb} stale; nothing is rerun automatically", Hint("status", run).command]
