"""Parcels: work that a person carries to a closed cluster and back, run there with nothing but sh, tar and coreutils."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from matterstack.care.checks import examine
from matterstack.orchestration.actions import cancel
from matterstack.views.attempts import attempts

WORK = """
files: [tool.sh]
operators: {far: {kind: manual, setup: ["umask 022"]}}
tasks:
  seed: {command: "echo seed > seed", outputs: {s: seed}}
  calc:
    operator: far
    matrix: {m: [1, 2, 3]}
    inputs: {s: seed, own: {path: seed, as: INPUT}}
    env: {GREETING: "it's ${{ matrix.m }}"}
    command: 'echo ${{ task.id }} >> "$FARM/starts"; bash ${{ source }}/tool.sh ${{ inputs.s }} INPUT > out; echo "$GREETING" >> out; mkdir -p more; echo x > more/x'
    outputs: {o: {file: out, path: "o/${{ matrix.m }}"}, more: {file: more/, path: "more/${{ matrix.m }}/"}}
    instructions: Needs a lot of memory.
  sum: {inputs: {o: "o/*"}, command: "cat ${{ inputs.o }} > sum", outputs: {sum: sum}}
"""
TOOLS = [
    "sh", "bash", "tar", "gzip", "cat", "date", "mv", "rm", "mkdir", "id", "tr", "uname", "head", "tail", "wc", "dirname",
    "basename", "sha256sum", "timeout", "env", "sleep", "chmod", "ln", "cp",
]  # fmt: skip


@pytest.fixture
def work(bench):
    (bench.folder / "tool.sh").write_text("cat $1 $2\n")
    bench.start(WORK)
    bench.step_until(lambda: list(bench.states().values()).count("WAITING") == 3)
    return bench


@pytest.fixture
def farm(tmp_path):
    """A closed cluster: a folder with an awkward name, and only the tools that it may need."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    home = tmp_path / "far äway 'cluster'"
    home.mkdir()

    def run(*words, cwd=home, **env):
        env = {"PATH": str(tools), "FARM": str(home), **env}
        return subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)

    run.home = home
    return run


def export(bench, *words, name="work.tar.gz"):
    done = bench.cli("parcel", "export", bench.root, *words, "-o", name)
    assert done.returncode == 0, done.stderr
    return bench.folder / name


def unpack(farm, parcel):
    done = farm("tar", "xf", parcel)
    assert done.returncode == 0, done.stderr
    (folder,) = [path for path in farm.home.iterdir() if path.is_dir()]
    return folder


def bring_back(farm, folder):
    done = farm("sh", "run.sh", "--pack", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / f"{folder.name}-return.tar"


def test_a_parcel_runs_where_nothing_of_ours_is_and_comes_back_into_the_run(work, farm):
    folder = unpack(farm, export(work))
    done = farm("sh", "run.sh", cwd=folder)
    assert done.returncode == 0, done.stderr
    back = bring_back(farm, folder)

    done = work.cli("parcel", "import", work.root, back)

    assert (done.returncode, done.stdout.splitlines()[0][:25]) == (0, "3 tasks of parcel " + done.stdout.split()[4][:7])
    assert work.step_until_over().state == "COMPLETED"
    assert (work.root / "results" / "sum").read_text() == "".join(f"seed\nseed\nit's {m}\n" for m in (1, 2, 3))
    assert sorted((farm.home / "starts").read_text().split()) == ["calc/1", "calc/2", "calc/3"]
    assert examine(work.root, digests=True) == []
    recorded = attempts(work.root, "calc/1")[1][0]
    assert recorded["exit_code"] == 0 and recorded["response"]["host"]


def test_the_driver_runs_nothing_twice_and_packs_what_is_done(work, farm):
    folder = unpack(farm, export(work))
    second = (folder / "tasks.txt").read_text().split()[1]
    (folder / second / "claim").write_text("{}\n")  # as a killed run.sh leaves it
    assert farm("sh", "run.sh", cwd=folder).returncode == 1
    again = farm("sh", "run.sh", cwd=folder)
    assert "was started before and has not ended" in again.stderr
    assert sorted((farm.home / "starts").read_text().split()) == ["calc/1", "calc/3"]

    done = work.cli("parcel", "import", work.root, bring_back(farm, folder))

    assert done.returncode == 0
    assert "1 task not done yet: calc/2" in done.stdout
    work.step()
    assert work.states()["calc/1"] == work.states()["calc/3"] == "COMPLETED"
    (folder / second / "claim").unlink()
    farm("sh", "run.sh", cwd=folder)
    done = work.cli("parcel", "import", work.root, bring_back(farm, folder))
    assert "2 tasks in the run before: calc/1, calc/3" in done.stdout
    assert work.step_until_over().state == "COMPLETED"
    done = work.cli("parcel", "import", work.root, bring_back(farm, folder))
    assert (done.returncode, done.stderr) == (2, "error: nothing in it is new to the run\n")


def test_inputs_that_tasks_share_are_packed_once_with_their_checksums(work):
    with tarfile.open(export(work)) as tar:
        names = [member.name.partition("/")[2] for member in tar if member.isfile()]
        (sums,) = [member for member in tar.getmembers() if member.name.endswith("/SHA256SUMS")]
        listed = [line[66:] for line in tar.extractfile(sums).read().decode().splitlines()]
    assert len(names) == len(set(names))
    assert names.count("tasks/seed/attempt-1/seed") == names.count("versions/1/source/tool.sh") == 1
    assert sorted(listed) == sorted(set(names) - {"SHA256SUMS"})


def test_as_a_slurm_array_each_index_runs_one_task(work, farm):
    folder = unpack(farm, export(work, "--array"))
    text = (folder / "run.sh").read_text()
    assert "#SBATCH --array=1-3\n" in text.split("set -u")[0]
    slurm = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(folder)}
    spool = farm.home / "spool"
    spool.mkdir()
    shutil.copy(folder / "run.sh", spool / "slurm_script")  # sbatch runs a copy
    for index in (3, 1):
        done = farm("sh", "slurm_script", cwd=spool, SLURM_ARRAY_TASK_ID=str(index), **slurm)
        assert done.returncode == 0, done.stderr
    assert (farm.home / "starts").read_text().split() == ["calc/3", "calc/1"]


def test_a_second_export_is_refused_without_again_and_says_who_has_it(work):
    export(work, "calc/1", "--by", "ada")
    done = work.cli("parcel", "export", work.root, "calc/1", "-o", "b.tar")
    assert done.returncode == 2
    assert "calc/1 was handed over to ada at " in done.stderr and "--again" in done.stderr
    assert not (work.folder / "b.tar").exists()
    export(work, name="rest.tar")  # what nobody has taken
    listed = json.loads(work.cli("parcel", "list", work.root, "--json").stdout)
    assert [[task["task"] for task in item["tasks"]] for item in listed] == [["calc/1"], ["calc/2", "calc/3"]]
    assert (listed[0]["by"], listed[0]["file"]) == ("ada", "work.tar.gz")
    assert work.cli("parcel", "export", work.root, "-o", "c.tar").returncode == 2
    assert work.cli("parcel", "export", work.root, "calc/1", "--again", "-o", "d.tar").returncode == 0
    assert "handed over to" in work.reasons()["calc/1"]


def test_either_of_two_parcels_of_one_attempt_may_come_back_and_the_first_counts(work, farm):
    first = unpack(farm, export(work, "calc/1"))
    export(work, "calc/1", "--again", name="again.tar")
    farm("sh", "run.sh", cwd=first)
    assert work.cli("parcel", "import", work.root, bring_back(farm, first)).returncode == 0
    work.step()
    assert work.states()["calc/1"] == "COMPLETED"


def test_what_does_not_wait_goes_into_no_parcel(work):
    done = work.cli("parcel", "export", work.root, "seed", "-o", "x.tar")
    assert (done.returncode, done.stderr) == (
        2, "error: seed is of kind local; only waiting tasks of kind manual go into a parcel\n"
    )  # fmt: skip
    (work.folder / "there.tar").write_text("mine")
    assert work.cli("parcel", "export", work.root, "-o", "there.tar").returncode == 2
    assert (work.folder / "there.tar").read_text() == "mine"


def edited(path, change):
    """Give a copy of a tar file in which ``change`` was applied to (name, bytes) of each file."""
    out = path.with_name("edited.tar")
    with tarfile.open(path) as old, tarfile.open(out, "w") as new:
        for member in old:
            data = old.extractfile(member).read() if member.isfile() else b""
            found = change(member, data)
            if found is not None:
                member.size = len(found) if member.isfile() else 0
                new.addfile(member, io.BytesIO(found))
    return out


def damage(suffix, data):
    return lambda member, old: data if member.name.endswith(suffix) else old


def escape(member, data):
    if member.name.endswith("calc/1/attempt-1/out"):
        member.name = member.name.replace("out", "../../../../../../escaped")
    return data


def as_link(member, data):
    if member.name.endswith("calc/1/attempt-1/out"):
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage("calc/1/attempt-1/out", b"forged\n"), "calc/1: out is damaged: its checksum does not match"),
        (lambda member, data: None if member.name.endswith("calc/1/attempt-1/out") else data,
         "calc/1: out is in its checksums and not in the parcel"),
        (as_link, "calc/1: out is in its checksums and not in the parcel"),
        (escape, "calc/1: "),
        (damage("calc/1/attempt-1/status.json", b'{"task": "calc/2"}'), "calc/1: its status.json is of another attempt"),
        (damage("calc/1/attempt-1/status.json", b'{"sta'), "calc/1: status.json is not JSON"),
    ],
)  # fmt: skip
def test_damaged_work_is_refused_and_the_rest_is_taken(work, farm, change, words):
    folder = unpack(farm, export(work))
    farm("sh", "run.sh", cwd=folder)

    done = work.cli("parcel", "import", work.root, edited(bring_back(farm, folder), change))

    assert done.returncode == 2
    assert f"error: {words}" in done.stderr and "Traceback" not in done.stderr
    assert not list(work.folder.rglob("escaped"))
    work.step()
    assert work.states()["calc/1"] == "WAITING"
    assert work.states()["calc/2"] == work.states()["calc/3"] == "COMPLETED"
    assert not (work.attempt("calc/1") / "status.json").exists()


def test_a_parcel_of_another_run_or_none_at_all_is_refused(work, farm, tmp_path):
    back = bring_back_all(work, farm)
    other = edited(back, lambda m, d: d.replace(b'"id": "t-', b'"id": "u-') if m.name.endswith("parcel.json") else d)
    for file, words in (
        (other, "is a parcel of the run u-"),
        (write(tmp_path / "no.tar", b"nonsense"), "is not a parcel, or is damaged"),
        (write(tmp_path / "cut.tar", back.read_bytes()[:5000]), ""),
        (tmp_path / "nowhere.tar", "no such file"),
        (empty_tar(tmp_path / "empty.tar"), "holds no parcel.json"),
        (work.folder, "no such file"),
    ):
        done = work.cli("parcel", "import", work.root, file)
        assert done.returncode in (1, 2), done.stderr
        assert words in done.stderr and "Traceback" not in done.stderr, done.stderr


def bring_back_all(work, farm):
    folder = unpack(farm, export(work))
    farm("sh", "run.sh", cwd=folder)
    return bring_back(farm, folder)


def write(path, data):
    path.write_bytes(data)
    return path


def empty_tar(path):
    tarfile.open(path, "w").close()
    return path


def test_what_was_cancelled_takes_no_parcel_any_more(work, farm):
    back = bring_back_all(work, farm)
    cancel(work.root, ["calc/2"])
    done = work.cli("parcel", "import", work.root, back)
    assert "calc/2: attempt 1 is CANCELLED" in done.stderr and "is not accepted" in done.stderr
    work.step()
    assert work.states()["calc/2"] == "CANCELLED"


def test_a_failed_calculation_comes_back_as_a_failure_with_its_logs(bench, farm):
    bench.start(
        "operators: {far: {kind: manual}}\n"
        "tasks: {a: {operator: far, command: 'echo why >&2; exit 3'}, b: {operator: far, resources: {time: 1s}, command: 'sleep 9'}}\n"
    )
    bench.step()
    back = bring_back_all(bench, farm)
    bench.cli("parcel", "import", bench.root, back)
    assert bench.step_until_over().state == "FAILED"
    found = {task: attempts(bench.root, task)[1][0] for task in "ab"}
    assert (found["a"]["class"], found["a"]["exit_code"]) == ("exit_code", 3)
    assert found["b"]["class"] == "timeout"
    assert (bench.attempt("a") / "stderr.log").read_text() == "why\n"


def test_a_program_in_a_parcel_is_warned_of_its_time_limit_and_goes_on_with_the_next_one(bench, farm):
    bench.start(
        "operators: {far: {kind: manual}}\n"
        'tasks: {md: {operator: far, command: \'if [ -e md.chk ]; then echo done > o; exit 0; fi; trap "echo 1 > md.chk; exit 3" TERM; '
        "while :; do :; done', outputs: {o: o}, resources: {time: 30s}, restart: {files: [md.chk], warn: 29s}}}\n"
    )
    bench.step()
    began = time.monotonic()
    bench.cli("parcel", "import", bench.root, bring_back_all(bench, farm))
    assert time.monotonic() - began < 9
    bench.step_until(lambda: bench.attempt("md", 2).is_dir() and bench.states()["md"] == "WAITING")
    first = attempts(bench.root, "md")[1][0]
    assert (first["class"], first["exit_code"]) == ("timeout", 3)
    assert not (bench.attempt("md", 1) / ".warned").exists()
    assert (bench.attempt("md", 2) / "md.chk").read_text() == "1\n"


def test_secrets_are_named_and_not_packed(bench, farm, monkeypatch):
    bench.start(
        "operators: {far: {kind: manual}}\ntasks: {a: {operator: far, env: {TOKEN: {from_env: MY_TOKEN}}, command: 'echo $TOKEN > out', outputs: {o: out}}}\n"
    )
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    bench.step()
    folder = unpack(farm, export(bench))
    assert not any(b"s3cret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert "set the variable MY_TOKEN first" in farm("sh", "run.sh", cwd=folder).stderr
    assert farm("sh", "run.sh", cwd=folder, MY_TOKEN="other").returncode == 0
    assert (folder / "tasks/a/attempt-1/out").read_text() == "other\n"


# --- without parcels: the folder is the exchange ----------------------------------------------------------------------


def old(path: Path, age_s: float = 9.0) -> None:
    os.utime(path, (time.time() - age_s,) * 2)


def test_outputs_and_status_in_the_folder_complete_the_task(work):
    folder = work.attempt("calc/1")
    (folder / "out").write_text("by hand\n")
    (folder / "status.json").write_text('{"status": "COMPLETED"}')
    work.step()
    assert work.states()["calc/1"] == "COMPLETED"
    assert (work.root / "results/o/1").read_text() == "by hand\n"


def test_a_folder_that_is_still_being_written_is_not_taken_as_complete(work):
    folder = work.attempt("calc/1")
    (folder / "status.json").write_text('{"status": "COMPLETED"}')
    work.step()
    assert work.states()["calc/1"] == "WAITING"
    (folder / "out").write_text("half")  # later than status.json
    old(folder / "status.json", 2)
    work.step()
    assert work.states()["calc/1"] == "WAITING"
    for path in (folder / "out", folder / "more"):
        old(path, 3)
    work.step()
    assert work.states()["calc/1"] == "COMPLETED"


def test_a_status_without_its_outputs_asks_again(work):
    (work.attempt("calc/1") / "status.json").write_text('{"status": "COMPLETED"}')
    work.step_until(lambda: len(attempts(work.root, "calc/1")[1]) == 2, limit_s=20)
    first = attempts(work.root, "calc/1")[1][0]
    assert (first["class"], first["reason"]) == (
        "missing_output",
        "status.json says COMPLETED, but out was not written",
    )
    assert work.states()["calc/1"] == "WAITING"


# --- what readers and attackers found -------------------------------------------------------------------------------

ODD = """
operators: {far: {kind: manual}}
tasks:
  prep: {command: "echo start > s", outputs: {s: s}}
  inplace: {operator: far, inputs: {s: {path: s, as: START}}, command: "echo more >> START; cp START out", outputs: {o: {file: out, path: inplace}}}
  names: {operator: far, env: {task: relax, folder: wave, limit: none, code: "7", PATH: "/opt/x:/usr/bin:/bin"}, command: 'echo "$task $folder" > out', outputs: {o: {file: out, path: names}}}
  script: {operator: far, command: 'printf "#!/bin/sh\\necho hi\\n" > go; chmod +x go; ln go second; ln -s . loop; ln -s nowhere dead', outputs: {go: {file: go, path: go}}}
  use: {inputs: {go: go}, command: "${{ inputs.go }} > used", outputs: {u: used}}
  quick: {operator: far, resources: {time: 1m}, command: "exit 124", allow_failure: true}
"""


def test_odd_tasks_make_the_round_trip(bench, farm):
    bench.start(ODD)
    bench.step_until(lambda: bench.states()["inplace"] == "WAITING")
    folder = unpack(farm, export(bench))
    farm("sh", "run.sh", cwd=folder)
    again = farm("sh", "run.sh", cwd=folder)
    assert "damaged" not in again.stderr
    done = bench.cli("parcel", "import", bench.root, bring_back(farm, folder))
    assert done.returncode == 0, done.stderr
    assert bench.step_until_over().state == "COMPLETED"
    out = {name: (bench.root / "results" / name).read_text() for name in ("inplace", "names", "used")}
    assert out == {"inplace": "start\nmore\n", "names": "relax wave\n", "used": "hi\n"}
    assert attempts(bench.root, "quick")[1][0]["class"] == "exit_code"


def test_an_interrupted_driver_stops_the_calculation_and_begins_it_anew(bench, farm):
    bench.start(
        "operators: {far: {kind: manual}}\n"
        'tasks: {a: {operator: far, resources: {time: 1h}, command: \'echo a >> "$FARM/starts"; test -e "$FARM/go" || sleep 60; echo > out\', outputs: {o: out}}}\n'
    )
    bench.step()
    folder = unpack(farm, export(bench))
    env = {"PATH": str(farm.home.parent / "tools"), "FARM": str(farm.home)}
    driver = subprocess.Popen(
        ["sh", "run.sh"], cwd=folder, env=env, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    bench.wait_for(farm.home / "starts")
    began = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert "stopped; it begins anew next time" in said
    (farm.home / "go").touch()
    assert farm("sh", "run.sh", cwd=folder).returncode == 0
    assert bench.cli("parcel", "import", bench.root, bring_back(farm, folder)).returncode == 0


def test_a_parcel_that_was_cut_off_is_told_and_loses_nothing(work, farm):
    back = bring_back_all(work, farm)
    data = back.read_bytes()
    for share in (0.3, 0.6, 0.8):
        cut = write(back.with_name("cut.tar"), data[: int(len(data) * share)])
        done = work.cli("parcel", "import", work.root, cut)
        assert done.returncode == 2, done.stdout
        assert "damaged" in done.stderr and "Traceback" not in done.stderr
    assert work.cli("parcel", "import", work.root, back).returncode == 0
    assert work.step_until_over().state == "COMPLETED"


def export_refused(work, *inject):
    """Export with system calls that a file system refuses; give how it went."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    traced = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        *inject,
        sys.executable,
        "-m",
        "matterstack",
        "parcel",
        "export",
    ]
    return subprocess.run([*traced, str(work.root), "-o", "stick.tar"], cwd=work.folder, capture_output=True, text=True)


def test_a_memory_stick_without_hard_links_takes_a_parcel(work):
    done = export_refused(work, "--inject=link,linkat:error=EPERM")
    assert done.returncode == 0, done.stderr
    assert tarfile.is_tarfile(work.folder / "stick.tar")


def test_a_parcel_that_cannot_be_placed_does_not_count_as_handed_over(work):
    done = export_refused(work, "--inject=link,linkat:error=EPERM", "--inject=rename,renameat,renameat2:error=ENOSPC")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr
    assert json.loads(work.cli("parcel", "list", work.root, "--json").stdout) == []
    assert [path.name for path in work.folder.glob("*stick*")] == []
    assert "handed over" not in work.reasons()["calc/1"]


def test_the_parcel_that_went_out_is_not_taken_for_what_comes_back(work):
    done = work.cli("parcel", "import", work.root, export(work))
    assert done.returncode == 2
    assert "is the parcel that went out" in done.stderr


def test_what_a_killed_import_left_is_named_and_goes_with_the_next(work, farm):
    (work.root / ".parcel-12345678").mkdir()
    assert [item.path for item in examine(work.root)] == [".parcel-12345678"]
    assert work.cli("parcel", "import", work.root, bring_back_all(work, farm)).returncode == 0
    assert examine(work.root) == []


def test_what_a_calculation_leaves_running_is_waited_for_ended_or_left(bench, farm):
    bench.start(
        "operators: {far: {kind: manual}}\n"
        "tasks:\n"
        "  forgotten: {operator: far, command: 'sleep 60 & echo 1 > out', outputs: {o: {path: f, file: out}}}\n"
        "  soon: {operator: far, command: '(sleep 1; echo 2 > out) &', outputs: {o: {path: s, file: out}}}\n"
        "  waited: {operator: far, background: wait, command: '(sleep 2; echo 3 > out) &', outputs: {o: {path: w, file: out}}}\n"
        "  left: {operator: far, background: leave, command: 'sleep 15 & echo 4 > out', outputs: {o: {path: l, file: out}}}\n"
    )
    bench.step()
    folder = unpack(farm, export(bench))
    began = time.monotonic()
    assert farm("sh", "run.sh", cwd=folder).returncode == 1
    assert 10 < time.monotonic() - began < 25
    assert bench.cli("parcel", "import", bench.root, bring_back(farm, folder)).returncode == 0

    bench.step_until_over()

    assert bench.states() == {"forgotten": "FAILED", "soon": "COMPLETED", "waited": "COMPLETED", "left": "COMPLETED"}
    assert attempts(bench.root, "forgotten")[1][0]["class"] == "left_running"
    assert {name: (bench.root / "results" / name).read_text() for name in "swl"} == {"s": "2\n", "w": "3\n", "l": "4\n"}


def test_a_folder_that_a_calculation_was_given_and_changed_comes_back_with_the_rest(bench, farm):
    bench.start(
        "operators: {far: {kind: manual}}\ntasks:\n"
        "  s: {command: 'mkdir -p D; echo 1 > D/x', outputs: {d: D/}}\n"
        "  f: {operator: far, inputs: {p: {path: D, as: F}}, command: 'echo 2 >> F/x; cp F/x o', outputs: {o: o}}\n"
    )
    bench.step_until(lambda: bench.states()["f"] == "WAITING")
    done = bench.cli("parcel", "import", bench.root, bring_back_all(bench, farm))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "F/x was changed there; the run keeps its own" in done.stdout + done.stderr
    bench.step_until_over()
    assert (bench.root / "results/o").read_text() == "1\n2\n"
