"""Warnings of what people bring from elsewhere: other editors, other shells, other tables. None of it is an error by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matterstack.core.model import Campaign, Instance, TaskSpec
from matterstack.spec.campaign import Builder
from matterstack.spec.expand import Expansion
from matterstack.spec.files import Outside, place_of
from matterstack.template.language import (
    Attribute,
    Expression,
    Hole,
    Literal,
    Name,
    Operation,
    parse,
    references,
    whole,
)

_MOST_FILES = 2000  # of the campaign folder whose first line is looked at
_SCRIPTS = (".sh", ".bash", ".csh", ".ksh", ".zsh")
_SPACES = {"\u00a0": "a no-break space", "\u202f": "a narrow no-break space", "\u200b": "a zero-width space",
           "\ufeff": "a byte order mark", "\u2009": "a thin space"}  # fmt: skip
_CD = re.compile(r"(?m)(?:^|[;&|]|\bthen|\bdo|\{)[ \t]*cd[ \t]+(?!-)(?P<to>[^;&|\n]*)")
_BACK = re.compile(r"\bcd[ \t]+(-|\"?\$OLDPWD)")
_RELATIVE = ("inputs", "outputs", "source")
_DASH = re.compile(r"(?:^|\s)[\u2013\u2014]\w")
_ORDER = ("<", "<=", ">", ">=", "==", "!=")


def warn_of_habits(campaign: Campaign, expansion: Expansion, folder: Path, builder: Builder) -> None:
    """Warn of line ends, spaces, `#!`, `cd`, nulls and comparisons that will not do what they look like."""
    _warn_of_line_ends(expansion, folder, campaign.outside, builder)
    groups: dict[str, list[Instance]] = {}
    for instance in expansion.instances:
        groups.setdefault(instance.group, []).append(instance)
    for name, spec in campaign.tasks.items():
        where = ("tasks", name, "command")
        for message in _command_habits(spec):
            builder.add(where, message, severity="warning")
        if name in groups:
            for message in _nulls(campaign, spec, groups[name][0]):
                builder.add(where, message, severity="warning")
            for message in _comparisons(campaign, spec, groups[name]):
                builder.add(("tasks", name, "when"), message, severity="warning")


def _warn_of_line_ends(expansion: Expansion, folder: Path, outside: Outside, builder: Builder) -> None:
    for name in expansion.files[:_MOST_FILES]:
        try:
            with open(place_of(folder, outside, name), "rb") as file:
                head = file.read(512)
        except OSError:
            continue
        first = head.split(b"\n")[0]
        if (head.startswith(b"#!") or name.endswith(_SCRIPTS)) and first.endswith(b"\r"):
            builder.add(("files",), f"{name} has Windows line ends: sed -i 's/\\r$//' {name}", severity="warning")


def _command_habits(spec: TaskSpec) -> Iterator[str]:
    texts = [spec.command] if isinstance(spec.command, str) else list(spec.command or ())
    for text in (*texts, *spec.setup):
        for sign, name in _SPACES.items():
            if sign in text:
                line = text[: text.index(sign)].count("\n") + 1
                yield f"holds {name} (U+{ord(sign):04X}) in its line {line}, which no shell takes for a space; type a space"
        dash = _DASH.search(text)
        if dash is not None:
            yield f"'{dash[0].strip()}' begins with a long dash (U+{ord(dash[0].strip()[0]):04X}), options begin with -"
    if isinstance(spec.command, str):
        if spec.command.lstrip().startswith("#!"):
            interpreter = spec.command.lstrip().splitlines()[0][2:].strip()
            yield (
                f"the line #!{interpreter} has no effect, the command runs in {spec.shell}; put the script into a file "
                "below `files`, or call the interpreter: `python - <<'END'`"
            )
        yield from _moves(spec.command)


def _moves(command: str) -> Iterator[str]:
    """Tell of a path that is relative to the working folder, after a `cd` that leaves it."""
    text, holes = "", list[tuple[int, Hole]]()
    for part in parse(command):
        if isinstance(part, Hole):
            holes.append((len(text), part))
            text += "\0"
        else:
            text += part
    for match in _CD.finditer(text):
        before = text[: match.start()]
        if before.count("(") > before.count(")") or match["to"].strip() in (".", "$PWD", '"$PWD"'):
            continue  # within parentheses it is undone at their end
        for at, hole in holes:
            relative = next((ref for ref in _names_of(hole) if ref[0] in _RELATIVE), None)
            if at < match.end() or relative is None or _BACK.search(text[match.end() : at]):
                continue
            to = match["to"].strip().replace("\0", "…")
            yield (
                f"{hole.source} is relative to the working folder, which `cd {to}` leaves; write ( cd {to} && … ) around what "
                'runs there, or "$OLDPWD"/ before the path'
            )
            return


def _names_of(hole: Hole) -> list[tuple[str, ...]]:
    return list(references(hole.source))


def _nulls(campaign: Campaign, spec: TaskSpec, instance: Instance) -> Iterator[str]:
    """Tell of single files that may be null: their task may fail or be skipped, and this one runs all the same."""
    if spec.allow_dependency_failure is None and not spec.allow_skipped:
        return
    texts = [spec.command, *spec.setup, *spec.env.values(), *spec.params.values()]
    for name in dict.fromkeys(ref[1] for ref in references(texts) if ref[0] == "inputs" and len(ref) > 1):
        item = instance.inputs.get(name)
        if item is None or item.is_list or item.sources[0].task is None or item.sources[0].is_table:
            continue
        group = str(item.sources[0].task)
        if item.sources[0].match or group not in campaign.tasks:
            group = group.partition("/")[0]
        if group not in campaign.tasks or campaign.tasks[group].repeat is not None:
            continue
        upstream = campaign.tasks[group]
        if spec.allow_dependency_failure is not None:
            how = f"{group} fails"
        elif spec.allow_skipped and (upstream.when is not None or upstream.allow_skipped):
            how = f"{group} is skipped"
        else:
            continue
        pattern = f"{spec.inputs[name].pattern}*"
        yield (
            f"inputs.{name} is null if {how}, and the command cannot be made then: take it as a list (`{pattern}`), which is "
            "empty then, or leave out `allow_dependency_failure`"
        )


def _comparisons(campaign: Campaign, spec: TaskSpec, instances: Sequence[Instance]) -> Iterator[str]:
    """Tell of a text that is compared with a number: it is never equal, and cannot be ordered."""
    hole = whole(spec.when) if spec.when is not None else None
    for left, operator, right in _compared(hole.expression) if hole is not None else ():
        for side, other in ((left, right), (right, left)):
            if (
                not isinstance(other, Literal)
                or isinstance(other.value, bool)
                or not isinstance(other.value, int | float)
            ):
                continue
            values = _values(side, campaign, spec, instances)
            if values and all(isinstance(value, str) for value in values):
                shown = ", ".join(repr(str(value)) for value in list(dict.fromkeys(values))[:3])
                what = "is never equal to" if operator in ("==", "!=") else "cannot be ordered with"
                yield f"{_dotted(side)} is text in every instance ({shown}), which {what} the number {other.value}"


def _compared(tree: Expression) -> Iterator[tuple[Expression, str, Expression]]:
    if isinstance(tree, Operation):
        if tree.operator in _ORDER and len(tree.operands) == 2:
            yield tree.operands[0], tree.operator, tree.operands[1]
        for item in tree.operands:
            yield from _compared(item)


def _values(tree: Expression, campaign: Campaign, spec: TaskSpec, instances: Sequence[Instance]) -> list[Any]:
    """Return the values that a name has in the instances of a task; none where they are not known, or not simple."""
    if not isinstance(tree, Attribute) or not isinstance(tree.of, Name):
        return _answers(tree, campaign)
    root, name = tree.of.name, tree.name
    if root == "matrix":
        return [instance.matrix[name] for instance in instances if name in instance.matrix]
    if root == "params" and name not in spec.params and name in campaign.params:
        return [campaign.params[name]]
    return []


def _answers(tree: Expression, campaign: Campaign) -> list[Any]:
    """Return a text for a field that the schema of an answer says is one."""
    if not (isinstance(tree, Attribute) and isinstance(tree.of, Attribute) and tree.of.of == Name("response")):
        return []
    upstream = campaign.tasks.get(tree.of.name)
    schema = (upstream.asked.get("response_schema") or upstream.asked.get("result_schema")) if upstream else None
    field = schema.get("properties", {}).get(tree.name) if isinstance(schema, Mapping) else None
    return ["a text"] if isinstance(field, Mapping) and field.get("type") == "string" else []


def _dotted(tree: Expression) -> str:
    return f"{_dotted(tree.of)}.{tree.name}" if isinstance(tree, Attribute) else getattr(tree, "name", "the value")
