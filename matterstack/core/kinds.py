"""The kinds of operators: one row for each. A new kind is a row here, a class, and an entry in `operators.registry`."""

from __future__ import annotations

from matterstack.deferred import dataclass


@dataclass(frozen=True)
class Kind:
    """What the rest of MatterStack must know of operators of one kind."""

    name: str
    runs_command: bool = False  # a task needs `command`; else `command` is an error
    runnable: bool = True  # by this version
    on_this_machine: bool = False  # all operators that are share its cpus and memory
    whom: str = ""  # who does the work, where people or machines of others are asked; their clock is `deadline`
    answers: bool = False  # gives a response that templates can name
    elsewhere: bool = False  # runs where this environment's variables are not known
    asked_file: str = "instructions.md"  # what to read, in the attempt's folder
    needs_token: bool = False  # each request has a token of its own
    can_default: bool = False  # `on_deadline: default` is possible
    plug_in: bool = False  # not one of ours

    @property
    def asks(self) -> bool:
        """Whether people, a laboratory or a closed cluster do the work: a bad answer is asked for again."""
        return bool(self.whom)

    @property
    def reads_request(self) -> bool:
        """Whether task.json holds what is asked, under `asked`."""
        return self.asks or self.plug_in


LOCAL = Kind("local", runs_command=True, on_this_machine=True)
SLURM = Kind("slurm", runs_command=True, runnable=False)
MANUAL = Kind("manual", runs_command=True, whom="a closed cluster", elsewhere=True)
HUMAN = Kind("human", whom="a person", answers=True, can_default=True)
EXPERIMENT = Kind(
    "experiment", whom="a laboratory", answers=True, asked_file="experiment_request.json", needs_token=True
)
BUILT_IN = {kind.name: kind for kind in (LOCAL, SLURM, MANUAL, HUMAN, EXPERIMENT)}
RUNNABLE = tuple(kind.name for kind in BUILT_IN.values() if kind.runnable)


def kind_of(name: str) -> Kind:
    """Return the row of a kind; of one that a plug-in brings, a row made for it."""
    return BUILT_IN.get(name) or Kind(name, answers=True, can_default=True, plug_in=True)
