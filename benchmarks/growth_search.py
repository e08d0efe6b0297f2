"""Simulated growth curves: does the search find the best fit, and do the intervals hold what they say? Prints JSON.

Patients are drawn from a known population for each law: parameters from its prior, first sizes log-normal, scans and
radiotherapy at irregular times, 10 % error of measurement.

search: each patient is fitted alone; our best fit, and the fits of 20 bootstrap replicates, against a search of 200
starts that are all followed to the end. The share whose loss is within 1 % of the better of the two (losses under
1e-8 a scan are curves through all points, and equal).
coverage: a prior is learnt from 80 patients by the steps of fit-prior; 200 others are fitted with it from their first
1 … 6 scans, and the true size some months later is looked for in the 90 % interval of the mechanistic forecast.

    OMP_NUM_THREADS=2 benchmarks/growth_search.py --out growth_search.json
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import describe

from tumorcast.growth.bootstrap import Noise, Stream, latin_hypercube, patient_rng
from tumorcast.growth.estimate_prior import estimate_law_prior, first_prior
from tumorcast.growth.fit import ReplicateFitter, fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.laws import BoundsPreset, parameter_names, sizes_of, timeline_of
from tumorcast.growth.prior import LawPrior
from tumorcast.growth.problem import Fits, PatientProblem, Sample, Search, run, starts_to_search
from tumorcast.growth.settings import FitSettings
from tumorcast.records import LawName, RadiotherapyCourse, SizeSeries, Treatment

Array = npt.NDArray[np.float64]

ERROR = 0.1
SCANS = 8
REFERENCE_STARTS = 200
EXACT = 1e-8  # of a loss, a scan
WITHIN = 1.01
LEARNT_FROM, TESTED = 80, 200
SCANS_GIVEN = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Simulated:
    """A patient with SCANS scans, and the true sizes: (SCANS,) behind the measured ones."""

    series: SizeSeries
    truth: Array


def simulate(law: LawName, number: int, seed: int) -> Simulated:
    """Patient `number` of a law's population."""
    prior, rng = first_prior(law), np.random.default_rng([seed, number])
    days = np.cumsum(rng.gamma(4.0, 15.0, SCANS))  # 60 days apart on average, irregular
    treated = float(days[0] + rng.uniform(-60.0, 60.0))
    treatment = Treatment((RadiotherapyCourse(treated, treated + 42.0),))
    row = drawn_row(prior, rng)
    truth = sizes_of(law, timeline_of(treatment, days[0], days), row.reshape(1, -1)).ravel()
    sizes = truth * np.exp(rng.normal(0.0, ERROR, SCANS))
    return Simulated(SizeSeries(f"{law}-{number}", "volume_mm3", days, sizes, treatment), truth)


def drawn_row(prior: LawPrior, rng: np.random.Generator) -> Array:
    """Parameters from the prior, within the default bounds; a first size of some cm³."""
    bounds = BoundsPreset.DEFAULT.of(prior.law)
    row = []
    for name in parameter_names(0):
        normal, bound = prior.parameters.get(name), getattr(bounds, name)
        if name == "initial_size":
            row.append(float(np.exp(rng.normal(np.log(2e4), 0.8))))
        elif normal is None:
            row.append(bound.middle)
        else:
            value = rng.normal(normal.mean, normal.sd)
            row.append(float(np.clip(np.exp(value) if normal.log else value, bound.lower, bound.upper)))
    return np.array(row)


def search_shares(law: LawName, patients: int, seed: int) -> dict[str, float]:
    """The share of best fits, and of replicates' fits, within 1 % of the better of ours and the reference's."""
    best, replicates = [], []
    for number in range(patients):
        series = simulate(law, number, seed).series
        settings = FitSettings(law=law, drop_ratio=None, spread=ERROR)
        noise = patient_rng(seed, series.patient_id, Stream.NOISE).normal(0.0, ERROR, (20, SCANS))
        observed = np.vstack([series.sizes, series.sizes * np.exp(noise)])
        ours = fit_growth(series, settings.model_copy(update={"replicates": 1})).loss
        reference = reference_losses(series, law, observed)
        best.append(is_best(np.array([ours]), reference[:1]))
        replicates.append(is_best(fit_replicates(series, observed[1:], settings).losses, reference[1:]))
    return {"best_fits": float(np.mean(best)), "replicates": float(np.mean(replicates))}


def fit_replicates(series: SizeSeries, observed: Array, settings: FitSettings) -> Fits:
    """The law fitted to each of observed: (B, T), sizes as they might have been measured, as fit_growth searches."""
    problem = PatientProblem(series, settings.law, settings.bounds, settings.noise, settings.chemotherapy)
    return ReplicateFitter.of(problem, settings).fit(sample_of(problem, observed))


def sample_of(problem: PatientProblem, observed: Array) -> Sample:
    """Each of observed: (B, T), every scan counted once."""
    return Sample(observed, np.ones_like(observed), np.tile(problem.prior_on_coordinates[0], (len(observed), 1)))


def reference_losses(series: SizeSeries, law: LawName, observed: Array) -> Array:
    """(B,) least losses that REFERENCE_STARTS full descents find for each of observed: (B, T)."""
    problem = PatientProblem(series, law, BoundsPreset.DEFAULT, Noise.LOGNORMAL)
    units = latin_hypercube(np.random.default_rng(99), REFERENCE_STARTS, problem.free.size)
    search = Search(REFERENCE_STARTS, REFERENCE_STARTS, REFERENCE_STARTS, 300)
    return run(problem, search, starts_to_search(units, series.days.size), sample_of(problem, observed)).losses


def is_best(ours: Array, reference: Array) -> npt.NDArray[np.bool_]:
    """Whether ours is within 1 % of the least found by either."""
    least = np.minimum(ours, reference)
    return ours <= WITHIN * least + EXACT * SCANS


def covered(law: LawName, seed: int) -> dict[str, float]:
    """By how many scans were given: the share of true sizes within the 90 % interval, and its median width (log)."""
    prior = estimate_law_prior([simulate(law, number, seed).series for number in range(LEARNT_FROM)], law)
    tested = [simulate(law, LEARNT_FROM + number, seed) for number in range(TESTED)]
    figures: dict[str, float] = {}
    for given in SCANS_GIVEN:
        inside, widths = [], []
        for patient in tested:
            settings = FitSettings(law=law, drop_ratio=None, replicates=400)
            forecast = GrowthForecast(fit_growth(patient.series.part(0, given), settings, prior))
            low, high = forecast.quantiles(patient.series.days[given + 1 : given + 2], np.array([0.05, 0.95])).ravel()
            inside.append(low <= patient.truth[given + 1] <= high)
            widths.append(np.log(high / low))
        figures |= {f"{given}": float(np.mean(inside)), f"{given}_width": float(np.median(widths))}
    return figures


def main() -> None:
    """Parse, run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100, help="of each law, for the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": describe(threads=2), "seed": options.seed, "patients": options.patients}
    for law in LawName:
        figures[str(law)] = {
            "search": search_shares(law, options.patients, options.seed),
            "coverage90_by_scans": covered(law, options.seed + 1),
        }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
