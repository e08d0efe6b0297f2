"""The images of a scan's forecast in a BIDS data set: which there are, their names, and what their sidecars say.

After the BIDS specification 1.10 (https://bids-specification.readthedocs.io), derivatives of anatomical images.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from tumorcast.archive.maps import SliceForecast, VolumeForecast
from tumorcast.archive.nifti import Space
from tumorcast.data.grey import from_grey
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
VOLUME = "volume"  # begins the descriptions of what is on cubic voxels
VOLUME_DESCRIPTIONS = {
    f"{VOLUME}brain": "Of the brain of the present scan, on the cubic voxels of the growth maps of the whole tumour.",
    f"{VOLUME}present": "Of the present scan, on the cubic voxels of the growth maps of the whole tumour.",
}
BRAIN, VOLUME_BRAIN = "desc-brain", f"desc-{VOLUME}brain"
LABELS = {1: "necrotic or non-enhancing core", 2: "oedema", 3: "enhancing tumour"}
LEVELS = {str(value): name for value, name in LABELS.items()}
SCALE = "Intensities are scaled: -1 and 1 are the limits of the scan's window; air is -1."
PRESENT = f"The present scan. {SCALE}"


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

    before, after: entities of the name on either side of the space. values: (S, H, W), or of a volume (Z, Y, X).
    outside: where nothing is foretold. reference: the entity of the mask that tells the voxels of the cohort's space.
    """

    before: str
    after: tuple[str, ...]
    values: npt.NDArray[Any]
    sidecar: dict[str, Any]
    outside: float = 0.0
    interpolation: Interpolation = Interpolation.LINEAR
    reference: str = BRAIN


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
    yield from _present_masks(_stack("labels", slices), brain)
    covered = {"Description": "The slices that were forecast; elsewhere nothing is known.", "Type": "ROI"}
    values = np.ones_like(brain, np.uint8)
    yield ForecastImage("", ("desc-covered", "mask"), values, covered, interpolation=Interpolation.NEAREST)


def _present_masks(
    labels: npt.NDArray[np.uint8], brain: npt.NDArray[np.bool_], prefix: str = ""
) -> Iterator[ForecastImage]:
    """The labels and the brain of the present scan; prefix: of their descriptions."""
    nearest, reference = Interpolation.NEAREST, f"desc-{prefix}brain"
    told = {"Description": "The tumour's labels in the present scan.", "ArchiveDataset": "labels", "Levels": LEVELS}
    yield ForecastImage("", (f"desc-{prefix}present", "dseg"), labels, told, 0.0, nearest, reference)
    told = {"Description": "The brain in the present scan.", "ArchiveDataset": "brain", "Type": "Brain"}
    yield ForecastImage("", (reference, "mask"), brain.astype(np.uint8), told, 0.0, nearest, reference)


def _images(slices: Sequence[SliceForecast], channel: int, contrast: Contrast) -> Iterator[ForecastImage]:
    synthetic = f"Synthetic: the mean of the ensemble's images of the time aimed at. {SCALE}"
    spread = "The standard deviation over the ensemble's images, in their scaled intensities."
    for name, desc, description in (
        ("image", "present", PRESENT),
        ("mean", "forecast", synthetic),
        ("std", "spread", spread),
    ):
        sidecar = {"Description": description, "ArchiveDataset": name, "ArchiveChannel": channel}
        image = _image(desc, contrast, _stack(name, slices)[:, channel], sidecar)
        yield replace(image, outside=0.0) if name == "std" else image


def _image(desc: str, contrast: Contrast, values: npt.NDArray[Any], sidecar: dict[str, Any]) -> ForecastImage:
    """A scan, or what is like one; where nothing is foretold, it is air."""
    agent, suffix = CONTRASTS[contrast]
    told = {"Units": "arbitrary", "SkullStripped": True}
    return ForecastImage(agent, (f"desc-{desc}", suffix), values, sidecar | told, AIR)


def volume_desc(horizon_days: float) -> str:
    """The label that tells the forecasts of a volume apart by their horizon; NaN for a change asked for.

    >>> volume_desc(90.0), volume_desc(30.5), volume_desc(math.nan)
    ('volume90d', 'volume30p5d', 'volume')
    """
    return VOLUME if math.isnan(horizon_days) else f"{VOLUME}{horizon_days:g}d".replace(".", "p")


def volume_descriptions(horizons: Sequence[float]) -> dict[str, str]:
    """What each `desc` of a volume means, where there are forecasts for these days ahead; none for a change."""
    ahead = {volume_desc(days): f"Of the whole tumour, on cubic voxels, {days:g} days ahead." for days in horizons}
    asked = {VOLUME: "Of the whole tumour, on cubic voxels, for the change that was asked for."}
    return VOLUME_DESCRIPTIONS | (ahead or asked)


def volume_images(day: float, volume: VolumeForecast, contrasts: Sequence[Contrast]) -> Iterator[ForecastImage]:
    """The images of a patient's volume: growth map and outline of each horizon, and the scan, of that day."""
    for horizon in range(len(volume.horizon_days)):
        yield from _foretold(day, volume, horizon)
    yield from _present_masks(volume.labels, volume.brain, VOLUME)
    for channel, contrast in enumerate(contrasts):
        sidecar = {"Description": PRESENT, "ArchiveDataset": "image", "ArchiveChannel": channel}
        image = _image(f"{VOLUME}present", contrast, from_grey(volume.image[channel]), sidecar)
        yield replace(image, reference=VOLUME_BRAIN)


def _foretold(day: float, volume: VolumeForecast, horizon: int) -> Iterator[ForecastImage]:
    """The growth map of a horizon, and the outline of the volume that it expects."""
    entities, sizes = ("label-tumor", f"desc-{volume_desc(volume.horizon_days[horizon])}"), _sizes(day, volume, horizon)
    likely = {
        "Description": "Probability of tumour at the time aimed at: mean of members.",
        "ArchiveDataset": "growth",
        "Units": "1",
        "Manual": False,
    }
    growth = volume.growth[horizon].astype(np.float32)
    yield ForecastImage("", (*entities, "probseg"), growth, likely | sizes, reference=VOLUME_BRAIN)
    outline = {
        "Description": "The tumour at the time aimed at: the voxels that it reaches first, as many as are expected.",
        "ArchiveDataset": "log_volume",
        "Type": "Lesion",
    }
    first = volume.outline(horizon).astype(np.uint8)
    nearest = Interpolation.NEAREST
    yield ForecastImage("", (*entities, "mask"), first, outline | sizes, 0.0, nearest, VOLUME_BRAIN)


def _sizes(day: float, volume: VolumeForecast, horizon: int) -> dict[str, Any]:
    """The day and the volumes of a horizon, for its sidecars; of a change asked for there is no day."""
    low, median, high = np.quantile(volume.aimed_mm3[horizon], (0.05, 0.5, 0.95)).tolist()
    ahead = float(volume.horizon_days[horizon])
    days = {} if math.isnan(ahead) else {"TargetDay": day + ahead, "HorizonDays": ahead}
    return days | {
        "PresentVolumeMm3": float(volume.present_mm3),
        "AimedVolumeMm3": median,
        "AimedVolumeRangeMm3": [low, high],
        "ExpectedVolumeMm3": float(volume.expected_mm3[horizon]),
    }
