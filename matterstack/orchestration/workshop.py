"""What decisions ask about campaign and files: conditions, retries, and whole attempts rendered. Nothing here writes."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterstack.core.board import Board, Published
from matterstack.core.events import AttemptMade, Key, attempt_made
from matterstack.core.limits import Budget, Limits, Spent
from matterstack.core.model import Instance, OperatorSpec, ResolvedInput, Resources, Retries, Source, TaskSpec, to_json
from matterstack.core.plan import Intent, Notice, Unlaunchable, Unneeded
from matterstack.core.readiness import WaitingTask
from matterstack.core.reasons import NO_REASON, Code, Reason, reason
from matterstack.core.recorded import CARRY_ALWAYS, CARRY_NOTHING, AttemptRow, TaskRow
from matterstack.core.slots import Capacity
from matterstack.core.states import FailureClass, TaskState
from matterstack.core.times import from_text, to_text
from matterstack.deferred import dataclass
from matterstack.errors import MatterStackError, TemplateError
from matterstack.operators.answers import decode
from matterstack.operators.base import Operator
from matterstack.orchestration.files import RunFiles
from matterstack.orchestration.pool import Pool
from matterstack.run_root.layout import attempt_folder
from matterstack.storage.queries import Queries
from matterstack.text.reasons import sentence

if TYPE_CHECKING:
    from matterstack.template.attempt import Rendered, RunFacts


@dataclass(frozen=True)
class RenderedIntent:
    """An attempt to be handed over: what is recorded of it, and all that its folder will hold."""

    made: AttemptMade
    version: int  # of the campaign
    instance: Instance
    rendered: Rendered
    env: Mapping[str, str]
    task_json: Mapping[str, Any]
    copies: Mapping[str, Path]
    background: str = ""  # as in `TaskSpec`
    warn_s: float | None = None  # as in `Launch`
    stamps: Mapping[str, str | None] = field(default_factory=dict)  # of inputs, by the paths that task.json has

    @property
    def key(self) -> Key:
        return self.made.key

    @property
    def resources(self) -> Resources:
        return self.rendered.resources


class NothingMatches(Exception):
    """Nothing that a group or loop made is what an input asks for."""

    def __init__(self, why: Reason) -> None:
        super().__init__(why)
        self.why = why


class MissingVariable(Exception):
    """A variable that a task takes from the environment is not set."""


class RunWorkshop:
    def __init__(
        self,
        store: Queries,
        board: Board,
        pool: Pool,
        files: RunFiles,
        now: float,
        between: Callable[[], object] = lambda: None,
    ) -> None:
        self.store = store  # for what never changes: campaigns and instances
        self.board = board  # for what does
        self.run = board.run
        self.pool = pool
        self.files = files
        self.now = now
        self.between = between  # called after each attempt that was rendered

    # --- the campaign ---

    def operator_spec(self, task: TaskRow) -> OperatorSpec:
        return self.store.operators(task.campaign_version)[task.operator]

    def spec(self, task: TaskRow) -> TaskSpec:
        return self.store.campaign(task.campaign_version).tasks[task.group].for_operator(self.operator_spec(task))

    def asks(self, task: TaskRow) -> bool:
        return self.operator_spec(task).row.asks

    def retries(self, task: TaskRow, attempt: int) -> Retries | Reason:
        spec = self.spec(task)
        if not spec.retries_written:
            return spec.retries
        from matterstack.template.attempt import early_scope, resolve_retries

        given, _ = self._given(task)
        campaign = self.store.campaign(task.campaign_version)
        try:
            return resolve_retries(spec, early_scope(campaign, self.store.instance(task.task_id), attempt, given))
        except (TemplateError, ValueError) as error:
            return reason(Code.RETRIES_UNUSABLE, error=str(error))

    def condition(self, task: TaskRow, entries: Sequence[tuple[str, str]], unsettled: frozenset[str]) -> WaitingTask:
        campaign = self.store.campaign(task.campaign_version)
        spec = campaign.tasks[task.group]
        if task.plan == "group":
            return WaitingTask(task.task_id, None, False, tuple(entries))
        number = int(self.store.made(task.task_id).get("round", 0)) if task.plan else 0
        waiting = WaitingTask(
            task.task_id,
            spec.allow_dependency_failure,
            spec.allow_skipped,
            tuple(entries),
            allow_failure=spec.allow_failure,
            round=number,
        )
        if spec.when is None or number:
            return waiting
        from matterstack.template.attempt import condition_names, meets_condition

        names = condition_names(spec)
        named = frozenset(upstream for entry, upstream in waiting.entries if entry in names)
        condition = None
        if not named & unsettled:
            given, _ = self._given(task)
            instance = self.store.instance(task.task_id)
            instance = replace(instance, operator="local") if task.plan else instance
            condition = meets_condition(campaign, instance, task.attempts + 1, self._facts(task), given)
        return replace(waiting, named=named, condition=condition, condition_text=spec.when)

    def _given(self, task: TaskRow) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, int]]]:
        """Return the answers and metrics that a task's templates name, and of which attempts they are."""
        if not self.store.campaign(task.campaign_version).tasks[task.group].may_name_answers:
            return {"response": {}, "metrics": {}}, {}
        return self.board.given_values(task.task_id)

    def capacity(self, operator: str) -> Capacity | Notice:
        return self.pool.capacity(operator)

    def budget(self, alive: Sequence[AttemptRow], over: Sequence[AttemptRow]) -> Budget | None:
        limits = self.store.limits()
        if limits == Limits():
            return None
        failures = sum(
            count for (state, soft, *_), count in self.board.buckets().items() if state is TaskState.FAILED and not soft
        )
        spent = self.store.spent()
        just = sum(max(0.0, self.now - (row.started_at or row.created_at)) * row.cpus for row in over)
        return Budget(limits, self.board.run, Spent(spent.attempts, spent.cpu_s + just), alive, failures, self.now)

    def is_local(self, version: int | None, operator: str) -> bool:
        found = self.store.operators(self.store.newest_version() if version is None else version)
        return found[operator].row.on_this_machine

    def _facts(self, task: TaskRow, *, restarted: bool = False) -> RunFacts:
        from matterstack.template.attempt import RunFacts

        return RunFacts(self.run.run_id, self.run.name, self.store.source_of(task.campaign_version), restarted)

    # --- attempts ---

    def prepare(self, task: TaskRow) -> Intent | Unlaunchable | Unneeded | Notice:
        """Render an attempt of a READY task. One that cannot be rendered fails; an unreadable input only waits."""
        operator = self.pool.usable(task.campaign_version, task.operator)
        if operator is None:
            return self.pool.notices.pop()
        failure, why, defect = FailureClass.TEMPLATE, NO_REASON, ""
        try:
            intent = self._render(task, operator)
            self.between()
            return intent
        except NothingMatches as error:
            return Unneeded(error.why)
        except MissingVariable as error:
            failure, why = FailureClass.REJECTED, reason(Code.REJECTED, text=str(error))
        except (TemplateError, ValueError) as error:
            why = reason(Code.TEMPLATE, text="; ".join([str(error), *self._why_absent(task, str(error))]))
        except MatterStackError:  # the ledger or the run root itself: nothing may be decided on it
            raise
        except OSError as error:  # an input cannot be read just now: it stays READY
            path = str(error.filename or "an input")
            return Notice(task.task_id, reason(Code.INPUT_UNREADABLE, path=path, error=str(error.strerror)))
        except Exception as error:  # a defect met at one task never stops the others; its traceback is kept
            failure, defect = FailureClass.DEFECT, traceback.format_exc()
            why = reason(Code.DEFECT, during="rendering", error=f"{type(error).__name__}: {error}")
        key = (task.task_id, task.attempts + 1)
        made = attempt_made(key, task.operator, "", Resources(), self.run.source_digest, {})
        return Unlaunchable(made, failure, why, defect)

    def _why_absent(self, task: TaskRow, error: str) -> list[str]:
        """Return why a value that a template could not use is not there: an input of a task that failed, a metric."""
        instance = self.store.instance(task.task_id)
        said = []
        if "null" in error:
            for name, item in instance.inputs.items():
                upstream = item.sources[0].task if item.sources and not item.is_list else None
                if f"inputs.{name}" not in error or upstream is None:
                    continue
                row = self.board.tasks([upstream]).get(upstream)
                if row is not None and row.state is not TaskState.COMPLETED:
                    why = f" ({sentence(row.reason)})" if row.reason else ""
                    said.append(
                        f"inputs.{name} is null, since {upstream} is {row.state}{why}: take it as a list "
                        f"(`{self.spec(task).inputs[name].pattern}*`), which is empty then, or leave out what lets this task "
                        "run without it"
                    )
        for _, upstream in self.store.entries([task.task_id])[task.task_id]:
            if f"metrics.{upstream.partition('/')[0]}" in error:
                row = self.board.tasks([upstream])[upstream]
                attempt = self.board.attempt(upstream, row.result or row.attempts)
                if attempt is not None and attempt.reason.code in (Code.METRICS_IGNORED, Code.METRICS_INVALID):
                    said.append(f"of {upstream}, {sentence(attempt.reason)}")
        return said

    def _render(self, row: TaskRow, operator: Operator) -> RenderedIntent:
        from matterstack.template.attempt import (
            check_condition,
            check_fits,
            expanded_inputs,
            params_for_scripts,
            render_attempt,
            source_path,
        )

        instance = self.store.instance(row.task_id)
        campaign = self.store.campaign(row.campaign_version)
        attempt = row.attempts + 1
        source = self.store.source_of(row.campaign_version)
        inputs = InputFinder(self.store, self.board, self.files, instance, row.campaign_version)
        values = {name: inputs.resolve(item) for name, item in instance.inputs.items()}
        spec = self.spec(row)
        for name in expanded_inputs(spec, operator.spec):
            paths = values.get(name)
            if isinstance(paths, list):
                check_fits(name, sum(len(os.fsencode(path)) + 1 for path in paths))
        failures = self.board.counted_failures(row.task_id, row.tries)
        given, origins = self._given(row)
        check_condition(campaign, instance, attempt, self._facts(row), given)  # one that cannot be evaluated fails here
        tables = self._tables(row, instance, inputs)
        origin, carried = self._carried(row, spec, instance, inputs.files)
        facts = self._facts(row, restarted=bool(carried))
        rendered = render_attempt(campaign, instance, attempt, facts, values, failures, given)
        rendered = replace(rendered, lists={**rendered.lists, **tables}) if tables else rendered
        env = self._env(rendered, row.task_id, attempt, source, elsewhere=operator.spec.row.elsewhere)
        task_json = {
            "task": row.task_id, "attempt": attempt, "group": row.group, "label": row.label,
            "run": {"id": self.run.run_id, "name": self.run.name}, "operator": row.operator,
            "command": rendered.command, "shell": list(rendered.argv[:-1]),
            "matrix": instance.matrix, "params": params_for_scripts(campaign, rendered.params),
            "inputs": {name: {"path": values[name], "files": inputs.files[name]} for name in instance.inputs},
            "outputs": {name: to_json(item) for name, item in instance.outputs.items()},
            "resources": rendered.resources.as_written,
            "work": instance.work, "version": row.campaign_version, "source": source_path(row.task_id, source),
            "source_digest": self.run.source_digest,
            "env": sorted(env), "created_at": to_text(self.now),
        }  # fmt: skip
        if carried:
            env["MATTERSTACK_RESTART"] = "1"
            task_json |= {"restart": {"from": origin, "files": sorted(carried)}, "env": sorted(env)}
        if origins:
            task_json["answers"] = {name: {"task": up, "attempt": number} for name, (up, number) in origins.items()}
        if rendered.asked:
            task_json["asked"] = self._asked(rendered, row, operator)
        made = attempt_made(
            (row.task_id, attempt), row.operator, operator.origin(), rendered.resources, self.run.source_digest,
            {**inputs.read, **dict(origins.values())},
        )  # fmt: skip
        return RenderedIntent(
            made,
            row.campaign_version,
            instance,
            rendered,
            env,
            task_json,
            {**inputs.copies, **carried},
            spec.background,
            spec.restart.warn_s if spec.restart is not None and rendered.resources.time_s is not None else None,
            inputs.stamps,
        )

    def _tables(self, row: TaskRow, instance: Instance, inputs: InputFinder) -> dict[str, str]:
        """Return the tables of results that an attempt reads, by their names in its folder."""
        out = {}
        for item in instance.inputs.values():
            for source in item.sources:
                if source.is_table:
                    assert item.as_name is not None
                    out[item.as_name] = self._table(str(source.task), inputs)
        return out

    def _table(self, group: str, inputs: InputFinder) -> str:
        from matterstack.text.table import columns_of, csv_text, with_columns

        members, values = self.board.members(group), self.board.values_in(group)
        read = {task.task_id: task.result or task.attempts for task in members if task.result or task.attempts}
        inputs.read |= _in_short(group, read) if len(read) == len(members) else read
        rows = with_columns(
            {
                "task": task.task_id, "state": str(task.state), "attempt": task.result or task.attempts or None,
                "matrix": self.store.instance(task.task_id).matrix,
                "metrics": values.get(task.task_id, ({}, {}))[0], "response": values.get(task.task_id, ({}, {}))[1],
            }
            for task in members
        )  # fmt: skip
        return csv_text(rows, columns_of(rows))

    def _carried(
        self, row: TaskRow, spec: TaskSpec, instance: Instance, inputs: Mapping[str, Any]
    ) -> tuple[int, dict[str, Path]]:
        """Return the attempt whose files the next one goes on from, and these; (0, {}) if it begins anew.

        It is the newest that has any, of those with the same work and inputs, down to one that was to begin anew. After an
        end that `restart` does not name, such as one that is retried, it begins anew as well.
        """
        if spec.restart is None or row.carry == CARRY_NOTHING:
            return 0, {}
        is_first = True
        for number in range(row.attempts, 0, -1):
            key = (row.task_id, number)
            before = self.board.attempt(*key)
            if before is None:
                break
            if before.failure in (FailureClass.NOT_STARTED, FailureClass.POSTPONED):
                continue
            named = before.failure is not None and spec.restart.is_after(before.failure, before.exit_code)
            if row.carry != CARRY_ALWAYS and is_first and not named:
                break
            is_first = False
            if row.carry != CARRY_ALWAYS and (
                before.work != instance.work or not self.files.reads_the_same(key, inputs)
            ):
                break
            found = self.files.restart_files(key, spec.restart.files)
            if found:
                return number, found
            if before.carry == CARRY_NOTHING:
                break
        return 0, {}

    def _asked(self, rendered: Rendered, row: TaskRow, operator: Operator) -> dict[str, Any]:
        """Return what operators of people, labs and closed clusters make their files of.

        Who is asked again for a bad answer is told why, and gets no more time.
        """
        kind = operator.spec.row
        asked = dict(rendered.asked)
        before = self.board.attempt(row.task_id, row.attempts)
        if before is not None and before.failure not in (FailureClass.BAD_RESPONSE, FailureClass.MISSING_OUTPUT):
            before = None
        if before is not None:
            asked["refused"] = f"attempt {before.attempt}: {sentence(before.reason)}"
        if "deadline_s" in asked:
            asked["deadline_at"] = to_text(self.now + asked.pop("deadline_s"))
            if before is not None and from_text(decode(before.handle).get("deadline_at")) is not None:
                asked["deadline_at"] = decode(before.handle)["deadline_at"]
            asked.setdefault("on_deadline", "fail")
        if kind.needs_token:
            asked["token"] = os.urandom(16).hex()
            asked["parameters"] = {name: rendered.params[name] for name in self.spec(row).params}
        if kind.elsewhere:
            asked["env"], asked["env_from"] = dict(rendered.env), dict(rendered.env_from)
        return asked

    def _env(self, rendered: Rendered, task_id: str, attempt: int, source: str, *, elsewhere: bool) -> dict[str, str]:
        env = dict(rendered.env)
        for name, origin in rendered.env_from.items():
            if elsewhere:
                env[name] = ""  # it is taken where the command runs
                continue
            if origin not in os.environ:
                raise MissingVariable(f"the environment variable {origin} is not set where the step runs")
            env[name] = os.environ[origin]
        root = self.files.absolute
        return {
            **env,
            "MATTERSTACK_RUN": root,
            "MATTERSTACK_SOURCE": f"{root}/{source}",
            "MATTERSTACK_TASK": task_id,
            "MATTERSTACK_ATTEMPT": str(attempt),
        }


def _in_short(group: str, read: Mapping[str, int]) -> dict[str, int]:
    """Return the attempts of a group that was read whole: the usual one, and those of instances that have another."""
    usual = Counter(read.values()).most_common(1)[0][0]
    return {group: usual, **{task_id: attempt for task_id, attempt in read.items() if attempt != usual}}


class InputFinder:
    """Finds the files behind an instance's inputs: of the attempts that made them, never a link in results/."""

    def __init__(self, store: Queries, board: Board, files: RunFiles, instance: Instance, version: int) -> None:
        from matterstack.template.attempt import path_up

        self.store = store
        self.board = board
        self.disk = files
        self.up = path_up(instance.task_id)
        spec = store.campaign(version).tasks[instance.group]
        self._allow_skipped = spec.allow_skipped
        self._goes_on = spec.allow_skipped or spec.allow_dependency_failure is not None
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.copies: dict[str, Path] = {}
        self.stamps: dict[str, str | None] = {}  # by path, as in `files`
        self.read: dict[str, int] = {}  # task, or group as a whole -> the attempt that is read
        self._names = {id(item): name for name, item in instance.inputs.items()}
        sources = [source for item in instance.inputs.values() for source in item.sources]
        wanted = {source.task for source in sources if source.task and not source.whole}  # and nothing to be matched
        standings = board.standings(wanted) if wanted else {}
        self._published = board.published_of(
            name for name, item in standings.items() if item.state is TaskState.COMPLETED
        )
        own = [source for source in sources if source.task is None]
        self._source = store.source_of(version) if own else ""
        self._sources = {**store.source_files(version), **store.externals(version)} if own else {}

    def resolve(self, item: ResolvedInput) -> str | list[str] | None:
        """Return the path, the list of paths, or None for the file of a failed task; remember digests and origins.

        Raises OSError for a file that cannot be read.
        """
        files: list[dict[str, Any]] = []
        if any(source.is_table for source in item.sources):
            self.files[self._names[id(item)]] = files
            return item.as_name
        for source in item.sources:
            if source.task is None:
                digest, _, stamp = self._sources.get(source.path, (None, 0, None))
                where = {"path": source.path, "external": True} if source.is_external else {}
                where = where or {"path": f"{self.up}{self._source}/{source.path}"}
                files.append({**where, "sha256": digest or None})
                self.stamps[str(where["path"])] = stamp
            elif source.match:
                files += self._matching(source, item, self._names[id(item)])
            else:
                found = self.board.published_in(source.task) if source.whole else self._published
                of_it: list[dict[str, Any]] = []
                for task_id in found if source.whole else [source.task]:
                    of_it += self._of_task(
                        task_id, found.get(task_id), str(source.output), source.path, is_list=item.is_list
                    )
                read = {file["task"]: file["attempt"] for file in of_it}
                whole = source.whole and len(read) == self.board.reader.size_of(source.task)
                self.read |= _in_short(source.task, read) if whole else read
                files += of_it
        self.files[self._names[id(item)]] = files
        paths = [file["path"] for file in files]
        if item.is_list:
            return paths
        if item.as_name is not None and paths:
            self.copies[item.as_name] = self.disk.root / paths[0].removeprefix(self.up)  # or the external file itself
            return item.as_name
        return paths[0] if paths else None

    def _matching(self, source: Source, item: ResolvedInput, name: str) -> list[dict[str, Any]]:
        """Return the files of a group or loop that a path or glob means, now that it is known. Raises NothingMatches."""
        from matterstack.spec.paths import matching

        declared = self.store.paths_of(str(source.task))
        paths = [
            (path, (task_id, output), path.endswith("/"))
            for task_id, output, own, last in declared
            for path in dict.fromkeys((own, last))
        ]
        found = matching(paths, source.match, is_list=item.is_list)
        if not found and not declared and self._allow_skipped:  # the group was skipped, and that is allowed
            return []
        if not found:
            raise NothingMatches(reason(Code.NO_INPUT, input=name, pattern=source.match))
        tasks = [task_id for (task_id, _), _ in found]
        standings = self.board.standings(tasks)
        done = [task_id for task_id, standing in standings.items() if standing.state is TaskState.COMPLETED]
        if not item.is_list and not done and not self._goes_on:  # what made it was skipped, or was allowed to fail
            raise NothingMatches(reason(Code.NO_INPUT, input=name, pattern=source.match))
        published = self.board.published_of(done)
        out: list[dict[str, Any]] = []
        for (task_id, output), rest in found:
            out += self._of_task(task_id, published.get(task_id), output, rest, is_list=item.is_list)
        self.read |= {file["task"]: file["attempt"] for file in out}
        return out

    def _of_task(
        self, task_id: str, found: Published | None, output: str, inside: str, *, is_list: bool
    ) -> list[dict[str, Any]]:
        if found is None:
            return []
        if output not in found[1]:
            declared = self.store.instance(task_id).outputs.get(output)
            if declared is not None and not declared.optional:
                if declared.temporary:
                    what = f"{task_id} no longer has its temporary output '{output}'"
                    raise TemplateError(f"{what}; a rerun of this task makes that again as well")
                raise TemplateError(
                    f"{task_id} was done before its output '{output}' was declared: rerun it, and this one after it"
                )
            return []
        attempt, outputs = found
        file, digest, stamp = outputs[output]
        folder = attempt_folder(task_id, attempt)
        base = f"{folder}/{file.rstrip('/')}"
        origin = {"task": task_id, "attempt": attempt, "output": output}
        if not inside:
            self.stamps[self.up + base] = stamp
            return [{"path": self.up + base, "sha256": digest, **origin}]
        if is_list:
            paths = self.disk.files_within(base, inside)
        else:
            paths = [path for path in (f"{base}/{inside}",) if self.disk.is_file(path)]
        for path in paths:
            self.stamps[self.up + path] = "" if self.disk.is_newer(path, folder) else None
        return [{"path": self.up + path, "sha256": self.disk.digest(folder, path), **origin} for path in paths]
