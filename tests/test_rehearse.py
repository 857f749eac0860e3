"""A campaign rehearsed: pretended work, a clock that jumps, and nothing left behind."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterstack.core.validation import schema_violation
from matterstack.simulation.rehearsal import fitting

CAMPAIGN = """
operators: {board: {kind: human}, local: {kind: local, slots: {cpus: 2}}}
tasks:
  propose: {command: 'exit 99', outputs: {t: t.csv}, resources: {time: 2h}}
  relax: {matrix: {table: t.csv}, expect: 4, command: 'echo ${{ matrix.x }} >> WITNESS', outputs: {e: "e/${{ matrix.id }}"}, resources: {time: 4h}}
  look: {operator: board, inputs: {e: "e/*"}, instructions: Well?, response_schema: {type: object, required: [go], properties: {go: {enum: [no, yes]}}}}
  more: {when: "${{ response.look.go == 'yes' }}", command: 'true'}
  learn:
    repeat: {max: 9, until: "${{ metrics.train.rmse < 0.1 }}"}
    tasks:
      train: {needs: [look], command: 'true', resources: {time: 2h}}
"""


@pytest.fixture
def plan(bench):
    bench.write(CAMPAIGN)
    (bench.folder / "samples.yaml").write_text("learn/train: {metrics: {rmse: [1, 0.5, 0.05]}}\n")
    (bench.folder / "rates.yaml").write_text("people: 3h\nrelax: {time: 1h}\n")
    return bench


def rehearse(bench, *words):
    done = bench.cli("rehearse", bench.folder / "campaign.yaml", *words, cwd=bench.folder)
    assert "Traceback" not in done.stderr
    return done


def test_it_tells_the_end_the_cpu_hours_who_is_waited_for_and_what_is_never_taken(plan):
    before = sorted(os.listdir(plan.folder))
    done = rehearse(plan, "--samples", "samples.yaml", "--rates", "rates.yaml", "--json")
    found = json.loads(done.stdout)
    tasks = {item["task"]: item for item in found["tasks"]}
    assert found["state"] == "COMPLETED"
    # propose 1 h (half its limit), relax 4 x 1 h on 2 cpus, a person 3 h, three rounds of 1 h.
    assert found["ends_s"] == pytest.approx(3600 * (1 + 2 + 3 + 3), abs=60)
    assert found["cpu_hours"] == pytest.approx(1 + 4 + 3, abs=0.01)
    assert found["people_alone_s"] == pytest.approx(3 * 3600, abs=60)
    assert (tasks["relax"]["instances"], tasks["learn/train"]["instances"]) == (4, 3)
    assert [item["task"] for item in found["never"]] == ["more"]
    assert "is false" in found["never"][0]["reason"]
    assert "learn: round 3 of at most 9 met its condition: train.rmse 0.05" in found["remarks"]
    assert sorted(os.listdir(plan.folder)) == before  # nothing ran, and nothing was left
    assert not plan.witness.exists()


def test_the_timeline_is_text(plan):
    shown = rehearse(plan, "--samples", "samples.yaml", "--rates", "rates.yaml").stdout
    assert shown.startswith("COMPLETED after 9 h 00 min, 8 cpu-hours\n")
    assert "people alone are waited for 3 h 00 min, 33% of the time\n" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("look")]
    assert set(line.split("|")[1]) == {" ", "~"}


def test_failures_are_as_frequent_as_they_are_said_to_be(plan):
    (plan.folder / "rates.yaml").write_text("people: 3h\nrelax: {fails: 1}\n")
    found = json.loads(rehearse(plan, "--rates", "rates.yaml", "--json").stdout)
    assert found["state"] == "FAILED"
    assert next(item for item in found["tasks"] if item["task"] == "relax")["failures"] == 4
    assert any(line.startswith("relax/r1 failed: attempt 1 of 1: exit code 1") for line in found["remarks"]), found[
        "remarks"
    ]


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        ("--rates", "relx: {time: 1h}", "rates: 'relx': expected"),
        ("--rates", "relax: {time: long}", "rates: "),
        ("--rates", "[1]", "rates: "),
        ("--samples", "nobody: {metrics: {a: 1}}", "samples: 'nobody' is not a task"),
        ("--samples", "[1]", "expected a mapping of tasks"),
        ("--samples", "a: [", "is not YAML"),
        ("--samples", "look: {response: {go: maybe}}", "samples: look.response does not fit its schema"),
        ("--samples", "relax: {outputs: {nope: x}}", "samples: 'nope' is not an output of relax"),
        ("--rates", "relax: {fails: 1.5}", "rates: relax.fails: expected a share from 0 to 1, got 1.5"),
        ("--rates", "relax: {fails: x}", 'rates: relax.fails: expected a share from 0 to 1, got "x"'),
    ],
)
def test_files_that_say_nothing_are_refused_in_one_line(plan, option, text, told):
    (plan.folder / "x.yaml").write_text(text)
    done = rehearse(plan, option, "x.yaml")
    assert done.returncode == 2
    assert told in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_there_is_named(plan):
    assert "--rates none.yaml: no such file" in rehearse(plan, "--rates", "none.yaml").stderr


SCHEMAS = st.recursive(
    st.one_of(
        st.builds(
            lambda low, more: {"type": "number", "minimum": low, "maximum": low + more},
            st.integers(-5, 5),
            st.integers(0, 5),
        ),
        st.builds(lambda n: {"type": "string", "minLength": n}, st.integers(0, 4)),
        st.just({"type": "boolean"}),
        st.builds(lambda items: {"enum": items}, st.lists(st.sampled_from(["a", "b", 1, True]), min_size=1)),
    ),
    lambda inner: st.one_of(
        st.builds(lambda items, n: {"type": "array", "items": items, "minItems": n}, inner, st.integers(0, 3)),
        st.builds(
            lambda fields, n: {"type": "object", "properties": fields, "required": sorted(fields)[:n]},
            st.dictionaries(st.sampled_from("xyz"), inner),
            st.integers(0, 3),
        ),
    ),
)


@given(SCHEMAS)
def test_a_pretended_answer_satisfies_the_schema(schema):
    assert schema_violation(schema, fitting(schema)) == ""


ANSWER = """
operators: {{board: {{kind: human}}}}
tasks:
  look: {{operator: board, instructions: Which?, response_schema: {{type: object, required: [e], properties: {{e: {{type: array, minItems: 2, items: {{type: string{0}}}}}}}}}}}
  calc: {{matrix: {{e: "${{{{ response.look.e }}}}"}}, command: 'echo ${{{{ matrix.e }}}}'}}
"""


def test_a_pretended_list_gives_different_values_of_an_axis(bench):
    bench.write(ANSWER.format(""))
    (bench.folder / "rates.yaml").write_text("people: 0h\n")
    found = json.loads(rehearse(bench, "--rates", "rates.yaml", "--json").stdout)
    assert found["state"] == "COMPLETED"
    assert [item["instances"] for item in found["tasks"]] == [1, 2]


def test_an_answer_that_cannot_be_pretended_is_asked_for(bench):
    bench.write(ANSWER.format(", pattern: '^[A-Z][a-z]$'"))
    done = rehearse(bench)
    assert done.returncode == 2
    assert "samples: look.response is to be pretended, and nothing plain fits" in done.stderr
    (bench.folder / "samples.yaml").write_text("look: {response: {e: [[Al, Cu]]}}\n")
    assert rehearse(bench, "--samples", "samples.yaml").stdout.startswith("COMPLETED")
