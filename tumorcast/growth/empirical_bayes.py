"""The population's growth law from a cohort: empirical Bayes by a Monte Carlo EM algorithm (Wei & Tanner 1990).

E: each patient's parameters are drawn from what scans and the present prior say (randomised maximum likelihood, see
fit.py). M: the prior's means and spreads become those of the draws; the errors, the likeliest near the best fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from tumorcast.growth.fit import fit_growth
from tumorcast.growth.laws import log_derivatives, parameter_names, timeline_of
from tumorcast.growth.mechanistic_prior import MechanisticPrior, NormalPrior, covariance
from tumorcast.growth.problem import detection_limit
from tumorcast.growth.settings import FitSettings
from tumorcast.records import ErrorModel, GrowthFit, LawName, SizeSeries

Array = npt.NDArray[np.float64]

ROUNDS = 8
LEAST_SPREAD = 0.25  # of the first prior's: a few patients must not make the others certain
# Of measurement_sd, departure_sd, departure_days: the likelihood has a hill for errors that pass and one for those that
# stay, so both are climbed.
ERROR_STARTS = (np.array([0.1, 0.05, 100.0]), np.array([0.1, 0.5, 300.0]))
ERROR_BOUNDS = ((0.03, 2.0), (0.02, 3.0), (10.0, 2000.0))
CHOOSING_ROUNDS = 3  # in which both hills are climbed

FIRST_PRIOR = MechanisticPrior(
    law=LawName.EXPONENTIAL,
    parameters={
        "rate_per_day": NormalPrior(mean=0.003, sd=0.004, log=False),
        "decay_rate_per_day": NormalPrior(mean=float(np.log(0.02)), sd=0.7, log=True),
        "delay_days": NormalPrior(mean=float(np.log(60.0)), sd=0.6, log=True),
        "slope_per_day": NormalPrior(mean=float(np.log(0.05)), sd=0.7, log=True),
        "survival": NormalPrior(mean=float(np.log(0.3)), sd=0.8, log=True),
    },
    measurement_sd=0.15,
    departure_sd=0.8,
    departure_days=100.0,
)
FIRST_SATURATING = {
    "rate_per_day": NormalPrior(mean=float(np.log(0.01)), sd=1.0, log=True),
    "capacity_ratio": NormalPrior(mean=float(np.log(10.0)), sd=1.0, log=True),
}
DRAWING = FitSettings(replicates=32, starts=8, scouts=3, finalists=1, max_steps=30, pilots=8)


def first_prior(law: LawName) -> MechanisticPrior:
    """What is held likely before any patient is seen: slow growth, a response to radiotherapy within months."""
    if law is LawName.EXPONENTIAL:
        return FIRST_PRIOR
    return FIRST_PRIOR.model_copy(update={"law": law, "parameters": FIRST_PRIOR.parameters | FIRST_SATURATING})


def estimate(patients: Sequence[SizeSeries], law: LawName, *, rounds: int = ROUNDS, seed: int = 0) -> MechanisticPrior:
    """The prior of a law from the patients who have two scans or more, tumour in one of them."""
    told = [series for series in patients if series.days.size > 1 and np.any(series.sizes > 0)]
    prior = first_prior(law)
    for number in range(rounds if told else 0):
        settings = DRAWING.model_copy(update={"law": law, "seed": seed + number})
        fits = [fit_growth(series, settings, prior) for series in told]
        errors = _likeliest_errors(fits, prior, ERROR_STARTS if number < CHOOSING_ROUNDS else ())
        parameters = {name: _updated(name, prior, first_prior(law), fits) for name in prior.parameters}
        prior = prior.model_copy(update={"parameters": parameters, **errors})
    return prior


def _updated(name: str, prior: MechanisticPrior, first: MechanisticPrior, fits: list[GrowthFit]) -> NormalPrior:
    column = parameter_names(0).index(name)
    before = prior.parameters[name]
    drawn = np.concatenate([fit.replicates[:, column] for fit in fits])
    drawn = np.log(drawn) if before.log else drawn
    spread = max(float(np.std(drawn)), LEAST_SPREAD * first.parameters[name].sd)
    return NormalPrior(mean=float(np.mean(drawn)), sd=spread, log=before.log)


@dataclass(frozen=True)
class _Linearised:
    """A patient's log sizes as a linear model near the best fit (Lindstrom & Bates 1990).

    days: (T,); levels: (T, L) what is free, see `_levels`; scatter: (T, T) what the spread of the parameters over
    patients gives; left: (T,) log sizes less those of the population's mean parameters.
    """

    days: Array
    levels: Array
    scatter: Array
    left: Array

    @classmethod
    def of(cls, fit: GrowthFit, prior: MechanisticPrior) -> Self:
        """Near the best fit, under the prior it was made with."""
        series = fit.series
        timeline = timeline_of(series.treatment, fit.origin_day, series.days, doses=fit.doses)
        log_sizes, by_row = log_derivatives(fit.law, timeline, fit.parameters)
        seen = np.log(np.maximum(series.sizes, detection_limit(series)))
        left, scatter = seen - log_sizes, np.zeros((series.days.size, series.days.size))
        for column, name in enumerate(fit.parameter_names):
            told = prior.parameters.get(name)
            if told is not None:
                value = float(fit.parameters[column])
                slope = by_row[:, column] * (value if told.log else 1.0)
                left = left + slope * (told.transformed(value) - told.mean)
                scatter = scatter + told.sd**2 * np.outer(slope, slope)
        return cls(series.days, _levels(series), scatter, left)

    def misfit(self, errors: ErrorModel) -> float:
        """-2 log likelihood of the contrasts that the levels leave (REML; Patterson & Thompson 1971)."""
        inverse = np.linalg.inv(self.scatter + covariance(errors, self.days))
        information = self.levels.T @ inverse @ self.levels
        across = self.levels.T @ inverse @ self.left
        square = self.left @ inverse @ self.left - across @ np.linalg.solve(information, across)
        return float(square - np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(information)[1])


def _levels(series: SizeSeries) -> Array:
    """(T, L) what is added to log sizes by a patient's level, and by each resection that lies between scans."""
    after = [series.days > day for day in series.treatment.resection_days if series.days[0] < day < series.days[-1]]
    levels = np.column_stack([np.ones(series.days.size), *after]).astype(np.float64)
    return np.unique(levels, axis=1)


def _likeliest_errors(fits: list[GrowthFit], prior: MechanisticPrior, starts: Sequence[Array]) -> dict[str, float]:
    """The errors under which the linearised patients are likeliest, climbing from the prior's and from `starts`."""
    patients = [_Linearised.of(fit, prior) for fit in fits]
    patients = [one for one in patients if one.levels.shape[1] < one.days.size]

    def misfit(logs: Array) -> float:
        errors = ErrorModel(*np.exp(logs).tolist())
        return sum(one.misfit(errors) for one in patients)

    names = ("measurement_sd", "departure_sd", "departure_days")
    now = np.array([getattr(prior, name) for name in names])
    bounds = [(float(np.log(low)), float(np.log(high))) for low, high in ERROR_BOUNDS]
    ends = [
        minimize(misfit, np.log(one), method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-6, "maxiter": 20})
        for one in (now, *starts)
    ]
    best = min(ends, key=lambda end: float(end.fun))
    return dict(zip(names, np.exp(best.x).tolist(), strict=True))
