"""python -m tests.benchmarks [NAME...] [--rounds N]: print one Markdown table; the parts of a case are timed in turn."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.benchmarks.cases import Case, Part, all_cases


def measure(part: Part, folder: Path) -> tuple[float, float]:
    """Give seconds of wall clock and of cpu, of the command and of all that it waited for."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    part.prepare(folder)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(part.words, cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in part.codes, (part.words, done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(case: Case, folder: Path, rounds: int) -> list[str]:
    times: dict[str, list[tuple[float, float]]] = {part.name: [] for part in case.parts}
    for number in range(rounds):
        for part in case.parts:
            times[part.name].append(measure(part, folder / f"{case.name}-{number}"))
    base = [statistics.median(values) for values in zip(*times[case.parts[0].name], strict=True)]
    out = []
    for part in case.parts:
        wall, cpu = (statistics.median(values) for values in zip(*times[part.name], strict=True))
        each = f"{wall / part.per * 1000:.2f} ms" if part.per > 1 else f"{wall:.2f} s"
        out.append(
            f"| {case.what} | {part.name} | {wall:.2f} | {cpu:.2f} | {each} | {wall / base[0]:.1f} | {cpu / base[1]:.1f} |"
        )
    return out


def main() -> None:
    cases = {case.name: case for case in all_cases()}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(cases)}; by default all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each part is timed (default: 3)")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in cases]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(cases)}")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {cores} cores, load {load:.1f}, "
          f"medians of {given.rounds}\n")  # fmt: skip
    print(
        "| what | part | wall s | cpu s | each | wall, of the first | cpu, of the first |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="matterstack-benchmark-") as folder:
        for name in given.names or cases:
            print("\n".join(rows(cases[name], Path(folder), given.rounds)), flush=True)


main()
