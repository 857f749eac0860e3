"""A Gaussian process over temperature and catalyst, and the expected improvement on the best yield."""

import csv
from pathlib import Path

import numpy as np
from scipy.stats import norm

TEMPERATURE_C = np.linspace(40, 140, 41)
CATALYST_PERCENT = np.linspace(0.5, 5, 37)
LENGTH = 0.2  # of the unit square, over which yields are alike
NOISE = 1e-4


def grid() -> np.ndarray:
    """Give all conditions (temperature, catalyst) that can be asked for."""
    return np.array([(t, c) for t in TEMPERATURE_C for c in CATALYST_PERCENT])


def scaled(conditions: np.ndarray) -> np.ndarray:
    low = np.array([TEMPERATURE_C[0], CATALYST_PERCENT[0]])
    high = np.array([TEMPERATURE_C[-1], CATALYST_PERCENT[-1]])
    return (conditions - low) / (high - low)


def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    distance = ((scaled(one)[:, None, :] - scaled(other)[None, :, :]) ** 2).sum(axis=2)
    return np.exp(-0.5 * distance / LENGTH**2)


def predict(conditions: np.ndarray, yields: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give mean and standard deviation of the yield at some conditions."""
    inside = kernel(conditions, conditions) + NOISE * np.eye(len(conditions))
    across = kernel(at, conditions)
    size = max(float(yields.std()), 0.1)
    mean = yields.mean() + across @ np.linalg.solve(inside, yields - yields.mean())
    variance = 1 - np.einsum("ij,ji->i", across, np.linalg.solve(inside, across.T))
    return mean, size * np.sqrt(np.clip(variance, 1e-12, None))


def improvement(mean: np.ndarray, spread: np.ndarray, best: float) -> np.ndarray:
    """Give the expected improvement. Source: Jones, Schonlau, Welch, J. Global Optim. 13, 455 (1998), eq. 15."""
    z = (mean - best) / spread
    return (mean - best) * norm.cdf(z) + spread * norm.pdf(z)


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Give conditions (n, 2) and yields (n,)."""
    with Path(path).open() as file:
        rows = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    table = np.array(rows).reshape(-1, 3)
    return table[:, :2], table[:, 2]
