"""The documentation tells the truth: every command, exit code and key is in it, and what it shows runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from matterstack.cli.main import COMMANDS
from matterstack.errors import ExitCode
from matterstack.operators.registry import runnable_kinds
from matterstack.spec.load import load_campaign

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text()
FORMAT = (TOP / "docs" / "campaign-file.md").read_text()
OPERATORS = (TOP / "docs" / "operators.md").read_text()
SCHEMA = json.loads((TOP / "schemas" / "campaign.schema.json").read_text())


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert re.search(rf"^\| .*`{command}[ `]", README, re.MULTILINE)


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_in_the_readme(code):
    assert re.search(rf"^\| {int(code)} \|", README, re.MULTILINE)


def keys_of(node, found):
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            found.add(name)
            keys_of(value, found)
        for key, value in node.items():
            if key not in ("properties", "examples"):
                keys_of(value, found)
    elif isinstance(node, list):
        for item in node:
            keys_of(item, found)
    return found


@pytest.mark.parametrize("key", sorted(keys_of(SCHEMA, set())))
def test_every_key_of_the_schema_is_in_the_documentation_of_the_format(key):
    assert re.search(rf"`{key}`|`{{{key}: |\b{key}: ", FORMAT), key


@pytest.mark.parametrize("where", ["", "task", "operator", "resources"])
def test_every_default_of_the_schema_is_in_the_row_of_its_key(where):
    for path, schema in described(SCHEMA if not where else SCHEMA["$defs"][where]):
        if "default" in schema:
            value = schema["default"]
            text = value if isinstance(value, str) else json.dumps(value)
            rows = [row for row in FORMAT.splitlines() if row.startswith("| ") and f"`{path}`" in row.split("|")[1]]
            assert any(f"`{text}`" in row or (text == "1" and "{cpus: 1}" in row) for row in rows), (path, text)


def described(node, path="", defs=SCHEMA["$defs"]):
    """Give each property with its schema, `$ref` followed."""
    for name, value in node.get("properties", {}).items():
        target = {**defs[value["$ref"].split("/")[-1]], **value} if "$ref" in value else value
        yield f"{path}{name}", target


@pytest.mark.parametrize("where", ["", "task", "operator", "defaults", "resources", "matrix"])
def test_every_key_has_a_title_and_a_description_for_editors(where):
    for path, schema in described(SCHEMA if not where else SCHEMA["$defs"][where]):
        if path != "default":
            assert {"title", "description"} <= set(schema), path


def test_the_examples_within_the_schema_are_valid():
    from jsonschema import Draft202012Validator

    def check(node):
        if isinstance(node, dict):
            rule = {**node, "$defs": SCHEMA["$defs"]}
            for example in node.get("examples", []):
                assert Draft202012Validator(rule).is_valid(example), example
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for item in node:
                check(item)

    check(SCHEMA)


@pytest.mark.parametrize("number", range(len(blocks(FORMAT + OPERATORS, "yaml"))))
def test_every_campaign_in_the_documentation_runs(bench, number):
    text = blocks(FORMAT + OPERATORS, "yaml")[number]
    file = bench.write(text)
    assert load_campaign(file, installed_kinds=runnable_kinds(), to_run=True).warnings == ()

    done = bench.cli("run", file, "--root", bench.root)

    assert done.returncode == (4 if text.startswith("# waits for people\n") else 0), done.stderr


def test_the_readmes_own_campaign_runs_with_the_commands_below_it(bench):
    (campaign,) = blocks(README, "yaml")
    bench.write(campaign)
    commands = next(block for block in blocks(README, "sh") if "validate campaign.yaml" in block)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(["bash", "-ec", commands], cwd=bench.folder, env=env, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "\n14\n" in done.stdout
    assert "squares-" in done.stdout and ": COMPLETED (runs/squares)" in done.stdout


def test_the_readmes_python_runs(bench):
    (campaign,) = blocks(README, "yaml")
    (code,) = blocks(README, "python")
    bench.write(campaign)

    done = subprocess.run([sys.executable, "-c", code], cwd=bench.folder, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("COMPLETED ")


def test_the_two_commands_of_the_readme_install_what_they_need():
    extras = (TOP / "pyproject.toml").read_text()
    first, second = (block for block in blocks(README, "sh") if "python3 -m venv" in block)
    assert "'.[science]'" in first and "examples/fcc_screening/campaign.yaml" in first
    assert "'.[dev]'" in second and second.rstrip().endswith(".venv/bin/pytest")
    assert "science = [" in extras and "dev = [" in extras


@pytest.mark.parametrize("file", sorted(TOP.glob("examples/*/campaign.yaml")), ids=lambda path: path.parent.name)
def test_every_example_validates_without_a_warning_and_names_its_schema(file):
    assert load_campaign(file).warnings == ()
    assert file.read_text().startswith("# yaml-language-server: $schema=../../schemas/campaign.schema.json\n")
    assert yaml.safe_load(file.read_text())["matterstack"] == 1


@pytest.mark.parametrize(
    "document", sorted([TOP / "README.md", *TOP.glob("docs/*.md"), *TOP.glob("examples/*/*.md")]), ids=lambda p: p.name
)
def test_every_link_between_the_documents_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
