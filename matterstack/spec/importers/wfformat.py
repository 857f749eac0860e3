"""WfFormat, the JSON of recorded workflows (WfCommons), to a campaign.

Each task becomes a task with its recorded command. A file that one task makes and others read is an output and an
input, so the edges are those of the files; a recorded parent without a common file goes under `needs`.
Source: WfCommons, "WfFormat" JSON Schema 1.3, 1.4 and 1.5, https://github.com/wfcommons/WfFormat
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matterstack.core.selection import WILDCARD
from matterstack.core.validation import find_errors
from matterstack.deferred import dataclass
from matterstack.errors import CampaignError, Problem
from matterstack.spec.expand import RESERVED_FILES
from matterstack.spec.loader import dotted
from matterstack.spec.paths import path_problem

_LARGEST = 512 * 2**20  # bytes, decompressed
_LONGEST_NAME = 100
_CURE = " (put what tasks read beside the campaign and import again; programs must be on PATH)"

_STRINGS = {"type": "array", "items": {"type": "string"}, "x-expected": "a list of names"}
_COMMAND = {
    "type": ["object", "null"], "x-expected": "a mapping with program and arguments",
    "properties": {
        "program": {"type": ["string", "null"]},
        "arguments": {"type": ["array", "null"], "items": {"type": ["string", "number", "boolean"], "x-expected": "a text or number"}},
    },
}  # fmt: skip
_NUMBER = {"type": ["number", "null"], "x-expected": "a number"}
_SCHEMA = {  # only what is read here, of both layouts
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "wfformat",
    "type": "object", "x-expected": "a WfFormat document", "required": ["workflow"],
    "properties": {
        "name": {"type": "string", "x-expected": "a text"},
        "workflow": {
            "type": "object", "x-expected": "a mapping", "anyOf": [{"required": ["specification"]}, {"required": ["tasks"]}],
            "properties": {
                "specification": {
                    "type": "object", "x-expected": "a mapping", "required": ["tasks"],
                    "properties": {"tasks": {"$ref": "#/$defs/tasks"}},
                },
                "execution": {
                    "type": ["object", "null"], "x-expected": "a mapping",
                    "properties": {"tasks": {"type": "array", "x-expected": "a list of tasks", "items": {
                        "type": "object", "x-expected": "a mapping with an id", "required": ["id"],
                        "properties": {"id": {"type": "string"}, "command": _COMMAND, "coreCount": _NUMBER, "memoryInBytes": _NUMBER},
                    }}},
                },
                "tasks": {"$ref": "#/$defs/tasks"},
            },
        },
    },
    "$defs": {"tasks": {"type": "array", "minItems": 1, "x-expected": "a list of at least one task", "items": {
        "type": "object", "x-expected": "a mapping", "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
        "properties": {
            "id": {"type": "string", "minLength": 1, "x-expected": "a text"}, "name": {"type": "string", "minLength": 1, "x-expected": "a text"},
            "parents": _STRINGS, "inputFiles": _STRINGS, "outputFiles": _STRINGS, "command": _COMMAND,
            "cores": _NUMBER, "coreCount": _NUMBER, "memory": _NUMBER, "memoryInBytes": _NUMBER,
            "files": {"type": "array", "items": {
                "type": "object", "required": ["link"], "anyOf": [{"required": ["name"]}, {"required": ["id"]}],
                "properties": {"name": {"type": "string", "minLength": 1, "x-expected": "a text"}, "id": {"type": "string", "minLength": 1, "x-expected": "a text"}, "link": {"enum": ["input", "output"]}},
            }, "x-expected": "a list of files"},
        },
    }}},
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    document: dict[str, Any]  # the campaign
    edges: int
    remarks: tuple[str, ...]


@dataclass()
class _Task:
    id: str
    name: str
    parents: list[str]
    inputs: list[str]
    outputs: list[str]
    command: Mapping[str, Any]
    cores: float | None
    memory: float | None


def read_wfformat(path: Path, folder: Path) -> Imported:
    """Read a WfFormat file, plain or compressed by xz or gzip, as a campaign for ``folder``.

    Files that no task makes become inputs if they lie in ``folder``, else they are listed under `x-external-inputs`.
    Raises CampaignError for a file that is not WfFormat.
    """
    document = _read(path)
    shown = [
        Problem(str(path), 0, 0, dotted(where), message)
        for where, message, *_ in find_errors(json.dumps([_SCHEMA]), "wfformat", document)
    ]
    if shown:
        raise CampaignError(shown[:20])
    tasks = _tasks(document["workflow"])
    double = _first_double(task.id for task in tasks)
    if double is not None:
        raise CampaignError([Problem(str(path), 0, 0, "", f"two tasks have the id '{double}'")])
    return _Converter(document, tasks, folder, path).convert()


def _read(path: Path) -> Any:
    def refuse(message: str) -> CampaignError:
        return CampaignError([Problem(str(path), 0, 0, "", message)])

    try:
        with open(path, "rb") as raw, _decompressed(raw) as opened:
            data = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        raise refuse("no such file") from None
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise refuse(f"cannot be decompressed: {error}") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _LARGEST:
        raise refuse(f"has more than {_LARGEST} bytes")
    try:
        text = data.decode()
        if re.search(r"\\u[dD][89a-fA-F]", text):  # escapes of halves of characters: only pairs are text
            json.dumps(json.loads(text), ensure_ascii=False).encode()
        return json.loads(text)
    except UnicodeEncodeError:
        raise refuse("holds half of a character (a lone surrogate), which is not text") from None
    except UnicodeDecodeError:
        raise refuse("is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not JSON: {error}") from None


def _decompressed(raw: Any) -> Any:
    magic = raw.read(6)
    raw.seek(0)
    if magic == b"\xfd7zXZ\x00":
        return lzma.open(raw)
    return gzip.open(raw) if magic[:2] == b"\x1f\x8b" else raw


def _tasks(workflow: Mapping[str, Any]) -> list[_Task]:
    if "specification" not in workflow:  # up to 1.4
        return [
            _Task(
                item.get("id") or item["name"], item.get("category") or item.get("name") or item["id"],
                item.get("parents", []), _linked(item, "input"), _linked(item, "output"), item.get("command") or {},
                item.get("coreCount", item.get("cores")), item.get("memoryInBytes", item.get("memory")),
            )
            for item in workflow["tasks"]
        ]  # fmt: skip
    executed = {item["id"]: item for item in (workflow.get("execution") or {}).get("tasks", [])}
    tasks = []
    for item in workflow["specification"]["tasks"]:
        task_id = item.get("id") or item["name"]
        done = executed.get(task_id, {})
        tasks.append(
            _Task(
                task_id, item.get("name") or task_id, item.get("parents", []), item.get("inputFiles", []),
                item.get("outputFiles", []), done.get("command") or {}, done.get("coreCount"), done.get("memoryInBytes"),
            )
        )  # fmt: skip
    return tasks


def _linked(item: Mapping[str, Any], link: str) -> list[str]:
    return [file.get("name") or file["id"] for file in item.get("files", []) if file["link"] == link]


def _first_double(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class _Converter:
    def __init__(self, document: Mapping[str, Any], tasks: list[_Task], folder: Path, path: Path) -> None:
        self.title = str(document.get("name") or "workflow")
        self.path = path
        self.tasks = tasks
        self.folder = folder
        self.names = _unique_names([task.id for task in tasks])
        by_name: dict[str, str] = {}
        for task in tasks:
            by_name.setdefault(task.name, task.id)
        self.by_name = by_name  # older files name parents by it
        self.makers: dict[str, list[str]] = {}
        for task in tasks:
            for file in dict.fromkeys(task.outputs):
                self.makers.setdefault(file, []).append(task.id)
        self.paths: dict[tuple[str, str], str] = {}  # (task, file) -> path below results/
        self.outside: dict[str, None] = {}
        self.unknown_parents = 0
        self.without_command = 0
        self.edges = 0

    def convert(self) -> Imported:
        specs = {self.names[task.id]: self._outputs(task) for task in self.tasks}
        for task in self.tasks:
            spec = specs[self.names[task.id]]
            spec.update(self._rest(task, spec))
        outside = [file for file in self.outside if file not in self.makers]
        safe_name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.title).strip("-.")[:100] or "workflow"
        document: dict[str, Any] = {"matterstack": 1, "name": safe_name}
        document["description"] = f"Imported from {self.path.name} (WfFormat)."
        if outside:
            document["x-external-inputs"] = outside
        document["tasks"] = {
            name: {key: value for key, value in spec.items() if value not in ({}, [])} for name, spec in specs.items()
        }
        return Imported(document, self.edges, tuple(self._remarks(outside)))

    def _remarks(self, outside: list[str]) -> Iterable[str]:
        if len(outside) == 1:
            yield f"1 file that no task makes is not here; it is listed under x-external-inputs{_CURE}"
        elif outside:
            yield f"{len(outside)} files that no task makes are not here; they are listed under x-external-inputs{_CURE}"
        if self.without_command == 1:
            yield "1 task has no recorded command; it runs its name as a program"
        elif self.without_command:
            yield f"{self.without_command} tasks have no recorded command; they run their names as programs"
        if self.unknown_parents:
            yield f"named as parents, but no tasks of the workflow and left out: {self.unknown_parents}"
        shared = sum(len(makers) > 1 for makers in self.makers.values())
        if shared:
            yield f"{shared} files are made by several tasks; a reader gets that of its parent, or else of the first"

    def _outputs(self, task: _Task) -> dict[str, Any]:
        local = _local_names(task.outputs)
        outputs = {}
        for number, (file, name) in enumerate(local.items()):
            self.paths[task.id, file] = f"{self.names[task.id]}/{name}"
            outputs[f"out{number}"] = {"path": self.paths[task.id, file], "file": name}
        described = {} if self.names[task.id] == task.id else {"description": _literal(task.id)}
        return {**described, "outputs": {key: _shown_path(item) for key, item in outputs.items()}}

    def _rest(self, task: _Task, spec: Mapping[str, Any]) -> dict[str, Any]:
        parents = [p if p in self.names else self.by_name.get(p, "") for p in dict.fromkeys(task.parents)]
        self.unknown_parents += parents.count("")
        parents = [parent for parent in dict.fromkeys(parents) if parent]
        taken = {item["file"] for item in spec["outputs"].values()}
        inputs: dict[str, Any] = {}
        implied: dict[str, None] = {}
        own = set(task.outputs)
        for file in own.intersection(task.inputs):  # changed in place: another's version of it comes first
            before = [maker for maker in self.makers[file] if maker != task.id]
            parents += [maker for maker in before[:1] if maker not in parents]
        for file, name in _local_names([file for file in task.inputs if file not in own]).items():
            makers = [maker for maker in self.makers.get(file, []) if maker != task.id]
            maker = next((parent for parent in parents if parent in makers), makers[0] if makers else None)
            if maker is not None:
                path = self.paths[maker, file]
                implied[maker] = None
            elif not path_problem(file) and (self.folder / file).is_file():
                path = file
            else:
                self.outside[file] = None
                continue
            # A path with a wildcard, however written, is a list: it cannot be one file in the working folder.
            as_name = {} if name in taken or WILDCARD.search(path) else {"as": _literal(name)}
            inputs[f"in{len(inputs)}"] = {"path": _escaped(path), **as_name}
        self.edges += len({*implied, *parents})
        return {
            "inputs": inputs,
            "needs": [self.names[parent] for parent in parents if parent not in implied],
            "command": self._command(task),
            "resources": _resources(task),
        }

    def _command(self, task: _Task) -> str | list[str]:
        program = task.command.get("program")
        words = [str(item) for item in task.command.get("arguments") or []]
        if not program:
            self.without_command += 1
            program = task.name
        if not words and re.search(r"\s", program):  # a whole script, as Nextflow records it
            return _literal(program)
        return [_literal(word) for word in (program, *words)]


def _resources(task: _Task) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if task.cores and 1 < task.cores <= 1_000_000:
        resources["cpus"] = math.ceil(task.cores)
    if task.memory and 2**20 <= task.memory < 2**60:
        resources["memory"] = f"{math.ceil(task.memory / 2**20)}M"
    return resources


def _literal(text: str) -> str:
    """Write a text so that nothing in it is a template."""
    return text.replace("${{", "$${{").replace("\0", "")


def _escaped(path: str) -> str:
    """Write a path so that nothing in it is a wildcard or a template."""
    return re.sub(r"([*?\[])", r"[\1]", _literal(path))


def _shown_path(item: Mapping[str, str]) -> dict[str, str]:
    return {key: _literal(value) for key, value in item.items()}


def _local_names(files: Iterable[str]) -> dict[str, str]:
    """Return for each recorded file its name in the working folder: the name by which commands call it.

    A relative path stays; of an absolute one or an address, only its last part can be meant.
    """
    out: dict[str, str] = {}
    taken: set[str] = set()
    above: set[str] = set()  # folders of those taken
    for file in dict.fromkeys(files):
        name = file.rstrip("/")
        if path_problem(name) or "://" in name or not name:
            name = name.rsplit("/", 1)[-1]
        name = re.sub(r"[\0*?\[\]]", "_", name)
        if name in ("", ".", "..") or name.split("/")[0] in RESERVED_FILES or len(name.encode()) > 200:
            name = f"file-{hashlib.sha256(file.encode()).hexdigest()[:8]}"
        while name in taken or name in above or not taken.isdisjoint(_folders_of(name)):
            name = f"{hashlib.sha256(file.encode()).hexdigest()[:8]}/{name}"
        taken.add(name)
        above.update(_folders_of(name))
        out[file] = name
    return out


def _folders_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


def _unique_names(ids: list[str]) -> dict[str, str]:
    """Return each recorded id a name that a task may have."""
    out: dict[str, str] = {}
    taken: set[str] = set()
    for task_id in ids:
        name = re.sub(r"[^A-Za-z0-9_]", "_", task_id)
        if not name or name[0].isdigit():
            name = f"t_{name}"
        salt = ""
        while len(name) > _LONGEST_NAME or name in taken:
            name = f"{name[: _LONGEST_NAME - 9]}_{hashlib.sha256((task_id + salt).encode()).hexdigest()[:8]}"
            salt += "."
        taken.add(name)
        out[task_id] = name
    return out
