"""Lattice constant and bulk modulus of an fcc metal from energies at several volumes (Birch-Murnaghan)."""

import argparse
import json

from ase.eos import EquationOfState
from ase.units import GPa

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("points", nargs="+")
parser.add_argument("--out", required=True)
args = parser.parse_args()

points = []
for path in args.points:
    with open(path) as file:
        points.append(json.load(file))
points.sort(key=lambda point: point["volume_A3"])
volumes = [point["volume_A3"] for point in points]
energies = [point["energy_eV"] for point in points]
equation = EquationOfState(volumes, energies, eos="birchmurnaghan")
v0, e0, bulk_modulus = equation.fit()
if not volumes[0] < v0 < volumes[-1]:
    raise SystemExit(f"the minimum at {v0:.2f} A3 lies outside the points ({volumes[0]:.2f} to {volumes[-1]:.2f} A3)")

# The primitive cell of fcc holds a quarter of the cubic one.
result = {"a0_A": (4 * v0) ** (1 / 3), "B_GPa": bulk_modulus / GPa, "E0_eV": e0, "points": len(points)}
with open(args.out, "w") as file:
    curve = {"volumes_A3": volumes, "energies_eV": energies, "parameters": list(equation.eos_parameters)}
    json.dump({"metal": points[0]["metal"], **result, **curve}, file)
with open("metrics.json", "w") as file:
    json.dump(result, file)
