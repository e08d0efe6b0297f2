"""What forecasts from few or irregular scans say together: by how many were given, which ones, horizon and spacing."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tumorcast.evaluation.experiments.experiment import Table
from tumorcast.evaluation.experiments.size_methods import SizeMethod
from tumorcast.evaluation.experiments.size_scores import cell, compared, mean_within
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import Estimate, difference, mean_of
from tumorcast.evaluation.statistics import patient_mean
from tumorcast.growth.study import IRREGULAR, REGULAR

Floats = npt.NDArray[np.float64]
Patients = Sequence[list[Figures]]  # the forecasts of each
Group = Callable[[Figures], bool]  # whether a forecast belongs to it

METHODS = (SizeMethod.POOLED, SizeMethod.MECHANISTIC, SizeMethod.PERSISTENCE)
DAY_BINS = (0.0, 60.0, 120.0, 240.0, float("inf"))
SPACINGS = {"regular": (0.0, REGULAR), "uneven": (REGULAR, IRREGULAR), "irregular": (IRREGULAR, float("inf"))}


class Kind(StrEnum):
    """Which scans are given: the last ones; others, the latest among them; others without the latest."""

    LAST = "last"
    THINNED = "thinned"
    OLDER = "older"


TOLD = {Kind.LAST: "the last", Kind.THINNED: "others, the latest kept", Kind.OLDER: "others, without the latest"}


class Column(NamedTuple):
    """A figure of a method in the tables."""

    head: str
    digits: int
    method: SizeMethod
    figure: str


COLUMNS = (
    Column("error, log", 2, SizeMethod.POOLED, "error"),
    Column("CRPS", 3, SizeMethod.POOLED, "crps"),
    Column("CRPS, growth law", 3, SizeMethod.MECHANISTIC, "crps"),
    Column("CRPS, persistence", 3, SizeMethod.PERSISTENCE, "crps"),
    Column("truth in the 90 % interval", 2, SizeMethod.POOLED, "covered"),
    Column("the same, growth law", 2, SizeMethod.MECHANISTIC, "covered"),
    Column("width, log", 2, SizeMethod.POOLED, "width"),
)
HEADS = ("forecasts", "patients", *(one.head for one in COLUMNS))
NOTE = (
    "Of the pooled forecast unless another is named. A patient is the unit: its forecasts in a line are averaged "
    "first. log: of size + 100 mm³. Less CRPS is better."
)
PAIRED = "✔ better and ✘ worse than the other, and the interval excludes zero; p: Wilcoxon's signed-rank test."


def by_count(patients: Patients) -> dict[int, Group]:
    """Forecasts from the last scans, by how many."""
    counts = sorted({one["given"] for patient in patients for one in patient if one["kind"] == Kind.LAST})
    return {count: partial(_is, Kind.LAST, count) for count in counts}


def by_choice(patients: Patients) -> dict[tuple[Kind, int], Group]:
    """Forecasts from other scans, by which and how many."""
    counts = sorted({one["given"] for patient in patients for one in patient})
    every = {(kind, count): partial(_is, kind, count) for kind in (Kind.THINNED, Kind.OLDER) for count in counts}
    return {key: group for key, group in every.items() if any(map(group, chain.from_iterable(patients)))}


def _is(kind: Kind, given: int, one: Figures) -> bool:
    return bool(one["kind"] == kind and one["given"] == given)


def by_days(name: str) -> dict[str, Group]:
    """By a number of days, in DAY_BINS."""
    return {
        f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more": partial(_within, name, low, high)
        for low, high in pairwise(DAY_BINS)
    }


def by_spacing() -> dict[str, Group]:
    """By how irregular the intervals are, that to the target among them; one scan has no spacing."""
    return {label: partial(_within, "irregularity", *span) for label, span in SPACINGS.items()}


def _within(name: str, low: float, high: float, one: Figures) -> bool:
    return one[name] is not None and low <= one[name] < high


def values_of(patients: Patients, wanted: Group, method: SizeMethod, name: str) -> Floats:
    """(P,) the mean of a figure over each patient's forecasts of a group; NaN for a patient without any."""
    return np.array([mean_within(filter(wanted, one), method, name) for one in patients])


def _crps(patients: Patients, wanted: Group) -> Floats:
    return values_of(patients, wanted, SizeMethod.POOLED, "crps")


def _means(patients: Patients, wanted: Group) -> dict[str, Any]:
    """How many forecasts, and the mean of each of COLUMNS."""
    count = sum(wanted(one) for patient in patients for one in patient)
    return {"forecasts": count} | {
        f"{one.figure}_{one.method}": mean_of(values_of(patients, wanted, one.method, one.figure)) for one in COLUMNS
    }


def _from_all(patients: Patients) -> Floats:
    """(P,) CRPS from all scans."""
    return np.array([_crps([[max(one, key=lambda made: made["given"])]], lambda _: True)[0] for one in patients])


def _from_fewer(patients: Patients, count: int) -> Floats:
    """(P,) CRPS from the last `count` scans, NaN for patients who have no more."""
    more = np.array([max(made["given"] for made in one) > count for one in patients])
    return np.where(more, _crps(patients, partial(_is, Kind.LAST, count)), np.nan)


def figures_of(patients: Patients) -> Figures:
    """Everything in the tables."""
    lasts = {
        str(count): _means(patients, one)
        | {"crps_less_that_from_all": difference(_from_fewer(patients, count), _from_all(patients))}
        for count, one in by_count(patients).items()
    }
    groups = {"horizon": by_days("horizon_days"), "gap": by_days("longest_gap_days"), "spacing": by_spacing()}
    return {
        "last": lasts,
        "others": {f"{kind} {n}": _means(patients, one) for (kind, n), one in by_choice(patients).items()},
    } | {name: {label: _means(patients, one) for label, one in group.items()} for name, group in groups.items()}


def tables_of(patients: Patients) -> list[Table]:
    """All tables."""
    return [
        _count_table(patients),
        _choice_table(patients),
        _table("By horizon: days from the latest scan given to the target", "days", patients, by_days("horizon_days")),
        _table("By the longest gap between the scans given", "days", patients, by_days("longest_gap_days")),
        _table("By spacing: variation of the intervals, the one ahead included", "spacing", patients, by_spacing()),
    ]


def _cells(patients: Patients, wanted: Group) -> tuple[str, ...]:
    found = [mean_of(values_of(patients, wanted, one.method, one.figure)) for one in COLUMNS]
    forecasts = sum(wanted(one) for patient in patients for one in patient)
    cells = (cell(one, column.digits) for one, column in zip(found, COLUMNS, strict=True))
    return (str(forecasts), str(found[0].patients), *cells)


def _table(title: str, first: str, patients: Patients, groups: dict[str, Group]) -> Table:
    return Table(title, (first, *HEADS), [(label, *_cells(patients, one)) for label, one in groups.items()])


def _count_table(patients: Patients) -> Table:
    lines = [
        (str(count), *_cells(patients, one), compared(_from_fewer(patients, count), _from_all(patients), 3))
        for count, one in by_count(patients).items()
    ]
    title = "From the last scans: what more of them give"
    return Table(title, ("scans given", *HEADS, "CRPS minus that from all"), lines, f"{NOTE} {PAIRED}")


def _choice_table(patients: Patients) -> Table:
    lines = [
        (
            TOLD[kind],
            str(count),
            *_cells(patients, one),
            compared(_crps(patients, one), _crps(patients, partial(_is, Kind.LAST, count)), 3),
        )
        for (kind, count), one in by_choice(patients).items()
    ]
    title = "From other scans than the last: what irregular follow-up costs"
    return Table(title, ("scans", "given", *HEADS, "CRPS minus that from as many last ones"), lines, PAIRED)


def answer_of(patients: Patients) -> str:
    """The question and its answer."""
    means = {count: mean_of(_crps(patients, one)) for count, one in by_count(patients).items()}
    told = ", ".join(f"{count}: {one.value:.3f} ({one.patients} patients)" for count, one in means.items())
    lost = difference(_from_fewer(patients, 1), _from_all(patients))
    kept, without = _cost(patients, Kind.THINNED), _cost(patients, Kind.OLDER)
    return (
        f"How do forecasts of the last scan fare with few or irregular scans? {len(patients)} patients. CRPS of the "
        f"pooled forecast by the number of last scans given: {told}. CRPS from one scan minus that from all: "
        f"{lost.estimate.told(3, signed=True)} (p {lost.p:.2g}). From other scans minus that from as many last "
        f"ones: {kept} where the latest is kept, {without} where it is not."
    )


def _cost(patients: Patients, kind: Kind) -> str:
    """CRPS from scans of a kind less that from as many last ones, mean over a patient's forecasts."""
    found = difference(np.array([_mean_cost(one, kind) for one in patients]), np.zeros(len(patients)))
    told = found.estimate.told(3, signed=True)
    return f"{told} (p {found.p:.2g})" if found.estimate.patients else "not measured"


def _mean_cost(forecasts: list[Figures], kind: Kind) -> float:
    crps = {(one["kind"], one["given"]): one["methods"][str(SizeMethod.POOLED)]["crps"] for one in forecasts}
    chosen = [one for one in forecasts if one["kind"] == kind]
    return patient_mean(
        [one["methods"][str(SizeMethod.POOLED)]["crps"] - crps[str(Kind.LAST), one["given"]] for one in chosen]
    )


def lines_of(patients: Patients) -> dict[str, dict[int, dict[str, Estimate]]]:
    """CRPS and coverage by how many last scans are given, by method."""
    return {
        method.told: {
            count: {name: mean_of(values_of(patients, one, method, name)) for name in ("crps", "covered")}
            for count, one in by_count(patients).items()
        }
        for method in METHODS
    }
