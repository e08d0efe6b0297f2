"""The front: its volumes are those of a growing ball, it heeds tissue, and inside it shrinks from the surface."""

from collections.abc import Callable

import numpy as np
import pytest

from tumorcast.arrival.front import GREY_SHARE, front_days, front_log_volume, t1_of, tissue_diffusivity
from tumorcast.records import Contrast, SessionVolume


def test_log_volumes_are_ranks_of_arrival(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0)
    front = front_log_volume(volume.brain, volume.tumour, None, 2.0)
    now = int(volume.tumour.sum())
    for ratio in (0.4, 1.0, 2.0, 5.0, 9.0):  # the last is beyond where the front is followed
        assert int((front <= np.log(ratio)).sum()) == pytest.approx(ratio * now, abs=1)
    assert np.isinf(front[~volume.brain]).all() and (front[volume.tumour] < 0).all()
    grown = front <= np.log(3.0)
    z, y, x = np.nonzero(grown)
    away = np.hypot(np.hypot(z - 23.5, y - 27.5), x - 25.5) * 2.0
    assert away.max() < 12.0 * 3.0 ** (1 / 3) + 2.5  # a ball stays one


def test_what_shrinks_goes_from_its_surface(ball: Callable[..., SessionVolume]) -> None:
    volume = ball(12.0)
    front = front_log_volume(volume.brain, volume.tumour, None, 2.0)
    left = front <= np.log(0.3)
    z, y, x = np.nonzero(left)
    away = np.hypot(np.hypot(z - 23.5, y - 27.5), x - 25.5) * 2.0
    assert away.max() < 12.0 * 0.3 ** (1 / 3) + 2.5


def test_grey_matter_is_slower_and_csf_is_never_reached() -> None:
    brain = np.ones((9, 9, 41), bool)
    tumour = np.zeros(brain.shape, bool)
    tumour[..., 19:22] = True
    t1 = np.full(brain.shape, 0.5)
    t1[..., 22:] = 1.0  # white to one side, grey to the other, CSF at the ends
    t1[..., :3], t1[..., -3:] = 0.0, 0.0
    speed = tissue_diffusivity(brain, tumour, t1)
    assert (
        speed[0, 0, 10] == pytest.approx(speed[0, 0, 30] * GREY_SHARE) and speed[0, 0, 0] == 0 and speed[0, 0, 20] > 0
    )
    days = front_days(speed, tumour, 2.0)[4, 4]
    assert days[27] < days[13] and np.isinf(days[:3]).all() and (days[19:22] == 0).all()


def test_without_a_t1_all_is_white() -> None:
    brain = np.ones((3, 3, 3), bool)
    alike = np.unique(tissue_diffusivity(brain, ~brain, None))
    assert alike.size == 1 and np.array_equal(alike, np.unique(tissue_diffusivity(brain, ~brain, np.ones(brain.shape))))
    assert t1_of([Contrast.T2F, Contrast.T1C]) == 1 and t1_of(["t1c", "t1n"]) == 1 and t1_of(["t2w"]) is None
