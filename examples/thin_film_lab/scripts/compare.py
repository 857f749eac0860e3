"""Do independent fits agree? A picture for the person who decides; fails if they do not."""

import argparse
import json
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MOST_SIGMAS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fits", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--predicted", required=True)
    parser.add_argument("--plot", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    fits = []
    for name in options.fits:
        with open(name) as file:
            fits.append(json.load(file))
    measured, predicted = np.loadtxt(options.data), np.loadtxt(options.predicted)
    thickness = [fit["thickness_A"] for fit in fits]
    spread = max(thickness) - min(thickness)
    error = max(fit["thickness_error_A"] for fit in fits)

    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    axes.errorbar(measured[:, 0], measured[:, 1], measured[:, 2], fmt=".", markersize=3, label="measured")
    axes.plot(predicted[:, 0], predicted[:, 1], ":", color="grey", label="predicted")
    for fit in fits:
        axes.plot(fit["q"], fit["fit"], linewidth=1, label=f"fit {fit['seed']}: {fit['thickness_A']:.1f} Å")
    axes.set(xscale="log", yscale="log", xlabel="q / Å⁻¹", ylabel="reflectivity")
    axes.legend()
    figure.savefig(options.plot, dpi=120)

    summary = {
        "thickness_A": round(sum(thickness) / len(thickness), 2),
        "spread_A": round(spread, 2),
        "error_A": error,
        "chi2_per_n": max(fit["chi2_per_n"] for fit in fits),
    }
    for name in (options.out, "metrics.json"):
        with open(name, "w") as file:
            json.dump(summary, file)
    if spread > MOST_SIGMAS * error:
        sys.exit(f"the fits do not agree: thickness differs by {spread:.2f} Å, its error is {error:.2f} Å")


if __name__ == "__main__":
    main()
