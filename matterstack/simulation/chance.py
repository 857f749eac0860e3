"""Chance that can be repeated: each question has its own answer, whatever was asked before.

So a history stays what it was when something is left out of it, and can be made shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")


class Chance:
    def __init__(self, seed: int) -> None:
        self.seed = seed

    def roll(self, *about: object) -> float:
        """Return a number from 0 up to 1 for a question."""
        text = f"{self.seed}:{about}".encode()
        return (crc32(text) ^ (crc32(text[::-1]) * 2654435761 & 0xFFFFFFFF)) / 2**32

    def happens(self, probability: float, *about: object) -> bool:
        return self.roll(*about) < probability

    def choice(self, options: Sequence[T], *about: object) -> T:
        return options[int(self.roll(*about) * len(options))]

    def number(self, least: int, most: int, *about: object) -> int:
        return least + int(self.roll(*about) * (most - least + 1))
