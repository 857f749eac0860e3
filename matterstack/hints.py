"""What a person can do next, as a value: the terminal prints a command that can be pasted, a page shows a button."""

from __future__ import annotations

import shlex
from pathlib import Path

from matterstack.deferred import dataclass


@dataclass(frozen=True)
class Hint:
    """A command of MatterStack; ``run`` is the run root as the user gave it, ``rest`` are words that need no quotes."""

    verb: str
    run: str | Path | None = None
    task: str | None = None
    rest: str = ""

    @property
    def command(self) -> str:
        """The command as it is typed, with run and task quoted."""
        words = ["matterstack", self.verb]
        words += [shlex.quote(str(word)) for word in (self.run, self.task) if word is not None]
        return " ".join([*words, self.rest] if self.rest else words)

    @staticmethod
    def quote(word: str) -> str:
        return shlex.quote(word)

    def __str__(self) -> str:
        return f"`{self.command}`"
