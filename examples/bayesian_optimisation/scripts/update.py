"""Add an experiment to the data."""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--temperature", type=float, required=True)
parser.add_argument("--catalyst", type=float, required=True)
parser.add_argument("--yield", dest="got", type=float, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

lines = Path(args.data).read_text().splitlines()
lines.append(f"{args.temperature:g},{args.catalyst:g},{args.got:.5f}")
Path(args.out).write_text("\n".join(lines) + "\n")
best = max(float(line.rpartition(",")[2]) for line in lines[1:])
Path("metrics.json").write_text(json.dumps({"best": best, "experiments": len(lines) - 1}))
