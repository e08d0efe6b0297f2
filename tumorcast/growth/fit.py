"""Fit of a growth law to one patient's sizes, with its bootstrap. What can be expected to fail ends as a status."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError
from tumorcast.growth.bootstrap import (
    BLOCK,
    Bootstrap,
    Noise,
    Resampling,
    Stream,
    draw,
    latin_hypercube,
    noise_factors,
    patient_rng,
)
from tumorcast.growth.laws import BoundsPreset, Exponential, row_of
from tumorcast.growth.prior import LawPrior, covariance
from tumorcast.growth.problem import (
    STATUS_CODES,
    Fits,
    PatientProblem,
    Sample,
    Search,
    catalogue_of,
    run,
    starts_to_search,
)
from tumorcast.growth.settings import FitMethod, FitSettings
from tumorcast.kernels import growth as kernels
from tumorcast.kernels import multistart
from tumorcast.records import FitStatus, GrowthFit, LawName, SizeSeries

Array = npt.NDArray[np.float64]

MINIMUM_POINTS = 3
BEST_FIT_EFFORT = 4  # starts of the one best fit over those of a pilot

# Rates of change from one scan to the next in treated glioma are heavy-tailed. With this Student-t, the 90 % interval
# round the last size holds 90 % (enhancing with oedema) and 84 % (enhancing) of the 132 next sizes in mu_glioma_post.
PERSISTENCE_RATE_SCALE = 0.015
PERSISTENCE_RATE_FREEDOM = 3.0
PERSISTENCE_RATE_LIMIT = 0.2
DROP_DAYS = 150.0  # a fall that took longer may be a response

DEFAULT_SETTINGS = FitSettings()


def fit_growth(
    series: SizeSeries, settings: FitSettings = DEFAULT_SETTINGS, prior: LawPrior | None = None
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
    told = set(series.treatment.resection_days)
    series, notes = with_sudden_drops(series, settings.drop_ratio)
    inferred = tuple(day for day in series.treatment.resection_days if day not in told)
    problem = PatientProblem(series, settings.law, settings.bounds, settings.noise, settings.chemotherapy, prior)
    if settings.method is FitMethod.LMFIT:
        from tumorcast.growth.lmfit_backend import fit_by_lmfit  # noqa: PLC0415 - lmfit is heavy, and seldom asked for

        fit = fit_by_lmfit(problem, settings.resampling, settings.replicates, settings.seed)
    else:
        fit = _fit_natively(problem, settings)
    return replace(fit, notes=notes + fit.notes, inferred_resections=inferred)


def _fit_natively(problem: PatientProblem, settings: FitSettings) -> GrowthFit:
    fitter = ReplicateFitter.of(problem, settings)
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


@dataclass(frozen=True)
class ReplicateFitter:
    """A patient's best fit, and the catalogue of starts from which any replicates of the sizes are fitted."""

    problem: PatientProblem
    settings: FitSettings
    best: Fits
    catalogue: multistart.Catalogue

    @classmethod
    def of(cls, problem: PatientProblem, settings: FitSettings) -> Self:
        """Search the best fit and those of a few pilot replicates thoroughly; the others start from their ends.

        Where replicates are searched little, some hundred are fitted in advance, and the others start from their ends
        too: so the least of all minima that were seen is among the starts of each.
        """
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
        fitter = replace(fitter, catalogue=catalogue_of(problem, np.vstack([ends, starts[: search.starts]])))
        if settings.scouting_replicates == 0:
            return fitter
        more = fitter.fit(fitter._draw(Stream.PILOT, 1, settings.scouting_replicates))
        return replace(fitter, catalogue=catalogue_of(problem, np.vstack([ends, problem.coordinates(more.rows)])))

    def _pilots(self, search: Search) -> Fits:
        return run(self.problem, search, self.catalogue, self._draw(Stream.PILOT, 0, self.settings.pilots))

    def replicates(self) -> Iterator[Fits]:
        """The fits of all replicates, block by block."""
        left = self.settings.replicates
        for block in range(-(-left // BLOCK)):
            yield self.fit(self._draw(Stream.NOISE, block, min(BLOCK, left - block * BLOCK)))

    def fit(self, sample: Sample) -> Fits:
        """The fits of a sample of replicates, each searched from the catalogue."""
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
    known = precision > 0
    shape = (count // 2, int(known.sum()))
    starts[: count // 2, known] = np.clip(rng.normal(centre[known], 1.0 / np.sqrt(precision[known]), shape), 0.0, 1.0)
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
        prior = problem.prior.parameters.get(problem.names[j]) if problem.prior else None
        if prior:
            drawn = rng.normal(prior.mean, prior.sd, len(rows))
        else:
            drawn = lower + (upper - lower) * rng.random(len(rows))
        spread[:, j] = np.exp(np.clip(drawn, lower, upper))
    return spread


def persist(series: SizeSeries, settings: FitSettings) -> GrowthFit:
    """No fit: the last size persists, and the replicates grow or shrink from it at rates drawn around zero.

    The rates are Student-t (PERSISTENCE_RATE_…), so that the spread of the forecast widens with the horizon; the last
    size varies by the measurement's noise. Radiotherapy is without effect (survival 1). Where every size is zero
    so is every forecast.
    """
    rng = patient_rng(settings.seed, series.patient_id, Stream.PRIOR)
    series = replace(series, treatment=replace(series.treatment, resection_days=()))
    last = float(series.sizes[-1])
    rates = PERSISTENCE_RATE_SCALE * rng.standard_t(PERSISTENCE_RATE_FREEDOM, settings.replicates)
    rates = np.clip(rates, -PERSISTENCE_RATE_LIMIT, PERSISTENCE_RATE_LIMIT)
    replicates = np.tile(row_of(Exponential(0.0), last), (settings.replicates, 1))
    replicates[:, kernels.RATE] = rates
    noise = noise_factors(rng, rates.shape, Resampling(Bootstrap.MEASUREMENT, Noise.LOGNORMAL, settings.spread))
    replicates[:, kernels.INITIAL_SIZE] = last * noise * np.exp(-rates * (series.days[-1] - series.days[0]))
    problem = PatientProblem(series, LawName.EXPONENTIAL, settings.bounds, settings.noise)
    return GrowthFit(
        series=series,
        law=LawName.EXPONENTIAL,
        parameter_names=problem.names,
        parameters=row_of(Exponential(0.0), last),
        replicates=replicates,
        replicate_status=np.full(settings.replicates, STATUS_CODES[FitStatus.TOO_FEW_POINTS], dtype=np.uint8),
        loss=float(np.sum(np.square(problem.observed(series.sizes) - problem.observed(np.array([last]))))),
        loss_name=str(settings.noise),
        status=FitStatus.TOO_FEW_POINTS,
        origin_day=problem.origin_day,
        deviations=np.zeros(settings.replicates),
    )


def with_sudden_drops(series: SizeSeries, ratio: float | None) -> tuple[SizeSeries, tuple[str, ...]]:
    """The series with a resection midway before each scan that fell to less than `ratio` of the one before: operations
    that the table does not tell.

    Nothing in the law shrinks a tumour so fast: it must have been operated on. Only falls within DROP_DAYS count, to
    sizes that can be seen, and none where a resection is known between the two. Returns notes that tell of them; with
    `ratio` None nothing is inferred.
    """
    if ratio is None:
        return series, ()
    known = series.treatment.resection_days
    inferred, notes = [], []
    for (day_a, size_a), (day_b, size_b) in pairwise(zip(series.days, series.sizes, strict=True)):
        fell = 0 < size_b < ratio * size_a and day_b - day_a <= DROP_DAYS
        if fell and not any(day_a <= day < day_b for day in known):
            inferred.append(float(0.5 * (day_a + day_b)))
            fall = f"from day {day_a:g} to day {day_b:g} the size fell from {size_a:g} to {size_b:g}"
            notes.append(f"{fall}: taken for a resection")
    treatment = replace(series.treatment, resection_days=tuple(sorted([*known, *inferred])))
    return replace(series, treatment=treatment), tuple(notes)
