"""A checked document to a `Campaign`: defaults merged in, units converted, templates in their right places."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from matterstack.core.kinds import kind_of
from matterstack.core.model import (
    Campaign,
    DependencyRule,
    InputSpec,
    OperatorSpec,
    OutputSpec,
    Repeat,
    Restart,
    Retries,
    Tasks,
    TaskSpec,
)
from matterstack.core.resources import parse_retries, retry_problems
from matterstack.core.suggestions import did_you_mean
from matterstack.core.values import as_text, parse_memory, parse_time
from matterstack.errors import Problem, TemplateError
from matterstack.spec.axes import OF_MATRIX, files_axes
from matterstack.spec.late import late_axes
from matterstack.spec.loader import Document
from matterstack.spec.mend import Doubts
from matterstack.spec.paths import path_problem
from matterstack.template.language import conditional_parts, is_template, parse, references, uses_raw, whole
from matterstack.template.shell import command_problems, has_pipe

Path = tuple[str | int, ...]

ASKED_KEYS = (
    "instructions", "response_schema", "result_schema", "deadline", "on_deadline", "default",
    "responders",
)  # fmt: skip
_OPERATOR_KEYS = ("kind", "max_active", "slots", "setup", "env", "resources", "params")

_ALL = (
    "params",
    "matrix",
    "inputs",
    "outputs",
    "source",
    "resources",
    "operator",
    "task",
    "run",
    "response",
    "metrics",
    "carry",
    "repeat",
)
_OF_ROUNDS = ("carry", "repeat")  # only in the tasks of a loop
_EARLY = ("params", "matrix", "task", "repeat")
_DECIDED = ("params", "matrix", "task", "response", "metrics", *_OF_ROUNDS)
ROOTS: dict[str, tuple[str, ...]] = {  # the table of docs/campaign-file.md: which roots each key may use
    "matrix": ("params", "response", "metrics", *_OF_ROUNDS),
    "label": _EARLY, "needs": _EARLY, "operator": _EARLY, "priority": _EARLY, "inputs": (*_EARLY, "carry"), "outputs": _EARLY,
    "command": _ALL, "command_text": _ALL, "setup": _ALL, "env": _ALL, "params": _ALL, "instructions": _ALL,
    "resources": _DECIDED, "deadline": _DECIDED, "retries": _DECIDED,
    "when": tuple(root for root in _ALL if root not in ("inputs", "outputs")),
    "response_schema": ("params", "matrix"), "result_schema": ("params", "matrix"),
    "until": ("params", "matrix", "task", "response", "metrics", *_OF_ROUNDS),
    "carry": ("params", "matrix", "task", "response", "metrics", *_OF_ROUNDS), "carry_path": ("params", "matrix"),
}  # fmt: skip
_OF_A_LOOP = frozenset({"description", "matrix", "label", "needs", "when", "repeat", "allow_failure", "expect"})


_OF_A_LAUNCH = ("command", "command_text", "setup", "env", "params", "instructions")  # resolved when it is handed over


class Builder:
    """Collects the problems of a whole document instead of stopping at the first."""

    def __init__(
        self,
        document: Document,
        operators: Document | None,
        overrides: Mapping[str, Any],
        doubts: Doubts | None = None,
        kept: Collection[str] = (),
    ) -> None:
        """Work on a document that was mended; ``doubts`` say what cannot be judged since."""
        self.document = document
        self.operators_document = operators
        self.overrides = overrides
        self.kept = kept  # of these, what was set before
        self.problems: list[Problem] = []
        self._refused: set[Path] = set()
        self._told: set[Problem] = set()
        self.kinds: dict[str, str] = {}  # of operators
        self.operators: dict[str, OperatorSpec] = {}
        self.root: dict[str, Any] = document.plain
        self.doubts = doubts or Doubts()

    @property
    def file(self) -> str:
        return self.document.file

    def lines_from_defaults(self, task: str, lines: int) -> int:
        return lines - len(self.root["tasks"][task].get("setup", ()))

    def add(self, path: Path, message: str, *, at_key: bool = False, severity: str = "error") -> None:
        path = self._written_at(path)
        problem = self.document.problem(path, message, at_key=at_key, severity=severity)
        if severity == "error":
            self._refused.add(path)
        if problem not in self._told:
            self._told.add(problem)
            self.problems.append(problem)

    def _written_at(self, path: Path) -> Path:
        """Return where a value of a task stands: under `defaults` if the task has it from there."""
        if len(path) < 3 or path[0] != "tasks" or not isinstance(self.root.get("tasks"), dict):
            return path
        task, defaults = self.root["tasks"].get(path[1]), self._defaults_of(str(path[1]))
        if not isinstance(task, dict) or not isinstance(defaults, dict) or path[2] not in defaults:
            return path
        inherited = ("defaults", *path[2:])
        if path[2] not in task:
            return inherited
        merged = isinstance(task[path[2]], dict) and isinstance(defaults[path[2]], dict) and len(path) > 3
        if merged and path[3] not in task[path[2]] and path[3] in defaults[path[2]]:
            return inherited
        return path

    def _defaults_of(self, task: str) -> Any:
        """Return the defaults that hold for a task: one of an included file has those of that in it already."""
        return {} if task in self.document.bases else self.root.get("defaults", {})

    def has_problem(self, path: Path) -> bool:
        """Return whether the form of a value was refused, so that evaluating it would only repeat that."""
        return self._written_at(path) in self._refused

    def may_give(self, root: str, task: str) -> bool:
        """Return whether a task may give what `response.TASK` or `metrics.TASK` names."""
        return root == "metrics" or task in self._answering

    def build(self) -> Campaign:
        """Return the campaign; where `problems` is not empty afterwards, it is only good for further checks."""
        root = self.root
        defaults = root.get("defaults", {})
        operators = self._operators()
        self.kinds = {name: operator.kind for name, operator in operators.items()}
        self.operators = operators
        self._check_defaults(defaults)
        tasks = Tasks({name: self._task(name, task, self._defaults_of(name)) for name, task in root["tasks"].items()})
        for name, spec in tasks.items():
            late = late_axes(spec, tasks) if spec.matrix is not None else ()
            if late:
                people = replace(spec.for_people, late=late) if spec.for_people is not None else None
                tasks[name] = replace(spec, late=late, for_people=people)
        return Campaign(
            name=root["name"],
            description=root.get("description", ""),
            params=self._params(),
            files=tuple(root.get("files", ())),
            operators=operators,
            tasks=tasks,
            git_max_size=self._convert(parse_memory, root.get("git_max_size", "10M"), ("git_max_size",)) or 0,
            limits=root.get("limits", {}),
            outside=self.document.outside,
        )

    def _params(self) -> dict[str, Any]:
        params = dict(self.root.get("params", {}))
        for path, text in _texts(params, ("params",)):
            if is_template(text):
                self.add(path, "templates cannot be used in the campaign's params")
        for name, value in self.overrides.items():
            first, *keys = name.split(".")
            if first not in params and not (self.doubts.params or first in self.doubts.param_names):
                known = f"it has {', '.join(params)}" if params else "it has none"
                known += f"; it was set before: --unset {name} drops that" if name in self.kept else ""
                self.add(("params",), f"--set {name}: no such parameter{did_you_mean(first, params)}; {known}")
            params[first] = self._with_key(name, params.get(first), keys, value) if keys else value
        return params

    def _with_key(self, name: str, value: Any, keys: Sequence[str], new: Any) -> Any:
        """Return a parameter with one key of its mappings set, as `--set a.b=x` says."""
        if not keys:
            return new
        if not isinstance(value, Mapping):
            self.add(("params",), f"--set {name}: there is no mapping that has a key '{keys[0]}'")
            return value
        if keys[0] not in value:
            has = f"it has {', '.join(map(str, value))}" if value else "it is empty"
            self.add(("params",), f"--set {name}: no such key{did_you_mean(keys[0], value)}; {has}")
            return value
        return {**value, keys[0]: self._with_key(name, value[keys[0]], keys[1:], new)}

    def _convert(self, parse_value: Any, value: Any, path: Path) -> Any:
        if value is None or is_template(value):
            return None
        try:
            return parse_value(value)
        except ValueError as error:
            self.add(path, str(error))
            return None

    def _output_spec(self, item: Any, path: Path) -> OutputSpec:
        if isinstance(item, str):
            return OutputSpec(item)
        size = item.get("min_size", 0)
        return OutputSpec(
            item["path"], item.get("file"), item.get("optional", False), item.get("not_empty", False),
            int(size) if not isinstance(size, str) else self._convert(parse_memory, size, (*path, "min_size")) or 0,
            item.get("temporary", False),
        )  # fmt: skip

    # --- operators ---

    def _operators(self) -> dict[str, OperatorSpec]:
        specs = {"local": OperatorSpec("local", "local")}
        for name, data in self.root.get("operators", {}).items():
            specs[name] = self._operator(name, data, self.document, ("operators", name))
        if self.operators_document is not None:
            for name, data in self.operators_document.plain.items():
                specs[name] = self._operator(name, data, self.operators_document, (name,))
        return specs

    def _operator(self, name: str, data: Mapping[str, Any], document: Document, path: Path) -> OperatorSpec:
        def add(where: Path, message: str) -> None:
            self.problems.append(document.problem((*path, *where), message))

        for where, text in _texts(data, ()):
            if not is_template(text):
                continue
            if where[0] not in ("setup", "env", "resources"):
                add(where, "templates cannot be used here")
            elif document is self.document:
                self._check_form((*path, *where), str(where[0]), text)
        slots = data.get("slots", {})
        memory = None
        try:
            memory = parse_memory(slots["memory"]) if "memory" in slots else None
        except ValueError as error:
            add(("slots", "memory"), str(error))
        for key in ("memory", "time"):
            value = data.get("resources", {}).get(key)
            if value is not None and not is_template(value):
                try:
                    (parse_memory if key == "memory" else parse_time)(value)
                except ValueError as error:
                    add(("resources", key), str(error))
        return OperatorSpec(
            name=name,
            kind=data["kind"],
            max_active=data.get("max_active"),
            slot_cpus=slots.get("cpus"),
            slot_memory=memory,
            slot_gpus=_gpu_ids(slots.get("gpus")),
            setup=tuple(data.get("setup", ())),
            env=data.get("env", {}),
            resources=data.get("resources", {}),
            params=data.get("params", {}),
            options={key: value for key, value in data.items() if key not in _OPERATOR_KEYS},
        )

    # --- tasks ---

    def _task(self, name: str, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> TaskSpec:
        """Return a task with the defaults that hold for it: people, labs and parcels inherit no resources or retries."""
        kinds = self.kinds_of(data.get("operator", defaults.get("operator", "local")))
        own = {key: value for key, value in defaults.items() if key not in ("resources", "retries")}
        asking = {kind for kind in kinds if kind_of(kind).asks}
        if kinds and kinds == asking:
            return self._merged_task(name, data, own)
        spec = self._merged_task(name, data, defaults)
        if len(own) == len(defaults) or not asking:
            return spec
        return replace(spec, for_people=self._merged_task(name, data, own))

    def kinds_of(self, operator: Any) -> set[str]:
        """Return the kinds that a task's operator may have: of a template, those of all operators."""
        if is_template(operator):
            return set(self.kinds.values())
        return {self.kinds[operator]} if operator in self.kinds else set()

    def _merged_task(self, name: str, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> TaskSpec:
        path: Path = ("tasks", name)

        def merged(key: str) -> dict[str, Any]:
            return {**defaults.get(key, {}), **data.get(key, {})}

        def value(key: str, default: Any = None) -> Any:
            return data[key] if key in data else defaults.get(key, default)

        command = data.get("command")
        retries, retries_written = self._retries(data.get("retries", {}), defaults.get("retries", {}), path)
        spec = TaskSpec(
            name=name,
            description=value("description", ""),
            command=tuple(as_text(item) for item in command) if isinstance(command, list) else command,
            shell=value("shell", "bash"),
            operator=value("operator", "local"),
            setup=(*defaults.get("setup", ()), *data.get("setup", ())),
            env=merged("env"),
            params=merged("params"),
            resources=merged("resources"),
            retries=retries,
            retries_written=retries_written,
            priority=value("priority", 0),
            allow_failure=value("allow_failure", False),
            allow_dependency_failure=_dependency_rule(value("allow_dependency_failure", False)),
            allow_skipped=value("allow_skipped", False),
            background=value("background", ""),
            restart=self._restart(value("restart"), merged("resources"), path),
            uses=tuple(value("uses", ())),
            needs=tuple(data.get("needs", ())),
            inputs={
                key: _input_spec(item, self.document.bases.get(name, ""))
                for key, item in data.get("inputs", {}).items()
            },
            outputs={
                key: self._output_spec(item, (*path, "outputs", key)) for key, item in data.get("outputs", {}).items()
            },
            matrix=data.get("matrix"),
            label=data.get("label"),
            when=value("when"),
            bundle=value("bundle"),
            expect=data.get("expect"),
            repeat=self._repeat(data["repeat"], data, path) if isinstance(data.get("repeat"), Mapping) else None,
            asked={key: value(key) for key in ASKED_KEYS if key in data or key in defaults},
        )
        self._check_forms(spec, path, data)
        if isinstance(command, list) and as_text(command[0]).strip() == "":
            self.add((*path, "command"), "the name of the program is empty")
        elif isinstance(command, str) and not command.strip():
            self.add((*path, "command"), "is empty")
        for key, convert in (("memory", parse_memory), ("time", parse_time)):
            self._convert(convert, spec.resources.get(key), (*path, "resources", key))
        self._convert(parse_time, spec.asked.get("deadline"), (*path, "deadline"))
        lines = [command] if isinstance(command, str) and not self.has_problem((*path, "command")) else []
        if spec.shell == "sh" and not any("pipefail" in line for line in spec.setup) and any(map(has_pipe, lines)):
            cure = "write `shell: bash`, or split the pipeline"
            message = f"under `shell: sh` a failure before a | is not noticed ({cure})"
            self.add((*path, "command"), message, severity="warning")
        return spec

    def _repeat(self, given: Mapping[str, Any], data: Mapping[str, Any], path: Path) -> Repeat:
        for key in data:
            if key not in _OF_A_LOOP:
                self.add((*path, key), f"a loop runs nothing itself; '{key}' belongs to its tasks", at_key=True)
        if not any(name.startswith(f"{path[1]}/") for name in self.root["tasks"]) and not self.doubts.any:
            self.add(path, "a loop needs tasks: write them below `tasks`", at_key=True)
        until = given.get("until")
        if isinstance(until, str) and not is_template(until):
            self.add((*path, "repeat", "until"), f"must be exactly one template: ${{{{ {until.strip()} }}}}")
        carry = {key: value for key, value in given.get("carry", {}).items() if not str(key).startswith("x-")}
        for name, item in carry.items():
            first, following = (_is_path(item.get(key)) for key in ("first", "next"))
            if first != following and {"first", "next"} <= set(item):
                kinds = ("a path", "a value") if first else ("a value", "a path")
                message = f"`first` is {kinds[0]} and `next` {kinds[1]}: both are files, or both are values (a value as one template)"
                self.add((*path, "repeat", "carry", name), message)
        return Repeat(int(given["max"]), given.get("until"), carry, given.get("on_max", "complete"))

    def _restart(self, given: Any, resources: Mapping[str, Any], path: Path) -> Restart | None:
        if not isinstance(given, Mapping):
            return None
        where = (*path, "restart")
        for index, pattern in enumerate(given["files"]):
            problem = path_problem(pattern)
            if problem:
                self.add((*where, "files", index), problem)
        warn = self._convert(parse_time, given.get("warn"), (*where, "warn"))
        time = resources.get("time")
        if warn is not None and not is_template(time):
            try:
                limit = parse_time(time) if time is not None else None
            except ValueError:
                limit = warn + 1  # told already
            if limit is None or warn >= limit:
                has = f"its time limit is {time}" if limit is not None else "it has no time limit"
                self.add((*where, "warn"), f"{has}, so there is no moment {given['warn']} before that")
        return Restart(tuple(given["files"]), tuple(given.get("after", Restart(()).after)), given.get("max", 20), warn)

    def _retries(self, own: Any, default: Any, path: Path) -> tuple[Retries, tuple[Any, ...]]:
        """Return the retries, or with templates their layers, to be resolved at each attempt."""
        layers = tuple(layer for layer in (default, own) if layer != {})
        if any(is_template(text) for layer in layers for _, text in _texts(layer, ())):
            return Retries(), layers
        for layer, place in ((default, ("defaults",)), (own, path)):
            for keys, message in retry_problems(_as_mapping(layer)):
                self.add((*place, "retries", *keys), message)
        try:
            return parse_retries(*layers), ()
        except ValueError:
            return Retries(), ()

    def _check_forms(self, spec: TaskSpec, path: Path, data: Mapping[str, Any]) -> None:
        """Report templates where none may stand, that cannot be parsed, or that name a root not known there."""
        for where, text in _texts(data, ()):
            if not is_template(text):
                continue
            key = str(where[0])
            full = (*path, *where)
            if key == "matrix" and (where[1] in ("table", "include", "exclude", "zip") or where[2:] == ("files",)):
                self.add(full, "templates cannot be used here")
                continue
            form = "command_text" if key == "command" and isinstance(spec.command, str) else key
            if key == "repeat":
                form = "until" if where[1] == "until" else "carry" if whole(text) is not None else "carry_path"
            self._check_form(full, form, text, spec)
            with suppress(TemplateError):  # told already
                for reference in references(text):
                    if reference[0] in ROOTS.get(form, ()):
                        self._check_name(full, reference, key, spec)

    def _check_name(self, path: Path, reference: tuple[str, ...], key: str, spec: TaskSpec) -> None:
        """Report a name below a root that cannot be there, whatever the instance."""
        root, names = reference[0], reference[1:]
        loop = spec.name if spec.repeat is not None and path[-1] in ("until", "next") else spec.loop
        if root in _OF_ROUNDS and not loop:
            where = "in `first`" if spec.repeat is not None else "outside of a loop"
            self.add(path, f"'{root}' cannot be used {where}: it belongs to the rounds of a loop")
            return
        carried = ("tasks", loop, "repeat", "carry")
        if root == "carry" and any(item.path[:4] == carried and len(item.path) < 6 for item in self.problems):
            return  # something carried has not even its form, which is told
        if root == "carry" and key == "inputs" and whole(str(self._text_at(path))) is None:
            self.add(path, f"carry.{'.'.join(names)} must be the whole input: it is a file, not a part of a path")
            return
        if root in ("response", "metrics") and names:
            names = self._in_frame(loop, names)
        if not names or self.doubts.about(spec.name, root, names[0]):
            return
        if root in ("operator", "resources", "response") and self.doubts.operators:
            return
        early = key in ("matrix", "label", "needs", "operator", "inputs", "outputs", "priority")
        params = {**self.root.get("params", {}), **self.overrides, **({} if early else spec.params)}
        outer = _mapping(_mapping(self.root["tasks"].get(spec.loop)).get("matrix"))  # a body sees the axes of its loop
        axes = (set(spec.matrix or ()) | set(outer)) - OF_MATRIX
        known: dict[str, Iterable[str] | None] = {
            "params": params,
            "matrix": None if (spec.matrix is not None or outer) and (not axes or "table" in axes) else axes,
            "inputs": [*spec.inputs, *files_axes(spec.matrix)],
            "outputs": spec.outputs,
            "task": ("name",)
            if key == "label"
            else ("id", "name", "label")
            if early
            else ("id", "name", "label", "attempt", *(("restarted",) if key in _OF_A_LAUNCH else ())),
            "run": ("id", "name"),
            "operator": ("params",),
            "resources": self._resource_names(spec),
            "response": self._answering,
            "metrics": self.root["tasks"],
            "carry": _mapping(_mapping(self.root["tasks"].get(loop)).get("repeat")).get("carry", {}),
            "repeat": ("round",),
        }
        found = known.get(root)
        if root == "response" and names[0] in self.root["tasks"] and names[0] not in (found or ()):
            name = names[0].removeprefix(f"{loop}/").replace("/", ".")
            self.add(path, f"'{name}' is not carried out by a person or laboratory, so it has no response")
        elif root == "params" and early and names[0] in spec.params and names[0] not in params:
            self.add(path, f"'{names[0]}' is one of the task's own params; {key} sees those of the campaign alone")
        elif found is not None and names[0] not in found:
            if root in ("metrics", "response"):
                found = self._as_named(loop, found)
            name = names[0].removeprefix(f"{loop}/").replace("/", ".")
            has = f"it has {_some(found)}" if found else "it is empty"
            self.add(path, f"'{name}' is not in {root}{did_you_mean(name, found)}; {has}")
        elif root == "response":
            self._check_field(path, names)
        elif key == "repeat" and loop and self._has_instances(names[0], loop):
            name = names[0].removeprefix(f"{loop}/")
            message = (
                f"{root}.{name} must be of one instance, and {name} has a matrix; let a task of the round sum it up"
            )
            self.add(path, message)
        elif root == "metrics" and len(names) < 2:
            self.add(path, f"name a value of its metrics.json: metrics.{names[0].replace('/', '.')}.NAME")
        elif root == "operator" and len(names) > 1 and spec.operator in self.operators:
            known_params = self.operators[spec.operator].params
            if names[1] not in known_params:
                has = f"it has {_some(known_params)}" if known_params else "it has none"
                near = did_you_mean(names[1], known_params)
                self.add(path, f"'{names[1]}' is not in the params of operator '{spec.operator}'{near}; {has}")

    def _has_instances(self, name: str, loop: str) -> bool:
        """Return whether a task of a loop has several instances in each round."""
        return name.startswith(f"{loop}/") and "matrix" in _mapping(self.root["tasks"].get(name))

    def _in_frame(self, loop: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return a reference to a task with the name that this has: of a round's own first, or within a loop."""
        if loop and f"{loop}/{names[0]}" in self.root["tasks"]:
            return (f"{loop}/{names[0]}", *names[1:])
        if "repeat" in _mapping(self.root["tasks"].get(names[0])) and len(names) > 1:
            return (f"{names[0]}/{names[1]}", *names[2:])
        return names

    def _as_named(self, loop: str, tasks: Iterable[str]) -> list[str]:
        """Return the names by which templates name tasks: in a round its own, outside of it `LOOP.TASK`."""
        out = []
        for name in tasks:
            of, _, own = name.rpartition("/")
            if of == loop or (not of and "repeat" not in _mapping(self.root["tasks"].get(name))):
                out.append(own)
            elif not loop:
                out.append(f"{of}.{own}")
        return [name for name in out if not name.startswith(".")]

    def _text_at(self, path: Path) -> Any:
        node: Any = self.root
        for part in path:
            node = node.get(part) if isinstance(node, Mapping) else node[part] if isinstance(part, int) else None
        return node

    def _resource_names(self, spec: TaskSpec) -> set[str] | None:
        if spec.operator not in self.operators:
            return None
        return {"cpus", *self.operators[spec.operator].resources, *spec.resources}

    def _check_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Report templates of `defaults` in the wrong place or form; what they name hangs on the task."""
        for where, text in _texts(defaults, ()):
            if is_template(text):
                self._check_form(("defaults", *where), str(where[0]), text)

    def _check_form(self, path: Path, key: str, text: str, spec: TaskSpec | None = None) -> bool:
        """Report a template that cannot stand or be parsed here, or names a root not known here; say if it is fine."""
        if key not in ROOTS:
            self.add(path, "templates cannot be used here")
            return False
        try:
            parse(text)
            if key in ("matrix", "when", "until") and whole(text) is None:
                self.add(path, "must be exactly one template")
            elif key in ("command_text", "setup"):
                for message in command_problems(text):
                    self.add(path, message)
            only_in_when = next(conditional_parts(text), None) if key not in ("when", "until") else None
            if only_in_when is not None:
                self.add(path, f"'{only_in_when}' can only be used in `when`")
            if key not in ("command_text", "command", "setup") and uses_raw(text):
                self.add(path, "raw() is for `command` and `setup`: nothing is quoted here")
            for reference in references(text):
                if reference[0] not in ROOTS[key]:
                    self._unknown_root(path, reference[0], key, spec)
        except TemplateError as error:
            self.add(path, str(error))
        return not self.has_problem(path)

    @cached_property
    def _answering(self) -> list[str]:
        """The tasks of people and laboratories, or of operators that are not built in."""
        return [name for name in self.root["tasks"] if self._may_answer(name)]

    def _may_answer(self, task: str) -> bool:
        defaults = self._defaults_of(task)
        kinds = self.kinds_of(self.root["tasks"][task].get("operator", defaults.get("operator", "local")))
        return any(kind_of(kind).answers for kind in kinds)

    def _check_field(self, path: Path, names: tuple[str, ...]) -> None:
        """Report a field that the schema of the answer does not have."""
        task, defaults = self.root["tasks"][names[0]], self._defaults_of(names[0])
        if len(names) < 2:
            self.add(path, f"name a field of the answer: response.{names[0]}.FIELD")
            return
        key = "result_schema" if "result_schema" in task else "response_schema"
        schema = task.get(key, defaults.get(key, {}))
        fields = schema.get("properties")
        if not isinstance(fields, Mapping) or names[1] in fields:
            return
        near = did_you_mean(names[1], fields)
        if schema.get("additionalProperties") is False or near:
            message = f"'{names[1]}' is not a property in {key} of {names[0]}{near}; it has {_some(fields)}"
            self.add(path, message, severity="error" if schema.get("additionalProperties") is False else "warning")

    def _unknown_root(self, path: Path, root: str, key: str, spec: TaskSpec | None) -> None:
        in_loop = spec is not None and (spec.loop or spec.repeat is not None)
        known = tuple(name for name in ROOTS[key] if in_loop or name not in _OF_ROUNDS)
        key = {"command_text": "command", "carry_path": "carry"}.get(key, key)
        if root in _ALL:
            self.add(path, f"'{root}' cannot be used in {key}; {', '.join(known)} can")
        else:
            near = self._below_a_root(root, known, spec) or did_you_mean(root, known)
            self.add(path, f"'{root}' is not known{near}; {', '.join(known)} can be used in {key}")

    def _below_a_root(self, name: str, roots: Iterable[str], spec: TaskSpec | None) -> str:
        """Return the suggestion to write a name with the root that it is below, such as `matrix.mol` for `mol`."""
        axes = set(spec.matrix or ()) - OF_MATRIX - {"table"} if spec is not None else set()
        below: dict[str, Iterable[str]] = {
            "matrix": axes, "params": {**self.root.get("params", {}), **(spec.params if spec is not None else {})},
            "inputs": spec.inputs if spec is not None else (), "outputs": spec.outputs if spec is not None else (),
            "task": ("id", "name", "label", "attempt"),
        }  # fmt: skip
        found = [f"{root}.{name}" for root, names in below.items() if root in roots and name in names]
        return f" (did you mean '{found[0]}'?)" if found else ""


def _as_mapping(retries: Any) -> dict[str, Any]:
    return {"max": int(retries)} if isinstance(retries, int) else dict(retries)


def _is_path(written: Any) -> bool:
    """Return whether what is carried is a path, and no value."""
    return isinstance(written, str) and whole(written) is None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _some(names: Iterable[str]) -> str:
    """List names for a message, the first eight of many."""
    listed = list(names)
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def _input_spec(item: Any, base: str) -> InputSpec:
    if isinstance(item, str):
        return InputSpec(item, base=base)
    if "external" in item:
        return InputSpec(item["external"], item.get("as"), True, item.get("digest", False), base=base)
    if "results" in item:
        return InputSpec(item["results"], item.get("as"), results=item["results"])
    return InputSpec(item["path"], item.get("as"), base=base)


def _dependency_rule(value: Any) -> DependencyRule | None:
    if isinstance(value, bool):
        return DependencyRule() if value else None
    least = value["min"]
    if isinstance(least, int):
        return DependencyRule(min_count=int(least))
    return DependencyRule(min_percent=float(least.rstrip("%")))


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Return every text within a value with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _gpu_ids(written: Any) -> tuple[str, ...] | None:
    """Return the ids of GPUs that are given as their number or as a list."""
    if written is None:
        return None
    return tuple(map(str, written if isinstance(written, list) else range(int(written))))
