"""What the viewer shows of a patient, as NIfTI files, base64, on one voxel grid for all.

The slices put back in their volume; or the whole tumour on its cubic voxels, with the slices interpolated there.

Images and maps are bytes, since a screen shows no more: 0 … 255 stand for [-1, 1] of an image and [0, 1] of a map.
"""

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from matplotlib import colormaps

from tumorcast.archive.maps import PatientForecast, SliceForecast, VolumeForecast
from tumorcast.archive.nifti import Placement, Space
from tumorcast.data.imaging.geometry import Grid, Interpolation
from tumorcast.data.imaging.transforms import resample
from tumorcast.records import FloatArray
from tumorcast.report.pages.pictures import COLOURS, LEAST_SHOWN, Box, byte_of, outline
from tumorcast.report.planes import planes_through
from tumorcast.report.plots import by_preference
from tumorcast.report.sizes import volumes_of

LEAST_FOR_PLANES = 8  # slices: of fewer, a cut along the body shows nothing
STOPS = 16  # of the colour scale
MEANINGS = {
    "growth map": "Probability of tumour at the time aimed at, of the progression network and the images together.",
    "tumour in the generated images": "Probability of tumour as the segmenter sees it, mean over members.",
    "changed: the paper's map": "Share of the members whose image changed there.",
    "tumour in the present scan": "Probability of tumour as the segmenter sees it in the scan forecast from.",
}

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ViewerVolume:
    """A volume that can be looked at: its name, its .nii.gz as base64, and what a map tells, in a sentence."""

    name: str
    nifti: str
    meaning: str = ""


@dataclass(frozen=True)
class ViewerVolumes:
    """All that the viewer needs. slices: the numbers of the slices forecast; first: the number of the lowest voxels.

    depth: slices of a volume. box: rows and columns of it. images: scans and forecasts; maps: the likeliest first.
    outlines: of each slice the present mask's and the forecast's, as paths in pixels of the box; of a whole tumour the
    forecast's of every horizon, in the order of the maps. start: which of the slices is seen first. planes_first:
    whether three planes are. centre: where they meet, from 0 to 1 along the scene's first two axes.
    """

    slices: list[int]
    first: int
    depth: int
    box: Box
    images: list[ViewerVolume]
    maps: list[ViewerVolume]
    outlines: list[tuple[str, ...]]
    three_planes: bool
    start: int
    planes_first: bool = False
    centre: tuple[float, float] = (0.5, 0.5)

    def record(self) -> dict[str, Any]:
        """As JSON, with the colour scale."""
        return {
            **{name: getattr(self, name) for name in ("slices", "first", "depth", "outlines", "centre")},
            "images": [vars(volume) for volume in self.images],
            "maps": [vars(volume) for volume in self.maps],
            "colours": colour_scale(),
            "least_shown": round(255 * LEAST_SHOWN),
        }


def colour_scale() -> list[list[int]]:
    """(STOPS, 3) red, green and blue of the maps' colours, from probability 0 to 1."""
    stops = colormaps[COLOURS](np.linspace(0, 1, STOPS), bytes=True)
    return [[int(part) for part in stop[:3]] for stop in stops]


def viewer_volumes(forecasts: Sequence[SliceForecast], contrasts: Sequence[str]) -> ViewerVolumes:
    """The volumes of a patient's slices, cut to the brain; slices that were not forecast are empty."""
    numbers = [int(forecast.source_slice) for forecast in forecasts]
    box = Box.round([forecast.brain for forecast in forecasts])
    volume = _Volume(numbers, box, forecasts[0].affine)
    images = []
    for name in by_preference(contrasts):
        channel = contrasts.index(name)
        scans = [byte_of((forecast.image[channel] + 1) / 2) for forecast in forecasts]
        means = [byte_of((forecast.mean[channel] + 1) / 2) for forecast in forecasts]
        images += [volume.pack(f"scan, {name}", scans), volume.pack(f"forecast, {name}", means)]
    return ViewerVolumes(
        slices=numbers,
        first=numbers[0],
        depth=volume.depth,
        box=box,
        images=images,
        maps=[
            volume.pack(name, [byte_of(values) for values in maps], MEANINGS[name])
            for name, maps in _maps_of(forecasts)
        ],
        outlines=[(outline(box, forecast.labels > 0), outline(box, forecast.tumour)) for forecast in forecasts],
        three_planes=len(forecasts) >= LEAST_FOR_PLANES,
        start=(len(forecasts) - 1) // 2,
    )


def whole_volumes(
    patient: PatientForecast, forecast: VolumeForecast, contrasts: Sequence[str], slices: Sequence[SliceForecast]
) -> ViewerVolumes:
    """The scan and the growth maps of a patient's whole tumour, cut to the brain; and what its slices add to them."""
    head = forecast.brain | (forecast.labels > 0)
    layers = np.flatnonzero(head.any(axis=(1, 2)))
    span, box = slice(int(layers[0]), int(layers[-1]) + 1), Box.round(list(head))
    volume = _Volume(range(span.start, span.stop), box, forecast.affine)
    likely = forecast.growth[:, span].astype(np.float32)
    axial, coronal, sagittal = planes_through(forecast)
    names = by_preference(contrasts)
    images = [volume.pack(f"scan, {name}", forecast.image[contrasts.index(name)][span]) for name in names]
    maps = [
        volume.pack(f"growth map, {sizes.when}", byte_of(growth), f"Probability of tumour {sizes.when}.")
        for growth, sizes in zip(likely, volumes_of(forecast), strict=True)
    ]
    if slices:
        cubes = _Cubes(Grid.from_affine(forecast.affine, head.shape[::-1]), span, volume)
        place = Placement.of(patient.patient_id, patient.source_grid, slices)
        means = {name: [(one.mean[contrasts.index(name)] + 1) / 2 for one in slices] for name in names}
        images += [cubes.pack(f"slices: forecast, {name}", place, values) for name, values in means.items()]
        maps += [cubes.pack(f"slices: {name}", place, values, MEANINGS[name]) for name, values in _maps_of(slices)]
    return ViewerVolumes(
        slices=list(volume.numbers),
        first=span.start,
        depth=volume.depth,
        box=box,
        images=images,
        maps=maps,
        outlines=[
            (outline(box, now), *(outline(box, then) for then in later))
            for now, later in zip(forecast.labels[span] > 0, likely.swapaxes(0, 1), strict=True)
        ],
        three_planes=True,
        start=axial.at - span.start,
        planes_first=True,
        # The scene's first axis runs to the patient's right, its second to the front.
        centre=(
            1 - (sagittal.at - box.left + 0.5) / box.width,
            1 - (coronal.at - box.top + 0.5) / box.height,
        ),
    )


def _maps_of(forecasts: Sequence[SliceForecast]) -> list[tuple[str, list[FloatArray]]]:
    """The name of each map that all slices have, and the map of each slice."""
    growth = [forecast.growth for forecast in forecasts if forecast.growth is not None]
    maps = {
        "growth map": growth,
        "tumour in the generated images": [forecast.tumour for forecast in forecasts],
        "changed: the paper's map": [forecast.changed for forecast in forecasts],
        "tumour in the present scan": [forecast.tumour_now for forecast in forecasts],
    }
    return [(name, slices) for name, slices in maps.items() if len(slices) == len(forecasts)]


@dataclass(frozen=True)
class _Volume:
    """Where the box of some slices lies. numbers: of the slices; affine: (4, 4) of the whole slices."""

    numbers: Sequence[int]
    box: Box
    affine: FloatArray

    @property
    def depth(self) -> int:
        return self.numbers[-1] - self.numbers[0] + 1

    def pack(self, name: str, slices: Sequence[Bytes] | Bytes, meaning: str = "") -> ViewerVolume:
        """A volume of (H, W) bytes of each slice."""
        stack = np.zeros((self.depth, self.box.height, self.box.width), np.uint8)
        for number, values in zip(self.numbers, slices, strict=True):
            stack[number - self.numbers[0]] = self.box.cut(values)
        return ViewerVolume(name, self._nifti(stack), meaning)

    def _nifti(self, stack: Bytes) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.nii.gz"
            sitk.WriteImage(self._grid().image(stack), str(path))
            return base64.b64encode(path.read_bytes()).decode()

    def _grid(self) -> Grid:
        corner = np.eye(4)
        corner[:3, 3] = self.box.left, self.box.top, self.numbers[0]
        return Grid.from_affine(self.affine @ corner, (self.box.width, self.box.height, self.depth))


@dataclass(frozen=True)
class _Cubes:
    """The cubic voxels of a whole tumour, and which of their layers are shown as `volume`."""

    grid: Grid
    span: slice
    volume: _Volume

    def pack(self, name: str, place: Placement, values: Sequence[FloatArray], meaning: str = "") -> ViewerVolume:
        """Values from 0 to 1 of slices, (H, W) each, interpolated there."""
        stack = place.volume(Space.COHORT, np.stack(values), 0.0, Interpolation.LINEAR)
        moved = sitk.GetArrayFromImage(resample(stack, self.grid))
        return self.volume.pack(name, byte_of(moved[self.span]), meaning)
