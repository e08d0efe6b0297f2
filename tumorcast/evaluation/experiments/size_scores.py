"""Scores of one forecast of a size, and tables of them over patients.

Errors, widths and scores are in y = log(v + 100 mm³), of volumes or of the spheres of areas, unless named otherwise.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.cases import spread_evenly
from tumorcast.evaluation.experiments.experiment import Table
from tumorcast.evaluation.experiments.folder import unit_name
from tumorcast.evaluation.experiments.size_methods import SizeForecasts, SizeMethod
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import Estimate, difference
from tumorcast.evaluation.statistics import patient_mean
from tumorcast.growth.forecast import LEVELS
from tumorcast.growth.heldout import INTERVAL_90
from tumorcast.growth.population.equivalents import from_log
from tumorcast.growth.scores import crps
from tumorcast.records import PatientOutcome, SizeSeries

Floats = npt.NDArray[np.float64]

FEWEST_SCANS = 3  # two to forecast from, and the one that is held out
OUTSIDE_90 = 0.1  # the share that a 90 % interval leaves out


@dataclass(frozen=True)
class SizeData:
    """The patients of an experiment on sizes.

    made_of: what tells these sizes from others. left_out: patients who could not be read, with reasons. most: at most
    so many units, spread evenly over the patients.
    """

    series: Sequence[SizeSeries]
    made_of: dict[str, Any]
    left_out: Sequence[PatientOutcome] = ()
    most: int | None = None

    def units(self) -> dict[str, SizeSeries]:
        """The patients with FEWEST_SCANS or more, by a name that can be a file's.

        Raises InputError if there are none.
        """
        found = [one for one in self.series if one.days.size >= FEWEST_SCANS]
        if not found:
            raise InputError(
                f"none of {len(self.series)} patients has {FEWEST_SCANS} scans with a known size, two to forecast from "
                "and one to forecast; give a cohort or a table with more of them"
            )
        return {unit_name(one.patient_id): one for one in spread_evenly(found, self.most)}

    def left_out_table(self) -> list[Table]:
        """Who is not in the tables, and why; empty where all are."""
        few = f"fewer than {FEWEST_SCANS} scans with a known size"
        lines: list[tuple[str, ...]] = [(one.patient_id, one.reason) for one in self.left_out]
        lines += [(one.patient_id, few) for one in self.series if one.days.size < FEWEST_SCANS]
        return [Table("Left out", ("patient", "reason"), lines)] if lines else []


def scored(forecasts: SizeForecasts) -> dict[str, Figures]:
    """What each method said and how good it was, by its name."""
    scan = forecasts.scan
    return {str(method): _scored(said, scan.truth, scan.size_name) for method, said in forecasts.said.items()}


def _scored(said: Floats, truth: float, size_name: str) -> Figures:
    """low, median, high: sizes of the 5, 50 and 95 % quantiles. error: y of the median less the true one.

    interval_score: of the 90 % interval (Gneiting & Raftery 2007, eq. 43): its width, and 20 times by how much the
    truth lies outside. A point has no interval, and its CRPS is its error.
    """
    if said.size == 1:
        (told,) = said.tolist()
        return {"median": float(from_log(said, size_name)[0]), "error": told - truth, "crps": abs(told - truth)}
    low, median, high = np.interp(INTERVAL_90, LEVELS, said)
    outside = max(low - truth, truth - high, 0.0)
    sizes = from_log(np.array([low, median, high]), size_name).tolist()
    return {
        **dict(zip(("low", "median", "high"), sizes, strict=True)),
        "error": float(median - truth),
        "crps": float(crps(said[None], LEVELS, np.array([truth]))[0]),
        "covered": float(outside == 0.0),
        "width": float(high - low),
        "interval_score": float(high - low + 2 / OUTSIDE_90 * outside),
    }


def column(rows: Iterable[Figures], value: Callable[[Figures], Any]) -> Floats:
    """(P,) a value a row; NaN for None, which is how JSON keeps it."""
    found = [value(row) for row in rows]
    return np.array([np.nan if one is None else one for one in found], np.float64)


def mean_within(forecasts: Iterable[Figures], method: SizeMethod, name: str) -> float:
    """The mean of a figure over forecasts of one patient, of `error` that of its absolute value; NaN for none."""
    found = [one["methods"].get(str(method), {}).get(name) for one in forecasts]
    return patient_mean([abs(one) if name == "error" else one for one in found if one is not None])


def cell(one: Estimate, digits: int) -> str:
    """A figure with its interval, as a table prints it."""
    return "–" if np.isnan(one.value) else one.told(digits)


def compared(ours: Floats, other: Floats, digits: int) -> str:
    """The cell of ours - other, paired over patients, and p; less is better.

    ✔ where ours is better and ✘ where it is worse, and the interval excludes zero.
    """
    found = difference(ours, other)
    one = found.estimate
    if not one.patients:
        return "–"
    mark = f" {'✔' if one.value < 0 else '✘'}" if one.excludes_zero else ""
    return f"{one.told(digits, signed=True)}{mark}, p {found.p:.2g}"
