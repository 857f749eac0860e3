"""A page on the pairs that were let through: who decided, and how deep the impurity wants to sit."""

import argparse
import json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="+", help="files of segregation.py")
    parser.add_argument("--answer", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    with open(options.answer) as file:
        answer = json.load(file)
    lines = ["# Single-atom alloys that go on", ""]
    lines.append(f"Chosen by {answer['by']} on {answer['at'][:10]}: {', '.join(answer['data']['pairs'])}.")
    if answer["data"].get("reason"):
        lines.append(f"Reason: {answer['data']['reason']}")
    lines += ["", "| pair | a / Å | " + " | ".join(f"layer {n} / eV" for n in range(1, 5)) + " |"]
    lines.append("|---|---|" + "---|" * 4)
    for name in options.profiles:
        with open(name) as file:
            row = json.load(file)
        energies = " | ".join(f"{row['E_eV'][str(n)]:+.3f}" for n in range(1, 5))
        lines.append(f"| {row['pair']} | {row['a_A']:.3f} | {energies} |")
    lines += ["", "Energies of one impurity atom in each layer of a relaxed (111) slab, relative to layer 4, by EMT."]
    with open(options.out, "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
