"""Known rigid transforms are found again to under half a voxel."""

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.imaging.registration import RegistrationImage, one_thread, rigid_between
from tumorcast.data.imaging.transforms import Affine
from tumorcast.errors import InputError


def found(fixed: RegistrationImage, moving: RegistrationImage) -> Affine:
    with one_thread():
        return rigid_between(fixed, moving)


def error_mm(found: Affine, true: Affine, picture: RegistrationImage) -> float:
    """How far the found transform is off at most in the brain."""
    return float((~true @ found).distances_mm(picture.brain_points()).max())


@pytest.mark.parametrize(
    ("degrees", "mm", "kind"), [(0.0, 0.0, "t2f"), (15.0, 20.0, "t1c"), (15.0, 20.0, "t2f"), (10.0, 12.0, "t1n")]
)
def test_a_known_transform_is_found(
    *, degrees: float, mm: float, kind: str, phantom: Callable, put: Callable, turned: Callable
) -> None:
    fixed = phantom("t1c")
    true = turned(degrees, mm, np.zeros(3), seed=7)
    assert true.rotation_degrees == pytest.approx(degrees, abs=1e-9)
    assert error_mm(found(fixed, put(phantom(kind), true)), true, fixed) < 0.5 * min(fixed.grid.spacing)


def test_two_brains_far_apart_are_laid_on_each_other(phantom: Callable, put: Callable, turned: Callable) -> None:
    """Headers of two scanners may have nothing to do with each other; the turn is as the starts have it."""
    fixed = phantom("t1c")
    moving = phantom("t2f")
    far = RegistrationImage(sitk.Image(moving.image), moving.brain, moving.tumour)
    far.image.SetOrigin((900.0, -400.0, 300.0))
    true = Affine(np.eye(4))
    true.matrix[:3, 3] = (far.grid.affine() - moving.grid.affine())[:3, 3]
    assert error_mm(found(fixed, far), true, fixed) < 2.0


def test_a_growing_tumour_is_not_taken_for_a_motion(phantom: Callable) -> None:
    fixed, moving = phantom(tumour_mm=8.0), phantom(tumour_mm=26.0)
    assert error_mm(found(fixed, moving), Affine.identity(), fixed) < 0.3


def test_no_brain_cannot_be_registered(phantom: Callable) -> None:
    fixed = phantom()
    empty = RegistrationImage(fixed.image, np.zeros_like(fixed.brain))
    with pytest.raises(InputError, match="its brain is empty"):
        found(fixed, empty)
    flat = RegistrationImage(fixed.grid.image(fixed.brain.astype(np.float32)), fixed.brain)
    with pytest.raises(InputError, match="one value only"):
        found(fixed, flat)
