"""What is measured. A case makes what it needs in a fresh folder; its parts are timed, one after the other in each round."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MATTERSTACK = (sys.executable, "-m", "matterstack")
NINJA = str(Path(sysconfig.get_path("scripts")) / "ninja")
SKETCH = Path(__file__).with_name("sketch.py")

Words = Sequence[str]


@dataclass(frozen=True)
class Part:
    """One command that is timed, in a folder that ``prepare`` has filled."""

    name: str
    prepare: Callable[[Path], None]
    words: Words
    per: int = 1  # what its time is divided by
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Case:
    """Parts that are compared with the first of them, which is not ours."""

    name: str
    what: str
    parts: tuple[Part, ...]


def quiet(folder: Path, *words: str, codes: Sequence[int] = (0,)) -> None:
    done = subprocess.run([*MATTERSTACK, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode in codes, done.stderr


def numbers(count: int) -> str:
    return f"[{', '.join(map(str, range(count)))}]"


def independent(count: int, shell: str = "sh") -> str:
    task = "command: 'echo ${{ matrix.i }} > file', outputs: {o: {path: 'o/${{ matrix.i }}', file: file}}"
    return (
        f"matterstack: 1\nname: b\noperators: {{local: {{kind: local, max_active: 2}}}}\nparams: {{n: {numbers(count)}}}\n"
        f"tasks: {{a: {{matrix: {{i: '${{{{ params.n }}}}'}}, shell: {shell}, {task}}}}}\n"
    )


def layers(count: int, depth: int = 10) -> str:
    """Give `depth` layers; each task of a layer reads three files of the one before."""
    wide = count // depth
    lines = ["matterstack: 1", "name: b", "operators: {local: {kind: local, max_active: 2}}", "tasks:"]
    for layer in range(depth):
        for i in range(wide):
            needs = [f"l{layer - 1}_{(i + k) % wide}" for k in range(3)] if layer else []
            lines.append(
                f"  l{layer}_{i}: {{shell: sh, needs: [{', '.join(needs)}], command: 'echo {i} > file', "
                f"outputs: {{o: {{path: 'o/{layer}-{i}', file: file}}}}}}"
            )
    return "\n".join(lines) + "\n"


def campaign(text: str) -> Callable[[Path], None]:
    return lambda folder: _write(folder / "c.yaml", text)


def begun(text: str) -> Callable[[Path], None]:
    """Give what makes a run root of a campaign."""

    def prepare(folder: Path) -> None:
        _write(folder / "c.yaml", text)
        quiet(folder, "init", "c.yaml")

    return prepare


def stepped(text: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        begun(text)(folder)
        quiet(folder, "step", "runs/b")

    return prepare


def ninja_file(count: int, command: str = "echo $i > $out", depth: int = 1) -> Callable[[Path], None]:
    wide = count // depth
    lines = ["rule r", f"  command = {command}"]
    for layer in range(depth):
        for i in range(wide):
            needs = " ".join(f"o/{layer - 1}-{(i + k) % wide}" for k in range(3)) if layer else ""
            lines += [f"build o/{layer}-{i}: r {needs}", f"  i = {i}"]
    return lambda folder: _write(folder / "build.ninja", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text)


RUN = (*MATTERSTACK, "run", "runs/b")
STEP = (*MATTERSTACK, "step", "runs/b")
CLICK = Part("import click", lambda folder: None, (sys.executable, "-c", "import click"))
RERUN = (*MATTERSTACK, "rerun", "runs/b", "root", "--downstream", "--yes")
WAITING = (
    "matterstack: 1\nname: b\noperators: {{board: {{kind: human}}}}\nparams: {{n: {numbers}}}\ntasks:\n"
    "  g: {{operator: board, instructions: x{more}}}\n"
    "  a: {{needs: [g], matrix: {{i: '${{{{ params.n }}}}'}}, command: 'true'}}\n"
)


def idle(count: int) -> str:
    return WAITING.format(numbers=numbers(count), more="")


def gates(count: int) -> str:
    return WAITING.format(numbers=numbers(count), more=", matrix: {i: '${{ params.n }}'}")


def fan(count: int, readers: str) -> str:
    """Give `count` tasks with a file each, and what ``readers`` adds."""
    return (
        "matterstack: 1\nname: b\noperators: {local: {kind: local, max_active: 2}}\n"
        f"params: {{n: {numbers(count)}}}\ntasks:\n"
        "  a: {matrix: {i: '${{ params.n }}'}, shell: sh, command: 'echo 1 > o', outputs: {o: {path: 'o/${{ matrix.i }}', file: o}}}\n"
        f"  b: {{{readers}}}\n"
    )


ALL_READ_ALL = (
    "matrix: {i: '${{ params.n }}'}, inputs: {f: 'o/*'}, shell: sh, command: 'wc -l < ${{ list(inputs.f) }} > p', "
    "outputs: {p: {path: 'p/${{ matrix.i }}', file: p}}"
)
ONE_READS_ALL = "inputs: {f: 'o/*'}, shell: sh, command: 'wc -l < ${{ list(inputs.f) }}'"
ONE_NEEDS_ALL = "needs: ['a/*'], shell: sh, command: 'true'"


def last_ended(text: str, last: str, held: str = "") -> Callable[[Path], None]:
    """Give what runs a campaign up to its last task, which has just ended; ``held`` names tasks that must not start."""

    def prepare(folder: Path) -> None:
        begun(text)(folder)
        for name in filter(None, (last, held)):
            quiet(folder, "pause", "runs/b", name)
        quiet(folder, "run", "runs/b", codes=(0, 4))
        quiet(folder, "resume", "runs/b", last)
        quiet(folder, "step", "runs/b")
        time.sleep(0.5)

    return prepare


def ten_ended(count: int) -> Callable[[Path], None]:
    """Give what makes a run in which ten tasks have ended, and ``count`` others wait for a person."""
    text = (
        "matterstack: 1\nname: b\noperators: {board: {kind: human}, local: {kind: local, slots: {cpus: 10}}}\n"
        f"params: {{n: {numbers(count)}}}\ntasks:\n  g: {{operator: board, instructions: x}}\n"
        "  a: {needs: [g], matrix: {i: '${{ params.n }}'}, command: 'true'}\n"
        f"  t: {{matrix: {{i: {numbers(10)}}}, command: 'true'}}\n"
    )

    def prepare(folder: Path) -> None:
        stepped(text)(folder)
        time.sleep(1)

    return prepare


def below(count: int) -> Callable[[Path], None]:
    """Give what runs a campaign with ``count`` tasks below one."""
    text = (
        "matterstack: 1\nname: b\noperators: {local: {kind: local, max_active: 2}}\n"
        f"params: {{n: {numbers(count)}}}\ntasks:\n  root: {{command: 'true'}}\n"
        "  a: {needs: [root], matrix: {i: '${{ params.n }}'}, shell: sh, command: 'true'}\n"
    )

    def prepare(folder: Path) -> None:
        begun(text)(folder)
        quiet(folder, "run", "runs/b")

    return prepare


def rerun(prepared: Callable[[Path], None]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        prepared(folder)
        quiet(folder, *RERUN[len(MATTERSTACK) :])

    return prepare


def all_cases() -> Iterator[Case]:
    n = 1000
    sketch = Part("sketch", lambda folder: None, (sys.executable, str(SKETCH), str(n), "2", "root"), n)
    yield Case(
        "independent", f"{n:,} independent tasks, `shell: sh`",
        (
            Part("ninja", ninja_file(n), (NINJA, "-j2", "--quiet"), n),
            Part("run", begun(independent(n)), RUN, n),
            sketch,
        ),
    )  # fmt: skip
    yield Case(
        "bash", f"{n:,} independent tasks, default shell, against ninja running the same bash",
        (
            Part("ninja", ninja_file(n, "bash -eo pipefail -c 'echo $i > $out'"), (NINJA, "-j2", "--quiet"), n),
            Part("run", begun(independent(n, "bash")), RUN, n),
        ),
    )  # fmt: skip
    yield Case(
        "layers", f"{n:,} tasks in 10 layers, 3 needs each, `shell: sh`",
        (
            Part("ninja", ninja_file(n, depth=10), (NINJA, "-j2", "--quiet"), n),
            Part("run", begun(layers(n)), RUN, n),
        ),
    )  # fmt: skip
    yield Case(
        "many", "10,000 independent tasks, `shell: sh`",
        (
            Part("ninja", ninja_file(10 * n), (NINJA, "-j2", "--quiet"), 10 * n),
            Part("run", begun(independent(10 * n)), RUN, 10 * n),
        ),
    )  # fmt: skip
    yield Case(
        "most", "100,000 independent tasks, `shell: sh`",
        (
            Part("ninja", ninja_file(100 * n), (NINJA, "-j2", "--quiet"), 100 * n),
            Part("run", begun(independent(100 * n)), RUN, 100 * n),
        ),
    )  # fmt: skip
    yield Case(
        "idle", "a step with nothing to do",
        (
            CLICK,
            Part("10,000 tasks", stepped(idle(10 * n)), STEP),
            Part("100,000 tasks", stepped(idle(100 * n)), STEP),
            Part("1,000 waiting gates", stepped(gates(n)), STEP),
        ),
    )  # fmt: skip
    yield Case(
        "ended", "a step in which 10 of 100,000 tasks ended",
        (CLICK, Part("step", ten_ended(100 * n), STEP)),
    )  # fmt: skip
    yield Case(
        "glob", "1,000 tasks that read all 1,000 files by a glob",
        (
            CLICK,
            Part("init", campaign(fan(n, ALL_READ_ALL)), (*MATTERSTACK, "init", "c.yaml")),
            Part("the step that makes them ready", last_ended(fan(n, ALL_READ_ALL), f"a/{n - 1}", "b"), STEP),
        ),
    )  # fmt: skip
    yield Case(
        "fanin", "the step that makes one task behind 10,000 ready, and starts it",
        (
            Part("plain edges", last_ended(fan(10 * n, ONE_NEEDS_ALL), f"a/{10 * n - 1}"), STEP),
            Part("10,000 files", last_ended(fan(10 * n, ONE_READS_ALL), f"a/{10 * n - 1}"), STEP),
        ),
    )  # fmt: skip
    yield Case(
        "rerun", "`rerun --downstream` of a task with 10,000 below it",
        (
            CLICK,
            Part("rerun", below(10 * n), RERUN),
            Part("the next step", rerun(below(10 * n)), STEP),
        ),
    )  # fmt: skip
    yield Case(
        "views", "looking at 100,000 tasks",
        (
            CLICK,
            Part("status", stepped(idle(100 * n)), (*MATTERSTACK, "status", "runs/b")),
            Part("explain a/7", stepped(idle(100 * n)), (*MATTERSTACK, "explain", "runs/b", "a/7")),
        ),
    )  # fmt: skip
    yield Case(
        "init", "making a run",
        (CLICK, Part("100,000 instances", campaign(idle(100 * n)), (*MATTERSTACK, "init", "c.yaml"))),
    )  # fmt: skip
