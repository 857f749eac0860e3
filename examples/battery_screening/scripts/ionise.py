"""Vertical ionisation potential and electron affinity of a molecule given as SMILES, by tight binding.

RDKit makes a geometry (ETKDG, seed 7), GFN2-xTB relaxes it (forces below 0.01 eV/Å), and the energies of the molecule
with one electron less and one more are IPEA1-xTB single points, shifted by -4.8455 eV per electron, as in the program
xtb. GFN2: Bannwarth, Ehlert, Grimme, JCTC 15, 1652 (2019); IPEA1: Ásgeirsson, Bauer, Grimme, Chem. Sci. 8, 4879 (2017).
"""

import argparse
import json
import sys

import numpy as np
from ase import Atoms
from ase.optimize import LBFGS
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from tblite.ase import TBLite
from tblite.interface import Calculator

EV_PER_HARTREE = 27.211386
ANGSTROM_PER_BOHR = 0.52917721
SHIFT_EV = 4.8455  # of IPEA1, per electron


def geometry(smiles: str) -> Atoms:
    """Give the relaxed molecule. Exits with a message for a SMILES that is none."""
    RDLogger.DisableLog("rdApp.*")
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        RDLogger.EnableLog("rdApp.error")
        Chem.MolFromSmiles(smiles)  # once more, for its message
        sys.exit(f"'{smiles}' is not a valid SMILES")
    molecule = Chem.AddHs(molecule)
    if AllChem.EmbedMolecule(molecule, randomSeed=7) != 0:
        sys.exit(f"'{smiles}': no geometry was found")
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    atoms = Atoms(symbols, molecule.GetConformer().GetPositions())
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    LBFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    return atoms


def energy(atoms: Atoms, charge: int) -> float:
    """Give the IPEA1-xTB energy at a total charge, in eV."""
    positions = atoms.get_positions() / ANGSTROM_PER_BOHR
    calculator = Calculator("IPEA1-xTB", atoms.get_atomic_numbers(), positions, charge=float(charge), uhf=abs(charge))
    calculator.set("verbosity", 0)
    return float(np.sum(calculator.singlepoint().get("energy"))) * EV_PER_HARTREE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("smiles")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    atoms = geometry(options.smiles)
    neutral = energy(atoms, 0)
    result = {
        "name": options.name,
        "smiles": options.smiles,
        "atoms": len(atoms),
        "ionisation_eV": round(energy(atoms, 1) - neutral - SHIFT_EV, 3),
        "affinity_eV": round(neutral - energy(atoms, -1) - SHIFT_EV, 3),
    }
    with open(options.out, "w") as file:
        json.dump(result, file)
    with open("metrics.json", "w") as file:
        json.dump({key: result[key] for key in ("ionisation_eV", "affinity_eV")}, file)


if __name__ == "__main__":
    main()
