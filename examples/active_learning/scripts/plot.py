"""How the error fell from round to round, and what the last model predicts."""

import argparse
import csv

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from model import read, write

parser = argparse.ArgumentParser()
parser.add_argument("predicted", nargs="+")
parser.add_argument("--last", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--table", required=True)
args = parser.parse_args()


def rows(path: str) -> list[dict[str, float]]:
    with open(path) as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


errors = sorted((found[0]["points"], found[0]["rmse_meV"]) for found in map(rows, args.predicted))
write(args.table, ["points", "rmse_meV"], [[int(points), f"{rmse:.4f}"] for points, rmse in errors])
last, (strains, _) = rows(args.last), read(args.data)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
left.semilogy([points for points, _ in errors], [rmse for _, rmse in errors], "o-")
left.set_xlabel("calculations")
left.set_ylabel("error / meV for each atom")
middle.plot([row["true_eV"] for row in last], [row["predicted_eV"] for row in last], ".")
middle.axline((last[0]["true_eV"], last[0]["true_eV"]), slope=1, color="0.6", zorder=0)
middle.set_xlabel("EMT / eV")
middle.set_ylabel("model / eV")
right.plot(100 * strains[:, 0], 100 * strains[:, 1], "o")
right.set_xlabel("strain along x and y / %")
right.set_ylabel("strain along z / %")
right.set_title("where it was taught")
figure.savefig(args.out, dpi=120)
