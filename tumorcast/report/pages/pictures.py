"""The slices as pictures: the scan, the forecast and the map over the scan, cut to the brain, outlines as paths."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from matplotlib import colormaps
from PIL import Image

from tumorcast.archive.maps import SliceForecast
from tumorcast.report.plots import PREFERRED_CONTRASTS

MARGIN = 3  # pixels round the brain
SHOWN_CONTRASTS = 2
LEAST_SHOWN = 0.02  # of a probability: less is left transparent
COLOURS = "inferno"  # its lightness rises evenly, so that it is read in grey and with any colour vision
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Box:
    """Rows and columns of a slice, from top and left until before bottom and right."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def round(cls, brains: Sequence[npt.NDArray[np.bool_]]) -> Self:
        """What holds the brain of all slices: (H, W) each, with a margin; all of the slice where there is none."""
        height, width = brains[0].shape
        rows, columns = np.nonzero(np.logical_or.reduce(brains))
        if not rows.size:
            return cls(0, 0, height, width)
        return cls(
            max(int(rows.min()) - MARGIN, 0),
            max(int(columns.min()) - MARGIN, 0),
            min(int(rows.max()) + MARGIN + 1, height),
            min(int(columns.max()) + MARGIN + 1, width),
        )

    @property
    def height(self) -> int:
        """How many rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """How many columns."""
        return self.right - self.left

    def cut(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The box of (…, H, W)."""
        return values[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Panel:
    """A picture: PNG as a data URI, a map over it where there is one, and what it shows in words."""

    title: str
    image: str
    overlay: str | None
    alt: str


@dataclass(frozen=True)
class SlicePictures:
    """The pictures of a slice, all of one box. present, forecast: outlines as paths, in pixels of the box."""

    source_slice: int
    box: Box
    panels: list[Panel]
    present: str
    forecast: str

    @classmethod
    def of(cls, forecast: SliceForecast, contrasts: Sequence[str], box: Box) -> Self:
        """Draw a slice. contrasts: the names of the image's channels."""
        shown = shown_contrasts(contrasts)
        number = int(forecast.source_slice)
        panels = []
        for name in shown:
            channel = contrasts.index(name)
            panels += [
                Panel(f"scan, {name}", grey(box, forecast.image[channel]), None, f"Slice {number} of the {name} scan"),
                Panel(
                    f"forecast, {name}",
                    grey(box, forecast.mean[channel]),
                    None,
                    f"Slice {number} of the forecast {name} image, the mean of the members",
                ),
            ]
        title, values = likely(forecast)
        alt = f"Slice {number} of the {shown[0]} scan with the {title} over it"
        panels.append(Panel(title, panels[0].image, coloured(box, values), alt))
        outlines = (outline(box, forecast.labels > 0), outline(box, forecast.tumour))
        return cls(number, box, panels, *outlines)


def likely(forecast: SliceForecast) -> tuple[str, Array]:
    """The map that says best where the tumour will be, and its name."""
    if forecast.growth is None:
        return "probability of tumour", forecast.tumour
    return "growth map", forecast.growth


def shown_contrasts(contrasts: Sequence[str]) -> list[str]:
    """The contrasts that are drawn, the one that shows most first."""
    return [name for name in PREFERRED_CONTRASTS if name in contrasts][:SHOWN_CONTRASTS] or list(
        contrasts[:SHOWN_CONTRASTS]
    )


def chosen(flagged: Sequence[bool], most: int) -> list[int]:
    """The indices of at most so many slices: those that are flagged, then others spread evenly over the tumour.

    >>> chosen([False, False, True, False, False, False], 3)
    [1, 2, 4]
    """
    first = [number for number, is_flagged in enumerate(flagged) if is_flagged][:most]
    rest = [number for number in range(len(flagged)) if number not in first]
    count = min(most - len(first), len(rest))
    return sorted([*first, *(rest[int((k + 0.5) * len(rest) / count)] for k in range(count))])


def grey(box: Box, image: Array) -> str:
    """A PNG of (H, W) in [-1, 1], black to white, as a data URI."""
    return _data_uri(Image.fromarray(byte_of((box.cut(image) + 1) / 2)))


def coloured(box: Box, values: Array) -> str:
    """A PNG of probabilities: (H, W), transparent where there is next to none."""
    cut = np.asarray(box.cut(values), np.float32)
    pixels = colormaps[COLOURS](np.clip(cut, 0, 1), bytes=True)
    pixels[..., 3] = np.where(cut < LEAST_SHOWN, 0, 255)
    return _data_uri(Image.fromarray(pixels))


def byte_of(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Values from 0 to 1 as bytes; what lies outside is held at the ends."""
    return np.asarray(np.rint(np.clip(np.asarray(values, np.float32), 0, 1) * 255), np.uint8)


def outline(box: Box, values: npt.NDArray[Any]) -> str:
    """The path where values: (H, W) pass a half, in pixels of the box, a pixel's centre being at its middle."""
    lines = contour_generator(z=np.asarray(box.cut(values), np.float64)).lines(0.5)
    return "".join(_path(np.asarray(line)) for line in lines)


def _path(line: npt.NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in np.round(line + 0.5, 2).tolist())


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
