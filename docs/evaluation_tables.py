"""Write the tables of definitions in docs/evaluation.md, from the docstrings of tumorcast/evaluation/metrics.py.

.venv/bin/python docs/evaluation_tables.py            writes them
.venv/bin/python docs/evaluation_tables.py --check    ends with 1 if the page is not current

A table stands between the lines `<!-- metrics NAME: … -->` and `<!-- end -->`; NAME is one of TABLES.
"""

import re
import sys
from pathlib import Path

from tumorcast.evaluation.metrics import (
    AP,
    AUC,
    BRIER,
    CONTINUOUS_DICE,
    COVERAGE,
    COVERAGE_90,
    DICE,
    DICE_HALF,
    DIRECTION,
    ECE,
    EXPECTED_SHARE,
    HD95,
    MEDIAN_ERROR,
    NRMSE,
    PLAN_COVERAGE,
    PSNR,
    R2,
    RECALL_NEW,
    SSIM,
    SURFACE,
    Metric,
)
from tumorcast.evaluation.tables import markdown_table

PAGE = Path(__file__).with_name("evaluation.md")
TABLES = {
    "place": (AP, AUC, DICE, HD95, SURFACE, DIRECTION, COVERAGE, PLAN_COVERAGE),
    "probability": (ECE, BRIER, CONTINUOUS_DICE, DICE_HALF),
    "volumes": (RECALL_NEW, EXPECTED_SHARE),
    "images": (SSIM, PSNR),
    "sizes": (R2, NRMSE, MEDIAN_ERROR, COVERAGE_90),
}
HEADS = ("figure", "in JSON", "range", "better", "definition", "where there is no value")
TABLE = re.compile(r"(<!-- metrics (\w+):[^\n]*-->\n)(.*?)(<!-- end -->)", re.S)


def row(metric: Metric) -> tuple[str, ...]:
    """A metric's line."""
    least, most = (f"{end:g}".replace("-", "−").replace("inf", "∞") for end in metric.support)
    best = re.search(r"([\d.]+) is best", metric.summary)
    better = {True: "more", False: "less", None: best[1] if best else ""}[metric.higher_is_better]
    reference = metric.part("Reference")
    definition = metric.part("Formula") + ("" if reference == "ours." else f" {reference}")
    cells = (metric.label, f"`{metric.name}`", f"{least} … {most}", better, definition, metric.part("Missing"))
    return tuple(cell.replace("|", "\\|") for cell in cells)


def current(text: str) -> str:
    """The page with the tables as the docstrings say now."""
    return TABLE.sub(
        lambda found: f"{found[1]}{markdown_table(HEADS, [row(one) for one in TABLES[found[2]]])}{found[4]}", text
    )


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        if page != current(page):
            sys.exit(f"{PAGE}: not current; run docs/evaluation_tables.py")
    else:
        PAGE.write_text(current(page), encoding="utf-8")
