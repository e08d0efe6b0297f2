"""What a grid of noise levels and strengths says: a table with a row a cell, contact sheets, and the trade-off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tumorcast.errors import InputError
from tumorcast.evaluation.experiments.experiment import Findings, Picture, Table
from tumorcast.evaluation.experiments.folder import unit_name
from tumorcast.evaluation.experiments.shown import Shown, spread
from tumorcast.evaluation.experiments.variants import numbers
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import Estimate, mean_of, median_of
from tumorcast.settings import Guidance

FIGURES = {
    "reach": ("reach", 2),
    "ssim_outside": ("SSIM outside", 3),
    "change_inside": ("change inside", 3),
    "change_outside": ("change outside", 3),
    "ap_images": ("AP, images segmented", 3),
    "dice_images": ("Dice, images", 3),
    "hd95_images_mm": ("HD95 mm, images", 1),
    "ap_change": ("AP, images' change", 3),
    "ap_growth": ("AP, growth map", 3),
}
NOTE = (
    "Over patients, with 95 % bootstrap intervals; reach is a median, all else means. Reach: area gained over area "
    "wanted, by the segmenter, which does not guide. Outside: the brain without the present, the later and the "
    "generated tumour, widened by half an SSIM window; inside: the rest of the brain. SSIM: members to the present "
    "scan. Change: mean |member − present scan|, images being in [−1, 1]. Against the later scan, where there is one: "
    "AP for new tumour outside the present outline, Dice and HD95 of the outline at the true area. Images' change is "
    "what the paper's map is made of; the growth map has the progression network, where the model has one."
)
REACHED = (0.75, 1.25)  # medians between these count as the change that was asked for

Rows = Mapping[str, tuple[str, Figures]]
"""By patient, the unit and its row."""


@dataclass(frozen=True)
class Cell:
    """A cell of the grid. strength: gain, or s_R under the paper's guidance."""

    noise_level: int
    guidance: Guidance
    strength: float

    @property
    def name(self) -> str:
        """The cell's name in a unit's.

        >>> Cell(200, Guidance.PAPER, 5e4).name, Cell(100, Guidance.NORMALISED, 0.5).name
        ('NL200-s50000', 'NL100-g0.5')
        """
        sign = "s" if self.guidance is Guidance.PAPER else "g"
        return f"NL{self.noise_level}-{sign}{np.format_float_positional(self.strength, trim='-')}"

    @property
    def strength_told(self) -> str:
        """The strength with its symbol."""
        return f"{'s_R' if self.guidance is Guidance.PAPER else 'gain'} {self.strength:,g}".replace(",", " ")

    @property
    def told(self) -> str:
        """The cell in words."""
        return f"NL {self.noise_level}, {self.strength_told}"


@dataclass(frozen=True)
class Line:
    """A cell's figures over patients, by the names of FIGURES."""

    cell: Cell
    patients: int
    figures: dict[str, Estimate]

    @classmethod
    def of(cls, cell: Cell, rows: Rows) -> "Line":
        """Over the patients that have the cell."""
        values = {name: numbers([row.get(name) for _, row in rows.values()]) for name in FIGURES}
        return cls(cell, len(rows), {n: (median_of if n == "reach" else mean_of)(v) for n, v in values.items()})

    @property
    def reaches(self) -> bool:
        """Whether about the change that was asked for is made."""
        return REACHED[0] <= self.figures["reach"].value <= REACHED[1]


def findings(of_cells: Mapping[Cell, Rows], pictures: Path) -> Findings:
    """Tables and pictures. Raises InputError if no cell has a patient."""
    lines = [Line.of(cell, rows) for cell, rows in of_cells.items() if rows]
    if not lines:
        raise InputError("no cell of the grid was measured on any patient; wait for more, or give other patients")
    shown = [name for name in FIGURES if any(line.figures[name].patients for line in lines)]
    head = ("NL", "strength", "patients", *(FIGURES[name][0] for name in shown))
    cells = [
        (
            str(line.cell.noise_level),
            line.cell.strength_told,
            str(line.patients),
            *(line.figures[name].told(FIGURES[name][1]) for name in shown),
        )
        for line in lines
    ]
    best = best_of(lines)
    figures: Figures = {"cells": [_plain(line) for line in lines], "best": None if best is None else best.cell.told}
    return Findings(
        _answer(lines, best),
        figures,
        [Table("Cells", head, cells, NOTE)],
        [_trade_off(lines), *_sheets(of_cells, pictures)],
    )


def best_of(lines: Sequence[Line]) -> Line | None:
    """Of the cells that make about the change asked for, the one that preserves most; None where none does."""
    reaching = [line for line in lines if line.reaches]
    return max(reaching, key=lambda line: np.nan_to_num(line.figures["ssim_outside"].value), default=None)


def _plain(line: Line) -> dict[str, Any]:
    cell = line.cell
    told = {"noise_level": cell.noise_level, "guidance": str(cell.guidance), "strength": cell.strength}
    return told | {"patients": line.patients} | line.figures


def _answer(lines: Sequence[Line], best: Line | None) -> str:
    patients = max(line.patients for line in lines)
    told = (
        "Which noise level and which strength of the guidance change the tumour as asked, and leave the rest alone? "
        f"Over {len(lines)} cells (patients: {patients}), the median reach went {_span(lines, 'reach', 2)}, SSIM "
        f"outside the tumour {_span(lines, 'ssim_outside', 3)}. "
    )
    between = f"between {REACHED[0]:g} and {REACHED[1]:g}"
    if best is None:
        best = min(lines, key=lambda line: abs(np.nan_to_num(line.figures["reach"].value) - 1))
        told += f"No cell's median reach lies {between}; nearest comes {best.cell.told}: "
    else:
        told += f"Of those whose median reach lies {between}, {best.cell.told} preserves most: "
    reach, kept = best.figures["reach"], best.figures["ssim_outside"]
    return f"{told}reach {reach.told(2)}, SSIM {kept.told(3)}." + _by_truth(lines)


def _span(lines: Sequence[Line], name: str, digits: int) -> str:
    values = [line.figures[name].value for line in lines if line.figures[name].patients]
    return f"from {min(values):.{digits}f} to {max(values):.{digits}f}" if values else "unmeasured"


def _by_truth(lines: Sequence[Line]) -> str:
    judged = [line for line in lines if line.figures["ap_images"].patients]
    if not judged:
        return ""
    top = max(judged, key=lambda line: line.figures["ap_images"].value)
    found = top.figures["ap_images"]
    return (
        f" Judged by the later scan (patients: {found.patients}), the generated images place new tumour best in "
        f"{top.cell.told}: AP {found.told(3)}."
    )


def _trade_off(lines: Sequence[Line]) -> Picture:
    def draw(path: Path) -> None:
        from tumorcast.evaluation.experiments.grid_pictures import draw_trade_off  # noqa: PLC0415 - matplotlib is slow

        draw_trade_off(lines, path)

    return Picture(
        "trade-off",
        "Preservation (SSIM outside the tumour) against reach, a line a noise level, a point a strength, with 95 % "
        "intervals over patients. The band is about the change asked for.",
        draw,
    )


def _sheets(of_cells: Mapping[Cell, Rows], pictures: Path) -> list[Picture]:
    """Of some patients, from the least change aimed at to the largest: those that every cell has, if there are any."""
    by_cell = [rows for rows in of_cells.values() if rows]
    names = [name for name in by_cell[0] if all(name in rows for rows in by_cell)]
    if not names:
        return []
    ratios = {name: by_cell[0][name][1]["ratio"] for name in names}
    return [
        Picture(
            f"sheet-{unit_name(name)}",
            f"{name}, area × {ratios[name]:.2f} aimed at: the first member of each cell; noise levels downwards, "
            "strength to the right. Left: the present scan. Cyan: present outline; orange: the generated tumour, as "
            "the segmenter sees it in all members; red: the later outline, where it is known.",
            partial(_draw_sheet, {cell: pictures / rows[name][0] for cell, rows in of_cells.items() if rows}),
        )
        for name in spread(names, np.array(list(ratios.values())))
    ]


def _draw_sheet(folders: Mapping[Cell, Path], path: Path) -> None:
    from tumorcast.evaluation.experiments.grid_pictures import draw_sheet  # noqa: PLC0415 - as above

    draw_sheet({cell: Shown.read(folder) for cell, folder in folders.items()}, path)
