"""The voxel model: where a tumour goes, learned in seconds from a few pairs of scans.

A logistic regression on what lies round each voxel of the present scan (FEATURES, and OF_CONTRAST of each contrast):

    logit p = β₁ (ln r - front) + β₂ (ln r - uniform front) + Σ weight · feature + bias,        β₁, β₂ > 0

where r is the tumour's later volume over its present one, and a front is the ln of that ratio at which the
Fisher-Kolmogorov front arrives (front.py), in the tissue that T1 tells or in one that is alike everywhere. It is linear
in ln r with a positive weight β = β₁ + β₂, so it is a field of arrival as it stands: log_volume is where logit p is 0,
and β is its steepness. Size enters beside the fronts alone, as few pairs tell little of how size moves them: what is
learned is how sure each is, and where they are wrong. Within the present outline log_volume is held below all outside,
so that no tumour grows while it loses its own.

Lengths are in mm. Where a scan's true spacing is not known, they are in whatever its volumes call mm; so a model
refuses volumes of other voxels than those that it was fitted to.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.optimize import brentq, minimize
from scipy.special import expit

from tumorcast.arrival.crop import MARGIN_MM, signed_distance_mm
from tumorcast.arrival.field import ArrivalField, CroppedScan, check_voxels
from tumorcast.arrival.front import front_log_volume
from tumorcast.arrival.pairs import VolumePair
from tumorcast.durable import write_text
from tumorcast.errors import InputError
from tumorcast.records import SessionVolume

Map = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

REMEDY = "make it with `tumorcast fit-place`, or forecast with --place front"
FORMAT, FORMAT_VERSION = "tumorcast-voxel-model", 1
REACH_MM = MARGIN_MM  # farther voxels are not learned from; they are as those at this distance
FALL_MM, CROWD_MM = (3.0, 8.0, 20.0), (3.0, 6.0, 12.0)
NEAR_MM, ROUND_MM = 3.0, 6.0  # over which brightness is blurred
NEAR_FALL_MM = 8.0
FARTHEST_FRONT = 3.0  # ln of a volume ratio
BRIGHTEST, FAINT = 3.0, 0.1
LEAST_SD = 1e-5  # of a feature
FIRST_STEEPNESS, LEAST_STEEPNESS = 4.0, 0.5  # β; half of it each for both fronts
LARGEST_LIFT = 5.0  # of a logit
PENALTY = 50.0  # the weights' squares cost 1 / (2 · this), where the voxels weigh 1 together
MOST_VOXELS = 30_000  # of a pair, drawn at random
STEPS = 500  # of the search, which needs some fifty
TIE = 1e-3  # of the front, within the outline, where the model tells nothing apart
FEATURES = (
    "distance outside",
    "depth inside",
    "distance to the brain's edge",
    *(f"fall over {scale:g} mm" for scale in FALL_MM),
    *(f"tumour within {scale:g} mm" for scale in CROWD_MM),
)
OF_CONTRAST = ("brightness round", "brightness near the outline")


@dataclass(frozen=True)
class FittedTo:
    """What a model has learned from. scans: a sum over the pairs."""

    patients: int
    pairs: int
    scans: str


@dataclass(frozen=True)
class VoxelModel:
    """A fitted voxel model.

    voxel_mm: of the volumes. steepness: β; uniform_share: of it, β₂. weights: by feature, `features_of(contrasts)` in
    order; of the features as they are.
    """

    contrasts: tuple[str, ...]
    voxel_mm: float
    steepness: float
    uniform_share: float
    bias: float
    weights: dict[str, float]
    fitted_to: FittedTo
    name: str = "voxel model"

    @classmethod
    def fit(cls, patients: Sequence[Sequence["VoxelSample"]], contrasts: Sequence[str]) -> Self:
        """Fit to what was looked at of each patient's pairs (`look_at`); patients weigh the same.

        Raises InputError where there is nothing to fit to, or volumes have voxels of different sizes.
        """
        known = [samples for samples in patients if samples]
        if not known:
            raise InputError("no patient has a pair of scans to learn from; give a cohort with more scans a patient")
        every = [sample for samples in known for sample in samples]
        voxel_mm = every[0].voxel_mm
        if any(not np.isclose(sample.voxel_mm, voxel_mm) for sample in every):
            raise InputError("the volumes have voxels of different sizes; prepare all scans with one --voxel-mm")
        fitted = _regression(known)
        digest = hashlib.sha256("".join(sample.digest for sample in every).encode()).hexdigest()
        model = cls(
            contrasts=tuple(contrasts),
            voxel_mm=voxel_mm,
            steepness=fitted.steepness,
            uniform_share=fitted.uniform_share,
            bias=fitted.bias,
            weights=dict(zip(features_of(contrasts), fitted.weights, strict=True)),
            fitted_to=FittedTo(len(known), len(every), digest),
        )
        return replace(model, bias=model.bias + model._lift(known))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model in a file. Raises InputError if it is missing, or not one."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if (record.pop("format"), record.pop("format_version")) != (FORMAT, FORMAT_VERSION):
                raise ValueError("another format or version")
            digest = record.pop("sha256")
            contrasts, fitted_to = tuple(record.pop("contrasts")), FittedTo(**record.pop("fitted_to"))
            model = cls(contrasts=contrasts, fitted_to=fitted_to, **record)
            if tuple(model.weights) != features_of(contrasts) or not model.steepness >= LEAST_STEEPNESS:
                raise ValueError("other features than this version has, or a steepness that is none")
            if model.sha256 != digest:
                raise ValueError("its sum is not that of its content")
        except OSError as fault:
            raise InputError(f"{path}: cannot be read ({fault.strerror}); {REMEDY}") from None
        except (ValueError, KeyError, TypeError) as fault:
            raise InputError(f"{path}: not a voxel model of this version ({fault}); {REMEDY}") from None
        return model

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": self.sha256}
        write_text(path, json.dumps(head | asdict(self), indent=1) + "\n")

    @cached_property
    def sha256(self) -> str:
        """A sum over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def field(self, volume: SessionVolume, contrasts: Sequence[str]) -> ArrivalField:
        """See ArrivalModel. Raises InputError if the scan lacks a contrast, or has other voxels."""
        check_voxels(self, volume.voxel_mm)
        absent = [name for name in self.contrasts if name not in contrasts]
        if absent:
            raise InputError(
                f"a scan without {', '.join(absent)}, which the voxel model was fitted with; fit one to scans of "
                f"{', '.join(contrasts)} (`tumorcast fit-place`), or forecast with --place front"
            )
        present = CroppedScan.of(volume, contrasts)
        looked_at = _Surroundings.of(present, self.contrasts)
        log_volume = np.full(present.tumour.shape, np.inf, np.float32)
        log_volume[present.inside] = self._log_volume(looked_at.features, looked_at.fronts, looked_at.own)
        return ArrivalField(present.crop, log_volume, np.full_like(log_volume, self.steepness), present.inside)

    def _log_volume(self, features: Map, fronts: Map, own: Mask) -> Map:
        """(K,) of voxels (K, ...), as _Surroundings has them."""
        known = features @ np.array(list(self.weights.values()), np.float32) + np.float32(self.bias)
        shares = np.array([1.0 - self.uniform_share, self.uniform_share], np.float32)
        log_volume = np.asarray(fronts @ shares - known / np.float32(self.steepness), np.float32)
        floor = np.float32(min(0.0, float(log_volume[~own].min(initial=0.0))))
        log_volume[own] = np.minimum(log_volume[own], floor) + np.float32(TIE) * fronts[own, 0]
        return log_volume

    def _lift(self, patients: Sequence[Sequence["VoxelSample"]]) -> float:
        """Of the bias, with which the probabilities of all pairs add up to the true later volumes, by their geometric
        mean over patients: what is held down within the present outline would add too much."""

        def excess(lift: float) -> float:
            lifted = replace(self, bias=self.bias + lift)
            return float(np.mean([np.mean([lifted._excess(sample) for sample in own]) for own in patients]))

        if excess(-LARGEST_LIFT) > 0 or excess(LARGEST_LIFT) < 0:
            return 0.0
        return float(brentq(excess, -LARGEST_LIFT, LARGEST_LIFT, xtol=1e-3))

    def _excess(self, sample: "VoxelSample") -> float:
        """ln(volume that the probabilities add up to / true later volume), within REACH_MM."""
        log_volume = self._log_volume(sample.features, sample.fronts, sample.own)
        total = float(expit(self.steepness * (sample.log_ratio - log_volume)).sum())
        return float(np.log(total / max(int(sample.truth.sum()), 1)))


def features_of(contrasts: Sequence[str]) -> tuple[str, ...]:
    """What a model of these contrasts looks at.

    >>> len(features_of(["t1c"])) - len(FEATURES)
    2
    """
    return (*FEATURES, *(f"{contrast}: {feature}" for contrast in contrasts for feature in OF_CONTRAST))


@dataclass(frozen=True)
class _Surroundings:
    """What is looked at in a scan's K voxels of brain and tumour: features (K, F); fronts (K, 2), by T1's tissue and
    uniform, held within FARTHEST_FRONT; distance (K,), mm, negative within the tumour; own (K,), the tumour."""

    features: Map
    fronts: Map
    distance: Map
    own: Mask

    @classmethod
    def of(cls, scan: CroppedScan, contrasts: Sequence[str]) -> Self:
        """Of these contrasts, which the scan has."""
        mm, inside = scan.voxel_mm, scan.inside
        distance = signed_distance_mm(scan.tumour, mm)
        away = np.clip(distance, 0.0, REACH_MM)
        outline = scan.tumour.astype(np.float32)
        fronts = [scan.front(), front_log_volume(scan.brain, scan.tumour, None, mm)]
        edge = np.minimum(distance_transform_edt(inside) * mm, REACH_MM)
        planes = [away, np.clip(-distance, 0.0, REACH_MM), edge]
        planes += [np.exp(-away / scale) for scale in FALL_MM]
        planes += [gaussian_filter(outline, scale / mm) for scale in CROWD_MM]
        around = scan.brain & ~scan.tumour & (away < REACH_MM)
        for contrast in contrasts:
            bright = _brightness(scan.images[scan.contrasts.index(contrast)], scan.tumour, around)
            near = gaussian_filter(bright, NEAR_MM / mm) * np.exp(-away / NEAR_FALL_MM)
            planes += [gaussian_filter(bright, ROUND_MM / mm), near]
        held = np.clip(np.stack([front[inside] for front in fronts], axis=-1), -FARTHEST_FRONT, FARTHEST_FRONT)
        features = np.stack([plane[inside] for plane in planes], axis=-1).astype(np.float32)
        return cls(features, held, distance[inside], scan.tumour[inside])


def _brightness(image: Map, tumour: Mask, around: Mask) -> Map:
    """(Z, Y, X) on a scale where the brain around is 0 and the tumour ±1."""
    own, brain = (float(np.median(image[part])) if part.any() else 0.0 for part in (tumour, around))
    return np.asarray(np.clip((image - brain) / (abs(own - brain) + FAINT), -BRIGHTEST, BRIGHTEST), np.float32)


@dataclass(frozen=True)
class VoxelSample:
    """Voxels of a pair, as _Surroundings has them: features (K, F), fronts (K, 2), own (K,); truth (K,), tumour later.
    log_ratio: ln r; digest: a sum over the pair."""

    features: Map
    fronts: Map
    own: Mask
    truth: Mask
    log_ratio: float
    voxel_mm: float
    digest: str


def look_at(pairs: Sequence[VolumePair], contrasts: Sequence[str]) -> Iterator[VoxelSample]:
    """What a model learns from, of a patient's pairs in the order of their earlier scans."""
    seen: SessionVolume | None = None
    for pair in pairs:
        if pair.present is not seen:  # a scan that several follow is looked at once
            seen = pair.present
            scan = CroppedScan.of(seen, contrasts)
            looked_at = _Surroundings.of(scan, contrasts)
            near = np.flatnonzero(looked_at.distance <= REACH_MM)
        digest = hashlib.sha256(seen.images.tobytes() + seen.labels.tobytes() + pair.later.labels.tobytes())
        chosen = near
        if near.size > MOST_VOXELS:
            drawn = np.random.default_rng(list(digest.digest())).choice(near, MOST_VOXELS, replace=False)
            chosen = np.sort(drawn)
        yield VoxelSample(
            features=looked_at.features[chosen],
            fronts=looked_at.fronts[chosen],
            own=looked_at.own[chosen],
            truth=scan.crop.cut(pair.later.tumour)[scan.inside][chosen],
            log_ratio=float(np.log(pair.ratio)),
            voxel_mm=scan.voxel_mm,
            digest=digest.hexdigest(),
        )


@dataclass(frozen=True)
class _Regression:
    """What was fitted. weights: of the features as they are."""

    steepness: float
    uniform_share: float
    bias: float
    weights: list[float]


def _regression(patients: Sequence[Sequence[VoxelSample]]) -> _Regression:
    """The penalised logistic regression; the fronts' weights have no penalty, and a least value."""
    every = [sample for samples in patients for sample in samples]
    features = np.concatenate([sample.features for sample in every]).astype(np.float64)
    margins = np.concatenate([sample.log_ratio - sample.fronts.astype(np.float64) for sample in every])
    truth = np.concatenate([sample.truth for sample in every]).astype(np.float64)
    shares = [np.full(len(one.truth), 1.0 / len(own) / len(one.truth)) for own in patients for one in own]
    weight = np.concatenate(shares) / len(patients)
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), LEAST_SD)
    table = np.column_stack([margins, (features - mean) / scale, np.ones(len(truth))])

    def cost(answer: Floats) -> tuple[float, Floats]:
        logit, penalised = table @ answer, answer[2:-1] / PENALTY
        slope = table.T @ (weight * (expit(logit) - truth))
        slope[2:-1] += penalised
        return float(weight @ (np.logaddexp(0.0, logit) - truth * logit) + 0.5 * penalised @ answer[2:-1]), slope

    start = np.zeros(table.shape[1])
    start[:2] = FIRST_STEEPNESS / 2
    bounds = [(LEAST_STEEPNESS / 2, None)] * 2 + [(None, None)] * (len(start) - 2)
    found: Floats = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}).x
    weights, steepness = found[2:-1] / scale, float(found[:2].sum())
    return _Regression(steepness, float(found[1]) / steepness, float(found[-1] - weights @ mean), weights.tolist())
