"""Fit the model to a measurement by differential evolution, from a seed of its own."""

import argparse
import json

from model import let_vary, reflect_model
from refnx.analysis import CurveFitter, Objective, Transform
from refnx.dataset import ReflectDataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="columns q / Å⁻¹, R, dR, dq")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    data = ReflectDataset(options.data)
    model = reflect_model(250, 2.0)
    let_vary(model)
    objective = Objective(model, data, transform=Transform("logY"))
    CurveFitter(objective).fit("differential_evolution", seed=options.seed, verbose=False)
    _, oxide, film, _ = model.structure
    freedom = len(data) - len(objective.varying_parameters())
    result = {
        "seed": options.seed,
        "thickness_A": round(film.thick.value, 2),
        "thickness_error_A": round(film.thick.stderr, 2),
        "sld_1e-6_per_A2": round(film.sld.real.value, 4),
        "oxide_A": round(oxide.thick.value, 2),
        "chi2_per_n": round(objective.chisqr() / freedom, 3),
        "points": len(data),
        "q": [round(float(value), 7) for value in data.x],
        "fit": [float(f"{value:.5e}") for value in model(data.x, x_err=data.x_err)],
    }
    with open(options.out, "w") as file:
        json.dump(result, file)
    with open("metrics.json", "w") as file:
        json.dump({key: value for key, value in result.items() if not isinstance(value, list)}, file)


if __name__ == "__main__":
    main()
