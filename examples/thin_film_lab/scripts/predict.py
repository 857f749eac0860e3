"""Predict the reflectivity of the film that was ordered, before it is measured."""

import argparse

import numpy as np
from model import reflect_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thickness", type=float, required=True, help="Å")
    parser.add_argument("--sld", type=float, required=True, help="1e-6 Å⁻²")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    q = np.geomspace(0.008, 0.3, 300)
    reflectivity = reflect_model(options.thickness, options.sld)(q)
    np.savetxt(options.out, np.column_stack([q, reflectivity]), fmt="%.6e", header="q / Å⁻¹   reflectivity")


if __name__ == "__main__":
    main()
