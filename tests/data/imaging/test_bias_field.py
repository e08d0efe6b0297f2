"""N4 takes a smooth bias field out again, and leaves the scale and the zeros as they were."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tumorcast.data.cohort import Cohort
from tumorcast.data.imaging import bias_field as bias
from tumorcast.data.imaging.bias_field import corrected
from tumorcast.data.imaging.registration import RegistrationImage, one_thread
from tumorcast.data.prepare import PrepareSettings, SliceChoice, prepare_cohort
from tumorcast.errors import InputError


def biased(picture: RegistrationImage) -> tuple[np.ndarray, np.ndarray]:
    """The image with a field from .6 to 1.4, and that field."""
    values = sitk.GetArrayFromImage(picture.image)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij")
    field = (1 + 0.3 * x + 0.15 * y - 0.1 * z**2).astype(np.float32)
    return values * field, field


def test_a_field_is_found(phantom: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every second voxel of the phantom, which is enough for a field as smooth as this."""
    monkeypatch.setattr(bias, "LEVELS", (20, 10))
    fine = phantom()
    picture = RegistrationImage(fine.image[::2, ::2, ::2], fine.brain[::2, ::2, ::2])
    values, field = biased(picture)
    with one_thread():
        plain, (low, high) = corrected(values, picture.brain, picture.grid)
    left = (plain / np.maximum(sitk.GetArrayFromImage(picture.image), 1e-6))[picture.brain]
    before = field[picture.brain]
    assert left.std() / left.mean() < 0.35 * before.std() / before.mean()
    assert plain[picture.brain].mean() == pytest.approx(values[picture.brain].mean(), rel=0.05)
    assert 0.5 < low < 0.9 and 1.1 < high < 1.6
    assert (plain[~picture.brain] == 0).all() and plain.dtype == np.float32


def test_it_needs_a_brain(phantom: Callable) -> None:
    picture = phantom()
    with pytest.raises(InputError, match="no brain"):
        corrected(np.zeros(picture.brain.shape, np.float32), picture.brain, picture.grid)


@pytest.mark.slow
def test_prepare_corrects_where_it_is_asked_to(
    phantom: Callable, phantom_scan: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slices of the biased scan become more like those of the plain one, and the record says by how much."""
    monkeypatch.setattr(bias, "LEVELS", (10,))
    phantom_scan(tmp_path / "plain", "P1-000")
    folder = phantom_scan(tmp_path / "biased", "P1-000")
    picture = phantom()
    sitk.WriteImage(picture.grid.image(biased(picture)[0]), str(folder / "P1-000-t1c.nii.gz"))
    images = {}
    for name, place, n4 in (("plain", "plain", False), ("biased", "biased", False), ("n4", "biased", True)):
        settings = PrepareSettings(image_size=64, slices=SliceChoice.ALL, n4=n4)
        prepare_cohort(tmp_path / place, tmp_path / f"{name}.h5", settings)
        with Cohort.open(tmp_path / f"{name}.h5") as cohort:
            session = cohort.session("P1", "000")
            images[name] = session.images[:, 0][session.brain]
            assert ("bias_field" in session.source) is n4
            assert cohort.config["settings"]["n4"] is n4
    low, high = session.source["bias_field"]["t1c"]
    assert low < 0.95 and high > 1.05
    off = {name: np.abs(values - images["plain"]).mean() for name, values in images.items()}
    assert off["n4"] < 0.8 * off["biased"]
