"""A pixel model fitted to a few pairs: it finds what leads a tumour, keeps to the size, and leaves all else alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, shift

from tumorcast.data.cohort import CohortSlice
from tumorcast.diffusion.sampler import Array
from tumorcast.engines.protocol import ModelInfo
from tumorcast.errors import InputError
from tumorcast.forecasting.pixel_model import LEAST_PIXELS, PixelModel, PixelModelEngine, SlicePair, features
from tumorcast.settings import NetworkKind, Provider

SIDE = 64


@dataclass
class Plain:
    """An engine that segments what is bright."""

    info: ModelInfo = field(default_factory=lambda: ModelInfo(("t1c",), SIDE, 350, NetworkKind.SEGMENTER, "abc"))
    provider: Provider = Provider.TORCH
    device: str = "cpu"

    def segment(self, images: Array) -> Array:
        return np.asarray(images[:, 0] > 0.7, np.float32)

    def sizes(self, x: Array, t: int, brain: Array) -> Array:
        return np.full(len(x), 7.0, np.float32)


def scan(row: int, column: int, radius: float) -> CohortSlice:
    """A round brain with a bright tumour and a band of grey above it."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    brain = np.hypot(rows - 32, columns - 32) < 28
    tumour = np.hypot(rows - row, columns - column) < radius
    image = np.where(tumour, 0.9, np.where(brain, -0.2, -1.0)).astype(np.float32)
    image[(rows < row - radius) & brain] = 0.3
    return CohortSlice(
        image=image[None],
        labels=tumour.astype(np.uint8),
        brain=brain,
        affine=np.diag([4.0, 4.0, 5.0, 1.0]),
        area_mm2=float(tumour.sum() * 16),
        brain_mm2=float(brain.sum() * 16),
        source_slice=1,
    )


def upwards(present: CohortSlice, pixels: int = 3) -> SlicePair:
    """It grows into the grey, and nowhere else."""
    tumour = present.labels > 0
    later = tumour.copy()
    for step in range(1, pixels + 1):
        later |= shift(tumour.astype(np.uint8), (-step, 0), order=0).astype(bool)
    return SlicePair(present, later & present.brain)


@pytest.fixture(scope="module")
def fitted() -> PixelModel:
    patients = [[upwards(scan(row, column, radius))] for row, column, radius in ((30, 28, 5), (36, 36, 4), (33, 24, 6))]
    return PixelModel.fit(patients, Plain())


@pytest.mark.slow
def test_a_pixel_model_finds_where_the_others_grew(fitted: PixelModel) -> None:
    new = upwards(scan(34, 34, 5))
    tumour = new.present.labels > 0
    probability = PixelModelEngine(Plain(), fitted).predict_progression(
        new.present.image[None], tumour[None].astype(np.float32), np.array([new.log_ratio], np.float32)
    )[0]
    ring = binary_dilation(tumour, iterations=2) & ~tumour
    assert probability[ring & new.later].mean() > 1.5 * probability[ring & ~new.later].mean()
    assert probability[tumour].mean() > 0.8
    assert probability[~binary_dilation(tumour, iterations=8) & new.present.brain].max() < 0.1


def test_the_probabilities_add_up_to_the_size_asked_for(fitted: PixelModel) -> None:
    present = scan(34, 34, 5)
    engine, tumour = PixelModelEngine(Plain(), fitted), (present.labels > 0)[None].astype(np.float32)
    for ratio in (-0.5, 0.0, 0.4, 1.5):
        probability = engine.predict_progression(present.image[None], tumour, np.array([ratio], np.float32))[0]
        assert probability.sum() == pytest.approx(tumour.sum() * np.exp(ratio), rel=0.01)
        assert not probability[~present.brain].any()


def test_an_engine_with_a_pixel_model_is_another_model_and_the_same_engine(fitted: PixelModel) -> None:
    engine = PixelModelEngine(Plain(), fitted)
    assert engine.info.progression and not Plain().info.progression
    assert engine.info.sha256 not in (
        "abc",
        PixelModelEngine(Plain(), PixelModel.fit([[upwards(scan(30, 30, 5))]], Plain())).info.sha256,
    )
    assert engine.sizes(np.zeros((2, 1, SIDE, SIDE), np.float32), 5, np.zeros(())).tolist() == [7.0, 7.0]


def test_patients_weigh_the_same_however_many_slices_they_have() -> None:
    many, single = upwards(scan(30, 28, 5)), upwards(scan(36, 36, 4))
    a = PixelModel.fit([[many] * 5, [single]], Plain())
    b = PixelModel.fit([[many], [single]], Plain())
    np.testing.assert_allclose(a.weight / np.abs(a.weight).max(), b.weight / np.abs(b.weight).max(), atol=0.1)


def test_distances_are_in_millimetres_and_the_ratio_is_held() -> None:
    present = scan(32, 32, 5)
    planes = features(present.image, present.labels > 0, present.brain, 0.5, present.brain * 0.5)
    assert planes.shape[:2] == (SIDE, SIDE) and np.isfinite(planes).all()
    assert planes[32, 32 + 5 + 2, 0] == pytest.approx(3 * 4.0)  # the outline ends at 36; a pixel of 64 is 4 mm
    assert SlicePair(present, np.zeros_like(present.brain)).log_ratio == pytest.approx(-1.6)


def test_nothing_to_fit_to_is_an_error() -> None:
    present = scan(32, 32, 5)
    with pytest.raises(InputError, match="--slices all"):
        PixelModel.fit([[SlicePair(present, np.zeros_like(present.brain))]], Plain())
    assert LEAST_PIXELS > 0
