"""What may run at once: the operators of one machine share its cpus and memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from matterstack import run_until_done
from matterstack.core.model import Resources
from matterstack.core.slots import Capacity, Slots, Use
from matterstack.errors import CampaignError
from matterstack.operators import processes
from tests.conftest import MATTERSTACK

TWO = """
operators:
  one: {kind: local, slots: {cpus: 2, memory: 4G}}
  two: {kind: local, slots: {cpus: 2, memory: 4G}}
tasks:
  a: {operator: one, matrix: {i: [1, 2]}, command: sleep 60, resources: RESOURCES}
  b: {operator: two, matrix: {i: [1, 2]}, command: sleep 60, resources: RESOURCES}
"""


def test_two_local_operators_do_not_use_the_same_cpu_twice(bench):
    bench.start(TWO.replace("RESOURCES", "{cpus: 1}"))

    bench.step()

    assert [state for state in bench.states().values() if state == "RUNNING"] == ["RUNNING"] * 2
    assert bench.reasons()["b/1"] == "ready; operator 'two' has 0 active, 2 of 2 cpus in use"
    bench.cli("cancel", bench.root)


def test_nor_the_same_memory(bench):
    bench.start(TWO.replace("RESOURCES", "{memory: 3G}"))

    bench.step()

    assert list(bench.states().values()).count("RUNNING") == 1
    bench.cli("cancel", bench.root)


GPUS = """
operators: {local: {kind: local, slots: {cpus: 8, gpus: [0, GPU-7]}}}
tasks:
  a: {matrix: {i: [1, 2, 3]}, command: "echo $CUDA_VISIBLE_DEVICES > WITNESS.${{ matrix.i }}; sleep 0.5", resources: {gpus: 1}}
  b: {command: "echo $CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES > WITNESS.b", resources: {gpus: 2}}
"""


def test_a_task_gets_its_gpus_alone(bench):
    bench.start(GPUS)

    bench.step()

    assert [bench.states()[task] for task in ("a/1", "a/2", "a/3", "b")] == ["RUNNING", "RUNNING", "READY", "READY"]
    assert json.loads((bench.attempt("a/1") / "task.json").read_text())["devices"] == ["0"]
    assert json.loads((bench.attempt("a/2") / "task.json").read_text())["devices"] == ["GPU-7"]
    assert run_until_done(bench.root).state == "COMPLETED"
    seen = [Path(f"{bench.witness}.{name}").read_text().split() for name in ("1", "2", "3", "b")]
    assert seen[:2] == [["0"], ["GPU-7"]]
    assert seen[3] == ["0,GPU-7", "0,GPU-7"]


def test_more_gpus_than_the_file_gives_is_an_error_of_the_file(bench):
    with pytest.raises(CampaignError, match="asks for 3 gpus, operator 'local' has 2"):
        bench.start(GPUS.replace("gpus: 2}", "gpus: 3}"))


def test_more_gpus_than_there_are_here_lets_the_task_wait_and_the_run_end(bench, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    processes.machine_gpus.cache_clear()
    bench.start("tasks: {a: {command: 'true', resources: {gpus: 1}, priority: 1}, b: {command: 'true'}}\n")

    shown = bench.cli("validate", "campaign.yaml").stdout
    assert "a asks for 1 GPU, this machine has 0: it stays READY here" in shown
    done = bench.cli("run", bench.root)
    processes.machine_gpus.cache_clear()
    waiting = bench.cli("inbox", bench.root).stdout

    assert done.returncode == 4
    assert bench.states() == {"a": "READY", "b": "COMPLETED"}
    assert "a: asks for 1 GPU, operator 'local' has 0 here" in done.stderr
    assert "): cannot start here\n    asks for 1 GPU, operator 'local' has 0 here" in waiting


def test_what_is_larger_than_the_machine_runs_alone():
    shared = Use([])
    slots = Slots(Capacity(cpus=2), [], shared)
    assert slots.fits(Resources(cpus=8))
    slots.take(Resources(cpus=8))
    assert not Slots(Capacity(cpus=16, most=3), [], shared).fits(Resources(cpus=9))
    assert Slots(Capacity(cpus=16, most=3), [], shared).fits(Resources(cpus=8))


def test_the_limits_of_the_cgroup_and_of_those_around_it_hold(monkeypatch):
    files = {
        "/proc/self/cgroup": "0::/user/job\n",
        "/sys/fs/cgroup/user/job/cpu.max": "max 100000",
        "/sys/fs/cgroup/user/job/memory.max": "max",
        "/sys/fs/cgroup/user/cpu.max": "150000 100000",
        "/sys/fs/cgroup/user/memory.max": "1000000",
    }
    monkeypatch.setattr(processes, "_read", lambda path: files.get(path, ""))
    processes.machine_slots.cache_clear()
    assert processes.machine_slots() == (1, 1_000_000)

    files |= {
        "/proc/self/cgroup": "3:cpu,cpuacct:/job\n2:memory:/job\n",
        "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "100000",
        "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "2000000",
    }
    processes.machine_slots.cache_clear()
    assert processes.machine_slots() == (1, 2_000_000)
    processes.machine_slots.cache_clear()


def many(count: int, command: str, more: str = "") -> str:
    return (
        f"operators: {{local: {{kind: local, slots: {{cpus: 64}}{more}}}}}\n"
        f"tasks: {{a: {{matrix: {{i: {list(range(count))}}}, shell: sh, command: {command!r}}}}}\n"
    )


def test_sixty_four_slots_take_sixty_four_tasks_at_once_and_little_memory(bench):
    bench.start(many(128, "sleep 1"))
    loop = bench.popen("run", bench.root)
    most, largest = 0, 0
    while loop.poll() is None:
        found = [Path(f"/proc/{pid}") for pid in os.listdir("/proc") if pid.isdigit()]
        mine = [path for path in found if _parent(path) == loop.pid and b"slot_worker" in _read(path / "cmdline")]
        most = max(most, len(mine))
        largest = max([largest, *(_resident(path) for path in mine)])
        time.sleep(0.2)

    assert loop.returncode == 0
    assert set(bench.states().values()) == {"COMPLETED"}
    assert most == 64
    assert 0 < largest < 24 << 20


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parent(path: Path) -> int:
    fields = _read(path / "stat").rpartition(b") ")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _resident(path: Path) -> int:
    pages = _read(path / "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def test_with_few_file_descriptors_less_runs_at_once_and_nothing_fails(bench):
    bench.start(many(60, "sleep 0.2"))

    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *MATTERSTACK, "run", bench.root], capture_output=True, text=True, timeout=120
    )  # fmt: skip

    assert (done.returncode, set(bench.states().values())) == (0, {"COMPLETED"}), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_on_a_file_system_without_locks_the_processes_alone_tell_who_lives(bench):
    bench.start("tasks: {a: {command: 'sleep 1; echo 1 > o', outputs: {o: o}}}\n")
    claim = bench.attempt("a") / "claim"
    trace = bench.folder / "trace"

    subprocess.run(
        ["strace", "-f", "-qq", "-o", trace, "-P", claim, "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK",
         *MATTERSTACK, "step", bench.root],
        check=True, capture_output=True,
    )  # fmt: skip

    assert "ENOLCK" in trace.read_text()
    assert bench.step_until_over().state == "COMPLETED"
    assert bench.attempt("a", 2).exists() is False


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("{cpus: 4, tasks: 2}", r"asks for 8 cpus \(4 for each of 2 tasks\), operator 'local' has 6"),
        ("{cpus: 7}", "asks for 7 cpus, operator 'local' has 6"),
        ("{nodes: 2}", "asks for 2 nodes, operator 'local' has this machine"),
        ("{memory: 3G}", "asks for 3G, operator 'local' has 2G"),
    ],
)
def test_what_never_fits_in_the_slots_of_the_file_is_an_error_of_the_file(bench, resources, message):
    with pytest.raises(CampaignError, match=message):
        bench.start(
            f"operators: {{local: {{kind: local, slots: {{cpus: 6, memory: 2G}}}}}}\ntasks: {{a: {{command: x, resources: {resources}}}}}\n"
        )


def test_the_tasks_of_a_job_take_a_cpu_each(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 4}}}\n"
        "tasks: {a: {matrix: {i: [1, 2]}, command: 'echo $OMP_NUM_THREADS > n; sleep 30', resources: {cpus: 1, tasks: 3}}}\n"
    )
    bench.step()
    assert list(bench.states().values()) == ["RUNNING", "READY"]
    assert bench.reasons()["a/2"] == "ready; operator 'local' has 1 active, 3 of 4 cpus in use"
    bench.cli("cancel", bench.root)


def test_what_is_larger_than_this_machine_is_told_before_it_runs(bench):
    bench.write(
        "tasks: {a: {command: 'true', resources: {cpus: 5000}}, b: {command: 'true', resources: {memory: 900T}}}\n"
    )

    shown = bench.cli("validate", "campaign.yaml").stdout

    assert "a asks for 5000 cpus, this machine has " in shown
    assert "b asks for 900T of memory, this machine has " in shown
    assert shown.count(": it runs alone here") == 2
