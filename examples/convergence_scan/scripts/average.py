"""Average the energies of meshes of one size; say how far that is from the size before."""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("energies", nargs="+")
parser.add_argument("--before", type=float, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

found = [json.loads(Path(name).read_text()) for name in args.energies]
energy = sum(item["energy"] for item in found) / len(found)
points = found[0]["points"]
metrics = {"energy": energy, "change": abs(energy - args.before), "points": points, "next_points": 2 * points}
Path("metrics.json").write_text(json.dumps(metrics))
Path(args.out).write_text(json.dumps(metrics))
