"""respond."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from matterstack.cli import completing
from matterstack.cli.options import common, echo_remark, run_argument
from matterstack.core.selection import WILDCARD
from matterstack.deferred import dataclass
from matterstack.errors import ExitCode, UsageError
from matterstack.hints import Hint

if TYPE_CHECKING:
    from matterstack.people.answer import Question
    from matterstack.people.form import Field


_MOST_SHOWN = 20  # questions that are listed before they are answered together


@click.command()
@run_argument
@click.argument("task", required=False, metavar="[TASK]", shell_complete=completing.waiting)
@click.option("--approve", is_flag=True, help="Answer COMPLETED with --data and the defaults of the schema.")
@click.option("--reject", is_flag=True, help="Answer FAILED: the task fails, what depends on it is BLOCKED.")
@click.option("--data", "fields", multiple=True, metavar="NAME=VALUE", help="A field of the answer; VALUE is YAML.")
@click.option("--json", "file", metavar="FILE", help="The answer as a JSON object, - for stdin.")
@click.option("--comment", "--why", "comment", metavar="TEXT", help="Why; kept with the answer.")
@click.option("--by", metavar="NAME", help="Who answers (default: the user).")
@click.option("--yes", is_flag=True, help="Answer several tasks without asking.")
@common
def respond(
    run: str, task: str | None, approve: bool, reject: bool, fields: tuple[str, ...], file: str | None,
    comment: str | None, by: str | None, yes: bool,
) -> int:  # fmt: skip
    """Answer what a task asks a person. Without options, ask for each field as the schema says.

    Without TASK, go through all that waits for a person; a glob answers all that it names alike, after showing them.
    """
    from matterstack.people.answer import find_question, find_questions, user

    if approve and reject:
        raise UsageError("--approve and --reject exclude each other")
    if reject and (fields or file):
        raise UsageError("--reject allows no data; a rejection that branches is an answer with a field for it")
    if fields and file:
        raise UsageError("--data and --json exclude each other")
    who, given = by or user(), bool(approve or reject or fields or file)
    answer = _Given(approve, reject, fields, file, comment)
    if task is None or WILDCARD.search(task):
        questions = find_questions(run, task)
        if given and not _agreed(questions, who, reject, yes):
            return ExitCode.MISTAKE
        for number, question in enumerate(questions, start=1):
            if not given:
                click.echo(
                    f"\n{question.task_id} ({number} of {len(questions)})" if len(questions) > 1 else "", err=True
                )
            _send(question, answer if given else _Given(comment=comment), who)
    else:
        _send(find_question(run, task), answer, who)
    echo_remark(f"continue with {Hint('step', run)} (or `run`)")
    return ExitCode.FINE


@dataclass(frozen=True)
class _Given:
    """What the command line says of the answer; nothing: it is asked for."""

    approve: bool = False
    reject: bool = False
    fields: tuple[str, ...] = ()
    file: str | None = None
    comment: str | None = None


def _send(question: Question, given: _Given, who: str) -> None:
    from matterstack.cli.render import harmless
    from matterstack.operators.answers import with_defaults
    from matterstack.people.answer import respond as write_answer
    from matterstack.people.form import read_fields

    if question.stale:
        echo_remark(
            f"warning: {question.task_id} {question.stale}; {Hint('rerun', question.root, question.task_id)} asks again "
            "with the newest"
        )
    data: Any = {}
    comment = given.comment
    if given.file is not None:
        data = with_defaults(question.schema, _read_json(given.file))
    elif given.approve or given.fields:
        data = with_defaults(question.schema, read_fields(given.fields, question.schema))
    elif not given.reject:
        data, comment = _ask(question, comment, who)
    path = write_answer(question, data=data, by=who, comment=comment, reject=given.reject)
    click.echo(f"{question.task_id}: {'rejected' if given.reject else 'answered'} by {harmless(who)}: {path}")
    if question.attempt > 1 and question.answered_before and not given.reject:
        echo_remark(
            "what used the earlier answer becomes stale with the next step: "
            f"{Hint('rerun', question.root, rest='--stale --downstream')} runs it again with this one"
        )


def _agreed(questions: Sequence[Question], who: str, reject: bool, yes: bool) -> bool:
    """Show the questions that get the same answer, and ask. Raises UsageError where nobody can be asked."""
    from matterstack.cli.render import harmless

    if yes or len(questions) == 1:
        return True
    for question in questions[:_MOST_SHOWN]:
        first = str(question.asked.get("instructions") or "").strip().partition("\n")[0]
        click.echo(harmless(f"{question.task_id}: {first}"[:160]), err=True)
    if len(questions) > _MOST_SHOWN:
        click.echo(f"… and {len(questions) - _MOST_SHOWN} more", err=True)
    if not sys.stdin.isatty():
        raise UsageError(f"{len(questions)} tasks would be answered alike; --yes does so without asking")
    what = "reject" if reject else "answer"
    return click.confirm(f"{what} these {len(questions)} alike, by {harmless(who)}?", err=True)


def _read_json(file: str) -> Any:
    from matterstack.operators.answers import parse_json

    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        return parse_json("stdin" if file == "-" else file, raw)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _ask(question: Question, comment: str | None, who: str) -> tuple[Any, str | None]:
    """Ask for an answer field by field; return (data, comment). Raises UsageError where nobody is there to answer."""
    from matterstack.cli.render import harmless
    from matterstack.people.form import Field, fields_of

    shown = (question.folder / "instructions.md").relative_to(question.root)
    click.echo(harmless(question.instructions).rstrip(), err=True)
    click.echo(f"(inputs and more: {question.root / shown})\n", err=True)
    data: Any = {}
    try:
        if fields := fields_of(question.schema):
            answers = {field.name: _ask_field(field) for field in fields}
            data = {name: value for name, value in answers.items() if value is not _NOTHING}
        elif question.schema:
            data = _ask_field(Field("answer", question.schema, required=True))
        else:
            click.echo("There is nothing to fill in; sending it approves, --reject rejects.", err=True)
        if not sys.stdin.isatty():
            return data, comment
        said = click.prompt("comment [may be left empty]", default=comment or "", show_default=False, err=True)
        comment = said or None
        click.echo(f"\n{harmless(json.dumps(data, ensure_ascii=False, indent=2))}", err=True)
        click.echo(f"comment: {harmless(comment)}" if comment else "no comment", err=True)
        if not click.confirm(f"send this answer of {question.task_id}, by {harmless(who)}?", default=True, err=True):
            raise UsageError("not sent")
    except (click.Abort, EOFError):
        click.echo("", err=True)
        if sys.stdin.isatty():
            click.echo(f"{question.task_id}: not answered", err=True)
            raise KeyboardInterrupt from None
        raise UsageError(
            f"{question.task_id}: not answered; on a terminal each field is asked for, otherwise give "
            "--approve, --reject, --data NAME=VALUE or --json FILE"
        ) from None
    return data, comment


_NOTHING = object()


def _ask_field(field: Field) -> Any:
    """Ask until the value is one by the field's schema; an empty line takes the default, or leaves the field out."""
    from matterstack.cli.render import harmless

    if field.is_fixed:
        return field.schema["const"]
    hint = field.hint()
    label = field.name + (f" ({field.about})" if field.about else "") + (f" [{hint}]" if hint else "")
    default = field.default
    for number, name in enumerate(field.numbered, start=1):
        click.echo(harmless(f"  {number}  {name}"), err=True)
    while True:
        text = click.prompt(harmless(label), default=default or "", show_default=default is not None, err=True)
        if text == "" and default is None:
            if not field.required:
                return _NOTHING
            if not field.takes_empty_text:
                click.echo(f"  {field.name} is needed", err=True)
                continue
        try:
            return field.read(text)
        except UsageError as error:
            click.echo(f"  {harmless(str(error))}", err=True)
