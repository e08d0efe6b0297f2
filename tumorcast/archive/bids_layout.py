"""The images of a scan's forecast in a BIDS data set: which there are, their names, and what their sidecars say.

After the BIDS specification 1.10 (https://bids-specification.readthedocs.io), derivatives of anatomical images.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import SliceForecast
from tumorcast.archive.nifti import Space
from tumorcast.data.imaging.geometry import Interpolation
from tumorcast.records import Contrast

SPACE_LABELS = {Space.NATIVE: "orig", Space.COHORT: "cohort"}
CONTRASTS = {  # the entity of a contrast agent, and the suffix
    Contrast.T1N: ("", "T1w"),
    Contrast.T1C: ("ce-gadolinium", "T1w"),
    Contrast.T2W: ("", "T2w"),
    Contrast.T2F: ("", "FLAIR"),
}
DISTINCT = 8  # hexadecimal digits that tell apart two names of which the letters and digits are the same
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


def labels_of(names: Iterable[str], entity: str) -> dict[str, str]:
    """A BIDS label for each name: its letters and digits, and where these are not its own, the start of its SHA-256.

    entity: sub or ses; a name that begins with it, as those of a BIDS data set do, is taken without.

    >>> labels_of(["TCGA-DU-7294", "sub-01"], "sub")
    {'TCGA-DU-7294': 'TCGADU7294', 'sub-01': '01'}
    >>> sorted(labels_of(["P-1", "P1", "å"], "sub").values())
    ['P182988760', 'P1fbeae7c1', 'e83979df']
    """
    plain = {name: re.sub("[^0-9A-Za-z]", "", name.removeprefix(f"{entity}-")) for name in names}
    shared = Counter(label.lower() for label in plain.values())  # some file systems take a for A
    return {
        name: label if label and shared[label.lower()] == 1 else label + _digits(name) for name, label in plain.items()
    }


def _digits(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:DISTINCT]


@dataclass(frozen=True)
class ScanName:
    """One scan's forecast in the data set."""

    subject: str
    session: str

    @property
    def folder(self) -> PurePosixPath:
        """Where its images lie, from the root of the data set.

        >>> ScanName("P1", "000").folder.as_posix()
        'sub-P1/ses-000/anat'
        """
        return PurePosixPath(f"sub-{self.subject}", f"ses-{self.session}", "anat")

    @property
    def sessions(self) -> PurePosixPath:
        """The table of the patient's sessions, without its ending."""
        return PurePosixPath(f"sub-{self.subject}", f"sub-{self.subject}_sessions")

    def file(self, *entities: str) -> PurePosixPath:
        """A file of the scan, without its ending; entities that are empty are left out.

        >>> ScanName("P1", "000").file("space-orig", "", "label-tumor", "probseg").name
        'sub-P1_ses-000_space-orig_label-tumor_probseg'
        """
        words = (f"sub-{self.subject}", f"ses-{self.session}", *entities)
        return self.folder / "_".join(word for word in words if word)


@dataclass(frozen=True)
class ForecastImage:
    """One image of a forecast, as a file holds it: its slices, the entities of its name, and what its sidecar says.

    before, after: entities of the name on either side of the space. values: (S, H, W). outside: where no slice lies.
    """

    before: str
    after: tuple[str, ...]
    values: npt.NDArray[Any]
    sidecar: dict[str, Any]
    outside: float = 0.0
    interpolation: Interpolation = Interpolation.LINEAR


def forecast_images(slices: Sequence[SliceForecast], contrasts: Sequence[Contrast]) -> Iterator[ForecastImage]:
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


def _likely(slices: Sequence[SliceForecast]) -> ForecastImage:
    """The growth map; of a model without a progression network, the segmenter's."""
    if any(forecast.growth is None for forecast in slices):
        description = (
            "Probability of tumour at the time aimed at, by the segmenter: the model has no progression network."
        )
        return _probability("tumour", slices, ("label-tumor",), description)
    description = (
        "Probability of tumour at the time aimed at, by the progression network and the generated images together."
    )
    return _probability("growth", slices, ("label-tumor",), description)


def _probability(name: str, slices: Sequence[SliceForecast], after: tuple[str, ...], description: str) -> ForecastImage:
    sidecar = {"Description": description, "ArchiveDataset": name, "Units": "1", "Manual": False}
    return ForecastImage("", (*after, "probseg"), _stack(name, slices), sidecar)


def _masks(slices: Sequence[SliceForecast]) -> Iterator[ForecastImage]:
    brain = _stack("brain", slices)
    covered = np.ones_like(brain)
    labels = {str(value): name for value, name in LABELS.items()}
    for values, after, sidecar in (
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
        yield ForecastImage("", after, values.astype(np.uint8), sidecar, interpolation=Interpolation.NEAREST)


def _images(slices: Sequence[SliceForecast], channel: int, contrast: Contrast) -> Iterator[ForecastImage]:
    agent, suffix = CONTRASTS[contrast]
    scale = "Intensities are scaled: -1 and 1 are the limits of the scan's window; air is -1."
    for name, desc, description, outside in (
        ("image", "present", f"The present scan. {scale}", AIR),
        ("mean", "forecast", f"Synthetic: the mean of the ensemble's images of the time aimed at. {scale}", AIR),
        ("std", "spread", "The standard deviation over the ensemble's images, in their scaled intensities.", 0.0),
    ):
        sidecar = {
            "Description": description,
            "ArchiveDataset": name,
            "ArchiveChannel": channel,
            "Units": "arbitrary",
            "SkullStripped": True,
        }
        yield ForecastImage(agent, (f"desc-{desc}", suffix), _stack(name, slices)[:, channel], sidecar, outside)
