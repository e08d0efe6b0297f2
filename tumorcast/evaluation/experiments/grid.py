"""Noise level against strength of the guidance, as in the paper's Fig. 2: what changes as asked, and what is preserved.

A unit is a patient and a cell of the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, assert_never

import numpy as np

from tumorcast.archive.maps import SliceForecast
from tumorcast.errors import UsageError
from tumorcast.evaluation.experiments.cases import Case, CaseSource
from tumorcast.evaluation.experiments.experiment import Findings
from tumorcast.evaluation.experiments.folder import unit_name
from tumorcast.evaluation.experiments.grid_report import Cell, findings
from tumorcast.evaluation.experiments.shown import Shown, channel_shown
from tumorcast.evaluation.failures import reach_of
from tumorcast.evaluation.judging import Figures, map_figures, members_of, outside_tumour
from tumorcast.evaluation.methods import MethodMap, distance_mm, product_map
from tumorcast.evaluation.metrics import Mask, ssim
from tumorcast.evaluation.statistics import patient_mean
from tumorcast.settings import ForecastSettings, Guidance, SamplerSettings

VARIED = ("preset", "guidance", "noise_level", "gain", "scale")
SCALES = (10_000.0, 50_000.0, 100_000.0, 200_000.0)  # the paper's: 50 000 in its text, 200 000 in its code


def cells_of(noise_levels: Sequence[int], guidance: Guidance, strengths: Sequence[float]) -> tuple[Cell, ...]:
    """Every noise level with every strength, both ascending."""
    return tuple(Cell(level, guidance, one) for level in sorted(noise_levels) for one in sorted(strengths))


def cell_settings(cell: Cell, base: ForecastSettings) -> ForecastSettings:
    """`base` in a cell; under the paper's guidance the sampler is the paper's. Raises UsageError if they clash."""
    match cell.guidance:
        case Guidance.PAPER:
            sampler = SamplerSettings.paper(cell.noise_level, cell.strength).model_dump()
        case Guidance.NORMALISED:
            changed = {"noise_level": cell.noise_level, "guidance": cell.guidance, "gain": cell.strength}
            sampler = base.sampler.model_dump() | changed
        case _:
            assert_never(cell.guidance)
    return ForecastSettings.of(base.model_dump() | {"sampler": sampler}, f"grid, {cell.told}")


@dataclass(frozen=True)
class Grid:
    """The experiment. Raises UsageError for cells that the settings or the model do not allow."""

    source: CaseSource
    cells: tuple[Cell, ...]
    name: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        """Look at every cell before the first one is tried."""
        base = self.source.settings
        if self.cells[0].guidance is Guidance.PAPER and base.sampler != SamplerSettings():
            raise UsageError(
                "the paper's guidance (--scale) goes with the paper's sampler, which takes every step; leave out "
                "--steps and [sampler], or give --gain"
            )
        for cell in self.cells:
            self.source.check_level(cell.noise_level)
            cell_settings(cell, base)

    def made_of(self) -> dict[str, Any]:
        """The cells are not in it: each row is of one, and the grid can be widened."""
        told = self.source.made_of()
        sampler = {name: value for name, value in told["settings"]["sampler"].items() if name not in VARIED}
        return told | {"settings": told["settings"] | {"sampler": sampler}}

    def units(self) -> Sequence[str]:
        """Patient after patient, each in every cell."""
        return [_unit(patient_id, cell) for patient_id in self.source.patient_ids() for cell in self.cells]

    def measure(self, unit: str, pictures: Path) -> Figures:
        """See grid_report.FIGURES."""
        patient_id, cell = self._places[unit]
        case, settings = self.source.case(patient_id), cell_settings(cell, self.source.settings)
        forecast = case.forecast(self.source.engine, settings, np.full(settings.members, case.ratio))
        outside = outside_tumour(case.pair, members_of(forecast), self.source.engine, settings.batch)
        channel = channel_shown(self.source.cohort.contrasts)
        shown = {cell.name: (members_of(forecast)[0, channel], forecast.tumour)}
        Shown.of(case.pair, shown, channel).save(pictures)
        return (
            case.told() | {"reach": reach_of(forecast)} | _preserved(case, forecast, outside) | _found(case, forecast)
        )

    def report(self, rows: dict[str, Figures], pictures: Path) -> Findings:
        """Tables and pictures of all cells, over the patients who have them all; over every patient if none has."""
        of_cells = {
            cell: {row["patient_id"]: (unit, row) for unit, row in rows.items() if self._places[unit][1] == cell}
            for cell in self.cells
        }
        whole = set.intersection(*(set(found) for found in of_cells.values()))
        if whole:
            of_cells = {
                cell: {name: one for name, one in found.items() if name in whole} for cell, found in of_cells.items()
            }
        return findings(of_cells, pictures)

    @cached_property
    def _places(self) -> dict[str, tuple[str, Cell]]:
        """The patient and the cell of every unit that there can be."""
        names = self.source.cohort.patient_ids()
        return {_unit(patient_id, cell): (patient_id, cell) for patient_id in names for cell in self.cells}


def _unit(patient_id: str, cell: Cell) -> str:
    return f"{unit_name(patient_id)}.{cell.name}"


def _preserved(case: Case, forecast: SliceForecast, outside: list[Mask]) -> Figures:
    """Means over members, of the present scan and each of them. outside: of each member, beyond all tumour."""
    present, members = case.pair.now.image, members_of(forecast)
    inside = [case.pair.now.brain & ~mask for mask in outside]
    return {
        "ssim_outside": patient_mean([ssim(one, present, mask) for one, mask in zip(members, outside, strict=True)]),
        "change_inside": patient_mean(
            [_change(one - present, mask) for one, mask in zip(members, inside, strict=True)]
        ),
        "change_outside": patient_mean(
            [_change(one - present, mask) for one, mask in zip(members, outside, strict=True)]
        ),
    }


def _change(difference: Any, mask: Mask) -> float:
    return float(np.abs(difference[:, mask]).mean()) if mask.any() else float("nan")


def _found(case: Case, forecast: SliceForecast) -> Figures:
    """How the maps fare against the later scan; nothing where it is not there."""
    if not case.known:
        return {}
    pair, away_mm = case.pair, distance_mm(case.pair)
    change = np.abs(members_of(forecast) - pair.now.image).sum(axis=1).mean(axis=0)
    images = map_figures(pair, MethodMap(forecast.tumour, forecast.tumour), away_mm)
    return {
        "ap_images": images["ap"],
        "dice_images": images["dice"],
        "hd95_images_mm": images["hd95_mm"],
        "ap_change": map_figures(pair, MethodMap(change), away_mm)["ap"],
        "ap_growth": map_figures(pair, product_map(forecast, away_mm), away_mm)["ap"],
    }
