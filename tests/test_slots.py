"""What may run at once: the operators of one machine share its cpus and memory."""

from __future__ import annotations

from matterstack.core.model import Resources
from matterstack.core.slots import Capacity, Slots, Use
from matterstack.operators import processes

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
