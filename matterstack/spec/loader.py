"""YAML and JSON files to plain values with the position of every key and item.

Driven by the events of libyaml's parser, not by its node loaders: that is several times faster, keeps positions,
and is the place to refuse what would be dangerous or silently wrong: duplicate keys, alias bombs, tags of other
languages, infinities, a depth that no campaign has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from matterstack.core.values import resolve_scalar
from matterstack.errors import CampaignError, Problem

LARGEST_FILE = 32 * 2**20
_DEEPEST = 60
_MOST_NODES = 2_500_000  # keys and values of a file; 100,000 tasks written out have about 1,400,000
_FLOW_LIST = re.compile(r"\[[^\[\]{}\"'#:]*\]")  # of plain values alone
_BLOCK_ITEM = re.compile(r"(?m)^ *- ")
_MOST_EXPANDED = 2_000_000  # nodes that aliases may add

_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Mark = tuple[Any, ...]  # 1-based line and column; of an included file also its name


class Map(dict[str, Any]):
    """A mapping that knows where its keys and values stand."""

    __slots__ = ("at", "keys_at", "values_at")

    def __init__(self, at: Mark) -> None:
        super().__init__()
        self.at = at
        self.keys_at: dict[str, Mark] = {}
        self.values_at: dict[str, Mark] = {}


class Seq(list[Any]):
    """A list that knows where its items stand."""

    __slots__ = ("at", "items_at")

    def __init__(self, at: Mark) -> None:
        super().__init__()
        self.at = at
        self.items_at: list[Mark] = []


class Document:
    """A parsed file: its root value, and the position of every path in it."""

    def __init__(self, file: str, root: Any, at: Mark, warnings: list[Problem], text: str) -> None:
        self.file = file
        self.text = text
        self.root = root
        self.at = at
        self.warnings = warnings
        self.problems: list[Problem] = []  # values that were replaced so that the rest could be read
        self.bases: dict[str, str] = {}  # task of an included file -> the folder of that, in the campaign folder
        self.included: tuple[str, ...] = ()  # files, in the campaign folder
        self.outside: Mapping[str, str] = {}  # as in `core.model.Campaign`
        self.origins: Mapping[str, str] = {}  # `tasks.NAME`, … of an included file -> that file, in the campaign folder
        self.in_part = False  # whether one could not be included

    @cached_property
    def plain(self) -> Any:
        """The root value as plain dicts and lists, without `x-` keys, which are ignored everywhere."""
        return plain(self.root)

    def position(self, path: tuple[str | int, ...], *, at_key: bool = False) -> Mark:
        """Return line and column of a path, or of the nearest ancestor that the file holds."""
        node, mark = self.root, self.at
        for index, part in enumerate(path):
            if isinstance(node, Map) and part in node.values_at:
                last = index == len(path) - 1
                mark = node.keys_at[str(part)] if at_key and last else node.values_at[str(part)]
            elif isinstance(node, Seq) and isinstance(part, int) and part < len(node.items_at):
                mark = node.items_at[part]
            else:
                return mark
            node = node[part]
        return mark

    def problem(
        self, path: tuple[str | int, ...], message: str, *, at_key: bool = False, severity: str = "error"
    ) -> Problem:
        """Return the problem of a path, its place in words written `tasks.fit.inputs[0]`."""
        line, column, *file = self.position(path, at_key=at_key)
        return Problem(file[0] if file else self.file, line, column, dotted(path), message, severity, path=path)


def dotted(path: tuple[str | int, ...]) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def read_text(path: Path, shown: str) -> str:
    """Read a file of text for people. Raises CampaignError if it is absent, too large, or not UTF-8."""

    def refuse(message: str, line: int = 0, column: int = 0) -> CampaignError:
        return CampaignError([Problem(shown, line, column, "", message)])

    try:
        if path.is_dir():
            raise refuse("is a folder; give the file in it")
        size = path.stat().st_size
        if not path.is_file():  # a pipe or a device could keep us waiting, or never end
            raise refuse("is not a regular file")
        if size > LARGEST_FILE:
            raise refuse(f"has {size} bytes; a campaign file may have {LARGEST_FILE} (use a matrix or a table)")
        data = path.read_bytes()
    except FileNotFoundError:
        raise refuse("no such file") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # an embedded NUL in the name
        raise refuse(f"cannot be read: {error}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise refuse(f"is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8", line, column) from None


def load_document(path: Path, shown: str | None = None, *, with_problems: bool = False) -> Document:
    """Read a YAML or JSON file. Raises CampaignError with one Problem for a file that cannot be parsed.

    A value that cannot be is one as well; ``with_problems`` such a file is returned with its `problems`.
    """
    document = _load(path, shown or str(path))
    if document.problems and not with_problems:
        raise CampaignError(document.problems)
    return document


def _load(path: Path, name: str) -> Document:
    text = read_text(path, name)
    if path.suffix == ".json" or (text.startswith("{") and _is_json(text)):  # a run root keeps it as campaign.yaml
        _check_json(text, name)
        document = parse_document(_as_yaml(text), name)
        document.text = text
        return document
    return parse_document(text, name)


_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def _as_yaml(text: str) -> str:
    """Write valid JSON so that the YAML parser, which gives positions, reads it the same.

    JSON writes characters beyond U+FFFF as two escapes, and may be indented with tabs.
    """

    def character(match: re.Match[str]) -> str:
        high, low = int(match[2], 16), int(match[3], 16)
        return match[1] + chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))

    return _PAIR.sub(character, text).replace("\t", " ")


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


class _NotJSON(Exception):
    pass


def _refuse_constant(text: str) -> None:
    raise _NotJSON(text)


def _check_json(text: str, file: str) -> None:
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise CampaignError([Problem(file, error.lineno, error.colno, "", f"is not JSON: {error.msg}")]) from None
    except _NotJSON as error:
        line = next((n for n, row in enumerate(text.splitlines(), 1) if str(error) in row), 1)
        raise CampaignError([Problem(file, line, 1, "", f"is not JSON: {error} is not a number")]) from None
    except RecursionError:
        raise CampaignError([Problem(file, 1, 1, "", f"is nested deeper than {_DEEPEST} levels")]) from None


def parse_document(text: str, file: str) -> Document:
    """Parse YAML text (JSON is YAML). Raises CampaignError with one Problem; see `Document.problems` for values."""
    return _Builder(text, file).document()


class _Builder:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.lines: list[str] | None = None
        self.anchors: dict[str, tuple[Any, int]] = {}  # value and number of nodes in it
        self.open_anchors: set[str] = set()
        self.nodes = 0
        self.expanded = 0
        self.warnings: list[Problem] = []
        self.problems: list[Problem] = []

    def note(self, mark: Any, message: str) -> None:
        """Remember a mistake that does not keep the rest from being read."""
        self.problems += self.refuse(mark, message).problems

    def refuse(self, mark: Any, message: str) -> CampaignError:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        return CampaignError([Problem(self.file, line, column, "", message)])

    def _refuse_huge_lists(self) -> None:
        """Refuse lists with more values than a file may hold, before a parser takes seconds and gigabytes to count them."""
        flow = max(_FLOW_LIST.finditer(self.text), key=lambda m: m.end() - m.start(), default=None)
        at = flow.start() if flow is not None and flow[0].count(",") > _MOST_NODES else None
        if at is None and self.text.count("- ") > _MOST_NODES:
            items = _BLOCK_ITEM.finditer(self.text)
            at = next((m.end() for number, m in enumerate(items) if number > _MOST_NODES), None)
        if at is not None:
            line, begins = self.text.count("\n", 0, at) + 1, self.text.rfind("\n", 0, at) + 1
            message = f"holds more than {_MOST_NODES} values (use a matrix or a table)"
            raise CampaignError([Problem(self.file, line, at - begins + 1, "", message)])

    def line(self, number: int) -> str:
        if self.lines is None:
            self.lines = self.text.splitlines()
        return self.lines[number] if number < len(self.lines) else ""

    def document(self) -> Document:
        self._refuse_huge_lists()
        parser = None
        try:
            parser = _Parser(self.text)
            events = self._events(parser)
            next(events)  # stream start
            event = next(events)
            if isinstance(event, yaml.StreamEndEvent):
                raise CampaignError([Problem(self.file, 1, 1, "", "is empty")])
            first = next(events)
            root = self._node(first, events, 0)
            next(events)  # document end
            event = next(events)
            if not isinstance(event, yaml.StreamEndEvent):
                raise self.refuse(event.start_mark, "a second document; a file holds one")
        except yaml.reader.ReaderError as error:
            raise self._unreadable(error) from None
        except yaml.MarkedYAMLError as error:
            raise self._syntax_error(error) from None
        finally:
            if parser is not None:
                parser.dispose()
        mark = (first.start_mark.line + 1, first.start_mark.column + 1)
        document = Document(self.file, root, mark, self.warnings, self.text)
        document.problems = self.problems
        return document

    @staticmethod
    def _events(parser: Any) -> Iterator[Any]:
        while parser.check_event():
            yield parser.get_event()

    def _unreadable(self, error: yaml.reader.ReaderError) -> CampaignError:
        position = error.position if isinstance(error.position, int) else 0
        before = self.text[:position]
        line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
        code = error.character if isinstance(error.character, int) else ord(str(error.character)[:1] or "?")
        message = f"is not text: character U+{code:04X} is not allowed in YAML"
        return CampaignError([Problem(self.file, line, column, "", message)])

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> CampaignError:
        mark = error.problem_mark or error.context_mark
        if "end of stream" in (error.problem or "") and "quoted scalar" in str(error.context):
            return self.refuse(error.context_mark, "is not YAML: the quote that opens here is never closed")
        text = self.line(mark.line) if mark is not None else ""
        what = (error.problem or "cannot be parsed").replace("did not find expected", "expected").strip()
        near = text[: mark.column + 1] if mark is not None else ""
        hint = ""
        if "mapping values are not allowed" in what and not re.match(r"[^#'\"]*:\s*[{\[]", text):
            hint = " (a text with ': ' must be quoted, or the indentation is off)"
        elif "${{" in text and ("{" in near.replace("${{", "") or "[" in near):
            hint = ' (put "${{ … }}" in double quotes inside { } and [ ])'
        elif "\t" in text[: max(len(text) - len(text.lstrip()), 0)] or "'\\t'" in what:
            hint = " (a tab cannot indent YAML; use spaces)"
        elif "alias" in str(error.context) or "alias" in what:
            hint = " (a value with a leading * must be quoted)"
        elif "flow" in str(error.context) and error.context_mark is not None:
            opener = "{" if "mapping" in str(error.context) else "["
            hint = f" (the {opener} that opens in line {error.context_mark.line + 1} is not closed)"
        elif what == "expected key":
            what, hint = "a key expected", " (the indentation is off)"
        return self.refuse(mark, f"is not YAML: {what}{hint}")

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise self.refuse(event.start_mark, f"holds more than {_MOST_NODES} values (use a matrix or a table)")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > _DEEPEST:
            raise self.refuse(event.start_mark, f"is nested deeper than {_DEEPEST} levels")
        anchor, before = event.anchor, self.nodes + self.expanded
        if anchor:
            self.open_anchors.add(anchor)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._check_tag(event, "map")
            value = self._mapping(event, events, depth)
        else:
            self._check_tag(event, "seq")
            value = self._sequence(event, events, depth)
        if anchor:
            self.open_anchors.discard(anchor)
            self.anchors[anchor] = (value, self.nodes + self.expanded - before + 1)
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor in self.open_anchors:
            raise self.refuse(event.start_mark, f"alias *{event.anchor} refers to the value that contains it")
        if event.anchor not in self.anchors:
            raise self.refuse(
                event.start_mark, f"*{event.anchor} refers to no anchor (a value with a leading * must be quoted)"
            )
        value, size = self.anchors[event.anchor]
        self.expanded += size
        if self.expanded > _MOST_EXPANDED:
            raise self.refuse(event.start_mark, f"aliases expand to more than {_MOST_EXPANDED} values")
        return value

    def _check_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!") and _TAGS.get(event.tag) != kind:
            self.note(event.start_mark, f"the tag {event.tag} is not allowed in a campaign")

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.tag not in (None, "!"):
            kind = _TAGS.get(event.tag)
            if kind in (None, "map", "seq"):
                self.note(event.start_mark, f"the tag {event.tag} is not allowed in a campaign")
                return text
            if kind == "str":
                return text
        elif not event.implicit[0]:
            return text
        if not event.style and "#" in self._rest_of_line(event):
            self._warn_of_comment(event)
        try:
            return resolve_scalar(text)
        except ValueError as error:
            self.note(event.start_mark, str(error))
            return text

    def _rest_of_line(self, event: Any) -> str:
        if event.start_mark.line != event.end_mark.line or " " not in event.value:
            return ""
        return self.line(event.end_mark.line)[event.end_mark.column :]

    def _warn_of_comment(self, event: Any) -> None:
        line, column = event.end_mark.line + 1, event.end_mark.column + 1
        rest = self._rest_of_line(event).strip()
        self.warnings.append(
            Problem(self.file, line, column, "", f"'{rest[:40]}' is read by YAML as a comment, not as part of the value "
                    "(quote the text, or write it below `|`, if it belongs to it)", "warning")
        )  # fmt: skip

    def _mapping(self, event: Any, events: Iterator[Any], depth: int) -> Map:
        start = event.start_mark
        out = Map((start.line + 1, start.column + 1))
        merges: list[tuple[Any, Any]] = []
        for key_event in events:
            if isinstance(key_event, yaml.MappingEndEvent):
                break
            if isinstance(key_event, yaml.AliasEvent):
                key: Any = self._alias(key_event)
            elif isinstance(key_event, yaml.ScalarEvent):
                key = key_event.value
                if key_event.anchor:
                    self.anchors[key_event.anchor] = (key, 1)
            else:
                raise self.refuse(key_event.start_mark, "a key must be a text")
            if not isinstance(key, str):
                raise self.refuse(key_event.start_mark, "a key must be a text")
            value_event = next(events)
            self.nodes += 1
            mark = value_event.start_mark
            value = self._node(value_event, events, depth + 1)
            if key == "<<" and not getattr(key_event, "style", None):
                merges.append((value, mark))
                continue
            if key in out:
                line = out.keys_at[key][0]
                self.note(key_event.start_mark, f"duplicate key '{key}' (first defined on line {line})")
                continue
            out[key] = value
            out.keys_at[key] = (key_event.start_mark.line + 1, key_event.start_mark.column + 1)
            out.values_at[key] = (mark.line + 1, mark.column + 1)
        for value, mark in merges:
            self._merge(out, value, mark)
        return out

    def _merge(self, out: Map, value: Any, mark: Any) -> None:
        for item in value if isinstance(value, Seq) else [value]:
            if not isinstance(item, Map):
                self.note(mark, "<< needs a mapping, or a list of mappings")
                continue
            self.expanded += len(item)
            if self.expanded > _MOST_EXPANDED:
                raise self.refuse(mark, f"aliases expand to more than {_MOST_EXPANDED} values")
            for key in item:
                if key not in out:
                    out[key] = item[key]
                    out.keys_at[key] = item.keys_at[key]
                    out.values_at[key] = item.values_at[key]

    def _sequence(self, event: Any, events: Iterator[Any], depth: int) -> Seq:
        start = event.start_mark
        out = Seq((start.line + 1, start.column + 1))
        for item_event in events:
            if isinstance(item_event, yaml.SequenceEndEvent):
                break
            out.items_at.append((item_event.start_mark.line + 1, item_event.start_mark.column + 1))
            out.append(self._node(item_event, events, depth + 1))
        return out


def plain(value: Any) -> Any:
    """Return a copy of a parsed value made of plain dicts and lists, without `x-` keys."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not key.startswith("x-")}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml may be absent: a base chosen at run time
    """Writes texts so that our own rules for scalars read them as texts; of several lines, as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = None
    if "\n" in text and not re.search(r"[^\S\n]\n|\A\s|[^\n\t -~\xa0-\ud7ff]", text):
        style = "|"
    else:
        try:
            style = None if isinstance(resolve_scalar(text), str) and "#" not in text else '"'
        except ValueError:
            style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_document(document: Mapping[str, Any], *, as_json: bool) -> str:
    """Write a campaign as YAML or JSON, which reads back as the same values."""
    if as_json:
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text
