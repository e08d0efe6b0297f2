"""Failures of a forecast by rules that use no detector: against the later scan and the unprovoked forecast.

Tumour is told by a classifier of the patient's own intensities, not by the segmenter that the detectors ask.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter, label

from tumorcast.archive.maps import SliceForecast
from tumorcast.evaluation.failure_flags import EVERY_NEIGHBOUR, Failure
from tumorcast.evaluation.followup import FollowUp
from tumorcast.evaluation.metrics import coverage

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.floating[Any]]

PERIPHERY_MM = 12.0  # depth below the brain's edge
ELSEWHERE_MM = 10.0  # from the present and the later tumour
WORSE = 0.1  # of an intensity, of a range of 2, mean over contrasts: by how much nearer the unprovoked image is
LEAST_MM2 = 40.0  # of a patch of either kind
NEAR_MM = 30.0  # of the present outline, where its size is read
LOST = 0.5  # of the new tumour that the unprovoked forecast finds
JUDGED = (Failure.RIM_CHANGE, Failure.SEPARATE_BLOB, Failure.WRONG_WAY, Failure.MAP_APART)
RULES = {
    Failure.RIM_CHANGE: (
        f"within {PERIPHERY_MM:g} mm of the brain's edge and further than {ELSEWHERE_MM:g} mm from all tumour, a patch "
        f"of {LEAST_MM2:g} mm² or more differs more from the later scan than the unprovoked image does, by {WORSE:g} "
        "of a range of 2 or more"
    ),
    Failure.SEPARATE_BLOB: (
        f"a patch of {LEAST_MM2:g} mm² or more, all of it further than {ELSEWHERE_MM:g} mm from all tumour, looks like "
        "this patient's tumour, and neither in the unprovoked image nor in the later scan"
    ),
    Failure.WRONG_WAY: "the tumour grew, and less looks like tumour about it than in the present scan",
    Failure.MAP_APART: (
        f"the growth map or the images find less than {LOST:g} of the new tumour that those of the unprovoked forecast "
        "find: the map among its likeliest pixels, the images by what looks like tumour"
    ),
}


@dataclass(frozen=True)
class FailureRules:
    """The rules for one slice. unprovoked: its sound forecast, which by the rules has no fault but WRONG_WAY."""

    followup: FollowUp
    unprovoked: SliceForecast

    def of(self, forecast: SliceForecast) -> dict[Failure, bool]:
        """Which of JUDGED are true of a forecast of the slice."""
        return {
            Failure.RIM_CHANGE: self._largest_mm2(self.artefacts(forecast)) >= LEAST_MM2,
            Failure.SEPARATE_BLOB: self._largest_mm2(self.blobs(forecast)) >= LEAST_MM2,
            Failure.WRONG_WAY: self._size(forecast.mean) < self._size(self.followup.now.image),
            Failure.MAP_APART: self._map_finds(forecast) < LOST * self._map_finds(self.unprovoked)
            or self._image_finds(forecast) < LOST * self._image_finds(self.unprovoked),
        }

    def artefacts(self, forecast: SliceForecast) -> Mask:
        """(H, W) the pixels of the first rule."""
        later = self.followup.later.image
        error, sound = (np.abs(made.mean - later).mean(axis=0) for made in (forecast, self.unprovoked))
        worse = gaussian_filter((error - sound) * self._brain, 1.0)
        depth = distance_transform_edt(self.followup.now.brain) * self.followup.pixel_mm
        return np.asarray((worse > WORSE) & self._elsewhere & (depth <= PERIPHERY_MM))

    def blobs(self, forecast: SliceForecast) -> Mask:
        """(H, W) the pixels of the second rule."""
        known = self._looks_like_tumour(self.unprovoked.mean) | self._looks_like_tumour(self.followup.later.image)
        patches, _ = label(self._looks_like_tumour(forecast.mean) & ~binary_dilation(known), EVERY_NEIGHBOUR)
        return np.asarray((patches > 0) & ~np.isin(patches, np.unique(patches[~self._elsewhere])))

    @property
    def _brain(self) -> Mask:
        return np.asarray(self.followup.now.brain & self.followup.later.brain)

    @cached_property
    def _elsewhere(self) -> Mask:
        tumour = (self.followup.now.labels > 0) | (self.followup.later.labels > 0)
        return np.asarray(self._brain & (distance_transform_edt(~tumour) * self.followup.pixel_mm > ELSEWHERE_MM))

    @cached_property
    def _classifier(self) -> Any:
        """Linear discriminants of the present scan's labels by its intensities."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # noqa: PLC0415 - a second, and an extra

        now = self.followup.now
        return LinearDiscriminantAnalysis().fit(now.image[:, now.brain].T, now.labels[now.brain])

    def _looks_like_tumour(self, image: Map) -> Mask:
        """(H, W) of an image (C, H, W)."""
        brain = self.followup.now.brain
        tumour = np.zeros(brain.shape, np.bool_)
        tumour[brain] = self._classifier.predict(image[:, brain].T) > 0
        return tumour

    def _size(self, image: Map) -> int:
        """Pixels that look like tumour about the present outline."""
        away = distance_transform_edt(self.followup.now.labels == 0) * self.followup.pixel_mm
        return int((self._looks_like_tumour(image) & (away <= NEAR_MM)).sum())

    @cached_property
    def _candidates(self) -> Mask:
        return np.asarray(self.followup.now.brain & (self.followup.now.labels == 0))

    @cached_property
    def _new(self) -> Mask:
        return np.asarray((self.followup.later.labels > 0) & self._candidates)

    def _map_finds(self, forecast: SliceForecast) -> float:
        """The share of the new tumour among as many of the likeliest candidates; NaN without a growth map."""
        if forecast.growth is None:
            return float("nan")
        return coverage(self._new, forecast.growth, self._candidates, int(self._new.sum()))

    def _image_finds(self, forecast: SliceForecast) -> float:
        """The share of the new tumour that looks like tumour."""
        seen = self._looks_like_tumour(forecast.mean) & self._new
        return float(seen.sum()) / max(int(self._new.sum()), 1)

    def _largest_mm2(self, mask: Mask) -> float:
        patches, count = label(mask, EVERY_NEIGHBOUR)
        return float(np.bincount(patches.ravel())[1:].max()) * self.followup.pixel_mm**2 if count else 0.0
