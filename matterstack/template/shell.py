"""Where in a shell's syntax each template of a command is: this decides how its value is quoted, or that it is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from matterstack.deferred import dataclass
from matterstack.errors import TemplateError
from matterstack.template.language import Hole, Parts, parse

_HEREDOC = re.compile(r"<<(?P<dash>-?)[ \t]*(?P<word>(?:\\.|'[^']*'|\"[^\"]*\"|[^\s;&|<>()'\"\\])+)")
_WORD = re.compile(r"[A-Za-z_{!][A-Za-z0-9_]*(?=[\s;&|()<>]|\Z)")
_ADVICE = {
    "single quotes": "move it outside the quotes; values are quoted automatically",
    "double quotes": "move it outside the quotes; values are quoted automatically",
    "backticks": "use $( ) instead of backticks",
    "a here-document": "pass it as an argument or in env",
    "a word behind a backslash": "leave the backslash out",
}
_COMMENT = "a comment"
_ARITHMETIC, _EXPANSION = "arithmetic", "${ }"
_TEST = "an arithmetic test in [[ ]]"
_NUMBERS_ONLY = (_ARITHMETIC, _EXPANSION, _TEST)  # quotes do not quote there: text could be a command
# Builtins that evaluate their arguments once more, and tests that read them as arithmetic: `a[$(rm x)]` runs there,
# however it is quoted. Source: bash(1), ARITHMETIC EVALUATION, CONDITIONAL EXPRESSIONS, SHELL BUILTIN COMMANDS.
_EVALUATES = re.compile(
    r"\s*(?:\w+=\S*\s+)*(?:(?:builtin|command)\s+)?(?:(?P<always>let|eval|unset|read|mapfile|readarray)\b"
    r"|(?P<typed>declare|typeset|local|readonly)\s(?:.*\s)?-[A-Za-z]*i"
    r"|(?P<named>printf|test|\[|wait)\s(?:.*\s)?-[vp]\s*\Z|(?P<double>\[\[)\s)",
    re.DOTALL,
)
_ARITHMETIC_TEST = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge|v|R)\s")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?\Z")
_ELEMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\[")
_SUBSCRIPT = re.compile(r"\[[^\]\n]*\]\+?=")


def _takes_numbers(place: str) -> bool:
    return place in _NUMBERS_ONLY or place.startswith("an argument of")


def command_problems(text: str) -> list[str]:
    """Return what is wrong with a command: each hole where quoting its value cannot be right, unless it is `raw(…)`.

    Raises TemplateError for what cannot be parsed.
    """
    scan, found = _scan(text), []
    for hole, place in scan.places:
        if place is not None and place != _COMMENT and not _takes_numbers(place) and not hole.is_raw:
            inside = hole.source[3:-2].strip()
            found.append(
                f"{hole.source} is inside {place}: {_ADVICE[place]}, "
                f"or write ${{{{ raw({inside}) }}}} if it must be inserted as it is"
            )
    if scan.left_open and not found:  # then bash itself may read it in more than one way
        found.append(f"the command ends inside {scan.left_open}; close it, so that values can be quoted")
    return list(dict.fromkeys(found))


def check_command(text: str) -> None:
    """Raise TemplateError for the first of `command_problems`."""
    for message in command_problems(text):
        raise TemplateError(message)


def has_pipe(text: str) -> bool:
    """Return whether a command of the shell pipes one program into another."""
    return _scan(text).has_pipe and "pipefail" not in text


@dataclass(frozen=True)
class _Scan:
    places: tuple[tuple[Hole, str | None], ...]
    left_open: str
    has_pipe: bool


@lru_cache(maxsize=20_000)
def _scan(text: str) -> _Scan:
    scanner = _ShellScanner(parse(text))
    return _Scan(tuple(scanner.places()), scanner.left_open, scanner.has_pipe)


def shell_places(text: str) -> tuple[tuple[Hole, str | None], ...]:
    """Return each hole with the shell construct that it stands in; None where a quoted word is right.

    Knows quotes, `$'…'`, backslashes, comments, `$( )`, `${ }`, `$(( ))`, backticks, here-documents and
    here-strings. Source: POSIX.1-2017, Shell Command Language, 2.2-2.7.
    """
    return _scan(text).places


class _ShellScanner:
    """A stack of open constructs, the innermost last.

    ``'`` ``$'`` ``"`` `` ` `` quotes; ``${`` an expansion; ``$(`` ``(`` commands; ``((`` arithmetic and the
    parentheses in it; ``[`` a subscript; ``case`` from `case` to `esac`, where `)` ends a pattern and no command.
    """

    _QUOTED = {"'": "single quotes", "$'": "single quotes", '"': "double quotes", "`": "backticks"}
    _BEFORE_A_COMMAND = frozenset(["if", "then", "else", "elif", "while", "until", "do", "!", "{", "time"])

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.stack: list[str] = []
        self.pending: list[tuple[str, bool]] = []  # here-documents that start after this line
        self.dangling = False
        self.left_open = ""
        self.has_pipe = False
        self.text = "".join(part if isinstance(part, str) else "\0" for part in parts)
        self.offset = 0  # of the part in hand
        self.word_start = True
        self.command_start = True  # the next word is a command or a reserved word
        self.command_from = 0  # where the simple command in hand begins
        self.outer: list[int] = []  # the same of those around it

    def places(self) -> Iterator[tuple[Hole, str | None]]:
        comment = False
        heredoc: tuple[str, bool] | None = None
        line = ""  # of the here-document so far
        for part in self.parts:
            if isinstance(part, Hole):
                escaped, self.dangling = self.dangling, False
                place = (
                    "a here-document" if heredoc else self._place() if not comment or "`" in self.stack else _COMMENT
                )
                yield part, place or ("a word behind a backslash" if escaped else self._evaluated())
                self.word_start = self.command_start = False
                line += "\0"  # no delimiter can hold it
                self.offset += 1
                continue
            position = 0
            while position < len(part):
                char = part[position]
                if heredoc is not None:
                    position += 1
                    if char != "\n":
                        line += char
                    else:
                        heredoc, line = self._after_heredoc_line(heredoc, line), ""
                elif comment and char != "\n" and not (char == "`" and "`" in self.stack):
                    position += 1
                elif comment:
                    comment = False  # the newline, or the backtick, means something: look at it again
                elif char == "\n" and self.pending and not self._in_text():
                    heredoc = self.pending.pop(0)
                    self.word_start = self.command_start = True
                    line = ""
                    position += 1
                elif char == "#" and self.word_start and not self._in_text():
                    comment = True
                else:
                    position = self._step(part, position)
            self.offset += len(part)
        self.left_open = "a here-document" if heredoc or self.pending else self._open_construct()

    def _open_construct(self) -> str:
        """Name what the text leaves open, "" for nothing."""
        if not self.stack:
            return ""
        top = self.stack[-1]
        return self._QUOTED.get(top) or f"'{'$((' if top == '((' else top}'"

    def _after_heredoc_line(self, heredoc: tuple[str, bool], line: str) -> tuple[str, bool] | None:
        delimiter, strip_tabs = heredoc
        if (line.lstrip("\t") if strip_tabs else line) != delimiter:
            return heredoc
        return self.pending.pop(0) if self.pending else None

    def _evaluated(self) -> str | None:
        """Name the builtin or test of bash that evaluates its arguments, if the hole stands in one."""
        match = _EVALUATES.match(self.text[self.command_from : self.offset])
        if match is None:
            return None
        if match["double"]:
            end = self.text.find("]]", self.offset)
            inside = self.text[self.command_from : end if end >= 0 else len(self.text)]
            return _TEST if _ARITHMETIC_TEST.search(inside) else None
        word = match["always"] or match["typed"] or match["named"]
        if word in ("read", "mapfile", "readarray") and "<" in self.text[self.command_from : self.offset]:
            return None  # what they read, not what they assign to
        return f"an argument of `{word}`"

    def _leave(self) -> None:
        """Go on with the command around a `$( )`, `( )` or backticks."""
        self.command_from = self.outer.pop() if self.outer else 0

    def _in_text(self) -> bool:
        return bool(self.stack) and self.stack[-1] in ("'", "$'", '"', "${", "((", "[")

    def _place(self) -> str | None:
        if "`" in self.stack:
            return "backticks"
        for mark in reversed(self.stack):
            if mark in self._QUOTED:
                return self._QUOTED[mark]
            if mark in ("((", "[", "${"):
                return _EXPANSION if mark == "${" else _ARITHMETIC
            if mark in ("$(", "(", "case"):
                return None  # a command of its own: quotes around it do not count
        return None

    def _step(self, part: str, position: int) -> int:
        """Take one construct of a command, a quoted text or an expansion; return the position behind it."""
        char = part[position]
        top = self.stack[-1] if self.stack else ""
        if top in ("'", "$'"):
            if char == "\\" and top == "$'":
                return position + 2
            if char == "'":
                self.stack.pop()
            return position + 1
        at_word, at_command = self.word_start, self.command_start
        if at_command and not char.isspace():
            self.command_from = self.offset + position
        if part.startswith("\\\n", position):
            return position + 2  # the line goes on: what may begin here still may
        self.word_start = False
        if char == "\\":
            self.command_start = False
            self.dangling = position + 1 == len(part)  # it would escape the quote that is put around a value
            return position + 2
        for opener, mark in (("$((", "(("), ("$(", "$("), ("${", "${"), ("$[", "[")):
            if part.startswith(opener, position):
                self.stack.append(mark)
                if mark == "$(":
                    self.outer.append(self.command_from)
                self.word_start = self.command_start = mark == "$("
                return position + len(opener)
        if char == "`":
            if "`" in self.stack:
                while self.stack.pop() != "`":
                    pass
                self._leave()
            else:
                self.stack.append("`")
                self.outer.append(self.command_from)
                self.word_start = self.command_start = True
            return position + 1
        if char == '"':
            if top == '"':
                self.stack.pop()
            else:
                self.stack.append('"')
            self.command_start = False
            return position + 1
        if top == '"':
            return position + 1
        if top in ("${", "((", "["):
            return self._step_in_text(part, position, top)
        return self._step_in_command(part, position, top, at_word, at_command)

    def _step_in_text(self, part: str, position: int, top: str) -> int:
        """Within an expansion, arithmetic or a subscript: no comments, no here-documents, no words."""
        char = part[position]
        if char == "'" and not (top == "${" and '"' in self.stack):  # literal in "${x:-'}"
            self.stack.append("'")
        elif (top == "${" and char == "}") or (top == "[" and char == "]"):
            self.stack.pop()
        elif top == "((" and part.startswith("))", position) and self.stack[-2:] != ["((", "(("]:
            self.stack.pop()
            return position + 2
        elif top == "((" and char == "(":
            self.stack.append("((")
        elif top == "((" and char == ")":
            self.stack.pop()
        return position + 1

    def _step_in_command(self, part: str, position: int, top: str, at_word: bool, at_command: bool) -> int:
        char = part[position]
        if part.startswith("$'", position):
            self.stack.append("$'")
            return position + 2
        if char == "'":
            self.stack.append("'")
            self.command_start = False
            return position + 1
        if at_command and (match := _ELEMENT.match(part, position)):
            self.stack.append("[")  # an assignment to an element, whose subscript may go over lines
            self.command_start = False
            return match.end()
        if part.startswith("((", position) and at_command:
            self.stack.append("((")
            return position + 2
        if char == "[" and position > 0 and (part[position - 1].isalnum() or part[position - 1] == "_"):
            if _SUBSCRIPT.match(self.text, self.offset + position):  # an assignment to an element; else a pattern
                self.stack.append("[")
            return position + 1
        if char == "(":
            self.stack.append("(")
            self.outer.append(self.command_from)
        elif char == ")" and top == "$(":
            self.stack.pop()
            self._leave()
            self.command_start = False
            return position + 1  # in the middle of a word
        elif char == ")" and top == "(":
            self.stack.pop()
            self._leave()
        elif part.startswith("<<<", position):
            return position + 3
        elif match := _HEREDOC.match(part, position):
            word = re.sub(r"\\(.)|['\"]", r"\1", match["word"])
            self.pending.append((word, bool(match["dash"])))
            return match.end()
        elif at_word and (match := _WORD.match(part, position)):
            return self._word(match, top, at_command)
        self.word_start = char.isspace() or char in ";&|()<>"
        around = (part[position - 1 : position], part[position + 1 : position + 2])
        self.has_pipe |= char == "|" and "|" not in around and around[0] != ">" and top != "case"
        separates = char in ";&|\n" or char == "(" or (char == ")" and top in ("case", "("))
        self.command_start = separates or (at_command and char.isspace())
        return position + 1

    def _word(self, match: re.Match[str], top: str, at_command: bool) -> int:
        word = match[0]
        if word == "case" and at_command:
            self.stack.append("case")
        elif word == "esac" and top == "case":
            self.stack.pop()
        self.command_start = at_command and word in self._BEFORE_A_COMMAND
        return match.end()
