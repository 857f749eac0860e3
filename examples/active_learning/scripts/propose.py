"""Choose strains one after the other, each where the model with those before would be least certain."""

import argparse

import numpy as np
from model import pool, predict, read, write

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

strains, _ = read(args.data)
candidates = pool()
rows = []
for number in range(args.batch):
    _, spread = predict(strains, np.zeros(len(strains)), candidates)
    best = candidates[int(np.argmax(np.round(spread, 9)))]
    strains = np.vstack([strains, best])
    rows.append([f"s{number + 1}", f"{best[0]:.3f}", f"{best[1]:.3f}"])
write(args.out, ["id", "xx", "zz"], rows)
