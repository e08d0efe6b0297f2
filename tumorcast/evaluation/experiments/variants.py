"""Tables of several ways to do one thing, by the same figures of the same patients: a patient is the unit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tumorcast.evaluation.experiments.experiment import Table
from tumorcast.evaluation.experiments.judged import Measure
from tumorcast.evaluation.metrics import Floats
from tumorcast.evaluation.paired import difference, mean_of

Values = Mapping[str, Mapping[str, Floats]]
DIFFERENCE_NOTE = "Paired over the patients that have both; p of Wilcoxon's signed-rank test, not corrected."


def numbers(found: Sequence[Any]) -> Floats:
    """(P,) a figure of every patient as JSON held it: null is NaN."""
    return np.array([np.nan if one is None else one for one in found], np.float64)


def values_of(rows: Sequence[Mapping[str, Any] | None], measures: Sequence[Measure]) -> dict[str, Floats]:
    """(P,) by figure, of one variant; a patient without a row, or a row without the figure, has NaN."""
    return {measure.name: numbers([(row or {}).get(measure.name) for row in rows]) for measure in measures}


def means_table(title: str, values: Values, measures: Sequence[Measure], note: str) -> Table:
    """A row a figure that some patient has, a column a variant: the mean over patients, with its interval."""
    rows = [
        (one.told, *(mean_of(found[one.name]).told(one.digits) for found in values.values()))
        for one in _shown(values, measures)
    ]
    counts = ("patients", *(str(_patients(found)) for found in values.values()))
    return Table(title, ("", *values), [*rows, counts], note)


def differences_table(title: str, values: Values, reference: str, measures: Sequence[Measure]) -> Table:
    """A row a figure, a column a variant but the reference: the variant less it, with its interval and p."""
    others = {name: found for name, found in values.items() if name != reference}
    rows = [
        (one.told, *(_told(found[one.name], values[reference][one.name], one.digits) for found in others.values()))
        for one in _shown(values, measures)
    ]
    return Table(title, (f"less {reference}", *others), rows, DIFFERENCE_NOTE)


def as_figures(values: Values, reference: str, measures: Sequence[Measure]) -> dict[str, Any]:
    """What both tables tell: by variant and figure the mean, and the difference to the reference."""
    return {
        name: {
            one.name: {
                "mean": mean_of(found[one.name]),
                "less_reference": difference(found[one.name], values[reference][one.name]),
            }
            for one in measures
        }
        for name, found in values.items()
    }


def _shown(values: Values, measures: Sequence[Measure]) -> list[Measure]:
    return [one for one in measures if any(not np.isnan(found[one.name]).all() for found in values.values())]


def _patients(found: Mapping[str, Floats]) -> int:
    return int(np.any([~np.isnan(values) for values in found.values()], axis=0).sum())


def _told(ours: Floats, other: Floats, digits: int) -> str:
    found = difference(ours, other)
    told = found.estimate.told(digits, signed=True)
    return told if found.estimate.patients == 0 else f"{told}, p {found.p:.2g}"
