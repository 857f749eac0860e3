"""Table and picture of the segregation energies, for the person at the gate.

`known.csv` holds what is known of some pairs: the sign that experiment and ab initio calculations agree on.
"""

import argparse
import csv
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", help="files of segregation.py")
    parser.add_argument("--known", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--plot", required=True)
    options = parser.parse_args()
    with open(options.known) as file:
        known = {row["pair"]: row["expected"] for row in csv.DictReader(file)}
    rows = []
    for name in options.results:
        with open(name) as file:
            rows.append(json.load(file))
    rows.sort(key=lambda row: row["E_eV"]["1"])
    with open(options.table, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["pair", "host", "impurity", "E_seg_eV", "impurity_goes", "known", "agrees"])
        for row in rows:
            energy, pair = row["E_eV"]["1"], row["pair"]
            goes = "to the surface" if energy < -0.02 else "inside" if energy > 0.02 else "anywhere"
            agrees = "" if pair not in known else "yes" if known[pair] == goes else "no"
            writer.writerow([pair, row["host"], row["impurity"], f"{energy:+.2f}", goes, known.get(pair, ""), agrees])

    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    colours = ["tab:red" if row["E_eV"]["1"] < 0 else "tab:blue" for row in rows]
    axes.barh([row["pair"] for row in rows], [row["E_eV"]["1"] for row in rows], color=colours)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("segregation energy / eV (negative: the impurity goes to the surface)")
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title("Single-atom alloys, host-impurity, (111), EMT")
    figure.savefig(options.plot, dpi=120)


if __name__ == "__main__":
    main()
