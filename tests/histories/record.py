"""python -m tests.histories.record NAME [RUN]: keep the journal of RUN as a history, or write what is expected anew."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from matterstack.run_root import layout
from matterstack.storage.journal import BEGINNING, digest_of, is_version_1
from tests.histories import HERE, beginnings

_OF_VERSION_1 = (layout.CAMPAIGN, layout.OPERATORS, layout.RUN, "source")
_NOBODY = {"host": "node1", "path": "/home/ada/runs/r", "campaign_path": "../../campaign.yaml", "who": "ada@node1"}
_OF_A_MACHINE = ("machine", "boot", "pid_ns", "host")


def record(name: str, root: Path | None) -> None:
    history = HERE / name
    kept = history / "run"
    if root is not None:
        kept.mkdir(parents=True)
        lines = (root / layout.JOURNAL).read_text(encoding="utf-8").splitlines()
        (kept / layout.JOURNAL).write_text("".join(f"{line}\n" for line in _anonymous(lines)), encoding="utf-8")
        if is_version_1(lines[0]):  # its journal does not say what the tasks are
            for item in _OF_VERSION_1:
                copy = shutil.copytree if (root / item).is_dir() else shutil.copy
                copy(root / item, kept / item)
            for file in root.glob("tasks/**/task.json"):
                (kept / file.relative_to(root)).parent.mkdir(parents=True)
                shutil.copy(file, kept / file.relative_to(root))
        else:
            shutil.copytree(root / layout.EXPANDED, kept / layout.EXPANDED)
    with tempfile.TemporaryDirectory() as beside:
        lines = [json.dumps(told, ensure_ascii=False) for told in beginnings(history, Path(beside))]
    (history / "expected.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{history.name}: {len(lines)} beginnings")


def _anonymous(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a journal without the names of machines and folders, their chain closed again."""
    before = BEGINNING
    for line in lines:
        data = json.loads(line)
        for name, value in _NOBODY.items():
            if isinstance(data.get(name), str):
                data[name] = value
        if isinstance(data.get("handle"), str) and data["handle"].startswith("{"):
            handle = json.loads(data["handle"])
            data["handle"] = json.dumps({**handle, **{name: "0" for name in handle if name in _OF_A_MACHINE}})
        if "prev" in data:
            data["prev"] = before
        done = json.dumps(data, ensure_ascii=False)
        before = digest_of(done)
        yield done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.histories.record")
    parser.add_argument("name", help="of the history, a folder in tests/histories")
    parser.add_argument("run", nargs="?", type=Path, help="a run root; without it, `expected.jsonl` is written anew")
    given = parser.parse_args()
    record(given.name, given.run)
