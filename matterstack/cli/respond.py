"""respond."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from matterstack.cli.options import common, echo_remark, run_argument, task_argument
from matterstack.errors import ExitCode, UsageError
from matterstack.people.answer import Question


@click.command()
@run_argument
@task_argument
@click.option("--approve", is_flag=True, help="Answer COMPLETED with --data and the defaults of the schema.")
@click.option("--reject", is_flag=True, help="Answer FAILED: the task fails, what stands below it is BLOCKED.")
@click.option("--data", "fields", multiple=True, metavar="NAME=VALUE", help="A field of the answer; VALUE is YAML.")
@click.option("--json", "file", metavar="FILE", help="The answer as a JSON object, - for stdin.")
@click.option("--comment", metavar="TEXT", help="Why; kept with the answer.")
@click.option("--by", metavar="NAME", help="Who answers (default: the user).")
@common
def respond(
    run: str, task: str, approve: bool, reject: bool, fields: tuple[str, ...], file: str | None, comment: str | None,
    by: str | None,
) -> int:  # fmt: skip
    """Answer what a task asks a person. Without options, ask for each field as the schema says."""
    from matterstack.operators.answers import with_defaults
    from matterstack.people.answer import find_question, user
    from matterstack.people.answer import respond as write_answer

    if approve and reject:
        raise UsageError("--approve and --reject exclude each other")
    if reject and (fields or file):
        raise UsageError("--reject takes no data; a rejection that branches is an answer with a field for it")
    if fields and file:
        raise UsageError("--data and --json exclude each other")
    question = find_question(run, task)
    who = by or user()
    data: Any = {}
    if file is not None:
        data = with_defaults(question.schema, _read_json(file))
    elif approve or fields:
        data = with_defaults(question.schema, _fields(fields, question.schema))
    elif not reject:
        data, comment = _ask(question, comment)
    path = write_answer(question, data=data, by=who, comment=comment, reject=reject)
    from matterstack.cli.render import harmless

    click.echo(f"{question.task_id}: {'rejected' if reject else 'answered'} by {harmless(who)}: {path}")
    echo_remark(f"`matterstack step {shlex.quote(run)}` (or `run`) goes on with it")
    return ExitCode.FINE


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


def _fields(words: Iterable[str], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Read NAME=VALUE; a field that the schema has as a text stays one."""
    from matterstack.core.suggestions import did_you_mean

    out: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--data {word}: expected NAME=VALUE")
        if name in out:
            raise UsageError(f"--data {name} is given twice")
        fields = (schema or {}).get("properties")
        if isinstance(fields, Mapping) and name not in fields and (near := did_you_mean(name, fields)):
            raise UsageError(f"--data {name}: there is no such field{near}; there are {', '.join(map(str, fields))}")
        out[name] = _value(name, text, _field(schema, name))
    return out


def _field(schema: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    properties = (schema or {}).get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _value(name: str, text: str, field: Mapping[str, Any]) -> Any:
    """Give the value of a field that somebody typed. Raises UsageError."""
    from matterstack.spec.load import parse_value

    kind = field.get("type")
    if kind == "string":
        return text
    choices = field.get("enum")
    if isinstance(choices, list) and text in choices:
        return text
    if kind == "array" and not text.lstrip().startswith("["):
        inner = field.get("items")
        items = [item.strip() for item in text.split(",")] if text.strip() else []
        return [_value(name, item, inner if isinstance(inner, Mapping) else {}) for item in items]
    return parse_value(f"--data {name}", text)


def _ask(question: Question, comment: str | None) -> tuple[Any, str | None]:
    """Ask for an answer field by field; give (data, comment). Raises UsageError where nobody is there to answer."""
    from matterstack.cli.render import harmless

    shown = (question.folder / "instructions.md").relative_to(question.root)
    click.echo(harmless(str(question.asked.get("instructions") or "")).rstrip(), err=True)
    click.echo(f"(inputs and more: {question.root / shown})\n", err=True)
    schema: Any = question.schema if question.schema is not None else {}
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    data: Any = {}
    try:
        if isinstance(properties, Mapping) and properties:
            required = schema.get("required", [])
            for name, field in properties.items():
                value = _ask_field(name, field if isinstance(field, Mapping) else {}, required=name in required)
                if value is not _NOTHING:
                    data[name] = value
        elif question.schema is not None and question.schema != {}:
            data = _ask_field("answer", schema, required=True)
        else:
            click.echo("There is nothing to fill in; sending it approves, --reject rejects.", err=True)
        if not sys.stdin.isatty():
            return data, comment
        said = click.prompt("comment [may be left empty]", default=comment or "", show_default=False, err=True)
        comment = said or None
        click.echo(f"\n{harmless(json.dumps(data, ensure_ascii=False, indent=2))}", err=True)
        click.echo(f"comment: {harmless(comment)}" if comment else "no comment", err=True)
        if not click.confirm("send this answer?", default=True, err=True):
            raise UsageError("not sent")
    except (click.Abort, EOFError):
        click.echo("", err=True)
        raise UsageError(
            f"{question.task_id}: not answered; on a terminal each field is asked for, else "
            "--approve, --reject, --data NAME=VALUE or --json FILE"
        ) from None
    return data, comment


_NOTHING = object()


def _ask_field(name: str, field: Mapping[str, Any], *, required: bool) -> Any:
    """Ask until the value is one by the field's schema; an empty line takes the default, or leaves the field out."""
    from matterstack.cli.render import harmless
    from matterstack.core.validation import SchemaError, schema_violation

    if "const" in field:
        return field["const"]
    about = field.get("description") or field.get("title")
    label = harmless(name) + (f" ({harmless(str(about))})" if about else "") + _hint(field, required=required)
    default = field.get("default")
    while True:
        shown = {"default": _as_typed(default)} if "default" in field else {"default": "", "show_default": False}
        text = click.prompt(label, err=True, **shown)
        if "default" in field and text == _as_typed(default):
            return default
        if text == "" and not required:
            return _NOTHING
        if text == "" and field.get("type") not in ("string", "array"):
            click.echo(f"  {name} is needed", err=True)
            continue
        try:
            value = _yes_or_no(text) if field.get("type") == "boolean" else _value(name, text, field)
            problem = _not_a_choice(value, field) or schema_violation(field, value)
        except (UsageError, SchemaError) as error:
            problem = str(error)
        if not problem:
            return value
        click.echo(f"  {harmless(problem)}", err=True)


def _not_a_choice(value: Any, field: Mapping[str, Any]) -> str:
    """Say which of what was typed is none of the choices, "" if all are."""
    from matterstack.core.suggestions import did_you_mean

    if field.get("type") == "boolean" and not isinstance(value, bool):
        return "type yes or no"
    choices = _choices(field)
    if choices is None:
        return ""
    wrong = [item for item in (value if isinstance(value, list) else [value]) if item not in choices]
    return (
        f"'{_as_typed(wrong[0])}' is none of the choices{did_you_mean(_as_typed(wrong[0]), choices)}" if wrong else ""
    )


def _choices(field: Mapping[str, Any]) -> list[Any] | None:
    inner = field.get("items")
    found = field.get("enum") or (inner.get("enum") if isinstance(inner, Mapping) else None)
    return found if isinstance(found, list) else None


def _hint(field: Mapping[str, Any], *, required: bool) -> str:
    from matterstack.cli.render import harmless

    choices, kind = _choices(field), field.get("type")
    parts = []
    least, most = field.get("minItems"), field.get("maxItems")
    if choices is not None:
        count = f"{least or 0} to {most}" if most is not None else f"at least {least}" if least else "some"
        listed = harmless(", ".join(_as_typed(item) for item in choices))
        parts.append(f"{count} of these, with commas: {listed}" if kind == "array" else listed)
    elif isinstance(kind, str) and kind != "string":
        parts.append({"boolean": "yes or no", "array": "values, with commas"}.get(kind, kind))
    if kind in ("number", "integer") and ("minimum" in field or "maximum" in field):
        parts.append(f"{field.get('minimum', '…')} to {field.get('maximum', '…')}")
    if not required and "default" not in field:
        parts.append("may be left empty")
    return f" [{'; '.join(parts)}]" if parts else ""


def _as_typed(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def _yes_or_no(text: str) -> Any:
    return {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}.get(
        text.strip().lower(), text
    )
