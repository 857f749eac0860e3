"""`matterstack run`: it reacts when a process ends, lets others in, and leaves the jobs alone when it goes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import time

from matterstack import initialize_run, run_until_done
from matterstack.orchestration.pool import Pool
from matterstack.orchestration.session import open_to_write
from matterstack.views.attempts import attempts


def test_the_loop_reacts_when_a_process_ends_and_does_not_poll_for_it(bench):
    links = "".join(f"  t{n}: {{needs: [t{n - 1}], command: 'sleep 0.02'}}\n" for n in range(1, 40))
    initialize_run(bench.write("tasks:\n  t0: {command: 'true'}\n" + links), bench.root)
    ticks = []

    run_until_done(bench.root, ticks.append)

    # 40 tasks in a row: a step for each end, one for a hand-over whose end is not there 50 ms later, and hardly any for nothing.
    assert len([tick for tick in ticks if not tick.changed]) <= 5
    assert sum(bool(tick.ended) for tick in ticks) == 40


def test_it_reacts_to_jobs_that_another_process_started(bench):
    bench.start("tasks: {a: {command: 'sleep 1'}}\n")
    assert bench.cli("step", bench.root).returncode == 0
    ticks = []

    assert run_until_done(bench.root, ticks.append).state == "COMPLETED"

    assert len(ticks) <= 3


def test_other_commands_act_on_a_run_while_it_loops(bench):
    bench.start(
        "operators: {local: {kind: local, max_active: 1}}\n"
        "tasks: {a: {matrix: {i: [1, 2, 3, 4]}, command: 'sleep 0.5'}, long: {command: 'sleep 300', priority: 1}}\n"
    )
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("long") / "claim")

    assert bench.cli("pause", bench.root, "a/4").returncode == 0
    assert bench.cli("cancel", bench.root, "long").returncode == 0

    assert loop.wait(60) == 4
    loop.communicate()
    assert bench.states() == {
        "a/1": "COMPLETED", "a/2": "COMPLETED", "a/3": "COMPLETED", "a/4": "PENDING", "long": "CANCELLED",
    }  # fmt: skip


def test_commands_get_in_beside_a_busy_loop(bench):
    bench.start(f"tasks: {{a: {{matrix: {{i: {list(range(300))}}}, command: 'true'}}}}\n")
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("a/5") / "claim")

    began = time.monotonic()
    done = bench.cli("pause", bench.root)

    assert (done.returncode, time.monotonic() - began < 10) == (0, True)
    assert loop.wait(60) == 4
    loop.communicate()


def test_ctrl_c_says_that_the_jobs_go_on_and_how_to_continue(bench):
    bench.start("tasks: {a: {command: 'until test -e go; do sleep 0.1; done; echo a >> WITNESS'}}\n")
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("a") / "claim")
    time.sleep(0.5)

    loop.send_signal(signal.SIGINT)

    _, err = loop.communicate(timeout=10)
    assert loop.returncode == 130
    assert f"interrupted: 1 job goes on without this loop; `matterstack run {bench.root}` continues" in err
    assert "Traceback" not in err
    (bench.attempt("a") / "go").touch()
    assert bench.cli("run", bench.root).returncode == 0
    assert bench.witnessed() == ["a"]


def test_without_a_terminal_it_prints_plain_lines_and_failures_as_they_happen(bench):
    bench.start("tasks: {a: {command: 'echo why >&2; exit 3', retries: 1}, b: {command: 'true'}}\n")

    done = bench.cli("run", bench.root)

    assert done.returncode == 3
    assert f"a will be retried: attempt 1, exit code 3; {bench.root}/tasks/a/attempt-1/stderr.log" in done.stderr
    assert f"a failed: attempt 2, exit code 3; {bench.root}/tasks/a/attempt-2/stderr.log" in done.stderr
    assert done.stdout.splitlines()[0] == "FAILED: 1 COMPLETED, 1 FAILED"
    assert "\x1b" not in done.stdout + done.stderr


def test_on_a_terminal_it_shows_progress_and_running_tasks(bench):
    bench.start("tasks: {a: {command: 'sleep 1.5'}, b: {needs: [a], command: 'true'}}\n")
    master, slave = pty.openpty()
    loop = bench.popen(
        "run", bench.root, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    )
    os.close(slave)
    shown = b""
    while True:
        ready, _, _ = select.select([master], [], [], 30)
        try:
            data = os.read(master, 65536) if ready else b""
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(master)

    assert loop.wait(10) == 0
    text = shown.decode()
    assert "0 of 2 tasks completed, 1 running" in text
    assert "  a  " in text
    assert "COMPLETED" in text


def test_the_loop_does_not_spin_while_a_command_outlives_its_wrapper(bench):
    bench.start("tasks: {a: {command: 'sleep 2', retries: 0}}\n")
    bench.step()
    claim = json.loads(bench.wait_for(bench.attempt("a") / "claim").read_text())
    bench.wait_for(bench.attempt("a") / "stderr.log")
    time.sleep(0.2)
    os.kill(claim["pid"], signal.SIGKILL)
    ticks = []

    run_until_done(bench.root, ticks.append)

    assert len(ticks) < 8


def test_what_wakes_the_loop_is_an_exit_json_or_the_end_of_a_wrapper_and_never_all_processes(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 4}}}\ntasks: {long: {command: 'sleep 30'}, done: {command: 'true'}, gone: {command: 'sleep 30'}}\n"
    )
    bench.step()
    bench.exit_of("done")
    with open_to_write(bench.root) as store:
        rows = {row.task_id: row for row in store.live_attempts()}
        os.kill(json.loads(rows["gone"].handle)["pid"], signal.SIGKILL)
        time.sleep(0.3)
        found = {}
        for task, row in rows.items():
            fds = Pool(store).wake_fds([row], {row.key: str(bench.attempt(task))})
            found[task] = [bool(select.select([fd], [], [], 0)[0]) for fd in fds]
            for fd in fds:
                os.close(fd)
    bench.cli("cancel", bench.root)
    assert found == {"long": [False], "done": [True], "gone": []}


def test_what_the_step_inherited_does_not_stay_open_in_what_it_starts(bench):
    bench.start("tasks: {a: {command: sleep 30}}\n")
    reader, writer = os.pipe()

    bench.cli("step", bench.root, pass_fds=[writer])
    os.close(writer)

    assert os.read(reader, 1) == b""  # nobody holds its other end
    os.close(reader)
    bench.cli("cancel", bench.root)


def test_the_loop_notices_that_a_worker_was_killed_with_its_attempt_in_hand(bench):
    bench.start("tasks: {a: {retries: 1, command: 'echo a >> WITNESS; test ${{ task.attempt }} = 2 || sleep 1.5'}}\n")
    loop = bench.popen("run", bench.root)
    claim = json.loads(bench.wait_for_text(bench.attempt("a") / "claim", "\n"))
    bench.wait_for(bench.witness)

    os.kill(claim["pid"], signal.SIGKILL)

    assert loop.wait(30) == 0
    loop.communicate()
    assert bench.witnessed() == ["a", "a"]
    assert attempts(bench.root, "a")[1][0]["class"] == "lost"


def test_a_loop_that_only_waits_for_a_delay_does_not_spin(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 2}}}\n"
        "tasks: {a: {matrix: {i: [1, 2]}, command: 'test ${{ task.attempt }} = 2', retries: {max: 1, delay: 2s}}}\n"
    )
    ticks = []

    assert run_until_done(bench.root, ticks.append).state == "COMPLETED"

    assert len(ticks) < 20


def test_a_loop_beside_people_notices_what_other_commands_and_people_do_soon(bench):
    bench.start(
        "operators: {board: {kind: human}}\n"
        "tasks: {g: {operator: board, instructions: x}, a: {needs: [g], command: 'true'}, b: {command: 'sleep 30'}, c: {command: 'true'}}\n"
    )
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("b") / "claim")
    bench.wait_for(bench.attempt("c") / "exit.json")
    time.sleep(3)  # it has nothing to do by now
    began = time.monotonic()
    bench.cli("rerun", bench.root, "c")
    bench.wait_for(bench.attempt("c", 2) / "exit.json", limit_s=6)
    assert time.monotonic() - began < 5
    bench.cli("respond", bench.root, "g", "--approve")
    began = time.monotonic()
    bench.wait_for(bench.attempt("a") / "exit.json", limit_s=6)
    assert time.monotonic() - began < 5
    bench.cli("cancel", bench.root)
    loop.communicate(timeout=20)


def test_one_task_that_cannot_be_handed_over_does_not_end_a_loop_beside_others(bench):
    bench.start("tasks: {a: {command: 'sleep 1'}, b: {command: 'true', retries: 0}}\n")
    (bench.root / "tasks" / "b").write_text("in the way")
    loop = bench.popen("run", bench.root)

    _, told = loop.communicate(timeout=30)

    assert "nothing could be handed over" not in told
    assert bench.states()["a"] == "COMPLETED"


def test_an_end_that_comes_while_the_loop_records_another_is_noticed_at_once(bench):
    bench.start(
        "operators: {local: {kind: local, slots: {cpus: 2}}}\n"
        "tasks: {a: {command: 'sleep 1'}, b: {command: 'sleep 1.03'}, c: {needs: [b], command: 'true'}}\n"
    )
    began = time.monotonic()

    assert bench.cli("run", bench.root).returncode == 0

    assert time.monotonic() - began < 6


def test_a_worker_that_is_killed_with_its_command_is_noticed_at_once(bench):
    bench.start("tasks: {a: {command: 'sleep 300'}}\n")
    loop = bench.popen("run", bench.root)
    claim = json.loads(bench.wait_for_text(bench.attempt("a") / "claim", "\n"))
    command = int(bench.wait_for_text(bench.attempt("a") / ".exit.json", "started ").split()[1])
    time.sleep(1)

    began = time.monotonic()
    os.kill(claim["pid"], signal.SIGKILL)
    os.killpg(command, signal.SIGKILL)

    assert loop.wait(30) == 3
    assert time.monotonic() - began < 5
    loop.communicate()


def test_what_ctrl_c_leaves_on_record_is_what_runs(bench):
    bench.start(
        "operators: {local: {kind: local, max_active: 4, slots: {cpus: 4}}}\n"
        f"tasks: {{a: {{matrix: {{i: {list(range(600))}}}, shell: sh, command: 'sleep 0.01'}}}}\n"
    )
    loop = bench.popen("run", bench.root)
    bench.wait_for(bench.attempt("a/60") / "claim")
    loop.send_signal(signal.SIGINT)
    loop.communicate()

    states = list(bench.states().values())
    assert states.count("RUNNING") + states.count("SUBMITTED") <= 4
    bench.cli("cancel", bench.root)
