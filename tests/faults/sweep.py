"""The full sweep: every point of every command killed, and refused with an error. Prints its counts.

    python -m tests.faults.sweep [--workers N] [--every N] [--kills] [--errors] [COMMAND...]

COMMAND is a name of `harness.COMMANDS`, all by default.

Exit code 1 if anything went wrong. docs/durability.md says how long it takes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.faults.harness import COMMANDS, Point, Site, after, prepare, prepare_damage, refused_well

ERRORS = ("ENOSPC", "EIO", "EROFS", "EACCES", "EMFILE", "EDQUOT")
PROCESS_ERRORS = ("EAGAIN", "ENOMEM")  # the errors of fork


def make_site(folder: Path) -> Site:
    site = Site(folder)
    prepare(site)
    prepare_damage(site)
    return site


def error_of(point: Point, index: int) -> str:
    return PROCESS_ERRORS[index % 2] if point.path == "process" else ERRORS[index % len(ERRORS)]


def _told(error: Exception) -> str:
    """Give an error with the line of ours that raised it: an assertion alone says nothing."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


def kill(site: Site, point: Point, state: str) -> str | None:
    """Kill a command at a point and carry on; give what went wrong, "" for nothing, None if it was not killed there."""
    if not site.kill_at(point, COMMANDS[point.command][0], state):
        return None
    try:
        after(point.command, site)
    except Exception as error:
        return _told(error)
    return ""


def refuse(site: Site, point: Point, state: str, error: str) -> str | None:
    """Answer the call at a point with an error and carry on; None if the call was not reached."""
    done = site.refuse_at(point, COMMANDS[point.command][0], state, error)
    if "(INJECTED)" not in site.trace():
        return None
    wrong = refused_well(done)
    if wrong:
        return wrong
    try:
        after(point.command, site)
    except Exception as failure:
        return _told(failure)
    return ""


def one_part(command: str, state: str, start: int, step: int, kind: str) -> tuple[list[str], list[str]]:
    """Break one command in one state at each ``step``-th point; give (places, failures)."""
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder))
        places, failures = [], []
        points = site.points(command, COMMANDS[command][0], state)
        for index, point in list(enumerate(points))[start::step]:
            error = error_of(point, index)
            wrong = kill(site, point, state) if kind == "kill" else refuse(site, point, state, error)
            if wrong is None:
                continue
            place = f"{state}: {point}" + (f" {error}" if kind == "error" else "")
            places.append(place)
            if wrong:
                failures.append(f"{kind} {place}: {wrong}")
        return places, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="only each N-th point")
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], metavar="COMMAND")
    parser.add_argument("--kills", action="store_true", help="only the kills")
    parser.add_argument("--errors", action="store_true", help="only the errors")
    options = parser.parse_args()
    kinds = [kind for kind, wanted in (("kill", not options.errors), ("error", not options.kills)) if wanted]
    jobs = [(c, s, k) for k in kinds for c in options.commands or COMMANDS for s in COMMANDS[c][1]]
    began, places, failures = time.monotonic(), dict[str, list[str]](kill=[], error=[]), list[str]()
    with ProcessPoolExecutor(options.workers) as pool:
        parts = {
            pool.submit(one_part, c, s, n * options.every, options.workers * options.every, k): (c, s, k)
            for c, s, k in jobs
            for n in range(options.workers)
        }
        for part, (command, state, kind) in parts.items():
            found, wrong = part.result()
            places[kind] += found
            failures += wrong
            print(f"{kind} {command} ({state}): {len(found)} points, {len(wrong)} failures", flush=True)
            for text in wrong:
                print(f"    {text}", flush=True)
    kills, errors = (len(set(places[kind])) for kind in ("kill", "error"))
    print(
        f"{kills} kills and {errors} errors at distinct places in {time.monotonic() - began:.0f} s, {len(failures)} failures"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
