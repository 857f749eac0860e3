"""A reflectometer that knows only the lab protocol (docs/lab-protocol.md): requests, claims, heartbeats, results.

    python reflectometer.py RUN_ROOT [--once]

It stands for an instrument computer: it watches a run root for requests, takes each once, and hands over a real
measurement, c_PLP0011859_q.txt: neutrons on a film between a silicon wafer and D2O, measured with Platypus at ANSTO. The
file ships with refnx (BSD licence, https://github.com/refnx/refnx). It imports nothing of MatterStack.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

MEASUREMENT = "analysis/tests/c_PLP0011859_q.txt"  # of refnx
SHA256 = "658bdc15a4bb2cc1d65bdbb7838fe32b597520c612ad633954822d1ac575863a"
NAME = "platypus (replayed)"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write(path: Path, content: dict) -> None:
    """Write a file beside and move it over: nobody ever sees half of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(beside, path)


def take(folder: Path) -> bool:
    """Create the claim, exclusively, and write our line; only then is the request ours."""
    try:
        fd = os.open(folder / "claim", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(fd, "w") as file:
        file.write(json.dumps({"by": NAME, "at": now()}) + "\n")
    return True


def measurement() -> bytes:
    """Give the measurement. Raises OSError if refnx is not installed here, or has another file."""
    found = importlib.util.find_spec("refnx")
    if found is None or found.origin is None:
        raise OSError("refnx, which brings the measurement, is not installed")
    data = Path(found.origin).parent.joinpath(MEASUREMENT).read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise OSError(f"{MEASUREMENT} of refnx is another measurement")
    return data


def measure(folder: Path) -> None:
    """Carry one request out. What goes wrong is a result as well."""
    request = json.loads((folder / "experiment_request.json").read_text())
    started = now()
    write(folder / "heartbeat.json", {"at": started, "interval_s": 30})
    result = {"token": request["token"], "instrument": NAME, "started_at": started}
    if (folder / "cancel.json").exists():
        write(
            folder / "experiment_result.json", {**result, "status": "FAILED", "error": "cancelled", "ended_at": now()}
        )
        return
    try:
        name = request["outputs"]["curve"]["file"]
        data = measurement()
        (folder / name).write_bytes(data)
        result |= {
            "status": "COMPLETED",
            "data": {"points": len(data.splitlines()), "sample": request["parameters"]["sample"]},
            "files": {"curve": {"path": name, "sha256": hashlib.sha256(data).hexdigest()}},
        }
    except (OSError, KeyError) as error:
        result |= {"status": "FAILED", "error": f"{type(error).__name__}: {error}"}
    write(folder / "experiment_result.json", {**result, "ended_at": now()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_root", type=Path)
    parser.add_argument("--once", action="store_true", help="Take what is there and exit.")
    options = parser.parse_args()
    while True:
        for request in sorted(options.run_root.glob("tasks/**/experiment_request.json")):
            if not (request.parent / "experiment_result.json").exists() and take(request.parent):
                print(f"{now()}  {request.parent.relative_to(options.run_root)}", flush=True)
                measure(request.parent)
        if options.once:
            return
        time.sleep(0.5)


if __name__ == "__main__":
    main()
