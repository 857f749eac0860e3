"""Band energy of free electrons on a square lattice (nearest neighbours, hopping t = 1) with one mesh of k-points."""

import argparse
import json

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--points", type=int, required=True)  # along each axis
parser.add_argument("--shift", type=int, required=True)  # which of the shifted meshes
parser.add_argument("--shifts", type=int, required=True)
parser.add_argument("--filling", type=float, required=True)  # electrons for each site and spin
parser.add_argument("--out", required=True)
args = parser.parse_args()

step = 2 * np.pi / args.points
k = step * (np.arange(args.points) + (args.shift - 0.5) / args.shifts)
bands = np.sort((-2 * np.cos(k)[:, None] - 2 * np.cos(k)[None, :]).ravel())
electrons = args.filling * bands.size
full = int(electrons)
energy = bands[:full].sum() + (electrons - full) * (bands[full] if full < bands.size else 0.0)
result = {"points": args.points, "energy": 2 * energy / bands.size}  # for each site, both spins
with open(args.out, "w") as file:
    json.dump(result, file)
