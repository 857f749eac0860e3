"""What is measured. A case makes what it needs in a fresh folder; its parts are timed, one after the other in each round."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
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
WAITING = (
    "matterstack: 1\nname: b\noperators: {{board: {{kind: human}}}}\nparams: {{n: {numbers}}}\ntasks:\n"
    "  g: {{operator: board, instructions: x{more}}}\n"
    "  a: {{needs: [g], matrix: {{i: '${{{{ params.n }}}}'}}, command: 'true'}}\n"
)


def idle(count: int) -> str:
    return WAITING.format(numbers=numbers(count), more="")


def gates(count: int) -> str:
    return WAITING.format(numbers=numbers(count), more=", matrix: {i: '${{ params.n }}'}")


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
        "idle", "a step with nothing to do",
        (
            CLICK,
            Part("10,000 tasks", stepped(idle(10 * n)), STEP),
            Part("100,000 tasks", stepped(idle(100 * n)), STEP),
            Part("1,000 waiting gates", stepped(gates(n)), STEP),
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
