"""What seeds and numbers of members say over patients: tables, curves, and how many members are enough."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorcast.errors import InputError
from tumorcast.evaluation.comparison import TargetMode
from tumorcast.evaluation.experiments.experiment import Findings, Picture, Table
from tumorcast.evaluation.experiments.shown import examples
from tumorcast.evaluation.experiments.variants import numbers
from tumorcast.evaluation.judging import Figures
from tumorcast.evaluation.paired import Estimate, mean_of
from tumorcast.forecasting.select import ENOUGH_AGREEMENT

GROWTH, IMAGES, CHANGED = "growth", "images", "changed"
MAPS = {
    GROWTH: "Growth map",
    IMAGES: "Images segmented",
    CHANGED: "Share of members that changed (the paper's map)",
}
SEEDS = {
    "outlines_dice": ("Dice of outlines", 3),
    "area_spread": ("SD of the area / its mean", 3),
    "ssim_inside": ("SSIM inside", 3),
    "ssim_outside": ("SSIM outside", 3),
    "sd_inside": ("SD inside", 4),
    "sd_outside": ("SD outside", 4),
    "ssim_present_inside": ("to the present scan: SSIM inside", 3),
    "ssim_present_outside": ("SSIM outside", 3),
}
MEMBERS = {
    "ap": ("AP", 3),
    "brier": ("Brier", 4),
    "from_full": ("from the full map", 4),
    "from_another": ("from another map", 4),
    "agreement": ("agreement with another", 3),
}
SEEDS_NOTE = (
    "Between images that aim at one size and differ by their seed alone, means over all pairs and then over patients, "
    "with 95 % bootstrap intervals. Outlines: of the segmenter. Outside: the brain without the present, the later and "
    "every generated tumour, widened by half an SSIM window; inside: the rest of the brain. SD: of a pixel over seeds, "
    "images being in [−1, 1]."
)
MEMBERS_NOTE = (
    "Of maps of so many members, over patients, with 95 % bootstrap intervals: a patient's ensemble is cut into as "
    "many separate ones as it holds, and their figures are averaged. AP and Brier: for new tumour in the brain outside "
    "the present outline, of patients whose later scan is known. From: mean absolute difference within the brain to "
    "the map of all members, of which these are a part, and to another map of as many others. Agreement: "
    "2 Σ min(a, b) / Σ (a + b) of two such maps outside the present outline."
)
LEAST_LOSS = 0.01  # of average precision: a map that is nearer to the full one is as good


@dataclass(frozen=True)
class Curve:
    """A map's figures over patients by number of members, by the names of MEMBERS."""

    name: str
    counts: tuple[int, ...]
    figures: dict[str, list[Estimate]]

    @classmethod
    def of(cls, name: str, rows: Sequence[Figures]) -> "Curve":
        """Over the patients."""
        counts = list(rows[0]["maps"][name])
        return cls(
            name,
            tuple(map(int, counts)),
            {
                figure: [mean_of(numbers([row["maps"][name][count].get(figure) for row in rows])) for count in counts]
                for figure in MEMBERS
            },
        )

    @property
    def enough(self) -> int | None:
        """The fewest members whose mean AP is within LEAST_LOSS of that of all, where there is a truth, and of whose
        maps two separate ones agree by ENOUGH_AGREEMENT in the mean patient; None where no number is enough.

        At most half of all members can be found to be.
        """
        aps, full = self.figures["ap"], self.figures["ap"][-1].value
        for place, count in enumerate(self.counts):
            good = np.isnan(full) or full - aps[place].value <= LEAST_LOSS
            if good and self.figures["agreement"][place].value >= ENOUGH_AGREEMENT:
                return count
        return None

    def table(self, note: str) -> Table:
        """A row a number of members."""
        shown = [name for name in MEMBERS if any(one.patients for one in self.figures[name])]
        rows = [
            (str(count), *(self.figures[name][place].told(MEMBERS[name][1]) for name in shown))
            for place, count in enumerate(self.counts)
        ]
        return Table(MAPS[self.name], ("members", *(MEMBERS[name][0] for name in shown)), rows, note)


def findings(rows: Mapping[str, Figures], pictures: Path, *, seeds: int, target: TargetMode) -> Findings:
    """Tables and pictures. Raises InputError if there is no row."""
    if not rows:
        raise InputError("no patient could be measured; give a cohort with tumour in its last scans")
    every = list(rows.values())
    of_seeds = {name: mean_of(numbers([row["seeds"][name] for row in every])) for name in SEEDS}
    curves = [Curve.of(name, every) for name in MAPS if name in every[0]["maps"]]
    figures: Figures = {
        "seeds": of_seeds,
        "members": {curve.name: {"members": curve.counts} | curve.figures for curve in curves},
        "enough": {curve.name: curve.enough for curve in curves},
    }
    of_seeds_table = Table(
        f"{seeds} seeds of one target",
        ("", "over patients"),
        [(told, of_seeds[name].told(digits)) for name, (told, digits) in SEEDS.items()],
        SEEDS_NOTE,
    )
    notes = [MEMBERS_NOTE] + ["As above."] * (len(curves) - 1)
    tables = [of_seeds_table, *(curve.table(note) for curve, note in zip(curves, notes, strict=True))]
    return Findings(
        _answer(of_seeds, curves, seeds, target), figures, tables, [_curves(curves), _sheet(rows, pictures)]
    )


def _answer(of_seeds: Mapping[str, Estimate], curves: Sequence[Curve], seeds: int, target: TargetMode) -> str:
    aimed = {
        TargetMode.TRUTH: "all at one size, the true later one where it is known",
        TargetMode.ODE: "at sizes forecast from the scans so far, where the later scan is known",
    }
    dices, inside, outside = (of_seeds[name] for name in ("outlines_dice", "ssim_inside", "ssim_outside"))
    most = curves[0].counts[-1]
    told = (
        "How much does a follow-up depend on the seed, and with how many members does the map stand still? "
        f"{seeds} seeds of one target give outlines that overlap by a Dice of {dices.told(3)}, and images that are "
        f"alike by an SSIM of {inside.told(3)} where the tumour is and {outside.told(3)} elsewhere (patients: "
        f"{dices.patients}). Members aim {aimed[target]}. Enough are the fewest whose AP is within {LEAST_LOSS:g} of "
        f"that of {most} in the mean patient, and of whose maps two separate ones agree by {ENOUGH_AGREEMENT:g}: "
    )
    return told + "; ".join(f"{MAPS[one.name].lower()}: {_enough_told(one, most)}" for one in curves) + "."


def _enough_told(curve: Curve, most: int) -> str:
    return f"not reached by {most // 2}" if curve.enough is None else str(curve.enough)


def _curves(curves: Sequence[Curve]) -> Picture:
    def draw(path: Path) -> None:
        from tumorcast.evaluation.experiments.consistency_pictures import (  # noqa: PLC0415 - matplotlib is slow
            draw_curves,
        )

        draw_curves(curves, path)

    caption = "Figures of maps by number of members, with 95 % intervals over patients; what they are: see the tables."
    return Picture("members", caption, draw)


def _sheet(rows: Mapping[str, Figures], pictures: Path) -> Picture:
    titles = {unit: f"{row['patient_id']}, area × {row['ratio']:.2f}" for unit, row in rows.items()}
    found = numbers([row["seeds"]["outlines_dice"] for row in rows.values()])
    return examples(
        "seeds", "Seeds of one target, from the patient whose outlines overlap least.", pictures, titles, found
    )
