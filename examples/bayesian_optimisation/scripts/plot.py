"""Where the search went, what it believes now, and how the best yield grew."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from process import CATALYST_PERCENT, TEMPERATURE_C, grid, predict, read

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--out", required=True)
parser.add_argument("--best", required=True)
args = parser.parse_args()

conditions, yields = read(args.data)
number = int(np.argmax(yields))
best = {"temperature_C": conditions[number, 0], "catalyst_percent": conditions[number, 1], "yield": yields[number]}
Path(args.best).write_text(json.dumps({**best, "experiments": len(yields)}))
mean, _ = predict(conditions, yields, grid())
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
shape = (len(TEMPERATURE_C), len(CATALYST_PERCENT))
map_ = left.contourf(TEMPERATURE_C, CATALYST_PERCENT, mean.reshape(shape).T, levels=20)
left.plot(conditions[:, 0], conditions[:, 1], "w.-", linewidth=0.5)
left.plot(*conditions[number], "r*", markersize=12)
left.set_xlabel("temperature / °C")
left.set_ylabel("catalyst / %")
figure.colorbar(map_, ax=left, label="yield, as the model believes")
right.plot(np.arange(1, len(yields) + 1), yields, "o", label="measured")
right.step(np.arange(1, len(yields) + 1), np.maximum.accumulate(yields), where="post", label="best so far")
right.set_xlabel("experiment")
right.set_ylabel("yield")
right.legend()
figure.savefig(args.out, dpi=120)
