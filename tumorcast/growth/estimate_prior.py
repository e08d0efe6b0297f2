"""Estimation of a prior from a cohort: every growth law's, the pooled models, and the weight of the law among them.

A law's prior is estimated by empirical Bayes with a Monte Carlo EM algorithm (Wei & Tanner 1990). E: each patient's
parameters are drawn given the scans and the present prior (randomised maximum likelihood, see fit.py). M: the prior's
means and spreads become those of the draws; the errors, the likeliest near the best fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from tumorcast.counted import counted
from tumorcast.errors import InputError
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import LEVELS, GrowthForecast
from tumorcast.growth.laws import log_derivatives, parameter_names, timeline_of
from tumorcast.growth.population.autoregression import Persistence
from tumorcast.growth.population.history import History, to_log
from tumorcast.growth.population.kinds import floored
from tumorcast.growth.population.pool import Pool
from tumorcast.growth.population.state_space import StateSpaceMixture
from tumorcast.growth.prior import LawPrior, NormalPrior, SizePrior, covariance
from tumorcast.growth.problem import detection_limit
from tumorcast.growth.scores import crps
from tumorcast.growth.settings import FitSettings
from tumorcast.growth.unlike import usual_surprise
from tumorcast.records import ErrorModel, GrowthFit, LawName, SizeSeries

Array = npt.NDArray[np.float64]

FEWEST_PATIENTS = 10  # with two scans or more
FEWEST_TARGETS = 20  # scans forecast to measure a weight by; with fewer the law counts as one model among five
EQUAL_WEIGHT = 0.2
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the growth law, tried
MEASURING = FitSettings(replicates=200)

ROUNDS = 8
LEAST_SPREAD = 0.25  # of the first prior's: a few patients must not make the others certain
# Of measurement_sd, departure_sd, departure_days: the likelihood has a hill for errors that pass and one for those that
# stay, so both are climbed.
ERROR_STARTS = (np.array([0.1, 0.05, 100.0]), np.array([0.1, 0.5, 300.0]))
ERROR_BOUNDS = ((0.03, 2.0), (0.02, 3.0), (10.0, 2000.0))
CHOOSING_ROUNDS = 3  # in which both hills are climbed

FIRST_PRIOR = LawPrior(
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


def estimate_prior(
    cohort: Sequence[SizeSeries],
    laws: Sequence[LawName] = tuple(LawName),
    *,
    companion: str | None = None,
    seed: int = 0,
    to_compare: bool = True,
) -> SizePrior:
    """The prior of a cohort whose sizes have one name; companion: the name of their companions, if they have any.

    to_compare: whether it should tell later which cohorts are unlike this one, which costs five more mixtures.

    Raises InputError if the cohort is too small to tell anything.
    """
    followed = [series for series in cohort if series.days.size > 1]
    name = cohort[0].size_name if cohort else "size"
    if len(followed) < FEWEST_PATIENTS:
        raise InputError(
            f"{counted(len(followed), 'patient')} with two scans of '{name}' or more: a prior needs "
            f"{FEWEST_PATIENTS}; give more"
        )
    histories = [History.of(series) for series in cohort]
    return SizePrior(
        size_name=name,
        companion=companion,
        patients=len(cohort),
        scans=sum(series.days.size for series in cohort),
        laws={law: estimate_law_prior(cohort, law, seed=seed) for law in laws},
        mechanistic_weights={law: mechanistic_weight(followed, law, seed=seed) for law in laws},
        persistence=Persistence.fitted(histories),
        pool=Pool.fitted(histories),
        state_space=StateSpaceMixture.fitted(histories),
        usual_surprise=usual_surprise(histories) if to_compare else None,
    )


def mechanistic_weight(cohort: Sequence[SizeSeries], law: LawName, *, seed: int = 0) -> float:
    """The weight of a law in the pool with which one half of the cohort forecasts the other best (CRPS).

    Every scan with two earlier ones is forecast; law and pool are learnt from the half that the patient is not in.
    """
    halves = (cohort[::2], cohort[1::2])
    if min(len(half) for half in halves) < FEWEST_PATIENTS:
        return EQUAL_WEIGHT
    forecasts = [each for half, other in (halves, halves[::-1]) for each in _forecasts(half, other, law, seed)]
    if len(forecasts) < FEWEST_TARGETS:
        return EQUAL_WEIGHT
    pooled, mechanistic = (np.stack([getattr(each, part) for each in forecasts]) for part in ("pooled", "mechanistic"))
    truth = np.array([each.truth for each in forecasts])
    errors = [np.mean(crps(floored((1 - w) * pooled + w * mechanistic), LEVELS, truth)) for w in WEIGHTS]
    return WEIGHTS[int(np.argmin(errors))]


class _ScanForecast(NamedTuple):
    """One scan forecast by the pool without the law and by the law, both (Q,) quantiles of y; and its own y."""

    pooled: Array
    mechanistic: Array
    truth: float


def _forecasts(
    learnt_from: Sequence[SizeSeries], patients: Sequence[SizeSeries], law: LawName, seed: int
) -> list[_ScanForecast]:
    """Of each scan of `patients` with two earlier ones."""
    prior = estimate_law_prior(learnt_from, law, seed=seed)
    pool = Pool.fitted([History.of(series) for series in learnt_from])
    settings = MEASURING.model_copy(update={"law": law, "seed": seed})
    forecasts = []
    for series in patients:
        for scan in range(2, series.days.size):
            known, day = series.part(0, scan), float(series.days[scan])
            mechanistic = GrowthForecast(fit_growth(known, settings, prior)).measured(day)
            pooled = pool.quantiles(History.of(known), day - float(known.days[-1]), LEVELS)
            forecasts.append(_ScanForecast(pooled, mechanistic, float(to_log(series.sizes[scan], series.size_name))))
    return forecasts


def first_prior(law: LawName) -> LawPrior:
    """What is held likely before any patient is seen: slow growth, a response to radiotherapy within months."""
    if law is LawName.EXPONENTIAL:
        return FIRST_PRIOR
    return FIRST_PRIOR.model_copy(update={"law": law, "parameters": FIRST_PRIOR.parameters | FIRST_SATURATING})


def estimate_law_prior(
    patients: Sequence[SizeSeries], law: LawName, *, rounds: int = ROUNDS, seed: int = 0
) -> LawPrior:
    """The prior of a law from the patients who have two scans or more, tumour in one of them."""
    informative = [series for series in patients if series.days.size > 1 and np.any(series.sizes > 0)]
    prior = first_prior(law)
    for number in range(rounds if informative else 0):
        settings = DRAWING.model_copy(update={"law": law, "seed": seed + number})
        fits = [fit_growth(series, settings, prior) for series in informative]
        errors = _likeliest_errors(fits, prior, ERROR_STARTS if number < CHOOSING_ROUNDS else ())
        parameters = {name: _updated(name, prior, first_prior(law), fits) for name in prior.parameters}
        prior = prior.model_copy(update={"parameters": parameters, **errors})
    return prior


def _updated(name: str, prior: LawPrior, first: LawPrior, fits: list[GrowthFit]) -> NormalPrior:
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
    def of(cls, fit: GrowthFit, prior: LawPrior) -> Self:
        """Near the best fit, under the prior it was made with."""
        series = fit.series
        timeline = timeline_of(series.treatment, fit.origin_day, series.days, doses=fit.doses)
        log_sizes, by_row = log_derivatives(fit.law, timeline, fit.parameters)
        seen = np.log(np.maximum(series.sizes, detection_limit(series)))
        left, scatter = seen - log_sizes, np.zeros((series.days.size, series.days.size))
        for column, name in enumerate(fit.parameter_names):
            normal = prior.parameters.get(name)
            if normal is not None:
                value = float(fit.parameters[column])
                slope = by_row[:, column] * (value if normal.log else 1.0)
                left = left + slope * (normal.transformed(value) - normal.mean)
                scatter = scatter + normal.sd**2 * np.outer(slope, slope)
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


def _likeliest_errors(fits: list[GrowthFit], prior: LawPrior, starts: Sequence[Array]) -> dict[str, float]:
    """The errors under which the linearised patients are likeliest, climbing from the prior's and from `starts`."""
    patients = [_Linearised.of(fit, prior) for fit in fits]
    patients = [patient for patient in patients if patient.levels.shape[1] < patient.days.size]

    def misfit(logs: Array) -> float:
        errors = ErrorModel(*np.exp(logs).tolist())
        return sum(patient.misfit(errors) for patient in patients)

    names = ("measurement_sd", "departure_sd", "departure_days")
    now = np.array([getattr(prior, name) for name in names])
    bounds = [(float(np.log(low)), float(np.log(high))) for low, high in ERROR_BOUNDS]
    ends = [
        minimize(misfit, np.log(start), method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-6, "maxiter": 20})
        for start in (now, *starts)
    ]
    best = min(ends, key=lambda end: float(end.fun))
    return dict(zip(names, np.exp(best.x).tolist(), strict=True))
