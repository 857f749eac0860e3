"""A checked document to a `Campaign`: defaults merged in, units converted, templates in their right places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from matterstack.core.model import (
    Campaign,
    DependencyRule,
    InputSpec,
    OperatorSpec,
    OutputSpec,
    Retries,
    TaskSpec,
)
from matterstack.core.template import check_command, did_you_mean, is_template, parse, references, whole
from matterstack.core.validation import SchemaError, check_schema
from matterstack.core.values import as_text, parse_memory, parse_time
from matterstack.errors import Problem, TemplateError
from matterstack.spec.loader import Document, plain

Path = tuple[str | int, ...]

PEOPLE_KEYS = (
    "when", "bundle", "instructions", "response_schema", "result_schema", "deadline", "on_deadline", "default",
    "responders",
)  # fmt: skip
BUILT_IN_KINDS = ("local", "slurm", "manual", "human", "experiment")
KINDS_WITH_COMMAND = ("local", "slurm", "manual")
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
)
_EARLY = ("params", "matrix", "task")
_DECIDED = ("params", "matrix", "task", "response", "metrics")
ROOTS: dict[str, tuple[str, ...]] = {  # the table of docs/campaign-file.md: which roots each key may use
    "matrix": ("params",),
    "label": _EARLY, "needs": _EARLY, "operator": _EARLY, "priority": _EARLY, "inputs": _EARLY, "outputs": _EARLY,
    "command": _ALL, "setup": _ALL, "env": _ALL, "params": _ALL, "instructions": _ALL,
    "resources": _DECIDED, "deadline": _DECIDED, "retries": _DECIDED,
    "when": tuple(root for root in _ALL if root not in ("inputs", "outputs")),
    "response_schema": ("params", "matrix"), "result_schema": ("params", "matrix"),
}  # fmt: skip


class Builder:
    """Collects the problems of a whole document instead of stopping at the first."""

    def __init__(
        self,
        document: Document,
        operators: Document | None,
        overrides: Mapping[str, Any],
        without: Iterable[Path] = (),
    ) -> None:
        """Work on a document; ``without`` names values that its schema refuses and that are taken for absent."""
        self.document = document
        self.operators_document = operators
        self.overrides = overrides
        self.problems: list[Problem] = []
        self._refused: set[Path] = set()
        self.unparsed = False  # a template somewhere cannot be parsed
        self.root: dict[str, Any] = plain(document.root)
        for path in without:
            _remove(self.root, path)

    def add(self, path: Path, message: str, *, at_key: bool = False, severity: str = "error") -> None:
        problem = self.document.problem(path, message, at_key=at_key, severity=severity)
        if severity == "error":
            self._refused.add(path)
        if problem not in self.problems:
            self.problems.append(problem)

    def has_problem(self, path: Path) -> bool:
        """Say whether the form of a value was refused, so that evaluating it would only repeat that."""
        return path in self._refused

    def build(self) -> Campaign:
        """Give the campaign; where `problems` is not empty afterwards, it is only good for further checks."""
        root = self.root
        defaults = root.get("defaults", {})
        operators = self._operators()
        tasks = {name: self._task(name, task, defaults) for name, task in root["tasks"].items()}
        return Campaign(
            name=root["name"],
            description=root.get("description", ""),
            params=self._params(),
            files=tuple(root.get("files", ())),
            operators=operators,
            tasks=tasks,
            git_max_size=self._convert(parse_memory, root.get("git_max_size", "10M"), ("git_max_size",)) or 0,
        )

    def _params(self) -> dict[str, Any]:
        params = dict(self.root.get("params", {}))
        for path, text in _texts(params, ("params",)):
            if is_template(text):
                self.add(path, "templates cannot be used in the campaign's params")
        for name, value in self.overrides.items():
            if name not in params:
                known = f"it has {', '.join(params)}" if params else "it has none"
                self.add(("params",), f"--set {name}: no such parameter{did_you_mean(name, params)}; {known}")
            params[name] = value
        return params

    def _convert(self, parse_value: Any, value: Any, path: Path) -> Any:
        if value is None or is_template(value):
            return None
        try:
            return parse_value(value)
        except ValueError as error:
            self.add(path, str(error))
            return None

    # --- operators ---

    def _operators(self) -> dict[str, OperatorSpec]:
        specs = {"local": OperatorSpec("local", "local")}
        for name, data in self.root.get("operators", {}).items():
            specs[name] = self._operator(name, data, self.document, ("operators", name))
        if self.operators_document is not None:
            for name, data in plain(self.operators_document.root).items():
                specs[name] = self._operator(name, data, self.operators_document, (name,))
        return specs

    def _operator(self, name: str, data: Mapping[str, Any], document: Document, path: Path) -> OperatorSpec:
        def add(where: Path, message: str) -> None:
            self.problems.append(document.problem((*path, *where), message))

        for where, text in _texts(data, ()):
            if is_template(text) and where[0] not in ("setup", "env", "resources"):
                add(where, "templates cannot be used here")
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
            setup=tuple(data.get("setup", ())),
            env=data.get("env", {}),
            resources=data.get("resources", {}),
            params=data.get("params", {}),
            options={key: value for key, value in data.items() if key not in _OPERATOR_KEYS},
        )

    # --- tasks ---

    def _task(self, name: str, data: Mapping[str, Any], defaults: Mapping[str, Any]) -> TaskSpec:
        path: Path = ("tasks", name)

        def merged(key: str) -> dict[str, Any]:
            return {**defaults.get(key, {}), **data.get(key, {})}

        def value(key: str, default: Any = None) -> Any:
            return data[key] if key in data else defaults.get(key, default)

        command = data.get("command")
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
            retries=self._retries(
                {**_as_mapping(defaults.get("retries", {})), **_as_mapping(data.get("retries", {}))}, (*path, "retries")
            ),
            priority=value("priority", 0),
            allow_failure=value("allow_failure", False),
            allow_dependency_failure=_dependency_rule(value("allow_dependency_failure", False)),
            allow_skipped=value("allow_skipped", False),
            needs=tuple(data.get("needs", ())),
            inputs={
                key: InputSpec(item) if isinstance(item, str) else InputSpec(item["path"], item.get("as"))
                for key, item in data.get("inputs", {}).items()
            },
            outputs={
                key: OutputSpec(item)
                if isinstance(item, str)
                else OutputSpec(item["path"], item.get("file"), item.get("optional", False))
                for key, item in data.get("outputs", {}).items()
            },
            matrix=data.get("matrix"),
            label=data.get("label"),
            people={key: value(key) for key in PEOPLE_KEYS if key in data or key in defaults},
        )
        self._check_forms(spec, path, data)
        if isinstance(command, list) and command[0] == "":
            self.add((*path, "command"), "the name of the program is empty")
        for key, convert in (("memory", parse_memory), ("time", parse_time)):
            self._convert(convert, spec.resources.get(key), (*path, "resources", key))
        self._convert(parse_time, spec.people.get("deadline"), (*path, "deadline"))
        for key in ("response_schema", "result_schema"):
            if key in data and not any(True for _ in references(data[key])):
                try:
                    check_schema(data[key])
                except SchemaError as error:
                    self.add((*path, key), f"is not a JSON Schema: {error}")
        return spec

    def _retries(self, data: Mapping[str, Any], path: Path) -> Retries:
        if any(is_template(text) for _, text in _texts(data, ())):
            self.add(path, "this version of MatterStack cannot resolve templates in retries yet")
            return Retries()
        rules = {key: rule for key, rule in data.items() if key not in ("max", "delay")}
        for name, rule in rules.items():
            if isinstance(rule, Mapping):
                self._check_rule(rule, (*path, name))
        delay = self._convert(parse_time, data.get("delay", "0s"), (*path, "delay")) or 0.0
        return Retries(max=int(data.get("max", 0)), delay_s=delay, rules=rules)

    def _check_rule(self, rule: Mapping[str, Any], path: Path) -> None:
        for key, value in rule.items():
            factor = value[1:] if isinstance(value, str) and value.startswith("x") else None
            try:
                if factor is not None:
                    if float(factor) <= 0:
                        raise ValueError
                elif key == "memory" or (key == "up_to" and "memory" in rule):
                    parse_memory(value)
                elif key == "time" or (key == "up_to" and "time" in rule):
                    parse_time(value)
                elif not isinstance(value, int) or isinstance(value, bool):
                    raise ValueError(f"expected a whole number or a factor like x2, got {value}")
            except ValueError as error:
                self.add((*path, key), str(error) if factor is None else f"expected a factor like x2, got {value}")

    def _check_forms(self, spec: TaskSpec, path: Path, data: Mapping[str, Any]) -> None:
        """Report templates where none may stand, that cannot be parsed, or that name a root not known there."""
        for where, text in _texts(data, ()):
            if not is_template(text):
                continue
            key = str(where[0])
            full = (*path, *where)
            if key not in ROOTS or (key == "matrix" and where[1] in ("table", "include", "exclude")):
                self.add(full, "templates cannot be used here")
                continue
            try:
                self._parse(text)
                if key in ("matrix", "when") and whole(text) is None:
                    self.add(full, "must be exactly one template")
                elif (key == "command" and isinstance(spec.command, str)) or key == "setup":
                    check_command(text)
                for reference in references(text):
                    if reference[0] not in ROOTS[key]:
                        self._unknown_root(full, reference[0], key)
                    else:
                        self._check_name(full, reference, key, spec)
            except TemplateError as error:
                self.add(full, str(error))

    def _parse(self, text: str) -> None:
        try:
            parse(text)
        except TemplateError:
            self.unparsed = True
            raise

    def _check_name(self, path: Path, reference: tuple[str, ...], key: str, spec: TaskSpec) -> None:
        """Report a name below a root that cannot be there, whatever the instance."""
        root, names = reference[0], reference[1:]
        if not names:
            return
        early = key in ("matrix", "label", "needs", "operator", "inputs", "outputs", "priority")
        params = {**self.root.get("params", {}), **self.overrides, **({} if early else spec.params)}
        axes = set(spec.matrix or ()) - {"include", "exclude"}
        known: dict[str, Iterable[str] | None] = {
            "params": params,
            "matrix": None if spec.matrix is not None and (not axes or "table" in axes) else axes,
            "inputs": spec.inputs,
            "outputs": spec.outputs,
            "task": ("id", "name", "label") if early else ("id", "name", "label", "attempt"),
            "run": ("id", "name"),
            "operator": ("params",),
        }
        found = known.get(root)
        if found is not None and names[0] not in found:
            has = f"it has {', '.join(found)}" if found else "it is empty"
            self.add(path, f"'{names[0]}' is not in {root}{did_you_mean(names[0], found)}; {has}")

    def _unknown_root(self, path: Path, root: str, key: str) -> None:
        known = ROOTS[key]
        if root in _ALL:
            self.add(path, f"'{root}' cannot be used in {key}; {', '.join(known)} can")
        else:
            self.add(path, f"'{root}' is not known{did_you_mean(root, known)}; {', '.join(known)} can be used in {key}")


def _remove(root: dict[str, Any], path: Path) -> None:
    """Take a value out of nested mappings; a task that has lost its command gets one that only stands for it."""
    node: Any = root
    for part in path[:-1]:
        node = node[part] if isinstance(node, dict) and part in node else None
    if not isinstance(node, dict):
        return
    node.pop(path[-1], None)
    if path[0] == "tasks" and len(path) == 3 and "command" not in node:
        node["command"] = "true"


def _as_mapping(retries: Any) -> dict[str, Any]:
    return {"max": int(retries)} if isinstance(retries, int) else dict(retries)


def _dependency_rule(value: Any) -> DependencyRule | None:
    if isinstance(value, bool):
        return DependencyRule() if value else None
    least = value["min"]
    if isinstance(least, int):
        return DependencyRule(min_count=int(least))
    return DependencyRule(min_percent=float(least.rstrip("%")))


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Give every text within a value with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
