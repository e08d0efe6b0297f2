"""What the pictures of slices under several variants are drawn from: kept beside a unit's row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from tumorcast.durable import written_whole
from tumorcast.evaluation.experiments.experiment import Picture
from tumorcast.evaluation.metrics import Floats
from tumorcast.evaluation.pairs import Pair
from tumorcast.records import Contrast

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FILE = "slices.npz"
MOST_SHOWN = 4  # patients of one picture
CONTRASTS_SHOWN = (Contrast.T2F, Contrast.T1C)
CAPTION = (
    "Above: the present scan, the later scan, and the mean image of each variant; below: its map. Cyan: the present "
    "outline; red: the later one."
)


@dataclass(frozen=True)
class Shown:
    """What a picture of one slice needs. present, later: (H, W) of one contrast; images, maps: (V, H, W) by name."""

    present: Array
    later: Array
    outline: Mask
    later_outline: Mask
    brain: Mask
    names: npt.NDArray[np.str_]
    images: Array
    maps: Array

    @classmethod
    def of(cls, pair: Pair, variants: Mapping[str, tuple[Array, Array]], channel: int) -> Self:
        """variants: by name, an image (H, W) of the contrast `channel`, and a map (H, W) in [0, 1]."""
        return cls(
            pair.now.image[channel].astype(np.float32),
            pair.later.image[channel].astype(np.float32),
            pair.now.labels > 0,
            pair.later.labels > 0,
            pair.now.brain,
            np.array(list(variants)),
            np.stack([image for image, _ in variants.values()]).astype(np.float32),
            np.stack([one for _, one in variants.values()]).astype(np.float32),
        )

    def save(self, folder: Path) -> None:
        """Keep it in a unit's folder."""
        with written_whole(folder / FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From a unit's folder."""
        with np.load(folder / FILE) as arrays:
            return cls(**arrays)


def channel_shown(contrasts: Sequence[Contrast]) -> int:
    """FLAIR, where it is there, else T1c, else the first."""
    return next((contrasts.index(one) for one in CONTRASTS_SHOWN if one in contrasts), 0)


def examples(name: str, caption: str, rows: Path, titles: Mapping[str, str], values: Floats) -> Picture:
    """A picture of some units, from the lowest of `values` (U,) to the highest.

    rows: the folder that holds theirs; titles: by unit.
    """
    chosen = spread(list(titles), values)

    def draw(path: Path) -> None:
        from tumorcast.evaluation.experiments.panels import draw_shown  # noqa: PLC0415 - matplotlib is slow

        draw_shown([(titles[unit], Shown.read(rows / unit)) for unit in chosen], path)

    return Picture(name, f"{caption} {CAPTION}", draw)


def spread(units: Sequence[str], values: Floats) -> list[str]:
    """At most MOST_SHOWN units from the lowest value to the highest, the ends among them."""
    order = np.argsort(np.nan_to_num(values), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(MOST_SHOWN, len(order))).astype(int))
    return [units[k] for k in order[places]]
