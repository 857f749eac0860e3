"""A pretended reactor that knows only the lab protocol (docs/lab-protocol.md).

    python reactor.py RUN_ROOT [--once]

It watches a run root for requests, takes each once, and answers with a yield: a smooth hill with its top, 0.95, at 92 °C and 2.6 % of
catalyst, and the noise of a measurement, which is the same for the same conditions. It imports nothing of MatterStack.
"""

import argparse
import json
import math
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path

NAME = "reactor (pretended)"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def true_yield(temperature: float, catalyst: float) -> float:
    """Give the yield without noise."""
    warm, much = (temperature - 92) / 28, (catalyst - 2.6) / 1.3
    return 0.95 * math.exp(-0.5 * (warm**2 + much**2 - 0.6 * warm * much))


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


def react(folder: Path) -> None:
    request = json.loads((folder / "experiment_request.json").read_text())
    started, wanted = now(), request["parameters"]
    temperature, catalyst = float(wanted["temperature"]["value"]), float(wanted["catalyst"]["value"])
    noise = random.Random(f"{temperature:.3f} {catalyst:.3f}").gauss(0, 0.005)
    got = min(max(true_yield(temperature, catalyst) + noise, 0.0), 1.0)
    file = request["outputs"]["spectrum"]["file"]
    (folder / file).write_text("".join(f"{x} {got * math.exp(-(((x - 50) / 9) ** 2)):.5f}\n" for x in range(100)))
    write(
        folder / "experiment_result.json",
        {"token": request["token"], "instrument": NAME, "started_at": started, "ended_at": now(), "status": "COMPLETED",
         "data": {"yield": round(got, 5)}},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--once", action="store_true", help="look once, and end")
    options = parser.parse_args()
    while True:
        for request in sorted(options.root.glob("tasks/**/experiment_request.json")):
            if not (request.parent / "experiment_result.json").exists() and take(request.parent):
                react(request.parent)
        if options.once:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
