"""Energy of an fcc metal at one lattice constant, with ASE and its EMT potential."""

import argparse
import csv
import json

from ase.build import bulk
from ase.calculators.emt import EMT

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--metal", required=True)
parser.add_argument("--scale", type=float, required=True, help="lattice constant relative to experiment")
parser.add_argument("--reference", required=True, help="CSV with metal and a0_A")
parser.add_argument("--out", required=True)
args = parser.parse_args()

with open(args.reference, newline="") as file:
    experiment = {row["metal"]: float(row["a0_A"]) for row in csv.DictReader(file)}
a = experiment[args.metal] * args.scale
atoms = bulk(args.metal, "fcc", a=a)  # primitive cell, one atom
atoms.calc = EMT()
energy = float(atoms.get_potential_energy())

with open(args.out, "w") as file:
    json.dump({"metal": args.metal, "a_A": a, "volume_A3": float(atoms.get_volume()), "energy_eV": energy}, file)
with open("metrics.json", "w") as file:
    json.dump({"a_A": a, "energy_eV": energy}, file)
