"""Fit of a growth law to one patient's sizes, with its bootstrap. What can be expected to fail ends as a status."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError
from tumorcast.growth.bootstrap import BLOCK, Stream, draw, latin_hypercube, patient_rng
from tumorcast.growth.drops import with_sudden_drops
from tumorcast.growth.laws import BoundsPreset
from tumorcast.growth.mechanistic_prior import MechanisticPrior, covariance
from tumorcast.growth.problem import Fits, PatientProblem, Sample, Search, catalogue_of, run, starts_to_search
from tumorcast.growth.settings import FitSettings, Method
from tumorcast.growth.unfitted import persist
from tumorcast.kernels import growth as kernels
from tumorcast.kernels import multistart
from tumorcast.records import FitStatus, GrowthFit, SizeSeries

Array = npt.NDArray[np.float64]

MINIMUM_POINTS = 3
BEST_FIT_EFFORT = 4  # starts of the one best fit over those of a pilot

DEFAULT_SETTINGS = FitSettings()


def fit_growth(
    series: SizeSeries, settings: FitSettings = DEFAULT_SETTINGS, prior: MechanisticPrior | None = None
) -> GrowthFit:
    """A growth law fitted to `series`, and again to each bootstrap replicate of it.

    With a prior the fit is hierarchical: the law's parameters are drawn to the population's, sizes depart from the law
    as they do there, and replicates perturb sizes and prior alike (randomised maximum likelihood; Oliver et al. 1996),
    so that one scan is enough.
    Without one, fewer than three scans, or no tumour in any: status TOO_FEW_POINTS, see `persist`. Without radiotherapy
    before the last scan only the rate and the initial size are fitted. A course after the last scan has parameters
    that no scan informs: the replicates draw them from their whole range, or from the prior.
    Raises InputError if there is no scan at all.

    >>> days = np.array([0.0, 30.0, 60.0, 90.0])
    >>> fit = fit_growth(SizeSeries("P1", "area_mm2", days, 100.0 * np.exp(0.01 * days)))
    >>> fit.status.value, fit.parameter_names[0], round(float(fit.parameters[0]), 6)
    ('converged', 'rate_per_day', 0.01)
    """
    if series.days.size == 0:
        raise InputError(f"patient {series.patient_id}: no {series.size_name} was measured; leave the patient out")
    if not np.any(series.sizes > 0) or (prior is None and series.days.size < MINIMUM_POINTS):
        return persist(series, settings)
    series, notes = with_sudden_drops(series, settings.drop_ratio)
    problem = PatientProblem(series, settings.law, settings.bounds, settings.noise, settings.chemotherapy, prior)
    if settings.method is Method.LMFIT:
        from tumorcast.growth.lmfit_fit import fit_by_lmfit  # noqa: PLC0415 - lmfit is heavy, and seldom asked for

        fit = fit_by_lmfit(problem, settings.resampling, settings.replicates, settings.seed)
        return replace(fit, notes=notes + fit.notes)
    return replace(_fit_natively(problem, settings), notes=notes)


def _fit_natively(problem: PatientProblem, settings: FitSettings) -> GrowthFit:
    fitter = _Fitter.of(problem, settings)
    fits = _joined(fitter.replicates())
    series, best = problem.series, fitter.best
    few = series.days.size < MINIMUM_POINTS
    return GrowthFit(
        series=series,
        law=settings.law,
        parameter_names=problem.names,
        parameters=best.rows[0],
        replicates=_spread_unseen(problem, fits.rows, settings),
        replicate_status=fits.statuses,
        loss=float(best.losses[0]),
        loss_name=str(settings.noise),
        status=FitStatus.TOO_FEW_POINTS if few else tuple(FitStatus)[int(best.statuses[0])],
        origin_day=problem.origin_day,
        deviations=_deviations(problem, settings),
        doses=settings.bounds is BoundsPreset.DEFAULT,
        errors=problem.prior.errors if problem.prior else None,
    )


def fit_replicates(series: SizeSeries, observed: Array, settings: FitSettings = DEFAULT_SETTINGS) -> Fits:
    """The law fitted to each of observed: (B, T), sizes as they might have been measured, as fit_growth searches."""
    problem = PatientProblem(series, settings.law, settings.bounds, settings.noise, settings.chemotherapy)
    centres = np.tile(problem.prior_on_coordinates[0], (len(observed), 1))
    return _Fitter.of(problem, settings).fit(Sample(observed, np.ones_like(observed), centres))


@dataclass(frozen=True)
class _Fitter:
    """A patient's best fit, and the catalogue of starts from which replicates are fitted."""

    problem: PatientProblem
    settings: FitSettings
    best: Fits
    catalogue: multistart.Catalogue

    @classmethod
    def of(cls, problem: PatientProblem, settings: FitSettings) -> Self:
        """Search the best fit and those of a few pilot replicates thoroughly; the others start from their ends."""
        sizes = problem.series.sizes
        rng = patient_rng(settings.seed, problem.series.patient_id, Stream.STARTS)
        settings = settings.eased if problem.prior else settings
        thorough, search = settings.pilot_search(BEST_FIT_EFFORT), settings.pilot_search()
        centre = problem.prior_on_coordinates[0]
        starts = _around(rng, problem, thorough.starts)
        own = starts_to_search(starts, sizes.size)
        best = run(problem, thorough, own, Sample(sizes[None], np.ones((1, sizes.size)), centre[None]))
        fitter = cls(problem, settings, best, starts_to_search(starts[: search.starts], sizes.size))
        pilots = fitter._pilots(search)
        ends = problem.coordinates(np.vstack([best.rows, pilots.rows]))
        return replace(fitter, catalogue=catalogue_of(problem, np.vstack([ends, starts[: search.starts]])))

    def _pilots(self, search: Search) -> Fits:
        return run(self.problem, search, self.catalogue, self._draw(Stream.PILOT, 0, self.settings.pilots))

    def replicates(self) -> Iterator[Fits]:
        """The fits of all replicates, block by block."""
        left = self.settings.replicates
        for block in range(-(-left // BLOCK)):
            yield self.fit(self._draw(Stream.NOISE, block, min(BLOCK, left - block * BLOCK)))

    def fit(self, sample: Sample) -> Fits:
        """The fits of replicates."""
        return run(self.problem, self.settings.replicate_search, self.catalogue, sample)

    def _draw(self, stream: Stream, block: int, count: int) -> Sample:
        """`count` replicates of a block; the first ones do not depend on count."""
        rng = patient_rng(self.settings.seed, self.problem.series.patient_id, stream, block)
        series, prior = self.problem.series, self.problem.prior
        centre, precision = self.problem.prior_on_coordinates
        if prior is None:
            fitted = self.problem.sizes(self.best.rows)[0]
            drawn = draw(rng, count, series.sizes, fitted, self.settings.resampling)
            return Sample(drawn.sizes, drawn.weights, np.tile(centre, (count, 1)))
        noise = rng.standard_normal((count, series.days.size + centre.size))
        root = np.linalg.cholesky(covariance(prior.errors, series.days))
        sizes = np.maximum(series.sizes, self.problem.limit) * np.exp(noise[:, : series.days.size] @ root.T)
        spread = np.where(precision > 0, 1.0 / np.sqrt(np.where(precision > 0, precision, 1.0)), 0.0)
        return Sample(sizes, np.ones_like(sizes), centre + spread * noise[:, series.days.size :])


def _around(rng: np.random.Generator, problem: PatientProblem, count: int) -> Array:
    """(count, F) starts: evenly over the box, half of them over what the prior holds likely, and the customary one."""
    starts = latin_hypercube(rng, count, problem.free.size)
    centre, precision = problem.prior_on_coordinates
    told = precision > 0
    likely = np.clip(rng.normal(centre[told], 1.0 / np.sqrt(precision[told]), (count // 2, int(told.sum()))), 0.0, 1.0)
    starts[: count // 2, told] = likely
    customary = problem.customary_start.copy()
    customary[kernels.INITIAL_SIZE] *= problem.scale
    starts[0] = problem.coordinates(customary[None])[0]
    return starts


def _joined(blocks: Iterator[Fits]) -> Fits:
    parts = list(blocks)
    rows, losses, statuses = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "losses", "statuses")
    )
    return Fits(rows, losses, statuses)


def _deviations(problem: PatientProblem, settings: FitSettings) -> Array:
    if problem.prior is None:
        return np.zeros(settings.replicates)
    rng = patient_rng(settings.seed, problem.series.patient_id, Stream.PRIOR)
    return rng.standard_normal(settings.replicates)


def _spread_unseen(problem: PatientProblem, rows: Array, settings: FitSettings) -> Array:
    """Replicates whose radiotherapy parameters span their range, or the prior's, where a course is yet to come."""
    series = problem.series
    coming = series.treatment.radiotherapy
    if not coming or any(course.start_days < series.days[-1] for course in coming):
        return rows
    bounds = problem.bounds.of(problem.law)
    rng = patient_rng(settings.seed, series.patient_id, Stream.PRIOR, 1)
    spread = rows.copy()
    for j in range(kernels.DECAY_RATE, kernels.SURVIVAL + 1):
        lower, upper = np.log(getattr(bounds, problem.names[j]))
        told = problem.prior.parameters.get(problem.names[j]) if problem.prior else None
        drawn = rng.normal(told.mean, told.sd, len(rows)) if told else lower + (upper - lower) * rng.random(len(rows))
        spread[:, j] = np.exp(np.clip(drawn, lower, upper))
    return spread
