"""What a forecast says of RANO: by a date, the probability of progression and of response, and the time to progression.

It is the size part of RANO 2.0 alone (Wen et al., J Clin Oncol 2023, 41:5187). Nothing is confirmed by a second scan;
new lesions, lesions that cannot be measured, clinical state and steroids are not looked at. For research.

    RANO 2.0                 product of diameters (mm²)     volume (mm³ and others)
    progression, of nadir    at least +25 %                 at least +40 %
    partial response         at least -50 % of baseline     at least -65 % of baseline
    complete response        nothing left                   nothing left

An area changes as the product of its perpendicular diameters does while it keeps its proportions, and takes the first
column. Checked on 30 November 2026: all eight entries as the open RANO 2.0 tool of King's College London computes them
(github.com/cai4cai/rano2.0-assist, its response_classification_utils); 25 and 50 %, and that measurable is 10 by 10 mm
or more, in the table of criteria of doi 10.1093/noajnl/vdad118 (of RANO 2010); that no complete response is told of
disease that was not measurable, in that of doi 10.1093/nop/npw021; that the scan after radiotherapy is the baseline, in
the abstract of Ellingson et al. 2017 (doi 10.1007/s13311-016-0507-6). The text of Wen et al. itself could not be read.
The rules of `Reference` for what RANO leaves to a reader are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from tumorcast.growth.forecast import GrowthForecast
from tumorcast.growth.population.history import is_area
from tumorcast.growth.problem import detection_limit
from tumorcast.records import GrowthFit, SizeSeries

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

VISIT_DAYS: Final = 30.0  # between the scans that a forecast is read on
PATHS: Final = 2000  # drawn a patient: a probability of ½ is known to ±0.02


class Thresholds(NamedTuple):
    """A column of RANO's table. progression: times the nadir; partial_response: times the baseline."""

    progression: float
    partial_response: float


RANO_2 = {"product": Thresholds(1.25, 0.50), "volume": Thresholds(1.40, 0.35)}
ROUNDING: Final = 1e-9  # 1.4 × 1000 is a little over 1400: what is equal but for rounding has reached a threshold
MEASURABLE = {"mm3": np.pi / 6 * 10.0**3, "mm2": np.pi / 4 * 10.0**2}  # a sphere, and a disc, of 10 mm


def thresholds_of(size_name: str) -> Thresholds:
    """Of sizes of that name: an area's are those of the product of diameters.

    >>> thresholds_of("area_mm2"), thresholds_of("enhancing_mm3").progression
    (Thresholds(progression=1.25, partial_response=0.5), 1.4)
    """
    return RANO_2["product" if is_area(size_name) else "volume"]


def baseline_scan(series: SizeSeries) -> int:
    """The index of the scan that later ones are compared with.

    The first from the end of a course of radiotherapy on, or after a resection that is known, whichever is latest; of
    courses and resections that no scan follows yet, none counts. Without any, the first scan.
    """
    days = series.days
    after = [int(np.sum(days < course.end_days)) for course in series.treatment.radiotherapy]
    after += [int(np.sum(days <= day)) for day in series.treatment.resection_days]
    return max((scan for scan in after if scan < days.size), default=0)


@dataclass(frozen=True)
class Reference:
    """What later sizes of a patient are compared with, all in the unit of the sizes.

    baseline: of the baseline_scan, on baseline_day; nadir: the least since then, the baseline included.
    measurable: below it a tumour cannot have progressed, however small the nadir was, nor respond from such a baseline
    (RANO: then it is stable at best): what is 10 mm across, and in units other than mm² and mm³ what can be seen.
    visible: below it nothing is left: 100 mm³, 20 mm² or a hundredth of the patient's largest (growth/problem.py), for
    smaller ones differ at random.
    """

    baseline: float
    baseline_day: float
    nadir: float
    thresholds: Thresholds
    measurable: float
    visible: float

    @classmethod
    def of(cls, series: SizeSeries) -> Self:
        """From the scans that are known. Raises ValueError if there are none.

        >>> days, sizes = np.array([0.0, 60.0, 120.0]), np.array([9000.0, 4000.0, 5000.0])
        >>> Reference.of(SizeSeries("P", "volume_mm3", days, sizes)).nadir
        4000.0
        """
        if series.days.size == 0:
            raise ValueError(f"{series.patient_id}: no scan is known, so there is no baseline")
        first = baseline_scan(series)
        visible = detection_limit(series)
        return cls(
            baseline=float(series.sizes[first]),
            baseline_day=float(series.days[first]),
            nadir=float(series.sizes[first:].min()),
            thresholds=thresholds_of(series.size_name),
            measurable=float(MEASURABLE.get(series.size_name.rpartition("_")[2], visible)),
            visible=visible,
        )

    def progressed(self, sizes: Array, nadir: Array | None = None) -> Flags:
        """(…,) whether sizes: (…,) are progression over the nadir: (…,), that of the known scans if None."""
        least = np.asarray(self.nadir) if nadir is None else nadir
        limit = np.maximum(self.thresholds.progression * least, self.measurable)
        return np.asarray(sizes >= limit * (1 - ROUNDING))

    @property
    def is_measurable(self) -> bool:
        """Whether there was enough at the baseline for a response from it, partial or complete, to mean anything."""
        return self.baseline >= self.measurable

    def nothing_left(self, sizes: Array) -> Flags:
        """(…,) whether of sizes: (…,) nothing is left that can be seen for sure."""
        return np.asarray(sizes < self.visible)

    def complete(self, sizes: Array) -> Flags:
        """(…,) whether sizes: (…,) are a complete response: nothing left of what was measurable."""
        return self.is_measurable & self.nothing_left(sizes)

    def responded(self, sizes: Array) -> Flags:
        """(…,) whether sizes: (…,) are a response, partial or complete. Progression over the nadir is none."""
        limit = self.thresholds.partial_response * self.baseline * (1 + ROUNDING)
        is_partial = self.is_measurable & (sizes <= limit) & ~self.progressed(sizes)
        return np.asarray(is_partial | self.complete(sizes))


def visits(horizon_days: float) -> Array:
    """(V,) days after the last scan on which a forecast is read: every 30, and the horizon.

    >>> visits(75.0), visits(20.0)
    (array([30., 60., 75.]), array([20.]))
    """
    return np.append(np.arange(VISIT_DAYS, horizon_days, VISIT_DAYS), horizon_days)


def first_passage(paths: Array, days: Array, reference: Reference) -> Array:
    """(B,) the first of days: (V,) on which each of paths: (B, V) has progressed; infinite where none has.

    The nadir is that of the known scans and of the path's own earlier visits.
    """
    known = np.full((len(paths), 1), reference.nadir)
    nadir = np.minimum.accumulate(np.hstack([known, paths[:, :-1]]), axis=1)
    has_progressed = reference.progressed(paths, nadir)
    first = days[np.argmax(has_progressed, axis=1)]
    return np.where(has_progressed.any(axis=1), first, np.inf)


def time_quantiles(times: Array, levels: Sequence[float]) -> tuple[float, ...]:
    """The least time by which a share `level` of times: (B,) is over, for each level; infinite where that never is.

    >>> time_quantiles(np.array([30.0, 90.0, np.inf, 60.0]), [0.5, 0.75, 0.95])
    (60.0, 90.0, inf)
    """
    ordered = np.sort(times)
    places = [max(int(np.ceil(level * len(times) - ROUNDING)), 1) - 1 for level in levels]
    return tuple(float(ordered[place]) for place in places)


@dataclass(frozen=True)
class Outlook:
    """What is to be expected horizon_days after the last scan.

    progression_by: that a scan on one of the `visits` until then shows progression over the least size seen before it;
    progression_at: that a scan on that day does, were it the next one. response: partial or complete, at the day;
    complete: of these, nothing left; nothing_left: the same whatever the baseline was. exceeds_by, exceeds_at: more
    than the size asked for, on a visit or at the day; None where none was. sizes: 5, 50 and 95 % quantiles at the day.
    """

    horizon_days: float
    progression_by: float
    progression_at: float
    response: float
    complete: float
    nothing_left: float
    sizes: tuple[float, float, float]
    exceeds_by: float | None = None
    exceeds_at: float | None = None


@dataclass(frozen=True)
class TimeToProgression:
    """Days from the last scan to the visit that shows progression: quantiles, infinite where beyond the horizon.

    never: the share of courses without progression until then (right-censored).
    """

    horizon_days: float
    median: float
    interval_50: tuple[float, float]
    interval_90: tuple[float, float]
    never: float

    @classmethod
    def of(cls, times: Array, horizon_days: float) -> Self:
        """Of times: (B,), infinite where there was no progression."""
        low, quarter, median, three_quarters, high = time_quantiles(times, (0.05, 0.25, 0.5, 0.75, 0.95))
        never = float(np.mean(np.isinf(times)))
        return cls(horizon_days, median, (quarter, three_quarters), (low, high), never)

    def told(self, days: float) -> str:
        """A time as a person reads it.

        >>> TimeToProgression.of(np.array([30.0, np.inf]), 90.0).told(np.inf)
        '>90'
        """
        return f">{self.horizon_days:g}" if np.isinf(days) else f"{days:g}"


def outlook_of(paths: Array, days: Array, reference: Reference, exceeds: float | None = None) -> Outlook:
    """The outlook at the last of days: (V,) after the last scan, of the courses paths: (B, V)."""
    last = paths[:, -1]
    low, median, high = np.quantile(last, [0.05, 0.5, 0.95]).tolist()
    return Outlook(
        horizon_days=float(days[-1]),
        progression_by=float(np.mean(np.isfinite(first_passage(paths, days, reference)))),
        progression_at=float(np.mean(reference.progressed(last))),
        response=float(np.mean(reference.responded(last))),
        complete=float(np.mean(reference.complete(last))),
        nothing_left=float(np.mean(reference.nothing_left(last))),
        sizes=(low, median, high),
        exceeds_by=None if exceeds is None else float(np.mean((paths > exceeds).any(axis=1))),
        exceeds_at=None if exceeds is None else float(np.mean(last > exceeds)),
    )


def reference_of(fit: GrowthFit) -> Reference:
    """What later sizes are compared with; resections that were inferred alone make no new baseline."""
    return Reference.of(fit.told)


def outlooks(
    forecast: GrowthForecast,
    horizons_days: Sequence[float],
    *,
    exceeds: float | None = None,
    count: int = PATHS,
    seed: int = 0,
) -> tuple[list[Outlook], TimeToProgression]:
    """The outlook at each horizon, and the time to progression within the farthest; horizons: days after the last scan.

    One set of courses answers for all horizons, and each horizon's answer is read on its own visits. exceeds: a size in
    the unit of the series. Raises ValueError without horizons, or for one that is not positive and finite.
    """
    if not horizons_days or not all(np.isfinite(day) and day > 0 for day in horizons_days):
        raise ValueError(f"horizons {list(horizons_days)} must be some days, each positive and finite")
    read_on = [visits(horizon) for horizon in horizons_days]
    days = np.unique(np.concatenate(read_on))
    paths = forecast.paths(forecast.fit.series.days[-1] + days, count, seed)
    reference = reference_of(forecast.fit)
    found = [outlook_of(paths[:, np.searchsorted(days, own)], own, reference, exceeds) for own in read_on]
    farthest = max(read_on, key=lambda own: float(own[-1]))
    times = first_passage(paths[:, np.searchsorted(days, farthest)], farthest, reference)
    return found, TimeToProgression.of(times, float(farthest[-1]))
