"""What a growth fit says of other days, as joint trajectories: a row is one possible tumour on every day asked for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tumorcast.growth.laws import timeline_of
from tumorcast.kernels import growth as kernels
from tumorcast.records import FloatArray, GrowthFit

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GrowthForecast:
    """The bootstrap replicates of a fit, run forwards (or backwards) in time.

    The spread is that of the tumour's true size; a measurement of it adds its own noise.
    Row b is the same trajectory in every method, so that a target and a curve drawn from row b agree.
    """

    fit: GrowthFit

    def trajectories(self, days: Array) -> Array:
        """(B, T) sizes on days: (T,), in the unit of the fitted series; finite and not negative."""
        return self._sizes(self.fit.replicates, days)

    def best(self, days: Array) -> Array:
        """(T,) sizes of the best fit on days: (T,)."""
        return self._sizes(self.fit.parameters.reshape(1, -1), days).ravel()

    def quantiles(self, days: Array, levels: Array) -> Array:
        """(Q, T) quantiles over the trajectories, levels: (Q,) in [0, 1]. Raises ValueError outside that range."""
        return np.asarray(np.quantile(self.trajectories(days), levels, axis=0), dtype=np.float64)

    def relative_change(self, day_from: float, day_to: float) -> Array:
        """(B,) size on day_to over size on day_from along each trajectory: finite, not negative.

        The growth itself is compared, not two sizes, so that a size that has vanished is never divided by. Where the
        size is zero throughout, it is the change that the replicate's rates would make.
        """
        rows = np.ascontiguousarray(self.fit.replicates, dtype=np.float64)
        changes = np.empty(len(rows))
        kernels.fill_changes(float(day_to), timeline_of(self.fit.series.treatment, day_from), rows, changes)
        return changes

    def _sizes(self, rows: FloatArray, days: FloatArray) -> Array:
        days_, rows_ = np.ascontiguousarray(days, dtype=np.float64), np.ascontiguousarray(rows, dtype=np.float64)
        sizes = np.empty((len(rows_), days_.size))
        timeline = timeline_of(self.fit.series.treatment, self.fit.series.days[0])
        kernels.fill_trajectories(days_, timeline, rows_, sizes)
        return sizes
