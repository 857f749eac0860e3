"""The energy at one strain."""

import argparse
import json
from pathlib import Path

from emt import energy

parser = argparse.ArgumentParser()
parser.add_argument("--metal", required=True)
parser.add_argument("--xx", type=float, required=True)
parser.add_argument("--zz", type=float, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

found = energy(args.metal, args.xx, args.zz)
Path(args.out).write_text(json.dumps({"xx": args.xx, "zz": args.zz, "energy_eV": found}))
