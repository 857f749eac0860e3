"""The example campaigns, end to end, with real calculations and the values they must give."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import Bench

if not os.environ.get("CI"):
    pytest.importorskip("ase", reason="needs the extra [science]")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# ASE 3.29.0, EMT, Birch-Murnaghan over 13 points within +-3 %: lattice constant in Å, bulk modulus in GPa.
EMT = {
    "Al": (3.9941, 39.5), "Cu": (3.5898, 134.3), "Ag": (4.0635, 100.0), "Au": (4.0561, 173.6),
    "Ni": (3.4868, 174.3), "Pd": (3.8787, 179.0), "Pt": (3.9218, 277.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def fcc(tmp_path_factory):
    """The finished campaign, whose loop was killed on the way; one for all workers of a test run."""
    shared = tmp_path_factory.getbasetemp().parent / "fcc"
    bench = Bench(shared)
    with FileLock(f"{shared}.lock"):
        if not (shared / "done").exists():
            shared.mkdir()
            run_and_kill(bench)
            (shared / "done").touch()
    return bench


def run_and_kill(bench):
    seven = "scales=[0.965, 0.975, 0.985, 0.99, 1.00, 1.005, 1.015]"  # the least that a fit accepts
    loop = bench.popen("run", EXAMPLES / "fcc_screening" / "campaign.yaml", "--root", bench.root, "--set", seven)
    bench.wait_for(bench.root / "results" / "points" / "Al" / "0.985.json", limit_s=60)
    loop.send_signal(signal.SIGKILL)
    loop.communicate()
    done = bench.cli("run", bench.root, timeout=280)
    assert done.returncode == 0, done.stderr


def test_fcc_gives_the_lattice_constants_and_bulk_moduli_of_emt(fcc):
    for metal, (a0, bulk_modulus) in EMT.items():
        fit = json.loads((fcc.root / "results" / "fits" / f"{metal}.json").read_text())
        assert fit["a0_A"] == pytest.approx(a0, rel=5e-4)
        assert fit["B_GPa"] == pytest.approx(bulk_modulus, rel=0.02)
        assert fit["points"] == 7


def test_fcc_ranks_by_stiffness_and_draws_a_plot(fcc):
    rows = list(csv.DictReader((fcc.root / "results" / "ranking.csv").open()))
    assert [row["metal"] for row in rows] == ["Pt", "Pd", "Ni", "Au", "Cu", "Ag", "Al"]
    assert (fcc.root / "results" / "equations_of_state.png").read_bytes().startswith(b"\x89PNG")


def test_fcc_says_that_aluminium_is_wrong_and_completes_all_the_same(fcc):
    states = fcc.states()
    assert {task for task, state in states.items() if state != "COMPLETED"} == {"check/Al"}
    assert states["check/Al"] == "FAILED"
    assert "do not trust it for elasticity" in (fcc.attempt("check/Al") / "stderr.log").read_text()


def test_fcc_started_no_attempt_twice(fcc):
    attempts = json.loads(fcc.cli("status", fcc.root, "--json").stdout)["tasks"]
    assert len(attempts) == 64
    # The kill may have caught a hand-over, which is then fenced and handed over anew; nothing else has a second one.
    assert sum(task["attempts"] for task in attempts) <= 66
