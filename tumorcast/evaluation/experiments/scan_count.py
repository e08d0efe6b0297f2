"""Forecasts from few or irregular scans: each patient's last scan, forecast from fewer earlier ones.

What they say together: by how many scans were given, which ones, by horizon and by spacing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tumorcast.counted import counted
from tumorcast.evaluation.experiments.base import Findings, ReportPicture, Row, Table
from tumorcast.evaluation.experiments.plots import HorizonDots, draw_by_count, draw_by_horizon
from tumorcast.evaluation.experiments.report_tables import estimate_cell
from tumorcast.evaluation.experiments.size_methods import (
    COVERED,
    CRPS,
    ERROR,
    WIDTH,
    SizeData,
    SizeMethod,
    forecast_by,
    of_method,
    scored,
)
from tumorcast.evaluation.metrics import Floats, Metric
from tumorcast.evaluation.statistics import Estimate, difference, mean_of, patient_mean
from tumorcast.growth.model import GrowthModel
from tumorcast.growth.scan_count import SPACINGS
from tumorcast.random_keys import patient_key
from tumorcast.records import SizeSeries

ScanIndices = tuple[int, ...]
Patients = Sequence[list[Row]]
"""The forecasts of each patient."""
Group = Callable[[Row], bool]
"""Whether a forecast belongs to it."""

METHODS = (SizeMethod.COMBINED, SizeMethod.MECHANISTIC, SizeMethod.PERSISTENCE)
MOST_GIVEN = 6  # scans; and all there are
DRAWS, TRIES = 3, 30  # thinned sets of each size
DRAWS_KEY = 3  # a key of two numbers, which no other draw of a patient has
DAY_BINS = (0.0, 60.0, 120.0, 240.0, float("inf"))


class GivenScans(StrEnum):
    """Which scans are given: the last ones; others, the latest among them; others without the latest."""

    LAST = "last"
    THINNED = "thinned"
    OLDER = "older"


LABELS = {
    GivenScans.LAST: "the last",
    GivenScans.THINNED: "others, the latest kept",
    GivenScans.OLDER: "others, without the latest",
}


class MethodColumn(NamedTuple):
    """A metric of a method in the tables."""

    method: SizeMethod
    metric: Metric


COLUMNS = (
    MethodColumn(SizeMethod.COMBINED, ERROR.rounded(2)),
    MethodColumn(SizeMethod.COMBINED, CRPS),
    MethodColumn(SizeMethod.MECHANISTIC, CRPS.called("crps", "CRPS, growth law")),
    MethodColumn(SizeMethod.PERSISTENCE, CRPS.called("crps", "CRPS, persistence")),
    MethodColumn(SizeMethod.COMBINED, COVERED),
    MethodColumn(SizeMethod.MECHANISTIC, COVERED.called("covered", "the same, growth law")),
    MethodColumn(SizeMethod.COMBINED, WIDTH),
)
HEADS = ("forecasts", "patients", *(column.metric.label for column in COLUMNS))
NOTE = (
    "Of the combined forecast unless another is named. A patient is the unit: its forecasts in a line are averaged "
    "first. log: of size + 100 mm³. Less CRPS is better."
)
PAIRED_NOTE = "✔ better and ✘ worse than the other, and the interval excludes zero; p: Wilcoxon's signed-rank test."


def given_sets(scans: int, patient_id: str, seed: int) -> Iterator[tuple[GivenScans, ScanIndices]]:
    """Which of the `scans` earlier scans are given: the last 1, 2, … MOST_GIVEN, all; and of each size but all up to
    DRAWS other sets, drawn by the patient's own key.

    >>> list(given_sets(2, "P1", 0))
    [(<GivenScans.LAST: 'last'>, (1,)), (<GivenScans.LAST: 'last'>, (0, 1)), (<GivenScans.OLDER: 'older'>, (0,))]
    """
    counts = sorted({*range(1, min(scans, MOST_GIVEN) + 1), scans})
    for count in counts:
        yield GivenScans.LAST, tuple(range(scans - count, scans))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient_key(patient_id), DRAWS_KEY)))
    for count in counts[:-1]:
        drawn = [tuple(sorted(rng.choice(scans, count, replace=False).tolist())) for _ in range(TRIES)]
        others = [indices for indices in dict.fromkeys(drawn) if indices != tuple(range(scans - count, scans))]
        for indices in others[:DRAWS]:
            yield (GivenScans.THINNED if indices[-1] == scans - 1 else GivenScans.OLDER), indices


@dataclass(frozen=True)
class ScanCountExperiment:
    """Each patient's last scan, forecast from the last one, two, three … earlier scans, and from thinned ones."""

    data: SizeData
    model: GrowthModel
    name: ClassVar[str] = "timepoints"

    def provenance(self) -> dict[str, Any]:
        """Sizes, settings and prior, and how many sets of scans are tried."""
        settings = self.model.settings.model_dump(mode="json")
        return self.data.provenance | {"settings": settings, "most_given": MOST_GIVEN, "draws": DRAWS}

    def units(self) -> Sequence[str]:
        """The patients with three scans or more."""
        return list(self.data.units())

    def measure(self, unit: str, pictures: Path) -> Row:
        """A forecast for each set of scans that is given."""
        series = self.data.units()[unit]
        sets = given_sets(series.days.size - 1, series.patient_id, self.model.settings.seed)
        return {
            "patient_id": series.patient_id,
            "size_name": series.size_name,
            "day": float(series.days[-1]),
            "observed": float(series.sizes[-1]),
            "forecasts": [self._forecast(series, kind, indices) for kind, indices in sets],
        }

    def _forecast(self, series: SizeSeries, kind: GivenScans, indices: ScanIndices) -> Row:
        known = _of_scans(series, (*indices, series.days.size - 1))
        forecasts = forecast_by(METHODS, self.model, known, len(indices))
        gaps = np.diff(known.days)
        return {
            "kind": str(kind),
            "given": len(indices),
            "days": known.days[:-1].tolist(),
            "horizon_days": float(gaps[-1]),
            "longest_gap_days": float(gaps[:-1].max()) if len(indices) > 1 else None,
            "irregularity": forecasts.scan.irregularity if len(indices) > 1 else None,
            "methods": scored(forecasts),
        }

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """Error and coverage by the number of scans, by how they were chosen, by horizon, gap and spacing."""
        patients = [row["forecasts"] for row in rows.values()]
        return Findings(
            answer=answer_of(patients),
            figures=figures_of(patients),
            tables=[*tables_of(patients), *self.data.left_out_table()],
            pictures=_pictures(patients),
        )


def _of_scans(series: SizeSeries, indices: Sequence[int]) -> SizeSeries:
    """The series as if no other scans had been made."""
    chosen = list(indices)
    companion = None if series.companion is None else series.companion[chosen]
    return replace(series, days=series.days[chosen], sizes=series.sizes[chosen], companion=companion)


def by_count(patients: Patients) -> dict[int, Group]:
    """Forecasts from the last scans, by how many."""
    counts = {row["given"] for row in chain.from_iterable(patients) if row["kind"] == GivenScans.LAST}
    return {count: partial(_is, GivenScans.LAST, count) for count in sorted(counts)}


def by_choice(patients: Patients) -> dict[tuple[GivenScans, int], Group]:
    """Forecasts from other scans, by which and how many."""
    counts = sorted({row["given"] for row in chain.from_iterable(patients)})
    kinds = (GivenScans.THINNED, GivenScans.OLDER)
    every = {(kind, count): partial(_is, kind, count) for kind in kinds for count in counts}
    return {key: group for key, group in every.items() if any(map(group, chain.from_iterable(patients)))}


def _is(kind: GivenScans, given: int, row: Row) -> bool:
    return bool(row["kind"] == kind and row["given"] == given)


def by_days(name: str) -> dict[str, Group]:
    """By a number of days, in DAY_BINS."""
    return {
        f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more": partial(_within, name, low, high)
        for low, high in pairwise(DAY_BINS)
    }


def by_spacing() -> dict[str, Group]:
    """By how irregular the intervals are, that to the target among them; one scan has no spacing."""
    return {label: partial(_within, "irregularity", *span) for label, span in SPACINGS.items()}


def _within(name: str, low: float, high: float, row: Row) -> bool:
    return row[name] is not None and low <= row[name] < high


def scores_of(patients: Patients, group: Group, method: SizeMethod, name: str) -> Floats:
    """(P,) the mean of a score over each patient's forecasts of a group, of `error` that of its absolute value.

    NaN for a patient without any.
    """
    magnitude = np.abs if name == ERROR.name else np.asarray
    values = [of_method(filter(group, forecasts), method, name) for forecasts in patients]
    return np.array([patient_mean(magnitude(of_patient).tolist()) for of_patient in values])


def _crps(patients: Patients, group: Group) -> Floats:
    return scores_of(patients, group, SizeMethod.COMBINED, "crps")


def _count(patients: Patients, group: Group) -> int:
    return sum(map(group, chain.from_iterable(patients)))


def _means(patients: Patients, group: Group) -> list[Estimate]:
    """Of each of COLUMNS over patients."""
    return [mean_of(scores_of(patients, group, column.method, column.metric.name)) for column in COLUMNS]


def _group_figures(patients: Patients, group: Group) -> dict[str, Any]:
    """The number of forecasts, and the mean of each of COLUMNS."""
    names = [f"{column.metric.name}_{column.method}" for column in COLUMNS]
    return {"forecasts": _count(patients, group)} | dict(zip(names, _means(patients, group), strict=True))


def _from_all(patients: Patients) -> Floats:
    """(P,) CRPS from all scans."""
    every = [[max(forecasts, key=lambda row: row["given"])] for forecasts in patients]
    return _crps(every, lambda _: True)


def _from_last(patients: Patients, count: int) -> Floats:
    """(P,) CRPS from the last `count` scans."""
    return _crps(patients, partial(_is, GivenScans.LAST, count))


def _from_fewer(patients: Patients, count: int) -> Floats:
    """(P,) CRPS from the last `count` scans, NaN for patients who have no more."""
    more = np.array([max(row["given"] for row in forecasts) > count for forecasts in patients])
    return np.where(more, _from_last(patients, count), np.nan)


def figures_of(patients: Patients) -> Row:
    """Everything in the tables."""
    lasts = {
        str(count): _group_figures(patients, group)
        | {"crps_less_that_from_all": difference(_from_fewer(patients, count), _from_all(patients))}
        for count, group in by_count(patients).items()
    }
    others = {
        f"{kind} {count}": _group_figures(patients, group) for (kind, count), group in by_choice(patients).items()
    }
    groups = {"horizon": by_days("horizon_days"), "gap": by_days("longest_gap_days"), "spacing": by_spacing()}
    binned = {
        name: {label: _group_figures(patients, group) for label, group in bins.items()} for name, bins in groups.items()
    }
    return {"last": lasts, "others": others} | binned


def tables_of(patients: Patients) -> list[Table]:
    """All tables."""
    return [
        _count_table(patients),
        _choice_table(patients),
        _table("By horizon: days from the latest scan given to the target", "days", patients, by_days("horizon_days")),
        _table("By the longest gap between the scans given", "days", patients, by_days("longest_gap_days")),
        _table("By spacing: variation of the intervals, the one ahead included", "spacing", patients, by_spacing()),
    ]


def _cells(patients: Patients, group: Group) -> tuple[str, ...]:
    means = _means(patients, group)
    cells = (estimate_cell(mean, column.metric.digits) for mean, column in zip(means, COLUMNS, strict=True))
    return (str(_count(patients, group)), str(means[0].patients), *cells)


def _table(title: str, first: str, patients: Patients, groups: dict[str, Group]) -> Table:
    return Table(title, (first, *HEADS), [(label, *_cells(patients, group)) for label, group in groups.items()])


def _count_table(patients: Patients) -> Table:
    lines = [
        (
            str(count),
            *_cells(patients, group),
            difference(_from_fewer(patients, count), _from_all(patients)).text(3, higher_is_better=False),
        )
        for count, group in by_count(patients).items()
    ]
    title = "From the last scans: what more of them give"
    return Table(title, ("scans given", *HEADS, "CRPS minus that from all"), lines, f"{NOTE} {PAIRED_NOTE}")


def _choice_table(patients: Patients) -> Table:
    lines = [
        (
            LABELS[kind],
            str(count),
            *_cells(patients, group),
            difference(_crps(patients, group), _from_last(patients, count)).text(3, higher_is_better=False),
        )
        for (kind, count), group in by_choice(patients).items()
    ]
    title = "From other scans than the last: what irregular follow-up costs"
    return Table(title, ("scans", "given", *HEADS, "CRPS minus that from as many last ones"), lines, PAIRED_NOTE)


def answer_of(patients: Patients) -> str:
    """The question and its answer."""
    means = {count: mean_of(_crps(patients, group)) for count, group in by_count(patients).items()}
    by_number = ", ".join(
        f"{count}: {mean.value:.3f} ({counted(mean.patients, 'patient')})" for count, mean in means.items()
    )
    lost = difference(_from_fewer(patients, 1), _from_all(patients))
    kept, without = _cost(patients, GivenScans.THINNED), _cost(patients, GivenScans.OLDER)
    return (
        f"How do forecasts of the last scan fare with few or irregular scans? {counted(len(patients), 'patient')}. "
        "CRPS of the "
        f"combined forecast by the number of last scans given: {by_number}. CRPS from one scan minus that from all: "
        f"{lost.estimate.text(3, signed=True)} (p {lost.p:.2g}). From other scans minus that from as many last "
        f"ones: {kept} where the latest is kept, {without} where it is not."
    )


def _cost(patients: Patients, kind: GivenScans) -> str:
    """CRPS from scans of a kind less that from as many last ones, mean over a patient's forecasts."""
    cost = difference(np.array([_mean_cost(forecasts, kind) for forecasts in patients]), np.zeros(len(patients)))
    estimate = cost.estimate
    return f"{estimate.text(3, signed=True)} (p {cost.p:.2g})" if estimate.patients else "not measured"


def _mean_cost(forecasts: list[Row], kind: GivenScans) -> float:
    crps = of_method(forecasts, SizeMethod.COMBINED, "crps").tolist()
    of_last = {
        row["given"]: value for row, value in zip(forecasts, crps, strict=True) if row["kind"] == GivenScans.LAST
    }
    costs = [value - of_last[row["given"]] for row, value in zip(forecasts, crps, strict=True) if row["kind"] == kind]
    return patient_mean(costs)


def _pictures(patients: Patients) -> list[ReportPicture]:
    return [
        ReportPicture(
            "scans",
            "CRPS and share of truths in the 90 % interval by how many of the last scans are given, with 95 % "
            "intervals over patients; patients with more scans are fewer.",
            partial(draw_by_count, _crps_and_coverage(patients)),
        ),
        ReportPicture(
            "horizon",
            "Error of the combined forecast's median by the days from the latest scan given, a point a forecast; "
            "filled: the last scans are given, open: others.",
            partial(draw_by_horizon, [_dots(patients, kind) for kind in GivenScans]),
        ),
    ]


def _crps_and_coverage(patients: Patients) -> dict[str, dict[int, tuple[Estimate, Estimate]]]:
    """By method and by how many last scans are given."""

    def mean(group: Group, method: SizeMethod, name: str) -> Estimate:
        return mean_of(scores_of(patients, group, method, name))

    return {
        method.plain_label: {
            count: (mean(group, method, "crps"), mean(group, method, "covered"))
            for count, group in by_count(patients).items()
        }
        for method in METHODS
    }


def _dots(patients: Patients, kind: GivenScans) -> HorizonDots:
    rows = [row for row in chain.from_iterable(patients) if row["kind"] == kind]
    return HorizonDots(
        filled=kind is GivenScans.LAST,
        horizon_days=[row["horizon_days"] for row in rows],
        error=of_method(rows, SizeMethod.COMBINED, "error").tolist(),
        given=[row["given"] for row in rows],
    )
