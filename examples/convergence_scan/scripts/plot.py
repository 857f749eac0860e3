"""A table and a plot of the energy against the size of the mesh."""

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

parser = argparse.ArgumentParser()
parser.add_argument("averages", nargs="+")
parser.add_argument("--out", required=True)
parser.add_argument("--table", required=True)
args = parser.parse_args()

rows = sorted((json.loads(Path(name).read_text()) for name in args.averages), key=lambda row: row["points"])
with open(args.table, "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["points", "energy_t", "change_t"])
    table.writerows([row["points"], f"{row['energy']:.8f}", f"{row['change']:.2e}"] for row in rows)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
axes.semilogy([row["points"] for row in rows[1:]], [row["change"] for row in rows[1:]], "o-")
axes.set_xscale("log", base=2)
axes.set_xticks([row["points"] for row in rows[1:]], [str(row["points"]) for row in rows[1:]])
axes.set_xlabel("k-points along each axis")
axes.set_ylabel("change of the energy / t")
axes.set_title(f"{rows[-1]['energy']:.5f} t for each site")
figure.savefig(args.out, dpi=120)
