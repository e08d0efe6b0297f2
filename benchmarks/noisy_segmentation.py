"""How well a dense regressor or segmenter finds the tumour in noised slices; prints JSON.

For up to eight slices with most tumour of each patient's first scan: Dice of the outline at probability ½, correlation
of the size with the mask's, and their mean ratio, at several diffusion times.

    benchmarks/noisy_segmentation.py COHORT.h5 --run RUN
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.diffusion.regressors import DenseRegressor
from tumorcast.training.losses import add_noise
from tumorcast.training.networks import load_network

TIMES = (0, 50, 100, 200, 300)
SLICES_A_PATIENT, MOST_SLICES = 8, 64


def chosen_slices(cohort: Cohort) -> list[CohortSlice]:
    """Up to MOST_SLICES slices with much tumour."""
    slices = []
    for patient_id in cohort.patient_ids():
        first = cohort.sessions(patient_id)[0]
        for index in np.argsort(-first.area_mm2)[:SLICES_A_PATIENT]:
            slices.append(cohort.slice(patient_id, first.id, int(index)))
    return slices[:MOST_SLICES]


def figures(network: DenseRegressor, slices: list[CohortSlice], t: int) -> dict[str, float]:
    """Figures at one diffusion time."""
    images = torch.from_numpy(np.stack([part.image for part in slices]))
    masks = np.stack([part.labels > 0 for part in slices])
    brain = torch.from_numpy(np.stack([part.brain for part in slices])).float()
    times = torch.full((len(slices),), t)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noised = add_noise(images, noise, times)
    with torch.no_grad():
        outlines = (network.logits(noised, times) > 0).numpy()
        sizes = network(noised, times, brain).numpy()
    overlap = 2 * (outlines & masks).sum(axis=(1, 2)) / (outlines.sum(axis=(1, 2)) + masks.sum(axis=(1, 2)))
    truth = masks.sum(axis=(1, 2)) / brain.numpy().sum(axis=(1, 2))
    correlation = float(np.corrcoef(sizes, truth)[0, 1])
    return {"t": t, "dice": float(overlap.mean()), "r": correlation, "ratio": float((sizes / truth).mean())}


def main() -> None:
    """Parse, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    options = parser.parse_args()
    network = load_network(options.run).module
    assert isinstance(network, DenseRegressor), "give the run of a dense regressor or a segmenter"
    with Cohort.open(options.cohort) as cohort:
        slices = chosen_slices(cohort)
    print(json.dumps({"slices": len(slices), "times": [figures(network, slices, t) for t in TIMES]}))


if __name__ == "__main__":
    main()
