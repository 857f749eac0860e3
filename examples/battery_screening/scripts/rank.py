"""Rank solvents by how hard they are to oxidise, compare with measured values, draw a picture.

Fails if the mean error is above 0.35 eV, or if fluorination does not make ethylene carbonate harder to oxidise by 0.4 eV:
then the method or the installation is not what it should be.
"""

import argparse
import csv
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LARGEST_MEAN_ERROR_EV = 0.35
LEAST_GAIN_OF_FLUORINE_EV = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", help="files of ionise.py")
    parser.add_argument("--solvents", required=True, help="table with measured values")
    parser.add_argument("--table", required=True)
    parser.add_argument("--plot", required=True)
    options = parser.parse_args()
    with open(options.solvents) as file:
        listed = {row["name"]: row for row in csv.DictReader(file)}
    found = {}
    for name in options.results:
        with open(name) as file:
            row = json.load(file)
        found[row["name"]] = row
    ranked = sorted(found.values(), key=lambda row: -row["ionisation_eV"])
    measured = {name: float(row["measured_eV"]) for name, row in listed.items() if row["measured_eV"] and name in found}
    errors = [found[name]["ionisation_eV"] - value for name, value in measured.items()]
    mean_error = sum(map(abs, errors)) / len(errors)

    with open(options.table, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", "name", "ionisation_eV", "measured_eV", "affinity_eV"])
        for rank, row in enumerate(ranked, start=1):
            reference = measured.get(row["name"], "")
            writer.writerow([rank, row["name"], f"{row['ionisation_eV']:.2f}", reference, f"{row['affinity_eV']:.2f}"])

    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    axes.scatter(list(measured.values()), [found[name]["ionisation_eV"] for name in measured])
    axes.axline((9, 9), (13, 13), color="black", linewidth=0.8)
    for name, value in measured.items():
        energy = found[name]["ionisation_eV"]
        above = energy > value  # labels away from the diagonal, where there is room
        offset = (-4, 1) if above else (4, -3)
        place = {"xytext": offset, "ha": "right" if above else "left", "textcoords": "offset points"}
        axes.annotate(name, (value, energy), fontsize=6, **place)
    axes.margins(x=0.25)
    axes.set_xlabel("measured ionisation energy / eV (rounded)")
    axes.set_ylabel("calculated vertical ionisation potential / eV")
    axes.set_title(f"IPEA1-xTB at GFN2-xTB geometries, mean error {mean_error:.2f} eV")
    figure.savefig(options.plot, dpi=120)

    lacking = [name for name in listed if name not in found]
    gain = found["fluoroethylene-carbonate"]["ionisation_eV"] - found["ethylene-carbonate"]["ionisation_eV"]
    summary = {
        "solvents": len(found),
        "failed": ", ".join(lacking),
        "compared": len(errors),
        "mean_error_eV": round(mean_error, 3),
        "gain_of_fluorine_eV": round(gain, 3),
    }
    print(json.dumps(summary))
    with open("metrics.json", "w") as file:
        json.dump(summary, file)
    if mean_error > LARGEST_MEAN_ERROR_EV or gain < LEAST_GAIN_OF_FLUORINE_EV:
        sys.exit(f"mean error {mean_error:.2f} eV, gain of fluorine {gain:.2f} eV: not what this method gives")


if __name__ == "__main__":
    main()
