"""Pairs of volumes to learn from: the boxes hold both tumours, and what is drawn depends on the draws alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tumorcast.data.cohort import write_cohort
from tumorcast.errors import InputError
from tumorcast.records import Contrast, Session, SessionVolume
from tumorcast.settings import NetworkKind, TrainSettings
from tumorcast.training.job import Draws
from tumorcast.training.networks import load_network
from tumorcast.training.train import train
from tumorcast.training.volume_arrays import VolumeArrays, open_volume_arrays
from tumorcast.training.volume_pool import VolumePool


@pytest.fixture(scope="module")
def cohort(
    tmp_path_factory: pytest.TempPathFactory, blob: Callable[..., Session], ball: Callable[..., SessionVolume]
) -> Path:
    """Two patients whose balls grow over three scans, and one with a single scan."""
    path = tmp_path_factory.mktemp("volumes") / "cohort.h5"
    radii = {"A": (8.0, 9.0, 11.0), "B": (10.0, 10.5, 30.0), "C": (9.0,)}
    sessions = [
        replace(blob(name, f"{k:03d}", 30.0 * k, 4.0), volume=ball(radius, centre_mm=(4.0, 0.0, 10.0)))
        for name, scans in radii.items()
        for k, radius in enumerate(scans)
    ]
    write_cohort(path, sessions, {}, image_size=64, contrasts=tuple(Contrast), config={})
    return path


@pytest.fixture(scope="module")
def arrays(cohort: Path) -> VolumeArrays:
    return open_volume_arrays(cohort)


def test_pairs_are_those_that_neither_vanish_nor_explode(arrays: VolumeArrays) -> None:
    assert [int(patient) for patient in arrays.patient] == [0, 0, 1]
    assert list(arrays.earlier) == [0, 0, 1, 2]  # B's last scan is more than 8 times as large
    assert arrays.outline[0].sum() < arrays.later[0].sum() < arrays.later[1].sum()
    assert (arrays.later[0] | ~arrays.outline[0]).all() and arrays.voxel_mm == 2.0
    assert (np.asarray(arrays.front[0])[arrays.outline[0]] < 0).all()


def draws(step: int) -> Draws:
    return Draws(torch.Generator().manual_seed(step), 3)


def test_batches_are_whole_and_repeatable(arrays: VolumeArrays) -> None:
    pool = VolumePool.of(arrays, torch.device("cpu"), np.array([True, True, True]))
    for augmented in (False, True):
        batch, again = (pool.draw(draws(5), augmented=augmented) for _ in range(2))
        assert torch.equal(batch.planes, again.planes) and batch.planes.shape == (3, 7, 48, 64, 64)
        assert batch.planes.abs().max() <= 1 and torch.isfinite(batch.front).all()
        grown = torch.log(batch.later.sum(dim=(1, 2, 3)) / batch.outline.sum(dim=(1, 2, 3)))
        assert torch.allclose(batch.log_ratio, grown) and (batch.log_ratio > 0).all()
        assert (batch.later >= batch.outline).all()  # moved and mirrored together


def test_without_contrasts_the_front_knows_no_tissue(arrays: VolumeArrays) -> None:
    pool = VolumePool.of(arrays, torch.device("cpu"), np.array([True, False, False]))
    seen = set()
    for step in range(30):
        batch = pool.draw(draws(step), augmented=True)
        absent = (batch.planes[:, :4] == -1).all(dim=(2, 3, 4))
        seen |= {int(row.sum()) for row in absent}
    assert seen >= {0, 4} and len(seen) > 2


def test_nothing_to_learn_from_is_told(
    arrays: VolumeArrays, tmp_path: Path, blob: Callable[..., Session], ball: Callable[..., SessionVolume]
) -> None:
    with pytest.raises(InputError, match="no patient to train on has a pair"):
        VolumePool.of(arrays, torch.device("cpu"), np.array([False, False, True]))
    alone, none = tmp_path / "alone.h5", tmp_path / "none.h5"
    for path, volume in ((alone, ball(8.0)), (none, None)):
        session = replace(blob("A", "000", 0.0, 4.0), volume=volume)
        write_cohort(path, [session], {}, image_size=64, contrasts=tuple(Contrast), config={})
    with pytest.raises(InputError, match="no patient has two scans"):
        open_volume_arrays(alone)
    with pytest.raises(InputError, match=r"keeps no volumes .*train slice-progression"):
        open_volume_arrays(none)
    assert not list(tmp_path.glob("*.volumes"))


def test_training_learns_and_resumes_exactly(cohort: Path, tmp_path: Path) -> None:
    settings = TrainSettings(steps=3, batch=1, learning_rate=1e-3, warmup_steps=0, validation_share=0.0, augment=True)
    small = {"widths": (8, 8, 8, 8)}
    info = train(NetworkKind.PROGRESSION, cohort, tmp_path / "whole", settings, architecture=small)
    train(NetworkKind.PROGRESSION, cohort, tmp_path / "parts", settings, architecture=small, until=1)
    train(NetworkKind.PROGRESSION, cohort, tmp_path / "parts", settings, architecture=small)
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    network = load_network(tmp_path / "whole")
    assert network.info == info and network.info.kind is NetworkKind.PROGRESSION
