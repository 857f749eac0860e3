"""Energies at random strains, always the same ones."""

import argparse

import numpy as np
from emt import energy
from model import LIMIT, write

parser = argparse.ArgumentParser()
parser.add_argument("--metal", required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

strains = np.random.default_rng(7).uniform(-LIMIT, LIMIT, size=(60, 2))
write(args.out, ["xx", "zz", "energy_eV"], [[f"{x:.6f}", f"{z:.6f}", energy(args.metal, x, z)] for x, z in strains])
