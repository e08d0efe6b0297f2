"""A whole tumour as pictures of a page: three planes a horizon, with outlines, and the volumes in mL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from tumorcast.archive.maps import VolumeForecast
from tumorcast.data.grey import from_grey
from tumorcast.report.pages.pictures import Box, Panel, coloured, grey, outline
from tumorcast.report.planes import Plane, planes_through
from tumorcast.report.plots import by_preference
from tumorcast.report.sizes import HorizonVolumes, volumes_of


@dataclass(frozen=True)
class PlanePicture:
    """A plane with the growth map over the scan. present, forecast: outlines as paths, in pixels of the box."""

    panel: Panel
    box: Box
    present: str
    forecast: str

    @classmethod
    def of(cls, forecast: VolumeForecast, contrasts: Sequence[str], plane: Plane, horizon: int, when: str) -> Self:
        """Draw a plane at a horizon. contrasts: the names of the image's channels."""
        name = by_preference(contrasts)[0]
        scan, growth = (plane.cut(part) for part in (forecast.image[contrasts.index(name)], forecast.growth[horizon]))
        box, likely = Box.round([plane.shadow(forecast.brain)]), growth.astype(np.float32)
        alt = f"{plane.name.capitalize()} plane of the {name} scan with the growth map {when} over it"
        panel = Panel(f"{plane.name}, {name}", grey(box, from_grey(scan)), coloured(box, likely), alt)
        return cls(panel, box, outline(box, plane.cut(forecast.labels) > 0), outline(box, likely))


@dataclass(frozen=True)
class HorizonPictures:
    """The planes at a horizon, and its volumes."""

    volumes: HorizonVolumes
    planes: list[PlanePicture]


def horizon_pictures(forecast: VolumeForecast, contrasts: Sequence[str]) -> list[HorizonPictures]:
    """The same three planes at every horizon."""
    planes = planes_through(forecast)
    return [
        HorizonPictures(sizes, [PlanePicture.of(forecast, contrasts, plane, horizon, sizes.when) for plane in planes])
        for horizon, sizes in enumerate(volumes_of(forecast))
    ]
