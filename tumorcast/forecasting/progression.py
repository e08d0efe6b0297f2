"""Guidance of members by the progression network: what it predicts at a member's size, varied between members.

Without such a network, every member is guided around the present tumour alone.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.special import expit, logit

from tumorcast.data.cohort import CohortSlice
from tumorcast.data.imaging.geometry import pixel_size_mm
from tumorcast.engines.protocol import Engine
from tumorcast.forecasting.plan import member_noise
from tumorcast.forecasting.targets import SliceTargets
from tumorcast.settings import ForecastSettings, NetworkKind

Array = npt.NDArray[np.float32]

FIELD_MM = 8.0  # standard deviation of the kernel that smooths the noise between members
LEAST_WEIGHT = 0.02  # of the guidance near the tumour, where no growth is predicted
SURE = 1e-4  # a probability is kept this far from 0 and 1
SHARED = 0  # in place of the number of a slice: noise that all slices of a member have
VARIATION_KEY = 1  # beside the noise of the image, which has a shorter key


@dataclass(frozen=True)
class ProgressionGuidance:
    """For M members of one slice. window: (M, H, W) weight of the guidance, in [0, 1].

    probability: (M, H, W) of tumour once it has the member's size; None where the model has no progression network.
    """

    window: Array
    probability: Array | None


@dataclass(frozen=True)
class GuidanceKeys:
    """What a slice's noise is drawn from. source_slice: SHARED where all have the same; first: of its members."""

    patient_id: str
    source_slice: int
    first: int


def progression_guidance(
    keys: GuidanceKeys, targets: SliceTargets, predicted: Array | None, *, engine: Engine, settings: ForecastSettings
) -> ProgressionGuidance:
    """The guidance of the members of one slice. targets: of as many members as there are from `keys.first` on.

    predicted: (M, H, W) probability of tumour at the members' sizes, where it is known from a map in three dimensions;
    else the progression network on slices is asked, if the model has one.
    """
    present = targets.present
    outline, pixel_mm = present.labels > 0, pixel_size_mm(present.affine)
    near = guidance_window(outline, settings.sampler.window_mm, pixel_mm)
    if predicted is None and engine.info.progression is not NetworkKind.SLICE_PROGRESSION:
        return ProgressionGuidance(np.repeat(near[None], len(targets.change), axis=0), None)
    probability = predicted
    if probability is None:
        probability = predict_progression(present, targets.target_ratio, engine, settings.batch)
    windows = np.empty_like(probability)
    for row, member in enumerate(range(keys.first, keys.first + len(probability))):
        varied = probability[row]
        if settings.sampler.spread > 0:
            white = member_noise(
                keys.patient_id, keys.source_slice, member, settings.seed, outline.shape, VARIATION_KEY
            )
            varied = _varied(varied, settings.sampler.spread, white, pixel_mm)
        windows[row] = _where_it_changes(varied, outline, grows=targets.change[row] >= 0)
    return ProgressionGuidance(np.maximum(windows, LEAST_WEIGHT * near) * present.brain, probability)


def guidance_window(tumour: npt.NDArray[np.bool_], window_mm: float | None, pixel_mm: float) -> Array:
    """(H, W) weight of the guidance: 1 in the present tumour, falling as a Gaussian of the distance to it.

    >>> guidance_window(np.array([[True, False, False]]), 1.0, 1.0).round(2)
    array([[1.  , 0.61, 0.14]], dtype=float32)
    """
    if window_mm is None or not tumour.any():
        return np.ones(tumour.shape, np.float32)
    distance_mm = distance_transform_edt(~tumour) * pixel_mm
    return np.exp(-0.5 * (distance_mm / window_mm) ** 2).astype(np.float32)


def predict_progression(
    present: CohortSlice, target_ratio: npt.NDArray[np.float64], engine: Engine, batch: int
) -> Array:
    """(M, H, W) probability of tumour in the brain once its area is `target_ratio` (M,) times the present one.

    Members of one size share the network's answer, and sizes go through it in batches.
    """
    log_ratio = np.log(np.maximum(target_ratio, SURE)).astype(np.float32)
    sizes, rows = np.unique(log_ratio, return_inverse=True)
    outline = (present.labels > 0).astype(np.float32)
    answers = []
    for part in np.array_split(sizes, range(batch, len(sizes), batch)):
        images = np.repeat(present.image[None], len(part), axis=0)
        answers.append(engine.predict_progression(images, np.repeat(outline[None], len(part), axis=0), part))
    return np.asarray(np.concatenate(answers)[rows] * present.brain)


def _varied(probability: Array, spread: float, white: Array, pixel_mm: float) -> Array:
    """(H, W) the probability with smooth noise of standard deviation `spread` on its logit."""
    smooth = gaussian_filter(white, FIELD_MM / pixel_mm)
    field = smooth / max(float(smooth.std()), 1e-12)
    return np.asarray(expit(logit(np.clip(probability, SURE, 1 - SURE)) + spread * field), np.float32)


def _where_it_changes(probability: Array, outline: npt.NDArray[np.bool_], *, grows: bool) -> Array:
    """(H, W) where the guidance may act: in the tumour and where it goes; of one that shrinks, where it leaves."""
    return np.maximum(probability, outline) if grows else (1 - probability) * outline
