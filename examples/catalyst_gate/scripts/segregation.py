"""Energy of one impurity atom in each of some layers of a relaxed (111) slab, by the EMT potential.

The slab has 3x3x6 atoms; all of them relax. The lattice constant is that of the potential (minimum of the energy of the
bulk crystal), so the slab is not strained. Energies in eV, relative to the impurity in the deepest layer asked for;
negative in layer 1 means that the impurity segregates to the surface. EMT: Jacobsen, Stoltze, Nørskov, Surf. Sci. 366,
394 (1996), as in ASE.
"""

import argparse
import json

from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE


def lattice_constant(metal: str) -> float:
    """Give the lattice constant of the fcc metal by EMT, in Å."""
    atoms = bulk(metal, "fcc", cubic=True)
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms, hydrostatic_strain=True), logfile=None).run(fmax=1e-4)
    return atoms.cell[0, 0]


def energy(host: str, impurity: str, layer: int, a: float) -> float:
    """Give the energy of the relaxed slab with one impurity in a layer (1 is the surface), in eV."""
    slab = fcc111(host, (3, 3, 6), a=a, vacuum=8.0)
    slab[next(atom.index for atom in slab if atom.tag == layer)].symbol = impurity
    slab.calc = EMT()
    FIRE(slab, logfile=None).run(fmax=0.01, steps=500)
    return slab.get_potential_energy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pair", help="HOST-IMPURITY")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    host, impurity = options.pair.split("-")
    a = lattice_constant(host)
    energies = {layer: energy(host, impurity, layer, a) for layer in options.layers}
    deepest = energies[max(energies)]
    relative = {str(layer): round(value - deepest, 4) for layer, value in energies.items()}
    result = {"pair": options.pair, "host": host, "impurity": impurity, "a_A": round(a, 4), "E_eV": relative}
    with open(options.out, "w") as file:
        json.dump(result, file)
    with open("metrics.json", "w") as file:
        json.dump({"E_seg_eV": relative["1"]}, file)


if __name__ == "__main__":
    main()
