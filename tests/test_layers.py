"""The shape of the code: which arrows between parts there are, and what a command imports at its start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import matterstack

PACKAGE = Path(matterstack.__file__).parent
ARROWS = {  # part -> the parts that it may import; errors and version may be imported from anywhere
    "errors": set(),
    "version": set(),
    "core": {"core"},
    "template": {"template", "core"},
    "spec": {"spec", "template", "core"},
    "run_root": {"run_root", "core"},
    "storage": {"storage", "run_root", "core"},
    "operators": {"operators", "run_root", "core"},
    "orchestration": {"orchestration", "operators", "storage", "run_root", "template", "core", "care"},
    "people": {"people", "views", "orchestration", "operators", "storage", "run_root", "core"},
    "parcels": {"parcels", "people", "views", "orchestration", "operators", "storage", "run_root", "core"},
    "views": {"views", "orchestration", "operators", "storage", "run_root", "core", "care"},
    "care": {"care", "orchestration", "operators", "storage", "run_root", "core"},
    "testing": {"operators", "run_root", "core"},
    "wiring": {"care", "operators", "spec", "core"},
    "api": {"wiring", "views", "orchestration", "operators", "spec", "core"},
    "cli": {"cli", "wiring", "api", "people", "parcels", "views", "care", "orchestration", "operators", "spec", "storage", "run_root", "template", "core"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
HOMES = {  # library -> the one file that imports it
    "networkx": "core/graph.py",
    "jsonschema": "core/validation.py",
    "yaml": "spec/loader.py",
    "filelock": "storage/run_lock.py",
    "sqlite3": "storage/state_store.py",
    "rich": "cli/live.py",
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(file):
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "matterstack" else [f"matterstack.{a.name}" for a in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES)
def test_arrows_point_one_way(file):
    part = file.split("/")[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imports(file) if name.startswith("matterstack.")} - {"errors", "version"}
    assert used <= ARROWS[part]


@pytest.mark.parametrize(("library", "home"), HOMES.items())
def test_a_library_has_one_home(library, home):
    assert [file for file in FILES if any(name.split(".")[0] == library for name in imports(file))] == [home]


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
