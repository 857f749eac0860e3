"""What a template becomes where it is used: a value, text, a pattern, words, a command with quoted values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from matterstack.core.values import as_text
from matterstack.errors import TemplateError
from matterstack.template.language import _OPEN, Hole, Scope, evaluate, parse, whole
from matterstack.template.shell import _COMMENT, _PLAIN_NUMBER, _takes_numbers, check_command, shell_places


def _text_of(hole: Hole, scope: Scope) -> str:
    value = evaluate(hole.expression, scope)
    try:
        return as_text(value)
    except ValueError as error:
        raise TemplateError(f"{hole.source}: {error}") from None


def render(value: Any, scope: Scope) -> Any:
    """Resolve the templates in a value, also within lists and mappings; exactly one template keeps its type."""
    if isinstance(value, str):
        if _OPEN not in value:
            return value
        hole = whole(value)
        return evaluate(hole.expression, scope) if hole else render_text(value, scope)
    if isinstance(value, dict):
        return {key: render(item, scope) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [render(item, scope) for item in value]
    return value


def render_text(text: str, scope: Scope, *, join_lists: bool = False) -> str:
    """Resolve a text; with ``join_lists`` (for people) a list becomes its items joined by `, `."""
    if _OPEN not in text:
        return text
    out = []
    for part in parse(text):
        if isinstance(part, str):
            out.append(part)
            continue
        value = evaluate(part.expression, scope) if join_lists else None
        if isinstance(value, list | tuple):
            out.append(", ".join(as_text(item) for item in value))
        else:
            out.append(_text_of(part, scope))
    return "".join(out)


_GLOB = re.compile(r"([*?\[])")


def render_pattern(text: str, scope: Scope, *, escape: bool) -> str:
    """Resolve a path or glob. Values may not hold `/` or be `..`; with ``escape`` their wildcards are literal."""
    if _OPEN not in text:
        return text
    out = []
    for part in parse(text):
        if isinstance(part, str):
            out.append(part)
            continue
        value = _text_of(part, scope)
        if "/" in value or value in ("..", ".") or "\0" in value:
            raise TemplateError(
                f"{part.source} is {value!r}: a value in a path cannot hold '/' or be '..'; use ${{{{ task.label }}}}"
            )
        out.append(_GLOB.sub(r"[\1]", value) if escape else value)
    return "".join(out)


def render_argv(items: Sequence[str], scope: Scope) -> list[str]:
    """Resolve a command given as a list; an element that is exactly one list becomes several."""
    argv: list[str] = []
    for item in items:
        hole = whole(item) if _OPEN in item else None
        value = evaluate(hole.expression, scope) if hole else None
        if hole and isinstance(value, list | tuple):
            try:
                argv.extend(as_text(element) for element in value)
            except ValueError as error:
                raise TemplateError(f"{hole.source}: {error}") from None
        else:
            argv.append(render_text(item, scope))
    return argv


def render_command(text: str, scope: Scope) -> str:
    """Resolve a shell text: every value quoted, a list as several words, `raw(x)` as it is.

    Raises TemplateError as `check_command` does, and for a value with a NUL.
    """
    if _OPEN not in text:
        return text
    check_command(text)
    places = [place for _, place in shell_places(text)]
    out = []
    for part in parse(text):
        if isinstance(part, str):
            out.append(part)
            continue
        place = places.pop(0)
        value = evaluate(part.expression, scope)
        if part.is_raw:
            out.append(_text_of(part, scope))
            continue
        try:
            words = [as_text(item) for item in (value if isinstance(value, list | tuple) else [value])]
        except ValueError as error:
            raise TemplateError(f"{part.source}: {error}") from None
        if any("\0" in word for word in words):
            raise TemplateError(f"{part.source}: a NUL cannot be passed to a command")
        if place is not None and _takes_numbers(place):
            wrong = next((word for word in words if not _PLAIN_NUMBER.match(word)), None)
            if wrong is not None or len(words) != 1:
                raise TemplateError(f"{part.source} is inside {place}, where only a number can: it is {value!r}")
            out.append(words[0])
            continue
        quoted = " ".join(_quote(word) for word in words)
        # A newline in a value would end the comment, and the rest of the value would be a command.
        out.append(quoted.replace("\n", " ") if place == _COMMENT else quoted)
    return "".join(out)


_BARE = re.compile(r"(?=.*[A-Za-z/._-])[A-Za-z0-9_./,:+@%-]+\Z")
_RESERVED_WORDS = frozenset(
    [
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "time",
        "for",
        "in",
        "until",
        "while",
        "do",
        "done",
        "case",
        "esac",
        "coproc",
        "select",
        "function",
    ]
)


def _quote(word: str) -> str:
    """Quote a word for the shell, unless it is certain to be one as it is.

    More is quoted than `shlex.quote` does: digits before `>` would name a file descriptor, `A=b` would assign, and
    a reserved word would be one.
    """
    return word if _BARE.match(word) and word not in _RESERVED_WORDS else "'" + word.replace("'", "'\"'\"'") + "'"
