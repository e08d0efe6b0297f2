"""What size each member aims at: the present area times a ratio, from a growth forecast or from the user."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.config import ForecastSettings
from tumorcast.errors import InputError
from tumorcast.growth.forecast import GrowthForecast
from tumorcast.keys import patient_key
from tumorcast.records import GrowthFit

LARGEST_BRAIN_FRACTION = 0.5
TARGET_SPAWN_KEY = 2**32 - 1  # no slice has this number, so targets and image noise never share a key
CURVE_POINTS = 80

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatientTargets:
    """(M,) area ratios, the same trajectory for all slices of a patient, and the growth curve they were drawn from."""

    area_ratio: Array
    curve: dict[str, Array] | None
    size_name: str | None

    @classmethod
    def fixed(cls, settings: ForecastSettings) -> Self:
        """Every member aims at the change that the user asked for."""
        assert settings.relative_change is not None
        return cls(np.full(settings.members, 1.0 + settings.relative_change), None, None)

    @classmethod
    def drawn(cls, fit: GrowthFit, day: float, settings: ForecastSettings) -> Self:
        """Members draw bootstrap trajectories; their ratio is size(day + horizon) / size(day).

        A volume's ratio is taken to the power 2/3: a shape that keeps its proportions changes so in area.
        """
        assert settings.horizon_days is not None
        forecast = GrowthForecast(fit)
        end = day + settings.horizon_days
        ratios = forecast.relative_change(day, end)
        if not len(ratios) or not np.isfinite(ratios).all():
            raise InputError(f"growth of {fit.series.patient_id}: no usable replicate ({fit.status}); fit it again")
        key = (patient_key(fit.series.patient_id), TARGET_SPAWN_KEY)
        rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=key))
        picks = rng.permutation(np.resize(np.arange(len(ratios)), max(len(ratios), settings.members)))
        power = 2 / 3 if fit.series.size_name == "volume_mm3" else 1.0
        ratio = ratios[picks[: settings.members]] ** power
        return cls(ratio, growth_curve(forecast, fit, end), fit.series.size_name)

    def change_of(self, fraction: float) -> Array:
        """(M,) wanted change of a slice's tumour/brain fraction, held below half of the brain."""
        return np.minimum(fraction * self.area_ratio, max(LARGEST_BRAIN_FRACTION, fraction)) - fraction


def growth_curve(forecast: GrowthForecast, fit: GrowthFit, end: float) -> dict[str, Array]:
    """Quantiles of size from the first scan to `end`, and the observed sizes."""
    days = np.linspace(fit.series.days[0], end, CURVE_POINTS)
    q05, q50, q95 = forecast.quantiles(days, np.array([0.05, 0.5, 0.95]))
    observed = {"observed_days": np.asarray(fit.series.days), "observed_sizes": np.asarray(fit.series.sizes)}
    return {"days": days, "q05": q05, "q50": q50, "q95": q95, **observed}
