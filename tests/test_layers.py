"""The shape of the code: which arrows between parts there are, and what a command imports at its start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import matterstack

PACKAGE = Path(matterstack.__file__).parent
# part -> the parts that it may import. `errors`, `version`, `hints` and `deferred` may be imported from anywhere.
DATA = {"core"}
DISK = DATA | {"run_root"}
LEDGER = DISK | {"storage"}
STEP = LEDGER | {"operators", "template", "text", "orchestration"}
GROWTH = {"spec"}  # what results make is expanded by the code that expands a campaign file
ARROWS = {
    "errors": set(),
    "version": set(),
    "hints": set(),
    "deferred": set(),
    "core": DATA,
    "text": DATA | {"text"},
    "template": DATA | {"template"},
    "spec": DATA | {"template", "spec"},
    "run_root": DISK,
    "storage": LEDGER,
    "operators": DISK | {"operators"},
    "orchestration": STEP | GROWTH,
    "care": STEP | {"care", "spec"},  # spec only for a journal of version 1
    "views": STEP | {"care", "views"},
    "people": STEP | {"views", "people", "spec"},  # spec only for a typed value, which is YAML
    "parcels": STEP | {"views", "people", "parcels"},
    "simulation": STEP | {"simulation"},
    "testing": DISK | {"operators"},
    "api": STEP | {"spec", "views"},
    "cli": STEP | {"spec", "care", "views", "people", "parcels", "api", "simulation", "cli"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
ANYWHERE = {"errors", "version", "hints", "deferred"}
HOMES = {  # library -> the one file, or folder, that imports it
    "networkx": ["core/graph.py"],
    "jsonschema": ["core/validation.py"],
    "yaml": ["spec/loader.py"],
    "filelock": ["storage/run_lock.py"],
    "sqlite3": ["storage/", "simulation/run.py"],
    "rich": ["cli/live.py", "cli/render.py"],
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(file, *, at_run_time=False):
    """Give the modules that a file imports, lazy imports included; ``at_run_time`` without those for type checkers."""
    tree = ast.parse((PACKAGE / file).read_text())
    left_out = set()
    for node in ast.walk(tree):
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left_out.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES)
def test_arrows_point_one_way(file):
    part = file.split("/")[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imports(file) if name.startswith("matterstack.")} & set(ARROWS)
    assert used - ANYWHERE <= ARROWS[part]


def test_no_two_modules_form_a_cycle_also_counting_lazy_imports():
    names = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    graph = nx.DiGraph()
    for name, file in names.items():
        for found in imports(file):
            target = found.removeprefix("matterstack.")
            if found.startswith("matterstack.") and target in names and target != name:
                graph.add_edge(name, target)
    assert list(nx.simple_cycles(graph)) == []


@pytest.mark.parametrize(("library", "homes"), HOMES.items())
def test_a_library_has_one_home(library, homes):
    users = [file for file in FILES if any(name.split(".")[0] == library for name in imports(file, at_run_time=True))]
    assert users
    assert all(any(file.startswith(home) for home in homes) for file in users), users


def test_core_touches_no_files_clock_database_or_processes():
    forbidden = {"os", "time", "sqlite3", "subprocess", "socket", "shutil", "threading", "random"}
    for file in FILES:
        if file.startswith("core/"):
            assert not forbidden & {name.split(".")[0] for name in imports(file)}, file


def loaded_by(*words, cwd=None):
    """Give the modules that a command had loaded when it ended."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        f"sys.argv = ['matterstack', *{list(map(str, words))!r}]\n"
        "from matterstack.cli.main import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    return set(done.stderr.split())


HEAVY = {"networkx", "jsonschema", "yaml", "rich", "importlib.metadata"}


def test_help_and_version_import_click_and_nothing_else_of_ours_or_others():
    for word in ("--help", "--version"):
        loaded = loaded_by(word)
        assert not loaded & (HEAVY | {"sqlite3", "filelock", "matterstack.core.model", "matterstack.orchestration"})


def test_an_idle_step_and_status_import_nothing_heavy(bench):
    bench.start("tasks: {a: {command: 'sleep 60'}, b: {needs: [a], command: 'true'}}\n")
    bench.step()
    for words in (("step", bench.root), ("status", bench.root), ("results", bench.root), ("logs", bench.root, "a")):
        assert not loaded_by(*words) & HEAVY, words
    assert "matterstack.template.language" not in loaded_by("step", bench.root)
