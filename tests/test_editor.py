"""The schema in an editor: what is offered for completion at a place, and what is shown on hover.

`Editor` walks the schema as a YAML language server does: `$ref`, `properties`, `patternProperties`,
`additionalProperties` and the branches of `anyOf` that a mapping can be. Six campaigns written by hand are typed into
it, key by key.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from matterstack.core.validation import find_errors
from matterstack.spec.load import load_campaign
from matterstack.spec.loader import load_document, plain

TOP = Path(__file__).resolve().parent.parent
CAMPAIGNS = sorted((TOP / "tests" / "campaigns").glob("*.yaml"))


class Editor:
    def __init__(self):
        self.root = json.loads((TOP / "schemas" / "campaign.schema.json").read_text())

    def resolve(self, schema):
        """Follow `$ref`; what stands beside it wins, as JSON Schema 2020-12 lets it stand."""
        while "$ref" in schema:
            target = self.root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        return schema

    def branches(self, schema):
        schema = self.resolve(schema)
        yield schema
        for inner in schema.get("anyOf", ()):
            yield from self.branches({**inner})

    def offered(self, schema):
        """Give {key: its schema} of what can be typed as a key of this mapping."""
        found = {}
        for branch in self.branches(schema):
            for key, value in branch.get("properties", {}).items():
                found.setdefault(key, self.resolve(value))
        return found

    def below(self, schema, key):
        """Give the schema of a key, also of one that the author named, None if it is not allowed."""
        offered = self.offered(schema)
        if key in offered:
            return offered[key]
        for branch in self.branches(schema):
            for pattern, value in branch.get("patternProperties", {}).items():
                if key.startswith("x-") or pattern.startswith("^exit_code"):
                    return self.resolve(value)
            extra = branch.get("additionalProperties", branch.get("type") == "object")
            if isinstance(extra, dict):
                return self.resolve(extra)
            if extra or not {"type", "anyOf", "const", "enum"} & set(branch):
                return {}
        return None


@pytest.fixture(scope="module")
def editor():
    return Editor()


def keys_of(node, path=()):
    """Give (path of the mapping, key) for each key of a document, those of free mappings too."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield path, key
            yield from keys_of(value, (*path, key))


def schema_at(editor, path):
    schema = editor.root
    for key in path:
        schema = editor.below(schema, key) if schema else schema
    return schema


@pytest.mark.parametrize("file", CAMPAIGNS, ids=lambda path: path.stem)
def test_each_key_of_a_campaign_is_offered_and_explained_where_it_is_typed(editor, file):
    document = plain(load_document(file).root)
    offered_keys = 0
    for path, key in keys_of(document):
        schema = schema_at(editor, path)
        if schema == {}:
            continue  # below a key that is the author's
        assert schema is not None, path
        found = editor.below(schema, key)
        assert found is not None, (path, key)
        offered = editor.offered(schema)
        if key in offered and not key.startswith("x-"):
            assert offered[key].get("title") and offered[key].get("description"), (path, key)
            offered_keys += 1
    assert offered_keys > 20


def test_six_campaigns_are_tried_and_load(editor):
    assert len(CAMPAIGNS) == 6
    for file in CAMPAIGNS:
        warnings = load_campaign(file).warnings
        told = ("this version of MatterStack", "is null if")  # what cannot run yet, and an input of what may fail
        assert all(any(text in problem.message for text in told) for problem in warnings), warnings


@pytest.mark.parametrize(
    ("path", "some", "not_offered"),
    [
        ((), {"matterstack", "name", "tasks", "operators", "params"}, {"command", "needs"}),
        (("defaults",), {"retries", "resources", "setup"}, {"needs", "command", "matrix", "when", "outputs"}),
        (("tasks", "relax"), {"command", "needs", "inputs", "matrix", "when", "responders"}, {"kind", "params.x"}),
        (("tasks", "relax", "resources"), {"cpus", "memory", "gpus", "time"}, {"partition"}),
        (("tasks", "relax", "retries"), {"max", "delay", "timeout", "out_of_memory"}, {"memory"}),
        (("tasks", "relax", "retries", "timeout"), {"time", "memory", "up_to"}, {"max"}),
        (("tasks", "relax", "retries", "exit_code_3"), {"time", "memory", "up_to"}, {"max"}),
        (("tasks", "relax", "inputs", "cell"), {"path", "as"}, {"file"}),
        (("tasks", "relax", "outputs", "cell"), {"path", "file", "optional"}, {"as"}),
        (("tasks", "relax", "matrix"), {"include", "exclude", "table"}, {"label"}),
        (("tasks", "relax", "allow_dependency_failure"), {"min"}, set()),
        (("tasks", "relax", "env", "TOKEN"), {"from_env"}, set()),
        (("operators", "cluster"), {"kind", "max_active", "partition", "slots"}, {"command"}),
        (("operators", "cluster", "slots"), {"cpus", "memory", "gpus"}, {"time"}),
    ],
)
def test_what_is_offered_at_a_place(editor, path, some, not_offered):
    offered = set(editor.offered(schema_at(editor, path)))
    assert some <= offered
    assert not not_offered & offered


def every_key(editor, schema, path=(), seen=None):
    seen = set() if seen is None else seen
    for key, value in editor.offered(schema).items():
        place = (*path[-1:], key)
        yield (*path, key), value
        if place not in seen:
            seen.add(place)
            yield from every_key(editor, value, (*path, key), seen)
            extra = value.get("additionalProperties")
            if isinstance(extra, dict):
                yield from every_key(editor, editor.resolve(extra), (*path, key, "*"), seen)


def test_every_key_has_a_title_a_description_and_an_example(editor):
    found = list(every_key(editor, editor.root))
    assert len({path[-1] for path, _ in found}) > 60
    for path, schema in found:
        assert {"title", "description", "examples"} <= set(schema), ".".join(path)


def test_values_that_are_a_choice_are_offered(editor):
    assert editor.resolve(editor.offered(schema_at(editor, ("tasks", "a")))["shell"])["enum"] == ["bash", "sh"]
    assert editor.offered(schema_at(editor, ("tasks", "a")))["on_deadline"]["enum"] == ["fail", "default", "remind"]


def test_a_key_that_is_left_half_typed_is_marked_as_unknown(editor):
    schemas = json.dumps([editor.root])
    for file in CAMPAIGNS:
        document = plain(load_document(file).root)
        task = next(iter(document["tasks"].values()))
        task["comm"] = "x"
        messages = [found.message for found in find_errors(schemas, "campaign.schema.json", document)]
        assert any(message.startswith("unknown key") for message in messages)


def test_the_operators_of_a_site_have_a_schema_of_their_own():
    schema = json.loads((TOP / "schemas" / "operators.schema.json").read_text())
    assert schema["additionalProperties"] == {"$ref": "campaign.schema.json#/$defs/operator"}
    assert {"title", "description", "examples"} <= set(schema)
