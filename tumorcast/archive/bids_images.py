"""Which images of a scan's forecast a BIDS data set holds, and what is said of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.archive.bids_names import CONTRASTS
from tumorcast.archive.maps import SliceForecast
from tumorcast.data.imaging.geometry import Interpolation
from tumorcast.records import Contrast

AIR = -1.0
DESCRIPTIONS = {
    "brain": "Of the brain of the present scan.",
    "covered": "Of the slices that were forecast.",
    "forecast": "Of the time aimed at: the mean of the ensemble's images.",
    "present": "Of the present scan, from which the forecast starts.",
    "segmenter": "By the segmenter in the generated images.",
    "spread": "The standard deviation over the ensemble's images.",
}
LABELS = {1: "necrotic or non-enhancing core", 2: "oedema", 3: "enhancing tumour"}


@dataclass(frozen=True)
class Picture:
    """One image of a forecast: its slices, the entities after the space, and what its sidecar says.

    before, after: entities of the name on either side of the space. values: (S, H, W). outside: where no slice lies.
    """

    before: str
    after: tuple[str, ...]
    values: npt.NDArray[Any]
    told: dict[str, Any]
    outside: float = 0.0
    interpolation: Interpolation = Interpolation.LINEAR


def pictures_of(slices: Sequence[SliceForecast], contrasts: Sequence[Contrast]) -> Iterator[Picture]:
    """The images of one scan's slices: maps, masks, the scan, its forecast and the ensemble's spread."""
    yield _likely(slices)
    yield _probability(
        "tumour",
        slices,
        ("label-tumor", "desc-segmenter"),
        "Probability of tumour at the time aimed at, by the segmenter in the generated images: mean of members.",
    )
    yield _probability(
        "tumour_now",
        slices,
        ("label-tumor", "desc-present"),
        "Probability of tumour in the present scan, as the segmenter sees it.",
    )
    yield _probability(
        "changed",
        slices,
        ("label-change",),
        "Share of the ensemble's members whose image changed by more than ChangeThreshold, summed over contrasts.",
    )
    yield from _masks(slices)
    for channel, contrast in enumerate(contrasts):
        yield from _images(slices, channel, contrast)


def _stack(name: str, slices: Sequence[SliceForecast]) -> npt.NDArray[Any]:
    return np.stack([getattr(forecast, name) for forecast in slices])


def _likely(slices: Sequence[SliceForecast]) -> Picture:
    """The growth map; of a model without a progression network, the segmenter's."""
    if any(forecast.growth is None for forecast in slices):
        told = "Probability of tumour at the time aimed at, by the segmenter: the model has no progression network."
        return _probability("tumour", slices, ("label-tumor",), told)
    told = "Probability of tumour at the time aimed at, by the progression network and the generated images together."
    return _probability("growth", slices, ("label-tumor",), told)


def _probability(name: str, slices: Sequence[SliceForecast], after: tuple[str, ...], description: str) -> Picture:
    told = {"Description": description, "ArchiveDataset": name, "Units": "1", "Manual": False}
    return Picture("", (*after, "probseg"), _stack(name, slices), told)


def _masks(slices: Sequence[SliceForecast]) -> Iterator[Picture]:
    brain = _stack("brain", slices)
    covered = np.ones_like(brain)
    labels = {str(value): name for value, name in LABELS.items()}
    for values, after, told in (
        (
            _stack("labels", slices),
            ("desc-present", "dseg"),
            {"Description": "The tumour's labels in the present scan.", "ArchiveDataset": "labels", "Levels": labels},
        ),
        (
            brain,
            ("desc-brain", "mask"),
            {"Description": "The brain in the present scan.", "ArchiveDataset": "brain", "Type": "Brain"},
        ),
        (
            covered,
            ("desc-covered", "mask"),
            {"Description": "The slices that were forecast; elsewhere nothing is known.", "Type": "ROI"},
        ),
    ):
        yield Picture("", after, values.astype(np.uint8), told, interpolation=Interpolation.NEAREST)


def _images(slices: Sequence[SliceForecast], channel: int, contrast: Contrast) -> Iterator[Picture]:
    agent, suffix = CONTRASTS[contrast]
    scale = "Intensities are scaled: -1 and 1 are the limits of the scan's window; air is -1."
    for name, desc, description, outside in (
        ("image", "present", f"The present scan. {scale}", AIR),
        ("mean", "forecast", f"Synthetic: the mean of the ensemble's images of the time aimed at. {scale}", AIR),
        ("std", "spread", "The standard deviation over the ensemble's images, in their scaled intensities.", 0.0),
    ):
        told = {
            "Description": description,
            "ArchiveDataset": name,
            "ArchiveChannel": channel,
            "Units": "arbitrary",
            "SkullStripped": True,
        }
        yield Picture(agent, (f"desc-{desc}", suffix), _stack(name, slices)[:, channel], told, outside)
