"""Patients of whom nothing can be fitted: their last size persists."""

from dataclasses import replace

import numpy as np

from tumorcast.growth.bootstrap import Bootstrap, Noise, Resampling, Stream, noise_factors, patient_rng
from tumorcast.growth.laws import Exponential, row_of
from tumorcast.growth.problem import PLACE_OF_STATUS, PatientProblem
from tumorcast.growth.settings import FitSettings
from tumorcast.kernels import growth as kernels
from tumorcast.records import FitStatus, GrowthFit, LawName, SizeSeries

# Rates of change from one scan to the next in treated glioma are heavy-tailed. With this Student-t, the 90 % interval
# round the last size holds 90 % (enhancing with oedema) and 84 % (enhancing) of the 132 next sizes in mu_glioma_post.
PERSISTENCE_RATE_SCALE = 0.015
PERSISTENCE_RATE_FREEDOM = 3.0
PERSISTENCE_RATE_LIMIT = 0.2


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
        replicate_status=np.full(settings.replicates, PLACE_OF_STATUS[FitStatus.TOO_FEW_POINTS], dtype=np.uint8),
        loss=float(np.sum(np.square(problem.observed(series.sizes) - problem.observed(np.array([last]))))),
        loss_name=str(settings.noise),
        status=FitStatus.TOO_FEW_POINTS,
        origin_day=problem.origin_day,
        deviations=np.zeros(settings.replicates),
    )
