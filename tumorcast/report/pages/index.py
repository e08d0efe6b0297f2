"""The index of a report: a row a patient, which the page sorts and searches, and the evaluation of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tumorcast.records import Status, count_by_status
from tumorcast.report.pages import words
from tumorcast.report.pages.evaluation import COLUMNS, EvaluationFile
from tumorcast.report.pages.patient import IndexRow, provenance_of, settings_of
from tumorcast.report.pages.render import render

FOLDER = "patients"  # of the pages, in the report's folder
BAR_PIXELS, BAR_MARGIN = 84.0, 4.0
LEAST_SPAN = (0.5, 2.0)  # of the later size over the present one, which the bars show at least
LEAST_RATIO = 0.1  # below it the tumour is all but gone, and the bars end
PixelScale = Callable[[float], float]  # from a later size over the present one
STATUS_ORDER = (Status.FAILED, Status.SKIPPED, Status.OK)  # what needs a look first


@dataclass(frozen=True)
class Bar:
    """The predicted growth of a patient as a bar from the 5 to the 95 % point of members, in pixels."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, row: IndexRow, pixel: PixelScale) -> Self | None:
        """None where no growth is known."""
        if row.growth is None:
            return None
        return cls(pixel(row.growth.low), pixel(row.growth.median), pixel(row.growth.high))


def index_page(
    rows: Sequence[IndexRow], provenance: Mapping[str, Any], seal: str, evaluation: EvaluationFile | None
) -> str:
    """The index of these patients, in their order. provenance, seal: of the archive."""
    pixel = _pixel_scale(rows)
    flag_counts = {flag: sum(flag in row.all_flags for row in rows) for flag in words.FLAG_TEXTS}
    return render(
        "index.html",
        rows=rows,
        with_volumes=any(row.volumes for row in rows),
        with_areas=any(row.page and not row.volumes for row in rows) or not any(row.page for row in rows),
        with_flags=any(row.sizes or row.all_flags for row in rows) or not any(row.page for row in rows),
        bars=[Bar.of(row, pixel) for row in rows],
        still=pixel(1.0),
        bar_pixels=BAR_PIXELS,
        folder=FOLDER,
        counts=count_by_status(row.outcome for row in rows),
        flagged=sum(bool(row.all_flags) for row in rows),
        flags=[(*words.FLAG_TEXTS[flag], count) for flag, count in flag_counts.items() if count],
        status_order=[str(status) for status in STATUS_ORDER],
        evaluation=evaluation,
        columns=COLUMNS,
        settings=settings_of(provenance),
        provenance=provenance_of(provenance, seal),
    )


def _pixel_scale(rows: Sequence[IndexRow]) -> PixelScale:
    """Pixels of changes on all bars, logarithmic: half of the size is as far from no change as twice the size."""
    growths = [row.growth for row in rows if row.growth is not None]
    low = max(min([LEAST_SPAN[0], *(growth.low for growth in growths)]), LEAST_RATIO)
    high = max([LEAST_SPAN[1], *(growth.high for growth in growths)])
    ends, pixels = np.log([low, high]), (BAR_MARGIN, BAR_PIXELS - BAR_MARGIN)
    return lambda ratio: round(float(np.interp(np.log(max(ratio, LEAST_RATIO)), ends, pixels)), 1)
