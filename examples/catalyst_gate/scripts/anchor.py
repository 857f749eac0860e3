"""The adsorption energy of N2 on Cu(111) of ASE's first tutorial: shows that this EMT is the published one.

Source: https://wiki.fysik.dtu.dk/ase/gettingstarted/surface.html (adsorption energy 0.32351942231763964 eV).
"""

import argparse
import json
import sys

from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import QuasiNewton

PUBLISHED_EV = 0.3235194223


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    slab = fcc111("Cu", size=(4, 4, 2), vacuum=10.0)
    slab.calc = EMT()
    of_slab = slab.get_potential_energy()
    molecule = Atoms("2N", positions=[(0.0, 0.0, 0.0), (0.0, 0.0, 1.10)])
    molecule.calc = EMT()
    of_molecule = molecule.get_potential_energy()
    add_adsorbate(slab, molecule, 1.85, "ontop")
    slab.set_constraint(FixAtoms(mask=[atom.symbol != "N" for atom in slab]))
    QuasiNewton(slab, logfile=None).run(fmax=0.05)
    energy = of_slab + of_molecule - slab.get_potential_energy()
    with open(options.out, "w") as file:
        json.dump({"E_ads_eV": energy, "published_eV": PUBLISHED_EV}, file)
    if abs(energy - PUBLISHED_EV) > 1e-6:
        sys.exit(f"N2 on Cu(111): {energy:.10f} eV, published {PUBLISHED_EV:.10f} eV: this is another EMT")


if __name__ == "__main__":
    main()
