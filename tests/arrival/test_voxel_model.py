"""A voxel model fitted to a few pairs: it finds what leads a tumour, is a field of arrival, and is kept whole."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.leads import AFFINE, ellipsoid, led_pair, led_volume
from tumorcast.arrival.field import FrontArrival
from tumorcast.arrival.pairs import VolumePair, is_pair
from tumorcast.arrival.voxel_model import LEAST_STEEPNESS, MOST_VOXELS, VoxelModel, features_of, look_at
from tumorcast.errors import InputError
from tumorcast.evaluation.metrics import average_precision

T1C = ("t1c",)


@pytest.fixture(scope="module")
def fitted() -> VoxelModel:
    return VoxelModel.fit([list(look_at([led_pair(number)], T1C)) for number in range(4)], T1C)


def precision(model: VoxelModel | FrontArrival, pair: VolumePair) -> float:
    order = model.field(pair.present, T1C).order()
    candidates = pair.present.brain & ~pair.present.tumour
    found = np.where(np.isfinite(order), -order, np.finfo(np.float32).min)
    return average_precision(pair.later.tumour, found, candidates)


def test_it_finds_what_leads_the_tumours_of_others(fitted: VoxelModel) -> None:
    pair = led_pair(5)
    assert precision(fitted, pair) > precision(FrontArrival(), pair) + 0.1


def test_it_is_a_field_of_arrival(fitted: VoxelModel) -> None:
    """Nested over sizes, the present outline before all else, and as large as asked for, on the whole."""
    pair = led_pair(6)
    field = fitted.field(pair.present, T1C)
    assert fitted.steepness >= LEAST_STEEPNESS and np.ptp(field.steepness) == 0
    order, tumour = field.order(), pair.present.tumour
    assert np.isinf(order[~pair.present.brain & ~tumour]).all()
    assert order[tumour].max() < min(0.0, order[~tumour].min())
    small, large = (field.probability(np.array([ratio])) for ratio in (1.0, pair.ratio))
    assert (large >= small).all() and (large > small).any()
    assert large.sum() == pytest.approx(pair.later.tumour.sum(), rel=0.1)


def test_steepness_is_never_below_its_least() -> None:
    """Where larger tumours were those that reached less, size is held to reach more all the same."""
    near, far = led_pair(0), led_pair(2)
    small = replace(near, later=near.present)
    away = replace(far.later, labels=np.where(ellipsoid((12, 16, 25), (5, 5, 5)), 3, 0).astype(np.uint8))
    model = VoxelModel.fit([list(look_at([small], T1C)), list(look_at([replace(far, later=away)], T1C))], T1C)
    assert model.steepness >= LEAST_STEEPNESS


def test_patients_weigh_the_same(fitted: VoxelModel) -> None:
    """A patient whose pair is there three times teaches as much as one whose pair is there once."""
    samples = [list(look_at([led_pair(number)], T1C)) for number in range(4)]
    again = VoxelModel.fit([samples[0] * 3, *samples[1:]], T1C)
    assert again.steepness == pytest.approx(fitted.steepness, rel=0.05)
    assert (again.fitted_to.patients, again.fitted_to.pairs) == (4, 6)


def test_it_is_drawn_alike_every_time_and_from_no_more_voxels_than_are_needed() -> None:
    def wide(tumour: np.ndarray) -> object:
        volume = led_volume(tumour, tumour)
        grown = {name: np.repeat(getattr(volume, name), 2, axis=-1) for name in ("images", "labels", "brain")}
        return replace(volume, **{name: np.repeat(part, 2, axis=-2) for name, part in grown.items()})

    pair = VolumePair(wide(ellipsoid((12, 16, 16), (4, 4, 4))), wide(ellipsoid((12, 16, 16), (5, 5, 5))))
    fine = AFFINE.copy()
    fine[:3, :3] /= 4  # of 1 mm: the reach is 20 voxels
    pair = VolumePair(replace(pair.present, affine=fine), replace(pair.later, affine=fine))
    (one,), (two,) = list(look_at([pair], T1C)), list(look_at([pair], T1C))
    assert len(one.truth) <= MOST_VOXELS
    np.testing.assert_array_equal(one.features, two.features)


def test_it_is_written_whole_and_read_again(fitted: VoxelModel, tmp_path: Path) -> None:
    path = tmp_path / "voxel.json"
    fitted.write(path)
    assert VoxelModel.load(path) == fitted
    assert VoxelModel.load(path).sha256 == fitted.sha256
    assert tuple(json.loads(path.read_text())["weights"]) == features_of(T1C)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bias": 7.0}, "its sum is not that of its content"),
        ({"format_version": 9}, "another format or version"),
        ({"weights": {}}, "other features"),
        ({"steepness": -1.0}, "a steepness that is none"),
        ({"stranger": 1}, "unexpected keyword"),
    ],
)
def test_what_is_no_voxel_model_is_refused(
    fitted: VoxelModel, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "voxel.json"
    fitted.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said):
        VoxelModel.load(path)


def test_files_that_are_missing_or_no_json_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.json: cannot be read .*fit-place"):
        VoxelModel.load(tmp_path / "nowhere.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(InputError, match="not a voxel model"):
        VoxelModel.load(tmp_path / "text.json")


def test_scans_that_do_not_go_with_it_are_refused(fitted: VoxelModel) -> None:
    volume = led_pair(0).present
    with pytest.raises(InputError, match="volumes of 2 mm, but the model takes 4 mm"):
        fitted.field(replace(volume, affine=AFFINE / 2), T1C)
    with pytest.raises(InputError, match="without t1c"):
        fitted.field(volume, ("t2f",))


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(InputError, match="no patient has a pair"):
        VoxelModel.fit([[]], T1C)
    (sample,) = look_at([led_pair(0)], T1C)
    with pytest.raises(InputError, match="voxels of different sizes"):
        VoxelModel.fit([[sample], [replace(sample, voxel_mm=1.0)]], T1C)


def test_a_pair_is_of_one_grid_and_of_sizes_that_growth_explains() -> None:
    pair = led_pair(0)
    assert is_pair(pair.present, pair.later)
    assert not is_pair(pair.present, replace(pair.later, affine=AFFINE / 2))
    assert not is_pair(pair.present, replace(pair.later, labels=np.zeros_like(pair.later.labels)))
