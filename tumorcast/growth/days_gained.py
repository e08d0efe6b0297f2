"""Days Gained: by how many days treatment delayed a tumour, against what it would have done without.

Neal et al., PLoS ONE 8:e51951 (2013): the size at the first scan after radiotherapy is looked up on the curve of an
untreated virtual control, and the days between are gained. Their control is a reaction–diffusion front fitted to two
scans before treatment; ours is the patient's fitted growth law, each replicate with its own rate, from the size
measured before the course on and without radiotherapy, chemotherapy or resection. So what surgery between the two scans
took counts as gained too, and the interval is that of the law alone, not of the two measured sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from tumorcast.growth.laws import sizes_of, timeline_of
from tumorcast.records import GrowthFit, LawName

Array = npt.NDArray[np.float64]

LEAST_RATE = 1e-6  # per day; a law slower than that does not grow


@dataclass(frozen=True)
class DaysGained:
    """What treatment gained, or why that is not known.

    values: (R,) days of the replicates whose untreated law reaches the size, of `replicates` in all; empty where not
    known. reason: empty where known.
    """

    values: Array
    replicates: int
    reason: str = ""

    def quantiles(self, levels: Sequence[float]) -> tuple[float, ...] | None:
        """Of the days, at levels in [0, 1]; None where not known."""
        return None if self.values.size == 0 else tuple(np.quantile(self.values, levels).tolist())


def days_gained(fit: GrowthFit) -> DaysGained:
    """Of the patient's first course of radiotherapy: the last scan by its first day, and the first from its end on.

    days = day of the scan after - day on which the untreated law has that scan's size; negative where treatment was
    followed by faster growth than the law's. A size that shrank below that before treatment is looked up before it.
    Not known without a course, without a scan on either side of it, where one of them shows nothing, and where under
    half of the replicates' untreated laws ever reach the size.
    """
    series, count = fit.series, len(fit.replicates)
    if not series.treatment.radiotherapy:
        return DaysGained(np.zeros(0), count, "no course of radiotherapy is known")
    course = series.treatment.radiotherapy[0]
    before, after = np.flatnonzero(series.days <= course.start_days), np.flatnonzero(series.days >= course.end_days)
    if before.size == 0 or after.size == 0:
        missing = "before" if before.size == 0 else "after"
        return DaysGained(np.zeros(0), count, f"no scan {missing} the course of radiotherapy")
    first, last = int(before[-1]), int(after[0])
    size, later = float(series.sizes[first]), float(series.sizes[last])
    if min(size, later) <= 0:
        return DaysGained(np.zeros(0), count, "nothing was seen before or after the course of radiotherapy")
    untreated = untreated_days(fit, float(series.days[first]), later / size)
    known = untreated[np.isfinite(untreated)]
    if 2 * known.size < count:
        return DaysGained(np.zeros(0), count, "the untreated law hardly grows, or never to that size")
    return DaysGained(float(series.days[last] - series.days[first]) - known, count)


def untreated_days(fit: GrowthFit, day: float, ratio: float) -> Array:
    """(B,) days after `day` on which each replicate's law, untreated, has `ratio` times its size of that day.

    Not finite where it does not grow, or never so far. `day` must be before any radiotherapy: all cells live.
    """
    column = fit.parameter_names.index
    rate, capacity = (fit.replicates[:, column(name)] for name in ("rate_per_day", "capacity_ratio"))
    with np.errstate(divide="ignore", invalid="ignore"):
        match fit.law:
            case LawName.EXPONENTIAL:
                days = np.log(ratio) / rate
            case LawName.LOGISTIC:
                living = _living(fit, day)
                odds = [size / (capacity - size) for size in (living, ratio * living)]
                days = np.log(odds[1] / odds[0]) / rate
            case LawName.GOMPERTZ:
                left = [np.log(capacity) - np.log(size * _living(fit, day)) for size in (1.0, ratio)]
                days = np.log(left[0] / left[1]) * np.log(capacity) / rate
            case _:
                assert_never(fit.law)
    return np.where(rate > LEAST_RATE, days, np.nan)


def _living(fit: GrowthFit, day: float) -> Array:
    """(B,) the size on a day before radiotherapy over that when the clock starts, as the laws' capacity is counted."""
    treatment, doses = fit.series.treatment, fit.doses
    start = timeline_of(treatment, fit.origin_day, np.array([day]), doses=doses).start
    sizes = sizes_of(
        fit.law, timeline_of(treatment, fit.origin_day, np.array([start, day]), doses=doses), fit.replicates
    )
    return np.asarray(sizes[:, 1] / sizes[:, 0])
