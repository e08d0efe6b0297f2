"""A prior from a cohort: every part of it learnt, and the weight of the growth law in the pool measured."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError
from tumorcast.growth.empirical_bayes import estimate
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import LEVELS, GrowthForecast
from tumorcast.growth.population.equivalents import history_of, to_log
from tumorcast.growth.population.members import Persistence
from tumorcast.growth.population.pooling import Pool
from tumorcast.growth.prior import SizePrior
from tumorcast.growth.scores import crps
from tumorcast.growth.settings import FitSettings
from tumorcast.records import LawName, SizeSeries

Array = npt.NDArray[np.float64]

FEWEST_PATIENTS = 10  # with two scans or more
FEWEST_TARGETS = 20  # scans forecast to measure a weight by; with fewer the law counts as one member among five
EQUAL_WEIGHT = 0.2
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the growth law, tried
MEASURING = FitSettings(replicates=200)


def learn(
    cohort: Sequence[SizeSeries],
    laws: Sequence[LawName] = tuple(LawName),
    *,
    companion: str | None = None,
    seed: int = 0,
) -> SizePrior:
    """The prior of a cohort whose sizes have one name; companion: the name of their companions, if they have any.

    Raises InputError if the cohort is too small to tell anything.
    """
    told = [series for series in cohort if series.days.size > 1]
    name = cohort[0].size_name if cohort else "size"
    if len(told) < FEWEST_PATIENTS:
        raise InputError(
            f"{len(told)} patients with two scans of '{name}' or more: a prior needs {FEWEST_PATIENTS}; give more"
        )
    histories = [history_of(series) for series in cohort]
    return SizePrior(
        size_name=name,
        companion=companion,
        patients=len(cohort),
        scans=sum(series.days.size for series in cohort),
        laws={law: estimate(cohort, law, seed=seed) for law in laws},
        mechanistic_weights={law: mechanistic_weight(told, law, seed=seed) for law in laws},
        persistence=Persistence.fitted(histories),
        pool=Pool.fitted(histories),
    )


def mechanistic_weight(cohort: Sequence[SizeSeries], law: LawName, *, seed: int = 0) -> float:
    """The weight of a law in the pool with which one half of the cohort forecasts the other best (CRPS).

    Every scan with two earlier ones is forecast; law and members are learnt from the half that the patient is not in.
    """
    halves = (cohort[::2], cohort[1::2])
    if min(len(half) for half in halves) < FEWEST_PATIENTS:
        return EQUAL_WEIGHT
    said = [one for half, other in (halves, halves[::-1]) for one in _said(half, other, law, seed)]
    if len(said) < FEWEST_TARGETS:
        return EQUAL_WEIGHT
    pooled, mechanistic = (np.stack([one[k] for one in said]) for k in (0, 1))
    truth = np.array([one[2] for one in said])
    errors = [np.mean(crps((1 - w) * pooled + w * mechanistic, LEVELS, truth)) for w in WEIGHTS]
    return WEIGHTS[int(np.argmin(errors))]


def _said(
    learnt_from: Sequence[SizeSeries], patients: Sequence[SizeSeries], law: LawName, seed: int
) -> list[tuple[Array, Array, float]]:
    """Of each scan with two earlier ones: what the members say, what the law says, and its y."""
    prior = estimate(learnt_from, law, seed=seed)
    pool = Pool.fitted([history_of(series) for series in learnt_from])
    settings = MEASURING.model_copy(update={"law": law, "seed": seed})
    found = []
    for series in patients:
        for place in range(2, series.days.size):
            known, day = series.part(0, place), float(series.days[place])
            mechanistic = GrowthForecast(fit_growth(known, settings, prior)).measured(day)
            said = pool.quantiles(history_of(known), day - float(known.days[-1]), LEVELS)
            found.append((said, mechanistic, float(to_log(series.sizes[place], series.size_name))))
    return found
