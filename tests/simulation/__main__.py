"""python -m tests.simulation [--seeds N] [--first N] [--seed N]: search for hours, or replay one history."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.search import describe, search

parser = argparse.ArgumentParser(prog="python -m tests.simulation")
parser.add_argument("--seeds", type=int, default=10_000, help="how many histories to play")
parser.add_argument("--first", type=int, default=0, help="the first seed")
parser.add_argument("--seed", type=int, help="replay this one, and print it")
given = parser.parse_args()

if given.seed is not None:
    print(describe(given.seed))
    sys.exit()
moves, failed = search(range(given.first, given.first + given.seeds))
for (before, after), count in sorted(moves.items()):
    print(f"{before:>11} -> {after:<10} {count}")
print(f"{given.seeds} histories, {len(failed)} failed")
for seed in sorted(failed)[:3]:
    print("\n" + describe(seed))
sys.exit(bool(failed))
