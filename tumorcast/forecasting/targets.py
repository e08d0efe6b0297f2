"""Target sizes of members: the present area times a ratio, from a growth forecast or from the user."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.data.cohort import CohortSlice
from tumorcast.errors import InputError
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.scores import dense_levels
from tumorcast.records import SizeSeries
from tumorcast.settings import ForecastSettings

LARGEST_BRAIN_FRACTION = 0.5
CURVE_POINTS = 80
GOLDEN = (math.sqrt(5) - 1) / 2
VOLUME_TO_AREA = 2 / 3  # the power of a ratio of volumes that is one of areas, of a shape that keeps its proportions
SAME_DAY = 0.5  # dates are whole days

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SliceTargets:
    """What the tumours of M members of one slice grow or shrink to.

    change: (M,) target less present tumour/brain fraction, the quantity that the guidance works with.
    """

    present: CohortSlice
    change: Array

    def __getitem__(self, members: slice) -> "SliceTargets":
        """Those of some members."""
        return SliceTargets(self.present, self.change[members])

    @property
    def target_ratio(self) -> Array:
        """(M,) target area over present area."""
        return 1 + self.change / self.present.brain_fraction

    @property
    def target_mm2(self) -> Array:
        """(M,) target area, which the archive calls `aimed_mm2`."""
        return self.present.area_mm2 + self.change * self.present.brain_mm2


@dataclass(frozen=True)
class PatientTargets:
    """Targets of M members, the same for all slices of a patient.

    target_ratio: (M,) target area over present area. curve: the growth forecast whose quantiles they are, of sizes
    called `size_name`. volumes: (H, M) target volume over the present one at each horizon, of which the areas' are of
    the first; None where that follows from the areas.
    """

    target_ratio: Array
    curve: dict[str, Array] | None = None
    size_name: str | None = None
    volumes: Array | None = None

    @classmethod
    def fixed(cls, settings: ForecastSettings) -> Self:
        """Every member has the target that the user asked for."""
        assert settings.relative_change is not None
        return cls(np.full(settings.members, 1.0 + settings.relative_change))

    @classmethod
    def drawn(cls, forecast: GrowthForecast, day: float, settings: ForecastSettings) -> Self:
        """Members take quantiles of the ratio size(day + horizon) / size(day) at fixed levels: 1/16, 3/16 … of eight.

        So few members carry the distribution, and none is left to chance; their order is such that any that follow each
        other are spread over it as well. A volume's ratio is taken to the power 2/3: a
        shape that keeps its proportions changes so in area.
        """
        assert settings.horizon_days is not None
        series = forecast.fit.series
        nearest, power = fitted_day(series, day), area_power(series.size_name)
        levels, days = spread_levels(settings.members), [nearest + ahead for ahead in settings.horizons]
        ratios = np.array([forecast.relative_quantiles(nearest, then, levels) for then in days])
        volumes = ratios ** (power / VOLUME_TO_AREA)
        return cls(ratios[0] ** power, growth_curve(forecast, days[-1]), series.size_name, volumes)

    @property
    def volume_ratio(self) -> Array:
        """(H, M) target volume over the present one; a shape that keeps its proportions changes so with its area."""
        return self.target_ratio[None] ** (1 / VOLUME_TO_AREA) if self.volumes is None else self.volumes

    def of_slice(self, present: CohortSlice) -> SliceTargets:
        """Those of one slice, held below half of its brain."""
        fraction = present.brain_fraction
        target = np.minimum(fraction * self.target_ratio, max(LARGEST_BRAIN_FRACTION, fraction))
        return SliceTargets(present, target - fraction)


def spread_levels(count: int) -> Array:
    """(count,) the middles of as many equal parts of 0 … 1, in the order of the multiples of the golden ratio.

    >>> spread_levels(4)
    array([0.125, 0.625, 0.375, 0.875])
    """
    order = np.argsort(GOLDEN * np.arange(count) % 1.0)
    return np.asarray(dense_levels(count)[np.argsort(order)])


def fitted_day(series: SizeSeries, day: float) -> float:
    """The day of the series that a scan of day `day` is of. Raises InputError if there is none."""
    nearest = float(series.days[np.argmin(np.abs(series.days - day))])
    if abs(nearest - day) > SAME_DAY:
        raise InputError(
            f"{series.patient_id}: the last scan is of day {day:g}, but growth was fitted to days "
            f"{', '.join(f'{d:g}' for d in series.days)}; fit this cohort, or prepare it with the same dates"
        )
    return nearest


def area_power(size_name: str) -> float:
    """The power that turns a ratio of sizes into a ratio of areas. Raises InputError if the name has no unit.

    >>> area_power("area_mm2"), round(area_power("enhancing_mm3"), 3)
    (1.0, 0.667)
    """
    powers = {"mm2": 1.0, "mm3": VOLUME_TO_AREA}
    unit = size_name.rpartition("_")[2]
    if unit not in powers:
        raise InputError(f"growth of '{size_name}': neither an area (…_mm2) nor a volume (…_mm3); name its column so")
    return powers[unit]


def growth_curve(forecast: GrowthForecast, end: float) -> dict[str, Array]:
    """Quantiles of size from the first scan to `end`, and the observed sizes."""
    series = forecast.fit.series
    days = np.union1d(np.linspace(series.days[0], end, CURVE_POINTS), series.days[-1:])
    q05, q50, q95 = forecast.quantiles(days, np.array([0.05, 0.5, 0.95]))
    observed = {"observed_days": series.days, "observed_sizes": series.sizes}
    return {"days": days, "q05": q05, "q50": q50, "q95": q95, **observed}
