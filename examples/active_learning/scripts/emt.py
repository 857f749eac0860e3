"""Energies of strained fcc crystals from the EMT potential of ASE."""

from ase.build import bulk
from ase.calculators.emt import EMT

LATTICE_A = {"Al": 3.994, "Cu": 3.590, "Ag": 4.063, "Au": 4.056, "Ni": 3.487, "Pd": 3.879, "Pt": 3.922}  # of EMT


def energy(metal: str, xx: float, zz: float) -> float:
    """Give the energy in eV for each atom of a cubic cell strained by xx along x and y, and by zz along z."""
    atoms = bulk(metal, "fcc", a=LATTICE_A[metal], cubic=True)
    cell = atoms.cell.array.copy()
    atoms.set_cell(cell * [1 + xx, 1 + xx, 1 + zz], scale_atoms=True)
    atoms.calc = EMT()
    return float(atoms.get_potential_energy()) / len(atoms)
