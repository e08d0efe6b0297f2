"""Noise level against strength of the guidance, as in the paper's Fig. 2: what changes as asked, and what is preserved.

A unit is a patient and a cell of the grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, assert_never

import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.errors import InputError, UsageError
from tumorcast.evaluation.baselines import Method, MethodMap, distance_mm, product_map
from tumorcast.evaluation.experiments.base import Findings, ReportPicture, Row, Table, spread_by_value, unit_name
from tumorcast.evaluation.experiments.followup_source import LatestFollowUps, forecast_ratios
from tumorcast.evaluation.experiments.plots import draw_trade_off
from tumorcast.evaluation.experiments.report_tables import values_of
from tumorcast.evaluation.experiments.slice_plots import (
    MOST_SHOWN,
    SheetCell,
    SliceExample,
    channel_shown,
    draw_sheet,
)
from tumorcast.evaluation.failure_flags import reach_of
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.metrics import AP, DICE, HD95, INTENSITY_RANGE, SSIM, Mask, Metric, ssim
from tumorcast.evaluation.score import by_metric, members_of, outside_tumour, score_maps
from tumorcast.evaluation.statistics import Estimate, mean_of, median_of, patient_mean
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings


def mean_change(difference: Any, inside: Mask) -> float:
    """Mean |difference| of two images (C, H, W) within a region (H, W); NaN where it is empty."""
    return float(np.abs(difference[:, inside]).mean()) if inside.any() else float("nan")


VARIED = ("preset", "guidance", "noise_level", "gain", "scale")
SCALES = (10_000.0, 50_000.0, 100_000.0, 200_000.0)  # the paper's: 50 000 in its text, 200 000 in its code
METRICS = (
    Metric("reach", "reach", 2, None, (-float("inf"), float("inf")), reach_of),
    SSIM.called("ssim_outside", "SSIM outside"),
    Metric("change_inside", "change inside", 3, None, (0.0, INTENSITY_RANGE), mean_change),
    Metric("change_outside", "change outside", 3, False, (0.0, INTENSITY_RANGE), mean_change),
    AP.called("ap_images", "AP, images segmented"),
    DICE.called("dice_images", "Dice, images"),
    HD95.called("hd95_images_mm", "HD95 mm, images", 1),
    AP.called("ap_change", "AP, images' change"),
    AP.called("ap_growth", "AP, growth map"),
)
NOTE = (
    "Over patients, with 95 % bootstrap intervals; reach is a median, all else means. Reach: area gained over area "
    "wanted, by the segmenter, which does not guide. Outside: the brain without the present, the later and the "
    "generated tumour, widened by half an SSIM window; inside: the rest of the brain. SSIM: members to the present "
    "scan. Change: mean |member − present scan|, images being in [−1, 1]. Against the later scan, where there is one: "
    "AP for new tumour outside the present outline, Dice and HD95 of the outline at the true area. Images' change is "
    "what the paper's map is made of; the growth map has the progression network, where the model has one."
)
REACHED = (0.75, 1.25)  # medians between these count as the change that was asked for

Rows = Mapping[str, tuple[str, Row]]
"""By patient, the unit and its row."""


@dataclass(frozen=True)
class GridCell:
    """A cell of the grid. strength: gain, or s_R under the paper's guidance."""

    noise_level: int
    guidance: Guidance
    strength: float

    @property
    def name(self) -> str:
        """The cell's name in a unit's.

        >>> GridCell(200, Guidance.PAPER, 5e4).name, GridCell(100, Guidance.NORMALISED, 0.5).name
        ('NL200-s50000', 'NL100-g0.5')
        """
        sign = "s" if self.guidance is Guidance.PAPER else "g"
        return f"NL{self.noise_level}-{sign}{np.format_float_positional(self.strength, trim='-')}"

    @property
    def strength_label(self) -> str:
        """The strength with its symbol."""
        return f"{'s_R' if self.guidance is Guidance.PAPER else 'gain'} {self.strength:,g}".replace(",", " ")

    @property
    def label(self) -> str:
        """The cell in words."""
        return f"NL {self.noise_level}, {self.strength_label}"


def cells_of(noise_levels: Sequence[int], guidance: Guidance, strengths: Sequence[float]) -> tuple[GridCell, ...]:
    """Every noise level with every strength, both ascending."""
    return tuple(
        GridCell(level, guidance, strength) for level in sorted(noise_levels) for strength in sorted(strengths)
    )


def cell_settings(cell: GridCell, base: ForecastSettings) -> ForecastSettings:
    """`base` in a cell; under the paper's guidance the sampler is the paper's. Raises UsageError if they clash."""
    match cell.guidance:
        case Guidance.PAPER:
            sampler = SamplerSettings.paper(cell.noise_level, cell.strength).model_dump()
        case Guidance.NORMALISED:
            changed = {"noise_level": cell.noise_level, "guidance": cell.guidance, "gain": cell.strength}
            sampler = base.sampler.model_dump() | changed
        case _:
            assert_never(cell.guidance)
    return ForecastSettings.of(base.model_dump() | {"sampler": sampler}, f"grid, {cell.label}")


@dataclass(frozen=True)
class GridExperiment:
    """The experiment. Raises UsageError for cells that the settings or the model do not allow."""

    source: LatestFollowUps
    cells: tuple[GridCell, ...]
    name: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        """Check every cell before the first one is tried."""
        base = self.source.settings
        if self.cells[0].guidance is Guidance.PAPER and base.sampler != SamplerSettings():
            raise UsageError(
                "the paper's guidance (--scale) goes with the paper's sampler, which takes every step; leave out "
                "--steps and [sampler], or give --gain"
            )
        for cell in self.cells:
            self.source.check_level(cell.noise_level)
            cell_settings(cell, base)

    def provenance(self) -> dict[str, Any]:
        """The cells are not in it: each row is of one, and the grid can be widened."""
        record = self.source.provenance()
        sampler = {name: value for name, value in record["settings"]["sampler"].items() if name not in VARIED}
        return record | {"settings": record["settings"] | {"sampler": sampler}}

    def units(self) -> Sequence[str]:
        """Patient after patient, each in every cell."""
        return [_unit(patient_id, cell) for patient_id in self.source.patient_ids() for cell in self.cells]

    def measure(self, unit: str, pictures: Path) -> Row:
        """See METRICS."""
        patient_id, cell = self._by_unit[unit]
        followup, settings = self.source.followup(patient_id), cell_settings(cell, self.source.settings)
        ratios = np.full(settings.members, self.source.target_ratio(followup))
        forecast = forecast_ratios(followup, ratios, self.source.engine, settings)
        outside = outside_tumour(followup, members_of(forecast), self.source.engine, settings.batch)
        channel = channel_shown(self.source.cohort.contrasts)
        variants = {cell.name: (members_of(forecast)[0, channel], forecast.tumour)}
        SliceExample.of(followup, variants, channel).save(pictures)
        return (
            self.source.row(followup)
            | {"reach": reach_of(forecast)}
            | _preservation(followup, forecast, outside)
            | _agreement_with_later_scan(followup, forecast)
        )

    def report(self, rows: dict[str, Row], pictures: Path) -> Findings:
        """Tables and pictures of all cells, over the patients who have them all; over every patient if none has."""
        of_cells: dict[GridCell, Rows] = {
            cell: {row["patient_id"]: (unit, row) for unit, row in rows.items() if self._by_unit[unit][1] == cell}
            for cell in self.cells
        }
        complete = set.intersection(*(set(of_cell) for of_cell in of_cells.values()))
        if complete:
            of_cells = {
                cell: {patient_id: of_cell[patient_id] for patient_id in of_cell if patient_id in complete}
                for cell, of_cell in of_cells.items()
            }
        return findings(of_cells, pictures)

    @cached_property
    def _by_unit(self) -> dict[str, tuple[str, GridCell]]:
        """The patient and the cell of every unit that there can be."""
        names = self.source.cohort.patient_ids()
        return {_unit(patient_id, cell): (patient_id, cell) for patient_id in names for cell in self.cells}


def _unit(patient_id: str, cell: GridCell) -> str:
    return f"{unit_name(patient_id)}.{cell.name}"


def _preservation(followup: FollowUp, forecast: SliceForecast, outside: list[Mask]) -> Row:
    """Means over members, of the present scan and each of them. outside: of each member, beyond all tumour."""
    present, members = followup.now.image, members_of(forecast)
    inside = [followup.now.brain & ~mask for mask in outside]
    similarities = [ssim(member, present, mask) for member, mask in zip(members, outside, strict=True)]
    return {
        "ssim_outside": patient_mean(similarities),
        "change_inside": patient_mean(list(map(mean_change, members - present, inside))),
        "change_outside": patient_mean(list(map(mean_change, members - present, outside))),
    }


def _agreement_with_later_scan(followup: FollowUp, forecast: SliceForecast) -> Row:
    """Figures of the maps against the later scan; none where it is not there."""
    if not followup.is_known:
        return {}
    change = np.abs(members_of(forecast) - followup.now.image).sum(axis=1).mean(axis=0)
    maps = {
        Method.PRODUCT: product_map(forecast, distance_mm(followup)),
        Method.GENERATED: MethodMap(forecast.tumour),
        Method.CHANGED: MethodMap(change),
    }
    scores = score_maps(followup, maps, int((followup.later.labels > 0).sum()))
    images = by_metric(scores, Method.GENERATED)
    return {
        "ap_images": images["ap"],
        "dice_images": images["dice"],
        "hd95_images_mm": images["hd95_mm"],
        "ap_change": by_metric(scores, Method.CHANGED)["ap"],
        "ap_growth": by_metric(scores, Method.PRODUCT)["ap"],
    }


@dataclass(frozen=True)
class CellSummary:
    """A cell's figures over patients, by the names of METRICS."""

    cell: GridCell
    patients: int
    figures: dict[str, Estimate]

    @classmethod
    def of(cls, cell: GridCell, rows: Rows) -> "CellSummary":
        """Over the patients that have the cell."""
        values = values_of([row for _, row in rows.values()], METRICS)
        return cls(cell, len(rows), {n: (median_of if n == "reach" else mean_of)(v) for n, v in values.items()})

    @property
    def reaches(self) -> bool:
        """Whether about the change that was asked for is made."""
        return REACHED[0] <= self.figures["reach"].value <= REACHED[1]

    def has(self, metric: Metric) -> bool:
        """Whether some patient has a value."""
        return self.figures[metric.name].patients > 0

    def as_figures(self) -> Row:
        """For figures.json."""
        cell = self.cell
        record = {"noise_level": cell.noise_level, "guidance": str(cell.guidance), "strength": cell.strength}
        return record | {"patients": self.patients} | self.figures


def findings(of_cells: Mapping[GridCell, Rows], pictures: Path) -> Findings:
    """Tables and pictures. Raises InputError if no cell has a patient."""
    summaries = [CellSummary.of(cell, rows) for cell, rows in of_cells.items() if rows]
    if not summaries:
        raise InputError("no cell of the grid was measured on any patient; wait for more, or give other patients")
    measured = [metric for metric in METRICS if any(summary.has(metric) for summary in summaries)]
    head = ("NL", "strength", "patients", *(metric.label for metric in measured))
    lines = [
        (
            str(summary.cell.noise_level),
            summary.cell.strength_label,
            str(summary.patients),
            *(summary.figures[metric.name].text(metric.digits) for metric in measured),
        )
        for summary in summaries
    ]
    best = best_of(summaries)
    return Findings(
        answer=_answer(summaries, best),
        figures={
            "cells": [summary.as_figures() for summary in summaries],
            "best": None if best is None else best.cell.label,
        },
        tables=[Table("Cells", head, lines, NOTE)],
        pictures=[_trade_off(summaries), *_sheets(of_cells, pictures)],
    )


def best_of(summaries: Sequence[CellSummary]) -> CellSummary | None:
    """Of the cells that make about the change asked for, the one that preserves most; None where none does."""
    reaching = [summary for summary in summaries if summary.reaches]
    return max(reaching, key=lambda summary: np.nan_to_num(summary.figures["ssim_outside"].value), default=None)


def _answer(summaries: Sequence[CellSummary], best: CellSummary | None) -> str:
    patients = max(summary.patients for summary in summaries)
    answer = (
        "Which noise level and which strength of the guidance change the tumour as asked, and leave the rest alone? "
        f"Over {len(summaries)} cells (patients: {patients}), the median reach went {_span(summaries, 'reach', 2)}, "
        f"SSIM outside the tumour {_span(summaries, 'ssim_outside', 3)}. "
    )
    between = f"between {REACHED[0]:g} and {REACHED[1]:g}"
    if best is None:
        best = min(summaries, key=lambda summary: abs(np.nan_to_num(summary.figures["reach"].value) - 1))
        answer += f"No cell's median reach lies {between}; nearest comes {best.cell.label}: "
    else:
        answer += f"Of those whose median reach lies {between}, {best.cell.label} preserves most: "
    reach, kept = best.figures["reach"], best.figures["ssim_outside"]
    return f"{answer}reach {reach.text(2)}, SSIM {kept.text(3)}." + _answer_by_truth(summaries)


def _span(summaries: Sequence[CellSummary], name: str, digits: int) -> str:
    values = [summary.figures[name].value for summary in summaries if summary.figures[name].patients]
    return f"from {min(values):.{digits}f} to {max(values):.{digits}f}" if values else "unmeasured"


def _answer_by_truth(summaries: Sequence[CellSummary]) -> str:
    judged = [summary for summary in summaries if summary.figures["ap_images"].patients]
    if not judged:
        return ""
    top = max(judged, key=lambda summary: summary.figures["ap_images"].value)
    precision = top.figures["ap_images"]
    return (
        f" Judged by the later scan (patients: {precision.patients}), the generated images place new tumour best in "
        f"{top.cell.label}: AP {precision.text(3)}."
    )


def _trade_off(summaries: Sequence[CellSummary]) -> ReportPicture:
    lines = {
        f"NL {level}": [
            (summary.cell.strength_label, summary.figures["reach"], summary.figures["ssim_outside"])
            for summary in summaries
            if summary.cell.noise_level == level
        ]
        for level in sorted({summary.cell.noise_level for summary in summaries})
    }
    labels = "reach: area gained / area wanted, median over patients", "SSIM outside the tumour, mean"
    return ReportPicture(
        "trade-off",
        "Preservation (SSIM outside the tumour) against reach, a line a noise level, a point a strength, with 95 % "
        "intervals over patients. The band is about the change asked for.",
        partial(draw_trade_off, lines, labels, REACHED),
    )


def _sheets(of_cells: Mapping[GridCell, Rows], pictures: Path) -> list[ReportPicture]:
    """Of some patients, from the least change aimed at to the largest: those that every cell has, if there are any."""
    measured = {cell: rows for cell, rows in of_cells.items() if rows}
    first, *others = measured.values()
    ratios = {name: row["ratio"] for name, (_, row) in first.items() if all(name in rows for rows in others)}
    return [
        ReportPicture(
            f"sheet-{unit_name(name)}",
            f"{name}, area × {ratios[name]:.2f} aimed at: the first member of each cell; noise levels downwards, "
            "strength to the right. Left: the present scan. Cyan: present outline; orange: the generated tumour, as "
            "the segmenter sees it in all members; red: the later outline, where it is known.",
            partial(
                draw_sheet,
                [
                    SheetCell(cell.noise_level, cell.strength, cell.label, pictures / rows[name][0])
                    for cell, rows in measured.items()
                ],
            ),
        )
        for name in spread_by_value(list(ratios), np.array(list(ratios.values())), MOST_SHOWN)
    ]
