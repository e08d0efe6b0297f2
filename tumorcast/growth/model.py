"""The growth model: how a cohort is fitted and forecast, with which settings, prior and forecaster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from tumorcast.errors import UsageError
from tumorcast.growth.estimate_prior import estimate_prior
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.prior import PopulationPrior, SizePrior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, GrowthFit, SizeSeries

PriorFor = Callable[[SizeSeries], SizePrior | None]


@dataclass(frozen=True)
class GrowthModel:
    """Settings of the fit, how forecasts go on from it, and what is known of a patient before any scan.

    prior_for: the prior of a patient; None fits the growth law to that patient alone.
    """

    settings: FitSettings
    forecaster: Forecaster
    prior_for: PriorFor

    def fit(self, series: SizeSeries) -> GrowthFit:
        """The growth law's fit; hierarchical if there is a prior and the settings are those it was made for."""
        prior = self.prior_for(series)
        if prior is None or not self.settings.takes_prior:
            return fit_growth(series, self.settings)
        return fit_growth(series, self.settings, prior.law_for(self.settings.law, series.size_name))

    def forecast(self, series: SizeSeries) -> GrowthForecast:
        """What is to be expected of the patient."""
        return GrowthForecast(self.fit(series), self.prior_for(series), self.forecaster)


def fixed_prior(prior: PopulationPrior | None) -> PriorFor:
    """The same prior for every patient."""
    return lambda series: None if prior is None else prior.for_size(series.size_name)


def leave_one_out_prior(cohort: Sequence[SizeSeries], settings: FitSettings) -> PriorFor:
    """For each patient the prior estimated from the others, by the same steps as that of a whole cohort."""

    @cache
    def without(patient_id: str) -> SizePrior:
        others = [other for other in cohort if other.patient_id != patient_id]
        return estimate_prior(others, [settings.law], seed=settings.seed)

    return lambda series: without(series.patient_id)


def check_forecaster(forecaster: Forecaster, *, has_prior: bool) -> None:
    """Raises UsageError where the forecaster needs a prior and there is none."""
    if forecaster is not Forecaster.MECHANISTIC and not has_prior:
        raise UsageError(f"--forecaster {forecaster} needs a prior; leave out --prior none, or take mechanistic")
