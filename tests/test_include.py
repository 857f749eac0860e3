"""A campaign in several files."""

from __future__ import annotations

import pytest

from matterstack.errors import CampaignError
from matterstack.spec.load import load_campaign

MAIN = """
include: [common.yaml, lib/dft.yaml]
params: {emax: 5}
defaults: {retries: 3, env: {WHO: main}}
tasks:
  rank: {inputs: {e: "e/*"}, command: 'echo $WHO; cat ${{ inputs.e }} > r', outputs: {r: r}}
"""
COMMON = "params: {metals: [Al, Cu]}\noperators: {board: {kind: human}}\nx-note: 1\n"
DFT = """
defaults: {retries: 1, env: {WHO: dft, MORE: "1"}, setup: ["A=1"], operator: local, resources: {time: 1m}}
files: [scripts/*.sh]
tasks:
  relax:
    matrix: {m: "${{ params.metals }}"}
    setup: ["B=2"]
    env: {MORE: "2"}
    inputs: {cell: "cells/${{ matrix.m }}.txt", all: "cells/*"}
    command: sh ${{ source }}/scripts/relax.sh ${{ inputs.cell }} $WHO $MORE $A $B ${{ params.emax }} > ${{ outputs.e }}
    outputs: {e: "e/${{ matrix.m }}"}
  many: {matrix: {table: t.csv}, command: 'echo ${{ matrix.id }}'}
  ask: {operator: board, instructions: Well?}
"""


@pytest.fixture
def parts(bench):
    for folder in ("lib/cells", "lib/scripts"):
        (bench.folder / folder).mkdir(parents=True)
    for name, text in {
        "common.yaml": COMMON, "lib/dft.yaml": DFT, "lib/cells/Al.txt": "a", "lib/cells/Cu.txt": "c",
        "lib/scripts/relax.sh": "cat $1; shift; echo $*\n", "lib/t.csv": "id\nx\ny\n",
    }.items():  # fmt: skip
        (bench.folder / name).write_text(text)
    return bench


def problems(bench, **files):
    for name, text in files.items():
        (bench.folder / {"common": "common.yaml", "dft": "lib/dft.yaml"}[name]).write_text(text)
    with pytest.raises(CampaignError) as caught:
        load_campaign(bench.write(MAIN))
    return [str(problem).replace(f"{bench.folder}/", "") for problem in caught.value.problems]


def test_each_file_speaks_of_its_own_folder_and_its_defaults_are_for_its_own_tasks(parts):
    parts.start(MAIN)
    parts.step_until(lambda: parts.states()["rank"] == "COMPLETED")
    assert (parts.root / "results/r").read_text() == "adft 2 1 2 5\ncdft 2 1 2 5\n"
    assert (parts.attempt("rank") / "stdout.log").read_text() == "main\n"
    assert (parts.root / "source/lib/scripts/relax.sh").exists()
    assert (parts.root / "source/lib/dft.yaml").exists()
    campaign = load_campaign(parts.folder / "campaign.yaml").campaign
    assert (campaign.tasks["relax"].retries.max, campaign.tasks["rank"].retries.max) == (1, 3)
    assert (campaign.tasks["ask"].retries.max, dict(campaign.tasks["ask"].resources)) == (0, {})


def test_a_change_of_an_included_file_is_amended_and_old_versions_load(parts):
    parts.start(MAIN)
    ended = ("rank", "many/x", "many/y")
    parts.step_until(lambda: all(parts.states()[name] == "COMPLETED" for name in ended))
    (parts.folder / "lib/dft.yaml").write_text(DFT.replace("echo ${{ matrix.id }}", "echo changed ${{ matrix.id }}"))
    refused = parts.cli("run", parts.folder / "campaign.yaml", "--root", parts.root)
    assert refused.returncode == 2
    assert "lib/dft.yaml differs from that of the run" in refused.stderr
    told = parts.cli("amend", parts.root, "--yes").stdout
    assert "2 COMPLETED become stale (command): x, y" in told
    assert "lib/dft.yaml: tasks.many.command echo ${{ matrix.id }} -> echo changed ${{ matrix.id }}\n" in told
    assert "lib/dft.yaml: changed\n" in told
    assert "2 COMPLETED no longer stale" in parts.cli("amend", parts.root, "--to", 1).stdout


def test_positions_name_the_file(parts):
    assert problems(parts, dft=DFT.replace("params.emax", "params.emx")) == [
        "lib/dft.yaml:10:14: tasks.relax.command: 'emx' is not in params (did you mean 'emax'?); it has emax, metals"
    ]
    assert problems(parts, dft=DFT.replace("retries: 1", "retries: many"))[0].startswith("lib/dft.yaml:2:")
    assert problems(parts, dft="tasks: [\n")[0].startswith("lib/dft.yaml:2:1: is not YAML")
    assert len(problems(parts, dft="tasks: [\n")) == 1


def test_a_name_that_is_defined_twice_names_both(parts):
    found = problems(parts, common=COMMON + "tasks: {rank: {command: 'true'}}\n")
    assert found == ["common.yaml:4:9: tasks.rank: 'rank' is defined in campaign.yaml, line 8, as well"]
    found = problems(parts, common=COMMON.replace("metals: [Al, Cu]", "metals: [Al, Cu], emax: 6"))
    assert found == ["common.yaml:1:28: params.emax: 'emax' is defined in campaign.yaml, line 5, as well"]


@pytest.mark.parametrize(
    ("common", "told"),
    [
        ("include: [lib/dft.yaml, campaign.yaml]\n", "a cycle: campaign.yaml -> common.yaml -> campaign.yaml"),
        ("include: [../x.yaml]\n", "../x.yaml: no such file"),
        ("include: [/no/such/x.yaml]\n", "/no/such/x.yaml: no such file"),
        ("include: [none.yaml]\n", "none.yaml: no such file"),
        ("include: none.yaml\n", "expected a list of files"),
        ("limits: {attempts: 1}\n", "not in a file that is included"),
        ("- 1\n", "expected a mapping"),
        ("tasks: [1]\n", "expected a mapping"),
    ],
)
def test_what_cannot_be_included_is_told(parts, common, told):
    found = problems(parts, common=common)
    assert any(told in line for line in found), found
    assert not any("Traceback" in line for line in found)


@pytest.fixture
def shared(parts):
    """A folder that several campaigns share, and a campaign beside it."""
    folder = parts.folder.parent / f"{parts.folder.name} shared"
    (folder / "base").mkdir(parents=True)
    (folder / "lib").mkdir()
    for name in ("cells", "scripts"):
        (parts.folder / "lib" / name).rename(folder / "lib" / name)
    (parts.folder / "lib/t.csv").rename(folder / "lib/t.csv")
    (folder / "lib/dft.yaml").write_text("include: [../base/more.yaml]\n" + DFT)
    (folder / "base/more.yaml").write_text("files: [tool.sh]\ntasks: {more: {command: 'sh ${{ source }}/tool.sh'}}\n")
    (folder / "base/tool.sh").write_text("echo more\n")
    return folder


def outside(parts):
    return MAIN.replace("lib/dft.yaml", f"../{parts.folder.name} shared/lib/dft.yaml")


def test_a_file_from_outside_is_kept_with_what_it_names(shared, parts):
    parts.start(outside(parts))
    parts.step_until(lambda: parts.states()["rank"] == "COMPLETED" and parts.states()["more"] == "COMPLETED")
    assert (parts.root / "results/r").read_text() == "adft 2 1 2 5\ncdft 2 1 2 5\n"
    kept = sorted(str(path.relative_to(parts.root / "source")) for path in (parts.root / "source").rglob("*.*"))
    assert kept == [
        "_1/cells/Al.txt", "_1/cells/Cu.txt", "_1/dft.yaml", "_1/scripts/relax.sh", "_1/t.csv", "_2/more.yaml",
        "_2/tool.sh", "common.yaml",
    ]  # fmt: skip
    shown = parts.cli("status", parts.root)
    assert "differ" not in shown.stdout + shown.stderr


def test_a_change_outside_is_reported_and_amended_and_checked_out(shared, parts):
    parts.start(outside(parts))
    parts.step_until(lambda: parts.states()["many/x"] == "COMPLETED")
    (shared / "lib/t.csv").write_text("id\nx\nz\n")
    assert "_1/t.csv" in parts.cli("rerun", parts.root, "many/x").stderr
    told = parts.cli("amend", parts.root, "--yes").stdout
    assert "1 row added, 1 removed" in told
    assert "many" in told
    assert parts.states()["many/z"] in ("PENDING", "READY")
    copy = parts.folder.parent / f"{parts.folder.name} copy"
    parts.cli("amend", parts.root, "--checkout", copy)
    (shared / "lib/t.csv").unlink()
    (shared / "lib/dft.yaml").write_text("tasks: {}\n")
    loaded = load_campaign(copy / "campaign.yaml")  # of what the run has kept, whatever is outside by now
    assert {item.task_id for item in loaded.instances if item.group == "many"} == {"many/x", "many/z"}
    assert "nothing" in parts.cli("amend", parts.root, copy / "campaign.yaml").stdout
    assert parts.cli("amend", parts.root, "--to", 1, "--yes").returncode == 0
    assert parts.states()["many/y"] != "RETIRED"


def test_a_cycle_through_a_file_outside_names_the_way(shared, parts):
    (shared / "base/more.yaml").write_text(f"include: ['../../{parts.folder.name}/campaign.yaml']\n")
    with pytest.raises(
        CampaignError, match=r"a cycle: .*campaign.yaml -> .*dft.yaml -> .*more.yaml -> .*campaign.yaml"
    ):
        load_campaign(parts.write(outside(parts)))


def test_files_of_a_file_outside_stay_in_its_folder(shared, parts):
    (shared / "base/more.yaml").write_text("files: [../lib/t.csv]\n")
    with pytest.raises(CampaignError, match=r"more.yaml:1:9: files\[1\]: .* leaves its folder"):
        load_campaign(parts.write(outside(parts)))


def test_a_folder_of_the_campaign_in_the_place_of_one_outside_is_told(shared, parts):
    (parts.folder / "_1").mkdir()
    with pytest.raises(CampaignError, match="the run keeps its folder as _1, which the campaign folder has already"):
        load_campaign(parts.write(outside(parts)))


def test_its_defaults_are_checked_and_hold_as_those_of_a_campaign_do(parts):
    for given, told in {
        "{command: 'true'}": "lib/dft.yaml:1:12: defaults.command",
        "{when: '${{ 1 == 2 }}'}": "lib/dft.yaml:1:12: defaults.when",
        "[1]": "lib/dft.yaml:1:11: defaults",
        "3": "lib/dft.yaml:1:11: defaults",
    }.items():
        found = problems(parts, dft=f"defaults: {given}\ntasks: {{t: {{command: 'true'}}}}\n")
        assert any(item.startswith(told) for item in found), found
    assert problems(parts, dft="matterstack: 2\n")[0].startswith("lib/dft.yaml:1:14: matterstack")
    (parts.folder / "lib/dft.yaml").write_text(
        "defaults: {retries: {max: 3, delay: 5s}}\ntasks: {t: {retries: 1, command: 'true'}}\n"
    )
    spec = load_campaign(parts.write(MAIN.replace('inputs: {e: "e/*"}, ', "").replace("${{ inputs.e }}", "x"))).campaign
    assert (spec.tasks["t"].retries.max, spec.tasks["t"].retries.delay_s) == (1, 5.0)


def test_what_an_anchor_shares_is_said_from_its_folder_once(parts):
    (parts.folder / "lib/dft.yaml").write_text(
        "files: [scripts/*.sh, ../common.yaml]\n"
        "x-t: &t {uses: [scripts/relax.sh], matrix: &m {table: t.csv}, command: 'sh ${{ raw(source) }}/scripts/relax.sh t.csv'}\n"
        "defaults: {uses: [scripts/relax.sh]}\n"
        "tasks: {t: *t, u: *t, v: {matrix: *m, command: 'true'}}\n"
    )
    loaded = load_campaign(parts.write(MAIN.replace('inputs: {e: "e/*"}, ', "").replace("${{ inputs.e }}", "x")))
    assert [loaded.campaign.tasks[name].uses for name in "tuv"] == [("lib/scripts/relax.sh",)] * 3
    assert {item.task_id for item in loaded.instances if item.group in "tuv"} == {
        f"{name}/{row}" for name in "tuv" for row in "xy"
    }
    assert "lib/scripts/relax.sh" in loaded.campaign.tasks["t"].command
    assert {"common.yaml", "lib/t.csv"} <= set(loaded.files)


def test_a_name_may_begin_with_dots_and_tasks_may_be_wrong(parts):
    (parts.folder / "..x.yaml").write_text("defaults: {retries: 1}\ntasks: {t: {command: 'true'}}\n")
    assert load_campaign(parts.write("include: [..x.yaml]\ntasks: {u: {command: 'true'}}\n")).campaign.tasks["t"]
    with pytest.raises(CampaignError, match="tasks: expected a mapping"):
        load_campaign(parts.write("include: [..x.yaml]\ntasks: []\n"))


def test_what_a_file_that_cannot_be_read_would_give_is_not_missing(parts):
    with pytest.raises(CampaignError) as caught:
        load_campaign(parts.write("include: [none.yaml]\n"))
    assert [problem.message for problem in caught.value.problems] == ["none.yaml: no such file"]
