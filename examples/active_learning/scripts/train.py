"""Add what was calculated to the data, and measure the error of the model that it gives."""

import argparse
import json
from pathlib import Path

import numpy as np
from model import predict, read, write

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("energies", nargs="+")
parser.add_argument("--test", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--predicted", required=True)
args = parser.parse_args()

strains, energies = read(args.data)
rows = [[*strain, energy] for strain, energy in zip(strains.tolist(), energies.tolist(), strict=True)]
new = [json.loads(Path(name).read_text()) for name in args.energies]
rows += [[item["xx"], item["zz"], item["energy_eV"]] for item in new]
write(args.out, ["xx", "zz", "energy_eV"], rows)

strains, energies = read(args.out)
at, true = read(args.test)
mean, _ = predict(strains, energies, at)
rmse = 1000 * float(np.sqrt(((mean - true) ** 2).mean()))
write(args.predicted, ["points", "rmse_meV", "true_eV", "predicted_eV"],
      [[len(rows), rmse, one, other] for one, other in zip(true, mean, strict=True)])  # fmt: skip
Path("metrics.json").write_text(json.dumps({"rmse_meV": rmse, "points": len(rows)}))
