"""The story of docs/changing-a-campaign.md, told with the example that it is about."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
PAGE = (HERE / "docs" / "changing-a-campaign.md").read_text()
pytestmark = pytest.mark.examples


def edit(bench, name, old, new):
    file = bench.folder / name
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


def preview(bench):
    """Give what `amend` shows, which is what the page shows, and take it."""
    lines = bench.cli("amend", "runs/fcc-screening").stdout.splitlines()
    plan = next(line.split()[1] for line in lines if line.startswith("plan "))
    shown = lines[: lines.index(f"plan {plan}")]
    assert "\n".join(shown) in PAGE
    assert bench.cli("amend", "runs/fcc-screening", "--plan", plan, "--why", "as the page tells").returncode == 0


def run(bench):
    done = bench.cli("run", "-q", "runs/fcc-screening")
    attempts = len(list((bench.folder / "runs/fcc-screening/tasks").glob("*/*/attempt-*")))
    return done.returncode, attempts + len(list((bench.folder / "runs/fcc-screening/tasks/rank").glob("attempt-*")))


def test_the_page_tells_what_happens(bench):
    shutil.copytree(HERE / "examples" / "fcc_screening", bench.folder, dirs_exist_ok=True)
    edit(bench, "campaign.yaml", "metals: [Al, Cu, Ag, Au, Ni, Pd, Pt]", "metals: [Cu, Ag]")
    edit(bench, "campaign.yaml", "time: 5m", "time: 0.1s")
    edit(bench, "campaign.yaml", "retries: 1", "retries: 0")
    assert bench.cli("run", "-q", "campaign.yaml").returncode == 3
    count = run(bench)[1]
    assert count == 22

    edit(bench, "campaign.yaml", "time: 0.1s", "time: 5m")
    preview(bench)
    assert run(bench) == (0, 22 + 22 + 2 + 2 + 1)

    edit(bench, "campaign.yaml", "metals: [Cu, Ag]", "metals: [Cu, Ag, Au, Nl]")
    preview(bench)
    assert run(bench) == (3, 49 + 22 + 1 + 1)

    edit(bench, "campaign.yaml", "Nl]", "Ni]")
    preview(bench)
    assert run(bench) == (0, 73 + 11 + 1 + 1)

    edit(bench, "campaign.yaml", "Au, Ni]", "Ni]")
    preview(bench)
    assert run(bench) == (0, 86)

    edit(bench, "scripts/fit.py", "json.dump(result, file)", "json.dump({**result, 'eos': 1}, file)")
    preview(bench)
    assert run(bench) == (0, 86)

    assert bench.cli("rerun", "runs/fcc-screening", "--stale").stdout.startswith("7 tasks reset to PENDING")
    assert run(bench) == (0, 86 + 7)
    history = bench.cli("history", "runs/fcc-screening").stdout
    assert history.count("taken: ") == 5
    assert history.count('"as the page tells"') >= 5
    assert "stale" not in bench.cli("status", "runs/fcc-screening").stdout
