"""The growth model: how a cohort is fitted and forecast, with which settings, prior and forecaster."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Self

from tumorcast.errors import UsageError
from tumorcast.growth.estimate_prior import estimate_prior
from tumorcast.growth.fit import fit_growth
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.prior import PopulationPrior, SizePrior, read_prior, shipped_prior
from tumorcast.growth.settings import FitSettings
from tumorcast.records import Forecaster, GrowthFit, SizeSeries

NO_COMPANION = "none"
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
        return estimate_prior(others, [settings.law], seed=settings.seed, to_compare=False)

    return lambda series: without(series.patient_id)


class PriorSource(StrEnum):
    """Where a prior is from, by the words of --prior; anything else is the path of a file."""

    SHIPPED = "shipped"
    NONE = "none"
    LEAVE_ONE_OUT = "leave-one-out"


@dataclass(frozen=True)
class GrowthModelSpec:
    """What the growth model of a cohort is to be, before the cohort's sizes are read.

    prior: of a population; None for no prior, and for one that is estimated from the cohort itself (leave_one_out).
    companion: the column of another compartment's size that is read beside; empty for none.
    """

    settings: FitSettings
    forecaster: Forecaster
    prior: PopulationPrior | None
    companion: str
    leave_one_out: bool = False

    @classmethod
    def of(
        cls,
        settings: FitSettings,
        size_name: str,
        *,
        prior: str | None = None,
        forecaster: Forecaster | None = None,
        companion: str | None = None,
    ) -> Self:
        """Of what was asked for, None standing for what is usual.

        prior: a PriorSource or a file; usually the shipped one, but none where the fit takes none and no forecaster is
        named. forecaster: usually combined, pooled of an older prior, mechanistic without one. companion: a column, or
        `none`; usually the prior's.
        Raises UsageError for a forecaster without the prior it needs, InputError for a file that is no prior of `law`.
        """
        usual = PriorSource.SHIPPED if settings.takes_prior or forecaster is not None else PriorSource.NONE
        source = prior or usual
        population = _population_prior(source, settings, size_name)
        forecaster = _forecaster(forecaster, population, source, size_name)
        if companion is None:
            companion = population.companion_of(size_name) if population else ""
        leave_one_out = source == PriorSource.LEAVE_ONE_OUT
        return cls(
            settings,
            forecaster,
            None if leave_one_out else population,
            "" if companion == NO_COMPANION else companion,
            leave_one_out,
        )

    def model(self, cohort: Sequence[SizeSeries]) -> GrowthModel:
        """The growth model of the cohort."""
        prior_for = leave_one_out_prior(cohort, self.settings) if self.leave_one_out else fixed_prior(self.prior)
        return GrowthModel(self.settings, self.forecaster, prior_for)


def _forecaster(
    wanted: Forecaster | None, population: PopulationPrior | None, source: str, size_name: str
) -> Forecaster:
    """The one wanted, or the usual one of the prior. Raises UsageError where the prior has not what it needs."""
    if population is None:
        if wanted not in {None, Forecaster.MECHANISTIC}:
            raise UsageError(f"--forecaster {wanted} needs a prior; leave out --prior none, or take mechanistic")
        return Forecaster.MECHANISTIC
    has_mixture = population.for_size(size_name).state_space is not None
    if wanted is None:
        return Forecaster.COMBINED if has_mixture else Forecaster.POOLED
    if wanted in {Forecaster.COMBINED, Forecaster.STATE_SPACE} and not has_mixture:
        raise UsageError(
            f"--forecaster {wanted}: {source} is of an older tumorcast and has no state-space mixture; "
            "make it again with `tumorcast fit-prior`, or take pooled"
        )
    return wanted


def _population_prior(source: str, settings: FitSettings, size_name: str) -> PopulationPrior | None:
    """The prior of a source; of leave-one-out the shipped one, whose companions are read."""
    match source:
        case PriorSource.NONE:
            return None
        case PriorSource.SHIPPED | PriorSource.LEAVE_ONE_OUT:
            return shipped_prior()
        case _:
            prior = read_prior(Path(source))
            prior.for_size(size_name).law_for(settings.law, size_name)
            return prior
