"""Loops that people of the field run with other systems, each as a campaign; what they calculate is a line of awk here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EOS = """
tasks:
  relax:
    repeat:
      max: 20
      until: "${{ metrics.step.force < 0.05 }}"
      on_max: fail
      carry: {a: {first: 5.0, next: "${{ metrics.step.a }}"}}
    tasks:
      step:
        command: |
          awk -v a=${{ carry.a }} 'BEGIN { f = 4.05 - a; n = a + 0.6 * f; print n > "a.txt"
            printf "{\\"a\\": %.6f, \\"force\\": %.6f}", n, f < 0 ? -f : f }' > metrics.json
        outputs: {a: a.txt}
  points:
    inputs: {a: relax/a.txt}
    command: |
      awk '{ print "id,a"; for (i = -3; i <= 3; i++) printf "p%d,%.5f\\n", i + 4, $1 * (1 + i / 100) }' ${{ inputs.a }} > points.csv
    outputs: {points: points.csv}
  energy:
    matrix: {table: points.csv}
    command: awk -v a=${{ matrix.a }} 'BEGIN { printf "%.5f %.8f\\n", a, (a - 4.05) ^ 2 }' > ${{ outputs.e }}
    outputs: {e: "e/${{ matrix.id }}"}
  fit: {inputs: {e: "e/*"}, command: "sort -k 2 -g ${{ inputs.e }} | head -n 1 > fit.txt", outputs: {fit: fit.txt}}
"""


def check_eos(bench):
    best = float((bench.root / "results/fit.txt").read_text().split()[0])
    assert best == pytest.approx(4.05, rel=0.011)
    assert len([name for name in bench.states() if name.startswith("energy/")]) == 7
    force = json.loads(bench.cli("results", bench.root, "--json", "--task", "relax/*/step").stdout)
    assert [item["metrics"]["force"] < 0.05 for item in force].index(True) == len(force) - 1


# DP-GEN: explore with the models so far, choose the frames whose deviation lies between two trust levels, at least 5 and at
# most 20, label these, train.
CONCURRENT = """
params: {low: 0.05, high: 0.35}
tasks:
  learn:
    repeat:
      max: 8
      until: "${{ metrics.explore.accurate >= 0.9 }}"
      carry: {model: {first: 1.0, next: "${{ metrics.train.error }}"}}
    tasks:
      explore:
        command: |
          awk -v m=${{ carry.model }} -v low=${{ params.low }} -v high=${{ params.high }} 'BEGIN {
            print "id,deviation" > "chosen.csv"; n = 0; good = 0
            for (i = 1; i <= 60; i++) { d = m * (i % 30 + 1) / 30 * 0.5; good += d < low
              if (n < 5 || (d >= low && d < high && n < 20)) { n++; printf "f%02d,%.4f\\n", i, d > "chosen.csv" } }
            printf "{\\"accurate\\": %.4f, \\"chosen\\": %d}", good / 60, n }' > metrics.json
        outputs: {chosen: chosen.csv}
      label:
        matrix: {table: chosen.csv}
        expect: 20
        command: echo ${{ matrix.deviation }} > ${{ outputs.e }}
        outputs: {e: "labels/${{ matrix.id }}"}
      train:
        inputs: {labels: "labels/*"}
        command: |
          awk -v m=${{ carry.model }} '{ n++ } END { printf "{\\"error\\": %.6f, \\"labels\\": %d}", m * 0.45, n }' ${{ inputs.labels }} > metrics.json
"""


def check_concurrent(bench):
    found = {item["task"]: item["metrics"] for item in json.loads(bench.cli("results", bench.root, "--json").stdout)}
    rounds = sorted({int(name.split("/")[1]) for name in found if name.startswith("learn/")})
    assert 2 <= len(rounds) <= 8
    for number in rounds:
        labels = [name for name in found if name.startswith(f"learn/{number}/label/")]
        assert 5 <= len(labels) <= 20
        assert len(labels) == found[f"learn/{number}/explore"]["chosen"] == found[f"learn/{number}/train"]["labels"]
    assert found[f"learn/{rounds[-1]}/explore"]["accurate"] >= 0.9


# PwBase of aiida-quantumespresso: the exit code says whether the calculation goes on from its files, or with other parameters.
RESTARTS = """
tasks:
  pw:
    command: |
      n=$(cat scf.save 2>/dev/null || echo 0); echo $((n + 1)) > scf.save; echo ${{ task.attempt }} >> WITNESS
      [ $n -lt 2 ] && exit 85; [ $n -lt 3 ] && exit 40; echo done > OUT
    outputs: {out: OUT}
    restart: {files: [scf.save], after: [exit_code_85, exit_code_40], max: 5}
"""


def check_restarts(bench):
    assert bench.witnessed() == ["1", "2", "3", "4"]
    assert (bench.root / "results/OUT").read_text() == "done\n"


DOCK = """
tasks:
  split:
    command: |
      mkdir -p parts; for i in $(seq 1 5); do echo ligand$i > parts/part$i.sdf; done
    outputs: {parts: parts/}
  dock:
    matrix: {part: {files: "parts/*.sdf"}}
    command: wc -c < ${{ inputs.part }} > ${{ outputs.score }}
    outputs: {score: "scores/${{ matrix.part }}"}
  collect: {inputs: {scores: "scores/*"}, command: "cat ${{ inputs.scores }} | wc -l > n.txt", outputs: {n: n.txt}}
"""


def check_dock(bench):
    assert (bench.root / "results/n.txt").read_text().split() == ["5"]
    assert {f"dock/part{i}" for i in range(1, 6)} <= set(bench.states())


PHONONS = """
tasks:
  displace: {command: 'printf "id,atom,d\\nd1,1,0.01\\nd2,1,-0.01\\nd3,2,0.01\\n" > displacements.csv', outputs: {t: displacements.csv}}
  force:
    matrix: {table: displacements.csv}
    command: awk -v d=${{ matrix.d }} 'BEGIN { print -8.5 * d }' > ${{ outputs.f }}
    outputs: {f: "forces/${{ matrix.id }}"}
  constants:
    inputs: {t: {results: force}, f: "forces/*"}
    command: awk 'NR == 1 { print $1 / -0.01 }' ${{ inputs.f }} > k.txt; wc -l < ${{ inputs.t }} >> k.txt
    outputs: {k: k.txt}
"""


def check_phonons(bench):
    assert (bench.root / "results/k.txt").read_text().split() == ["8.5", "4"]


NIMO = """
operators: {robot: {kind: experiment}}
files: [candidates.csv]
tasks:
  search:
    repeat:
      max: 6
      until: "${{ metrics.update.best > 0.9 }}"
      carry: {known: {first: candidates.csv, next: known.csv}}
    tasks:
      select:
        inputs: {known: "${{ carry.known }}"}
        command: |
          awk -F, 'NR > 1 && $2 == "" { print "{\\"x\\": " $1 "}"; exit }' ${{ inputs.known }} > metrics.json
      measure:
        operator: robot
        instructions: Measure it.
        params: {x: "${{ metrics.select.x }}"}
        result_schema: {type: object, required: [y], properties: {y: {type: number}}}
      update:
        inputs: {known: "${{ carry.known }}"}
        command: |
          awk -F, -v x=${{ metrics.select.x }} -v y=${{ response.measure.y }} 'NR > 1 && $1 == x { $2 = y } { print $1 "," $2 }
            NR > 1 && $2 > best { best = $2 } END { printf "{\\"best\\": %s}", best > "metrics.json" }' ${{ inputs.known }} > known.csv
        outputs: {known: known.csv}
"""


def play_robot(bench):
    for folder in bench.root.glob("tasks/search/*/measure/attempt-1"):
        request = json.loads((folder / "experiment_request.json").read_text())
        if not (folder / "experiment_result.json").exists():
            answer = {"status": "COMPLETED", "token": request["token"], "data": {"y": request["parameters"]["x"] / 4}}
            beside = folder / ".result"
            beside.write_text(json.dumps(answer))
            beside.rename(folder / "experiment_result.json")


def check_nimo(bench):
    lines = (bench.root / "results/search/known.csv").read_text().splitlines()
    assert lines == ["x,y", "1,0.25", "2,0.5", "3,0.75", "4,1.0", "5,", "6,"]


STRING = """
params: {images: 4}
files: [line.txt]
tasks:
  string:
    repeat:
      max: 30
      until: "${{ metrics.reparametrise.moved < 0.02 }}"
      carry: {line: {first: line.txt, next: line.txt}}
    tasks:
      image:
        matrix: {i: {range: "${{ params.images }}"}}
        inputs: {line: "${{ carry.line }}"}
        command: awk -v i=${{ matrix.i }} 'NR == i { print i, $1, $2 * 0.5 + sin($1 * 3.14159265) * 0.5 }' ${{ inputs.line }} > ${{ outputs.p }}
        outputs: {p: "images/${{ matrix.i }}"}
      reparametrise:
        inputs: {images: "images/*", line: "${{ carry.line }}"}
        command: |
          cat ${{ inputs.images }} | sort -n | awk '{ print $2, $3 }' > new.txt
          paste ${{ inputs.line }} new.txt | awk '{ d = $4 - $2; d = d < 0 ? -d : d; m = d > m ? d : m } END { printf "{\\"moved\\": %.6f}", m }' > metrics.json
          mv new.txt line.txt
        outputs: {line: line.txt}
"""


def check_string(bench):
    rows = [
        tuple(map(float, line.split())) for line in (bench.root / "results/string/line.txt").read_text().splitlines()
    ]
    for (_, y), wanted in zip(rows, (0.0, 0.866, 0.866, 0.0), strict=True):
        assert y == pytest.approx(wanted, abs=0.03)


DESIGN = """
tasks:
  design:
    repeat:
      max: 10
      until: "${{ metrics.count.succeeded >= 5 }}"
      carry: {succeeded: {first: 0, next: "${{ metrics.count.succeeded }}"}}
    tasks:
      propose: {command: 'echo id > m.csv; for i in 1 2 3 4; do echo m$i >> m.csv; done', outputs: {m: m.csv}}
      build:
        matrix: {table: m.csv}
        allow_failure: true
        command: case ${{ matrix.id }} in m2|m4) exit 1;; esac; echo 1 > ${{ outputs.o }}
        outputs: {o: "built/${{ matrix.id }}"}
      count:
        inputs: {built: "built/*"}
        allow_dependency_failure: true
        command: |
          cat ${{ inputs.built }} | awk -v n=${{ carry.succeeded }} '{ n += $1 } END { printf "{\\"succeeded\\": %d}", n }' > metrics.json
"""


def check_design(bench):
    assert bench.reasons().get("design", "") == ""
    counts = json.loads(bench.cli("results", bench.root, "--json", "--task", "design/*/count").stdout)
    assert [item["metrics"]["succeeded"] for item in counts] == [2, 4, 6]


LOOPS = {
    "an equation of state after a relaxation until converged": (EOS, check_eos),
    "concurrent learning with trust levels": (CONCURRENT, check_concurrent),
    "restarts by exit code": (RESTARTS, check_restarts),
    "split, dock, collect": (DOCK, check_dock),
    "displacements known after a first task": (PHONONS, check_phonons),
    "select, experiment, update": (NIMO, check_nimo),
    "a string until it has converged": (STRING, check_string),
    "a design until enough have succeeded": (DESIGN, check_design),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_the_field_runs_to_its_end(bench, name):
    text, check = LOOPS[name]
    (bench.folder / "candidates.csv").write_text("x,y\n1,\n2,\n3,\n4,\n5,\n6,\n")
    (bench.folder / "line.txt").write_text("0 0\n0.333333 0\n0.666667 0\n1 0\n")
    bench.start(text)
    for _ in range(40):
        done = bench.cli("run", bench.root, timeout=120)
        if done.returncode != 4:
            break
        play_robot(bench)
    assert done.returncode == 0, done.stdout + done.stderr
    check(bench)
    assert bench.cli("doctor", bench.root).returncode == 0


def test_the_page_of_loops_is_named_where_people_look_for_it():
    top = Path(__file__).parent.parent
    for page in ("README.md", "docs/campaign-file.md", "docs/changelog.md"):
        assert "loops.md" in (top / page).read_text(), page
