"""Evidence is checked again before anything is made of it (issue 14.2)."""

from __future__ import annotations

import os
import shutil
import stat

import pytest

from matterstack.views.attempts import attempts
from matterstack.views.explain import explain

CHAIN = """tasks:
  make: {command: "printf 'a\\\\nb\\\\n' > x.txt", outputs: {x: x.txt}}
  edit:
    inputs: {x: x.txt}
    command: sed -i 's/a/CHANGED/' ${{ inputs.x }}
  later:
    needs: [edit]
    inputs: {x: x.txt}
    command: cat ${{ inputs.x }}
"""


def last(bench, task):
    return attempts(bench.root, task)[1][-1]


# --- inputs ----------------------------------------------------------------------------------------------------------


def test_an_input_that_another_task_changed_in_place_fails_the_next_one_with_both_digests_and_who_read_it(bench):
    bench.start(CHAIN)
    bench.step_until_over()

    failed = last(bench, "later")
    assert (failed["state"], failed["class"]) == ("FAILED", "input_changed")
    assert failed["reason"].startswith(
        "tasks/make/attempt-1/x.txt was changed since make wrote it (sha256 4a6b8fa7fc76…, recorded "
    )
    assert "; read by edit); restore it and `matterstack rerun " in failed["reason"]
    assert not bench.attempt("later").exists()
    found = bench.cli("doctor", bench.root).stdout
    assert "outputs  tasks/make/attempt-1/x.txt: is not what the task made: sha256 4a6b8fa7fc76…" in found
    assert "attempt-1: is missing" not in found


def test_doctor_and_step_agree_on_an_input_that_was_restored(bench):
    bench.start(CHAIN)
    bench.step_until_over()
    (bench.attempt("make") / "x.txt").write_text("a\nb\n")  # other times and inode, the same content

    assert "x.txt" not in bench.cli("doctor", bench.root).stdout
    assert bench.cli("rerun", bench.root, "later").returncode == 0
    assert bench.step_until_over().state == "COMPLETED"


def test_a_file_of_a_folder_that_was_changed_is_noticed(bench):
    bench.start(
        "tasks:\n  make: {command: 'echo 1 > d/a; echo 2 > d/b', outputs: {d: d/}}\n"
        "  edit: {needs: [make], command: 'sleep 0.01; echo 3 > $MATTERSTACK_RUN/tasks/make/attempt-1/d/b'}\n"
        "  whole: {needs: [edit], inputs: {d: d/}, command: 'ls ${{ inputs.d }}'}\n"
        "  part: {needs: [edit], inputs: {b: d/b}, command: 'cat ${{ inputs.b }}'}\n"
        "  other: {needs: [edit], inputs: {a: d/a}, command: 'cat ${{ inputs.a }}'}\n"
    )
    bench.step_until_over()
    assert {task: last(bench, task)["class"] for task in ("whole", "part", "other")} == {
        "whole": "input_changed", "part": "input_changed", "other": None,
    }  # fmt: skip


def test_a_file_of_source_that_was_changed_fails_the_task_that_has_it_as_an_input(bench):
    (bench.folder / "data.txt").write_text("original\n")
    bench.start("tasks: {a: {inputs: {d: data.txt}, command: 'cat ${{ inputs.d }}'}}\n")
    (bench.root / "source/data.txt").chmod(0o644)
    (bench.root / "source/data.txt").write_text("0riginal\n")
    bench.step_until_over()
    assert last(bench, "a")["class"] == "input_changed"


def test_a_copy_of_a_run_has_other_inodes_and_the_same_inputs(bench):
    bench.start(
        "tasks: {make: {command: 'echo 1 > x', outputs: {x: x}}, use: {inputs: {x: x}, command: 'cat ${{ inputs.x }}'}}\n"
    )
    bench.cli("pause", bench.root, "use")
    bench.step_until(lambda: bench.states()["make"] == "COMPLETED")
    shutil.copytree(bench.root, bench.folder / "copy", symlinks=True)
    shutil.rmtree(bench.root)
    os.rename(bench.folder / "copy", bench.root)
    bench.cli("adopt", bench.root)
    bench.cli("resume", bench.root, "use")
    assert bench.step_until_over().state == "COMPLETED"


# --- read-only -------------------------------------------------------------------------------------------------------


def test_recorded_outputs_and_sources_are_read_only_and_can_be_removed_by_their_owner(bench):
    (bench.folder / "run.sh").write_text("#!/bin/sh\n")
    (bench.folder / "run.sh").chmod(0o755)
    bench.start(
        "files: [run.sh]\ntasks: {a: {command: 'echo 1 > o; echo 2 > d/x; echo 3 > other', outputs: {o: o, d: d/}}}\n"
    )
    bench.step_until_over()

    def mode(name):
        return stat.S_IMODE((bench.root / name).stat().st_mode)

    assert mode("tasks/a/attempt-1/o") & 0o222 == 0
    assert mode("tasks/a/attempt-1/d/x") & 0o222 == 0
    assert mode("tasks/a/attempt-1/other") & 0o200  # nothing is known of it
    assert mode("source/run.sh") & 0o333 == 0o111
    shutil.rmtree(bench.root)


def test_a_copy_under_another_name_may_be_changed_by_the_command(bench):
    bench.start(
        "tasks:\n  make: {command: 'echo 1 > w', outputs: {w: w}}\n"
        "  use: {inputs: {w: {path: w, as: WAVECAR}}, command: '[ -w WAVECAR ] && echo 2 >> WAVECAR'}\n"
    )
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.attempt("make") / "w").read_text() == "1\n"


# --- outputs ---------------------------------------------------------------------------------------------------------

WRONG = {
    "empty": ("touch o", "{path: o, not_empty: true}", "o is empty"),
    "too small": ("printf 12345 > o", "{path: o, min_size: 10}", "o has 5 bytes of at least 10 bytes"),
    "smaller than a size with a unit": (
        "printf 12345 > o",
        "{path: o, min_size: 1K}",
        "o has 5 bytes of at least 1024 bytes",
    ),
    "empty folder": ("true", "{path: o/, not_empty: true}", "o/ is empty"),
    "folder of empty folders": ("mkdir o/p", "{path: o/, not_empty: true}", "o/ is empty"),
    "folder too small": (
        "printf 12 > o/a; printf 3 > o/b",
        "{path: o/, min_size: 4}",
        "o/ has 3 bytes of at least 4 bytes",
    ),
    "a pipe": ("mkfifo o", "o", "o is a named pipe, not a file"),
    "a link to nowhere": ("ln -s nowhere o", "o", "o is a link to nowhere, which does not exist"),
    "an optional link to nowhere": (
        "ln -s nowhere o",
        "{path: o, optional: true}",
        "o is a link to nowhere, which does not exist",
    ),
    "a folder in place of a file": ("mkdir o", "o", "o is a folder; declare it with a `/` at its end"),
    "a folder that is a link out": (
        "rmdir o; ln -s / o",
        "o/",
        "o/ is a link to /, out of the attempt's folder; copy what it holds",
    ),
}


@pytest.mark.parametrize(("command", "output", "words"), WRONG.values(), ids=WRONG)
def test_an_output_that_is_not_what_was_asked_for_is_told_in_words(bench, command, output, words):
    bench.start(f"tasks: {{a: {{command: '{command}', outputs: {{o: {output}}}}}}}\n")
    bench.step_until_over()
    failed = last(bench, "a")
    assert (failed["class"], failed["reason"]) == ("missing_output", f"exit code 0, but {words}")


RIGHT = {
    "a byte": ("printf 1 > o", "{path: o, not_empty: true, min_size: 1}"),
    "a folder with an empty file": ("touch o/a", "{path: o/, not_empty: true}"),
    "an empty one that may be": ("touch o", "o"),
    "none where it is optional": ("true", "{path: o, optional: true, not_empty: true}"),
    "a link within the folder": ("echo 1 > p; ln -s p o", "o"),
}


@pytest.mark.parametrize(("command", "output"), RIGHT.values(), ids=RIGHT)
def test_an_output_that_is_what_was_asked_for_is_taken(bench, command, output):
    bench.start(f"tasks: {{a: {{command: '{command}', outputs: {{o: {output}}}}}}}\n")
    assert bench.step_until_over().state == "COMPLETED"


def test_an_output_that_is_a_link_out_of_the_run_is_taken_with_a_remark(bench):
    (bench.folder / "big").write_text("1\n")
    bench.start(f"tasks: {{a: {{command: 'ln -s {bench.folder}/big o', outputs: {{o: o}}}}}}\n")
    assert bench.step_until_over().state == "COMPLETED"
    words = f"o is a link to {bench.folder}/big, outside of the run: copies and git do not have the file"
    assert words in explain(bench.root, ["a"])[0].reason
    assert "tasks/a/attempt-1/o: lies outside of the run" in bench.cli("doctor", bench.root).stdout
    assert os.access(bench.folder / "big", os.W_OK)


# --- external data ---------------------------------------------------------------------------------------------------

EXTERNAL = "tasks: {a: {command: 'true'}, b: {needs: [a], inputs: {r: {external: EXT, digest: DIG}}, command: 'cat ${{ inputs.r }}'}}\n"


@pytest.mark.parametrize("digest", ["true", "false"])
def test_external_data_are_not_copied_and_are_checked_again(bench, digest):
    reference = bench.folder / "ref data.h5"
    reference.write_text("reference\n")
    bench.start(EXTERNAL.replace("EXT", f'"{reference}"').replace("DIG", digest))
    assert list((bench.root / "source").iterdir()) == []
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.attempt("b") / "stdout.log").read_text() == "reference\n"

    reference.write_text("changed since\n")
    assert f"external  {reference}: " in bench.cli("doctor", bench.root).stdout
    bench.cli("rerun", bench.root, "b")
    bench.step_until_over()
    assert last(bench, "b")["class"] == "input_changed"
    assert str(reference) in last(bench, "b")["reason"]


def test_external_data_that_were_only_touched_are_the_same_by_their_digest(bench):
    reference = bench.folder / "ref"
    reference.write_text("1\n")
    bench.start(EXTERNAL.replace("EXT", str(reference)).replace("DIG", "true"))
    os.utime(reference, (1, 1))
    assert bench.step_until_over().state == "COMPLETED"


def test_external_data_that_are_not_there_are_a_mistake_of_the_file(bench):
    done = bench.cli("validate", bench.write(EXTERNAL.replace("EXT", "/nowhere/ref").replace("DIG", "true")))
    assert done.returncode == 2
    assert "tasks.b.inputs.r: /nowhere/ref cannot be found: No such file or directory" in done.stderr


def test_a_file_that_somebody_has_under_another_name_stays_writable(bench):
    own = bench.folder / "own"
    own.mkdir()
    (own / "ref").write_text("1\n")
    bench.start(f"tasks: {{a: {{command: 'ln {own}/ref ref; cp -al {own} tree', outputs: {{r: ref, t: tree/}}}}}}\n")
    assert bench.step_until_over().state == "COMPLETED"
    assert os.stat(own / "ref").st_mode & 0o200


def test_an_external_folder_that_was_restored_is_what_it_was(bench):
    reference = bench.folder / "basis"
    reference.mkdir()
    (reference / "b.dat").write_text("1\n")
    bench.start(
        EXTERNAL.replace("EXT", str(reference))
        .replace("DIG", "false")
        .replace("cat ${{ inputs.r }}", "ls ${{ inputs.r }}")
    )
    assert bench.step_until_over().state == "COMPLETED"
    shutil.copytree(reference, bench.folder / "backup", copy_function=shutil.copy2)
    (reference / "b.dat").write_text("other\n")
    bench.cli("rerun", bench.root, "b")
    bench.step_until_over()
    assert "a file in it has another size or time" in last(bench, "b")["reason"]
    shutil.rmtree(reference)
    (bench.folder / "backup").rename(reference)
    bench.cli("rerun", bench.root, "b")
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.cli("doctor", bench.root).stdout == "nothing is wrong\n"


def test_only_who_read_the_very_file_is_named(bench):
    bench.start(
        "operators: {h: {kind: human}}\ntasks:\n"
        "  make: {command: 'echo 1 > x; echo 2 > f', outputs: {x: x, f: f}}\n"
        "  cx: {inputs: {x: x}, command: 'cat ${{ inputs.x }}'}\n"
        "  cy: {inputs: {f: f}, command: 'cat ${{ inputs.f }}'}\n"
        "  g: {operator: h, needs: [cx, cy], instructions: go}\n"
        "  cf: {needs: [g], inputs: {f: f}, command: 'cat ${{ inputs.f }}'}\n"
    )
    bench.step_until(lambda: bench.states()["g"] == "WAITING")
    file = bench.attempt("make") / "f"
    file.chmod(0o644)
    file.write_text("33\n")
    bench.cli("respond", bench.root, "g", "--approve")
    bench.step_until_over()
    assert "; read by cy)" in last(bench, "cf")["reason"]
