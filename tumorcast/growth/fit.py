"""Fit of a growth law to one patient's sizes, with its bootstrap. What can be expected to fail ends as a status."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tumorcast.config import Settings
from tumorcast.errors import InputError
from tumorcast.growth.bootstrap import Stream, latin_hypercube, log_normal_noise, noisy_sizes, patient_rng
from tumorcast.growth.laws import (
    EXPONENTIAL,
    PARAMETER_NAMES,
    Bound,
    BoundsPreset,
    Exponential,
    ParameterBounds,
    row_of,
    timeline_of,
)
from tumorcast.kernels import growth as kernels
from tumorcast.kernels import least_squares
from tumorcast.records import FitStatus, FloatArray, GrowthFit, SizeSeries

Array = npt.NDArray[np.float64]

MINIMUM_POINTS = 3
BEST_FIT_EFFORT = 16  # starts of the one best fit over those of each of its many replicates
# Rates of change from one scan to the next in treated glioma are heavy-tailed. With this Student-t, the 90 % interval
# round the last size holds 90 % (enhancing with oedema) and 84 % (enhancing) of the 132 next sizes in mu_glioma_post.
PERSISTENCE_RATE_SCALE = 0.015
PERSISTENCE_RATE_FREEDOM = 3.0
PERSISTENCE_RATE_LIMIT = 0.2
UNDETECTED = Bound(1e-3, 0.5)  # initial size over the first positive one, where nothing was seen at first
STATUSES = {
    least_squares.CONVERGED: FitStatus.CONVERGED,
    least_squares.AT_BOUND: FitStatus.AT_BOUND,
    least_squares.NOT_CONVERGED: FitStatus.NOT_CONVERGED,
}


class FitSettings(Settings):
    """How growth is fitted.

    replicates: bootstrap replicates; starts: of the search of each (the best fit has 16 times as many);
    max_steps: of the descent from a start.
    noise: standard deviation of the logarithm of a measured size.
    """

    bounds: BoundsPreset = BoundsPreset.DEFAULT
    replicates: int = Field(100, ge=1)
    starts: int = Field(16, ge=1)
    max_steps: int = Field(100, ge=1)
    noise: float = Field(0.1, ge=0, le=1)
    seed: int = Field(0, ge=0)


DEFAULT_SETTINGS = FitSettings()


@dataclass(frozen=True)
class _Batch:
    """Fits of several sets of sizes. rows: (B, 6) in the unit of the sizes, losses: (B,), statuses: B."""

    rows: Array
    losses: Array
    statuses: tuple[FitStatus, ...]


def fit_growth(series: SizeSeries, settings: FitSettings = DEFAULT_SETTINGS) -> GrowthFit:
    """The paper's law fitted to `series`, and again to each bootstrap replicate of it.

    Fewer than three scans, or no tumour in any: status TOO_FEW_POINTS, see `persist`. Without radiotherapy before the
    last scan only the rate and the initial size are fitted. A course after the last scan has parameters that no scan
    informs: the replicates draw them from their whole range.
    Raises InputError if there is no scan at all.

    >>> days = np.array([0.0, 30.0, 60.0, 90.0])
    >>> fit = fit_growth(SizeSeries("P1", "area_mm2", days, 100.0 * np.exp(0.01 * days)))
    >>> fit.status.value, fit.parameter_names[0], round(float(fit.parameters[0]), 6)
    ('converged', 'rate_per_day', 0.01)
    """
    if series.days.size == 0:
        raise InputError(f"patient {series.patient_id}: no {series.size_name} was measured; leave the patient out")
    if series.days.size < MINIMUM_POINTS or not np.any(series.sizes > 0):
        return persist(series, settings)
    rng = patient_rng(settings.seed, series.patient_id, Stream.NOISE)
    noisy = noisy_sizes(series.sizes, rng, replicates=settings.replicates, spread=settings.noise)
    best = _fit_sizes(series, np.atleast_2d(series.sizes), settings, Stream.BEST_STARTS)
    fitted = _fit_sizes(series, noisy, settings, Stream.STARTS)
    return GrowthFit(
        series=series,
        law=EXPONENTIAL,
        parameter_names=PARAMETER_NAMES,
        parameters=best.rows[0],
        replicates=_spread_unseen(series, fitted.rows, settings),
        replicate_status=fitted.statuses,
        loss=float(best.losses[0]),
        status=best.statuses[0],
    )


def fit_cohort(
    patients: list[SizeSeries],
    settings: FitSettings = DEFAULT_SETTINGS,
    progress: Callable[[SizeSeries], None] = lambda series: None,
) -> list[GrowthFit]:
    """fit_growth for each; `progress` is called after each. A patient's numbers do not depend on the others."""
    fits = []
    for series in patients:
        fits.append(fit_growth(series, settings))
        progress(series)
    return fits


def persist(series: SizeSeries, settings: FitSettings) -> GrowthFit:
    """No fit: the last size persists, and the replicates grow or shrink from it at rates drawn around zero.

    The rates are Student-t (PERSISTENCE_RATE_…), so that the spread of the forecast widens with the horizon; the last
    size varies by the measurement's noise. Radiotherapy is without effect (survival 1). Where every size is zero
    so is every forecast.
    """
    rng = patient_rng(settings.seed, series.patient_id, Stream.PRIOR)
    last = float(series.sizes[-1])
    rates = PERSISTENCE_RATE_SCALE * rng.standard_t(PERSISTENCE_RATE_FREEDOM, settings.replicates)
    rates = np.clip(rates, -PERSISTENCE_RATE_LIMIT, PERSISTENCE_RATE_LIMIT)
    replicates = np.tile(row_of(Exponential(0.0), last), (settings.replicates, 1))
    replicates[:, kernels.RATE] = rates
    elapsed = series.days[-1] - series.days[0]
    noise = log_normal_noise(rng, rates.shape, settings.noise)
    replicates[:, kernels.INITIAL_SIZE] = last * noise * np.exp(-rates * elapsed)
    return GrowthFit(
        series=series,
        law=EXPONENTIAL,
        parameter_names=PARAMETER_NAMES,
        parameters=row_of(Exponential(0.0), last),
        replicates=replicates,
        replicate_status=(FitStatus.TOO_FEW_POINTS,) * settings.replicates,
        loss=_relative_loss(series.sizes, last),
        status=FitStatus.TOO_FEW_POINTS,
    )


def _relative_loss(sizes: FloatArray, constant: float) -> float:
    scale = _first_positive(sizes)
    return float(np.sum(np.square((sizes - constant) / scale)))


def _first_positive(sizes: FloatArray) -> float:
    """The first size above zero; 1 where there is none."""
    positive = sizes[sizes > 0]
    return float(positive[0]) if positive.size else 1.0


def _is_treated(series: SizeSeries) -> bool:
    """Whether any scan could show what radiotherapy did."""
    return any(course.start_days < series.days[-1] for course in series.treatment.radiotherapy)


def _bounds_for(series: SizeSeries, preset: ParameterBounds) -> ParameterBounds:
    """The bounds for this patient: of radiotherapy fixed where no scan informs them, of a first size of zero."""
    bounds = preset
    if series.sizes[0] == 0:
        bounds = replace(bounds, initial_size=UNDETECTED)
    if _is_treated(series):
        return bounds
    return replace(
        bounds,
        decay_rate_per_day=_fixed(bounds.decay_rate_per_day),
        delay_days=_fixed(bounds.delay_days),
        slope_per_day=_fixed(bounds.slope_per_day),
        survival=_fixed(bounds.survival) if series.treatment.radiotherapy else Bound(1.0, 1.0),
    )


def _fixed(bound: Bound) -> Bound:
    return Bound(bound.middle, bound.middle)


def _fit_sizes(series: SizeSeries, observed: Array, settings: FitSettings, stream: Stream) -> _Batch:
    """The law fitted to each row of observed: (B, T), sizes in the series' unit."""
    bounds = _bounds_for(series, settings.bounds.bounds)
    scale = _first_positive(series.sizes)
    problem = least_squares.Problem(
        np.ascontiguousarray(series.days, dtype=np.float64),
        timeline_of(series.treatment, series.days[0]).courses,
        bounds.lower(),
        bounds.upper(),
        bounds.log_scaled(),
        settings.max_steps,
    )
    count = len(observed)
    rng = patient_rng(settings.seed, series.patient_id, stream)
    points = settings.starts * (BEST_FIT_EFFORT if stream is Stream.BEST_STARTS else 1)
    starts = latin_hypercube(rng, count, points, kernels.PARAMETERS)
    fits = least_squares.Fits(np.empty((count, kernels.PARAMETERS)), np.empty(count), np.empty(count, dtype=np.int64))
    least_squares.fit_batch(problem, observed / scale, starts, fits)
    fits.rows[:, kernels.INITIAL_SIZE] *= scale
    return _Batch(fits.rows, fits.losses, tuple(STATUSES[int(code)] for code in fits.statuses))


def _spread_unseen(series: SizeSeries, rows: Array, settings: FitSettings) -> Array:
    """Replicates whose radiotherapy parameters, where a course is yet to come, span their whole range."""
    if _is_treated(series) or not series.treatment.radiotherapy:
        return rows
    preset = settings.bounds.bounds
    columns = slice(kernels.DECAY_RATE, kernels.SURVIVAL + 1)
    rng = patient_rng(settings.seed, series.patient_id, Stream.PRIOR)
    lower, upper = np.log(preset.lower()[columns]), np.log(preset.upper()[columns])
    spread = rows.copy()
    spread[:, columns] = np.exp(lower + (upper - lower) * rng.random((len(rows), lower.size)))
    return spread
