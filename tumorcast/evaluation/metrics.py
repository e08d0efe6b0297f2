"""Figures of one slice: overlap and distance of outlines, ranking, calibration and likeness of images.

Masks and maps are (H, W), images (C, H, W) in [-1, 1]; distances are in mm. What has no value is NaN, and says so.
scipy measures distances, scikit-learn ranks, scikit-image compares images; nothing here is a method of our own.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

INTENSITY_RANGE = 2.0  # images are in [-1, 1]
SSIM_WINDOW = 7  # pixels a side, scikit-image's default
BINS = 10
TIE_DRAWS = 5


def dice(a: Mask, b: Mask) -> float:
    """Overlap of two masks, 2 |a ∩ b| / (|a| + |b|); 1 where both are empty.

    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


@dataclass(frozen=True)
class SurfaceDistance:
    """How far apart two outlines are, in mm. hd95: the larger of both directed 95th percentiles; mean: over both."""

    hd95: float
    mean: float


def surface_distance(a: Mask, b: Mask, pixel_mm: float) -> SurfaceDistance:
    """Distances from each pixel of one outline to the nearest of the other, both ways (Maier-Hein et al. 2024).

    An outline is the mask's pixels with a neighbour (of four) outside it; the image's edge is outside. Both masks
    empty: 0. One empty: the image's diagonal, which no distance exceeds.

    >>> surface_distance(np.array([[True, False, False]]), np.array([[False, False, True]]), 2.0)
    SurfaceDistance(hd95=4.0, mean=4.0)
    """
    if not a.any() or not b.any():
        missed = float(np.hypot(*a.shape)) * pixel_mm if a.any() or b.any() else 0.0
        return SurfaceDistance(missed, missed)
    outlines = [mask & ~binary_erosion(mask) for mask in (a, b)]
    ways = [(outlines[0], outlines[1]), (outlines[1], outlines[0])]
    distances = [distance_transform_edt(~to)[of] * pixel_mm for of, to in ways]
    return SurfaceDistance(max(float(np.percentile(way, 95)) for way in distances), _mean(np.concatenate(distances)))


def filled(inside: Mask, score: Map, candidates: Mask, pixels: int, rng: np.random.Generator) -> Mask:
    """`inside` and the `pixels` candidates of highest score, at most all of them.

    Of equal scores that do not all fit in, those taken are drawn at random, so that no method gains by the order in
    which pixels are stored.
    """
    places = np.flatnonzero(candidates)
    order = rng.permutation(places.size)
    ranked = order[np.argsort(-score.ravel()[places][order], kind="stable")]
    grown = inside.ravel().copy()
    grown[places[ranked[: max(pixels, 0)]]] = True
    return grown.reshape(inside.shape)


@dataclass(frozen=True)
class Overlap:
    """Of an outline with the true one. hd95_mm and surface_mm as in SurfaceDistance."""

    dice: float
    hd95_mm: float
    surface_mm: float

    @classmethod
    def of(cls, mask: Mask, truth: Mask, pixel_mm: float) -> Self:
        """Of one mask."""
        apart = surface_distance(mask, truth, pixel_mm)
        return cls(dice(mask, truth), apart.hd95, apart.mean)

    @classmethod
    def at_true_area(cls, inside: Mask, score: Map, candidates: Mask, truth: Mask, pixel_mm: float) -> Self:
        """Of the outline that `score` draws when it is told the true area: means over TIE_DRAWS draws of equal scores.

        Every score is drawn for by the same random numbers.
        """
        pixels = int(truth.sum()) - int(inside.sum())
        draws = [filled(inside, score, candidates, pixels, np.random.default_rng(k)) for k in range(TIE_DRAWS)]
        return cls.mean_of(distinct(draws), truth, pixel_mm)

    @classmethod
    def mean_of(cls, masks: list[Mask], truth: Mask, pixel_mm: float) -> Self:
        """The means over several masks, each against the truth."""
        found = [cls.of(mask, truth, pixel_mm) for mask in masks]
        return cls(*(_mean([getattr(one, name) for one in found]) for name in ("dice", "hd95_mm", "surface_mm")))


def distinct(masks: list[Mask]) -> list[Mask]:
    """The first alone where all are equal, as they are without a tie across the area."""
    return masks[:1] if all(np.array_equal(mask, masks[0]) for mask in masks) else masks


def average_precision(truth: Mask, score: Map, candidates: Mask) -> float:
    """Average precision of a score for the true pixels among the candidates; NaN where none of them is true.

    Equal scores are one step of the curve, so a constant score has the share of true pixels.
    """
    from sklearn.metrics import average_precision_score  # noqa: PLC0415 - a second, and an extra

    wanted = truth[candidates]
    return float(average_precision_score(wanted, score[candidates])) if wanted.any() else float("nan")


def roc_auc(truth: Mask, score: Map, candidates: Mask) -> float:
    """The chance that a true candidate scores higher than another; NaN where all or none of them are true."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - as above

    wanted = truth[candidates]
    return float(roc_auc_score(wanted, score[candidates])) if wanted.any() and not wanted.all() else float("nan")


def brier(truth: Mask, probability: Map, candidates: Mask) -> float:
    """Mean squared error of a probability among the candidates; NaN where there is none (Brier 1950)."""
    if not candidates.any():
        return float("nan")
    return _mean(np.square(probability[candidates] - truth[candidates]))


@dataclass(frozen=True)
class Reliability:
    """Sums over candidates by the BINS equal bins of their probability, each (BINS,); sums of slices add up."""

    count: Floats
    said: Floats
    true: Floats

    @classmethod
    def of(cls, truth: Mask, probability: Map, candidates: Mask) -> Self:
        """The sums of one slice."""
        said, true = probability[candidates].astype(np.float64), truth[candidates].astype(np.float64)
        places = np.minimum((said * BINS).astype(np.int64), BINS - 1)
        return cls(*(np.bincount(places, weights, BINS).astype(np.float64) for weights in (None, said, true)))

    @property
    def expected_error(self) -> float:
        """The expected calibration error: |mean probability - share of true pixels|, weighted by the bins' counts."""
        total = self.count.sum()
        return float(np.abs(self.said - self.true).sum() / total) if total else float("nan")

    def curve(self) -> tuple[Floats, Floats]:
        """(mean probability, share of true pixels) of the bins that hold something."""
        held = self.count > 0
        return self.said[held] / self.count[held], self.true[held] / self.count[held]


def ssim(image: Map, reference: Map, inside: Mask) -> float:
    """Structural similarity averaged over a mask and over contrasts (Wang et al. 2004); NaN for an empty mask.

    The map's value at a pixel is of the SSIM_WINDOW pixels around it, which may reach out of the mask, but not of the
    image: pixels nearer to its edge do not count, as scikit-image's own mean has it.
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - an extra

    reach = SSIM_WINDOW // 2
    inside = np.pad(inside[reach:-reach, reach:-reach], reach)
    if not inside.any():
        return float("nan")
    _, full = structural_similarity(
        image, reference, win_size=SSIM_WINDOW, data_range=INTENSITY_RANGE, channel_axis=0, full=True
    )
    return _mean(full[:, inside])


def psnr(image: Map, reference: Map, inside: Mask) -> float:
    """Peak signal-to-noise ratio in dB over a mask and all contrasts: ∞ for equal images, NaN for an empty mask."""
    from skimage.metrics import peak_signal_noise_ratio  # noqa: PLC0415 - an extra

    if not inside.any():
        return float("nan")
    a, b = image[:, inside].astype(np.float64), reference[:, inside].astype(np.float64)
    return float("inf") if np.array_equal(a, b) else float(peak_signal_noise_ratio(b, a, data_range=INTENSITY_RANGE))


def _mean(values: Any) -> float:
    return float(np.mean(values, dtype=np.float64))
