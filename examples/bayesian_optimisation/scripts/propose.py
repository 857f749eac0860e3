"""Choose the next conditions: three to begin with, then those with the largest expected improvement."""

import argparse
import json
from pathlib import Path

import numpy as np
from process import grid, improvement, predict, read

FIRST = [(60.0, 1.0), (120.0, 1.5), (90.0, 4.0)]

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--round", type=int, required=True)
parser.add_argument("--look-every", type=int, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

conditions, yields = read(args.data)
best = float(yields.max()) if len(yields) else 0.0
if len(yields) < len(FIRST):
    chosen = FIRST[len(yields)]
else:
    at = grid()
    mean, spread = predict(conditions, yields, at)
    chosen = at[int(np.argmax(improvement(mean, spread, best)))]
metrics = {
    "temperature_C": round(float(chosen[0]), 3), "catalyst_percent": round(float(chosen[1]), 4), "best": round(best, 4),
    "look": args.round % args.look_every == 0,
}  # fmt: skip
Path("metrics.json").write_text(json.dumps(metrics))
Path(args.out).write_text(json.dumps(metrics))
