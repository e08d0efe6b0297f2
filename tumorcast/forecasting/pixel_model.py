"""A pixel model of growth: a logistic regression, from a few pairs of scans, on what lies around each pixel.

A progression network needs hundreds of patients. A pixel model needs a handful, and some seconds: it asks of a pixel
how far it is from the outline and how enclosed by it, how bright it and its surroundings are against tumour and brain,
what the segmenter says of it, and how much the tumour is to grow. `PixelModelEngine` is an engine that has one in place
of a progression network.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.optimize import brentq
from scipy.special import expit, logit

from tumorcast.data.cohort import Cohort, CohortSlice
from tumorcast.data.imaging.geometry import pixel_mm
from tumorcast.engines.protocol import Engine, EngineWrapper
from tumorcast.errors import InputError
from tumorcast.extra import check_extra
from tumorcast.settings import NetworkKind

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

REACH_MM = 50.0  # farther pixels are not learned from; they are as those at this distance
LEAST_PIXELS = 10  # of a present outline that is learned from
LARGEST_LOG_RATIO = 1.6
NEARBY_MM = 40.0  # whose brain is the background that brightness is measured against
DECAYS_MM = (3.0, 8.0, 20.0)
CROWD_MM, BLUR_MM = (3.0, 6.0, 12.0), (1.5, 3.0, 6.0)
SURE = 1e-5
LARGEST_SHARE = 0.5  # of the brain
LARGEST_LIFT = 60.0  # of a logit
PENALTY = 50.0  # C of the regression, on standardised features and weights that sum to one


@dataclass(frozen=True)
class SlicePair:
    """A slice at two dates. later: (H, W) the tumour at the second."""

    present: CohortSlice
    later: Mask

    @property
    def log_ratio(self) -> float:
        """ln(later area / present area), held within ±LARGEST_LOG_RATIO."""
        ratio = max(int(self.later.sum()), 1) / int((self.present.labels > 0).sum())
        return float(np.clip(np.log(ratio), -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def slice_pairs(cohort: Cohort, patient_id: str) -> Iterator[SlicePair]:
    """Every slice of the patient with tumour enough, beside each later scan of it."""
    for before, after in itertools.combinations(cohort.sessions(patient_id), 2):
        later = {int(number): index for index, number in enumerate(after.source_slice)}
        for index, number in enumerate(before.source_slice):
            present = cohort.slice(patient_id, before.id, index)
            if int(number) in later and int((present.labels > 0).sum()) >= LEAST_PIXELS:
                yield SlicePair(present, cohort.slice(patient_id, after.id, later[int(number)]).labels > 0)


@dataclass(frozen=True)
class PixelModel:
    """A fitted pixel model. mean, scale, weight: (F,) of the features; digest: a sum over what it was fitted to."""

    mean: Array
    scale: Array
    weight: Array
    bias: float
    digest: str

    @classmethod
    def fit(cls, patients: Sequence[Sequence[SlicePair]], engine: Engine) -> Self:
        """Fit to each patient's pairs of slices; patients weigh the same. engine: its segmenter is a feature.

        Raises InputError where there is nothing to fit to, EngineError without scikit-learn.
        """
        check_extra("sklearn")
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an extra

        rows, truths, weights, digest = [], [], [], hashlib.sha256()
        for pairs in patients:
            for pair in pairs:
                near = _near(pair.present)
                rows.append(_features_of(pair.present, pair.log_ratio, engine)[near])
                truths.append(pair.later[near])
                weights.append(np.full(int(near.sum()), 1.0 / (len(pairs) * near.sum())))
                digest.update(pair.present.image.tobytes() + pair.later.tobytes())
        if not any(truth.any() for truth in truths):
            raise InputError("no slice with tumour at two dates to learn from; give a cohort with --slices all")
        table, weight = np.concatenate(rows).astype(np.float64), np.concatenate(weights)
        mean, scale = table.mean(axis=0), np.maximum(table.std(axis=0), SURE)
        fitted = LogisticRegression(C=PENALTY, max_iter=500)
        fitted.fit((table - mean) / scale, np.concatenate(truths), sample_weight=weight / weight.sum())
        mean, scale, coefficients = (part.astype(np.float32) for part in (mean, scale, fitted.coef_[0]))
        return cls(mean, scale, coefficients, float(fitted.intercept_[0]), digest.hexdigest())

    def probability(self, features: Array, brain: Mask, pixels: float) -> Array:
        """(H, W) of tumour later, of features (H, W, F). pixels: the later tumour's, which the probabilities add up to.

        A handful of patients tells little of how size changes where a tumour goes, so the known size is kept to.
        """
        logits = (features - self.mean) / self.scale @ self.weight + self.bias
        target = min(pixels, LARGEST_SHARE * float(brain.sum()))

        def missing(lift: float) -> float:
            return float(expit(logits[brain] + lift).sum()) - target

        lift = brentq(missing, -LARGEST_LIFT, LARGEST_LIFT, xtol=1e-3)
        return np.where(brain, expit(logits + lift), 0.0).astype(np.float32)


def _near(present: CohortSlice) -> Mask:
    outline = present.labels > 0
    return np.asarray(present.brain & (distance_transform_edt(~outline) * pixel_mm(outline.shape[-1]) <= REACH_MM))


def _features_of(present: CohortSlice, log_ratio: float, engine: Engine) -> Array:
    seen = engine.segment(present.image[None])[0]
    return features(present.image, present.labels > 0, present.brain, log_ratio, seen)


def features(image: Array, outline: Mask, brain: Mask, log_ratio: float, seen: Array) -> Array:
    """(H, W, F) what a pixel model looks at. image: (C, H, W); seen: (H, W) the segmenter's probability of tumour."""
    side_mm = pixel_mm(outline.shape[-1])
    away = np.minimum(distance_transform_edt(~outline) * side_mm, REACH_MM)
    depth = distance_transform_edt(outline) * side_mm
    margin = np.minimum(distance_transform_edt(brain) * side_mm, NEARBY_MM)
    decays = [np.exp(-away / scale) for scale in DECAYS_MM]
    crowd = [gaussian_filter(outline.astype(np.float32), scale / side_mm) for scale in CROWD_MM]
    size = np.full(outline.shape, log_ratio)
    planes = [away, depth, margin, *decays, *crowd, size, log_ratio * away, log_ratio * decays[1]]
    planes.append(logit(np.clip(seen, SURE, 1 - SURE)))
    for contrast in image:
        bright = _brightness(contrast, outline, brain & (away < NEARBY_MM) & ~outline)
        blurred = [gaussian_filter(bright, scale / side_mm) for scale in BLUR_MM]
        planes += [bright, *blurred, blurred[1] * decays[1], blurred[1] - np.flip(blurred[1], axis=1)]
    return np.stack(planes, axis=-1).astype(np.float32)


def _brightness(contrast: Array, outline: Mask, around: Mask) -> Array:
    """(H, W) on a scale where the brain around is 0 and the tumour ±1."""
    tumour, brain = (float(np.median(contrast[part])) if part.any() else 0.0 for part in (outline, around))
    return np.asarray(np.clip((contrast - brain) / (abs(tumour - brain) + 0.1), -3, 3), np.float32)


class PixelModelEngine(EngineWrapper):
    """An engine that predicts progression by a pixel model. All else is the engine's."""

    def __init__(self, engine: Engine, model: PixelModel) -> None:
        super().__init__(engine)
        self.model = model
        digest = hashlib.sha256((engine.info.sha256 + model.digest).encode()).hexdigest()
        self.info = replace(engine.info, sha256=digest, progression=NetworkKind.SLICE_PROGRESSION)

    def predict_progression(self, images: Array, outline: Array, log_ratio: Array) -> Array:
        """(N, H, W) probability of tumour later; what is -1 in every contrast is no brain."""
        seen = self.engine.segment(images)
        brains: Mask = np.asarray((images > -1).any(axis=1))
        probabilities = []
        for k, held in enumerate(np.clip(log_ratio, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).tolist()):
            tumour = outline[k] > 0.5
            planes = features(images[k], tumour, brains[k], held, seen[k])
            target_pixels = float(tumour.sum()) * math.exp(held)
            probabilities.append(self.model.probability(planes, brains[k], target_pixels))
        return np.stack(probabilities)
