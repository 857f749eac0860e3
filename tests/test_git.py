"""What is promised about git, permissions and copies holds for every file (issue 14.6)."""

from __future__ import annotations

import csv
import json
import os
import shutil
import stat
import subprocess
import tarfile

import pytest

from tests.conftest import MATTERSTACK

LARGE = 30_000


def git(folder, *words):
    base = ["git", "-c", "user.email=a@b", "-c", "user.name=a", "-c", "commit.gpgsign=false", "-C", str(folder)]
    return subprocess.run([*base, *words], capture_output=True, text=True, check=True).stdout


def commit(root):
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x", "--allow-empty")


def large_in_git(root):
    return [
        name
        for name in git(root, "ls-files", "-z").split("\0")
        if name and not (root / name).is_symlink() and (root / name).is_file() and (root / name).stat().st_size > 10_000
    ]


EVERYTHING = f"""git_max_size: 10K
tasks:
  vasp:
    inputs: {{ref: ref.h5, w: {{path: ref.h5, as: WAVEIN}}}}
    command: |
      head -c {LARGE} /dev/zero > WAVECAR
      mkdir -p "deep/a b"; head -c {LARGE} /dev/zero > "deep/a b/[x] Ä"
      head -c {LARGE} /dev/zero > OUTCAR
      head -c {LARGE} /dev/zero
    outputs: {{o: OUTCAR}}
  fails: {{command: "head -c {LARGE} /dev/zero > core; exit 1"}}
"""


def test_no_file_above_git_max_size_is_added_whatever_it_is(bench):
    (bench.folder / "ref.h5").write_bytes(bytes(LARGE))
    bench.start(EVERYTHING)
    git(bench.root, "init", "-q")
    commit(bench.root)
    assert large_in_git(bench.root) == []
    bench.step_until_over()
    commit(bench.root)
    assert large_in_git(bench.root) == []
    assert "tasks/vasp/attempt-1/exit.json" in git(bench.root, "ls-files").splitlines()
    assert git(bench.root, "status", "--short") == ""


def test_what_a_job_is_writing_is_not_added_either(bench):
    bench.start(
        f"git_max_size: 10K\ntasks: {{a: {{command: 'head -c {LARGE} /dev/urandom > wave; sleep 60', outputs: {{w: wave}}}}, "
        "b: {command: 'echo 1 > small; sleep 60'}}\n"
    )
    git(bench.root, "init", "-q")
    bench.step()
    bench.wait_for(bench.attempt("a") / "wave")
    bench.wait_for(bench.attempt("b") / "small")
    commit(bench.root)
    assert large_in_git(bench.root) == []
    added = git(bench.root, "ls-files").splitlines()
    for name in ("task.json", "command.sh", "claim"):
        assert f"tasks/a/attempt-1/{name}" in added
    bench.cli("cancel", bench.root)
    commit(bench.root)
    assert large_in_git(bench.root) == []
    assert "tasks/b/attempt-1/small" in git(bench.root, "ls-files").splitlines()


def test_lines_of_a_person_in_gitignore_stay(bench):
    bench.start("tasks: {a: {command: 'true'}, b: {needs: [a], command: 'true'}}\n")
    file = bench.root / ".gitignore"
    file.write_text(file.read_text() + "# mine\n*.tmp\n")
    bench.step()
    assert "# at work" in file.read_text()
    bench.step_until_over()
    assert file.read_text().splitlines()[-2:] == ["# mine", "*.tmp"]


def test_an_amended_file_that_is_large_stays_out(bench):
    (bench.folder / "data").write_text("1")
    bench.start("git_max_size: 10K\nfiles: [data]\ntasks: {a: {command: 'true'}}\n")
    (bench.folder / "data").write_bytes(bytes(LARGE))
    bench.cli("amend", bench.root, "--yes")
    assert "/versions/2/source/data" in (bench.root / ".gitignore").read_text().splitlines()


def test_what_the_page_says_of_git_clean_is_so(bench):
    bench.start("tasks: {a: {command: 'echo hours > o', outputs: {o: o}}}\n")
    git(bench.root, "init", "-q")
    bench.step_until_over()
    assert "Would remove tasks/" in git(bench.root, "clean", "-nd")
    commit(bench.root)
    git(bench.root, "clean", "-fd")
    assert (bench.root / "results/o").read_text() == "hours\n"
    assert bench.cli("rerun", bench.root, "a").returncode == 0
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.cli("doctor", bench.root).stdout == "nothing is wrong\n"


# --- clones and copies -----------------------------------------------------------------------------------------------


@pytest.fixture
def clone(bench):
    bench.start(
        f"git_max_size: 10K\ntasks: {{big: {{command: 'head -c {LARGE} /dev/zero > o', outputs: {{o: o}}}}, a: {{command: 'sleep 60'}}, "
        "b: {needs: [a, big], command: 'true'}}\n"
    )
    git(bench.root, "init", "-q")
    bench.step_until(lambda: bench.states()["big"] == "COMPLETED")
    commit(bench.root)
    subprocess.run(["git", "clone", "-q", str(bench.root), str(bench.folder / "clone")], check=True)
    return bench.folder / "clone"


def test_a_clone_says_as_of_when_it_is_and_never_that_something_runs(bench, clone):
    shown = bench.cli("status", clone).stdout.splitlines()
    assert shown[1].startswith("a copy, as of 20")
    explained = bench.cli("explain", clone, "a").stdout
    assert "a: RUNNING: attempt 1 was running" in explained and "; a copy, as of 20" in explained
    assert "running for" not in explained
    assert json.loads(bench.cli("status", clone, "--json").stdout)["run"]["as_of"].startswith("20")
    assert "as_of" not in json.loads(bench.cli("status", bench.root, "--json").stdout)["run"]


def test_doctor_does_not_ask_a_clone_for_what_was_left_out(bench, clone):
    assert bench.cli("doctor", clone).stdout.splitlines() == [
        f"home  .: is a copy of a run: there is no ledger (`matterstack adopt {clone}` makes it the run's home)"
    ]
    (bench.attempt("big") / "o").unlink()  # at home it is missing
    assert "outputs  tasks/big/attempt-1/o: is missing" in bench.cli("doctor", bench.root).stdout


def test_a_run_root_alone_in_git_is_stepped_and_restarted_where_nothing_else_is(bench, clone, tmp_path_factory):
    bench.cli("cancel", bench.root)
    alone = tmp_path_factory.mktemp("elsewhere") / "r"
    shutil.move(clone, alone)
    for path in (bench.root, bench.folder / "campaign.yaml"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert bench.cli("adopt", alone, "--assume", "lost").returncode == 0
    assert bench.cli("cancel", alone, "a").returncode == 0
    assert bench.cli("rerun", alone, "b", "big").returncode == 0
    assert bench.cli("run", "-q", alone).returncode == 3  # `a` was cancelled
    assert json.loads(bench.cli("attempts", alone, "big", "--json").stdout)[-1]["state"] == "COMPLETED"


def test_the_files_of_a_run_have_the_mode_that_the_umask_gives(bench):
    bench.write("tasks: {a: {command: 'true'}}\n")
    for umask, mode in (("002", 0o664), ("022", 0o644), ("077", 0o600)):
        root = bench.folder / umask
        line = f"umask {umask}; {' '.join(MATTERSTACK)} init -q campaign.yaml --root {root}; {' '.join(MATTERSTACK)} step -q {root}"
        subprocess.run(["sh", "-c", line], cwd=bench.folder, check=True)
        for name in ("state.sqlite", "run.lock", "journal.jsonl", "run.json", ".gitignore"):
            assert stat.S_IMODE((root / name).stat().st_mode) == mode, name


# --- results elsewhere -----------------------------------------------------------------------------------------------

RESULTS = """tasks:
  a: {matrix: {m: [Al, Cu]}, command: "echo ${{ matrix.m }} > e", outputs: {e: {file: e, path: "energies/${{ matrix.m }}.txt"}}}
  d: {command: "echo 1 > d/x; echo 2 > 'd/y z'", outputs: {d: d/}}
  origins: {command: "echo mine > origins.csv", outputs: {o: origins.csv}}
  fails: {command: "echo 1 > f; exit 1", outputs: {f: f}}
"""


def test_results_are_copied_as_files_with_where_each_comes_from(bench):
    bench.start(RESULTS)
    bench.step_until_over()
    done = bench.cli("results", bench.root, "--copy", "out")
    assert done.returncode == 0
    shutil.rmtree(bench.root / "tasks")
    out = bench.folder / "out"
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "energies/Al.txt").read_text() == "Al\n"
    assert (out / "d/y z").read_text() == "2\n"
    assert (out / "origins.csv").read_text() == "mine\n"
    rows = list(csv.DictReader((out / "_origins.csv").open()))
    assert {row["file"]: (row["task"], row["attempt"], row["from"]) for row in rows}["energies/Cu.txt"] == (
        "a/Cu", "1", "tasks/a/Cu/attempt-1/e",
    )  # fmt: skip
    assert "f" not in {row["file"] for row in rows}
    assert all(os.access(out / row["file"], os.W_OK) for row in rows)


def test_a_copy_of_some_results_and_what_is_in_the_way(bench):
    bench.start(RESULTS)
    bench.step_until_over()
    assert bench.cli("results", bench.root, "--copy", "out", "--task", "a/Al").returncode == 0
    assert sorted(path.name for path in (bench.folder / "out").rglob("*") if path.is_file()) == [
        "Al.txt",
        "origins.csv",
    ]
    refused = bench.cli("results", bench.root, "--copy", "out")
    assert (refused.returncode, refused.stderr) == (2, "error: out exists; name a folder that is not there yet\n")
    (bench.attempt("d") / "d/x").unlink()
    (bench.attempt("origins") / "origins.csv").unlink()
    partly = bench.cli("results", bench.root, "--copy", "part")
    assert partly.returncode == 1
    assert "warning: tasks/origins/attempt-1/origins.csv is missing: it was not copied" in partly.stderr


# --- parcels ---------------------------------------------------------------------------------------------------------


def test_an_input_that_tasks_share_under_another_name_travels_once_and_is_there(bench):
    (bench.folder / "POTCAR data").write_bytes(os.urandom(50_000))
    bench.start(
        "operators: {c: {kind: manual}}\ntasks: {t: {operator: c, matrix: {n: [1, 2, 3, 4]}, inputs: {b: {path: 'POTCAR data', as: p/POTCAR}}, "
        "command: 'echo x >> p/POTCAR; wc -c < p/POTCAR > n', outputs: {n: {file: n, path: \"n/${{ task.label }}\"}}}}\n"
    )
    bench.step()
    assert bench.cli("parcel", "export", bench.root, "-o", "w.tar").returncode == 0
    with tarfile.open(bench.folder / "w.tar") as tar:
        assert [member.size for member in tar if member.size >= 50_000] == [50_000]
    (bench.folder / "there").mkdir()
    subprocess.run(["tar", "-xf", bench.folder / "w.tar", "-C", bench.folder / "there"], check=True)
    (home,) = (path.parent for path in bench.folder.glob("there/*/run.sh"))
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=home).returncode == 0
    done = subprocess.run(["sh", "run.sh"], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run(["sh", "run.sh", "--pack", str(bench.folder / "back.tar")], cwd=home, check=True)
    assert bench.cli("parcel", "import", bench.root, "back.tar").returncode == 0
    assert bench.step_until_over().state == "COMPLETED"
    assert (bench.root / "results/n/4").read_text().strip() == "50002"


def test_every_file_counts_also_below_a_folder_that_is_closed_and_whatever_its_name(bench):
    bench.start(
        "git_max_size: 10K\ntasks:\n  a:\n    command: |\n"
        "      mkdir aaa sub zzz\n"
        f"      for f in aaa/big.bin sub/claim sub/exit.json zzz/big.bin; do head -c {LARGE} /dev/zero > $f; done\n"
        "  b: {command: sleep 60}\n"
    )
    git(bench.root, "init", "-q")
    bench.step_until(lambda: bench.states()["a"] == "COMPLETED")
    commit(bench.root)  # while b is at work
    assert large_in_git(bench.root) == []
    bench.cli("cancel", bench.root)


def test_what_a_parcel_brings_back_is_listed_before_it_is_there(bench, tmp_path):
    bench.start(
        "git_max_size: 10K\noperators: {far: {kind: manual}}\n"
        f"tasks: {{a: {{operator: far, command: 'head -c {LARGE} /dev/urandom > big', outputs: {{o: big}}}}}}\n"
    )
    bench.step()
    git(bench.root, "init", "-q")
    bench.cli("parcel", "export", bench.root, "-o", tmp_path / "p.tar.gz")
    subprocess.run(["tar", "-xzf", tmp_path / "p.tar.gz", "-C", tmp_path], check=True)
    (folder,) = [path.parent for path in tmp_path.glob("*/run.sh")]
    for words in ((), ("--pack",)):
        assert subprocess.run(["sh", "run.sh", *words], cwd=folder, capture_output=True).returncode == 0
    back = folder / f"{folder.name}-return.tar"
    assert bench.cli("parcel", "import", bench.root, back).returncode == 0
    commit(bench.root)
    assert large_in_git(bench.root) == []


def test_a_copy_of_results_says_what_is_stale_changed_or_left_out(bench, tmp_path):
    bench.start(
        "tasks:\n  a: {command: 'echo $MATTERSTACK_ATTEMPT > o; echo 1 > d/x; ln -s ../o d/link', outputs: {o: o, d: d/}}\n"
        "  b: {inputs: {o: o}, command: 'cp ${{ inputs.o }} p', outputs: {p: p}}\n"
    )
    bench.step_until_over()
    bench.cli("rerun", bench.root, "a")
    bench.step_until_over()
    file = bench.attempt("a", 2) / "o"
    file.chmod(0o644)
    file.write_text("by hand\n")

    done = bench.cli("results", bench.root, "--copy", tmp_path / "out")

    assert "tasks/a/attempt-2/o was changed after the task had written it; `matterstack doctor " in done.stderr
    assert "tasks/a/attempt-2/d/link was not copied" in done.stderr
    with open(tmp_path / "out/origins.csv", newline="") as table:
        rows = {row["file"]: row["stale"] for row in csv.DictReader(table)}
    assert rows == {"o": "", "d/x": "", "p": "made from attempt 1 of a, which has a newer one (2)"}
