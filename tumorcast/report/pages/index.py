"""The index of a report: a row a patient, which the page sorts and searches, and the evaluation of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tumorcast.evaluation.failure_flags import Failure
from tumorcast.records import Status, count_by_status
from tumorcast.report.pages import words
from tumorcast.report.pages.evaluation import COLUMNS, EvaluationFile
from tumorcast.report.pages.html import render
from tumorcast.report.pages.patient import IndexRow, provenance_of, settings_of
from tumorcast.report.pages.svg import Axis

FOLDER = "patients"  # of the pages, in the report's folder
BAR_PIXELS, BAR_MARGIN = 84.0, 4.0
LEAST_SPAN = (0.5, 2.0)  # of the later area over the present one, which the bars show at least
LEAST_RATIO = 0.1  # below it the tumour is all but gone, and the bars end
STATUS_ORDER = (Status.FAILED, Status.SKIPPED, Status.OK)  # what needs a look first


@dataclass(frozen=True)
class Bar:
    """The predicted growth of a patient as a bar from the 5 to the 95 % point of members, in pixels."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, row: IndexRow, axis: Axis) -> Self | None:
        """None where no growth is known."""
        if row.growth is None:
            return None
        return cls(*(axis.inside(_log(one)) for one in (row.growth.low, row.growth.median, row.growth.high)))


def index_page(
    rows: Sequence[IndexRow], provenance: Mapping[str, Any], seal: str, evaluation: EvaluationFile | None
) -> str:
    """The index of these patients, in their order. provenance, seal: of the archive."""
    axis = _axis(rows)
    found = {flag: sum(flag in row.flags for row in rows) for flag in map(str, Failure)}
    return render(
        "index.html",
        rows=rows,
        bars=[Bar.of(row, axis) for row in rows],
        still=axis.inside(0.0),
        bar_pixels=BAR_PIXELS,
        folder=FOLDER,
        counts=count_by_status(row.outcome for row in rows),
        flagged=sum(bool(row.flags) for row in rows),
        flags=[(*words.FLAGS_TOLD[flag], count) for flag, count in found.items() if count],
        status_order=[str(status) for status in STATUS_ORDER],
        evaluation=evaluation,
        columns=COLUMNS,
        settings=settings_of(provenance),
        provenance=provenance_of(provenance, seal),
    )


def _axis(rows: Sequence[IndexRow]) -> Axis:
    """The axis of all bars, in logarithms: half of the area is as far from no change as twice the area."""
    growths = [row.growth for row in rows if row.growth is not None]
    low = min([LEAST_SPAN[0], *(one.low for one in growths)])
    high = max([LEAST_SPAN[1], *(one.high for one in growths)])
    return Axis(_log(low), _log(high), BAR_MARGIN, BAR_PIXELS - BAR_MARGIN)


def _log(ratio: float) -> float:
    return float(np.log(max(ratio, LEAST_RATIO)))
