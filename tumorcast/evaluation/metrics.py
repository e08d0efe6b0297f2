"""Metrics: each is one function whose docstring holds its formula, reference and rule for missing values.

Masks and maps are (H, W), or (Z, Y, X) where pixels are voxels; images are (C, H, W) in [-1, 1], distances in mm; what
has no value is NaN. METRICS are those of
`tumorcast evaluate`, with what a table needs of them; docs/evaluation.md's tables of definitions are generated from
these docstrings by docs/evaluation_tables.py, which reads the paragraphs that begin with one of PARTS.
scipy measures distances, scikit-learn ranks, scikit-image compares images.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

PARTS = ("Formula", "Reference", "Missing")
INTENSITY_RANGE = 2.0  # images are in [-1, 1]
SSIM_WINDOW = 7  # pixels a side, scikit-image's default
LARGEST_PSNR_DB = 100.0  # of equal images, so that means exist
BINS = 10
THRESHOLDS = tuple(round(0.1 * k, 1) for k in range(1, 10))
NO_DIRECTION_DEGREES = 90.0  # the mean angle of a direction that is drawn at random
LEAST_SHIFT_PIXELS = 0.5  # of the true centroid; below it the tumour went nowhere
STILL = 1e-6  # pixels
NEAR_MM = 20.0
PLAN_MM = 15.0  # the margin of a standard radiotherapy plan, which PREDICT-GBM takes as its reference
INTERVAL = (0.05, 0.95)
SAME_SIZES_MM4 = 1e-6  # squared deviations that sum to less are rounding


@dataclass(frozen=True)
class Metric:
    """A metric as tables show it. name: its key in JSON and column in CSV; label: the head of its column.

    higher_is_better: None where neither is. support: the least and the largest value it can have. definition: the
    function that computes it.
    """

    name: str
    label: str
    digits: int
    higher_is_better: bool | None
    support: tuple[float, float]
    definition: Callable[..., Any]

    @property
    def summary(self) -> str:
        """The first sentence of the definition, as it goes on within another."""
        first = (self.definition.__doc__ or "").split("\n\n")[0].strip().rstrip(".")
        return first[:1].lower() + first[1:]

    def part(self, name: str) -> str:
        """The paragraph of the definition that begins with one of PARTS, without that word; empty where there is none.

        >>> DICE.part("Missing")
        'both masks empty: 1; one of them: 0.'
        """
        found = re.search(rf"^\s*{name}: (.*?)(?=\n\s*\n|\n\s*(?:{'|'.join(PARTS)}): |\Z)", self._text, re.M | re.S)
        return " ".join(found[1].split()) if found else ""

    @property
    def _text(self) -> str:
        return self.definition.__doc__ or ""

    def called(self, name: str, label: str, digits: int | None = None) -> Self:
        """The same metric of something else, under another name."""
        return replace(self, name=name, label=label, digits=self.digits if digits is None else digits)

    def rounded(self, digits: int) -> Self:
        """The same metric with other digits."""
        return replace(self, digits=digits)


def _mean(values: Any) -> float:
    return float(np.mean(values, dtype=np.float64))


# Outlines and rankings: where the tumour goes


def average_precision(truth: Mask, score: Map, candidates: Mask) -> float:
    """Average precision of the map for new tumour.

    Formula: Σ (Rₖ − Rₖ₋₁) Pₖ over the distinct scores k of the candidates, P precision and R recall for new tumour;
    equal scores are one step, so a constant score has the share of new tumour.
    Reference: scikit-learn, average_precision_score.
    Missing: no value without new tumour.

    >>> average_precision(np.array([True, False, True]), np.array([3.0, 2.0, 1.0]), np.full(3, True)).__round__(3)
    0.833
    """
    from sklearn.metrics import average_precision_score  # noqa: PLC0415 - a second, and an extra

    wanted = truth[candidates]
    return float(average_precision_score(wanted, score[candidates])) if wanted.any() else float("nan")


def roc_auc(truth: Mask, score: Map, candidates: Mask) -> float:
    """Chance that a pixel of new tumour scores higher than another candidate.

    Formula: area under the curve of true over false positive rate of the candidates; equal scores count half.
    Reference: scikit-learn, roc_auc_score.
    Missing: no value without new tumour, or where every candidate is new tumour.

    >>> roc_auc(np.array([True, False, False]), np.array([2.0, 2.0, 1.0]), np.full(3, True))
    0.75
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - as above

    wanted = truth[candidates]
    return float(roc_auc_score(wanted, score[candidates])) if wanted.any() and not wanted.all() else float("nan")


def dice(a: Mask, b: Mask) -> float:
    """Overlap of the outlines, 1 is best.

    Formula: 2 |a ∩ b| / (|a| + |b|) of the method's outline and the later one, the present tumour included.
    Reference: [Dice 1945](https://doi.org/10.2307/1932409).
    Missing: both masks empty: 1; one of them: 0.

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
    """Distances from each edge pixel of one outline to the nearest of the other, both ways.

    An edge pixel has a neighbour (of four, or six in a volume) outside the mask; the image's edge is outside. Both
    masks empty: 0. One empty: the image's diagonal, which no distance exceeds.

    >>> surface_distance(np.array([[True, False, False]]), np.array([[False, False, True]]), 2.0)
    SurfaceDistance(hd95=4.0, mean=4.0)
    """
    if not a.any() or not b.any():
        missed = float(np.linalg.norm(a.shape)) * pixel_mm if a.any() or b.any() else 0.0
        return SurfaceDistance(missed, missed)
    (box,) = find_objects((a | b).astype(np.uint8))
    outlines = [mask[box] & ~binary_erosion(mask[box]) for mask in (a, b)]
    ways = [(outlines[0], outlines[1]), (outlines[1], outlines[0])]
    distances = [distance_transform_edt(~to)[of] * pixel_mm for of, to in ways]
    return SurfaceDistance(max(float(np.percentile(way, 95)) for way in distances), _mean(np.concatenate(distances)))


def hd95_mm(a: Mask, b: Mask, pixel_mm: float) -> float:
    """95 % Hausdorff distance of the outlines, 0 is best.

    Formula: in mm, the larger of both directed 95th percentiles of the distances from the edge pixels of one outline to
    the nearest of the other.
    Reference: [Maier-Hein et al. 2024](https://doi.org/10.1038/s41592-023-02151-z).
    Missing: both masks empty: 0; one of them: the image's diagonal.

    >>> hd95_mm(np.array([[True, False, False]]), np.array([[False, False, True]]), 2.0)
    4.0
    """
    return surface_distance(a, b, pixel_mm).hd95


def surface_mm(a: Mask, b: Mask, pixel_mm: float) -> float:
    """Mean distance of the outlines, 0 is best.

    Formula: in mm, the mean of the distances of both outlines' edge pixels to the nearest of the other.
    Reference: [Maier-Hein et al. 2024](https://doi.org/10.1038/s41592-023-02151-z).
    Missing: both masks empty: 0; one of them: the image's diagonal.

    >>> surface_mm(np.array([[True, True, False]]), np.array([[False, True, False]]), 2.0).__round__(3)
    0.667
    """
    return surface_distance(a, b, pixel_mm).mean


def direction_degrees(present: Mask, outline: Mask, later: Mask) -> float:
    """Angle between the told and the true shift of the centroid.

    Formula: the angle between the shifts of the centroid from the present outline to the method's and to the later one.
    Reference: ours.
    Missing: no value where the true centroid went less than half a pixel or a true outline is empty, by the truth
    alone, so that no forecast is spared; a method that shifts nothing, or has no outline: 90°, the mean of a random
    direction.

    >>> dot = np.eye(3, dtype=bool)
    >>> direction_degrees(dot[:1], dot[1:2], dot[2:]), direction_degrees(dot[:1], dot[:1], dot[2:])
    (0.0, 90.0)
    """
    if not (present.any() and later.any()):
        return float("nan")
    start = _centroid(present)
    true = _centroid(later) - start
    if np.hypot(*true) < LEAST_SHIFT_PIXELS:
        return float("nan")
    shift = _centroid(outline) - start if outline.any() else np.zeros(2)
    if np.hypot(*shift) < STILL:
        return NO_DIRECTION_DEGREES
    cosine = float(true @ shift) / float(np.hypot(*true) * np.hypot(*shift))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _centroid(mask: Mask) -> Floats:
    return np.asarray([axis.mean() for axis in np.nonzero(mask)])


def coverage(new: Mask, score: Map, candidates: Mask, pixels: int) -> float:
    """Share of new tumour inside the outline drawn.

    Formula: the share of the new tumour among the method's best candidates, as many as a reference plan has: the
    dilation of the present mask to the given size. Equal scores at the cut count by the share of them that fits in: the
    mean over all ways to draw them.
    Reference: iso-volume coverage of [PREDICT-GBM](https://arxiv.org/abs/2509.13360), of a slice and its area.
    Missing: no value without new tumour.

    >>> coverage(np.array([True, False, True]), np.array([3.0, 1.0, 1.0]), np.full(3, True), 2)
    0.75
    """
    wanted, scores = new[candidates], score[candidates]
    if not wanted.any():
        return float("nan")
    count = min(pixels, scores.size)
    if count <= 0:
        return 0.0
    cut = np.partition(scores, scores.size - count)[scores.size - count]
    above, level = scores > cut, scores == cut
    share = (count - int(above.sum())) / int(level.sum())
    return float((wanted[above].sum() + share * wanted[level].sum()) / wanted.sum())


def plan_coverage(new: Mask, score: Map, candidates: Mask, away_mm: Map) -> float:
    """Share of new tumour that a plan of a fixed margin would hold.

    Formula: coverage, with all candidates within 15 mm of the present mask for the plan.
    Reference: the margin of [PREDICT-GBM](https://arxiv.org/abs/2509.13360).
    Missing: no value without new tumour.

    >>> away_mm = np.array([10.0, 20.0, 30.0])
    >>> plan_coverage(np.array([True, True, False]), -away_mm, np.full(3, True), away_mm)
    0.5
    """
    return coverage(new, score, candidates, int((candidates & (away_mm <= PLAN_MM)).sum()))


def recall(new: Mask, outline: Mask, region: Mask) -> float:
    """Share of the new tumour of a region that the outline holds.

    Formula: |outline ∩ new ∩ region| / |new ∩ region|; the region is the slices that show no tumour now.
    Reference: sensitivity.
    Missing: no value without new tumour there.

    >>> recall(np.array([True, True]), np.array([True, False]), np.full(2, True))
    0.5
    """
    wanted = new & region
    return float((outline & wanted).sum() / wanted.sum()) if wanted.any() else float("nan")


# Probabilities


def brier(truth: Mask, probability: Map, candidates: Mask) -> float:
    """Mean squared error of a probability, 0 is best.

    Formula: the mean of (p − y)² over the candidates, y 1 in the later outline and 0 elsewhere.
    Reference: Brier 1950, Monthly Weather Review 78, 1–3.
    Missing: no value without candidates.

    >>> brier(np.array([True, False]), np.array([0.5, 0.5]), np.full(2, True))
    0.25
    """
    if not candidates.any():
        return float("nan")
    return _mean(np.square(probability[candidates] - truth[candidates]))


def continuous_dice(truth: Mask, probability: Map) -> float:
    """Overlap of the later outline with a probability, 1 is best.

    Formula: 2 Σab / (c Σa + Σb), truth a, probability b, c the mean of b where a = 1 and b > 0, or 1. A faint map on
    the truth alone has 1: it tells place, not calibration.
    Reference: [Shamir et al. 2019](https://arxiv.org/abs/1906.11031).
    Missing: both empty: 1.

    >>> continuous_dice(np.array([True, True, False]), np.array([0.5, 0.0, 0.5]))
    0.5
    """
    met = probability[truth]
    hit = met[met > 0]
    scale = float(hit.mean(dtype=np.float64)) if hit.size else 1.0
    total = scale * int(truth.sum()) + float(probability.sum(dtype=np.float64))
    return 2.0 * float(met.sum(dtype=np.float64)) / total if total else 1.0


def dice_above(truth: Mask, probability: Map, threshold: float) -> float:
    """Overlap of the later outline with what a probability holds for likely, 1 is best.

    Formula: Dice of what exceeds the threshold (½; also .1, .2, … .9, of which the best is known with hindsight only)
    in the whole brain, the present tumour included.
    Reference: [Dice 1945](https://doi.org/10.2307/1932409).
    Missing: both masks empty: 1; one of them: 0.

    >>> dice_above(np.array([True, True]), np.array([0.75, 0.25]), 0.5)
    0.6666666666666666
    """
    return dice(truth, probability > threshold)


def expected_share(truth: Mask, probability: Map) -> float:
    """Volume that a probability stands for over the true one, 1 is best.

    Formula: Σp / Σy over the volume, y 1 in the later outline.
    Reference: ours.
    Missing: no value where no tumour is left.

    >>> expected_share(np.array([True, False]), np.array([0.5, 0.25]))
    0.75
    """
    true = int(truth.sum())
    return float(probability.sum(dtype=np.float64)) / true if true else float("nan")


@dataclass(frozen=True)
class Reliability:
    """Sums over candidates by the BINS equal bins of their probability, each (BINS,); sums of slices add up.

    count: of candidates; probability: of their probabilities; true: of those that became tumour.
    """

    count: Floats
    probability: Floats
    true: Floats

    @classmethod
    def of(cls, truth: Mask, probability: Map, candidates: Mask) -> Self:
        """The sums of one slice."""
        forecast, true = probability[candidates].astype(np.float64), truth[candidates].astype(np.float64)
        bins = np.minimum((forecast * BINS).astype(np.int64), BINS - 1)
        return cls(*(np.bincount(bins, weights, BINS).astype(np.float64) for weights in (None, forecast, true)))

    @classmethod
    def of_patient(cls, slices: Iterable["Reliability"]) -> Floats:
        """(3, BINS) the sums of a patient's slices, scaled so that the counts sum to one."""
        sums: Floats = np.sum([[one.count, one.probability, one.true] for one in slices], axis=0)
        return np.asarray(sums / max(sums[0].sum(), 1.0))

    def curve(self) -> tuple[Floats, Floats]:
        """(mean probability, share of true pixels) of the bins that hold something."""
        held = self.count > 0
        return self.probability[held] / self.count[held], self.true[held] / self.count[held]


def calibration_error(patients: Floats, axis: int = 0) -> Floats:
    """Distance of a probability from the share that became tumour, 0 is best.

    Formula: |mean probability − share that became tumour| over ten equal bins of the candidates, weighted by their
    counts, patients equally; also within 20 mm of the present outline, since few pixels far away are ever tumour.
    Reference: [Naeini et al. 2015](https://doi.org/10.1609/aaai.v29i1.9602).
    Missing: of whatever candidates there are.

    patients: (P, 3, BINS) those of Reliability.of_patient, P along `axis`.

    >>> float(calibration_error(np.array([[[1.0, 0.0], [0.25, 0.0], [0.5, 0.0]]])))
    0.25
    """
    together = patients.mean(axis=axis)
    return np.asarray(np.abs(together[..., 1, :] - together[..., 2, :]).sum(axis=-1))


# Images


def ssim(image: Map, reference: Map, inside: Mask) -> float:
    """Structural similarity of two images, 1 is best.

    Formula: the index at each pixel (uniform window of 7 pixels, sample covariance, range 2), mean over the region and
    the contrasts. Pixels whose window reaches over the image's edge do not count; over the region's it may.
    Reference: [Wang et al. 2004](https://doi.org/10.1109/TIP.2003.819861); scikit-image, structural_similarity.
    Missing: no value for an empty region.

    >>> image = np.random.default_rng(0).uniform(-1, 1, (1, 9, 9))
    >>> round(ssim(image, image, np.full((9, 9), True)), 6)
    1.0
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - an extra

    margin = SSIM_WINDOW // 2
    inside = np.pad(inside[margin:-margin, margin:-margin], margin)
    if not inside.any():
        return float("nan")
    _, full = structural_similarity(
        image, reference, win_size=SSIM_WINDOW, data_range=INTENSITY_RANGE, channel_axis=0, full=True
    )
    return _mean(full[:, inside])


def psnr(image: Map, reference: Map, inside: Mask) -> float:
    """Peak signal-to-noise ratio of an image, more is better.

    Formula: 10 log₁₀(4 / mean squared error) in dB, over the region and all contrasts, since images are in [−1, 1].
    Reference: scikit-image, peak_signal_noise_ratio.
    Missing: no value for an empty region; equal images: ∞, which `evaluate` takes for 100 dB.

    >>> round(psnr(np.full((1, 2, 2), 0.2), np.zeros((1, 2, 2)), np.full((2, 2), True)), 6)
    20.0
    """
    from skimage.metrics import peak_signal_noise_ratio  # noqa: PLC0415 - an extra

    if not inside.any():
        return float("nan")
    a, b = image[:, inside].astype(np.float64), reference[:, inside].astype(np.float64)
    return float("inf") if np.array_equal(a, b) else float(peak_signal_noise_ratio(b, a, data_range=INTENSITY_RANGE))


# Sizes, over patients


def relative_error(forecast: Floats, truth: Floats) -> Floats:
    """Relative error of a size, 0 is best; its median over patients.

    Formula: the median of |forecast / true − 1|.
    Reference: ours.
    Missing: over the patients with tumour left.

    >>> relative_error(np.array([3.0, 1.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    left = truth > 0
    return np.where(left, np.abs(forecast / np.where(left, truth, 1.0) - 1), np.nan)


def r_squared(both: Floats, axis: int = 0) -> Floats:
    """Share of the spread of true sizes that is forecast, 1 is best.

    Formula: 1 − Σ(forecast − true)² / Σ(true − mean)², over patients.
    Reference: scikit-learn, r2_score.
    Missing: no value where all true sizes are alike.

    both: (P, …, 2) forecast and true, P along `axis`.

    >>> float(r_squared(np.array([[1.0, 1.0], [2.0, 3.0]])))
    0.5
    """
    forecast, truth = both[..., 0], both[..., 1]
    deviations = np.square(truth - truth.mean(axis=axis, keepdims=True)).sum(axis=axis)
    errors = np.square(forecast - truth).sum(axis=axis)
    differ = deviations > SAME_SIZES_MM4
    return np.where(differ, 1 - errors / np.where(differ, deviations, 1.0), np.nan)


def nrmse(both: Floats, axis: int = 0) -> Floats:
    """Error of the sizes over their mean, 0 is best.

    Formula: √(mean (forecast − true)²) / mean true, over patients.
    Reference: ours.
    Missing: no value where no tumour is left anywhere.

    both: (P, …, 2) forecast and true, P along `axis`.

    >>> float(nrmse(np.array([[1.0, 2.0], [3.0, 2.0]])))
    0.5
    """
    forecast, truth = both[..., 0], both[..., 1]
    mean, error = truth.mean(axis=axis), np.sqrt(np.square(forecast - truth).mean(axis=axis))
    left = mean > 0
    return np.where(left, error / np.where(left, mean, 1.0), np.nan)


def interval_coverage(members: Floats, truth: float) -> float:
    """Share of true sizes that the members' interval holds, 0.9 is best.

    Formula: the share of patients whose true size lies between the 5 and 95 % quantiles of the members' sizes. Of few
    members it is too narrow by nature: give 16 or more.
    Reference: ours.
    Missing: no value where all members aim at one size (`--relative-change`).

    >>> interval_coverage(np.array([90.0, 100.0, 110.0]), 105.0)
    1.0
    """
    low, high = np.quantile(members, INTERVAL)
    return float(low <= truth <= high) if high > low else float("nan")


def _threshold_metric(threshold: float) -> Metric:
    label, name = f"p > {threshold:g}", f"dice_at_{threshold:g}"
    return Metric(name, label, 3, True, SHARE, dice_above)


SHARE, DISTANCE = (0.0, 1.0), (0.0, float("inf"))
AP = Metric("ap", "AP", 3, True, SHARE, average_precision)
AUC = Metric("auc", "ROC AUC", 3, True, SHARE, roc_auc)
DICE = Metric("dice", "Dice", 3, True, SHARE, dice)
HD95 = Metric("hd95_mm", "HD95, mm", 2, False, DISTANCE, hd95_mm)
SURFACE = Metric("surface_mm", "surface distance, mm", 2, False, DISTANCE, surface_mm)
DIRECTION = Metric("direction_degrees", "direction, °", 0, False, (0.0, 180.0), direction_degrees)
COVERAGE = Metric("coverage", "coverage", 3, True, SHARE, coverage)
PLAN_COVERAGE = Metric("coverage_plan", f"coverage, {PLAN_MM:g} mm plan", 3, True, SHARE, plan_coverage)
ECE = Metric("ece", "ECE", 4, False, SHARE, calibration_error)
NEAR_ECE = Metric("ece_near", f"ECE within {NEAR_MM:g} mm", 3, False, SHARE, calibration_error)
BRIER = Metric("brier", "Brier", 4, False, SHARE, brier)
CONTINUOUS_DICE = Metric("continuous_dice", "continuous Dice", 3, True, SHARE, continuous_dice)
DICE_HALF = Metric("dice_half", "Dice at p > ½", 3, True, SHARE, dice_above)
DICE_THRESHOLDS = tuple(_threshold_metric(threshold) for threshold in THRESHOLDS)
RECALL_NEW = Metric("recall_new_slices", "recall, slices new to it", 3, True, SHARE, recall)
EXPECTED_SHARE = Metric("expected_share", "Σp / true volume", 2, None, DISTANCE, expected_share)
SSIM = Metric("ssim", "SSIM", 3, True, (-1.0, 1.0), ssim)
PSNR = Metric("psnr_db", "PSNR, dB", 1, True, (-float("inf"), LARGEST_PSNR_DB), psnr)
R2 = Metric("r2", "R²", 2, True, (-float("inf"), 1.0), r_squared)
NRMSE = Metric("nrmse", "nRMSE", 2, False, DISTANCE, nrmse)
MEDIAN_ERROR = Metric("median_error", "median relative error", 3, False, DISTANCE, relative_error)
COVERAGE_90 = Metric("coverage90", "truth in the members' 5–95 %", 2, None, SHARE, interval_coverage)

REGIONS = ("brain", "changed", "unchanged")
IMAGE_METRICS = (
    *(SSIM.called(f"ssim_{region}", f"SSIM, {region}") for region in REGIONS),
    *(PSNR.called(f"psnr_db_{region}", f"PSNR, {region}, dB") for region in REGIONS),
)
SIZE_METRICS = (R2, NRMSE, MEDIAN_ERROR, COVERAGE_90)
