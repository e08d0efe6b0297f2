"""What is told of sizes: the spread of members, and the volumes of a whole tumour, now and foretold, in mL."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import VolumeForecast
from tumorcast.forecasting.volume_reach import VolumeReach, when_in_words

SPREAD_LEVELS = (0.5, 0.05, 0.95)  # of members
MM3_IN_ML = 1000.0
CONTOUR = 0.5  # the probability that is outlined, where none is chosen


@dataclass(frozen=True)
class Spread:
    """What members say: their median, and their 5 and 95 % points."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, members: npt.NDArray[np.float64]) -> Self:
        """Of (M,) members."""
        median, low, high = np.quantile(members, SPREAD_LEVELS).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class HorizonVolumes:
    """The volumes of a tumour at one horizon, in mL. days: ahead; None of a change that was asked for.

    present: of the mask; foretold: aimed at by members; growth: the same over the present one; expected: the sum of the
    growth map; outlined: of the voxels in which its probability is at least `contour`. reach: how far the map comes to
    what is aimed at.
    """

    days: float | None
    present: float
    foretold: Spread
    growth: Spread
    expected: float
    outlined: float
    contour: float
    reach: VolumeReach

    @classmethod
    def of(cls, forecast: VolumeForecast, horizon: int, contour: float = CONTOUR) -> Self:
        """The volumes at a horizon, by its number."""
        days = float(forecast.horizon_days[horizon])
        outlined = np.count_nonzero(forecast.growth[horizon] >= contour) * forecast.voxel_mm**3
        return cls(
            None if np.isnan(days) else days,
            float(forecast.present_mm3) / MM3_IN_ML,
            Spread.of(forecast.aimed_mm3[horizon] / MM3_IN_ML),
            Spread.of(forecast.target_ratio[horizon]),
            float(forecast.expected_mm3[horizon]) / MM3_IN_ML,
            outlined / MM3_IN_ML,
            contour,
            VolumeReach.of(forecast, horizon),
        )

    @property
    def when(self) -> str:
        """The horizon in words."""
        return when_in_words(self.days)

    def record(self) -> dict[str, Any]:
        """As JSON: mL, and days."""
        return {
            "horizon_days": self.days,
            "present_ml": self.present,
            "foretold_ml": vars(self.foretold),
            "expected_ml": self.expected,
            "contour": self.contour,
            "outlined_ml": self.outlined,
        } | self.reach.record()


def volumes_of(forecast: VolumeForecast, contour: float = CONTOUR) -> list[HorizonVolumes]:
    """The volumes at every horizon."""
    return [HorizonVolumes.of(forecast, horizon, contour) for horizon in range(len(forecast.horizon_days))]


def ml(volume: float) -> str:
    """A volume given in mL, small ones with two digits.

    >>> ml(24.192), ml(0.4321)
    ('24.2 mL', '0.43 mL')
    """
    return f"{volume:.{1 if volume >= 1 else 2}f} mL"
