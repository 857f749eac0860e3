"""From a READY task to an attempt in the hands of an operator.

`intend` runs inside the step's transaction and records intents; `prepare` makes the folders after the
commit; the step then hands over.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matterstack.core.model import (
    AttemptChange,
    Instance,
    Launch,
    OperatorSpec,
    ResolvedInput,
    Resources,
    TaskChange,
    TaskSpec,
    to_json,
)
from matterstack.core.states import AttemptState, FailureClass, TaskState
from matterstack.core.times import from_text, to_text
from matterstack.errors import SubmissionRejected, TemplateError
from matterstack.operators.answers import decode
from matterstack.operators.base import Operator
from matterstack.run_root.attempts import create_attempt_folder, digest_within
from matterstack.run_root.layout import attempt_folder
from matterstack.storage.state_store import RunRow, SQLiteStateStore, TaskRow
from matterstack.template.attempt import (
    Rendered,
    RunFacts,
    check_condition,
    params_for_scripts,
    render_attempt,
    source_path,
)

log = logging.getLogger("matterstack")

_OF_THE_MOMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM,
}  # fmt: skip


@dataclass(frozen=True)
class Intent:
    """A recorded attempt that is to be handed over."""

    instance: Instance
    attempt: int
    rendered: Rendered
    env: Mapping[str, str]
    task_json: Mapping[str, Any]
    copies: Mapping[str, Path]
    origin: str

    @property
    def key(self) -> tuple[str, int]:
        return self.instance.task_id, self.attempt


class Slots:
    """What an operator may still take: `max_active`, cpus and memory in sum.

    The first task that does not fit ends the choice: nothing of lower priority overtakes it, so a large task cannot
    starve. One that is larger than everything runs alone.
    """

    def __init__(self, spec: OperatorSpec, operator: Operator, usage: tuple[int, int, int]) -> None:
        self.most = spec.max_active
        self.cpus, self.memory = operator.slots()
        self.active, self.used_cpus, self.used_memory = usage

    def full(self) -> bool:
        """Say that not even the smallest task fits."""
        if self.most is not None and self.active >= self.most:
            return True
        return self.cpus is not None and self.active > 0 and self.used_cpus >= self.cpus

    def fits(self, resources: Resources) -> bool:
        if self.full():
            return False
        if self.active == 0:
            return True
        cpus = self.cpus is None or self.used_cpus + resources.cpus <= self.cpus
        return cpus and (self.memory is None or self.used_memory + (resources.memory or 0) <= self.memory)

    def take(self, resources: Resources) -> None:
        self.active += 1
        self.used_cpus += resources.cpus
        self.used_memory += resources.memory or 0

    def describe(self) -> str:
        parts = [f"{self.active} of {self.most} active"] if self.most is not None else [f"{self.active} active"]
        if self.cpus is not None:
            parts.append(f"{self.used_cpus} of {self.cpus} cpus in use")
        return ", ".join(parts)


class HandOver:
    """Chooses, renders and records what is handed over in one step."""

    def __init__(
        self, root: Path, store: SQLiteStateStore, run: RunRow, make: Callable[[str], Operator | None], now: float
    ):
        self.root = root
        self.store = store
        self.run = run
        self.make = make  # gives an operator, None if it cannot be used
        self.now = now
        self.facts = RunFacts(run.run_id, run.name)

    def intend(self) -> tuple[list[Intent], list[TaskChange]]:
        """Record an intent for each READY task that fits; give them, and the tasks that failed before they could."""
        intents: list[Intent] = []
        failed: list[TaskChange] = []
        for name in self.store.campaign(self.run.campaign_version).operators:
            if next(self.store.ready(name), None) is None:
                continue
            operator = self.make(name)
            if operator is None:
                continue
            slots = Slots(operator.spec, operator, self.store.usage(name))
            if slots.full():
                continue
            # The rows change while they are read: take a bounded piece at a time.
            for task_id in list(_bounded(self.store.ready(name), slots)):
                if slots.full():
                    break
                row = self.store.tasks([task_id])[0]
                try:
                    intent = self._render(row, operator)
                except OSError as error:  # an input cannot be read just now: it stays READY
                    log.warning("%s: %s cannot be read: %s", task_id, error.filename, error.strerror)
                    continue
                except (
                    Exception
                ) as error:  # its templates, its environment, or a defect: one task never stops the others
                    log.debug("%s", task_id, exc_info=True)
                    failed.append(self._fail(row, operator, error))
                    continue
                if not slots.fits(intent.rendered.resources):
                    break
                slots.take(intent.rendered.resources)
                self._record(intent, operator)
                intents.append(intent)
        return intents, failed

    def _render(self, row: TaskRow, operator: Operator) -> Intent:
        instance = self.store.instance(row.task_id)
        campaign = self.store.campaign(row.campaign_version)
        attempt = row.attempts + 1
        inputs = InputFinder(self.store, self.root, instance)
        values = {name: inputs.resolve(item) for name, item in instance.inputs.items()}
        failures = self.store.counted_failures(row.task_id, row.tries)
        late, origins = self.store.late_values(row.task_id)
        check_condition(campaign, instance, attempt, self.facts, late)  # one that cannot be evaluated fails here
        rendered = render_attempt(campaign, instance, attempt, self.facts, values, failures, late)
        env = self._env(rendered, instance.task_id, attempt, elsewhere=operator.spec.kind == "manual")
        task_json = {
            "task": row.task_id, "attempt": attempt, "group": row.group, "label": row.label,
            "run": {"id": self.run.run_id, "name": self.run.name}, "operator": row.operator,
            "command": rendered.command, "shell": list(rendered.argv[:-1]),
            "matrix": instance.matrix, "params": params_for_scripts(campaign, rendered.params),
            "inputs": {name: {"path": values[name], "files": inputs.files[name]} for name in instance.inputs},
            "outputs": {name: to_json(item) for name, item in instance.outputs.items()},
            "resources": rendered.resources.as_written,
            "source": source_path(row.task_id), "source_digest": self.run.source_digest,
            "env": sorted(env), "created_at": to_text(self.now),
        }  # fmt: skip
        if origins:
            task_json["answers"] = {name: {"task": up, "attempt": number} for name, (up, number) in origins.items()}
        if rendered.asked:
            spec = campaign.tasks[instance.group].for_kind(operator.spec.kind)
            task_json["asked"] = self._asked(rendered, spec, operator.spec.kind, row)
        return Intent(instance, attempt, rendered, env, task_json, inputs.copies, operator.origin())

    def _asked(self, rendered: Rendered, spec: TaskSpec, kind: str, row: TaskRow) -> dict[str, Any]:
        """Give what operators of people, labs and closed clusters make their files of.

        Who is asked again for a bad answer is told why, and gets no more time.
        """
        asked = dict(rendered.asked)
        before = self.store.attempt(row.task_id, row.attempts)
        if before is not None and before.failure not in (FailureClass.BAD_RESPONSE, FailureClass.MISSING_OUTPUT):
            before = None
        if before is not None:
            asked["refused"] = f"attempt {before.attempt}: {before.reason}"
        if "deadline_s" in asked:
            asked["deadline_at"] = to_text(self.now + asked.pop("deadline_s"))
            if before is not None and from_text(decode(before.handle).get("deadline_at")) is not None:
                asked["deadline_at"] = decode(before.handle)["deadline_at"]
            asked.setdefault("on_deadline", "fail")
        if kind == "experiment":
            asked["token"] = secrets.token_hex(16)
            asked["parameters"] = {name: rendered.params[name] for name in spec.params}
        if kind == "manual":
            asked["env"], asked["env_from"] = dict(rendered.env), dict(rendered.env_from)
        return asked

    def _env(self, rendered: Rendered, task_id: str, attempt: int, *, elsewhere: bool) -> dict[str, str]:
        env = dict(rendered.env)
        for name, origin in rendered.env_from.items():
            if elsewhere:
                env[name] = ""  # it is taken where the command runs
                continue
            if origin not in os.environ:
                raise SubmissionRejected(f"the environment variable {origin} is not set where the step runs")
            env[name] = os.environ[origin]
        root = self.root.resolve()
        return {
            **env,
            "MATTERSTACK_RUN": str(root),
            "MATTERSTACK_SOURCE": str(root / "source"),
            "MATTERSTACK_TASK": task_id,
            "MATTERSTACK_ATTEMPT": str(attempt),
        }

    def _record(self, intent: Intent, operator: Operator) -> None:
        attempt = self.store.add_attempt(
            intent.instance.task_id,
            operator.spec.name,
            intent.origin,
            intent.rendered.resources,
            self.run.source_digest,
            _upstream_attempts(intent.task_json),
            self.now,
        )
        assert attempt == intent.attempt

    def _fail(self, row: TaskRow, operator: Operator, error: Exception) -> TaskChange:
        """Record an attempt that failed before it was handed over: its templates or its environment are wrong."""
        failure, reason = FailureClass.DEFECT, f"{type(error).__name__}: {error}"
        if isinstance(error, SubmissionRejected):
            failure, reason = FailureClass.REJECTED, str(error)
        elif isinstance(error, TemplateError | ValueError):
            failure, reason = FailureClass.TEMPLATE, str(error)
        attempt = self.store.add_attempt(
            row.task_id, operator.spec.name, "", Resources(), self.run.source_digest, {}, self.now
        )
        spec = self.store.campaign(row.campaign_version).tasks[row.group]
        task = TaskChange(row.task_id, TaskState.FAILED, f"attempt {attempt}: {reason}", soft=spec.allow_failure)
        change = AttemptChange(row.task_id, attempt, AttemptState.FAILED, failure, reason, ended_at=self.now)
        self.store.apply([(change, task)], self.now)
        return task

    def prepare(self, intent: Intent) -> Launch:
        """Make the attempt's folder. Raises SubmissionRejected if it cannot be made, or an input is gone."""
        folder = self.root.resolve() / attempt_folder(*intent.key)
        wrong = _link_above(self.root, folder)
        if wrong:
            raise SubmissionRejected(wrong)
        _require_inputs(self.root, folder, intent)
        try:
            create_attempt_folder(
                folder, intent.task_json, intent.rendered.script, intent.instance.outputs.values(), intent.copies
            )
        except OSError as error:
            path = os.path.relpath(error.filename or folder, self.root)
            raise SubmissionRejected(
                f"{path} cannot be written: {error.strerror or error}", retry_later=error.errno in _OF_THE_MOMENT
            ) from None
        return Launch(
            task_id=intent.instance.task_id,
            attempt=intent.attempt,
            folder=str(folder),
            argv=intent.rendered.argv,
            env=intent.env,
            resources=intent.rendered.resources,
            outputs=tuple(output.file for output in intent.instance.outputs.values()),
        )


def _bounded(ready: Iterator[str], slots: Slots) -> Iterator[str]:
    """Give at most as many tasks as could possibly fit."""
    most = [10_000]
    if slots.most is not None:
        most.append(slots.most - slots.active)
    if slots.cpus is not None:
        most.append(max(1, slots.cpus - slots.used_cpus))
    for _, task_id in zip(range(min(most)), ready, strict=False):
        yield task_id


def _require_inputs(root: Path, folder: Path, intent: Intent) -> None:
    """Raise SubmissionRejected for an input that is not there any more: a result may be deleted once it is recorded."""
    for name, item in intent.task_json["inputs"].items():
        for file in item["files"]:
            path = os.path.normpath(folder / file["path"])
            try:
                mode = os.stat(path).st_mode
                wrong = "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is no file any more"
            except OSError as error:
                wrong = "is gone"
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    shown = os.path.relpath(path, root.resolve())
                    raise SubmissionRejected(f"{shown} cannot be read: {error.strerror}", retry_later=True) from None
            if wrong:
                again = f", or `matterstack rerun RUN {file['task']} --downstream`" if "task" in file else ""
                raise SubmissionRejected(
                    f"its input {name}, {os.path.relpath(path, root.resolve())}, {wrong}; restore it and `matterstack "
                    f"rerun RUN {intent.instance.task_id}`{again}"
                )


def _link_above(root: Path, folder: Path) -> str:
    """Say which folder is a link, "" if none is: from behind it no relative path would lead where it should."""
    real = os.path.realpath(folder.parent)
    if real == str(folder.parent):
        return ""
    return f"{folder.parent.relative_to(root.resolve())} leads to {real}; put the folder itself there, no link"


def _upstream_attempts(task_json: Mapping[str, Any]) -> dict[str, int]:
    files = [file for item in task_json["inputs"].values() for file in item["files"] if "task" in file]
    return {found["task"]: found["attempt"] for found in (*files, *task_json.get("answers", {}).values())}


class InputFinder:
    """Finds the files behind an instance's inputs: of the attempts that made them, never a link in results/."""

    def __init__(self, store: SQLiteStateStore, root: Path, instance: Instance) -> None:
        self.store = store
        self.root = root
        self.up = source_path(instance.task_id).removesuffix("source")
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.copies: dict[str, Path] = {}
        self._names = {id(item): name for name, item in instance.inputs.items()}
        wanted = {source.task for item in instance.inputs.values() for source in item.sources if source.task}
        self._completed = {row.task_id for row in store.tasks(wanted) if row.state is TaskState.COMPLETED}
        self._sources = (
            store.sources() if any(s.task is None for i in instance.inputs.values() for s in i.sources) else {}
        )

    def resolve(self, item: ResolvedInput) -> str | list[str] | None:
        """Give the path, the list of paths, or None for the file of a failed task; remember digests and origins."""
        files: list[dict[str, Any]] = []
        for source in item.sources:
            if source.task is None:
                digest = self._sources.get(source.path)
                files.append({"path": f"{self.up}source/{source.path}", "sha256": digest})
            else:
                files += self._of_task(source.task, str(source.output), source.path, is_list=item.is_list)
        self.files[self._names[id(item)]] = files
        paths = [file["path"] for file in files]
        if item.is_list:
            return paths
        if item.as_name is not None and paths:
            self.copies[item.as_name] = self.root / paths[0].removeprefix(self.up)
            return item.as_name
        return paths[0] if paths else None

    def _of_task(self, task_id: str, output: str, inside: str, *, is_list: bool) -> list[dict[str, Any]]:
        found = self.store.published(task_id) if task_id in self._completed else None
        if found is None or output not in found[1]:
            return []
        attempt, outputs = found
        file, digest = outputs[output]
        base = f"{attempt_folder(task_id, attempt)}/{file.rstrip('/')}"
        origin = {"task": task_id, "attempt": attempt, "output": output}
        if not inside:
            return [{"path": self.up + base, "sha256": digest, **origin}]
        folder = self.root / base
        own_folder = self.root / attempt_folder(task_id, attempt)
        if is_list:
            pattern = f"{inside}/*" if inside.endswith("**") else inside
            found_files = sorted(path for path in folder.glob(pattern) if not _is_hidden(path.relative_to(folder)))
        else:
            found_files = [folder / inside]
        return [
            {
                "path": self.up + path.relative_to(self.root).as_posix(),
                "sha256": digest_within(own_folder, path),
                **origin,
            }
            for path in found_files
            if path.is_file()
        ]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
