"""Fields of arrival: members lie in each other, sizes are met, and absent contrasts are air."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tumorcast.arrival.crop import LEAST_SIDES
from tumorcast.arrival.field import FrontArrival, NetworkArrival, check_voxels
from tumorcast.arrival.network import ArrivalNetwork, logits_of
from tumorcast.arrival.planes import EXTRA_PLANES, images_for
from tumorcast.errors import InputError
from tumorcast.records import SessionVolume
from tumorcast.settings import VolumeArchitecture

Array = npt.NDArray[np.float32]
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


class Untrained:
    """The network as it is before its first step, which keeps what it was asked."""

    sha256, contrasts, voxel_mm = "0", ("t1c", "t1n", "t2w"), 2.0

    def __init__(self) -> None:
        self.module = ArrivalNetwork(VolumeArchitecture(in_channels=6, widths=(8, 8, 8, 8))).eval()
        self.asked: list[Array] = []

    def answer(self, planes: Array) -> Array:
        self.asked.append(planes)
        with torch.no_grad():
            answered: Array = self.module(torch.from_numpy(planes)[None])[0].numpy()
        return answered


def test_volumes_are_those_asked_for_and_lie_in_each_other(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0, centre_mm=(0.0, 10.0, 6.0))
    field = FrontArrival().field(volume, CONTRASTS)
    maps = [field.probability(np.array([ratio])) for ratio in (0.5, 1.0, 2.0, 4.0)]
    for ratio, probability in zip((0.5, 1.0, 2.0, 4.0), maps, strict=True):
        assert probability.sum() == pytest.approx(ratio * volume.tumour.sum(), rel=0.08)
        assert (probability[~volume.brain] == 0).all()
    assert all((later >= earlier).all() for earlier, later in pairwise(maps))
    both = field.probability(np.array([0.5, 2.0, 2.0]))
    np.testing.assert_allclose(both, (maps[0] + 2 * maps[2]) / 3, atol=1e-6)
    assert (field.order() <= np.log(2.0)).sum() == pytest.approx(2 * volume.tumour.sum(), abs=1)


def test_several_foci_grow_each(ball: Callable[..., SessionVolume]) -> None:
    one, other = ball(8.0, centre_mm=(0.0, -20.0, 0.0)), ball(8.0, centre_mm=(0.0, 20.0, 0.0))
    both = replace(one, labels=np.maximum(one.labels, other.labels))
    order = FrontArrival().field(both, CONTRASTS).order()
    grown = order <= np.log(2.0)
    assert grown.sum() == pytest.approx(2 * both.tumour.sum(), abs=1)
    assert grown[:, :28].sum() == pytest.approx(grown[:, 28:].sum(), rel=0.02)


def test_an_untrained_network_answers_with_the_front(ball: Callable[..., SessionVolume]) -> None:
    volume, network = ball(10.0), Untrained()
    field = NetworkArrival(network).field(volume, CONTRASTS)
    front = FrontArrival().field(volume, CONTRASTS)
    np.testing.assert_allclose(field.log_volume[field.brain], front.log_volume[field.brain], atol=1e-5)
    assert field.steepness.min() > 0
    planes = network.asked[0]
    assert planes.shape == (3 + EXTRA_PLANES, *LEAST_SIDES) and np.abs(planes).max() <= 1
    assert field.crop.sides == tuple(side + 20 for side in LEAST_SIDES)


def test_contrasts_go_by_their_names_and_absent_ones_are_air() -> None:
    images = np.stack([np.full((2, 2, 2), value, np.float32) for value in (0.1, 0.2)])
    given = images_for(images, ("t2f", "t1c"), ("t1c", "t1n", "t2f"))
    np.testing.assert_allclose(given[:, 0, 0, 0], [0.2, -1.0, 0.1])


def test_logits_rise_with_the_size() -> None:
    answer, front = torch.rand(2, 2, 1, 1, 3) + 0.1, torch.rand(2, 1, 1, 3)
    low, high = (logits_of(answer, front, torch.full((2,), size)) for size in (-1.0, 1.0))
    assert (high > low).all()


def test_voxels_of_another_size_are_refused(ball: Callable[..., SessionVolume]) -> None:
    with pytest.raises(InputError, match=r"volumes of 2 mm, but the model takes 1 mm; .*--voxel-mm 1"):
        network = Untrained()
        network.voxel_mm = 1.0
        check_voxels(NetworkArrival(network), 2.0)
    check_voxels(FrontArrival(), 2.0)
