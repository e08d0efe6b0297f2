"""What is written of an evaluation: evaluation.json, evaluation.md, rows.csv and two figures."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.durable import written_whole
from tumorcast.evaluation.archive_page import page
from tumorcast.evaluation.archive_summary import PatientSizes, Summaries
from tumorcast.evaluation.evaluate import Evaluation
from tumorcast.evaluation.growth_metrics import THRESHOLDS
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.run import plain

LISTS = ("reliability", "reliability_near", "dice_by_threshold")  # for evaluation.json alone


def write_evaluation(out: Path, found: Evaluation) -> Summaries:
    """evaluation.json, evaluation.md, rows.csv, reliability.png and sizes.png in folder `out`; returns the tables."""
    from tumorcast.evaluation.archive_figures import draw_reliability, draw_sizes  # noqa: PLC0415 - matplotlib is slow

    together = Summaries.of(found.rows)
    told = found.record | {"notes": found.notes, "outcomes": found.outcomes} | vars(together) | {"patients": found.rows}
    _write(out / "evaluation.json", json.dumps(plain(told), indent=1) + "\n")
    _write(out / "evaluation.md", page(found, together))
    _write(out / "rows.csv", rows_csv(found.rows))
    draw_reliability(found.rows, out / "reliability.png")
    draw_sizes(PatientSizes.of(found.rows), out / "sizes.png")
    return together


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def rows_csv(rows: Sequence[Figures]) -> str:
    """A line a slice and method; an empty cell where a figure has no value."""
    lines = [line for row in rows for one in row["slices"] for line in _lines(row, one)]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(row: Figures, one: Figures) -> list[dict[str, Any]]:
    common = {name: row[name] for name in ("patient_id", "session", "later_session", "days", "days_off")}
    areas = one["areas"]
    common |= {"slice": one["slice"], "present_mm2": areas["present_mm2"], "true_mm2": areas["true_mm2"]}
    common |= {"aimed_mm2": float(np.median(areas["aimed_mm2"])), "pixels_given": one["pixels_given"]}
    return [
        common | {"method": method} | {name: _cell(value) for name, value in _numbers(figures).items()}
        for method, figures in one["methods"].items()
    ]


def _numbers(figures: Figures) -> Figures:
    by_threshold = zip(THRESHOLDS, figures.get("dice_by_threshold", ()), strict=False)
    plain_ones = {name: value for name, value in figures.items() if name not in LISTS}
    return plain_ones | {f"dice_at_{threshold:g}": value for threshold, value in by_threshold}


def _cell(value: float) -> float | str:
    return "" if np.isnan(value) else value
