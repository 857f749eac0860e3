"""Searches seeds for a history that breaks an invariant, on all cores."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable

from tests.simulation.history import History, shortest

Moves = Counter[tuple[str, str]]


def search(seeds: Iterable[int], processes: int | None = None) -> tuple[Moves, list[int]]:
    """Play each seed; give the moves of attempts that were made, and the seeds that failed."""
    moves: Moves = Counter()
    failed: list[int] = []
    with multiprocessing.get_context("fork").Pool(processes or os.cpu_count(), gc.set_threshold, (100_000,)) as pool:
        for seed, made in pool.imap_unordered(_play, seeds, chunksize=20):
            if made is None:
                failed.append(seed)
            else:
                moves.update(made)
    return moves, failed


def _play(seed: int) -> tuple[int, Moves | None]:
    try:
        return seed, History(seed).play()
    except Exception:
        return seed, None


def describe(seed: int) -> str:
    """Give the shortest failing history of a seed, as text."""
    found = shortest(seed)
    if found is None:
        return f"seed {seed}: holds"
    history, error = found
    import traceback

    where = "" if isinstance(error, AssertionError) else "".join(traceback.format_exception(error))
    lines = [f"seed {seed}: {type(error).__name__}: {error}", *history.log[-40:]]
    lines.append(
        f"faults: {', '.join(history.faults.fired) or 'none'}; groups left out: {sorted(history.groups_left_out)}"
    )
    lines.append(f"replay: python -m tests.simulation --seed {seed}")
    return "\n".join(lines) + ("\n" + where if where else "")
