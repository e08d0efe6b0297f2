"""The population's growth law from a cohort: empirical Bayes by a Monte Carlo EM algorithm (Wei & Tanner 1990).

E: each patient's parameters are drawn from what scans and the present prior say (randomised maximum likelihood, see
fit.py). M: the prior's means and spreads become those of the draws; the errors, the likeliest for what the draws leave.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from tumorcast.growth.fit import fit_growth
from tumorcast.growth.laws import parameter_names, sizes_of, timeline_of
from tumorcast.growth.mechanistic_prior import MechanisticPrior, NormalPrior, covariance
from tumorcast.growth.problem import detection_limit
from tumorcast.growth.settings import FitSettings
from tumorcast.records import ErrorModel, GrowthFit, LawName, SizeSeries

Array = npt.NDArray[np.float64]

ROUNDS = 8
LEAST_SPREAD = 0.25  # of the first prior's: a few patients must not make the others certain
LEAST_ERROR = 0.05

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
DRAWING = FitSettings(replicates=32, starts=8, finalists=1, max_steps=30, pilots=8)


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
        errors = _likeliest_errors(fits, prior)
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


def _likeliest_errors(fits: list[GrowthFit], prior: MechanisticPrior) -> dict[str, float]:
    """The errors under which what the draws leave of the log sizes is likeliest."""
    left = [(fit.series.days, _mean_square(fit)) for fit in fits]

    def misfit(logs: Array) -> float:
        errors = ErrorModel(*np.exp(logs).tolist())
        total = 0.0
        for days, square in left:
            matrix = covariance(errors, days)
            total += float(np.linalg.slogdet(matrix)[1] + np.trace(np.linalg.solve(matrix, square)))
        return total

    start = np.log([prior.measurement_sd, prior.departure_sd, prior.departure_days])
    bounds = [(np.log(LEAST_ERROR), 1.0), (np.log(LEAST_ERROR), 1.5), (np.log(10.0), np.log(2000.0))]
    found = minimize(misfit, start, method="Nelder-Mead", bounds=bounds, options={"xatol": 0.02, "fatol": 0.02})
    names = ("measurement_sd", "departure_sd", "departure_days")
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def _mean_square(fit: GrowthFit) -> Array:
    """(T, T) mean of r rᵀ over the draws, r: log size less the law's."""
    series = fit.series
    timeline = timeline_of(series.treatment, fit.origin_day, series.days, doses=fit.doses)
    law = np.log(np.maximum(sizes_of(fit.law, timeline, fit.replicates), 1e-300))
    left = np.log(np.maximum(series.sizes, detection_limit(series))) - law
    return np.asarray(left.T @ left / len(left))
