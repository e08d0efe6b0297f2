"""Sudden drops of size, which are operations that the table does not tell."""

from dataclasses import replace
from itertools import pairwise

from tumorcast.records import SizeSeries

DROP_DAYS = 150.0  # a fall that took longer may be a response


def with_sudden_drops(series: SizeSeries, ratio: float | None) -> tuple[SizeSeries, tuple[str, ...]]:
    """The series with a resection midway before each scan that fell to less than `ratio` of the one before.

    Nothing in the law shrinks a tumour so fast: it must have been operated on. Only falls within DROP_DAYS count, to
    sizes that can be seen, and none where a resection is known between the two. Returns notes that tell of them; with
    `ratio` None nothing is inferred.
    """
    if ratio is None:
        return series, ()
    known = series.treatment.resection_days
    found, notes = [], []
    for (day_a, size_a), (day_b, size_b) in pairwise(zip(series.days, series.sizes, strict=True)):
        fell = 0 < size_b < ratio * size_a and day_b - day_a <= DROP_DAYS
        if fell and not any(day_a <= day < day_b for day in known):
            found.append(float(0.5 * (day_a + day_b)))
            fall = f"from day {day_a:g} to day {day_b:g} the size fell from {size_a:g} to {size_b:g}"
            notes.append(f"{fall}: taken for a resection")
    treatment = replace(series.treatment, resection_days=tuple(sorted([*known, *found])))
    return replace(series, treatment=treatment), tuple(notes)
