"""Compare a fit with experiment; exit code 1 where the bulk modulus is off by more than the tolerance."""

import argparse
import csv
import json
import sys

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("fit")
parser.add_argument("--reference", required=True)
parser.add_argument("--tolerance", type=float, required=True)
args = parser.parse_args()

with open(args.fit) as file:
    fit = json.load(file)
with open(args.reference, newline="") as file:
    experiment = next(row for row in csv.DictReader(file) if row["metal"] == fit["metal"])
expected = float(experiment["B_GPa"])
off = fit["B_GPa"] / expected - 1
print(f"{fit['metal']}: B = {fit['B_GPa']:.1f} GPa, experiment {expected:.0f} GPa, {off:+.0%}")
with open("metrics.json", "w") as file:
    json.dump({"B_off": off}, file)
if abs(off) > args.tolerance:
    direction = "too soft" if off < 0 else "too stiff"
    sys.exit(f"{fit['metal']}: the potential is {abs(off):.0%} {direction}; do not trust it for elasticity")
