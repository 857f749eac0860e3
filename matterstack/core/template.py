"""`${{ … }}`: a closed little language, its forms, and the quoting of its values for a shell.

    expression   or, and, not, comparisons, in, len(x), raw(x), names, .attribute, [index], literals, [lists]

It is parsed by hand, not by Python: attribute access reaches the keys of mappings and nothing else, so no part
of the interpreter can be named. Forms differ in what a value may become: `render` keeps the type of a value that
is exactly one template, `render_text` gives text, `render_pattern` escapes for a glob, `render_command` quotes
for a shell, `render_argv` splices lists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matterstack.core.values import as_text, resolve_scalar
from matterstack.errors import TemplateError

LONGEST_EXPRESSION = 1000
_DEEPEST = 20
_OPEN = "${{"

Scope = Mapping[str, Any]


# --- the tree -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Literal:
    value: Any


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Attribute:
    of: Expression
    name: str


@dataclass(frozen=True)
class Index:
    of: Expression
    key: Expression


@dataclass(frozen=True)
class Items:
    items: tuple[Expression, ...]


@dataclass(frozen=True)
class Operation:
    """`and`, `or` (any number of operands), `not` (one), a comparison (two)."""

    operator: str
    operands: tuple[Expression, ...]


@dataclass(frozen=True)
class Call:
    function: str  # len or raw
    argument: Expression


Expression = Literal | Name | Attribute | Index | Items | Operation | Call


@dataclass(frozen=True)
class Hole:
    """One `${{ … }}` in a text, with its source for messages."""

    expression: Expression
    source: str

    @property
    def is_raw(self) -> bool:
        return isinstance(self.expression, Call) and self.expression.function == "raw"


Parts = tuple[str | Hole, ...]


# --- parsing --------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')|(?P<mark>==|!=|<=|>=|[<>()\[\].,-]))"
)
_COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
_ESCAPES = {"n": "\n", "t": "\t"}


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST_EXPRESSION:
            raise TemplateError(f"a template of {len(source)} characters (at most {LONGEST_EXPRESSION})")
        self.source = source
        self.shown = " ".join(source.split())
        self.tokens = list(self._tokens(source))
        self.at = 0
        self.depth = 0

    @staticmethod
    def _tokens(source: str) -> Iterator[tuple[str, str]]:
        position, end = 0, len(source.rstrip())
        while position < end:
            match = _TOKEN.match(source, position)
            if match is None:
                rest = " ".join(source[position:].split())
                hint = "; there is no arithmetic in templates" if rest[0] in "+*/-%" else ""
                raise TemplateError(f"'{rest[:20]}' is not part of a template expression{hint}")
            position = match.end()
            assert match.lastgroup is not None
            yield match.lastgroup, match[match.lastgroup]

    def parse(self) -> Expression:
        if not self.tokens:
            raise TemplateError("an empty template")
        tree = self.either()
        if self.at < len(self.tokens):
            raise TemplateError(f"'{self.tokens[self.at][1]}' does not belong in '{self.shown}'")
        return tree

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "the end")

    def take(self, *marks: str) -> str | None:
        if self.peek()[1] in marks and self.peek()[0] != "text":
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def expect(self, mark: str) -> None:
        if self.take(mark) is None:
            raise TemplateError(f"'{mark}' expected before {self.peek()[1]} in '{self.shown}'")

    def either(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise TemplateError(f"a template nested deeper than {_DEEPEST} levels")
        operands = [self.all_of()]
        while self.take("or"):
            operands.append(self.all_of())
        self.depth -= 1
        return operands[0] if len(operands) == 1 else Operation("or", tuple(operands))

    def all_of(self) -> Expression:
        operands = [self.negation()]
        while self.take("and"):
            operands.append(self.negation())
        return operands[0] if len(operands) == 1 else Operation("and", tuple(operands))

    def negation(self) -> Expression:
        count = 0
        while self.take("not"):
            count += 1
        tree = self.comparison()
        return Operation("not", (tree,)) if count % 2 else Operation("bool", (tree,)) if count else tree

    def comparison(self) -> Expression:
        left = self.value()
        operator = self.take(*_COMPARISONS, "in")
        if operator is None and self.take("not"):
            self.expect("in")
            operator = "not in"
        if operator is None:
            return left
        tree = Operation(operator, (left, self.value()))
        if self.peek()[1] in (*_COMPARISONS, "in") and self.peek()[0] != "text":
            raise TemplateError(f"two comparisons in a row in '{self.shown}'; join them with 'and'")
        return tree

    def value(self) -> Expression:
        tree = self.atom()
        while True:
            if self.take("."):
                kind, name = self.peek()
                if kind != "name":
                    raise TemplateError(f"a name expected after '.' in '{self.shown}'")
                self.at += 1
                tree = Attribute(tree, name)
            elif self.take("["):
                tree = Index(tree, self.either())
                self.expect("]")
            else:
                return tree

    @staticmethod
    def number(text: str) -> Expression:
        try:
            return Literal(resolve_scalar(text))
        except ValueError as error:
            raise TemplateError(str(error)) from None

    def atom(self) -> Expression:
        kind, text = self.peek()
        self.at += 1
        if kind == "number":
            return self.number(text)
        if kind == "text":
            return Literal(re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1], flags=re.DOTALL))
        if text == "-" and self.peek()[0] == "number":
            self.at += 1
            return self.number("-" + self.tokens[self.at - 1][1])
        if text == "(" and kind == "mark":
            tree = self.either()
            self.expect(")")
            return tree
        if text == "[" and kind == "mark":
            items: list[Expression] = []
            while not self.take("]"):
                items.append(self.either())
                if not self.take(","):
                    self.expect("]")
                    break
            return Items(tuple(items))
        if kind == "name" and text in ("true", "false", "null"):
            return Literal({"true": True, "false": False, "null": None}[text])
        if kind == "name" and text in ("len", "raw") and self.take("("):
            argument = self.either()
            self.expect(")")
            return Call(text, argument)
        if kind == "name" and text not in ("and", "or", "not", "in"):
            if self.peek() == ("mark", "("):
                raise TemplateError(f"'{text}(…)' is not a function of templates (only len and raw are)")
            return Name(text)
        raise TemplateError(f"a value expected instead of {text} in '{self.shown}'")


def _end_of_hole(text: str, start: int) -> int:
    """Give the index of the `}}` that closes the hole whose inside starts at ``start``, or -1."""
    quote = ""
    position = start
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif text.startswith("}}", position):
            return position
        position += 1
    return -1


@lru_cache(maxsize=20_000)
def parse(text: str) -> Parts:
    """Split a text into literal pieces and holes; `$${{` is a literal `${{`. Raises TemplateError."""
    parts: list[str | Hole] = []
    literal = ""
    position = 0
    while (found := text.find(_OPEN, position)) >= 0:
        if found > 0 and text[found - 1] == "$" and found - 1 >= position:
            literal += text[position : found - 1] + _OPEN
            position = found + len(_OPEN)
            continue
        literal += text[position:found]
        end = _end_of_hole(text, found + len(_OPEN))
        if end < 0:
            raise TemplateError(f"'{' '.join(text[found : found + 30].split())}' has no closing '}}}}'")
        inside = text[found + len(_OPEN) : end]
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(Hole(_Parser(inside).parse(), f"${{{{ {' '.join(inside.split())} }}}}"))
        position = end + 2
    literal += text[position:]
    if literal:
        parts.append(literal)
    return tuple(parts)


def is_template(value: object) -> bool:
    """Say whether a value holds a `${{` that must be parsed (`$${{` counts: it must be unescaped)."""
    return isinstance(value, str) and _OPEN in value


def whole(text: str) -> Hole | None:
    """Give the hole of a text that is exactly one template (white space around it does not count)."""
    parts = parse(text.strip())
    return parts[0] if len(parts) == 1 and isinstance(parts[0], Hole) else None


def references(value: object) -> Iterator[tuple[str, ...]]:
    """Give every dotted name that the templates in a value (also within lists and mappings) begin with.

    `response.approve.metals[0]` gives ``("response", "approve", "metals")``.
    """
    if isinstance(value, str):
        if _OPEN in value:
            for part in parse(value):
                if isinstance(part, Hole):
                    yield from _names(part.expression)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def conditional_parts(text: str) -> Iterator[str]:
    """Give the operators and functions in a text that only a condition may use."""
    for part in parse(text):
        if isinstance(part, Hole):
            yield from _conditional(part.expression)


def _conditional(tree: Expression) -> Iterator[str]:
    match tree:
        case Operation(operator, operands):
            yield "not" if operator == "bool" else operator
            for item in operands:
                yield from _conditional(item)
        case Call(function, argument):
            if function == "len":
                yield "len()"
            yield from _conditional(argument)
        case Attribute(of, _):
            yield from _conditional(of)
        case Index(of, key):
            yield from _conditional(of)
            yield from _conditional(key)
        case Items(items):
            for item in items:
                yield from _conditional(item)


def uses_raw(text: str) -> bool:
    """Say whether a text inserts a value by `raw(…)`."""
    return any(isinstance(part, Hole) and part.is_raw for part in parse(text))


def _names(tree: Expression) -> Iterator[tuple[str, ...]]:
    path: list[str] = []
    node: Expression = tree
    while isinstance(node, Attribute | Index):
        if isinstance(node, Attribute):
            path.append(node.name)
        elif isinstance(node.key, Literal) and isinstance(node.key.value, str):
            path.append(node.key.value)
        else:
            path.clear()
            yield from _names(node.key)
        node = node.of
    if isinstance(node, Name):
        yield (node.name, *reversed(path))
    elif isinstance(node, Items):
        for item in node.items:
            yield from _names(item)
    elif isinstance(node, Operation):
        for item in node.operands:
            yield from _names(item)
    elif isinstance(node, Call):
        yield from _names(node.argument)


# --- evaluation -----------------------------------------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Give ` (did you mean 'x'?)`, or nothing if no known name is near."""
    names = [str(item) for item in known]
    near = [item for item in names if item.lower() == name.lower()] or difflib.get_close_matches(name, names, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _dotted(tree: Expression) -> str:
    if isinstance(tree, Name):
        return tree.name
    if isinstance(tree, Attribute):
        return f"{_dotted(tree.of)}.{tree.name}"
    if isinstance(tree, Index):
        return f"{_dotted(tree.of)}[…]"
    return "the value"


def evaluate(tree: Expression, scope: Scope) -> Any:
    """Give the value of an expression; ``scope`` maps each root to its value.

    Raises TemplateError for an unknown name, key or index, and for operands that cannot be compared.
    """
    match tree:
        case Literal(value):
            return value
        case Name(name):
            if name not in scope:
                raise TemplateError(f"'{name}' is not known here{did_you_mean(name, scope)}; {_roots(scope)}")
            return scope[name]
        case Attribute(of, name):
            return _lookup(evaluate(of, scope), name, of)
        case Index(of, key):
            return _lookup(evaluate(of, scope), evaluate(key, scope), of)
        case Items(items):
            return [evaluate(item, scope) for item in items]
        case Call("len", argument):
            value = evaluate(argument, scope)
            if not isinstance(value, str | list | tuple | Mapping):
                raise TemplateError(f"len() wants a list, a mapping or a text, {_dotted(argument)} is {value!r}")
            return len(value)
        case Call(_, argument):
            return evaluate(argument, scope)
        case Operation(operator, operands):
            return _operate(operator, operands, scope)


def _roots(scope: Scope) -> str:
    return f"known are {', '.join(scope)}" if scope else "no names can be used here"


def _lookup(value: Any, key: Any, of: Expression) -> Any:
    if isinstance(value, Mapping):
        if not isinstance(key, str):
            key = as_text(key) if isinstance(key, int | float) else key
        if not isinstance(key, str) or key not in value:
            known = f"it has {', '.join(map(str, list(value)[:8]))}" if value else "it is empty"
            raise TemplateError(f"'{key}' is not in {_dotted(of)}{did_you_mean(str(key), value)}; {known}")
        return value[key]
    if isinstance(value, list | tuple) and isinstance(key, int) and not isinstance(key, bool):
        if not -len(value) <= key < len(value):
            raise TemplateError(f"{_dotted(of)} has {len(value)} items, [{key}] is beyond its end")
        return value[key]
    if isinstance(value, list | tuple):
        raise TemplateError(f"{_dotted(of)} is a list: its items are {_dotted(of)}[0] and so on, not '{key}'")
    raise TemplateError(f"{_dotted(of)} is {value!r}, it has no '{key}'")


def _operate(operator: str, operands: Sequence[Expression], scope: Scope) -> Any:
    if operator == "and":
        return all(evaluate(item, scope) for item in operands)
    if operator == "or":
        return any(evaluate(item, scope) for item in operands)
    values = [evaluate(item, scope) for item in operands]
    if operator == "not":
        return not values[0]
    if operator == "bool":
        return bool(values[0])
    left, right = values
    try:
        return bool(_COMPARE[operator](left, right))
    except TypeError:
        raise TemplateError(f"{left!r} {operator} {right!r} cannot be compared") from None


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}


# --- forms ----------------------------------------------------------------------------------------------------------


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
                raise TemplateError(f"{part.source} stands inside {place}, where only a number can: it is {value!r}")
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


# --- where in the shell's syntax a hole stands ----------------------------------------------------------------------

_HEREDOC = re.compile(r"<<(?P<dash>-?)[ \t]*(?P<word>(?:\\.|'[^']*'|\"[^\"]*\"|[^\s;&|<>()'\"\\])+)")
_WORD = re.compile(r"[A-Za-z_{!][A-Za-z0-9_]*(?=[\s;&|()<>]|\Z)")
_ADVICE = {
    "single quotes": "write it outside the quotes, it is quoted by itself",
    "double quotes": "write it outside the quotes, it is quoted by itself",
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


def check_command(text: str) -> None:
    """Raise TemplateError for a hole where quoting its value cannot be right, unless it is `raw(…)`."""
    scan = _scan(text)
    for hole, place in scan.places:
        if place is not None and place != _COMMENT and not _takes_numbers(place) and not hole.is_raw:
            inside = hole.source[3:-2].strip()
            raise TemplateError(
                f"{hole.source} stands inside {place}: {_ADVICE[place]}, "
                f"or write ${{{{ raw({inside}) }}}} if it must be inserted as it is"
            )
    if scan.left_open:  # then bash itself may read it in more than one way
        raise TemplateError(f"the command ends inside {scan.left_open}; close it, so that values can be quoted")


def has_pipe(text: str) -> bool:
    """Say whether a command of the shell pipes one program into another."""
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
    """Give each hole with the shell construct that it stands in; None where a quoted word is right.

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
        """Take one construct of a command, a quoted text or an expansion; give the position behind it."""
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
