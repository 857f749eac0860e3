"""Campaign files that include others: one document is made of all of them, in which each value knows its file.

What an included file says of paths and of `${{ source }}` is about its own folder, and its `defaults` are for its own tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.kinds import kind_of
from matterstack.errors import CampaignError, Problem
from matterstack.spec.files import place_of
from matterstack.spec.loader import Document, Map, Mark, Seq, load_document
from matterstack.spec.schema import check_included

_IMPORTED = ("params", "operators", "tasks")  # names that must not be defined twice
_ALLOWED = {*_IMPORTED, "include", "files", "defaults", "matterstack", "description"}
_FOLDER = re.compile(r"[\w./+-]*\Z")
_SOURCE = re.compile(r"(?<!\$)\$\{\{\s*(?:source|raw\(\s*source\s*\))\s*\}\}")
_MERGED = (
    "env",
    "params",
    "resources",
    "retries",
)  # keys of `defaults` that hold where a task has others of their kind
_MOST = 100  # files


def with_includes(document: Document, home: Path, site: Document | None) -> Document:
    """Return a document with all that its `include` names; the one that was given if it names nothing.

    ``home`` is the campaign folder. What cannot be included is among the `problems` of the document.
    """
    if not isinstance(document.root, Map) or "include" not in document.root:
        return document
    return _Merger(document, home, site).document()


class _Merger:
    def __init__(self, main: Document, home: Path, site: Document | None) -> None:
        self.main = main
        self.home = home
        self.site = site
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.root = Map(main.root.at)
        self.first: dict[tuple[str, str], tuple[str, int]] = {}  # (section, name) -> (file, line) of its definition
        self.bases: dict[str, str] = {}  # included task -> folder of its file
        self.files: list[str] = []  # that were included, relative to the campaign folder
        self.outside: dict[str, str] = {}  # as in `core.model.Campaign`
        self.open_: list[str] = [main.file]
        self.in_part = False
        self.defaults: list[tuple[Map, list[str]]] = []  # of an included file, and its tasks

    def document(self) -> Document:
        for key in self.main.root:
            if key != "include" and key not in (*_IMPORTED, "files"):
                _copy(self.main.root, key, self.root)
        for section in (*_IMPORTED, "files"):
            self._take(self.main, section, "")
        self._include_all(self.main, "")
        whole = self.root.get("tasks")
        for defaults, tasks in self.defaults:
            for name in tasks:
                if isinstance(whole, Map):
                    self._apply(defaults, whole, name)
        done = Document(self.main.file, self.root, self.main.at, [*self.main.warnings, *self.warnings], self.main.text)
        done.problems = [*self.main.problems, *self.problems]
        done.in_part = self.in_part
        here = os.path.dirname(self.main.file)
        done.origins = {
            f"{section}.{name}": os.path.relpath(file, here or ".")
            for (section, name), (file, _) in self.first.items()
            if file != self.main.file
        }
        done.bases, done.included, done.outside = self.bases, tuple(dict.fromkeys(self.files)), self.outside
        return done

    def _include_all(self, document: Document, base: str) -> None:
        given = document.root.get("include")
        if not isinstance(given, Seq) or not all(isinstance(item, str) for item in given):
            self._problem(document, ("include",), "expected a list of files")
            return
        for index, name in enumerate(given):
            self._include(document, base, ("include", index), name)

    def _problem(self, document: Document, path: tuple[str | int, ...], message: str) -> None:
        self.problems.append(document.problem(path, message))
        self.in_part = True

    def _include(self, document: Document, base: str, where: tuple[str | int, ...], name: str) -> None:
        relative, real = self._name(base, name)
        shown = os.path.normpath(Path(self.main.file).parent / real)
        folder = os.path.dirname(relative)
        if folder in self.outside and (self.home / folder).is_dir() and not (self.home / relative).is_file():
            what = f"the run keeps its folder as {folder}, which the campaign folder has already; rename that one"
        elif not _FOLDER.match(folder):
            what = f"the folder '{folder}' has characters that a path in a command cannot have; rename it"
        elif (place := os.path.abspath(shown)) in (there := [os.path.abspath(file) for file in self.open_]):
            what = f"a cycle: {' -> '.join([*self.open_[there.index(place) :], self.open_[there.index(place)]])}"
        elif len(self.files) >= _MOST:
            what = f"more than {_MOST} files are included"
        else:
            what = ""
        if what:
            self._problem(document, where, f"{name}: {what}")
            return
        if relative in self.files:
            return  # by another file as well: it is one
        try:
            other = load_document(place_of(self.home, self.outside, relative), shown, with_problems=True)
        except CampaignError as error:
            first = error.problems[0]
            if first.line:
                self.problems += error.problems
                self.in_part = True
            else:
                self._problem(document, where, f"{name}: {first.message}")
            return
        if not isinstance(other.root, Map):
            self._problem(
                document, where, f"{name}: expected a mapping with params, operators, tasks, files or defaults"
            )
            return
        self.files.append(relative)
        _mark(other.root, shown)
        _rebase(other.root, folder, self.outside)
        self.problems += other.problems
        self.warnings += other.warnings
        for key in other.root:
            if key not in _ALLOWED and not key.startswith("x-"):
                known = ", ".join(sorted(_ALLOWED))
                self.problems.append(
                    other.problem((key,), f"not in a file that is included; it may have {known}", at_key=True)
                )
        refused = check_included(other)
        if refused:
            self.problems += refused
            self.in_part = True
        for section in (*_IMPORTED, "files"):
            self._take(other, section, folder)
        if isinstance(other.root.get("tasks"), Map):
            self.bases |= dict.fromkeys(other.root["tasks"], folder)
            if isinstance(other.root.get("defaults"), Map) and not refused:
                self.defaults.append((other.root["defaults"], list(other.root["tasks"])))
        if "include" in other.root:
            self.open_.append(shown)
            self._include_all(other, folder)
            self.open_.pop()

    def _name(self, base: str, name: str) -> tuple[str, str]:
        """Return what an included file is called in the campaign, and its path from the campaign folder."""
        first, _, rest = base.partition("/")
        real = os.path.normpath(os.path.join(self.outside.get(first, first), rest, name))
        if not os.path.isabs(real) and real.split("/")[0] != "..":
            return real, real
        for known, folder in self.outside.items():
            if real.startswith(f"{folder}/"):
                return f"{known}{real[len(folder) :]}", real
        new = f"_{len(self.outside) + 1}"
        self.outside[new] = os.path.dirname(real)
        return f"{new}/{os.path.basename(real)}", real

    def _take(self, document: Document, section: str, folder: str) -> None:
        """Add a section of a file to the whole."""
        given = document.root.get(section)
        if given is None:
            return
        if section not in self.root:
            kind = Seq if section == "files" else Map
            empty = kind(document.root.values_at[section])
            self.root[section] = empty if isinstance(given, kind) else given
            self.root.keys_at[section], self.root.values_at[section] = (
                document.root.keys_at[section],
                document.root.values_at[section],
            )
        whole = self.root[section]
        if isinstance(given, Seq) and isinstance(whole, Seq):
            whole += given
            whole.items_at += given.items_at
        elif isinstance(given, Map) and isinstance(whole, Map):
            for name in given:
                if name.startswith("x-"):
                    continue
                if (section, name) in self.first:
                    file, line = self.first[section, name]
                    message = f"'{name}' is defined in {file}, line {line}, as well"
                    self.problems.append(document.problem((section, name), message, at_key=True))
                    continue
                self.first[section, name] = document.file, given.keys_at[name][0]
                _copy(given, name, whole)
        elif given is not whole:
            self.problems.append(
                document.problem((section,), "expected a mapping" if section != "files" else "expected a list of globs")
            )

    # --- defaults of an included file ---

    def _apply(self, defaults: Map, tasks: Map, name: str) -> None:
        """Put the defaults of an included file into a task of it, as those of a campaign hold for its tasks."""
        task = tasks.get(name)
        if not isinstance(task, Map):
            return
        merged = Map(task.at)
        for key in task:
            _copy(task, key, merged)
        for key, value in defaults.items():
            if key.startswith("x-") or (key in ("resources", "retries") and self._asks(task, defaults)):
                continue
            if key not in merged:
                _copy(defaults, key, merged)
                continue
            own = merged.get(key)
            if key == "retries":
                own, value = _as_map(own, merged.values_at[key]), _as_map(value, defaults.values_at[key])
            if key in _MERGED and isinstance(own, Map) and isinstance(value, Map):
                whole = Map(own.at)
                for part in value:
                    _copy(value, part, whole)
                for part in own:
                    _copy(own, part, whole)
                merged[key] = whole
            elif key == "setup" and isinstance(own, Seq) and isinstance(value, Seq):
                lines = Seq(own.at)
                lines += [*value, *own]
                lines.items_at += [*value.items_at, *own.items_at]
                merged[key] = lines
        tasks[name] = merged

    def _asks(self, task: Map, defaults: Map) -> bool:
        """Return whether people, a lab or a closed cluster carry a task out: these inherit neither resources nor retries."""
        name = task.get("operator", defaults.get("operator", "local"))
        known = {**_mapping(self.root.get("operators")), **_mapping(self.site.root if self.site is not None else None)}
        operator = known.get(name) if isinstance(name, str) else None
        kind = operator.get("kind") if isinstance(operator, Mapping) else None
        return isinstance(kind, str) and kind_of(kind).asks


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _as_map(retries: Any, at: Mark) -> Any:
    """Return `retries` as a mapping: a number is `max`."""
    if not isinstance(retries, int | str):
        return retries
    out = Map(at)
    out["max"], out.keys_at["max"], out.values_at["max"] = retries, at, at
    return out


def _copy(origin: Map, key: str, target: Map) -> None:
    target[key] = origin[key]
    target.keys_at[key], target.values_at[key] = origin.keys_at[key], origin.values_at[key]


def _mark(node: Any, file: str) -> None:
    """Let each position within a value say the file as well."""
    for value in _nodes(node):
        value.at = (*value.at[:2], file)
        if isinstance(value, Map):
            value.keys_at.update({key: (*at[:2], file) for key, at in value.keys_at.items()})
            value.values_at.update({key: (*at[:2], file) for key, at in value.values_at.items()})
        else:
            value.items_at[:] = [(*at[:2], file) for at in value.items_at]


def _nodes(node: Any) -> Iterator[Any]:
    """Yield the mappings and lists of a value, each once: an alias is the very value of its anchor."""
    seen: set[int] = set()
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, Map | Seq) and id(value) not in seen:
            seen.add(id(value))
            yield value
            stack += value.values() if isinstance(value, Map) else value


def _rebase(root: Map, folder: str, outside: Container[str]) -> None:
    """Let what a file says of its own folder be said from the campaign folder."""
    if not folder:
        return
    for value in _nodes(root):
        items = list(value.items()) if isinstance(value, Map) else list(enumerate(value))
        for key, item in items:
            if isinstance(item, str):
                value[key] = _SOURCE.sub(lambda match: f"{match[0]}/{folder}", item)
    done: set[int] = set()  # an alias is the very value of its anchor

    def from_here(values: Any, keys: Iterable[Any]) -> None:
        if not isinstance(values, Map | Seq) or id(values) in done:
            return
        done.add(id(values))
        for key in keys:
            item = values.get(key) if isinstance(values, Map) else values[key]
            if isinstance(item, str):
                path = os.path.normpath(f"{folder}/{item}")
                if path.split("/")[0] == folder.split("/")[0] or folder.split("/")[0] not in outside:
                    values[key] = path + ("/" if item.endswith("/") else "")

    def all_of(values: Any) -> None:
        from_here(values, range(len(values)) if isinstance(values, Seq) else ())

    all_of(root.get("files"))
    tasks = root.get("tasks")
    for part in (root.get("defaults"), *(tasks.values() if isinstance(tasks, Map) else ())):
        if not isinstance(part, Map):
            continue
        all_of(part.get("uses"))
        matrix = part.get("matrix")
        if isinstance(matrix, Map):
            from_here(matrix, ["table"])
            for axis in matrix.values():
                if isinstance(axis, Map):
                    from_here(axis, ["files"])
