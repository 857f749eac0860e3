"""The template language: `${{ … }}` as a tree, parsed once and evaluated against a scope.

The reference is docs/campaign-file.md. Nothing here knows of shells or of campaigns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from matterstack.core.suggestions import did_you_mean
from matterstack.core.values import as_text, resolve_scalar
from matterstack.deferred import dataclass
from matterstack.errors import TemplateError

LONGEST_EXPRESSION = 1000
_DEEPEST = 20
_OPEN = "${{"
Scope = Mapping[str, Any]


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
    function: str  # len, list or raw
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
        if kind == "name" and text in ("len", "list", "raw") and self.take("("):
            argument = self.either()
            self.expect(")")
            if text == "list" and input_of(argument) is None:
                raise TemplateError("list(…) names one input, like list(inputs.frames)")
            return Call(text, argument)
        if kind == "name" and text not in ("and", "or", "not", "in"):
            if self.peek() == ("mark", "("):
                raise TemplateError(f"'{text}(…)' is not a function of templates (only len, list and raw are)")
            return Name(text)
        raise TemplateError(f"a value expected instead of {text} in '{self.shown}'")


def _end_of_hole(text: str, start: int) -> int:
    """Return the index of the `}}` that closes the hole whose inside starts at ``start``, or -1."""
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
    """Return whether a value holds a `${{` that must be parsed (`$${{` counts: it must be unescaped)."""
    return isinstance(value, str) and _OPEN in value


def whole(text: str) -> Hole | None:
    """Return the hole of a text that is exactly one template (white space around it does not count)."""
    parts = parse(text.strip())
    return parts[0] if len(parts) == 1 and isinstance(parts[0], Hole) else None


def references(value: object) -> Iterator[tuple[str, ...]]:
    """Return every dotted name that the templates in a value (also within lists and mappings) begin with.

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
    """Return the operators and functions in a text that only a condition may use."""
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


def input_of(tree: Expression) -> str | None:
    """Return NAME of `inputs.NAME`, None for any other expression."""
    return tree.name if isinstance(tree, Attribute) and tree.of == Name("inputs") else None


def list_file(name: str) -> str:
    """Return the file of an attempt's folder that lists an input's paths, one on each line."""
    return f"{name}.list"


def listed_inputs(value: object) -> Iterator[str]:
    """Return the inputs that the templates in a value name in `list(…)`, once for each time."""
    if isinstance(value, str):
        for part in parse(value) if _OPEN in value else ():
            if isinstance(part, Hole):
                yield from _listed(part.expression)
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from listed_inputs(item)


def _listed(tree: Expression) -> Iterator[str]:
    match tree:
        case Call("list", argument):
            yield str(input_of(argument))
        case Call(_, inside) | Attribute(inside, _):
            yield from _listed(inside)
        case Index(of, key):
            yield from _listed(of)
            yield from _listed(key)
        case Items(items) | Operation(_, items):
            for item in items:
                yield from _listed(item)


def uses_raw(text: str) -> bool:
    """Return whether a text inserts a value by `raw(…)`."""
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


def _dotted(tree: Expression) -> str:
    if isinstance(tree, Name):
        return tree.name
    if isinstance(tree, Attribute):
        return f"{_dotted(tree.of)}.{tree.name}"
    if isinstance(tree, Index):
        return f"{_dotted(tree.of)}[…]"
    return "the value"


def evaluate(tree: Expression, scope: Scope) -> Any:
    """Return the value of an expression; ``scope`` maps each root to its value.

    Raises TemplateError for an unknown name, key or index, and for operands that cannot be compared.
    """
    if type(tree) is Attribute and type(tree.of) is Name:  # the usual one first, such as `matrix.x`
        found = scope.get(tree.of.name)
        if type(found) is dict and tree.name in found:
            return found[tree.name]
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
        case Call("list", argument):
            if not isinstance(evaluate(argument, scope), list | tuple):
                raise TemplateError(f"{_dotted(argument)} is one file; list() is for an input with a pattern")
            return list_file(str(input_of(argument)))
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
            raise TemplateError(f"{_dotted(of)} has {len(value)} items, [{key}] is out of range")
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
