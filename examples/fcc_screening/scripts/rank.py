"""A table of all fits, stiffest metal first, beside experiment, and a plot of the equations of state."""

import argparse
import csv
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from ase.eos import birchmurnaghan

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("fits", nargs="+")
parser.add_argument("--reference", required=True)
parser.add_argument("--table", required=True)
parser.add_argument("--plot", required=True)
args = parser.parse_args()

fits = []
for path in args.fits:
    with open(path) as file:
        fits.append(json.load(file))
fits.sort(key=lambda fit: -fit["B_GPa"])
with open(args.reference, newline="") as file:
    experiment = {row["metal"]: row for row in csv.DictReader(file)}

with open(args.table, "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metal", "a0_A", "a0_exp_A", "B_GPa", "B_exp_GPa", "B_off_percent"])
    for fit in fits:
        known = experiment[fit["metal"]]
        off = 100 * (fit["B_GPa"] / float(known["B_GPa"]) - 1)
        row = [f"{fit['a0_A']:.4f}", known["a0_A"], f"{fit['B_GPa']:.1f}", known["B_GPa"], f"{off:+.0f}"]
        writer.writerow([fit["metal"], *row])

figure, axes = plt.subplots(figsize=(7, 4.5))
for fit in fits:
    volumes = np.array(fit["volumes_A3"])
    dense = np.linspace(volumes.min(), volumes.max(), 200)
    fitted = birchmurnaghan(dense, *fit["parameters"]) - fit["E0_eV"]
    (line,) = axes.plot(
        (4 * dense) ** (1 / 3) / fit["a0_A"], 1000 * fitted, label=f"{fit['metal']}  {fit['B_GPa']:.0f} GPa"
    )
    calculated = np.array(fit["energies_eV"]) - fit["E0_eV"]
    axes.plot((4 * volumes) ** (1 / 3) / fit["a0_A"], 1000 * calculated, "o", markersize=3, color=line.get_color())
axes.set_xlabel("lattice constant / its fitted value")
axes.set_ylabel("energy above the minimum (meV per atom)")
axes.set_title("Equations of state, EMT: calculated points and Birch-Murnaghan fits")
axes.legend(title="bulk modulus", frameon=False)
figure.tight_layout()
figure.savefig(args.plot, dpi=150)
